"""Before the limit: given this use and these limits, then new prompts go elsewhere or they do not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.decide import stand_in
from ocwatchd.core.engine import Engine
from ocwatchd.core.fallback import Chosen
from ocwatchd.core.forecast import Bound, History, Label, Measure, Told
from ocwatchd.core.foresight import CALM, ForesightPolicy, Standing, nearest, threat, turns_of
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import Certainty, Hint, LimitEvent, LimitKind, ModelRef, Scope, ToldBy, Verdict
from ocwatchd.core.messages import Configured, Effect, Foreseen, Note, RegisterChanged, SaveRegister
from ocwatchd.core.policy import Policy
from tests.support.rules import builtin

NOW = 1_800_000_000.0
TOKENS, REQUESTS = Measure.TOKENS, Measure.REQUESTS
A, B, C = (ModelRef.parse(name) for name in ("p/a", "q/b", "r/c"))
POLICY = Policy(chains={"p/a": ("q/b", "r/c")}, foresight=ForesightPolicy(prevent=True))


def standing(*told: Told, every: float = 60.0, learnt: Bound | None = None, known: tuple[Bound, ...] = ()) -> Standing:
    """An hour with a request of 1,000 tokens at every so many seconds, three to a turn."""
    uses = [(NOW - 1 - index * every, 1000) for index in range(int(3600 // every))]
    turns = turns_of([(f"turn {index // 3}", 1000) for index in range(len(uses))])
    return Standing("p/a", History(uses), told, known, learnt, turns)


def told(remaining: float, resets: float | None = 600.0, measure: Measure = REQUESTS) -> Told:
    return Told(
        measure, 1000 if measure is REQUESTS else 100_000, remaining, None if resets is None else NOW + resets, NOW
    )


def bound(limit: float, label: Label = Label.LEARNT, window: float = 3600.0) -> Bound:
    return Bound(TOKENS, window, limit, label, 3)


@pytest.mark.parametrize(
    ("known", "until"),
    [
        # headers: less left than a turn takes, nothing left, reached within two minutes; until the reset
        (standing(told(2)), 600),
        (standing(told(0)), 600),
        (standing(told(0, resets=None)), 60),
        (standing(told(0, resets=5)), 5),
        (standing(told(11, resets=3600), every=10.0), 3600),
        (standing(told(2999, measure=TOKENS)), 600),
        # enough is left, or it is over, or the reset comes before the limit
        (standing(told(3)), None),
        (standing(told(3000, measure=TOKENS)), None),
        (standing(told(0, resets=-1)), None),
        (standing(told(15, resets=100), every=10.0), None),
        # a turn that takes more than the whole limit: a fresh window is large enough, half of it is not
        (standing(Told(TOKENS, 2000, 2000, NOW + 60, NOW), every=400.0), None),
        (standing(Told(TOKENS, 2000, 900, NOW + 60, NOW), every=400.0), 60),
        # of a limit that is not told only the end counts
        (standing(Told(REQUESTS, None, 1, NOW + 60, NOW)), None),
        (standing(Told(REQUESTS, None, 0, NOW + 60, NOW)), 60),
        # of several the one that lasts longest
        (standing(told(900), told(0, resets=60), told(100, 900, TOKENS)), 900),
        # what a person knows, and what was learnt: until there is room again
        (standing(known=(bound(60_000, Label.CONFIGURED),)), 360),
        (standing(known=(bound(70_000, Label.CONFIGURED),)), None),
        (standing(learnt=bound(60_000)), 360),
        (standing(learnt=bound(70_000)), None),
        # a guess moves nothing, nor does a limit per minute that was learnt, nor one that was passed unpunished
        (standing(learnt=bound(60_000, Label.ESTIMATED)), None),
        (standing(learnt=bound(1000, window=60.0)), None),
        (standing(known=(bound(1000, Label.CONFIGURED, 60.0),)), 59),
        (standing(learnt=bound(50_000)), None),
        (standing(known=(bound(50_000, Label.CONFIGURED),)), 900),
    ],
)
def test_what_the_next_prompt_would_meet(known: Standing, until: float | None) -> None:
    found = threat(known, 120.0, NOW)
    assert (None if found is None else pytest.approx(found.until - NOW, abs=1)) == until


def test_it_says_how_it_knows() -> None:
    found = threat(standing(told(2)), 120.0, NOW)
    assert found is not None
    assert found.why == "exact: 2 of 1,000 requests left, a prompt takes 3, reached in 120 s at this pace"


def test_a_forecast_is_taken_back_at_twice_the_margin_only() -> None:
    assert threat(standing(told(5)), 120.0, NOW) is None
    assert threat(standing(told(5)), 120.0, NOW, CALM) is not None
    assert threat(standing(told(7)), 120.0, NOW, CALM) is None


def test_the_nearest_of_what_is_known_for_sure_is_told_else_what_was_learnt() -> None:
    known = standing(told(900), learnt=bound(60_000), known=(bound(61_000, Label.CONFIGURED),))
    assert nearest(known, NOW).label is Label.CONFIGURED
    assert nearest(replace(known, configured=()), NOW).label is Label.EXACT
    assert nearest(replace(known, configured=(), told=()), NOW).label is Label.LEARNT


# ---- what follows


class Daemon:
    """An engine and what it has asked for."""

    def __init__(self, *entries: Cooldown, policy: Policy = POLICY) -> None:
        self.ledger = Ledger(entries)
        self.engine = Engine(policy, builtin(), self.ledger, lambda: "claim")

    def foresee(self, *names: str, calm: tuple[str, ...] = (), at: float = 0.0) -> list[Effect]:
        found = threat(standing(told(2)), 120.0, NOW)
        assert found is not None
        threats = dict.fromkeys(names, found)
        return self.engine.handle(Foreseen(threats, calm), NOW + at)


def rest(model: ModelRef, until: float | None = 3600.0, told_by: ToldBy = ToldBy.STATUS, strikes: int = 1) -> Cooldown:
    end = None if until is None else NOW + until
    return Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, NOW - 60, end, strikes, told_by)


def refusal(at: float = 1.0, hint: Hint | None = None) -> LimitEvent:
    verdict = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")
    return LimitEvent(NOW + at, "p", "a", "ses_1", "build", False, 429, verdict, hint, "slow down")


def noted(effects: list[Effect]) -> list[str]:
    return [effect.what for effect in effects if isinstance(effect, Note)]


def test_new_prompts_are_sent_elsewhere_until_it_is_over_and_it_is_written_down() -> None:
    daemon = Daemon()
    save, note = daemon.foresee("p/a")
    assert isinstance(save, SaveRegister) and isinstance(note, Note)
    (entry,) = save.changed
    assert (entry.model, entry.until, entry.told_by, entry.strikes) == (A, NOW + 600, ToldBy.FORECAST, 0)
    assert entry.target is not None and entry.target.model == B
    assert note.fields["why"] == entry.reason
    assert note.fields["considered"] == [{"model": "q/b", "why": "free", "chosen": True}]
    assert daemon.foresee("p/a", at=5) == []  # once
    assert daemon.ledger.cooling(A, NOW) is None  # no limit yet: nothing that runs is moved
    assert daemon.ledger.avoided(A, NOW + 601) is None


@pytest.mark.parametrize(
    "entries",
    [
        (rest(A),),  # it is limited already: the cooldown says until when
        (rest(A, None, ToldBy.MANUAL),),
        (rest(B), rest(C)),  # nothing else is free
        (rest(ModelRef("p", "*")),),
    ],
)
def test_where_it_would_help_nobody_nothing_is_done(entries: tuple[Cooldown, ...]) -> None:
    assert Daemon(*entries).foresee("p/a") == []


def test_what_a_person_has_cleared_stays_cleared_until_the_forecast_would_have_ended() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    daemon.engine.handle(RegisterChanged((), NOW + 5), NOW + 5)
    assert daemon.foresee("p/a", at=6) == []
    assert noted(daemon.foresee("p/a", at=700)) == ["foreseen"]


def test_it_is_taken_back_when_there_is_room_again_and_when_it_is_not_wanted_any_more() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    assert noted(daemon.foresee(calm=("p/a", "q/b"), at=5)) == ["eased"]
    assert daemon.ledger.avoided(A, NOW) is None
    assert noted(daemon.foresee("p/a", at=6)) == ["foreseen"]
    off = replace(POLICY, foresight=ForesightPolicy())
    assert noted(daemon.engine.handle(Configured(off, builtin()), NOW + 7)) == ["eased"]
    real = Daemon(rest(A))
    assert real.foresee(calm=("p/a",)) == []


def test_a_real_limit_takes_its_place_and_the_forecast_is_no_strike() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    entry = daemon.ledger.record(refusal(), POLICY.rests)
    assert (entry.strikes, entry.doublings, entry.since, entry.told_by) == (1, 0, NOW + 1, ToldBy.BACKOFF)
    assert entry.until == NOW + 61
    assert entry.target is not None


def test_but_it_does_not_wipe_out_the_strikes_before_it() -> None:
    daemon = Daemon(rest(A, until=-30, strikes=2))
    daemon.foresee("p/a")
    entry = daemon.ledger.record(refusal(), POLICY.rests)
    assert (entry.strikes, entry.doublings) == (3, 1)


def test_an_answer_of_a_running_turn_does_not_end_it() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    assert daemon.ledger.answered(A, NOW + 10) is None
    assert daemon.ledger.refine(A, NOW + 5, ToldBy.STATUS, NOW) is None


def test_a_model_that_is_about_to_be_limited_is_the_last_to_be_chosen_and_still_better_than_none() -> None:
    policy = replace(POLICY, chains={"x/y": ("p/a", "q/b")})
    daemon = Daemon(policy=replace(policy, chains={"p/a": ("q/b",)}))
    daemon.foresee("p/a")

    def chosen() -> ModelRef | None:
        choice = stand_in(policy, daemon.ledger, ModelRef("x", "y"), None, (), NOW)
        return choice.target.model if isinstance(choice, Chosen) else None

    assert chosen() == B
    daemon.ledger.block(B, None, NOW)
    assert chosen() == A
    daemon.ledger.block(A, None, NOW)
    assert chosen() is None
