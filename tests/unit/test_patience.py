"""How patience is spent and earned, against a model that does the same sums in fractions."""

import math
from fractions import Fraction

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kestrel_protocols.http.patience import Patience

# Times in these tests are whole ticks and the rate is a byte a tick, so that floats are exact.
TICKS = 256
RATE = float(TICKS)


def left(patience: Patience) -> float:
    """Return what a wait that begins now may take."""
    patience.begin(0)
    seconds = patience.due
    patience.end(0)
    return seconds


def test_it_opens_with_the_grace() -> None:
    assert left(Patience(240, 5)) == 5


def test_nobody_waits_at_first() -> None:
    assert Patience(240, 5).due == math.inf


def test_waiting_spends_it() -> None:
    patience = Patience(240, 5)
    patience.begin(100)
    assert patience.due == 105
    patience.end(103)
    assert patience.due == math.inf
    assert left(patience) == 2


def test_time_in_between_costs_nothing() -> None:
    patience = Patience(240, 5)
    for start in (0, 1000, 1_000_000):
        patience.begin(start)
        patience.end(start + 1)
    assert left(patience) == 2


def test_a_byte_earns_its_time() -> None:
    patience = Patience(240, 5)
    patience.earn(480)
    assert left(patience) == 7


def test_losses_are_not_charged() -> None:
    """What a peer has not taken may grow while it is waited for: somebody else wrote."""
    patience = Patience(240, 5)
    patience.earn(0)
    patience.earn(-1000)
    assert left(patience) == 5


def test_savings_are_bounded() -> None:
    patience = Patience(240, 5)
    patience.earn(1_000_000_000)
    assert left(patience) == 60


def test_a_longer_grace_is_its_own_bound() -> None:
    patience = Patience(240, 300)
    assert left(patience) == 300
    patience.earn(1000)
    assert left(patience) == 300


def test_an_infinite_grace() -> None:
    patience = Patience(240, math.inf)
    patience.begin(0)
    patience.end(1e9)
    patience.earn(1)
    assert left(patience) == math.inf


def test_the_moment_when_it_is_due() -> None:
    patience = Patience(240, 5)
    patience.begin(10)
    patience.end(15)
    assert left(patience) == 0


def test_a_little_late_is_spent() -> None:
    patience = Patience(240, 5)
    patience.begin(10)
    patience.end(15.9)
    assert left(patience) == 0


def test_a_wait_that_ends_long_after_it_was_due_costs_nothing() -> None:
    """Somebody would have ended it when it was due; so it was us who had no time to look."""
    patience = Patience(240, 5)
    patience.begin(0)
    patience.end(2)
    patience.begin(10)
    patience.end(14)
    assert left(patience) == 3


def test_it_is_renewed_by_what_moved() -> None:
    patience = Patience(240, 5)
    patience.begin(0)
    patience.renew(5, 240)
    assert patience.due == 6
    patience.renew(6, 0)
    assert patience.due == 6
    patience.renew(6, 1_000_000)
    assert patience.due == 66


def test_renewing_early_keeps_what_is_left() -> None:
    patience = Patience(240, 5)
    patience.begin(0)
    patience.renew(2, 480)
    assert patience.due == 7


def test_renewing_late_gives_nothing_for_it() -> None:
    """Whoever watches the clock was late on purpose then, to make up for its own lateness."""
    patience = Patience(240, 5)
    patience.begin(0)
    patience.renew(20, 0)
    assert patience.due == 20


# Against a model --------------------------------------------------------------------------------


@attrs.frozen
class Wait:
    """The client is waited for, and moves bytes meanwhile."""

    ticks: int
    moved_bytes: int


@attrs.frozen
class Pause:
    """Nobody waits, and bytes may be moved all the same."""

    ticks: int
    moved_bytes: int


ticks = st.integers(0, 20 * TICKS)
moved = st.integers(0, 10 * TICKS) | st.integers(0, 200 * TICKS)
steps = st.lists(st.builds(Wait, ticks, moved) | st.builds(Pause, ticks, moved), max_size=40)


