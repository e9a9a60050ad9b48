"""`serve`: an application in a test, as the server would serve it."""

import json
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Address, Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.errors import BindError, ConfigurationError, MissingExtraError
from kestrel_core.limits import Limits
from kestrel_core.memory import Block
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.protocol import Protocol, Sniff
from kestrel_core.testing import ApplicationFailed, LeftOpen, Metrics, OpenServer, serve
from kestrel_core.testing.authority import Authority
from kestrel_core.testing.network import Direction, Network, Wire
from kestrel_middleware.admission import ConnectionAdmission
from kestrel_middleware.tls import Tls, TlsOptions
from kestrel_protocols.asgi import LifespanFailed
from kestrel_protocols.asgi.events import Receive, Scope, Send
from kestrel_protocols.http import HttpExchange
from tests.http1_site import ServerLog
from tests.raw_client import GET, RawClient


async def hello(request: Request) -> Response:
    return PlainTextResponse("hello")


async def whoami(request: Request) -> Response:
    scope = request.scope
    tls = scope["extensions"].get("tls", {})
    return JSONResponse(
        {
            "client": scope["client"],
            "server": scope["server"],
            "scheme": scope["scheme"],
            "root_path": scope["root_path"],
            "client_name": tls.get("client_cert_name"),
        }
    )


async def fail(request: Request) -> Response:
    raise ValueError("not today")


