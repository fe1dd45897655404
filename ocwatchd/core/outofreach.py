"""A look that showed nothing of the session: repeated soon at first, and said, since silence would look like sleep."""

from __future__ import annotations

from ocwatchd.core.cases import Case, Doing
from ocwatchd.core.decider import RECHECK
from ocwatchd.core.limits import Certainty, LimitEvent, ModelRef
from ocwatchd.core.messages import Effect, Note, Surveyed, Tell
from ocwatchd.core.views import SessionState, SessionView

MISSES = 3
"""Looks that may find no door before a session counts as out of reach."""


def nobody_showed(case: Case, answer: Surveyed, now: float) -> list[Effect]:
    """No door showed this session: look again, or say that it is out of reach."""
    case.misses += 1
    if case.misses < MISSES and _in_trouble(case):
        case.wake = now + RECHECK  # a busy machine, or an OpenCode that starts: a door that hangs once is not gone
        model = case.pending.ref if case.pending else None
        again = _unanswered(case.session, model, f"{_why(answer)}, looking again")
        return [again] if case.misses == 1 else []
    pending, case.pending, case.heard, case.misses = case.pending, None, None, 0
    patience = case.patience
    effects = _give_up(case, pending, answer)
    if answer.failing:  # it may be behind one of these, and they may come to their senses
        case.patience = patience
        case.look_later(now)
    return effects


def may_run_elsewhere(case: Case, view: SessionView) -> bool:
    """Whether the turn may run behind a door that is not open yet: it was refused, and is shown at rest, unanswered.

    1.14 and 1.15 keep two sets of sessions in one process, of which each door knows the turns of one.
    """
    resting = view.state is SessionState.IDLE and not (view.answer_completed and not view.queued)
    return resting and _in_trouble(case) and case.misses < MISSES - 1


def _in_trouble(case: Case) -> bool:
    """Whether something is known of it, from an earlier life too, that no door has shown yet."""
    return case.pending is not None or case.heard is not None or case.stranded or case.counted is not None


def _give_up(case: Case, pending: LimitEvent | None, answer: Surveyed) -> list[Effect]:
    if pending is None or pending.verdict.certainty is not Certainty.SURE:
        if case.doing is Doing.LEFT and not answer.failing:
            case.rest("")  # its process has ended, and what was said of it with it
        return []
    why = _why(answer)
    case.rest(f"limited, and {why}")
    return _unreachable(case.session, pending.ref, why)


def _why(answer: Surveyed) -> str:
    if answer.doors == 0:
        return "OpenCode does not answer" if answer.failing else "no OpenCode answers"
    why = (
        "no OpenCode that answers is at work on this session"
        if answer.views
        else "no OpenCode that answers knows this session"
    )
    if answer.failing:
        why += f", and {answer.failing} {'fails' if answer.failing == 1 else 'fail'} at present"
    return why


def _unanswered(session: str, model: ModelRef | None, why: str) -> Note:
    """A look at a session in trouble showed nothing of it, and is repeated."""
    return Note("unanswered", {"session": session, "model": str(model) if model else None, "why": why})


def _unreachable(session: str, model: ModelRef | None, why: str) -> list[Effect]:
    """No door leads to a limited session."""
    text = f"{why}: switch the model by hand, or start OpenCode with --port"
    return [
        Note("unreachable", {"session": session, "model": str(model), "why": why}),
        Tell(f"unreachable:{session}", f"{model} is limited", text, session),
    ]
