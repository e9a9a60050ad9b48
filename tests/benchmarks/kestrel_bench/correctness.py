"""The check that comes before the clock: a server must answer rightly to be measured at all."""

import http.client
import ssl
from collections.abc import Collection, Iterator

from attrs import frozen

from applications import PIECE, PLAINTEXT_BODY, TEN_KIB_BODY
from kestrel_bench.client_socket import CIPHER, connect
from kestrel_bench.static_files import STATIC_FILES

_ANSWER_SECONDS = 5.0


@frozen
class _Check:
    path: str
    sent: bytes | None
    expected: bytes
    query: str = ""


_ECHOED = TEN_KIB_BODY[::-1]
_DOWNLOADED = PIECE * 2 + PIECE[:1000]
_LENGTH = b"%d" % len(_ECHOED)

_CHECKS = (
    _Check("/", None, PLAINTEXT_BODY),
    _Check("/10k", None, TEN_KIB_BODY),
    _Check("/echo", _ECHOED, _ECHOED),
    _Check("/upload", _ECHOED, _LENGTH),
    _Check("/collect", _ECHOED, _LENGTH),
    _Check("/slow-upload", _ECHOED, _LENGTH),
    _Check("/download", None, _DOWNLOADED, query=f"?bytes={len(_DOWNLOADED)}"),
    *(_Check(f"/{name}", None, content) for name, content in STATIC_FILES.items()),
)


def answers_at_all(port: int, *, tls: bool) -> bool:
    """Whether a request on the port gets any response."""
    try:
        _exchange(port, "GET", "/", None, tls=tls)
    except (OSError, http.client.HTTPException):
        return False
    return True


def wrong_answers(port: int, paths: Collection[str], *, tls: bool) -> Iterator[str]:
    """Describes each of the paths that is not answered with 200 and the right body.

    With TLS, a cipher that is not the same for all is wrong, too.
    """
    for check in _CHECKS:
        if check.path not in paths:
            continue
        method = "GET" if check.sent is None else "POST"
        try:
            status, body = _exchange(port, method, check.path + check.query, check.sent, tls=tls)
        except (OSError, http.client.HTTPException) as error:
            yield f"{method} {check.path} failed: {error!r}"
            continue
        if (status, body) != (200, check.expected):
            yield (
                f"{method} {check.path} answered {status} with {len(body)} bytes that are not "
                "expected"
            )


def _exchange(
    port: int, method: str, path: str, body: bytes | None, *, tls: bool
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    try:
        connection.sock = connect(port, tls=tls, seconds=_ANSWER_SECONDS)
        if isinstance(connection.sock, ssl.SSLSocket):
            agreed = connection.sock.cipher()
            if agreed is None or agreed[0] != CIPHER:
                raise http.client.HTTPException(f"the cipher is {agreed}, not {CIPHER}")
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