async def stubborn(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


app = Starlette(
    routes=[
        Route("/", hello),
        Route("/whoami", whoami),
        Route("/fail", fail),
        Route("/stubborn", stubborn),
    ]
)


async def test_an_application_answers() -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with serve(app) as server, server.httpx_client() as client:
        response = await client.get("/")
        assert (response.status_code, response.text) == (200, "hello")
        assert response.http_version == "HTTP/1.1"
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert server.server.endpoints == []


async def test_httpx2_speaks_to_it_as_well() -> None:
    async with serve(app) as server, server.httpx2_client() as client:
        assert (await client.get("/")).text == "hello"


async def test_where_clients_and_server_are() -> None:
    async with serve(app) as server:
        async with server.httpx_client() as client:
            answer = (await client.get("/whoami")).json()
            assert answer["client"] == ["127.0.0.1", 50000]
            assert answer["server"] == ["testserver", 80]
            assert answer["scheme"] == "http"
        async with server.httpx_client(address="203.0.113.7:4711") as client:
            assert (await client.get("/whoami")).json()["client"] == ["203.0.113.7", 4711]
        async with server.httpx_client() as client:
            assert (await client.get("/whoami")).json()["client"] == ["127.0.0.1", 50001]
        raw = await server.connect(address="[2001:db8::1]:9")
        assert raw.local == Address("2001:db8::1", 9)


async def test_the_lifespan_is_around_it() -> None:
    events: list[str] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[dict[str, str]]:
        events.append("startup")
        yield {"greeting": "from the lifespan"}
        events.append("shutdown")

    async def greet(request: Request) -> Response:
        events.append("request")
        return PlainTextResponse(request.state.greeting)

    living = Starlette(routes=[Route("/", greet)], lifespan=lifespan)
    async with serve(living) as server, server.httpx_client() as client:
        assert (await client.get("/")).text == "from the lifespan"
    assert events == ["startup", "request", "shutdown"]


async def test_a_startup_that_fails_is_told() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        raise ValueError("no database")
        yield

    with pytest.raises(LifespanFailed, match="no database"):
        async with serve(Starlette(lifespan=lifespan)):
            raise AssertionError("this cannot be served")


async def test_a_startup_that_raises_is_told() -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise ValueError("no database")

    with pytest.raises(LifespanFailed) as raised:
        async with serve(bare):
            raise AssertionError("this cannot be served")
    assert isinstance(raised.value.__cause__, ValueError)


async def test_an_application_without_a_lifespan(log: ServerLog) -> None:
    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with serve(bare) as server, server.httpx_client() as client:
        assert (await client.get("/")).status_code == 204
    log.take()  # which says so, for debugging


async def test_a_shutdown_that_fails_is_told() -> None:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        yield
        raise ValueError("cannot stop")

    with pytest.raises(LifespanFailed, match="cannot stop"):
        async with serve(Starlette(lifespan=lifespan)):
            pass


async def test_what_the_application_raises_is_raised_at_the_end() -> None:
    with pytest.raises(ValueError, match="not today"):  # noqa: PT012  # the block is what is tested
        async with serve(app) as server, server.httpx_client() as client:
            assert (await client.get("/fail")).status_code == 500
            assert (await client.get("/")).status_code == 200


async def test_several_failures_are_raised_together() -> None:
    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012  # the block is what is tested
        async with serve(app) as server, server.httpx_client() as client:
            await client.get("/fail")
            await client.get("/fail")
    assert [str(error) for error in raised.value.exceptions] == ["not today"] * 2


async def test_failures_may_be_what_is_tested() -> None:
    async with serve(app, raises_failures=False) as server, server.httpx_client() as client:
        assert (await client.get("/fail")).status_code == 500
        (failure,) = server.failures
        assert str(failure.error) == "not today"
        assert failure.message == "the application failed on GET /fail"


async def test_an_application_that_leaves_without_an_answer() -> None:
    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    with pytest.raises(ApplicationFailed, match="without starting a response to GET /"):
        async with serve(silent) as server, server.httpx_client() as client:
            assert (await client.get("/")).status_code == 500


async def test_a_block_that_raises_says_what_happened() -> None:
    with pytest.raises(AssertionError) as raised:
        async with serve(app) as server, server.httpx_client() as client:
            assert (await client.get("/fail")).status_code == 200, "of the test"
    assert str(raised.value).startswith("of the test")
    (note,) = raised.value.__notes__
    assert "GET /fail HTTP/1.1" in note
    assert "HTTP/1.1 500 Internal Server Error" in note
    assert "ValueError: not today" in note
    assert "the server's end of 127.0.0.1:50000" in note


async def test_notes_may_be_left_out() -> None:
    with pytest.raises(AssertionError) as raised:
        async with serve(app, adds_notes=False):
            raise AssertionError
    assert not hasattr(raised.value, "__notes__")


async def test_requests_that_outlive_their_client_are_told(autojump_clock: MockClock) -> None:
    server: OpenServer | None = None
    with pytest.raises(LeftOpen, match=r"^1 connection did not end within 2 s") as raised:  # noqa: PT012  # the block is what is tested
        async with serve(app, drain_seconds=2) as server:
            client = await server.connect(address="203.0.113.7:4711")
            await client.transport.output.send(GET.replace(b"GET /", b"GET /stubborn"))
            await wait_all_tasks_blocked()
    assert "203.0.113.7:4711" in str(raised.value)
    assert "GET /stubborn" in str(raised.value)
    assert server is not None
    assert server.cut_connections == 1


async def test_a_stream_ends_with_its_client(autojump_clock: MockClock) -> None:
    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(100):
            body = b"%d\n" % number
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await trio.sleep(1)

    async with serve(count) as server:
        client = await server.connect()
        await client.transport.output.send(GET)
        reader = client.transport.input
        await reader.read_until(b"2\n", 1000)
        assert trio.current_time() == 2
        await client.transport.aclose()
        await trio.sleep(3)
        assert list(server.server.connections) == []


async def test_metrics() -> None:
    async with serve(app, raises_failures=False) as server:
        assert server.metrics() == Metrics(
            accepted_connections=0,
            open_connections=0,
            ended_connections={},
            requests=0,
            responses={},
            failures=0,
            rented_blocks=0,
        )
        async with server.httpx_client() as client:
            for path in ("/", "/", "/nowhere", "/fail"):
                await client.get(path)
            assert server.metrics().open_connections == len(server.server.connections) == 1
        await wait_all_tasks_blocked()
        assert server.metrics() == Metrics(
            accepted_connections=1,
            open_connections=0,
            ended_connections={EndReason.PEER_CLOSED: 1},
            requests=4,
            responses={200: 2, 404: 1, 500: 1},
            failures=1,
            rented_blocks=0,
        )


async def test_metrics_count_those_who_were_refused() -> None:
    admission = ConnectionAdmission(max_connections=1)
    async with serve(app, middleware=[admission]) as server:
        await server.connect()
        refused = await server.connect()
        with pytest.raises(trio.BrokenResourceError):
            await refused.transport.input.read_exactly(1)
        assert server.metrics().accepted_connections == 2
        assert server.metrics().open_connections == 1


async def test_limits_and_middleware_are_the_servers() -> None:
    seen: list[Connection] = []

    async def watch(connection: Connection, following: ConnectionHandler) -> None:
        seen.append(connection)
        await following(connection)

    limits = Limits(max_request_line_bytes=100)
    async with (
        serve(app, middleware=[watch], limits=limits) as server,
        server.httpx_client() as client,
    ):
        assert (await client.get("/" + "a" * 100)).status_code == 414
    assert seen == list(server.connections)


async def test_a_leaked_block_is_told() -> None:
    blocks: list[Block] = []

    async def forget(connection: Connection, following: ConnectionHandler) -> None:
        blocks.append(connection.memory_pool.rent())
        await following(connection)

    with pytest.raises(AssertionError, match="a block has not been given back"):  # noqa: PT012  # the block is what is tested
        async with serve(app, middleware=[forget]) as server, server.httpx_client() as client:
            await client.get("/")
            assert server.metrics().rented_blocks == 1


async def test_a_root_path() -> None:
    async with serve(app, root_path="/api") as server, server.httpx_client() as client:
        assert (await client.get("/whoami")).json()["root_path"] == "/api"
    with pytest.raises(ConfigurationError, match="no use for a root path"):
        async with serve(app, interface="native", root_path="/api"):
            raise AssertionError("this cannot be served")


async def test_other_interfaces() -> None:
    def wsgi(environ: dict[str, object], start_response: object) -> list[bytes]:
        assert callable(start_response)
        start_response("200 OK", [("content-type", "text/plain")])
        return [b"from a thread"]

    async def native(exchange: HttpExchange) -> None:
        await exchange.respond(200, [], b"natively")

    async with serve(wsgi, interface="wsgi") as server, server.httpx_client() as client:
        assert (await client.get("/")).text == "from a thread"
    async with serve(native, interface="native") as server, server.httpx_client() as client:
        assert (await client.get("/")).text == "natively"


async def test_over_sockets() -> None:
    async with serve(app, endpoint="tcp://127.0.0.1:0") as server:
        async with server.httpx_client() as client:
            assert (await client.get("/")).text == "hello"
        assert server.endpoint.scheme == "tcp"
        assert "GET / HTTP/1.1" in server.report()


async def test_what_cannot_be_bound() -> None:
    async with serve(app, endpoint="memory://taken"):
        with pytest.raises(BindError):
            async with serve(app, endpoint="memory://taken"):
                raise AssertionError("this cannot be served")


class Parrot(Protocol):
    name = "parrot"

    def sniff(self, prefix: bytes) -> Sniff:
        if prefix[:1] == b"(":
            return Sniff.YES
        return Sniff.NO if prefix else Sniff.MORE

    async def __call__(self, connection: Connection) -> None:
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)


