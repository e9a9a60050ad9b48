"""Status lines, whatever an application takes for a status."""

from http import HTTPStatus

import pytest

from kestrel_protocols.http import ResponseError
from kestrel_protocols.http1.status_line import STATUS_LINES


@pytest.fixture
def lines() -> dict[int, bytes]:
    """Make an empty table: what one test asks for is not remembered for the next."""
    return type(STATUS_LINES)()


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK"),
        (HTTPStatus.NOT_FOUND, b"HTTP/1.1 404 Not Found"),
        (100, b"HTTP/1.1 100 Continue"),
        (299, b"HTTP/1.1 299 "),
        (999, b"HTTP/1.1 999 "),
    ],
)
def test_statuses(status: int, line: bytes, lines: dict[int, bytes]) -> None:
    assert lines[status] == line
    assert lines[status] is lines[status]


@pytest.mark.parametrize("status", [99, 1000, 0, -200, True, 200.0, 200.5, "200", b"200", None])
def test_what_is_no_status(status: int, lines: dict[int, bytes]) -> None:
    with pytest.raises(ResponseError, match="is no status code"):
        lines[status]
    assert lines == {}


def test_a_float_does_not_become_the_line_of_its_integer(lines: dict[int, bytes]) -> None:
    """They are the same dictionary key."""
    with pytest.raises(ResponseError):
        lines[201.0]  # type: ignore[index]
    assert lines[201] == b"HTTP/1.1 201 Created"
