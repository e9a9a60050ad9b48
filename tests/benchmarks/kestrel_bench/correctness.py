"""The check that comes before the clock: a server must answer rightly to be measured at all."""

import http.client
from collections.abc import Iterator

from applications import PLAINTEXT_BODY, TEN_KIB_BODY

_ANSWER_SECONDS = 5.0


def answers_at_all(port: int) -> bool:
    """Whether a request on the port gets any response."""
    try:
        _exchange(port, "GET", "/", None)
    except (OSError, http.client.HTTPException):
        return False
    return True


def wrong_answers(port: int) -> Iterator[str]:
    """Describes each benchmark path that is not answered with 200 and the right body."""
    echoed = TEN_KIB_BODY[::-1]
    for method, path, sent, expected in (
        ("GET", "/", None, PLAINTEXT_BODY),
        ("GET", "/10k", None, TEN_KIB_BODY),
        ("POST", "/echo", echoed, echoed),
    ):
        try:
            status, body = _exchange(port, method, path, sent)
        except (OSError, http.client.HTTPException) as error:
            yield f"{method} {path} failed: {error!r}"
            continue
        if (status, body) != (200, expected):
            yield f"{method} {path} answered {status} with {len(body)} bytes that are not expected"


def _exchange(port: int, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