@pytest.mark.parametrize("tls", [False, True])
async def test_other_protocols_beside(tls: bool) -> None:
    async with serve(app, beside=[Parrot()], tls=tls) as server:
        async with server.httpx_client() as client:
            assert (await client.get("/")).text == "hello"
        connection = await server.connect()
        await connection.transport.output.send(b"(parrot")
        assert await connection.transport.input.read_exactly(7) == b"(parrot"


# TLS --------------------------------------------------------------------------------------------


async def test_tls() -> None:
    async with serve(app, tls=True) as server:
        async with server.httpx_client() as client:
            answer = (await client.get("/whoami")).json()
            assert (answer["scheme"], answer["server"]) == ("https", ["testserver", 443])
        async with server.httpx2_client() as client2:
            assert (await client2.get("/whoami")).json()["scheme"] == "https"
        raw = RawClient(await server.connect())
        response = await raw.ask(GET.replace(b"GET /", b"GET /whoami"))
        assert json.loads(response.body)["scheme"] == "https"
        assert "GET /whoami HTTP/1.1" in server.report()  # inside of TLS, that is


async def test_clients_show_who_they_are() -> None:
    authority = Authority()
    async with serve(app, tls={"client_certificates": "allow"}, authority=authority) as server:
        alice = authority.issue("alice@example.org", common_name="alice")
        async with server.httpx_client(identity=alice) as client:
            assert "alice" in (await client.get("/whoami")).json()["client_name"]
        async with server.httpx_client() as client:
            assert (await client.get("/whoami")).json()["client_name"] is None


async def test_whoever_may_certify_clients() -> None:
    stranger = Authority()
    options = {"client_certificates": "require", "client_authorities": stranger.pem}
    async with serve(app, tls=options) as server:
        alice = stranger.issue("alice@example.org", common_name="alice")
        async with server.http1_client(identity=alice) as client:
            response = await client.request("GET", "/whoami")
            assert "alice" in json.loads(await response.read())["client_name"]


async def test_a_client_that_shows_all_of_http1() -> None:
    async with (
        serve(app, raises_failures=False) as server,
        server.http1_client(address="203.0.113.7:4711") as client,
    ):
        response = await client.request("GET", "/whoami")
        answer = json.loads(await response.read())
        assert answer["client"] == ["203.0.113.7", 4711]
        response = await client.request("GET", "/fail")
        assert (response.status, response.reason) == (500, "Internal Server Error")
    assert list(server.server.connections) == []


