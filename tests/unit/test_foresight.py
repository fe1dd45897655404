"""Tests of prevention before a limit: whether this use and these limits redirect new prompts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.types import Certainty, Hint, LimitEvent, LimitKind, ModelRef, ResetSource, Scope, Verdict
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import BlacklistChanged, Configured, Effect, Foreseen, Note, SaveBlacklist
from ocwatchd.core.fallback.choice import Chosen, fallback
from ocwatchd.core.forecast.model import Allowance, Bound, History, Label, Measure
from ocwatchd.core.forecast.plan_windows import PlanWindow
from ocwatchd.core.forecast.prevention import (
    CALM,
    STALE,
    Standing,
    nearest,
    plan_threats,
    threat,
    turns_of,
)
from ocwatchd.core.policy import Policy, PreventionPolicy
from tests.support.rules import builtin

NOW = 1_800_000_000.0
TOKENS, REQUESTS = Measure.TOKENS, Measure.REQUESTS
A, B, C = (ModelRef.parse(name) for name in ("p/a", "q/b", "r/c"))
POLICY = Policy(chains={"p/a": ("q/b", "r/c")}, prevention=PreventionPolicy(prevent=True))


def standing(
    *told: Allowance, every: float = 60.0, learnt: Bound | None = None, known: tuple[Bound, ...] = ()
) -> Standing:
    """Return an hour with a request of 1,000 tokens every so many seconds, three per turn."""
    uses = [(NOW - 1 - index * every, 1000) for index in range(int(3600 // every))]
    turns = turns_of([(f"turn {index // 3}", 1000) for index in range(len(uses))])
    return Standing("p/a", History(uses), told, known, learnt, turns)


def told(remaining: float, resets: float | None = 600.0, measure: Measure = REQUESTS) -> Allowance:
    return Allowance(
        measure, 1000 if measure is REQUESTS else 100_000, remaining, None if resets is None else NOW + resets, NOW
    )


def bound(limit: float, label: Label = Label.LEARNT, window: float = 3600.0) -> Bound:
    return Bound(TOKENS, window, limit, label, 3)


@pytest.mark.parametrize(
    ("known", "until"),
    [
        # headers: less left than a turn needs, nothing left, or reached within two minutes; lasts until the reset
        (standing(told(2)), 600),
        (standing(told(0)), 600),
        (standing(told(0, resets=None)), 60),
        (standing(told(0, resets=5)), 5),
        (standing(told(11, resets=3600), every=10.0), 3600),
        (standing(told(2999, measure=TOKENS)), 600),
        # enough is left, or the window is over, or the reset comes before the limit
        (standing(told(3)), None),
        (standing(told(3000, measure=TOKENS)), None),
        (standing(told(0, resets=-1)), None),
        (standing(told(15, resets=100), every=10.0), None),
        # a turn that needs more than the whole limit: a new window is large enough, half of it is not
        (standing(Allowance(TOKENS, 2000, 2000, NOW + 60, NOW), every=400.0), None),
        (standing(Allowance(TOKENS, 2000, 900, NOW + 60, NOW), every=400.0), 60),
        # only the end counts of a limit whose size is not reported
        (standing(Allowance(REQUESTS, None, 1, NOW + 60, NOW)), None),
        (standing(Allowance(REQUESTS, None, 0, NOW + 60, NOW)), 60),
        # of several limits the longest counts
        (standing(told(900), told(0, resets=60), told(100, 900, TOKENS)), 900),
        # configured and learnt limits: until there is room again
        (standing(known=(bound(60_000, Label.CONFIGURED),)), 360),
        (standing(known=(bound(70_000, Label.CONFIGURED),)), None),
        (standing(learnt=bound(60_000)), 360),
        (standing(learnt=bound(70_000)), None),
        # no entry for a guess, for a learnt limit per minute, and for a limit that was exceeded without a refusal
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
    assert found.why == "exact: 2 of 1,000 requests left; a prompt takes 3, reached in 2m at this pace"


def test_a_forecast_is_taken_back_at_twice_the_margin_only() -> None:
    assert threat(standing(told(5)), 120.0, NOW) is None
    assert threat(standing(told(5)), 120.0, NOW, CALM) is not None
    assert threat(standing(told(7)), 120.0, NOW, CALM) is None


def test_the_nearest_of_what_is_known_for_sure_is_told_else_what_was_learnt() -> None:
    known = standing(told(900), learnt=bound(60_000), known=(bound(61_000, Label.CONFIGURED),))
    assert nearest(known, NOW).label is Label.CONFIGURED
    assert nearest(replace(known, configured=()), NOW).label is Label.EXACT
    assert nearest(replace(known, configured=(), allowances=()), NOW).label is Label.LEARNT


# ---- plan windows


def plan(
    used: float, resets: float | None = 7200.0, name: str = "5h", provider: str = "p", ago: float = 0
) -> PlanWindow:
    return PlanWindow(provider, name, used, None if resets is None else NOW + resets, 18_000.0, NOW - ago)


SONNET, OPUS, OTHER = "p/claude-sonnet-4", "p/claude-opus-4", "q/gpt"


@pytest.mark.parametrize(
    ("windows", "left"),
    [
        ([], {}),
        ([plan(94.9)], {}),
        ([plan(95)], {SONNET: 7200, OPUS: 7200}),
        ([plan(120)], {SONNET: 7200, OPUS: 7200}),
        # of several windows the one that resets last counts, as long as it is full
        ([plan(96), plan(99, 90_000, "7d")], {SONNET: 90_000, OPUS: 90_000}),
        ([plan(96), plan(60, 90_000, "7d")], {SONNET: 7200, OPUS: 7200}),
        # windows of single models, of another provider, and those that limit no prompt
        ([plan(97, name="7d_sonnet")], {SONNET: 7200}),
        ([plan(97, name="opus 5h")], {OPUS: 7200}),
        ([plan(97, provider="q")], {OTHER: 7200}),
        ([plan(100, name="overage"), plan(100, name="completions"), plan(100, name="7d_oauth_apps")], {}),
        ([plan(100, name="premium_interactions")], {SONNET: 7200, OPUS: 7200}),
        # without a reset time: as long as the report is recent; a window that has ended is none
        ([plan(97, None)], {SONNET: 60, OPUS: 60}),
        ([plan(97, None, ago=STALE + 1)], {}),
        ([plan(97, -1)], {}),
    ],
)
def test_the_models_of_a_plan_that_is_nearly_used_up_are_left(windows: list[PlanWindow], left: dict[str, int]) -> None:
    found = plan_threats((SONNET, OPUS, OTHER), windows, 95.0, NOW)
    assert {model: round(one.until - NOW) for model, one in found.items()} == left


def test_a_plan_says_why_it_is_left_and_is_calm_below_twice_the_margin() -> None:
    assert plan_threats((OPUS,), [plan(96)], 95.0, NOW)[OPUS].why == "plan: 96 % of the window 5h used, leaveAt is 95 %"
    assert list(plan_threats((OPUS,), [plan(90)], 95.0, NOW, CALM)) == [OPUS]
    assert plan_threats((OPUS,), [plan(89.9)], 95.0, NOW, CALM) == {}


# ---- effects


class Daemon:
    """An engine and the effects that it has returned."""

    def __init__(self, *entries: Cooldown, policy: Policy = POLICY) -> None:
        self.cooldowns = Cooldowns(entries)
        self.engine = Engine(policy, builtin(), self.cooldowns, lambda: "claim")

    def foresee(self, *names: str, calm: tuple[str, ...] = (), at: float = 0.0) -> list[Effect]:
        found = threat(standing(told(2)), 120.0, NOW)
        assert found is not None
        threats = dict.fromkeys(names, found)
        return self.engine.handle(Foreseen(threats, calm), NOW + at)


def rest(
    model: ModelRef, until: float | None = 3600.0, reset_source: ResetSource = ResetSource.STATUS, strikes: int = 1
) -> Cooldown:
    end = None if until is None else NOW + until
    return Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, NOW - 60, end, strikes, reset_source)


def refusal(at: float = 1.0, hint: Hint | None = None) -> LimitEvent:
    verdict = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "rule")
    return LimitEvent(NOW + at, "p", "a", "ses_1", "build", False, 429, verdict, hint, "slow down")


def noted(effects: list[Effect]) -> list[str]:
    return [effect.what for effect in effects if isinstance(effect, Note)]


def test_new_prompts_are_sent_elsewhere_until_it_is_over_and_it_is_written_down() -> None:
    daemon = Daemon()
    save, note = daemon.foresee("p/a")
    assert isinstance(save, SaveBlacklist) and isinstance(note, Note)
    (entry,) = save.changed
    assert (entry.model, entry.until, entry.reset_source, entry.strikes) == (A, NOW + 600, ResetSource.FORECAST, 0)
    assert entry.target is not None and entry.target.model == B
    assert note.fields["why"] == entry.reason
    assert note.fields["considered"] == [{"model": "q/b", "why": "available", "chosen": True}]
    assert daemon.foresee("p/a", at=5) == []  # only once
    assert daemon.cooldowns.cooling(A, NOW) is None  # not a limit yet: no running turn is moved
    assert daemon.cooldowns.avoided(A, NOW + 601) is None


def test_a_plan_that_is_left_is_a_forecast_like_any_other() -> None:
    daemon = Daemon()
    save, note = daemon.engine.handle(Foreseen(plan_threats(("p/a",), [plan(96)], 95.0, NOW)), NOW)
    assert isinstance(save, SaveBlacklist) and isinstance(note, Note)
    (entry,) = save.changed
    assert (entry.model, entry.until, entry.reset_source, entry.strikes) == (A, NOW + 7200, ResetSource.FORECAST, 0)
    assert entry.reason == "plan: 96 % of the window 5h used, leaveAt is 95 %"
    assert entry.target is not None and entry.target.model == B
    assert daemon.cooldowns.cooling(A, NOW) is None and daemon.cooldowns.avoided(A, NOW + 7201) is None


@pytest.mark.parametrize("names", [("p/a", "q/b"), ("q/b", "p/a")])
def test_of_two_that_are_about_to_be_limited_neither_is_the_fallback_of_the_other(names: tuple[str, ...]) -> None:
    daemon = Daemon(policy=replace(POLICY, chains={"p/a": ("q/b", "r/c"), "q/b": ("p/a", "r/c")}))
    effects = daemon.foresee(*names)
    targets = [
        one.target.model for save in effects if isinstance(save, SaveBlacklist) for one in save.changed if one.target
    ]
    assert targets == [C, C]
    reasons = [one.fields["considered"] for one in effects if isinstance(one, Note)]
    assert all(
        "about to be limited" in str(rows) and "'why': 'available', 'chosen': True" in str(rows) for rows in reasons
    )


@pytest.mark.parametrize(
    "entries",
    [
        (rest(A),),  # it is limited already: the cooldown has its own end
        (rest(A, None, ResetSource.MANUAL),),
        (rest(B), rest(C)),  # no other model is free
        (rest(ModelRef("p", "*")),),
    ],
)
def test_where_it_would_help_nobody_nothing_is_done(entries: tuple[Cooldown, ...]) -> None:
    assert Daemon(*entries).foresee("p/a") == []


def test_what_a_person_has_cleared_stays_cleared_until_the_forecast_would_have_ended() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    daemon.engine.handle(BlacklistChanged((), NOW + 5), NOW + 5)
    assert daemon.foresee("p/a", at=6) == []
    assert noted(daemon.foresee("p/a", at=700)) == ["foreseen"]


def test_it_is_taken_back_when_there_is_room_again_and_when_it_is_not_wanted_any_more() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    assert noted(daemon.foresee(calm=("p/a", "q/b"), at=5)) == ["eased"]
    assert daemon.cooldowns.avoided(A, NOW) is None
    assert noted(daemon.foresee("p/a", at=6)) == ["foreseen"]
    off = replace(POLICY, prevention=PreventionPolicy())
    assert noted(daemon.engine.handle(Configured(off, builtin()), NOW + 7)) == ["eased"]
    real = Daemon(rest(A))
    assert real.foresee(calm=("p/a",)) == []


def test_a_real_limit_takes_its_place_and_the_forecast_is_no_strike() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    entry = daemon.cooldowns.record(refusal(), POLICY.cooldowns)
    assert (entry.strikes, entry.doublings, entry.since, entry.reset_source) == (1, 0, NOW + 1, ResetSource.ESTIMATE)
    assert entry.until == NOW + 61
    assert entry.target is not None


def test_but_it_does_not_wipe_out_the_strikes_before_it() -> None:
    daemon = Daemon(rest(A, until=-30, strikes=2))
    daemon.foresee("p/a")
    entry = daemon.cooldowns.record(refusal(), POLICY.cooldowns)
    assert (entry.strikes, entry.doublings) == (3, 1)


def test_an_answer_of_a_running_turn_does_not_end_it() -> None:
    daemon = Daemon()
    daemon.foresee("p/a")
    assert daemon.cooldowns.answered(A, NOW + 10) is None
    assert daemon.cooldowns.refine(A, NOW + 5, ResetSource.STATUS, NOW) is None


def test_a_model_that_is_about_to_be_limited_is_the_last_to_be_chosen_and_still_better_than_none() -> None:
    policy = replace(POLICY, chains={"x/y": ("p/a", "q/b")})
    daemon = Daemon(policy=replace(policy, chains={"p/a": ("q/b",)}))
    daemon.foresee("p/a")

    def chosen() -> ModelRef | None:
        choice = fallback(policy, daemon.cooldowns, ModelRef("x", "y"), None, (), NOW)
        return choice.target.model if isinstance(choice, Chosen) else None

    assert chosen() == B
    daemon.cooldowns.block(B, None, NOW)
    assert chosen() == A
    daemon.cooldowns.block(A, None, NOW)
    assert chosen() is None
