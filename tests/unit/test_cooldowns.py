"""Tests that these limits, at these times, give this blacklist."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.domain.cooldowns import STRIKE_WINDOW, CooldownPolicy, Cooldowns
from ocwatchd.core.domain.types import (
    Certainty,
    Hint,
    LimitEvent,
    LimitKind,
    ModelRef,
    ResetSource,
    Scope,
    Target,
    Verdict,
)

T = 1_800_000_000.0
SONNET = ModelRef("anthropic", "claude-sonnet-4")
OPUS = ModelRef("anthropic", "claude-opus-4")
GLM = ModelRef("zhipuai", "glm-4.5")
RESTS = CooldownPolicy(rate_limit=60, overloaded=30, quota=3600, maximum=21600)


def hint(until, reset_source=ResetSource.RETRY_AFTER):
    return Hint(until, until - T, reset_source, "test")


def refusal(at=0.0, model=SONNET, kind=LimitKind.RATE_LIMIT, scope=Scope.MODEL, session="ses_1", told=None):
    verdict = Verdict(Certainty.SURE, kind, scope, "rule")
    return LimitEvent(T + at, model.provider, model.model, session, "build", False, 429, verdict, told, "no")


def test_a_told_time_is_obeyed_to_the_second_at_both_ends():
    cooldowns = Cooldowns()
    entry = cooldowns.record(refusal(told=hint(T + 20)), RESTS)
    assert (entry.until, entry.reset_source, entry.strikes) == (T + 20, ResetSource.RETRY_AFTER, 1)
    assert cooldowns.cooling(SONNET, T) and cooldowns.cooling(SONNET, T + 19.999)
    assert cooldowns.cooling(SONNET, T + 20) is None


@pytest.mark.parametrize(
    ("kind", "rest"), [(LimitKind.RATE_LIMIT, 60), (LimitKind.OVERLOADED, 30), (LimitKind.QUOTA, 3600)]
)
def test_untold_it_rests_as_configured(kind, rest):
    entry = Cooldowns().record(refusal(kind=kind), RESTS)
    assert (entry.until, entry.reset_source) == (T + rest, ResetSource.ESTIMATE)


def test_billing_rests_until_a_person_acts_unless_the_provider_names_a_time():
    cooldowns = Cooldowns()
    assert cooldowns.record(refusal(kind=LimitKind.BILLING), RESTS).until is None
    assert cooldowns.cooling(SONNET, T + 1e9)
    told = Cooldowns().record(refusal(kind=LimitKind.BILLING, told=hint(T + 9 * 86400)), RESTS)
    assert told.until == T + 9 * 86400


def test_every_refused_attempt_is_a_strike_and_a_waited_for_one_doubles_the_rest():
    cooldowns = Cooldowns()
    entries = [cooldowns.record(refusal(at), RESTS) for at in (0, 2, 6, 14)]
    assert [entry.strikes for entry in entries] == [1, 2, 3, 4]
    assert [entry.until - T for entry in entries] == [60, 2 + 120, 6 + 240, 14 + 480]


def test_four_sessions_at_once_are_four_strikes_and_one_rest():
    cooldowns = Cooldowns()
    entries = [cooldowns.record(refusal(n / 10, session=f"ses_{n}"), RESTS) for n in range(4)]
    assert entries[-1].strikes == 4
    assert entries[-1].until == T + 0.3 + 60


def test_a_loop_without_pause_does_not_double():
    cooldowns = Cooldowns()
    for n in range(400):  # a negative Retry-After: 400 requests in 20 s
        entry = cooldowns.record(refusal(n / 20), RESTS)
    assert entry.strikes == 400
    assert entry.until <= T + 20 + 60


def test_doubling_ends_at_the_maximum():
    cooldowns = Cooldowns()
    for n in range(12):
        entry = cooldowns.record(refusal(n * 2), RESTS)
    assert entry.until == T + 22 + 21600


def test_a_new_limit_within_ten_minutes_of_the_end_doubles_and_a_later_one_starts_anew():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(), RESTS)
    again = cooldowns.record(refusal(60 + STRIKE_WINDOW - 1), RESTS)
    assert (again.strikes, again.until - again.since) == (2, 120)
    fresh = Cooldowns()
    fresh.record(refusal(), RESTS)
    later = fresh.record(refusal(60 + STRIKE_WINDOW), RESTS)
    assert (later.strikes, later.until - later.since) == (1, 60)


def test_later_news_extends_and_never_shortens_what_was_told():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(told=hint(T + 3600)), RESTS)
    assert cooldowns.record(refusal(5, told=hint(T + 65)), RESTS).until == T + 3600
    assert cooldowns.record(refusal(6), RESTS).until == T + 3600
    assert cooldowns.record(refusal(7, told=hint(T + 7200)), RESTS).until == T + 7200


def test_what_is_told_replaces_our_own_guess_even_if_it_is_sooner():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(), RESTS)
    refined = cooldowns.refine(SONNET, T + 20, ResetSource.STATUS, T + 1)
    assert (refined.until, refined.reset_source) == (T + 20, ResetSource.STATUS)
    assert cooldowns.refine(SONNET, T + 10, ResetSource.STATUS, T + 2) is None


def test_the_finer_clock_sharpens_a_header_and_keeps_its_name():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(told=hint(T + 3600)), RESTS)
    refined = cooldowns.refine(SONNET, T + 3600.8, ResetSource.STATUS, T + 1)
    assert (refined.until, refined.reset_source) == (T + 3600.8, ResetSource.RETRY_AFTER)


@pytest.mark.parametrize("header", [T + 3599.0, T + 3600.8, T + 3601.0])
def test_the_same_moment_told_by_the_status_first_keeps_the_finer_clock_too(header):
    cooldowns = Cooldowns()
    cooldowns.record(refusal(told=hint(T + 3600.8, ResetSource.STATUS)), RESTS)
    refined = cooldowns.refine(SONNET, header, ResetSource.RETRY_AFTER, T + 1)
    assert (refined.until, refined.reset_source) == (T + 3600.8, ResetSource.RETRY_AFTER)


def test_a_provider_wide_limit_rests_every_model_of_it():
    cooldowns = Cooldowns()
    entry = cooldowns.record(refusal(scope=Scope.PROVIDER, kind=LimitKind.QUOTA), RESTS)
    assert str(entry.model) == "anthropic/*"
    assert cooldowns.cooling(OPUS, T) == entry
    assert cooldowns.cooling(GLM, T) is None


def test_a_free_tier_limit_rests_the_free_models_only():
    free, other, paid = (ModelRef("openrouter", name) for name in ("qwen3:free", "kimi:free", "qwen3"))
    cooldowns = Cooldowns()
    cooldowns.record(refusal(model=free, scope=Scope.FREE_TIER), RESTS)
    assert cooldowns.cooling(free, T) and cooldowns.cooling(other, T)
    assert cooldowns.cooling(paid, T) is None


def test_an_answer_ends_a_cooldown_only_if_it_was_asked_for_after_the_last_refusal():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(0), RESTS)
    cooldowns.record(refusal(2), RESTS)
    assert cooldowns.answered(SONNET, T + 1) is None
    assert cooldowns.answered(SONNET, T + 6).model == SONNET
    assert cooldowns.cooling(SONNET, T + 7) is None


def test_a_persons_block_outlasts_answers_and_exact_times():
    cooldowns = Cooldowns()
    cooldowns.block(SONNET, None, T)
    assert cooldowns.answered(SONNET, T + 5) is None
    assert cooldowns.refine(SONNET, T + 5, ResetSource.STATUS, T + 1) is None
    assert cooldowns.cooling(SONNET, T + 1e9).reset_source is ResetSource.MANUAL
    assert cooldowns.clear(SONNET) and cooldowns.cooling(SONNET, T) is None


def test_an_unsure_or_nameless_event_is_refused():
    with pytest.raises(ValueError):
        Cooldowns().record(replace(refusal(), provider=None), RESTS)
    with pytest.raises(ValueError):
        Cooldowns().record(replace(refusal(), verdict=Verdict(Certainty.UNKNOWN)), RESTS)


def test_ended_entries_are_kept_for_strikes_and_then_dropped():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(), RESTS)
    assert not cooldowns.prune(T + 60 + STRIKE_WINDOW - 1)
    assert cooldowns.prune(T + 60 + STRIKE_WINDOW)
    assert cooldowns.entries() == ()


def test_a_target_is_kept_when_the_model_is_refused_again():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(), RESTS, Target(GLM, "fallback"))
    assert cooldowns.record(refusal(2), RESTS).target == Target(GLM, "fallback")


@given(st.lists(st.tuples(st.floats(0, 5000), st.none() | st.floats(0.001, 1e6)), min_size=1, max_size=40))
def test_told_ends_never_move_backwards_while_the_model_cools(history):
    cooldowns, end = Cooldowns(), None
    for at, wait in sorted(history, key=lambda pair: pair[0]):
        before = cooldowns.cooling(SONNET, T + at)
        entry = cooldowns.record(refusal(at, told=None if wait is None else hint(T + at + wait)), RESTS)
        if before is not None and before.reset_source is ResetSource.RETRY_AFTER:
            assert entry.until >= before.until
        end = entry.until
    assert end is not None


def test_what_is_told_of_one_model_shortens_nothing_that_holds_for_its_provider():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(), RESTS)
    whole = cooldowns.record(
        refusal(1, OPUS, LimitKind.QUOTA, Scope.PROVIDER, told=hint(T + 9000, ResetSource.TEXT)), RESTS
    )
    told = cooldowns.refine(SONNET, T + 600, ResetSource.STATUS, T + 2)
    assert (told.model, told.until) == (SONNET, T + 600)
    assert cooldowns.cooling(SONNET, T + 3) == whole


BILLING, QUOTA, RATE, LOAD = LimitKind.BILLING, LimitKind.QUOTA, LimitKind.RATE_LIMIT, LimitKind.OVERLOADED


@pytest.mark.parametrize(
    ("first", "then", "shown"),
    [
        ((BILLING, None), (QUOTA, None), (BILLING, None, ResetSource.ESTIMATE)),
        ((BILLING, None), (QUOTA, 3600), (BILLING, None, ResetSource.ESTIMATE)),
        ((BILLING, None), (RATE, 20), (BILLING, None, ResetSource.ESTIMATE)),
        ((QUOTA, 3600), (BILLING, None), (BILLING, None, ResetSource.ESTIMATE)),
        ((QUOTA, 3600), (RATE, 20), (QUOTA, 3600, ResetSource.RETRY_AFTER)),
        ((QUOTA, 3600), (LOAD, None), (QUOTA, 3600, ResetSource.RETRY_AFTER)),
        ((QUOTA, None), (RATE, 20), (QUOTA, 3600, ResetSource.ESTIMATE)),
        ((QUOTA, None), (RATE, 7200), (RATE, 7200, ResetSource.RETRY_AFTER)),
        ((RATE, 7200), (QUOTA, 3600), (RATE, 7200, ResetSource.RETRY_AFTER)),
        ((RATE, None), (QUOTA, 20), (QUOTA, 20, ResetSource.RETRY_AFTER)),
        ((RATE, None), (RATE, 20), (RATE, 20, ResetSource.RETRY_AFTER)),
        ((LOAD, None), (RATE, 600), (RATE, 600, ResetSource.RETRY_AFTER)),
    ],
)
def test_of_two_limits_the_one_that_ends_later_is_shown_until_it_is_over(first, then, shown):
    cooldowns = Cooldowns()
    for (kind, wait), at in ((first, 0), (then, 0.5)):
        told = None if wait is None else hint(T + wait)
        event = replace(refusal(at, kind=kind, scope=Scope.PROVIDER, told=told), reason=f"{kind.value} words")
        entry = cooldowns.record(event, RESTS)
    kind, wait, source = shown
    assert (entry.kind, entry.until, entry.reset_source) == (kind, None if wait is None else T + wait, source)
    assert (entry.reason, entry.strikes) == (f"{kind.value} words", 2)


def test_a_free_tier_stays_limited_when_one_of_its_models_reports_something_shorter():
    free, other = ModelRef("openrouter", "a:free"), ModelRef("openrouter", "b:free")
    cooldowns = Cooldowns()
    cooldowns.record(refusal(model=free, scope=Scope.FREE_TIER, kind=QUOTA, told=hint(T + 7200)), RESTS)
    cooldowns.record(refusal(1, model=free, told=hint(T + 30)), RESTS)
    assert cooldowns.cooling(other, T + 60) is not None


def test_the_exact_end_of_a_weaker_limit_does_not_shorten_the_guess_for_a_stronger_one():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(kind=QUOTA), RESTS)
    assert cooldowns.refine(SONNET, T + 20, ResetSource.STATUS, T + 1, RATE) is None
    assert cooldowns.refine(SONNET, T + 20, ResetSource.STATUS, T + 1, QUOTA).until == T + 20


def test_a_limit_during_a_persons_block_leaves_the_block_as_it_is():
    cooldowns = Cooldowns()
    cooldowns.block(SONNET, T + 3600, T)
    entry = cooldowns.record(refusal(1, kind=QUOTA, told=hint(T + 20)), RESTS)
    assert (entry.reset_source, entry.reason, entry.until) == (ResetSource.MANUAL, "blocked by hand", T + 3600)


def test_an_exact_time_does_not_lengthen_a_users_block():
    cooldowns = Cooldowns()
    cooldowns.block(SONNET, T + 100, T)
    assert cooldowns.refine(SONNET, T + 5000, ResetSource.RETRY_AFTER, T + 1) is None
    assert cooldowns.cooling(SONNET, T + 100) is None


def test_an_answer_of_one_model_ends_what_holds_for_its_whole_provider():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(scope=Scope.PROVIDER, told=hint(T + 3600)), RESTS)
    assert cooldowns.cooling(OPUS, T + 5)
    assert cooldowns.answered(OPUS, T + 5) is not None
    assert cooldowns.cooling(SONNET, T + 5) is None


def test_an_older_refusal_that_is_read_late_does_not_make_an_answer_count():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(10, told=hint(T + 3600)), RESTS)
    cooldowns.record(refusal(5, told=hint(T + 3600)), RESTS)
    assert cooldowns.answered(SONNET, T + 7) is None
    assert cooldowns.answered(SONNET, T + 11) is not None


def test_after_a_clear_only_what_was_refused_since_counts():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(0, session="ses_1", told=hint(T + 3600)), RESTS)
    cooldowns.record(refusal(10, session="ses_2", told=hint(T + 3600)), RESTS)
    (again,) = cooldowns.replace_all([], T + 5)
    assert (again.since, again.strikes) == (T + 10, 1)
    assert Cooldowns(()).replace_all([], T + 5) == ()


def test_an_answer_that_was_asked_for_in_the_moment_of_the_refusal_proves_nothing():
    cooldowns = Cooldowns()
    cooldowns.record(refusal(2), RESTS)
    assert cooldowns.answered(SONNET, T + 2) is None
    assert cooldowns.answered(SONNET, T + 2.001).model == SONNET
