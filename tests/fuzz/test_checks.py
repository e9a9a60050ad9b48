"""The checks of the fuzz targets notice what they are there for."""

import attrs
import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conversation import Conversation, converse
from tests.fuzz.delivery import Delivery
from tests.fuzz.h11_opinion import h11_opinion
from tests.fuzz.responses import responses_in
from tests.fuzz.server import check_requests, check_responses, requests_of
from tests.raw_client import GET, post, post_chunked, request

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LAST = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def conversation(*requests: bytes) -> Conversation:
    """Say that, and then the end."""
    return converse(Delivery(b"".join(requests), b"", b"\x01"))


# Deliveries -------------------------------------------------------------------------------------


@given(st.binary(max_size=600))
def test_the_pieces_are_the_text(data: bytes) -> None:
    delivery = Delivery.of(data, option_count=1)
    pieces = list(delivery.pieces())
    assert b"".join(pieces) == delivery.text
    assert all(pieces)
    assert len(delivery.options) == 1
    taken = delivery.text + delivery.options + delivery.sizes
    assert taken.lstrip(b"\0") == data[:-1].lstrip(b"\0")


def test_an_input_ends_with_how_it_is_delivered() -> None:
    delivery = Delivery.of(b"hello, world" + b"\x07" + b"\x02\x04" + b"\x0a", option_count=1)
    assert (delivery.options, delivery.sizes) == (b"\x07", b"\x02\x04")
    assert list(delivery.pieces()) == [b"he", b"llo,", b" w", b"orld"]


# Responses --------------------------------------------------------------------------------------


def test_responses_are_taken_apart() -> None:
    one, other, last = responses_in(OK + OK + LAST, ["GET", "POST"])
    assert (one.status, one.body, one.closes) == (200, b"ok", False)
    assert one == other
    assert (last.status, last.body, last.closes) == (400, b"", True)
    head, get = responses_in(OK[:-2] + OK, ["HEAD", "GET"])
    assert (head.body, get.body) == (b"", b"ok")
    (cut,) = responses_in(OK[:-1], ["GET"])
    assert not cut.complete
    assert responses_in(OK[:20], ["GET"]) == []


def test_bytes_behind_the_last_response_are_noticed() -> None:
    with pytest.raises(AssertionError):
        responses_in(LAST + OK, [])


@pytest.mark.parametrize(
    "received", [b"nonsense\r\n\r\n", OK + b"0\r\n\r\n", OK.replace(b": ", b" :")]
)
def test_what_is_no_response_is_noticed(received: bytes) -> None:
    with pytest.raises(h11.RemoteProtocolError):
        responses_in(received, ["GET"])


# Conversations ----------------------------------------------------------------------------------


def test_a_conversation_passes() -> None:
    said = conversation(GET, post(b"hello"), request(b"connection: close"))
    assert [each.body for each in said.served] == [b"", b"hello", b""]
    check_requests(GET + post(b"hello") + request(b"connection: close"), said.served)
    check_responses(said)


@pytest.mark.parametrize(
    "other",
    [
        request(first=b"GET /other HTTP/1.1"),
        request(b"x: y"),
        post(b"hellp"),
        post(b"hello!"),
        post_chunked(b"5\r\nhello\r\n0\r\n\r\n"),
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_another_request_than_h11_reads_is_noticed(other: bytes) -> None:
    said = conversation(post(b"hello"))
    with pytest.raises(AssertionError):
        check_requests(other, said.served)


def test_a_request_more_than_h11_reads_is_noticed() -> None:
    """What smuggling is: the server serves what is inside a body."""
    said = conversation(post(GET), GET)
    smuggled = attrs.evolve(said.served[0], complete=False, body=b"")
    with pytest.raises(AssertionError):
        check_requests(post(GET + b"x")[:-1], [smuggled, said.served[1]])


@pytest.mark.parametrize(
    "received",
    [
        b"",  # nothing
        OK,  # the answer to nobody knows what
        LAST * 2,  # two last words
        LAST + OK,
    ],
)
def test_a_missing_or_wrong_answer_is_noticed(received: bytes) -> None:
    said = conversation(GET)
    with pytest.raises(AssertionError):
        check_responses(attrs.evolve(said, received=received))


def test_answers_out_of_order_are_noticed() -> None:
    said = conversation(post(b"one"), post(b"two"))
    half = len(said.received) // 2
    with pytest.raises(AssertionError):
        check_responses(attrs.evolve(said, received=said.received[half:] + said.received[:half]))


def test_other_requests_in_other_pieces_are_noticed() -> None:
    assert requests_of(conversation(GET, GET)) != requests_of(conversation(GET))
    assert requests_of(conversation(GET)) == requests_of(conversation(GET))


# h11 --------------------------------------------------------------------------------------------


def test_an_opinion() -> None:
    opinion = h11_opinion(post_chunked(b"5\r\nhello\r\n0\r\nx: y\r\n\r\n") + GET)
    assert opinion is not None
    assert (opinion.method, opinion.target, opinion.version) == (b"POST", b"/", b"1.1")
    assert (opinion.body, opinion.trailers, opinion.rest) == (b"hello", [(b"x", b"y")], GET)
    assert opinion.complete
    assert h11_opinion(b"nonsense\r\n\r\n") is None
    assert h11_opinion(GET[:-1]) is None
    cut = h11_opinion(post(b"hello")[:-1])
    assert cut is not None
    assert not cut.complete
