"""Token buckets against a model that counts what happened in every stretch of time."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_middleware.admission.token_bucket import TokenBuckets, TokenRate

RATES = st.floats(0.01, 1e4)
BURSTS = st.integers(1, 100)


def took(buckets: TokenBuckets[str], key: str, now: float) -> bool:
    if buckets.ready_at(key) > now:
        return False
    buckets.take(key, now)
    return True


@given(RATES, BURSTS, st.floats(0, 1e6), st.lists(st.floats(0, 10), max_size=200))
def test_no_stretch_of_time_sees_more_than_the_rate_and_a_burst(
    per_second: float, burst: int, start: float, pauses: list[float]
) -> None:
    buckets = TokenBuckets[str](TokenRate(per_second, burst))
    now, times = start, list[float]()
    for pause in pauses:
        now += pause / per_second
        if took(buckets, "a", now):
            times.append(now)
    for first in range(len(times)):
        for last in range(first, len(times)):
            seconds = Fraction(times[last]) - Fraction(times[first])
            assert last - first + 1 <= burst + seconds * Fraction(per_second) + Fraction(1, 100)


@given(RATES, BURSTS)
def test_a_burst_is_there_at_first_and_not_a_token_more(per_second: float, burst: int) -> None:
    buckets = TokenBuckets[str](TokenRate(per_second, burst))
    assert [took(buckets, "a", 1000.0) for _ in range(burst + 1)] == [True] * burst + [False]


@given(RATES, BURSTS, st.floats(0, 1e6), st.integers(1, 20))
def test_at_the_time_it_tells_there_is_a_token(
    per_second: float, burst: int, now: float, times: int
) -> None:
    """Whoever waits until then need not wait again, whatever was rounded."""
    buckets = TokenBuckets[str](TokenRate(per_second, burst))
    for _ in range(burst + times):
        now = max(now, buckets.ready_at("a"))
        assert took(buckets, "a", now)


def test_keys_do_not_share() -> None:
    buckets = TokenBuckets[str](TokenRate(1, 1))
    assert [took(buckets, key, 0.0) for key in "abab"] == [True, True, False, False]


def test_full_buckets_are_forgotten_as_others_come() -> None:
    buckets = TokenBuckets[int](TokenRate(1, 1))
    for number in range(1000):
        buckets.take(number, 0.0)
    assert len(buckets) == 1000
    for number in range(600):
        buckets.take(2000 + number, 2.0)
    assert len(buckets) == 600


def test_there_is_a_most_of_them_and_the_oldest_go() -> None:
    buckets = TokenBuckets[int](TokenRate(1, 1), most_buckets=100)
    for number in range(1000):
        buckets.take(number, 0.0)
        assert len(buckets) <= 100
    assert buckets.ready_at(999) > 0
    assert buckets.ready_at(0) == -math.inf


def test_one_that_is_used_again_is_not_the_oldest() -> None:
    buckets = TokenBuckets[int](TokenRate(1, 10), most_buckets=3)
    for number in (1, 2, 3, 1, 4, 5):
        buckets.take(number, 0.0)
    assert [buckets.ready_at(number) == -math.inf for number in (1, 2, 3, 4, 5)] == [
        False,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("per_second", "burst", "expected"),
    [(10, None, 10), (0.1, None, 1), (2.5, None, 3), (10, 4, 4)],
)
def test_a_burst_is_a_second_unless_given(
    per_second: float, burst: int | None, expected: int
) -> None:
    assert TokenRate.of(per_second, burst) == TokenRate(per_second, expected)
    assert TokenRate.of(None, burst) is None
