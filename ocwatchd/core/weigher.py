"""What a door shows of a session, weighed together with what the log said: is this turn limited, and what follows?"""

from __future__ import annotations

from ocwatchd.core import evidence, notes
from ocwatchd.core.cases import Case, Doing
from ocwatchd.core.decider import ENDING, RECHECK, Decider
from ocwatchd.core.guards import silent
from ocwatchd.core.limits import Certainty, Hint, LimitEvent, ModelRef
from ocwatchd.core.messages import Effect, Shown
from ocwatchd.core.mind import Mind
from ocwatchd.core.reason import reason_of
from ocwatchd.core.registrar import Registrar
from ocwatchd.core.rejection import rejected
from ocwatchd.core.views import SessionState, SessionView

JUST_AFTER = 0.001
"""Seconds: OpenCode's next attempt comes after the refusal, be it ever so soon."""
FRESH = 60.0
"""Seconds after which a failed turn is old news: it never moves a session."""
MOST_UNKNOWN_WORDS = 500
"""Different texts of doubtful retries that are journalled in one life of the daemon."""


class Weigher:
    """Judges one session at a time."""

    def __init__(self, mind: Mind, registrar: Registrar, decider: Decider) -> None:
        """What is found to be limited is entered by `registrar` and handed to `decider`."""
        self._mind, self._registrar, self._decider = mind, registrar, decider
        self._unknown_words: set[str] = set()

    def weigh(self, case: Case, view: SessionView, now: float) -> list[Effect]:
        """What follows from what a door shows of this session."""
        pending, case.pending, case.misses = case.pending, None, 0
        case.begin_message(view.user_message)
        closed = self._decider.found_after(case, view)
        return [*closed, *self._weigh(case, view, pending, now)]

    def _weigh(self, case: Case, view: SessionView, pending: LimitEvent | None, now: float) -> list[Effect]:
        if case.stranded and _stopped_unanswered(view):
            return self._decider.move(case, view, "a move of ours has stopped it", now)
        if view.aborted:
            case.pending = pending
            return self._decider.stopped(case)
        looping = case.looping(now) and view.state is SessionState.BUSY and silent(view)
        if not (view.stuck or looping) or view.model is None:
            return self._weigh_progress(case, view, pending, now)
        failed_at, case.heard = evidence.moment_of(view, _exact_time(pending, view.model), case.heard), None
        fact = evidence.fact_about(view, case.fact)
        told = evidence.header_hint(fact) or evidence.honoured_until(view, failed_at)
        shown = evidence.judge(view, self._mind.rules, told, fact)
        effects, limited = self._weigh_evidence(case, view, pending, shown, told, now)
        entry = self._mind.ledger.cooling(view.model, now)
        if limited and entry is None and view.state is SessionState.RETRY:
            return effects + self._decider.let_wait(case, view, "the limit has just ended", now)
        # A retry on a model that is known to cool is stuck, whatever its words; a failure must itself be a limit.
        if entry is None or not (limited or view.state is SessionState.RETRY):
            words = None if limited else rejected(view, now, FRESH)
            onwards = self._decider.rejected(case, view, words, now) if words else []
            return effects + (onwards or self._wait_for_another_eye(case, view, now))
        return effects + self._decider.decide(case, view, entry, now)

    def _weigh_evidence(
        self,
        case: Case,
        view: SessionView,
        pending: LimitEvent | None,
        shown: LimitEvent | None,
        told: Hint | None,
        now: float,
    ) -> tuple[list[Effect], bool]:
        """Enter what the door shows beyond the log. Says also whether this turn is limited at all."""
        model = view.model
        if model is None:
            return [], False
        this = (model, view.user_message, view.attempt or 0)
        if case.counted == model:
            case.entered = this
        case.counted = None
        if pending is not None and pending.ref == model and pending.verdict.certainty is Certainty.SURE:
            case.entered = this
            return self._registrar.refine(case.session, model, told, now), True
        if shown is None or shown.verdict.certainty is not Certainty.SURE or now - shown.time > FRESH:
            return [], False
        if case.entered == this or self._mind.ledger.lifted_since(shown):
            case.entered = this
            return [], True
        case.entered, case.sighted[model] = this, view.seen
        return [Shown(case.session, *this, view.seen), *self._registrar.enter(shown, True, now)], True

    def _wait_for_another_eye(self, case: Case, view: SessionView, now: float) -> list[Effect]:
        """Words that prove nothing: look again after the next attempt; keep them, so that a rule can be made."""
        case.rest("")
        if view.state is not SessionState.RETRY:
            return []
        case.wake = max(now, view.next_at or now) + RECHECK
        case.phrase = "retrying, not known to be limited"
        words = reason_of(view.message, 200)
        if words in self._unknown_words or len(self._unknown_words) >= MOST_UNKNOWN_WORDS:
            return []
        self._unknown_words.add(words)
        return [notes.doubtful(view, words)]

    def _weigh_progress(self, case: Case, view: SessionView, pending: LimitEvent | None, now: float) -> list[Effect]:
        """The turn runs or has ended well. An answer proves that its model works again."""
        if pending is not None and pending.ref == view.model:
            # OpenCode asked again before we looked: what comes of it is still to be seen.
            case.doing, case.retried_at = Doing.WAITING, pending.time + JUST_AFTER
        if view.state is SessionState.BUSY:
            if case.doing is Doing.WAITING:
                case.look_later(now)
            if view.model != case.landed:
                case.phrase = "working"
            if view.last_error is not None and now - (view.answer_ended or 0.0) < FRESH:
                case.wake = now + ENDING
            return []
        # An answer is begun with the first attempt at it, which may have been refused; the retry's time says more.
        began = max(view.answer_started or 0.0, case.retried_at)
        waited = case.doing is not Doing.NOTHING and view.answer_completed
        # Where it was moved stays worth saying while it is there.
        case.rest(case.phrase if view.model == case.landed and case.phrase.startswith("moved") else "")
        return self._registrar.answered(view, began) or ([notes.went_on(view, began)] if waited else [])


def _stopped_unanswered(view: SessionView) -> bool:
    """Whether nothing runs and the last prompt has no answer."""
    answered = view.state is SessionState.IDLE and view.answer_completed and not view.queued
    return not answered and (view.aborted or view.state is SessionState.IDLE)


def _exact_time(event: LimitEvent | None, model: ModelRef) -> float | None:
    """The failure's own time, if a log with a millisecond clock told it; a whole second is an old log's."""
    if event is None or event.ref != model or event.time == int(event.time):
        return None
    return event.time
