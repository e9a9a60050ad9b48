"""Clients of a server under test that have lost patience."""

import httpx
import httpx2
import pytest
import trio
from trio.testing import MockClock

from kestrel_core.testing import serve
from kestrel_protocols.http import HttpExchange
from tests.virtual_time.proofs import proves


async def answer_late(exchange: HttpExchange) -> None:
    await trio.sleep(10)
    await exchange.respond(200, [], b"")


@proves("OpenServer.httpx_client(timeout_seconds)")
async def test_httpx_gives_up(autojump_clock: MockClock) -> None:
    async with serve(answer_late, interface="native") as server:
        async with server.httpx_client(timeout_seconds=9.999) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.get("/")
            assert trio.current_time() == 9.999
        async with server.httpx_client(timeout_seconds=10.001) as client:
            assert (await client.get("/")).status_code == 200


@proves("OpenServer.httpx2_client(timeout_seconds)")
async def test_httpx2_gives_up(autojump_clock: MockClock) -> None:
    async with serve(answer_late, interface="native") as server:
        async with server.httpx2_client(timeout_seconds=9.999) as client:
            with pytest.raises(httpx2.ReadTimeout):
                await client.get("/")
            assert trio.current_time() == 9.999
        async with server.httpx2_client(timeout_seconds=10.001) as client:
            assert (await client.get("/")).status_code == 200
