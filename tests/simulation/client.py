"""A client that does what its plan says, and remembers what came of it.

Theory of operation. One task sends, one receives, and a third may go away in the middle. The receiver
takes responses in the order of the requests that were begun; it ends when it has seen the end of the
connection, or when its plan is fulfilled. Its end is the end of the client, who then closes what is
left. Bytes are taken apart by h11.
"""

import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from enum import Enum

import attrs
import trio

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.pipe_reader import PipeReader
from kestrel_core.testing import OpenServer
from kestrel_core.testing.clients.http1_exchange import BadResponse, Http1Exchange, ResponseHead
from kestrel_core.testing.network import Network
from tests.simulation.oracle import Fields
from tests.simulation.plan import ClientPlan, Ending, Leaving, RequestPlan

__all__ = ["PATIENCE_SECONDS", "Client", "End", "Received", "Told"]

PATIENCE_SECONDS = 3000.0
"""How long a connection may take in all: longer than any stall that ends, and than all else there is."""

# A client does not wait for 100 (Continue) for ever (RFC 9110, 10.1.1).
_CONTINUE_SECONDS = 2.0


class End(Enum):
    """How a client came to the end of its connection."""

    NOT_CONNECTED = "not connected"
    EOF = "end of input"
    RESET = "reset"
    LEFT = "left"
    """It went away by itself, and saw no end before."""
    GAVE_UP = "gave up"
    """It saw no end, though it waited for long."""


@attrs.define
class Received:
    """What came of one response."""

    head: ResponseHead | None = None
    informational: list[ResponseHead] = attrs.field(factory=list[ResponseHead])
    body: bytearray = attrs.field(factory=bytearray)
    trailers: Fields = attrs.field(factory=list[tuple[bytes, bytes]])
    whole: bool = False

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field of the head."""
        return [] if self.head is None else [v for known, v in self.head.headers if known == name]

    @property
    def request_id(self) -> str | None:
        """Whose answer it says it is; the server's own say nothing."""
        ids = self.values(b"x-request")
        return ids[0].decode() if len(ids) == 1 else None


@attrs.define
class Told:
    """What became of one request at the client."""

    plan: RequestPlan
    sent_bytes: int = 0
    sent_whole: bool = False
    received: Received | None = None


