"""Rates, such as "100/minute"."""

import re
from collections.abc import Iterable

import attrs

__all__ = ["Rate", "rates"]

_RATE = re.compile(r"\s*(\d+)\s*(?:/|per)\s*(\d*)\s*([a-z]+)\s*", re.IGNORECASE)

_UNITS = {
    "s": 1,
    "second": 1,
    "m": 60,
    "minute": 60,
    "h": 60 * 60,
    "hour": 60 * 60,
    "d": 24 * 60 * 60,
    "day": 24 * 60 * 60,
}


@attrs.frozen
class Rate:
    """So many requests in so many seconds."""

    count: int
    period_seconds: int

    def __attrs_post_init__(self) -> None:
        if self.count < 1 or self.period_seconds < 1:
            raise ValueError("a rate has a count and a period, of 1 at least")

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read "100/minute", "100 per 5 minutes" or "100/5m"; the units go from seconds to days.

        Raises:
            ValueError: it is written in another way.
        """
        match = _RATE.fullmatch(text)
        unit = match[3].lower() if match else ""
        seconds = _UNITS.get(unit) or _UNITS.get(unit.removesuffix("s"))
        if match is None or seconds is None:
            raise ValueError(
                f"{text!r} is no rate: write 100/minute, or 100 per 5 minutes, of seconds, minutes,"
                " hours or days"
            )
        return cls(int(match[1]), int(match[2] or 1) * seconds)

    def __str__(self) -> str:
        return f"{self.count} per {self.period_seconds} s"


def rates(given: "Rate | str | Iterable[Rate | str]") -> tuple[Rate, ...]:
    """Return rates, the one with the shortest period first.

    Raises:
        ValueError: as `Rate.parse` does; or there is none, or two have the same period.
    """
    several = [given] if isinstance(given, (Rate, str)) else given
    parsed = [each if isinstance(each, Rate) else Rate.parse(each) for each in several]
    parsed.sort(key=lambda rate: rate.period_seconds)
    periods = {rate.period_seconds for rate in parsed}
    if not parsed or len(periods) < len(parsed):
        raise ValueError("there is one rate at least, and each has a period of its own")
    return tuple(parsed)
