"""What a request asks of the oracle, and what the oracle is to answer: a pure function of the request.

Everything is in the request's target, so that whoever has seen the request knows the answer.
"""

import hashlib
import random
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from urllib.parse import parse_qsl, urlencode

import attrs

__all__ = ["FILES", "Answer", "Fate", "Framing", "Question", "Reading", "pattern"]


class Reading(Enum):
    """What the oracle does about the request's body."""

    NONE = "none"
    BEFORE = "before"
    """It reads all of it, and answers with its digest."""
    ONE_PIECE = "one_piece"
    """It reads one piece, and leaves the rest."""
    ECHO = "echo"
    """It answers with the body, as that comes."""
    AFTER = "after"
    """It answers, and then asks for the body."""


class Framing(Enum):
    """How the oracle hands over the body of its answer."""

    WHOLE = "whole"
    """In one call."""
    LENGTH = "length"
    """Piece by piece, with a Content-Length."""
    OPEN = "open"
    """Piece by piece, without."""
    SMALL_FILE = "small_file"
    LARGE_FILE = "large_file"


class Fate(Enum):
    """How the oracle ends."""

    COMPLETES = "completes"
    RAISES_BEFORE = "raises_before"
    RAISES_WITHIN = "raises_within"
    """Behind the first piece of the body, though more was announced."""
    RAISES_AFTER = "raises_after"
    LEAVES_BEFORE = "leaves_before"
    """It returns without an answer."""
    LEAVES_WITHIN = "leaves_within"
    SAYS_TOO_MUCH = "says_too_much"
    """It sends more than its Content-Length."""
    SAYS_TOO_LITTLE = "says_too_little"
    WAITS = "waits"
    """It never answers, but waits until the client is gone."""


FILES: dict[Framing, tuple[str, int]] = {
    Framing.SMALL_FILE: ("small", 1000),
    Framing.LARGE_FILE: ("large", 150_000),
}
"""The names of the files that the oracle sends, and how many bytes of `pattern(name)` are in them."""


@lru_cache(maxsize=256)
def pattern(name: str, size: int) -> bytes:
    """Return so many bytes, in which nothing repeats itself, and which nothing else has."""
    return random.Random(name).randbytes(size)


@attrs.frozen(kw_only=True)
class Question:
    """What one request asks."""

    id: str
    """Unique in a run: the client's number and the request's."""
    reading: Reading = Reading.NONE
    framing: Framing = Framing.WHOLE
    fate: Fate = Fate.COMPLETES
    status: int = 200
    pieces: Sequence[int] = attrs.field(default=(5,), converter=tuple[int, ...])
    """The sizes of the parts of the body that it answers with."""
    pause_seconds: float = 0.0
    """Before each part, and before each part that it reads."""
    hints: int = 0
    """How many informational responses come first."""
    trailers: bool = False
    closes: bool = False
    """Whether the answer says that it is the last on its connection."""
    watches: bool = False
    """Whether it watches for the client's going meanwhile, and then gives up."""
    raises_when_gone: bool = False
    """Whether it raises when it hears that the client is gone, instead of returning."""

    @property
    def target(self) -> str:
        """The request's target."""
        given = {
            "reading": self.reading.value,
            "framing": self.framing.value,
            "fate": self.fate.value,
            "status": self.status,
            "pieces": "-".join(map(str, self.pieces)),
            "pause": self.pause_seconds,
            "hints": self.hints,
            "trailers": int(self.trailers),
            "closes": int(self.closes),
            "watches": int(self.watches),
            "raises": int(self.raises_when_gone),
        }
        return f"/{self.id}?{urlencode(given)}"

    @classmethod
    def of(cls, path: str, query: str) -> "Question":
        """Return what a request with that path and query asks."""
        given = dict(parse_qsl(query, strict_parsing=True, keep_blank_values=True))
        return cls(
            id=path.removeprefix("/"),
            reading=Reading(given["reading"]),
            framing=Framing(given["framing"]),
            fate=Fate(given["fate"]),
            status=int(given["status"]),
            pieces=tuple(int(size) for size in given["pieces"].split("-") if size),
            pause_seconds=float(given["pause"]),
            hints=int(given["hints"]),
            trailers=given["trailers"] == "1",
            closes=given["closes"] == "1",
            watches=given["watches"] == "1",
            raises_when_gone=given["raises"] == "1",
        )

    def parts(self, body: bytes) -> list[bytes]:
        """Return the parts of the answer's body, as it is to be if nothing goes wrong.

        `body` is the request's; what an echo sends is that, in whichever parts it came.
        """
        if self.framing in FILES:
            return [pattern(*FILES[self.framing])]
        if self.reading is Reading.ECHO:
            return [body]
        whole = pattern(self.id, sum(self.pieces))
        parts: list[bytes] = []
        for size in self.pieces:
            parts.append(whole[:size])
            whole = whole[size:]
        if self.reading is Reading.BEFORE and parts:
            digest = hashlib.sha256(body).hexdigest()
            parts[0] = f"{len(body)} {digest} ".encode() + parts[0]
        return parts

    @property
    def fields(self) -> list[tuple[bytes, bytes]]:
        """The fields of the answer that are the oracle's own."""
        fields = [(b"x-request", self.id.encode()), (b"content-type", b"application/oracle")]
        if self.closes:
            fields.append((b"connection", b"close"))
        return fields

    @property
    def links(self) -> list[bytes]:
        """What the informational responses say, one each."""
        return [b"</%b-%d>; rel=preload" % (self.id.encode(), n) for n in range(self.hints)]

    @property
    def last_fields(self) -> list[tuple[bytes, bytes]]:
        """The trailers of the answer."""
        return [(b"x-last", self.id.encode())] if self.trailers else []


@attrs.frozen(kw_only=True)
class Answer:
    """What a client gets that asked a question, if nothing comes in between."""

    status: int
    body: bytes
    links: list[bytes]
    trailers: list[tuple[bytes, bytes]]

    @classmethod
    def to(
        cls, question: Question, *, method: str, body: bytes, http11: bool, takes_trailers: bool
    ) -> "Answer":
        """Return the answer to `question`, asked by that method with `body`."""
        has_body = method != "HEAD" and question.status not in (204, 304)
        chunked = has_body and http11 and question.framing is Framing.OPEN
        return cls(
            status=question.status,
            body=b"".join(question.parts(body)) if has_body else b"",
            links=question.links if http11 else [],
            trailers=question.last_fields if chunked and takes_trailers else [],
        )