class Client:
    """One client; `run` plays it, and everything else tells what happened."""

    def __init__(self, plan: ClientPlan, seed: int) -> None:
        self.plan = plan
        self.network: Network | None = None
        if plan.wire is not None:
            self.network = Network.of([plan.wire], seed=f"{seed}/{plan.number}")
        self.told: list[Told] = []
        """The requests that it began to send."""
        self.end: End | None = None
        self.connected_at = math.nan
        self.ended_at = math.nan
        self.half_closed = False
        self.went_away = False
        """Whether it left in the middle, or fell silent there."""
        self.excess = b""
        """What came behind the last response."""
        self.broken_http: str | None = None
        """What was wrong with a response, other than its end."""
        self._answered = 0
        self._may_go_on = trio.Event()
        self._begun = trio.Event()
        self._sender_done = False
        self._exchange: Http1Exchange | None = None
        self._has_paused = False
        self._idle: PipeReader | None = None

    async def run(self, opened: OpenServer) -> None:
        """Do what the plan says."""
        await trio.sleep(self.plan.starts_at)
        try:
            connection = await opened.connect(
                address=self.plan.address,
                network=self.network,
                options={"pause_at_bytes": str(self.plan.pause_at_bytes)},
            )
        except (OSError, trio.BrokenResourceError, trio.TooSlowError):
            self._note_end(End.NOT_CONNECTED)
            return
        self.connected_at = trio.current_time()
        try:
            with trio.move_on_after(PATIENCE_SECONDS):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send, connection)
                    if self.plan.leaves_after_seconds < math.inf:
                        nursery.start_soon(self._leave_in_time, connection, nursery.cancel_scope)
                    await self._receive(connection)
                    nursery.cancel_scope.cancel()
        finally:
            self._note_end(End.GAVE_UP)
            if self.end in (End.EOF, End.LEFT) and not connection.closed:
                with trio.move_on_after(1, shield=True):
                    await connection.transport.aclose()
            connection.abort(EndReason.ABORTED_BY_APP)
            await connection.aclose()

    def _note_end(self, end: End) -> None:
        if self.end is None:
            self.end = end
            self.ended_at = trio.current_time()

    # Sending ------------------------------------------------------------------------------------

    async def _send(self, connection: Connection) -> None:
        plan = self.plan
        try:
            for number, request in enumerate(plan.requests):
                while number - self._answered >= plan.most_in_flight:
                    await self._may_go_on.wait()
                await trio.sleep(plan.gap_seconds)
                told = Told(request)
                self.told.append(told)
                self._tell_receiver()
                if request.leaves_after_bytes is None:
                    await self._send_request(connection, told, math.inf)
                    continue
                await self._send_request(connection, told, request.leaves_after_bytes)
                await self._leave(connection, request.leaves)
                return
            if plan.ending is Ending.HALF_CLOSES:
                self.half_closed = True
                await connection.transport.output.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the receiver finds out
        finally:
            self._sender_done = True
            self._tell_receiver()

    async def _send_request(self, connection: Connection, told: Told, most_bytes: float) -> None:
        request = told.plan
        if request.bad_head:
            parts = [request.bad_head]
        else:
            parts = [request.head + request.framed_body]
            if request.expects_continue:
                parts = [request.head, request.framed_body]
        sizes = list(request.pieces)
        for number, part in enumerate(parts):
            if number == 1:
                await self._wait_for_continue()
            while part:
                size = sizes.pop(0) if sizes else len(part)
                size = int(min(size, most_bytes - told.sent_bytes))
                if not size:
                    return
                if told.sent_bytes:
                    await trio.sleep(request.pause_seconds)
                await connection.transport.output.send(part[:size])
                told.sent_bytes += min(size, len(part))
                part = part[size:]
        told.sent_whole = True

    async def _wait_for_continue(self) -> None:
        """Wait until the response has begun, but not for long."""
        with trio.move_on_after(_CONTINUE_SECONDS):
            while self._exchange is None:  # noqa: ASYNC110  # until its turn to be received comes
                await trio.sleep(0.01)
            await self._exchange.may_continue.wait()

    def _tell_receiver(self) -> None:
        self._begun.set()
        self._begun = trio.Event()
        if self._idle is not None:
            self._idle.cancel_pending_read()

    # Going away ---------------------------------------------------------------------------------

    async def _leave_in_time(self, connection: Connection, scope: trio.CancelScope) -> None:
        await trio.sleep(self.plan.leaves_after_seconds)
        try:
            await self._leave(connection, self.plan.leaves)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
            return  # somebody else ended it
        if self.end is End.LEFT:
            scope.cancel()

    async def _leave(self, connection: Connection, how: Leaving) -> None:
        self.went_away = True
        if how is Leaving.ABORTS:
            self._note_end(End.LEFT)
            connection.abort(EndReason.ABORTED_BY_APP)
        elif how is Leaving.CLOSES:
            self._note_end(End.LEFT)
            with trio.move_on_after(1):
                await connection.transport.aclose()
        elif how is Leaving.HALF_CLOSES:
            self.half_closed = True
            await connection.transport.output.send_eof()

    # Receiving ----------------------------------------------------------------------------------

    async def _receive(self, connection: Connection) -> None:
        async with self._watching_the_end(connection):
            number = 0
            while True:
                while number == len(self.told) and not self._sender_done:
                    if await self._ended_while_idle(connection.transport.input):
                        return
                if number == len(self.told):
                    break
                told = self.told[number]
                number += 1
                await self._receive_response(connection, told)
                if told.received is None or b"close" in told.received.values(b"connection"):
                    break
                self._answered += 1
                self._may_go_on.set()
                self._may_go_on = trio.Event()
            all_answered = self._answered == len(self.plan.requests)
            if all_answered and self.plan.ending is Ending.CLOSES and not self.half_closed:
                self._note_end(End.LEFT)
                return
            while data := await connection.transport.input.receive():
                self.excess += data
            self._note_end(End.EOF)

    async def _ended_while_idle(self, reader: PipeReader) -> bool:
        """Wait for the next request, or for the end of the connection; tell whether that came."""
        self._idle = reader
        try:
            data = await reader.read()
        finally:
            self._idle = None
        reader.advance(0)
        if reader.read_cancelled:
            return False
        if data:  # though nobody asked for anything
            await self._begun.wait()
            return False
        self._note_end(End.EOF)
        return True

    async def _receive_response(self, connection: Connection, told: Told) -> None:
        received = told.received = Received()
        method = "GET" if told.plan.bad_head else told.plan.method
        exchange = Http1Exchange(
            connection.transport.input, method, "/", [(b"host", b"testserver")]
        )
        exchange.end(())
        received.informational = exchange.informational
        self._exchange = exchange
        await trio.sleep(self.plan.read_pause_seconds)
        received.head = await exchange.receive_head()
        exchange.may_continue.set()
        while part := await exchange.receive_data():
            received.body += part
            await self._pause(received)
        received.trailers = list(exchange.trailers)
        received.whole = True
        self._exchange = None

    async def _pause(self, received: Received) -> None:
        most_bytes = self.plan.stops_reading_after_bytes
        if most_bytes is not None and len(received.body) > most_bytes and not self._has_paused:
            self._has_paused = True
            await trio.sleep(self.plan.stops_reading_seconds)
        await trio.sleep(self.plan.read_pause_seconds)

    @asynccontextmanager
    async def _watching_the_end(self, connection: Connection) -> AsyncGenerator[None]:
        """Note how the connection ends, if it does in the block."""
        try:
            yield
        except trio.EndOfChannel:
            self._note_end(End.EOF)
        except BadResponse as error:
            if not connection.transport.input.at_eof:
                self.broken_http = str(error)
            self._note_end(End.EOF)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._note_end(End.RESET)
