"""One connection of a simulation: what client, network, server and oracle know of it, side by side."""

import math
from collections.abc import Sequence

import attrs

from kestrel_core import Limits
from kestrel_core.connection import Connection
from kestrel_core.end_reason import EndReason
from tests.simulation.client import Client, End
from tests.simulation.oracle import Sighting
from tests.simulation.plan import RequestPlan
from tests.simulation.simulation import Story

__all__ = ["Case", "cases_of"]


@attrs.frozen
class Case:
    """A client's connection; `connection` is the server's end of it, if it was accepted."""

    story: Story
    client: Client
    connection: Connection | None
    sightings: Sequence[Sighting]

    def __str__(self) -> str:
        return f"client {self.client.plan.number}"

    @property
    def limits(self) -> Limits:
        """Those of the server."""
        return self.story.plan.limits

    @property
    def reason(self) -> EndReason | None:
        """Why the connection ended, as the server has it."""
        return None if self.connection is None else self.connection.end_reason

    @property
    def layers(self) -> set[str]:
        """The names of the server's middleware."""
        return {layer.name for layer in self.story.plan.middleware}

    @property
    def events(self) -> list[str]:
        """What happened on the network."""
        return [] if self.client.network is None else [e.text for e in self.client.network.events]

    @property
    def wire_broke(self) -> bool:
        """Whether the network did something to the connection that it does not get over."""
        return any(
            "cut off" in text or "reset after" in text or "for ever" in text for text in self.events
        )

    @property
    def crossed(self) -> bool:
        """Whether the connection was reset because the client sent what the server did not await."""
        return any("down: reset, as bytes came" in text for text in self.events)

    @property
    def client_left(self) -> bool:
        """Whether the client went away, fell silent, or ended its side, before it saw an end."""
        return self.client.end in (End.LEFT, End.GAVE_UP) or self.client.went_away

    @property
    def input_ended(self) -> bool:
        """Whether the server may have seen the end of the client's side."""
        return self.client_left or self.client.half_closed or self.wire_broke

    @property
    def server_stopped(self) -> bool:
        """Whether the server drained or aborted while it had the connection, maybe."""
        return self.story.stopping.began_at < math.inf or self.outlived_client

    @property
    def outlived_client(self) -> bool:
        """Whether the server had the connection long after the client was gone."""
        return self.client.plan.address in self.story.alone

    @property
    def was_cut(self) -> bool:
        """Whether the server was aborted, or drained and had to cut connections, of which this was one."""
        stopping = self.story.stopping
        cut = stopping.cut > 0 or self.story.plan.aborts
        return cut and self.client.ended_at >= stopping.ended_at

    @property
    def seconds(self) -> float:
        """How long the server had the connection, at most, as far as the client can tell."""
        if self.client.end in (End.LEFT, End.NOT_CONNECTED) or self.wire_broke:
            return math.inf
        return self.client.ended_at - self.client.plan.starts_at

    @property
    def is_sluggish(self) -> bool:
        """Whether the client, the network, or a layer may take its time with the server's bytes."""
        plan = self.client.plan
        return (
            plan.wire is not None
            or plan.read_pause_seconds > 0
            or plan.stops_reading_after_bytes is not None
            or "throttle" in self.layers
        )

    def sighting_of(self, request: RequestPlan) -> Sighting | None:
        """Return what the oracle saw of a request."""
        for sighting in self.sightings:
            if sighting.question.id == request.question.id:
                return sighting
        return None


def cases_of(story: Story) -> list[Case]:
    """Return a case for each client."""
    by_address = {str(connection.remote): connection for connection in story.connections}
    return [
        Case(
            story,
            client,
            by_address.get(client.plan.address),
            [each for each in story.sightings if each.client == client.plan.address],
        )
        for client in story.clients
    ]
