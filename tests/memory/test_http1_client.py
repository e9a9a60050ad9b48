"""The HTTP/1.1 client that shows what others hide, against servers of a few lines, and real ones."""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from kestrel_core.connection import Connection
from kestrel_core.middleware import ConnectionHandler
from kestrel_core.pipe_reader import SeparatorNotFound
from kestrel_core.testing import open_server
from kestrel_core.testing.clients.http1_client import BadResponse, Http1Client, ResponseHead
from kestrel_protocols.asgi import AsgiApplication
from kestrel_protocols.http1 import Http1
from tests.http1_site import echo

OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def client_of(handler: ConnectionHandler) -> AsyncGenerator[Http1Client]:
    """Serve `handler`, and yield a client of it, which is to close its connection."""
    async with open_server(handler) as opened:
        async with Http1Client(await opened.connect()) as client:
            yield client
        assert client.connection.closed
    assert not opened.server.connections


async def head_of(connection: Connection) -> bytes:
    """Return the head of the next request, b"" if there is none."""
    try:
        return await connection.transport.input.read_until(b"\r\n\r\n", 10_000)
    except SeparatorNotFound:
        return b""


def saying(response: bytes, *, byte_by_byte: bool = False) -> ConnectionHandler:
    """Return a server that answers one request with `response`, and ends its side."""

    async def handler(connection: Connection) -> None:
        await head_of(connection)
        pieces = [bytes([byte]) for byte in response] if byte_by_byte else [response]
        for piece in pieces:
            await connection.transport.output.send(piece)
            if byte_by_byte:
                await wait_all_tasks_blocked()
        await connection.transport.output.send_eof()
        async for _ in connection.transport.input:
            pass

    return handler


def noting(received: list[bytes]) -> ConnectionHandler:
    """Return a server that notes all it receives, and answers at the end of that."""

    async def handler(connection: Connection) -> None:
        received.append(b"".join([chunk async for chunk in connection.transport.input]))
        await connection.transport.output.send(OK + b"content-length: 0\r\n\r\n")

    return handler


either_way = pytest.mark.parametrize("byte_by_byte", [False, True], ids=["at once", "by byte"])


# Responses --------------------------------------------------------------------------------------


@either_way
async def test_a_response_has_a_head_a_body_and_trailers(byte_by_byte: bool) -> None:
    response = (
        b"HTTP/1.1 200 Fine\r\nX-Twice: a\r\nx-twice: b\r\ntransfer-encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 7\r\n\r\n"
    )
    async with client_of(saying(response, byte_by_byte=byte_by_byte)) as client:
        received = await client.request("GET", "/")
        assert (received.status, received.reason) == (200, "Fine")
        assert received.values("X-Twice") == ["a", "b"]
        assert received.headers[0] == (b"x-twice", b"a")
        assert received.informational == []
        assert not received.trailers
        assert await received.read() == b"hello!"
        assert received.trailers == [(b"x-sum", b"7")]
        assert await received.read() == b""


async def test_a_response_may_come_in_any_two_pieces() -> None:
    response = (
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK + b"transfer-encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n1\r\n!\r\n0\r\nx: y\r\n\r\n"
    )

    async def answer_each_time_cut_elsewhere(connection: Connection) -> None:
        for cut_at in range(1, len(response)):
            await head_of(connection)
            await connection.transport.output.send(response[:cut_at])
            await wait_all_tasks_blocked()
            await connection.transport.output.send(response[cut_at:])

    async with client_of(answer_each_time_cut_elsewhere) as client:
        for _ in range(1, len(response)):
            received = await client.request("GET", "/")
            assert [each.status for each in received.informational] == [103]
            assert await received.read() == b"hello!"
            assert received.trailers == [(b"x", b"y")]


@either_way
async def test_informational_responses_come_before_the_final_one(byte_by_byte: bool) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n"
    response = b"HTTP/1.1 102 Processing\r\n\r\n" + hints + OK + b"content-length: 1\r\n\r\nx"
    async with client_of(saying(response, byte_by_byte=byte_by_byte)) as client:
        received = await client.request("GET", "/")
        assert received.informational == [
            ResponseHead(102, "Processing", []),
            ResponseHead(103, "Early Hints", [(b"link", b"</a.css>")]),
        ]
        assert await received.read() == b"x"


