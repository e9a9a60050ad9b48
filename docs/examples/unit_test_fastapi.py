"""Tests of how a FastAPI application behaves on a network: pytest unit_test_fastapi.py

They need pytest-trio, and the extra `testing`.
"""

import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import anyio
import pytest
import trio
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from trio.testing import MockClock

from kestrel_core.testing import Serve
from kestrel_core.testing.authority import Authority

# The application -----------------------------------------------------------------------------

app = FastAPI()
watching: set[str] = set()


async def numbers(name: str) -> AsyncGenerator[str]:
    watching.add(name)
    try:
        for number in itertools.count():
            yield f"{number}\n"
            await anyio.sleep(1)
    finally:
        watching.remove(name)


async def numbers_that_get_closed(name: str) -> AsyncGenerator[AsyncGenerator[str]]:
    async with aclosing(numbers(name)) as stream:
        yield stream


@app.get("/numbers/{name}")
async def count_for(
    stream: Annotated[AsyncGenerator[str], Depends(numbers_that_get_closed)],
) -> StreamingResponse:
    return StreamingResponse(stream, media_type="text/plain")


@app.get("/share/{people}")
async def share(people: int) -> float:
    return 100 / people


@app.get("/me")
async def me(request: Request) -> str:
    name: str = request.scope["extensions"]["tls"]["client_cert_name"]
    return name


# Its tests -----------------------------------------------------------------------------------

pytestmark = pytest.mark.trio


async def test_a_number_comes_each_second(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    async with kestrel_serve(app) as server, server.http1_client() as client:
        response = await client.request("GET", "/numbers/ada")
        for second in range(100):
            assert await response.receive() == b"%d\n" % second
            assert trio.current_time() == second


async def test_a_client_leaves(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    async with kestrel_serve(app) as server:
        async with server.http1_client() as client:
            response = await client.request("GET", "/numbers/ada")
            assert await response.receive() == b"0\n"
            assert watching == {"ada"}
        await trio.sleep(1.5)  # the next number finds nobody
        assert watching == set()


async def test_a_request_that_does_not_come(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    async with kestrel_serve(app) as server, server.http1_client() as client:
        await client.send(b"GET /share/4 HTTP/1.1\r\nhost: ")
        response = await client.receive_response()
        assert (response.status, trio.current_time()) == (408, 30)


async def test_a_connection_is_kept(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    async with kestrel_serve(app) as server, server.http1_client() as client:
        for _ in range(2):
            response = await client.request("GET", "/share/4")
            assert await response.read() == b"25.0"
            await trio.sleep(120)
        assert await client.receive() == b""  # the server ends it
        assert trio.current_time() == pytest.approx(120 + 130)


async def test_a_fault_is_not_missed(kestrel_serve: Serve) -> None:
    with pytest.raises(ZeroDivisionError):
        async with kestrel_serve(app) as server, server.httpx_client() as client:
            assert (await client.get("/share/0")).status_code == 500


async def test_who_the_client_is(kestrel_serve: Serve) -> None:
    authority = Authority()
    tls = {"client_certificates": "require"}
    async with kestrel_serve(app, tls=tls, authority=authority) as server:
        ada = authority.issue(common_name="ada")
        async with server.httpx_client(identity=ada) as client:
            assert (await client.get("/me")).json().startswith("CN=ada,")