class Model:
    """An account of seconds, in fractions."""

    def __init__(self, grace: int) -> None:
        self.seconds = Fraction(grace)
        self.most = max(grace, 60)

    def spend(self, ticks: int) -> None:
        late = Fraction(ticks, TICKS) - self.seconds
        if late < 1:
            self.seconds = max(Fraction(0), -late)

    def earn(self, moved_bytes: int) -> None:
        self.seconds = min(self.seconds + Fraction(moved_bytes, TICKS), Fraction(self.most))


@given(st.integers(1, 100), steps)
def test_it_is_the_account_that_the_model_keeps(grace: int, steps: list[Wait | Pause]) -> None:
    patience, model, now = Patience(RATE, grace), Model(grace), 0
    for step in steps:
        if isinstance(step, Wait):
            patience.begin(now / TICKS)
            assert patience.due == now / TICKS + model.seconds
            patience.end((now + step.ticks) / TICKS)
            model.spend(step.ticks)
        patience.earn(step.moved_bytes)
        model.earn(step.moved_bytes)
        now += step.ticks
        assert patience.due == math.inf
        assert left(patience) == model.seconds


@attrs.frozen
class Outcome:
    """What came of a client, on ticks."""

    cut: bool
    waited: int
    moved: int


def serve(grace: int, steps: list[Wait | Pause]) -> Outcome:
    """Wait for a client as `Pace` does; in a wait it moves a byte at a time, evenly."""
    patience, now, waited, moved = Patience(RATE, grace), 0, 0, 0
    for step in steps:
        if isinstance(step, Pause):
            patience.earn(step.moved_bytes)
            moved += step.moved_bytes
            now += step.ticks
            continue
        patience.begin(now / TICKS)
        credited = 0
        for tick in range(1, step.ticks + 1):
            now += 1
            waited += 1
            moved_by_now = step.moved_bytes * tick // step.ticks
            if patience.due <= now / TICKS:
                patience.renew(now / TICKS, moved_by_now - credited)
                credited = moved_by_now
                if patience.due <= now / TICKS:
                    return Outcome(True, waited, moved + moved_by_now)
        patience.end(now / TICKS)
        patience.earn(step.moved_bytes - credited)
        moved += step.moved_bytes
    return Outcome(False, waited, moved)


@given(st.integers(1, 10), steps)
def test_nobody_is_cut_early_or_kept_late(grace: int, steps: list[Wait | Pause]) -> None:
    """Cut are only those who used up the grace, and nobody gets more than grace and bytes earn."""
    outcome = serve(grace, steps)
    most = grace * TICKS + outcome.moved
    if outcome.cut:
        assert grace * TICKS <= outcome.waited <= most
    else:
        assert outcome.waited <= most


@given(st.integers(1, 10), st.lists(ticks, max_size=10))
def test_who_keeps_the_rate_is_never_cut(grace: int, waits: list[int]) -> None:
    """However its time is cut into waits, and with nothing saved up."""
    outcome = serve(grace, [Wait(ticks, ticks) for ticks in waits])
    assert not outcome.cut


@given(st.integers(1, 10), st.lists(st.integers(1, 4 * TICKS), min_size=45, max_size=60))
def test_who_moves_nothing_is_cut_when_the_grace_is_spent(grace: int, waits: list[int]) -> None:
    outcome = serve(grace, [Wait(ticks, 0) for ticks in waits])
    if sum(waits) > grace * TICKS:
        assert outcome == Outcome(True, grace * TICKS, 0)
    else:
        assert not outcome.cut


@pytest.mark.parametrize(("bytes_per_second", "seconds"), [(1, 5.02), (60, 6.67), (120, 10)])
def test_at_a_steady_rate_below_the_minimum(bytes_per_second: int, seconds: float) -> None:
    """The grace, and what was moved meanwhile: t = 5 + rate * t / 240."""
    patience = Patience(240, 5)
    patience.begin(0)
    now, credited = 0.0, 0
    while patience.due > now:
        now = patience.due
        moved = math.floor(now * bytes_per_second)
        patience.renew(now, moved - credited)
        credited = moved
    assert now == pytest.approx(seconds, abs=0.02)
