"""Server-sent events with Starlette and sse-starlette.

kestrel --app-dir docs/examples event_stream:app
curl -N http://127.0.0.1:8000/ticks?count=3
"""

from collections.abc import AsyncGenerator

import anyio
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

watching = 0
"""How many clients are being told at the moment."""


async def ticks(request: Request) -> EventSourceResponse:
    """Tell the time since the client came, ten times a second."""
    count = int(request.query_params.get("count", "1000000"))

    async def events() -> AsyncGenerator[dict[str, str]]:
        global watching
        watching += 1
        try:
            for number in range(count):
                await anyio.sleep(0.1)
                yield {"event": "tick", "data": f"{(number + 1) / 10:.1f} s"}
        finally:
            watching -= 1

    return EventSourceResponse(events())


async def watchers(request: Request) -> PlainTextResponse:
    """Tell how many clients are being told."""
    return PlainTextResponse(str(watching))


app = Starlette(routes=[Route("/ticks", ticks), Route("/watchers", watchers)])
