"""Draws plans from seeds: what clients, servers and networks do, sizes and times that a test can bear."""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

import attrs

from kestrel_core import Limits
from kestrel_core.testing.network import Direction, Network, Wire
from tests import bad_bodies, bad_heads
from tests.bad_request import DEFAULT, Bad
from tests.simulation.plan import ClientPlan, Ending, Layering, Leaving, Plan, RequestPlan
from tests.simulation.question import FILES, Fate, Framing, Question, Reading

__all__ = ["plan_of"]

T = TypeVar("T")

_METHODS = ("GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "DELETE", "OPTIONS", "BREW")

# Those that are refused with the limits that every plan has room for, and in HTTP/1.
_BAD_HEADS = [
    bad
    for bad in bad_heads.HEADS
    if bad.limits is DEFAULT and bad.rejection.name != "HTTP2_PREFACE"
]
_BAD_BODIES = [bad for bad in bad_bodies.CHUNKS if bad.limits is DEFAULT]


def plan_of(seed: int) -> Plan:
    """Return what `seed` decides."""
    dice = random.Random(f"{seed}/plan")
    gentle = dice.random() < 0.3
    limits = Limits() if gentle else _limits(dice)
    stops = not gentle and dice.random() < 0.4
    count = dice.choice((1, 1, 2, 3, 4, 6))
    middleware: Sequence[Layering] = ()
    if dice.random() >= 0.4:
        middleware = _middleware(dice, gentle=gentle)
    slow = any(layer.options.get("burst_bytes") == 1 for layer in middleware)
    return Plan(
        seed=seed,
        interface=dice.choice(("asgi", "native")),
        limits=limits,
        middleware=middleware,
        speaks_tls=dice.random() < 0.15,
        clients=[
            _Dice(seed, number).client(gentle=gentle, slow=slow) for number in range(1, count + 1)
        ],
        stops_at=dice.uniform(0, dice.choice((0.5, 3.0, 20.0))) if stops else math.inf,
        aborts=stops and dice.random() < 0.2,
        drain_seconds=dice.choice((0.05, 1.0, 5.0, 30.0)),
        notice_seconds=dice.choice((0.0, 0.0, 1.0)),
    )


def _limits(dice: random.Random) -> Limits:
    pick = dice.choice
    return Limits(
        max_connections=pick((*[None] * 8, 1, 2)),
        max_requests_per_connection=pick((*[None] * 8, 1, 3)),
        max_pipelined_requests=pick((64, 64, 1, 2)),
        max_connection_age_seconds=pick((*[math.inf] * 8, 0.5, 5.0)),
        max_request_buffer_bytes=pick((1 << 20, 1 << 20, 32 * 1024)),
        max_response_buffer_bytes=pick((64 * 1024, 64 * 1024, 1000, 1)),
        max_request_headers_bytes=pick((*[32 * 1024] * 5, 500)),
        max_request_line_bytes=pick((*[8192] * 8, 230)),
        max_request_body_bytes=pick((30_000_000, None, 100_000, 1500)),
        keep_alive_seconds=pick((130.0, 130.0, 130.0, 5.0, 0.5)),
        request_headers_seconds=pick((30.0, 30.0, 30.0, 5.0, 0.5)),
        request_body_drain_seconds=pick((5.0, 5.0, 0.2)),
        min_request_body_bytes_per_second=pick((240.0, 240.0, None, 5000.0)),
        request_body_grace_seconds=pick((5.0, 5.0, 0.5)),
        min_response_bytes_per_second=pick((240.0, 240.0, None, 5000.0)),
        response_grace_seconds=pick((5.0, 5.0, 0.5)),
        max_request_seconds=pick((*[math.inf] * 6, 10.0, 0.5)),
        linger_seconds=pick((2.0, 2.0, 0.1)),
    )


def _middleware(dice: random.Random, *, gentle: bool) -> Sequence[Layering]:
    pick = dice.choice
    layers = [
        Layering(name="pass_through"),
        Layering(name="wiretap"),
        Layering(
            name="throttle",
            options={
                "read_bytes_per_second": pick((None, 3000.0, 100_000.0)),
                "write_bytes_per_second": pick((20_000.0, 1e6)),
                "burst_bytes": pick((None, None, 1, 500)),
            },
        ),
        Layering(name="idle", options={"seconds": 600.0 if gentle else pick((0.5, 5.0, 600.0))}),
    ]
    chosen = dice.sample(layers, dice.randint(1, len(layers)))
    if not gentle and dice.random() < 0.2:
        options: dict[str, object] = {
            "max_connections": pick((1, 2)),
            "when_full": pick(("refuse", "wait")),
        }
        chosen.insert(0, Layering(name="admission", options=options))
    return chosen


class _Dice(random.Random):
    """What decides about one client, and about no other."""

    def __init__(self, seed: int, number: int) -> None:
        super().__init__(f"{seed}/client {number}")
        self._number = number
        self._network = Network.seeded(f"{seed}/{number}", faults=True)
        self._sound_network = Network.seeded(f"{seed}/{number}", faults=False)

    def one_in(self, count: int) -> bool:
        return self.randrange(count) == 0

    def client(self, *, gentle: bool, slow: bool) -> ClientPlan:
        """Draw a client; a gentle one does nothing wrong, and its network neither."""
        network = self._sound_network if gentle else self._network
        wire = None if self.one_in(3) else network.wire_of(1)
        if _is_slow(wire, 65536) and not self.one_in(3):
            wire = network.wire_of(2)
        pause_at_bytes = self.choice((*[65536] * 5, *[4096] * 3, 100))
        requests = self.requests(gentle=gentle, slow=slow or _is_slow(wire, pause_at_bytes))
        stops_reading = not gentle and self.one_in(8)
        leaves = not gentle and self.one_in(6)
        return ClientPlan(
            number=self._number,
            starts_at=self.choice((0.0, 0.0, 0.01, 1.0, self.uniform(0, 8))),
            wire=wire,
            pause_at_bytes=pause_at_bytes,
            requests=requests,
            most_in_flight=self.choice((1, 1, 2, 5, 100)),
            gap_seconds=self.choice((0.0, 0.0, 0.05, 1.0)),
            read_pause_seconds=0.0 if gentle else self.choice((0.0, 0.0, 0.0, 0.01, 0.5)),
            stops_reading_after_bytes=self.randrange(2000) if stops_reading else None,
            stops_reading_seconds=self.choice((1.0, 100.0)),
            ending=self.choice(tuple(Ending)),
            leaves_after_seconds=self.uniform(0, self.choice((0.1, 2.0, 30.0)))
            if leaves
            else math.inf,
            leaves=self.choice((Leaving.ABORTS, Leaving.CLOSES, Leaving.HALF_CLOSES)),
        )

    def requests(self, *, gentle: bool, slow: bool) -> Sequence[RequestPlan]:
        """Draw what a client sends; little, where it goes slowly."""
        count = self.choice((1, 2, 3) if slow else (0, 1, 2, 4, 8, 16))
        most_bytes = 700 if slow else self.choice((100, 3000, 100_000))
        requests: list[RequestPlan] = []
        for number in range(1, count + 1):
            request = self.request(
                f"c{self._number}r{number}", most_bytes, gentle=gentle, thinks=not (gentle or slow)
            )
            requests.append(request)
            if request.rejection is not None or request.leaves_after_bytes is not None:
                break
        return requests

    def request(self, name: str, most_bytes: int, *, gentle: bool, thinks: bool) -> RequestPlan:
        """Draw a request, and the question in it."""
        method = self.choice(_METHODS)
        http11 = not self.one_in(12)
        body_bytes: int | None = None
        if method in ("POST", "PUT") or self.one_in(10):
            body_bytes = self.choice((0, 1, self.randrange(most_bytes), most_bytes))
        chunks = self.sizes(body_bytes or 0) if http11 and self.one_in(2) else []
        question = self.question(
            name, method, most_bytes, has_body=bool(body_bytes), gentle=gentle, thinks=thinks
        )
        paced = self.one_in(2)
        request = RequestPlan(
            question=question,
            method=method,
            http11=http11,
            body_bytes=body_bytes,
            chunks=chunks,
            trailers=[(b"x-sum", name.encode())] if chunks and self.one_in(3) else (),
            expects_continue=bool(body_bytes) and http11 and self.one_in(4),
            takes_trailers=self.one_in(2),
            connection=self.choice((*[""] * 10, "keep-alive", "close")),
            padding_bytes=0 if gentle else self.choice((0, 0, 0, 300)),
            pieces=[self.choice((1, 50, 1000)) for _ in range(self.randint(0, 4))],
            pause_seconds=self.choice((0.0, 0.001, 0.05, 0.05 if gentle else 2.0))
            if paced
            else 0.0,
        )
        return request if gentle else self.spoiled(request)

    def spoiled(self, request: RequestPlan) -> RequestPlan:
        """Make something wrong with a request, now and then."""
        if self.one_in(25):
            bad: Bad = self.choice(_BAD_HEADS)
            return attrs.evolve(request, bad_head=bad.sent, rejection=bad.rejection)
        if self.one_in(25):
            bad = self.choice(_BAD_BODIES)
            question = attrs.evolve(
                request.question,
                reading=self.choice((Reading.BEFORE, Reading.NONE)),
                watches=False,
            )
            _, _, chunks = bad.sent.partition(b"\r\n\r\n")
            return attrs.evolve(
                request, question=question, http11=True, bad_body=chunks, rejection=bad.rejection
            )
        if self.one_in(25) or request.question.fate is Fate.WAITS:
            most = len(request.head) + len(request.framed_body)
            after, leaves = self.randrange(most + 1), self.choice(tuple(Leaving))
            if request.question.fate is Fate.WAITS:  # for the client, which it has to hear of
                after, leaves = most, self.choice((Leaving.ABORTS, Leaving.CLOSES))
            return attrs.evolve(request, leaves_after_bytes=after, leaves=leaves)
        return request

    def question(
        self, name: str, method: str, most_bytes: int, *, has_body: bool, gentle: bool, thinks: bool
    ) -> Question:
        """Draw what the oracle is asked."""
        reading = (
            self.choice(tuple(Reading)) if has_body else self.choice((Reading.NONE, Reading.AFTER))
        )
        framing = self.choice(tuple(Framing))
        if framing in FILES and FILES[framing][1] > 2 * most_bytes:
            framing = Framing.LENGTH
        if reading is Reading.ECHO:
            framing = Framing.OPEN
        pieces = self.sizes(self.choice((0, 1, self.randrange(most_bytes), most_bytes)))
        status = self.choice((200, 200, 200, 200, 201, 404, 500))
        if not pieces and framing is Framing.WHOLE and self.one_in(2):
            status, reading = self.choice((204, 304)), Reading.NONE
        watches = reading is Reading.NONE and self.one_in(3)
        fates = [Fate.COMPLETES]
        if not gentle and self.one_in(6):
            fates += [Fate.RAISES_BEFORE, Fate.RAISES_AFTER, Fate.LEAVES_BEFORE]
            fates += [] if watches else [Fate.WAITS]
            if framing in (Framing.LENGTH, Framing.OPEN) and reading is not Reading.ECHO:
                if len(pieces) > 1 and method != "HEAD":
                    fates += [Fate.RAISES_WITHIN, Fate.LEAVES_WITHIN]
                if framing is Framing.LENGTH and pieces:
                    fates += [Fate.SAYS_TOO_MUCH, Fate.SAYS_TOO_LITTLE]
        return Question(
            id=name,
            reading=reading,
            framing=framing,
            fate=self.choice(fates),
            status=status,
            pieces=pieces,
            pause_seconds=self.choice((0.0, 0.0, 0.01, 0.3, 8.0 if thinks else 0.3)),
            hints=self.choice((0, 0, 0, 1, 3)),
            trailers=framing is Framing.OPEN and self.one_in(2),
            closes=self.one_in(40),
            watches=watches,
            raises_when_gone=self.one_in(2),
        )

    def sizes(self, total: int) -> list[int]:
        """Cut a number of bytes into a few parts, none of which is empty."""
        sizes: list[int] = []
        while total:
            size = total if len(sizes) == 5 else self.randint(1, total)
            sizes.append(size)
            total -= size
        return sizes


def _is_slow(wire: Wire | None, pause_at_bytes: int) -> bool:
    """Tell whether every byte takes long, in this simulation or in our own time."""
    ways = () if wire is None else (wire.up, wire.down)
    return pause_at_bytes < 1000 or any(_is_slow_way(way) for way in ways)


def _is_slow_way(way: Direction) -> bool:
    return way.window_bytes < 1000 or (way.segment_bytes is not None and way.segment_bytes[1] < 100)
