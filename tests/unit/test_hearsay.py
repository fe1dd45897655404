"""Tests of limits that other machines have reported: they affect only new prompts."""

from __future__ import annotations

from typing import Any

import pytest

from ocwatchd.core.domain.budget import Tokens
from ocwatchd.core.domain.cooldowns import Cooldown, CooldownPolicy, Cooldowns, joined
from ocwatchd.core.domain.types import (
    Certainty,
    ErrorDetails,
    Hint,
    LimitEvent,
    LimitKind,
    ModelRef,
    ResetSource,
    Scope,
    Target,
    Verdict,
)
from ocwatchd.core.engine.engine import Returns
from ocwatchd.core.engine.messages import Remember, ReturnSession
from ocwatchd.core.fallback.choice import Chosen, Exhausted, fallback
from ocwatchd.core.policy import Policy
from ocwatchd.opencode.sessions.message_store import Answer
from ocwatchd.opencode.sessions.messages import Message
from ocwatchd.share.answers import Answers
from tests.unit.test_sharing import NOW, OPUS, SONNET, limit


def hearsay(model: ModelRef = OPUS, **more: object) -> Cooldown:
    fields: dict[str, object] = {"reset_source": ResetSource.SHARED, "strikes": 0, "session": None}
    return limit(model, **{**fields, **more})


def refusal(at: float, until: float | None = None) -> LimitEvent:
    verdict = Verdict(Certainty.SURE, LimitKind.RATE_LIMIT, Scope.MODEL, "r")
    hint = None if until is None else Hint(until, until - at, ResetSource.RETRY_AFTER, "retry-after")
    return LimitEvent(at, OPUS.provider, OPUS.model, "ses_2", None, False, 429, verdict, hint, "too many")


def test_hearsay_keeps_new_prompts_away_and_says_nothing_of_running_turns() -> None:
    cooldowns = Cooldowns([hearsay()])
    assert cooldowns.cooling(OPUS, NOW) is None
    assert cooldowns.limited(OPUS, NOW) is not None
    assert cooldowns.avoided(OPUS, NOW) is not None


def test_hearsay_is_no_strike_and_does_not_lengthen_what_is_met_here() -> None:
    cooldowns = Cooldowns([hearsay()])
    entry = cooldowns.record(refusal(NOW + 5), CooldownPolicy())
    assert (entry.strikes, entry.doublings, entry.until) == (1, 0, NOW + 65)
    assert entry.reset_source is ResetSource.ESTIMATE


def test_an_answer_that_began_after_the_report_ends_it_and_an_older_one_does_not() -> None:
    cooldowns = Cooldowns([hearsay()])
    assert cooldowns.answered(OPUS, NOW - 1) is None
    assert cooldowns.answered(OPUS, NOW + 1) is not None


def test_a_limit_met_here_holds_when_hearsay_was_written_meanwhile() -> None:
    ours = limit(session="ses_9", reset_source=ResetSource.ESTIMATE, lasting=60.0)
    assert joined(None, ours, hearsay()) == ours
    assert joined(None, hearsay(target=Target(SONNET)), ours) == ours


class Stored:
    """A message store backed by a list."""

    def __init__(self, *answers: Answer) -> None:
        self.all, self.reads = list(answers), 0

    def mark(self) -> float:
        return float(len(self.all))

    def answers(self, since: float) -> list[Answer]:
        self.reads += 1
        return [answer for answer in self.all if (answer.message.created or 0.0) >= since]


def answer(begun: float, **more: Any) -> Answer:
    fields: dict[str, Any] = {"model": OPUS, "completed": begun + 5, "tokens": Tokens(input=9, output=3)}
    return Answer("ses_1", Message("msg_1", "assistant", created=begun, **{**fields, **more}))


@pytest.mark.parametrize(
    ("stored", "proves"),
    [
        (answer(NOW + 2), True),
        (answer(NOW - 2), False),
        (answer(NOW + 2, completed=None), False),
        (answer(NOW + 2, error=ErrorDetails("429")), False),
        (answer(NOW + 2, tokens=None), False),
        (answer(NOW + 2, model=SONNET), False),
    ],
)
def test_only_an_answer_to_a_later_request_proves_that_a_report_is_out_of_date(stored: Answer, proves: bool) -> None:
    assert Answers(Stored(stored)).of({OPUS: NOW}, NOW + 60) == ({OPUS} if proves else set())
    whole = OPUS.whole_provider
    assert Answers(Stored(stored)).of({whole: NOW}, NOW + 60) == (
        {whole} if proves or stored.message.model == SONNET else set()
    )


def test_the_store_is_read_only_while_a_report_holds_and_after_a_write() -> None:
    store = Stored(answer(NOW - 2))
    answers = Answers(store)
    assert answers.of({}, NOW) == set()
    for seconds in range(0, 60, 2):
        answers.of({OPUS: NOW}, NOW + 60 + seconds)
    assert store.reads == 1
    store.all.append(answer(NOW + 100))
    assert answers.of({OPUS: NOW}, NOW + 130) == {OPUS}


def test_a_fallback_that_another_machine_has_reported_is_passed_over() -> None:
    second, third = ModelRef("other", "second"), ModelRef("other", "third")
    policy = Policy(chains={str(OPUS): (str(second), str(third))})
    cooldowns = Cooldowns([limit(), hearsay(second)])
    chosen = fallback(policy, cooldowns, OPUS, None, (), NOW)
    assert isinstance(chosen, Chosen)
    assert chosen.target.model == third
    cooldowns = Cooldowns([limit(), hearsay(second), hearsay(third, lasting=60.0)])
    exhausted = fallback(policy, cooldowns, OPUS, None, (), NOW)
    assert isinstance(exhausted, Exhausted)
    assert exhausted.soonest == (third, NOW + 60)


def test_a_session_is_not_returned_to_a_primary_that_another_machine_has_reported() -> None:
    returns = Returns()
    returns.note([Remember("ses_1", Target(OPUS), Target(SONNET))])
    assert returns.due(Cooldowns([hearsay(lasting=60.0)]), NOW) == []
    assert returns.due(Cooldowns([hearsay(lasting=60.0)]), NOW + 60) == [
        ReturnSession("ses_1", Target(OPUS), Target(SONNET))
    ]
