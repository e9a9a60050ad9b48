"""What virtual time does not cover: threads work in real time, and the clock does not wait."""

import time
from collections.abc import Callable, Iterable

import trio
from trio.testing import MockClock

from kestrel_core.limits import Limits
from kestrel_core.testing import serve

TEN_SECONDS = Limits(max_request_seconds=10)


def work(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
    time.sleep(0.1)
    start_response("200 OK", [])
    return [b"done"]


async def test_the_clock_jumps_while_a_thread_works(autojump_clock: MockClock) -> None:
    """So that the next limit strikes: here it is that of the request."""
    async with (
        serve(work, interface="wsgi", limits=TEN_SECONDS) as server,
        server.httpx_client() as client,
    ):
        assert (await client.get("/")).status_code == 503
        assert trio.current_time() == 10


async def test_the_clock_may_be_told_to_wait(autojump_clock: MockClock) -> None:
    """It jumps when nothing has happened for so long, in real time: longer than the work takes."""
    autojump_clock.autojump_threshold = 30
    async with (
        serve(work, interface="wsgi", limits=TEN_SECONDS) as server,
        server.httpx_client() as client,
    ):
        assert (await client.get("/")).text == "done"
        assert trio.current_time() == 0
