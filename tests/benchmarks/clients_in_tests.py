"""Measures what a request costs in a test of an ASGI application, by client and by wire.

Prints tables in Markdown. Each figure is the median of the rounds, with the least and the greatest;
in each round all ways take turns, and a ratio is of two figures of one round. Processor time is that
of the whole process, and so of both ends.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Mapping, Sequence

import trio

from applications import app
from kestrel_bench.machine import busy_seconds
from kestrel_core.testing import serve
from ways_of_testing import (
    CLIENTS,
    MEMORY,
    TCP_LOOPBACK,
    Cost,
    Stopwatch,
    all_ways,
    find_uvicorn,
    memory,
    tcp,
)

# What is promised; the last table tells whether it holds.
_MOST_MEMORY_TO_TCP = 0.5
_MOST_START_AND_STOP_SECONDS = 0.005

_RATIOS = [
    (MEMORY, TCP_LOOPBACK),
    *((memory(client), tcp(client)) for client in CLIENTS),
    (memory("httpx"), "httpx with `ASGITransport`"),
    (memory("httpx2"), "httpx2 with `ASGITransport`"),
    (memory("Http1Client"), "httpx with `ASGITransport`"),
    (memory("httpx"), "`TestClient`, entered"),
    (memory("httpx"), "uvicorn in a thread, httpx"),
    (memory("Http1Client"), "uvicorn in a thread, httpx"),
]


def _start_and_stop(count: int) -> float:
    """Return how many seconds `serve` takes for nothing, without a client."""

    async def all_of_them() -> Cost:
        async with serve(app):
            pass
        watch = Stopwatch()
        for _ in range(count):
            async with serve(app):
                pass
        return watch.stop() / count

    return trio.run(all_of_them).seconds


def _figures(values: Sequence[float], form: str) -> str:
    least, middle, most = (
        format(value, form) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({least}-{most})"


def main() -> int:
    """Measure and print; the exit code is 1 if a target is missed."""
    parser = argparse.ArgumentParser(description="Measure what a request costs in a test.")
    parser.add_argument("--requests", type=int, default=1000, help="of a way in a round")
    parser.add_argument("--tests", type=int, default=20, help="of a way in a round")
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()

    uvicorn = find_uvicorn()
    ways = all_ways(uvicorn)
    requests: dict[str, list[Cost]] = {name: [] for name in ways}
    tests: dict[str, list[Cost]] = {name: [] for name in ways}
    starts: list[float] = []
    busy, watch = busy_seconds(), Stopwatch()
    for number in range(given.rounds):
        names = list(ways)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            requests[name].append(ways[name].requests(given.requests))
            tests[name].append(ways[name].whole_tests(given.tests))
        starts.append(_start_and_stop(given.tests))
    own = watch.stop()
    foreign_share = max(0.0, busy_seconds() - busy - own.cpu_seconds) / own.seconds

    version = sys.version.partition(" ")[0]
    print(
        f"Python {version}, {os.cpu_count()} cores, of which other processes used"
        f" {foreign_share:.0%} of one; {given.rounds} rounds.\n"
    )
    if uvicorn is None:
        print("There is no uvicorn; `make bench` installs one.\n")
    _print_ways(requests, tests)
    return _print_ratios(requests, starts)


def _print_ways(
    requests: Mapping[str, Sequence[Cost]], tests: Mapping[str, Sequence[Cost]]
) -> None:
    print("| | requests per second | CPU of a request, µs | a test of one request, ms |")
    print("|---|---|---|---|")
    for name, costs in requests.items():
        rates = _figures([1 / cost.seconds for cost in costs], ",.0f")
        microseconds = _figures([cost.cpu_seconds * 1e6 for cost in costs], ".0f")
        milliseconds = _figures([cost.seconds * 1e3 for cost in tests[name]], ".1f")
        print(f"| {name} | {rates} | {microseconds} | {milliseconds} |")


def _print_ratios(requests: Mapping[str, Sequence[Cost]], starts: Sequence[float]) -> int:
    print("\n| CPU of a request | ratio |\n|---|---|")
    ratios: dict[tuple[str, str], float] = {}
    for one, other in _RATIOS:
        if other in requests:
            values = [
                a.cpu_seconds / b.cpu_seconds
                for a, b in zip(requests[one], requests[other], strict=True)
            ]
            ratios[one, other] = statistics.median(values)
            print(f"| {one} ÷ {other} | {_figures(values, '.2f')} |")
    to_tcp = ratios[MEMORY, TCP_LOOPBACK]
    start = statistics.median(starts)
    print("\n| target | seen | |\n|---|---|---|")
    missed = 0
    for what, most, seen, form in (
        ("a request over memory ÷ over TCP", _MOST_MEMORY_TO_TCP, to_tcp, ".2f"),
        ("`serve` starts and stops, seconds", _MOST_START_AND_STOP_SECONDS, start, ".4f"),
    ):
        met = seen <= most
        missed += not met
        print(f"| {what}: at most {most:g} | {seen:{form}} | {'met' if met else 'missed'} |")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
