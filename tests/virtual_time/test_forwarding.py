"""Connections that are forwarded to another server."""

import pytest
from trio.testing import MockClock

from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from kestrel_core.testing import open_server
from kestrel_protocols.forward import Forward
from kestrel_protocols.ssh import SshForward
from tests.virtual_time.ending import Ending, connect, ending
from tests.virtual_time.proofs import proves
from tests.virtual_time.unresponsive import Unresponsive


@proves("Forward.connect_seconds", "ssh.connect_seconds")
@pytest.mark.parametrize("kind", [Forward, SshForward])
async def test_a_server_that_does_not_answer_is_given_up(
    kind: type[Forward], autojump_clock: MockClock
) -> None:
    forward = kind("unresponsive://sshd", registry=Unresponsive(connecting=True).registry())
    async with open_server(forward) as server:
        client = await connect(server)
        assert await ending(server, client) == Ending(
            at=60, reset=True, reason=EndReason.FORWARD_TARGET_UNREACHABLE
        )


@proves("Limits.linger_seconds")
async def test_a_server_that_does_not_let_go_is_left(autojump_clock: MockClock) -> None:
    async def answer(connection: Connection) -> None:
        await connection.transport.output.send(await connection.transport.input.receive())

    registry = Unresponsive(closing_connected=True).registry()
    async with (
        open_server(answer, registry=registry, endpoint="unresponsive://back") as back,
        open_server(Forward(back.endpoint, registry=registry)) as front,
    ):
        client = await connect(front)
        await client.send(b"hello\r\n")
        await client.send_eof()
        assert await ending(front, client) == Ending(
            at=0, said=b"hello", reason=EndReason.COMPLETED, gone_at=2
        )
