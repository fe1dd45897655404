"""Take the snapshot of an OpenCode 2 session: its activity, last messages, questions and waiting prompts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ocwatchd.clock import Clock
from ocwatchd.core.domain.backoff import is_native_delay
from ocwatchd.core.domain.snapshot import ABORTED, Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ErrorDetails, ModelRef
from ocwatchd.core.text.redact import REASON_CAP
from ocwatchd.opencode.client.v2.messages import Info, Step, steps_of, summarizes
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.sessions.messages import Json, Message
from ocwatchd.opencode.sessions.snapshots import needs_of

_FEW, _MANY = 6, 80
"""Number of messages to fetch first, and number to fetch if these messages contain no prompt. Each step of a turn is a
message.
"""
RELEASED_DELAYS = (2.0, 4.0, 8.0, 10.0)
"""Delays, in seconds, before the first retries in the releases (2.0.7 and later, with jitter). All later retries have
the last of these delays. In the preview, the delays are 2, 4, 8 and 16 s.
"""
ATTEMPT_DUE = 15.0
"""Number of seconds after which a next attempt that is due counts as running. OpenCode keeps showing the wait until the
first byte of the answer has arrived (0.0.0-next-16350), even if nothing is ever sent.
"""
JITTER = 0.3
"""Fraction by which the delays of the releases vary."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A session's snapshot with the data that a move needs. `raw` contains texts and is kept only during the move."""

    snapshot: SessionSnapshot
    info: Info
    steps: tuple[Step, ...]
    raw: tuple[Json, ...]
    queued: int
    active: frozenset[str]
    """Ids of all active sessions."""

    @property
    def prompt(self) -> Json | None:
        """The user's last message, or None if it was not fetched."""
        return next((entry for entry in reversed(self.raw) if entry.get("type") == "user"), None)

    @property
    def tools_ended(self) -> bool:
        """Whether a tool call has ended since the user's last message."""
        return any(step.tools_ended for step in self._since_prompt())

    @property
    def only_answers_prompt(self) -> bool:
        """Whether all messages after the user's last message are answers. Synthetic messages and skills do not count as
        answers.
        """
        return not any(step.message.user for step in self._since_prompt())

    def _since_prompt(self) -> Sequence[Step]:
        last = max((index for index, step in enumerate(self.steps) if step.type == "user"), default=-1)
        return self.steps[last + 1 :]


def turn_of(api: Routes, session: str, clock: Clock, *, thorough: bool = False, known: Info | None = None) -> Turn:
    """Return the current turn of a session, with its snapshot.

    The waiting prompts of an idle session are always counted. Those of a busy session are counted only if `thorough` is
    True and the session is not waiting for a retry. If `known` is given, it is used instead of fetching the session,
    and questions are not checked.

    Raises:
        EndpointError: The endpoint does not respond, or does not know the session.
    """
    # Simultaneous requests took 70 ms, and consecutive ones 130 ms (at a load of 17), although OpenCode has only one
    # thread.
    with ThreadPoolExecutor(2, "turn") as threads:
        activity, last_messages = threads.submit(api.active), threads.submit(api.messages, session, _FEW)
        info = known or api.session(session)
        active, raw = activity.result(), last_messages.result()
    if session not in active:
        # If the turn ended after the messages were read, these old messages would look like those of a stopped turn.
        raw = api.messages(session, _FEW)
    works, seen = session in active, clock.now()
    if len(raw) >= _FEW and not any(entry.get("type") == "user" for entry in raw):
        raw = api.messages(session, _MANY)
    steps = tuple(steps_of(raw))
    # A step that waits for a retry runs no tool call that could have a question.
    waits = works and any(step.retry is not None for step in steps[-1:])
    queued = api.queued(session) if (thorough and not waits) or not works else 0
    asking = works and not waits and known is None and api.asking(session)
    run = any(run.may_own(info.directory, info.created, info.id, info.parent) for run in api.endpoint.runs)
    unnamed = works and info.model is None and all(step.message.user for step in steps)
    default = api.default_model(info.directory) if unnamed else None
    snapshot = snapshot_of(
        api.endpoint, info, steps, works, seen,
        queued=queued, asking=asking, run=run, default=default, compacting=works and summarizes(raw),
    )  # fmt: skip
    return Turn(snapshot, info, steps, tuple(raw), queued, active)


