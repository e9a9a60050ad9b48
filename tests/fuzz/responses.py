"""A server's output as h11 understands it as a client."""

import attrs
import h11

from kestrel_protocols.http import Headers

__all__ = ["Response", "responses_in"]


@attrs.frozen
class Response:
    """One final response."""

    status: int
    fields: Headers
    body: bytes
    complete: bool
    closes: bool
    """Whether it says, or its framing implies, that nothing follows it."""


def responses_in(received: bytes, methods: list[str]) -> list[Response]:
    """Return the responses to requests with these methods; further ones are to be like GET's.

    The last may be incomplete.

    Raises:
        AssertionError: something follows a response that says it is the last.
        h11.RemoteProtocolError: it is no HTTP.
    """
    responses: list[Response] = []
    rest = received
    while rest:
        number = len(responses)
        to_head = number < len(methods) and methods[number] == "HEAD"
        response, rest = _first_in(rest, to_head=to_head)
        if response is not None:
            responses.append(response)
            assert not (response.closes and rest), rest
    return responses


def _first_in(data: bytes, *, to_head: bool) -> tuple[Response | None, bytes]:
    """Return the response at the beginning of `data`, None if its head is incomplete, and the rest."""
    connection = h11.Connection(h11.CLIENT)
    method = "HEAD" if to_head else "GET"
    connection.send(h11.Request(method=method, target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data)
    head: h11.Response | None = None
    body = bytearray()
    complete = ended = False
    while not complete:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            if not ended:
                raise
            break  # it ends too early
        if isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            complete = True
        elif event is h11.NEED_DATA:
            ended = True
            connection.receive_data(b"")
    if head is None:
        return None, b""
    fields = [(bytes(name), bytes(value)) for name, value in head.headers]
    closes = connection.their_state is not h11.DONE
    rest, _ = connection.trailing_data
    response = Response(head.status_code, fields, bytes(body), complete, closes)
    return response, bytes(rest) if complete else b""
