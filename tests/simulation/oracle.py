"""The application: it answers what it is asked, and remembers each request that it saw.

Theory of operation. `Oracle.answer` plays the answer to a `Question` over a `Conversation`, which is
the same for all interfaces. A `Sighting` says what it saw of a request and how that ended; the end
is noted when the oracle knows it: it completed when the last call returned, and it was told that the
client is gone when a call raised `Gone`.
"""

import contextlib
from abc import ABC, abstractmethod
from enum import Enum
from pathlib import Path

import attrs
import trio

from tests.simulation.question import FILES, Fate, Framing, Question, Reading, pattern

__all__ = [
    "Conversation",
    "Ended",
    "Fields",
    "Gone",
    "Oracle",
    "Planned",
    "Sighting",
    "write_files",
]

Fields = list[tuple[bytes, bytes]]


class Gone(Exception):
    """The client is gone, or its request turned out to be wrong."""


class Planned(Exception):
    """What the oracle raises on purpose; its text is the request's id."""


class Ended(Enum):
    """How the oracle came to the end of a request."""

    OPEN = "open"
    COMPLETED = "completed"
    """Its answer was taken to the last byte; it may have raised after that."""
    GONE = "gone"
    RAISED = "raised"
    LEFT = "left"
    """It returned on purpose without an answer, or in the middle of it."""
    CANCELLED = "cancelled"


@attrs.define(kw_only=True)
class Sighting:
    """What the oracle saw of one request."""

    question: Question
    client: str
    method: str
    http_version: str
    began_at: float
    body: bytearray = attrs.field(factory=bytearray)
    body_complete: bool = False
    trailers: Fields = attrs.field(factory=list[tuple[bytes, bytes]])
    ended: Ended = Ended.OPEN
    ended_at: float | None = None
    cancelled_at: float | None = None
    """When its call was cancelled, if it was; that may be after it was done."""
    told_gone: bool = False
    failed: bool = False
    """Whether it did on purpose what the server has to report as a failure."""

    def failure_may_be_untold(self, input_ended: bool) -> bool:
        """Tell whether the oracle failed, but maybe when it had just been told of the client's end.

        Then the server does not report it; who of the two tasks was first, nobody can tell.
        """
        return self.failed and self.question.watches and input_ended


class Conversation(ABC):
    """A request and its answer, on any interface; what fails for the client's sake raises `Gone`."""

    def __init__(self, *, client: str, method: str, path: str, query: str, version: str) -> None:
        self.client = client
        self.method = method
        self.path = path
        self.query = query
        self.http_version = version

    @abstractmethod
    async def receive(self) -> tuple[bytes, bool]:
        """Return a piece of the request's body, and whether it was the last."""

    @property
    @abstractmethod
    def trailers(self) -> Fields:
        """Those of the request, once its body is complete."""

    @abstractmethod
    async def wait_gone(self) -> None:
        """Drop the rest of the request's body; wait until the client is gone, or has its answer."""

    @abstractmethod
    async def inform(self, link: bytes) -> None:
        """Send an informational response with a Link."""

    @abstractmethod
    async def respond(self, status: int, fields: Fields, body: bytes) -> None:
        """Answer in one go."""

    @abstractmethod
    async def start(self, status: int, fields: Fields, *, trailers: bool) -> None:
        """Begin an answer, which is to end with trailers or not."""

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send a piece of the answer's body."""

    @abstractmethod
    async def write_file(self, path: Path) -> None:
        """Send a whole file as the answer's body."""

    @abstractmethod
    async def finish(self, trailers: Fields) -> None:
        """End the answer, which was not finished by `write_file`."""


def write_files(directory: Path) -> None:
    """Write the files that oracles send."""
    for name, size in FILES.values():
        (directory / name).write_bytes(pattern(name, size))


