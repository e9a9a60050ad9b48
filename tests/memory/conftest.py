"""HTTP/1 over the in-memory transport: each test with whole deliveries, byte by byte, and more.

The ways through middleware show that what holds for HTTP holds there, too.
"""

from collections.abc import Callable, Generator

import pytest

from tests.http1_site import ServerLog, Serving, serving, watch_log
from tests.ways import STRAIGHT, Way, through_a_layer, through_a_wiretap, through_tls

_WAYS: dict[str, Callable[[], Way]] = {
    "through a layer": through_a_layer,
    "through a wiretap": through_a_wiretap,
    "through tls": through_tls,
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what makes no sense through TLS."""
    senseless = [item for item in items if _is_senseless(item)]
    if senseless:
        config.hook.pytest_deselected(items=senseless)
        items[:] = [item for item in items if item not in set(senseless)]


def _is_senseless(item: pytest.Item) -> bool:
    return "through tls" in item.name and item.get_closest_marker("counts_bytes") is not None


@pytest.fixture
def log() -> Generator[ServerLog]:
    with watch_log() as log:
        yield log


# On one version of Python these say all they can; TLS comes with each.
_SAME_EVERYWHERE = ["through a layer", "through a wiretap"]


@pytest.fixture(
    params=[
        "at once",
        "byte by byte",
        "through tls",
        *(pytest.param(way, marks=pytest.mark.same_everywhere) for way in _SAME_EVERYWHERE),
    ],
    name="serving",
)
def serving_(request: pytest.FixtureRequest) -> Serving:
    way = _WAYS[request.param]() if request.param in _WAYS else STRAIGHT
    return serving(byte_by_byte=request.param == "byte by byte", way=way)
