"""Fuzz target: a client's bytes to a whole server, in pieces, and everything that comes back.

Whatever a client sends: the server logs no error, ends the connection in time, and answers in HTTP,
each request that it serves once and in order. It serves nothing that h11 refuses, understands the
same as h11, and understands it alike in whichever pieces it comes.
"""

import attrs

from kestrel_protocols.http.rejection import HTTP2_REFUSAL
from tests.fuzz.application import Served
from tests.fuzz.conversation import Conversation, Option, converse
from tests.fuzz.delivery import Delivery
from tests.fuzz.h11_opinion import as_h11_has_them, h11_opinion
from tests.fuzz.responses import responses_in

__all__ = ["check"]

# What the server may say by itself, and then ends the connection.
REJECTIONS = {400, 405, 408, 413, 414, 431, 501, 505}

# With these options it depends on the moment what is served.
DECIDED_BY_TIME = Option.RESETS | Option.DAWDLES | Option.SIPS


def check(data: bytes) -> None:
    """Converse with a server, and judge what was served and what was answered."""
    delivery = Delivery.of(data, option_count=1)
    conversation = converse(delivery)
    if not conversation.tolerated:
        lenient = bool(delivery.options[0] & Option.LENIENT)
        check_requests(delivery.text, conversation.served, lenient=lenient)
    check_responses(conversation)
    if delivery.sizes and not delivery.options[0] & DECIDED_BY_TIME:
        whole = converse(attrs.evolve(delivery, sizes=b""))
        assert requests_of(conversation) == requests_of(whole)


def requests_of(conversation: Conversation) -> list[tuple[object, ...]]:
    """Return what is to be the same in whichever pieces it came."""
    return [
        (each.exchange.method, each.exchange.target, each.fields, each.complete and each.body)
        for each in conversation.served
        if "o" not in each.exchange.path
    ]


def check_requests(text: bytes, served: list[Served], *, lenient: bool = False) -> None:
    """Compare what was served with what h11 finds in the same bytes."""
    blank_lines = (b"\r\n", b"\n") if lenient else b"\r\n"
    rest = text
    for number, each in enumerate(served):
        exchange = each.exchange
        while rest.startswith(blank_lines):
            rest = rest[rest.index(b"\n") + 1 :]
        opinion = h11_opinion(rest)
        assert opinion is not None, f"h11 refuses what was served: {rest!r}"
        assert opinion.method == exchange.method.encode()
        assert opinion.target == exchange.target
        assert opinion.version == exchange.http_version.encode()
        assert as_h11_has_them(opinion.fields) == as_h11_has_them(each.fields)
        if each.complete:
            assert opinion.complete, "h11 finds no such body"
            assert opinion.body == each.body
            assert opinion.trailers == exchange.trailers
        else:
            assert opinion.body.startswith(each.body)
        if not opinion.complete:
            assert number == len(served) - 1, "h11 finds no end of what was served"
        rest = opinion.rest


def check_responses(conversation: Conversation) -> None:
    """See that each request has its own answer, in order, and that only the last may be another."""
    served = conversation.served
    received = conversation.received.removesuffix(HTTP2_REFUSAL)
    refusals = int(received != conversation.received)  # the server's last word, if it is one
    responses = responses_in(received, [each.exchange.method for each in served])
    for number, response in enumerate(responses):
        last = number == len(responses) - 1
        assert response.complete or (last and conversation.reset)
        assert not (last and refusals and response.closes)
        each = served[number] if number < len(served) else None
        if each is None or each.answer is None or response.status in REJECTIONS:
            assert last
            assert response.status in REJECTIONS or not response.complete
            assert response.closes
            continue
        assert response.status in (200, 204)
        assert (b"x-number", b"%d" % number) in response.fields
        if response.complete and each.exchange.method != "HEAD":
            assert response.body == each.answer
    if not conversation.reset:
        assert len(served) <= len(responses) + refusals <= len(served) + 1