async def test_a_server_name_of_a_clients_own(autojump_clock: MockClock) -> None:
    authority = Authority()
    other = authority.issue("other.example")
    ours = authority.issue("testserver")
    tls = Tls(
        certificate=ours.certificate_chain,
        key=ours.key,
        hosts={"other.example": TlsOptions(certificate=other.certificate_chain, key=other.key)},
    )
    async with serve(app, middleware=[tls], authority=authority) as server:
        for name in ("testserver", "other.example"):
            connection = await server.connect(tls=True, server_name=name)
            assert (await RawClient(connection).ask(GET)).status == 200
        async with server.httpx_client(
            base_url="https://testserver", server_name="other.example"
        ) as client:
            assert (await client.get("/")).status_code == 200


async def test_a_client_without_an_authority() -> None:
    async with serve(app) as server:
        with pytest.raises(RuntimeError, match="trusts no authority"):
            await server.connect(tls=True)


# Reports ----------------------------------------------------------------------------------------


async def test_metrics_as_text(autojump_clock: MockClock) -> None:
    async with serve(app, raises_failures=False) as server:
        async with server.httpx_client() as client:
            await client.get("/")
            await client.get("/fail")
        await wait_all_tasks_blocked()
        assert str(server.metrics()) == (
            "connections: 1 accepted, 0 open (1 peer_closed);"
            " requests: 2 (1 with 200, 1 with 500); failures: 1; blocks rented: 0"
        )


async def test_a_report_is_in_virtual_time(autojump_clock: MockClock) -> None:
    network = Network.always(Wire(up=Direction(latency_seconds=2), down=Direction()))
    async with serve(app, network=network) as server:
        connection = await server.connect(address="203.0.113.7:4711")
        assert (await RawClient(connection).ask(GET)).body == b"hello"
    lines = [line.strip() for line in server.report().splitlines()]
    assert lines[0].startswith("server on memory://server-")
    assert "replay with Network.always(Wire(up=Direction(latency_seconds=2)), seed=0)" in lines
    assert "+0.000 s  -> GET / HTTP/1.1\\r\\n" in lines
    assert "+2.000 s  <- HTTP/1.1 200 OK\\r\\n" in lines
    assert lines[-1].startswith("the server's end of 203.0.113.7:4711: ")


async def test_a_network_of_a_clients_own(autojump_clock: MockClock) -> None:
    refusing = Network.always(Wire(refused=True))
    async with serve(app) as server:
        assert (await RawClient(await server.connect()).ask(GET)).status == 200
        with pytest.raises(ConnectionRefusedError):
            await server.connect(network=refusing)
        async with server.httpx_client(network=refusing) as client:
            with pytest.raises(httpx.ConnectError):
                await client.get("/")
    assert "not connected: " in server.report()
    assert "connection 2: refused" in server.report()


def test_an_equal_network_replays_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_000_000_000.0)  # for the field Date

    async def run(seed: int) -> list[tuple[float, bytes]]:
        network = Network.seeded(seed, faults=False)
        async with serve(app, network=network) as server, trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(_ask, server, f"192.0.2.{number}")
        return [
            (event.at_seconds, event.data)
            for transcript in server.transcripts
            for event in transcript.events
        ]

    first, again, other = [
        trio.run(run, seed, clock=MockClock(autojump_threshold=0)) for seed in (1, 1, 2)
    ]
    assert len(first) > 10
    assert first == again
    assert first != other


async def _ask(server: OpenServer, address: str) -> None:
    client = RawClient(await server.connect(address=address))
    assert (await client.ask(GET)).status == 200
    await client.connection.transport.aclose()


# Without the libraries of the extra -------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "module", "what"),
    [
        ("httpx", "clients.httpx_client", "httpx_client"),
        ("httpx2", "clients.httpx2_client", "httpx2_client"),
        ("cryptography", "authority", "a server's own certificate"),
    ],
)
async def test_a_missing_library_is_told(
    library: str, module: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"kestrel_core.testing.{module}", raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match="install it with: pip install") as raised:  # noqa: PT012  # the block is what is tested
        async with serve(app, tls=library == "cryptography") as server:
            if library == "httpx2":
                server.httpx2_client()
            server.httpx_client()
    assert str(raised.value).startswith(f"{what} needs the library '{library}")
