"""What a simulated network does to a connection, as values: nothing at all, unless told so."""

import math
from collections.abc import Iterable
from typing import Any

import attrs

from kestrel_core.validators import above_zero, above_zero_and_finite, at_least_one, or_none

__all__ = ["Direction", "Stall", "Wire"]


def _not_negative_and_finite(
    _instance: object, attribute: "attrs.Attribute[Any]", value: float
) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"{attribute.name} must be zero or above and finite, not {value}")


def _brief(self: attrs.AttrsInstance) -> str:
    """Return the expression that makes a value, with nothing in it that goes without saying."""
    told = [
        f"{field.name}={getattr(self, field.name)!r}"
        for field in attrs.fields(type(self))
        if getattr(self, field.name) != field.default
    ]
    return f"{type(self).__name__}({', '.join(told)})"


@attrs.frozen(kw_only=True, repr=False)
class Stall:
    """A pause in one direction, after which it goes on."""

    after_bytes: int = attrs.field(validator=_not_negative_and_finite)
    """It begins when so many bytes have gone; at once, if that is none."""
    seconds: float = attrs.field(validator=above_zero)
    """How long nothing goes; infinity is for ever, which nobody is told of."""

    __repr__ = _brief


def _in_order(stalls: Iterable[Stall]) -> tuple[Stall, ...]:
    return tuple(sorted(stalls, key=lambda stall: stall.after_bytes))


def _sizes(segment_bytes: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (segment_bytes, segment_bytes) if isinstance(segment_bytes, int) else segment_bytes


def _sound_sizes(
    _instance: object, attribute: "attrs.Attribute[Any]", value: tuple[int, int] | None
) -> None:
    if value is not None and not 1 <= value[0] <= value[1]:
        raise ValueError(
            f"{attribute.name} must be a smallest and a largest size, 1 or above, not {value}"
        )


@attrs.frozen(kw_only=True, repr=False)
class Direction:
    """What happens to the bytes that go one way; a perfect wire, unless told otherwise.

    Bytes keep their order, whatever happens. An end travels behind them as they do.
    """

    latency_seconds: float = attrs.field(default=0.0, validator=_not_negative_and_finite)
    """From the departure of a segment's last byte to its arrival."""
    jitter_seconds: float = attrs.field(default=0.0, validator=_not_negative_and_finite)
    """At most how much later than that a segment arrives; a new number for each."""
    bytes_per_second: float | None = attrs.field(
        default=None, validator=or_none(above_zero_and_finite)
    )
    """How fast bytes depart, one segment after the other; None is at once."""
    segment_bytes: tuple[int, int] | None = attrs.field(
        default=None, converter=_sizes, validator=_sound_sizes
    )
    """The smallest and the largest piece that arrives as one, or a number for both; each has a
    random size in between, and is smaller only where there was no more to take, or no room. The
    next arrives a microsecond later at the earliest, so that a reader who waits sees each.

    With None it is what was found at the sender at one look, at most 1460 bytes of it where
    `bytes_per_second` is given (what a TCP segment holds on Ethernet).
    """
    coalesce_seconds: float = attrs.field(default=0.0, validator=_not_negative_and_finite)
    """How long the first byte that was sent waits for company before it departs."""
    stalls: tuple[Stall, ...] = attrs.field(default=(), converter=_in_order)
    """When nothing departs for a while."""
    reset_after_bytes: int | None = attrs.field(
        default=None, validator=or_none(_not_negative_and_finite)
    )
    """Both ends see a reset when exactly so many bytes have arrived, and a microsecond has passed
    for them to be read."""
    eof_after_bytes: int | None = attrs.field(
        default=None, validator=or_none(_not_negative_and_finite)
    )
    """The receiver sees the end after so many bytes; what departs after that is lost."""
    window_bytes: int = attrs.field(default=65536, validator=at_least_one)
    """At most so many bytes are on their way, and as many wait to depart before a flush waits.
    The client's end holds as many that it has not read."""

    __repr__ = _brief

    def __attrs_post_init__(self) -> None:
        if self.reset_after_bytes is not None and self.eof_after_bytes is not None:
            raise ValueError("one direction has reset_after_bytes or eof_after_bytes, not both")


_PERFECT = Direction()


@attrs.frozen(kw_only=True, repr=False)
class Wire:
    """What happens to one connection, or to one stream of a multiplexed one."""

    up: Direction = _PERFECT
    """From the client to the server, whoever opened a stream."""
    down: Direction = _PERFECT
    """From the server to the client."""
    refused: bool = False
    """`connect` raises `ConnectionRefusedError`, and the server hears nothing. A stream is reset as
    soon as it was opened, by whichever side, and the other side hears nothing."""
    connect_seconds: float = attrs.field(default=0.0, validator=_not_negative_and_finite)
    """How long `connect` takes before the server hears of it, or is said to refuse; for a stream
    that the client opens, `open_stream`."""
    reset_after_bytes: int | None = attrs.field(
        default=None, validator=or_none(_not_negative_and_finite)
    )
    """The connection is reset when so many bytes have arrived, those of both directions counted
    together; a multiplexed one with all its streams, whose bytes are counted together, too."""
    streams: tuple["Wire", ...] = attrs.field(default=(), converter=tuple["Wire", ...])
    """What the streams of a multiplexed connection get, in the order in which they are opened or
    accepted here; the last is for all that follow. Without any, each gets `up` and `down`."""

    __repr__ = _brief

    def stream_wire(self, number: int) -> "Wire":
        """Return what the stream of that number gets, counted from 1."""
        if not self.streams:
            return Wire(up=self.up, down=self.down)
        return self.streams[min(number, len(self.streams)) - 1]
