import pytest

from ocwatchd.core.cases import MOST_CASES, Cases, Doing
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.moves import Claim

MORE = 50
CLAIM = Claim("c1", Target(ModelRef("p", "b")))


def test_the_longest_untouched_are_forgotten_first():
    cases = Cases()
    for number in range(MOST_CASES):
        cases.of(f"ses_{number}", now=number)
    cases.of("ses_0", now=MOST_CASES)
    for number in range(MORE):
        cases.of(f"new_{number}", now=MOST_CASES + number)
    assert len(cases.all()) == MOST_CASES
    assert [cases.known(f"ses_{number}") is None for number in range(MORE + 2)] == [False, *[True] * MORE, False]


def test_a_storm_of_sessions_at_work_is_kept_and_forgotten_when_it_is_over():
    cases = Cases()
    for number in range(MOST_CASES + MORE):
        cases.of(f"ses_{number}", now=number).doing = Doing.MOVING
    assert len(cases.all()) == MOST_CASES + MORE
    for case in cases.all():
        case.doing = Doing.NOTHING
    newest = cases.of("new", now=0)
    assert len(cases.all()) == MOST_CASES
    assert cases.known("new") is newest


@pytest.mark.parametrize(
    "business",
    [{"looking": True}, {"stranded": True}, {"open_claims": (CLAIM,)}, {"wake": 1e9}, {"doing": Doing.WAITING}],
    ids=lambda business: next(iter(business)),
)
def test_a_session_with_which_something_is_to_follow_is_never_forgotten_for_others(business):
    """In a run of kills with 1,500 sessions, those whose move had been cut off were forgotten while a door was asked
    about them, and stayed stopped for good."""
    cases = Cases()
    mine = cases.of("ses_1", now=0)
    for name, value in business.items():
        setattr(mine, name, value)
    for number in range(MOST_CASES + MORE):
        cases.of(f"new_{number}", now=1 + number)
    assert cases.known("ses_1") is mine
    assert len(cases.all()) == MOST_CASES
