"""Simulations find faults that are planted in the server, so they would find such faults."""

import itertools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import trio

from kestrel_core import server
from kestrel_core.connection import Connection, Failure
from kestrel_core.end_reason import EndReason
from kestrel_core.memory import Block, MemoryPool
from kestrel_protocols.http1 import application_failure
from kestrel_protocols.http1.body import Body, ChunkedBody, LengthBody
from kestrel_protocols.http1.exchange import Http1Exchange
from kestrel_protocols.http1.wire import Phase, Wire
from tests.simulation.campaign import run_seed
from tests.simulation.oracle import write_files

pytestmark = pytest.mark.same_everywhere

# Each of these faults shows within so many seeds.
SEEDS = 100


def a_response_is_sent_twice(patch: pytest.MonkeyPatch) -> None:
    respond = Http1Exchange.respond

    async def respond_twice(
        self: Http1Exchange,
        status: int,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
    ) -> None:
        await respond(self, status, headers, body)
        again = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        self.connection.transport.output.write(again)

    patch.setattr(Http1Exchange, "respond", respond_twice)


def a_byte_of_a_response_is_another(patch: pytest.MonkeyPatch) -> None:
    write = Http1Exchange.write

    async def change(self: Http1Exchange, data: bytes) -> None:
        await write(self, data[:99] + b"x" + data[100:] if len(data) >= 100 else data)

    patch.setattr(Http1Exchange, "write", change)


def two_bytes_of_a_request_are_swapped(patch: pytest.MonkeyPatch) -> None:
    receive = LengthBody.receive

    async def swap(self: LengthBody) -> bytes:
        data = await receive(self)
        return data[1::-1] + data[2:]

    patch.setattr(LengthBody, "receive", swap)


def a_body_ends_early(patch: pytest.MonkeyPatch) -> None:
    receive = LengthBody.receive

    async def end(self: LengthBody) -> bytes:
        data = await receive(self)
        self.complete = self.complete or self.received_bytes > 50
        return data

    patch.setattr(LengthBody, "receive", end)


def trailers_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    receive = ChunkedBody.receive

    async def forget(self: ChunkedBody) -> bytes:
        data = await receive(self)
        self.trailers = []
        return data

    patch.setattr(ChunkedBody, "receive", forget)


def a_request_is_served_twice(patch: pytest.MonkeyPatch) -> None:
    consume, calls = Wire.consume, itertools.count()

    def forget(self: Wire) -> None:
        if self.position and next(calls) == 1:
            self.position = 0
            self.data = b""
        else:
            consume(self)

    patch.setattr(Wire, "consume", forget)


def a_limit_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    def count(self: Body, more_bytes: int) -> None:
        self.received_bytes += more_bytes

    def check_length(self: Body) -> None:
        pass

    patch.setattr(Body, "count", count)
    patch.setattr(Body, "check_length", check_length)


def a_block_is_kept(patch: pytest.MonkeyPatch) -> None:
    give_back, calls = MemoryPool.give_back, itertools.count()

    def keep(self: MemoryPool, block: Block) -> None:
        if next(calls) != 2:
            give_back(self, block)

    patch.setattr(MemoryPool, "give_back", keep)


def a_connection_is_not_closed(patch: pytest.MonkeyPatch) -> None:
    async def leave_open(_connection: Connection, _seconds: float) -> None:
        await trio.lowlevel.checkpoint()

    patch.setattr(server, "close_contained", leave_open)


def a_connection_is_broken_off(patch: pytest.MonkeyPatch) -> None:
    def break_off(self: Connection) -> bool:
        self.deadline.close()
        self.abort(EndReason.COMPLETED)
        return True

    patch.setattr(Connection, "close_nowait", break_off)


def an_idle_connection_stays(patch: pytest.MonkeyPatch) -> None:
    expire = Wire.on_deadline

    def stay(self: Wire) -> None:
        if self.phase is not Phase.IDLE:
            expire(self)

    patch.setattr(Wire, "on_deadline", stay)


def a_drain_is_not_heard(patch: pytest.MonkeyPatch) -> None:
    def ignore(self: Wire) -> None:
        pass

    patch.setattr(Wire, "on_close_requested", ignore)


def a_reason_is_wrong(patch: pytest.MonkeyPatch) -> None:
    record = Connection.record_end

    def blame(self: Connection, reason: EndReason) -> None:
        record(self, EndReason.IDLE_TIMEOUT if reason is EndReason.PEER_CLOSED else reason)

    patch.setattr(Connection, "record_end", blame)


def a_failure_is_hushed_up(patch: pytest.MonkeyPatch) -> None:
    def hush_up(_log: object, _failure: Failure) -> None:
        pass

    patch.setattr(application_failure, "report_failure", hush_up)


def a_task_is_left(patch: pytest.MonkeyPatch) -> None:
    close = Connection.close_nowait

    def leave(self: Connection) -> bool:
        trio.lowlevel.spawn_system_task(trio.sleep_forever)
        return close(self)

    patch.setattr(Connection, "close_nowait", leave)


@pytest.mark.parametrize(
    "plant",
    [
        a_response_is_sent_twice,
        a_byte_of_a_response_is_another,
        two_bytes_of_a_request_are_swapped,
        a_body_ends_early,
        trailers_are_forgotten,
        a_request_is_served_twice,
        a_limit_is_forgotten,
        a_block_is_kept,
        a_connection_is_not_closed,
        a_connection_is_broken_off,
        an_idle_connection_stays,
        a_drain_is_not_heard,
        a_reason_is_wrong,
        a_failure_is_hushed_up,
        a_task_is_left,
    ],
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_files(tmp_path)
    plant(monkeypatch)
    for seed in range(SEEDS):
        outcome = run_seed(seed, tmp_path)
        if outcome.faults:
            assert outcome.text.startswith(f"seed {seed}: {outcome.faults[0]}\n")
            assert f"make simulate FIRST={seed} SEEDS=1" in outcome.text
            return
    pytest.fail(f"{SEEDS} seeds have not shown that {plant.__name__.replace('_', ' ')}")