def snapshot_of(
    endpoint: Endpoint,
    info: Info,
    steps: Sequence[Step],
    active: bool,
    seen: float,
    *,
    queued: int = 0,
    asking: bool = False,
    run: bool = False,
    default: ModelRef | None = None,
    compacting: bool = False,
) -> SessionSnapshot:
    """Build a snapshot from the responses. `seen` is the time of the responses, in epoch seconds. `default` is the
    model of a session for which no model was chosen and that has no answer yet.
    """
    answer = next((step for step in reversed(steps) if not step.message.user), None)
    prompt = next((step for step in reversed(steps) if step.type == "user"), None)
    asked = next((step for step in reversed(steps) if step.message.user), None)
    named = prompt or asked
    behind = answer is not None and asked is not None and steps.index(asked) > steps.index(answer)
    last = answer.message if answer is not None and not (behind and not active) else None
    retry = answer.retry if answer is not None and active else None
    if retry is not None and retry.at is not None and seen - retry.at > ATTEMPT_DUE:
        retry = None
    error = None if behind else _error(answer, active)  # the error of an earlier turn says nothing about this one
    state = _state(active, retry is not None, error)
    return SessionSnapshot(
        session=info.id,
        directory=info.directory,
        endpoint=endpoint,
        state=state,
        seen=seen,
        attempt=retry.attempt if retry else None,
        next_at=retry.at if retry else None,
        message=(retry.error.message[:REASON_CAP] if retry and retry.error else ""),
        refusal=retry.error if retry else None,
        honoured=_honoured(retry.attempt, retry.at - seen) if retry and retry.at is not None else None,
        model=_model(info, last, default, awaited=behind and active),
        agent=info.agent or (last.agent if last else None),
        user_message=named.message.id if named else None,
        before=_before(steps, answer),
        prompt_model=info.model,
        parent=info.parent,
        running=last.running if last and active else (),
        asking=asking,
        last_error=None if state is SessionState.RETRY or last is None else error,
        answer=last.id if last else None,
        answer_started=last.created if last else None,
        answer_ended=last.completed if last else None,
        answer_completed=last is not None and last.completed is not None,
        answer_began=last is not None and last.began,
        answer_spoke=last is not None and last.spoke,
        queued=queued + int(behind and not active),
        needs=needs_of([step.message for step in steps]),
        switchable=True,
        belongs_to_run=run,
        compacting=compacting,
    )


def _model(info: Info, last: Message | None, default: ModelRef | None, *, awaited: bool) -> ModelRef | None:
    """Return the model that wrote the last answer or, if `awaited`, the model from which the next answer is awaited.

    An answer is listed only after its first byte has arrived, so before that, the last answer belongs to an earlier
    prompt.
    """
    answered = last.model if last is not None else None
    return (info.model or answered if awaited else answered or info.model) or default


def _state(active: bool, waits: bool, error: ErrorDetails | None) -> SessionState:
    if active:
        return SessionState.RETRY if waits else SessionState.BUSY
    return SessionState.ERROR if error is not None else SessionState.IDLE


def _error(answer: Step | None, active: bool) -> ErrorDetails | None:
    """Return the error of the last answer. An answer that was stopped while it was waiting has neither an error nor an
    end time.
    """
    if answer is None:
        return None
    message = answer.message
    if message.error is not None:
        return message.error
    stopped = not active and message.finish in (None, "tool-calls")
    return ErrorDetails(name=ABORTED) if stopped else None


def _before(steps: Sequence[Step], answer: Step | None) -> tuple[ModelRef, ...]:
    """Return the models, other than that of `answer`, that produced the earlier answers, most recent first."""
    if answer is None:
        return ()
    models = [step.message.model for step in reversed(steps) if not step.message.user and step is not answer]
    return tuple(dict.fromkeys(model for model in models if model and model != answer.message.model))


def _honoured(attempt: int, left: float) -> bool:
    """Return whether the provider requested the wait. This is the case if the remaining time is longer than OpenCode's
    own backoff.

    It is unknown how much of the wait has already passed, so only a remaining time longer than the whole backoff is
    conclusive.
    """
    own = max(2.0 ** min(attempt, 10), RELEASED_DELAYS[min(attempt, len(RELEASED_DELAYS)) - 1])
    return left > own * (1 + JITTER)


def is_own_delay(attempt: int, seconds: float, slack: float) -> bool:
    """Return whether a wait of `seconds` after refused attempt number `attempt` is OpenCode's own backoff."""
    released = RELEASED_DELAYS[min(max(attempt, 1), len(RELEASED_DELAYS)) - 1]
    spread = released * JITTER + slack
    return abs(seconds - released) <= spread or is_native_delay(attempt, seconds, slack)
