from ocwatchd.core.cases import MOST_CASES, Cases, Doing

MORE = 50


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