async def test_a_body_streams_in(autojump_clock: MockClock) -> None:
    async def drip(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(OK + b"content-length: 3\r\n\r\n")
        for byte in (b"a", b"bc"):
            await trio.sleep(5)
            await connection.transport.output.send(byte)

    async with client_of(drip) as client:
        response = await client.request("GET", "/")
        assert trio.current_time() == 0
        assert [(trio.current_time(), part) async for part in response] == [(5, b"a"), (10, b"bc")]


async def test_an_iteration_may_be_left_and_another_one_goes_on() -> None:
    async def talk(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(OK + b"content-length: 6\r\n\r\none")
        await wait_all_tasks_blocked()
        await connection.transport.output.send(b"two")

    async with client_of(talk) as client:
        response = await client.request("GET", "/")
        async for part in response:
            assert part == b"one"
            break
        assert [part async for part in response] == [b"two"]


async def test_a_body_may_end_with_the_connection() -> None:
    async with client_of(saying(OK + b"\r\nhello")) as client:
        assert await (await client.request("GET", "/")).read() == b"hello"


async def test_what_answers_head_has_no_body() -> None:
    async with client_of(saying(OK + b"content-length: 5\r\n\r\n" + OK + b"\r\nx")) as client:
        response = await client.request("HEAD", "/")
        assert await response.read() == b""
        assert (await client.receive_response()).status == 200


async def test_a_cancelled_call_has_lost_nothing(autojump_clock: MockClock) -> None:
    async def drip(connection: Connection) -> None:
        await head_of(connection)
        response = b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"content-length: 3\r\n\r\nabc"
        for byte in response:
            await trio.sleep(1)
            await connection.transport.output.send(bytes([byte]))

    async with client_of(drip) as client:
        await client.send_request("GET", "/")
        response = None
        while response is None:
            with trio.move_on_after(1.5):
                response = await client.receive_response()
        assert [each.status for each in response.informational] == [100]
        body = b""
        while len(body) < 3:
            with trio.move_on_after(0.4):
                body += await response.receive()
        assert body == b"abc"


# Requests ---------------------------------------------------------------------------------------


async def test_a_request_is_as_it_is_said() -> None:
    received: list[bytes] = []
    async with client_of(noting(received)) as client:
        await client.send_request("GET", "/a?b", headers=[("X-Own", "1"), (b"x-raw", b"\xff")])
        await client.send_eof()
        assert (await client.receive_response()).status == 200
    assert received == [b"GET /a?b HTTP/1.1\r\nhost: testserver\r\nX-Own: 1\r\nx-raw: \xff\r\n\r\n"]


async def parts(*of: bytes) -> AsyncGenerator[bytes]:
    for part in of:
        yield part


@pytest.mark.parametrize(
    ("body", "headers", "trailers", "framed"),
    [
        (b"hello", [], [], b"content-length: 5\r\n\r\nhello"),
        (b"", [], [], b"content-length: 0\r\n\r\n"),
        (parts, [], [], b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"),
        (parts, [("content-length", "3")], [], b"content-length: 3\r\n\r\nabc"),
        (
            b"ab",
            [],
            [("x-sum", "2")],
            b"transfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx-sum: 2\r\n\r\n",
        ),
        (None, [], [("x", "y")], b"transfer-encoding: chunked\r\n\r\n0\r\nx: y\r\n\r\n"),
    ],
)
async def test_a_body_is_framed_as_it_comes(
    body: bytes | Callable[..., AsyncGenerator[bytes]] | None,
    headers: list[tuple[str, str]],
    trailers: list[tuple[str, str]],
    framed: bytes,
) -> None:
    received: list[bytes] = []
    async with client_of(noting(received)) as client:
        await client.send_request(
            "POST",
            "/",
            headers=[("host", "b"), *headers],
            body=body(b"ab", b"c") if callable(body) else body,
            trailers=trailers,
        )
        await client.send_eof()
        await client.receive_response()
    assert [data.lower() for data in received] == [b"post / http/1.1\r\nhost: b\r\n" + framed]


async def test_a_body_streams_out(autojump_clock: MockClock) -> None:
    came: list[tuple[float, bytes]] = []

    async def note(connection: Connection) -> None:
        async for chunk in connection.transport.input:
            came.append((trio.current_time(), chunk))
            if chunk.endswith(b"0\r\n\r\n"):
                break
        await connection.transport.output.send(OK + b"\r\n")

    async def body() -> AsyncGenerator[bytes]:
        for part in (b"a", b"bc"):
            await trio.sleep(5)
            yield part

    async with client_of(note) as client:
        await client.request("POST", "/", body=body())
    assert came[1:] == [(5, b"1\r\na\r\n"), (10, b"2\r\nbc\r\n0\r\n\r\n")]


@pytest.mark.parametrize(
    ("method", "headers", "body", "trailers"),
    [
        ("G ET", [], None, []),
        ("GET", [("x y", "z")], None, []),
        ("GET", [("x", "a\nb")], None, []),
        ("GET", [("content-length", "5")], b"four", []),
        ("GET", [("content-length", "3")], b"four", []),
        ("GET", [("content-length", "4")], b"four", [("x", "y")]),
        ("GET", [("transfer-encoding", "gzip")], None, []),
    ],
)
async def test_what_no_client_may_send_is_an_error(
    method: str, headers: list[tuple[str, str]], body: bytes | None, trailers: list[tuple[str, str]]
) -> None:
    received: list[bytes] = []
    async with client_of(noting(received)) as client:
        with pytest.raises(ValueError):  # noqa: PT011  # h11's words
            await client.request(method, "/", headers=headers, body=body, trailers=trailers)


async def test_the_body_waits_for_100_where_that_is_expected(autojump_clock: MockClock) -> None:
    came: list[tuple[float, bytes]] = []

    async def let_it_wait(connection: Connection) -> None:
        await head_of(connection)
        await trio.sleep(5)
        assert connection.transport.input.buffered == b""
        await connection.transport.output.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        came.append((trio.current_time(), await connection.transport.input.read_exactly(5)))
        await connection.transport.output.send(OK + b"content-length: 0\r\n\r\n")
        await head_of(connection)

    async with client_of(let_it_wait) as client:
        response = await client.request(
            "POST", "/", headers=[("Expect", "100-Continue")], body=b"hello"
        )
        assert [each.status for each in response.informational] == [100]
    assert came == [(5, b"hello")]


async def test_a_body_that_is_not_wanted_is_not_sent() -> None:
    received: list[bytes] = []

    async def refuse(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n"
        )
        received.extend([chunk async for chunk in connection.transport.input])

    async with client_of(refuse) as client:
        headers = [("expect", "100-continue")]
        response = await client.request("POST", "/", headers=headers, body=b"hello")
        assert response.status == 417
        with pytest.raises(trio.ClosedResourceError, match="was cut"):
            await client.request("GET", "/")
    assert received == []


async def test_an_early_response_ends_a_request() -> None:
    is_closed = False

    async def endless() -> AsyncGenerator[bytes]:
        nonlocal is_closed
        try:
            while True:
                yield bytes(10_000)
        finally:
            is_closed = True

    async def refuse(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(
            b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno"
        )
        async for _ in connection.transport.input:
            await trio.lowlevel.checkpoint()

    async with client_of(refuse) as client:
        response = await client.request("POST", "/", body=endless())
        assert is_closed
        assert (response.status, await response.read()) == (413, b"no")
        with pytest.raises(trio.ClosedResourceError, match="was cut"):
            await client.send(b"GET")


async def test_an_early_response_does_not_cut_what_the_pipe_has_already() -> None:
    async def answer_first(connection: Connection) -> None:
        while await head_of(connection):
            await connection.transport.output.send(OK + b"content-length: 0\r\n\r\n")
            await wait_all_tasks_blocked()
            await connection.transport.input.read_exactly(50_000)

    async with open_server(answer_first) as opened:
        connection = await opened.connect(options={"pause_at_bytes": "1000"})
        async with Http1Client(connection) as client:
            for _ in range(3):
                response = await client.request("POST", "/", body=bytes(50_000))
                assert response.status == 200


async def test_an_early_response_of_a_server_that_goes_away_is_received() -> None:
    async def refuse(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(b"HTTP/1.1 413 Content Too Large\r\n\r\nno")

    async with client_of(refuse) as client:
        response = await client.request("POST", "/", body=bytes(10_000_000))
        assert (response.status, await response.read()) == (413, b"no")


async def test_an_error_of_the_body_comes_out() -> None:
    async def body() -> AsyncGenerator[bytes]:
        yield b"a"
        raise ZeroDivisionError

    async with client_of(noting([])) as client:
        with pytest.raises(ZeroDivisionError):
            await client.request("POST", "/", body=body())


async def test_sending_and_receiving_at_once() -> None:
    sent: list[bytes] = []

    async def body() -> AsyncGenerator[bytes]:
        for number in range(100):
            sent.append(bytes([number]) * 5000)
            yield sent[-1]

    async def mirror(connection: Connection) -> None:
        await head_of(connection)
        reader, writer = connection.transport.input, connection.transport.output
        await writer.send(OK + b"transfer-encoding: chunked\r\n\r\n")
        async for chunk in reader:  # chunks as they are
            await writer.send(chunk)
            if chunk.endswith(b"0\r\n\r\n"):
                return

    async with client_of(mirror) as client, trio.open_nursery() as nursery:

        async def send() -> None:
            await client.send_request("POST", "/", body=body())

        nursery.start_soon(send)
        response = await client.receive_response()
        assert await response.read() == b"".join(sent)


# More than one request --------------------------------------------------------------------------


@either_way
async def test_a_pipeline(byte_by_byte: bool) -> None:
    targets = ["/1", "/2", "/3"]
    async with client_of(Http1(AsgiApplication(echo))) as client:
        for target in targets:
            await client.send_request("POST", target, body=target.encode())
        with pytest.raises(RuntimeError, match="receive the responses"):
            await client.request("GET", "/")
        answers = [await (await client.receive_response()).read() for _ in targets]
        assert answers == [b"/1 /1", b"/2 /2", b"/3 /3"]
        response = await client.request("GET", "/4")
        assert await response.read() == b"/4 "


async def test_what_is_left_of_a_response_is_dropped() -> None:
    async with client_of(Http1(AsgiApplication(echo))) as client:
        for number in range(3):
            assert (await client.request("POST", "/", body=bytes(200_000))).status == 200
            assert (await client.request("GET", f"/{number}")).status == 200


async def test_responses_that_come_in_one_piece_are_told_apart() -> None:
    two = OK + b"content-length: 3\r\n\r\none" + OK + b"transfer-encoding: chunked\r\n\r\n"
    async with client_of(saying(two + b"3\r\ntwo\r\n0\r\n\r\nleft")) as client:
        await client.send_request("GET", "/")
        await client.send_request("GET", "/")
        assert await (await client.receive_response()).read() == b"one"
        assert await (await client.receive_response()).read() == b"two"
        assert await client.receive(2) == b"le"
        assert await client.receive() == b"ft"
        assert await client.receive() == b""


async def test_a_half_closed_connection_still_answers() -> None:
    async with client_of(Http1(AsgiApplication(echo))) as client:
        await client.send_request("POST", "/", body=b"hello")
        await client.send_eof()
        with pytest.raises(trio.ClosedResourceError, match="already sent"):
            await client.send_request("GET", "/")
        assert await (await client.receive_response()).read() == b"/ hello"
        with pytest.raises(trio.EndOfChannel):
            await client.receive_response()


async def test_a_request_that_was_not_sent_has_no_response() -> None:
    async with client_of(Http1(AsgiApplication(echo))) as client:
        await client.send(b"HEAD / HTTP/1.1\r\nhost: a\r\n\r\n")
        await client.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_request("GET", "/")
        assert await (await client.receive_response(to="HEAD")).read() == b""


async def test_one_task_sends_and_one_receives() -> None:
    async def never_read(connection: Connection) -> None:
        await connection.wait_closed()

    async with client_of(never_read) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_response)
        nursery.start_soon(client.send, bytes(1_000_000))
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await client.receive_response()
        with pytest.raises(trio.BusyResourceError):
            await client.send_request("GET", "/")
        with pytest.raises(trio.BusyResourceError):
            await client.send_eof()
        nursery.cancel_scope.cancel()


# Raw bytes, and other protocols -----------------------------------------------------------------


async def test_a_request_of_raw_bytes() -> None:
    async with client_of(Http1(AsgiApplication(echo))) as client:
        await client.send(
            b"HEAD /raw HTTP/1.1\r\nhost: a\r\n\r\nGET /next HTTP/1.1\r\nhost: a\r\n\r\n"
        )
        assert await (await client.receive_response(to="HEAD")).read() == b""
        assert await (await client.receive_response()).read() == b"/next "


async def test_what_the_server_says_unasked() -> None:
    response = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\r\n"

    async def hang_up(connection: Connection) -> None:
        await connection.transport.output.send(response)

    async with client_of(hang_up) as client:
        assert (await client.receive_response()).status == 408


@either_way
@pytest.mark.parametrize("raw", [False, True], ids=["asked", "raw"])
async def test_an_upgrade_hands_over_the_pipe_and_what_came_with_it(
    byte_by_byte: bool, raw: bool
) -> None:
    async def upgrade(connection: Connection) -> None:
        await head_of(connection)
        answer = (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: echo\r\nconnection: upgrade\r\n\r\nhello"
        )
        for piece in [bytes([byte]) for byte in answer] if byte_by_byte else [answer]:
            await connection.transport.output.send(piece)
            await wait_all_tasks_blocked()
        async for chunk in connection.transport.input:
            await connection.transport.output.send(chunk)

    async with client_of(upgrade) as client:
        if raw:
            await client.send(b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: echo\r\n\r\n")
            response = await client.receive_response()
        else:
            headers = [("upgrade", "echo"), ("connection", "upgrade")]
            response = await client.request("GET", "/", headers=headers)
        assert response.status == 101
        assert response.values("upgrade") == ["echo"]
        assert [each.status for each in response.informational] == [100]
        assert response.upgraded is not None
        assert await response.upgraded.input.read_exactly(5) == b"hello"
        await response.upgraded.output.send(b"over")
        assert await response.upgraded.input.read_exactly(4) == b"over"
        assert await response.read() == b""


async def test_a_tunnel_of_connect() -> None:
    async with client_of(saying(OK + b"\r\nhello")) as client:
        response = await client.request("CONNECT", "a.example:443")
        assert response.upgraded is not None
        assert await response.upgraded.input.read_exactly(5) == b"hello"


async def test_without_an_upgrade_there_is_no_pipe() -> None:
    async with client_of(saying(OK + b"content-length: 5\r\n\r\nhello")) as client:
        headers = [("upgrade", "echo"), ("connection", "upgrade")]
        response = await client.request("GET", "/", headers=headers)
        assert response.upgraded is None
        assert await response.read() == b"hello"


# Servers that do wrong --------------------------------------------------------------------------


@either_way
@pytest.mark.parametrize(
    "response",
    [
        b"220 mail.example ESMTP\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: y",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
async def test_a_head_that_is_none_is_a_bad_response(response: bytes, byte_by_byte: bool) -> None:
    async with client_of(saying(response, byte_by_byte=byte_by_byte)) as client:
        with pytest.raises(BadResponse):
            await client.request("GET", "/")


@either_way
@pytest.mark.parametrize(
    ("response", "begins"),
    [
        (OK + b"content-length: 10\r\n\r\nhello", b"hello"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n", b"hello"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\nx\r\n", b"hello"),
        (OK + b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nno field\r\n\r\n", b"hello"),
    ],
)
async def test_a_body_that_ends_early_is_a_bad_response(
    response: bytes, begins: bytes, byte_by_byte: bool
) -> None:
    async with client_of(saying(response, byte_by_byte=byte_by_byte)) as client:
        received = await client.request("GET", "/")
        body = b""
        with pytest.raises(BadResponse):  # noqa: PT012  # of the iteration
            async for part in received:
                body += part
        assert body == begins


async def test_no_response_is_the_end_of_the_channel() -> None:
    async with client_of(saying(b"")) as client:
        with pytest.raises(trio.EndOfChannel, match="before a response"):
            await client.request("GET", "/")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 2", OK + b"content-length: 9\r\n\r\nhello"])
async def test_a_reset_is_a_broken_resource(begun: bytes) -> None:
    async def reset(connection: Connection) -> None:
        await head_of(connection)
        await connection.transport.output.send(begun)
        await wait_all_tasks_blocked()
        connection.transport.abort()

    async with client_of(reset) as client:
        with pytest.raises(trio.BrokenResourceError):  # by one of the two
            await (await client.request("POST", "/", body=bytes(1_000_000))).read()


async def test_a_closed_client_says_so() -> None:
    async with client_of(Http1(AsgiApplication(echo))) as client:
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.request("GET", "/")
        with pytest.raises(trio.ClosedResourceError):
            await client.send_request("GET", "/")
