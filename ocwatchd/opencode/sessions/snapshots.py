"""One session through one door, as a SessionView: status, last messages, open questions, put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ocwatchd.clock import Clock
from ocwatchd.core.capability import CHARS_PER_TOKEN, Needs
from ocwatchd.core.limits import REASON_CAP, ErrorFacts, ModelRef
from ocwatchd.core.views import ABORTED, Door, SessionState, SessionView
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.records import Message

_FEW, _MANY = 4, 60
"""Messages fetched at first, and where these hold no answer. A message may carry megabytes; the last prompt and the
last answer are nearly always among the last four."""

_IDLE = RetryStatus("idle")
_STATES = {"busy": SessionState.BUSY, "retry": SessionState.RETRY}


def look(
    api: Api,
    session: Session,
    clock: Clock,
    statuses: Mapping[str, RetryStatus] | None = None,
    *,
    questions: bool = True,
) -> SessionView:
    """The session now. `statuses` saves a call if the caller has just asked; without `questions`, `asking` is False.

    Raises:
        DoorError: the door does not answer, or does not know the session.
    """
    known = api.status(session.directory) if statuses is None else statuses
    seen = clock.now()
    messages = turn(api, session)
    asking = questions and api.asking(session)
    return view_of(api.door, session, known.get(session.id, _IDLE), messages, asking, seen)


def turn(api: Api, session: Session) -> list[Message]:
    """The end of the session, oldest first: at least the last prompt, and the answer under way if there is one.

    Raises:
        DoorError: as `look`.
    """
    last = api.messages(session.id, session.directory, _FEW)
    if len(last) == _FEW and not any(not message.user for message in last):
        last = api.messages(session.id, session.directory, _MANY)  # many prompts queued behind one answer
    answer = last_answer(last)
    if answer and answer.parent and not any(message.user for message in last):  # a long turn: its prompt lies far back
        return [api.message(session.id, answer.parent, session.directory), *last]
    return last


def last_answer(messages: Sequence[Message]) -> Message | None:
    """The newest assistant message."""
    return next((message for message in reversed(messages) if not message.user), None)


def last_prompt(messages: Sequence[Message]) -> Message | None:
    """The newest user message."""
    return next((message for message in reversed(messages) if message.user), None)


def view_of(
    door: Door, session: Session, status: RetryStatus, messages: Sequence[Message], asking: bool, seen: float
) -> SessionView:
    """Put together what the calls said. `seen` is when they were made, epoch seconds."""
    answer, prompt = last_answer(messages), last_prompt(messages)
    state = _STATES.get(status.type) or _resting(answer)
    retrying = state is SessionState.RETRY
    answered = answer is not None and (_answers(answer, prompt, messages) or state is not SessionState.IDLE)
    return SessionView(
        session=session.id,
        directory=session.directory,
        door=door,
        state=state,
        seen=seen,
        attempt=status.attempt if retrying else None,
        next_at=status.next_at if retrying else None,
        message=status.message[:REASON_CAP],
        model=(answer.model if answer and answered else None) or (prompt.model if prompt else None),
        agent=(prompt.agent if prompt else None) or (answer.agent if answer else None),
        user_message=prompt.id if prompt else None,
        before=_before(messages, answer),
        prompt_model=prompt.model if prompt else None,
        parent=session.parent,
        running=answer.running if answer else (),
        asking=asking,
        last_error=_error(answer),
        answer=answer.id if answer else None,
        answer_started=answer.created if answer else None,
        answer_ended=answer.completed if answer else None,
        answer_completed=answer is not None and answer.completed is not None,
        answer_began=answer is not None and answer.began,
        answer_spoke=answer is not None and answer.spoke,
        queued=_queued(messages, answer),
        version=session.version,
        needs=needs_of(messages),
    )


def needs_of(messages: Sequence[Message]) -> Needs:
    """What a model has to take: what the last counted answer filled, and the texts after it."""
    counted = [index for index, message in enumerate(messages) if message.tokens]
    known, after = 0, messages
    if counted:
        last = messages[counted[-1]]
        # After a summary only the summary itself goes on.
        known = (last.tokens.output if last.summary else last.tokens.context) if last.tokens else 0
        after = messages[counted[-1] + 1 :]
    kinds = frozenset(kind for message in messages for kind in message.media)
    tokens = known + sum(message.length for message in after) // CHARS_PER_TOKEN
    return Needs(tokens, kinds, any(message.called for message in messages))


def _before(messages: Sequence[Message], answer: Message | None) -> tuple[ModelRef, ...]:
    """Models of the answers before this one, where they are others."""
    models = [message.model for message in reversed(messages) if not message.user and message is not answer]
    return tuple(dict.fromkeys(model for model in models if model and answer and model != answer.model))


def _resting(answer: Message | None) -> SessionState:
    failed = answer is not None and (answer.error is not None or answer.stopped)
    return SessionState.ERROR if failed else SessionState.IDLE


def _error(answer: Message | None) -> ErrorFacts | None:
    if answer is not None and answer.error is None and answer.stopped:
        return ErrorFacts(name=ABORTED)
    return answer.error if answer else None


def _answers(answer: Message, prompt: Message | None, messages: Sequence[Message]) -> bool:
    """An answer to an earlier prompt says nothing of a prompt that nobody has begun to answer."""
    if prompt is None or answer.parent == prompt.id:
        return True
    return messages.index(answer) > messages.index(prompt)


def _queued(messages: Sequence[Message], answer: Message | None) -> int:
    """Prompts that the last answer does not answer: they came while it was made, or after it."""
    if answer is None:
        return 0
    ids = [message.id for message in messages]
    since = ids.index(answer.parent) if answer.parent in ids else -1
    return sum(1 for message in messages[since + 1 :] if message.user)
