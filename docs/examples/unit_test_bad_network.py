"""Tests of an application over bad networks: pytest unit_test_bad_network.py

They need pytest-trio, hypothesis, and the extra `testing`.
"""

from contextlib import suppress

import httpx
import pytest
import trio
from hypothesis import given, settings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from trio.testing import MockClock

from kestrel_core.testing import Serve, serve
from kestrel_core.testing.network import Direction, Network, Wire, run_simulation
from kestrel_core.testing.network.strategies import networks

notes: dict[str, bytes] = {}


async def put(request: Request) -> Response:
    notes[request.path_params["name"]] = await request.body()
    return Response(status_code=204)


async def get(request: Request) -> Response:
    return PlainTextResponse(notes.get(request.path_params["name"], b"nothing"))


app = Starlette(
    routes=[Route("/{name}", put, methods=["PUT"]), Route("/{name}", get, methods=["GET"])]
)


@pytest.mark.trio
async def test_a_slow_line(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    wire = Wire(up=Direction(bytes_per_second=1000), down=Direction(latency_seconds=0.5))
    async with kestrel_serve(app, network=Network.always(wire)) as server:
        async with server.httpx_client() as client:
            response = await client.put("/a", content=b"x" * 10_000)
        assert response.status_code == 204
        assert 10.5 < trio.current_time() < 11


@pytest.mark.trio
async def test_an_upload_breaks_off(kestrel_serve: Serve, kestrel_clock: MockClock) -> None:
    notes.clear()
    network = Network.of([Wire(up=Direction(reset_after_bytes=5000)), Wire()])
    async with kestrel_serve(app, network=network) as server, server.httpx_client() as client:
        with pytest.raises(httpx.TransportError):
            await client.put("/a", content=b"x" * 10_000)
        assert (await client.get("/a")).text == "nothing"


@pytest.mark.trio
async def test_notes_arrive(
    kestrel_serve: Serve, kestrel_clock: MockClock, kestrel_seed: int
) -> None:
    network = Network.seeded(kestrel_seed, faults=False)
    async with kestrel_serve(app, network=network) as server:
        for number in range(10):
            async with server.httpx_client(timeout_seconds=None) as client:
                await client.put(f"/{number}", content=b"x" * 1000)
                assert len((await client.get(f"/{number}")).content) == 1000


async def keep_a_note(network: Network) -> None:
    """However the network behaves: what was confirmed is there, and half a note never is."""
    notes.clear()
    confirmed = False
    async with serve(app, network=network) as server, server.httpx_client() as client:
        with suppress(httpx.TransportError):
            confirmed = (await client.put("/a", content=b"x" * 3000)).status_code == 204
    assert notes.get("a", b"") in (b"x" * 3000, b"")
    assert "a" in notes or not confirmed


@pytest.mark.parametrize("seed", range(50))
def test_on_fifty_networks(seed: int) -> None:
    run_simulation(keep_a_note, Network.seeded(seed))


@settings(max_examples=50, deadline=None)
@given(networks())
def test_on_any_network(network: Network) -> None:
    run_simulation(keep_a_note, network)
