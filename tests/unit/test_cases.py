import pytest

from ocwatchd.core.domain.moves import Claim, MoveOutcome, MoveResult
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.session import MAX_TRACKED, TrackedSessions

MORE = 50
CLAIM = Claim("c1", Target(ModelRef("p", "b")))


def test_the_longest_untouched_are_forgotten_first():
    cases = TrackedSessions()
    for number in range(MAX_TRACKED):
        cases.of(f"ses_{number}", now=number)
    cases.of("ses_0", now=MAX_TRACKED)
    for number in range(MORE):
        cases.of(f"new_{number}", now=MAX_TRACKED + number)
    assert len(cases.all()) == MAX_TRACKED
    assert [cases.known(f"ses_{number}") is None for number in range(MORE + 2)] == [False, *[True] * MORE, False]


def test_a_storm_of_sessions_at_work_is_kept_and_forgotten_when_it_is_over():
    cases = TrackedSessions()
    for number in range(MAX_TRACKED + MORE):
        cases.of(f"ses_{number}", now=number).claim("moving", now=number)
    assert len(cases.all()) == MAX_TRACKED + MORE
    for case in cases.all():
        case.move_ended(MoveOutcome(MoveResult.MOVED), None, now=0)
    newest = cases.of("new", now=0)
    assert len(cases.all()) == MAX_TRACKED
    assert cases.known("new") is newest


@pytest.mark.parametrize(
    "business",
    [
        lambda case: case.probe(),
        lambda case: case.resume((), now=0.0),
        lambda case: case.resume((CLAIM,), now=0.0),
        lambda case: case.wake_at(1e9),
        lambda case: case.asked_again(0.0),
    ],
    ids=["probed", "stranded", "open claims", "to be looked at", "waiting"],
)
def test_a_session_with_which_something_is_to_follow_is_never_forgotten_for_others(business):
    """In a run of kills with 1,500 sessions, unfinished moves were forgotten during a probe.
    Their sessions then stayed stopped for good.
    """
    cases = TrackedSessions()
    mine = cases.of("ses_1", now=0)
    business(mine)
    for number in range(MAX_TRACKED + MORE):
        cases.of(f"new_{number}", now=1 + number)
    assert cases.known("ses_1") is mine
    assert len(cases.all()) == MAX_TRACKED