class Oracle:
    """Answers; `directory` has the files that `write_files` wrote."""

    def __init__(self, directory: Path) -> None:
        self.sightings: list[Sighting] = []
        """All requests that it saw, in that order."""
        self._directory = directory

    async def answer(self, talk: Conversation) -> None:
        """Answer one request.

        Raises:
            Gone: the client is, and the question wants it raised.
            Planned: the question wants it.
            ResponseError: what the question wants is no sound response.
        """
        question = Question.of(talk.path, talk.query)
        sighting = Sighting(
            question=question,
            client=talk.client,
            method=talk.method,
            http_version=talk.http_version,
            began_at=trio.current_time(),
        )
        self.sightings.append(sighting)
        try:
            if question.watches:
                await self._play_and_watch(talk, sighting)
            else:
                await self._play(talk, sighting)
        except Gone as error:
            self._fail(sighting, error)
            if question.raises_when_gone:
                raise
        except Exception as error:
            self._fail(sighting, error)
            raise
        except BaseException:
            sighting.cancelled_at = trio.current_time()
            self._end(sighting, Ended.CANCELLED)
            raise

    def _fail(self, sighting: Sighting, error: Exception) -> None:
        if isinstance(error, Gone):
            sighting.told_gone = True
            self._end(sighting, Ended.GONE)
        elif not sighting.failed:
            sighting.failed = not sighting.told_gone
            self._end(sighting, Ended.RAISED)

    def _end(self, sighting: Sighting, ended: Ended) -> None:
        if sighting.ended is Ended.OPEN:
            sighting.ended = ended
            sighting.ended_at = trio.current_time()

    async def _play_and_watch(self, talk: Conversation, sighting: Sighting) -> None:
        """Play, but give up when the client is gone, as frameworks do."""
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await talk.wait_gone()
                if sighting.ended is Ended.OPEN:
                    self._fail(sighting, Gone())
                    nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                await self._play(talk, sighting)
            except Exception as error:  # raised below, without a group around it
                failure = error
                self._fail(sighting, failure)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if sighting.told_gone:
            raise Gone

    async def _play(self, talk: Conversation, sighting: Sighting) -> None:
        question = sighting.question
        if question.fate is Fate.RAISES_BEFORE:
            raise Planned(question.id)
        if question.fate is Fate.LEAVES_BEFORE:
            await trio.sleep(question.pause_seconds)
            self._leave(sighting)
            return
        if question.reading is Reading.BEFORE:
            while not sighting.body_complete:
                await self._read(talk, sighting)
        elif question.reading is Reading.ONE_PIECE:
            await self._read(talk, sighting)
        if question.fate is Fate.WAITS:
            await talk.wait_gone()
            raise Gone
        for link in question.links:
            await trio.sleep(question.pause_seconds)
            await talk.inform(link)
        await self._say(talk, sighting)
        if sighting.ended is not Ended.OPEN:
            return
        self._end(sighting, Ended.COMPLETED)
        if question.fate is Fate.RAISES_AFTER:
            raise Planned(question.id)
        if question.reading is Reading.AFTER:
            with contextlib.suppress(Gone):
                await self._read(talk, sighting)

    async def _read(self, talk: Conversation, sighting: Sighting) -> bytes:
        await trio.sleep(sighting.question.pause_seconds)
        data, is_last = await talk.receive()
        sighting.body += data
        if is_last:
            sighting.trailers = talk.trailers
            sighting.body_complete = True
        return data

    def _leave(self, sighting: Sighting) -> None:
        sighting.failed = not sighting.told_gone
        self._end(sighting, Ended.LEFT)

    async def _say(self, talk: Conversation, sighting: Sighting) -> None:
        """Answer, as far as the question wants it."""
        question = sighting.question
        fields = question.fields
        if question.framing is Framing.WHOLE:
            await trio.sleep(question.pause_seconds)
            body = b"".join(question.parts(bytes(sighting.body)))
            await talk.respond(question.status, fields, body)
            return
        if question.framing in FILES:
            await talk.start(question.status, fields, trailers=False)
            await talk.write_file(self._directory / FILES[question.framing][0])
            return
        parts = question.parts(bytes(sighting.body))
        if question.framing is Framing.LENGTH:
            length = sum(map(len, parts))
            length += {Fate.SAYS_TOO_MUCH: -1, Fate.SAYS_TOO_LITTLE: 1}.get(question.fate, 0)
            fields.append((b"content-length", b"%d" % length))
        await talk.start(question.status, fields, trailers=question.trailers)
        if question.reading is Reading.ECHO:
            while not sighting.body_complete:
                data = await self._read(talk, sighting)
                if data:
                    await talk.write(data)
        else:
            for number, part in enumerate(parts):
                await trio.sleep(question.pause_seconds)
                await talk.write(part)
                if number == 0 and question.fate is Fate.RAISES_WITHIN:
                    raise Planned(question.id)
                if number == 0 and question.fate is Fate.LEAVES_WITHIN:
                    self._leave(sighting)
                    return
        await talk.finish(question.last_fields)
