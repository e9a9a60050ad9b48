"""HTTP/1 over the in-memory transport: each test with whole deliveries, and byte by byte."""

from collections.abc import Generator

import pytest

from tests.http1_site import ServerLog, Serving, serving, watch_log


@pytest.fixture
def log() -> Generator[ServerLog]:
    with watch_log() as log:
        yield log


@pytest.fixture(params=["at once", "byte by byte"], name="serving")
def serving_(request: pytest.FixtureRequest) -> Serving:
    return serving(byte_by_byte=request.param == "byte by byte")
