"""The contract of sniffing, as a suite that any protocol or layer can run."""

import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from itertools import chain
from typing import cast

import attrs

from kestrel_core.protocol import Protocol, Sniff, SniffedLayer
from kestrel_core.testing.contracts.expectations import expect, holding, promise_of
from kestrel_core.testing.contracts.known_openings import KNOWN_OPENINGS, KnownOpening

__all__ = ["check_protocol_sniffer"]

# Of every text the prefixes of up to so many bytes are asked about, and then some.
_EVERY_LENGTH = 96

# Where a sample is spoilt: nearer its beginning than this.
_SPOILT_BYTES = 48

_SHOWN_BYTES = 40

_YES, _NO, _MORE = Sniff.YES, Sniff.NO, Sniff.MORE


def check_protocol_sniffer(
    protocol: Protocol | SniffedLayer,
    *,
    samples: Iterable[bytes],
    others: Iterable[bytes] = (),
    max_prefix_bytes: int = 16 * 1024,
) -> None:
    """Hold `protocol.sniff` to what `Protocol.sniff` promises, and to what detection relies on.

    It answers any bytes, always the same way, keeps nothing, and sticks to an answer as the prefix
    grows. `samples` are what its clients begin with: their prefixes are MORE or YES, they
    themselves YES. `others`, and how clients of well-known protocols begin, are never YES; of the
    latter those do not count that one of the samples is. Whatever comes it has decided after
    `max_prefix_bytes`, where detection gives up (by default as `detect` does).

    Raises:
        AssertionError: a promise is not kept; the text begins with it.
        ValueError: there are no samples.
    """
    samples = tuple(samples)
    if not samples:
        raise ValueError("there is nothing to recognize; give a sample of how its clients begin")
    foreign = tuple(known for known in KNOWN_OPENINGS if not any(map(known.is_that_of, samples)))
    sniffing = _Sniffing(protocol, samples, tuple(others), foreign, max_prefix_bytes)
    for check in _CHECKS:
        with holding(promise_of(check)):
            check(sniffing)


@attrs.frozen
class _Sniffing:
    """The sniffer under test, and what it is asked about."""

    protocol: Protocol | SniffedLayer
    samples: Sequence[bytes]
    others: Sequence[bytes]
    foreign: Sequence[KnownOpening]
    max_prefix_bytes: int

    def ask(self, prefix: bytes) -> Sniff:
        """Return the answer, which must be one."""
        try:
            answer = cast(object, self.protocol.sniff(prefix))
        except Exception as error:
            raise AssertionError(f"{_shown(prefix)} made it raise {error!r}") from error
        if not isinstance(answer, Sniff):
            raise AssertionError(
                f"{_shown(prefix)} was answered with {answer!r}, which is no Sniff"
            )
        return answer

    def texts(self) -> Iterator[bytes]:
        """Return openings of every kind: right, wrong, spoilt and senseless, the same each time."""
        dice = random.Random(1)
        openings = [example for known in KNOWN_OPENINGS for example in known.examples]
        yield from chain(self.samples, self.others, openings)
        for sample in self.samples:
            yield from _spoilt(sample, dice)
        for byte in range(256):
            yield bytes([byte]) + dice.randbytes(20)
        for _ in range(50):
            yield dice.randbytes(_EVERY_LENGTH)

    def endless_texts(self) -> Iterator[bytes]:
        """Return what begins in every way and goes on as garbage, as long as detection waits."""
        dice = random.Random(2)
        units = [bytes([byte]) for byte in range(256)]
        units += [b"\r\n", b"\n ", b" \t", b"\0\xff", b"A ", b"a: b\r\n", b"0\r\n", b"/a"]
        for unit in units:
            yield self._endless(b"", unit)
        for sample in self.samples:
            for length in range(min(len(sample), _SPOILT_BYTES)):
                for unit in (b"\0", b"A", b" ", b"\r\n", dice.randbytes(1000)):
                    yield self._endless(sample[:length], unit)

    def _endless(self, beginning: bytes, unit: bytes) -> bytes:
        repeats = self.max_prefix_bytes // len(unit) + 1
        return (beginning + unit * repeats)[: self.max_prefix_bytes]


def _spoilt(sample: bytes, dice: random.Random) -> Iterator[bytes]:
    for position in range(min(len(sample), _SPOILT_BYTES)):
        before, byte, after = sample[:position], sample[position], sample[position + 1 :]
        for other in (0, 0xFF, byte ^ 0x20, byte ^ 0x01, dice.randrange(256)):
            yield before + bytes([other]) + after
        yield before + after
        yield before + bytes([dice.randrange(256), byte]) + after


