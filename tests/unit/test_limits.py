import math
from typing import Any

import attrs
import pytest

from kestrel_core.limits import Limits


def test_the_defaults_are_kestrels() -> None:
    limits = Limits()
    assert limits.max_connections is None
    assert limits.max_request_buffer_bytes == 1_048_576
    assert limits.max_response_buffer_bytes == 65_536
    assert limits.max_request_line_bytes == 8_192
    assert limits.max_request_headers_bytes == 32_768
    assert limits.max_request_header_count == 100
    assert limits.max_request_body_bytes == 30_000_000
    assert limits.keep_alive_seconds == 130
    assert limits.request_headers_seconds == 30
    assert limits.request_body_drain_seconds == 5
    assert limits.max_upgraded_connections is None
    assert limits.min_request_body_bytes_per_second == 240
    assert limits.request_body_grace_seconds == 5
    assert limits.min_response_bytes_per_second == 240
    assert limits.response_grace_seconds == 5


def test_what_kestrel_has_not_is_off() -> None:
    limits = Limits()
    assert limits.max_requests_per_connection is None
    assert limits.max_connection_age_seconds == math.inf
    assert limits.max_request_seconds == math.inf


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Limits)])
def test_no_limit_may_be_negative(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} must be"):
        Limits(**{field: -1})


@pytest.mark.parametrize("field", [field.name for field in attrs.fields(Limits)])
def test_only_bodies_and_upgrades_may_be_limited_to_nothing(field: str) -> None:
    settings: dict[str, Any] = {field: 0}
    if field in ("max_request_body_bytes", "max_upgraded_connections"):
        assert getattr(Limits(**settings), field) == 0
    else:
        with pytest.raises(ValueError, match=f"{field} must be above zero"):
            Limits(**settings)


@pytest.mark.parametrize("field", ["request_body_drain_seconds", "linger_seconds"])
def test_what_bounds_the_end_of_a_connection_is_finite(field: str) -> None:
    settings: dict[str, Any] = {field: math.inf}
    with pytest.raises(ValueError, match=f"{field} must be above zero and finite, not inf"):
        Limits(**settings)


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="keep_alive_seconds must be above zero, not nan"):
        Limits(keep_alive_seconds=math.nan)


def test_unlimited_is_none_or_infinity() -> None:
    limits = Limits(max_connections=None, max_request_body_bytes=None, keep_alive_seconds=math.inf)
    assert limits.max_request_body_bytes is None
    assert limits.keep_alive_seconds == math.inf


def test_the_buffer_must_hold_a_head() -> None:
    with pytest.raises(ValueError, match="max_request_buffer_bytes must be at least"):
        Limits(max_request_buffer_bytes=1000)
    with pytest.raises(ValueError, match="32769"):
        Limits(max_request_buffer_bytes=32_768, max_request_headers_bytes=32_769)
    with pytest.raises(ValueError, match="40000"):
        Limits(max_request_buffer_bytes=32_768, max_request_line_bytes=40_000)
    Limits(max_request_buffer_bytes=32_768)


def test_limits_are_a_value() -> None:
    assert Limits(max_connections=3) == Limits(max_connections=3)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().max_connections = 3  # type: ignore[misc]  # that is the point