def _prefixes(text: bytes) -> Iterator[bytes]:
    for length in range(min(len(text), _EVERY_LENGTH)):
        yield text[:length]
    length = _EVERY_LENGTH
    while length < len(text):
        yield text[:length]
        length *= 2
    yield text


def _shown(data: bytes) -> str:
    return repr(data) if len(data) <= _SHOWN_BYTES else f"{data[:_SHOWN_BYTES]!r}... ({len(data)})"


def answers_everything(sniffing: _Sniffing) -> None:
    """Any bytes whatever are answered with YES, NO or MORE, and nothing is raised."""
    for text in sniffing.texts():
        for prefix in _prefixes(text):
            sniffing.ask(prefix)
    for text in sniffing.endless_texts():
        sniffing.ask(text)


def waits_for_the_first_byte(sniffing: _Sniffing) -> None:
    """As long as nothing has come the answer is MORE."""
    answer = sniffing.ask(b"")
    expect(answer is _MORE, f"b'' was answered with {answer.name}")


def recognizes_samples(sniffing: _Sniffing) -> None:
    """Every prefix of a sample is answered with MORE or YES, and the sample itself with YES."""
    for sample in sniffing.samples:
        for prefix in _prefixes(sample):
            expect(sniffing.ask(prefix) is not _NO, f"{_shown(prefix)} was answered with NO")
        answer = sniffing.ask(sample)
        expect(answer is _YES, f"{_shown(sample)} was answered with {answer.name}")


def decides_once(sniffing: _Sniffing) -> None:
    """Once it has answered YES or NO, a longer prefix gets the same answer."""
    dice = random.Random(3)
    tail = dice.randbytes(200)
    for text in sniffing.texts():
        decided: tuple[bytes, Sniff] | None = None
        for prefix in _prefixes(text + tail):
            answer = sniffing.ask(prefix)
            if decided is None:
                decided = None if answer is _MORE else (prefix, answer)
            else:
                expect(
                    answer is decided[1],
                    f"{_shown(decided[0])} was answered with {decided[1].name}, but"
                    f" {_shown(prefix)} with {answer.name}",
                )


def is_pure(sniffing: _Sniffing) -> None:
    """The same prefix gets the same answer, whatever was asked before, and nothing is kept."""
    before = _state_of(sniffing.protocol)
    prefixes = [prefix for text in sniffing.texts() for prefix in _prefixes(text)]
    answers = {prefix: sniffing.ask(prefix) for prefix in prefixes}
    for prefix in reversed(prefixes):
        answer = sniffing.ask(prefix)
        expect(
            answer is answers[prefix],
            f"{_shown(prefix)} was answered with {answers[prefix].name} and then with"
            f" {answer.name}",
        )
    after = _state_of(sniffing.protocol)
    changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
    expect(not changed, f"sniffing changed {', '.join(sorted(changed))}")


@attrs.frozen(eq=False)
class _Kept:
    """An attribute's value, and what it held when it was looked at."""

    value: object
    held: object

    @classmethod
    def of(cls, value: object) -> "_Kept":
        holds = isinstance(value, list | dict | set | bytearray | deque)
        return cls(value, copy(value) if holds else None)  # pyright: ignore[reportUnknownArgumentType]  # of whatever

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Kept) and self.value is other.value and self.held == other.held

    def __hash__(self) -> int:
        return id(self.value)


def _state_of(protocol: object) -> dict[str, _Kept]:
    """Return what would show that something was kept: the attributes, and what containers hold."""
    names = set[str](getattr(protocol, "__dict__", ()))
    for kind in type(protocol).__mro__:
        slots: str | Iterable[str] = getattr(kind, "__slots__", ())
        names.update([slots] if isinstance(slots, str) else slots)
    return {name: _Kept.of(getattr(protocol, name, None)) for name in names}


def decides_in_time(sniffing: _Sniffing) -> None:
    """Endless garbage is answered with YES or NO by the time that detection gives up."""
    for text in sniffing.endless_texts():
        expect(sniffing.ask(text) is not _MORE, f"{_shown(text)} was still answered with MORE")


def leaves_others_alone(sniffing: _Sniffing) -> None:
    """What another protocol begins with, or a prefix of that, is never answered with YES."""
    named = [(known.name, text) for known in sniffing.foreign for text in known.examples]
    for name, text in [*named, *(("another protocol", other) for other in sniffing.others)]:
        for prefix in _prefixes(text):
            expect(
                sniffing.ask(prefix) is not _YES,
                f"{_shown(prefix)}, which is {name}, was answered with YES",
            )


_CHECKS: Sequence[Callable[[_Sniffing], None]] = [
    answers_everything,
    waits_for_the_first_byte,
    recognizes_samples,
    decides_once,
    is_pure,
    decides_in_time,
    leaves_others_alone,
]
