"""Take the snapshot of an OpenCode 1 session at an endpoint, from its status, last messages and open questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from ocwatchd.clock import Clock
from ocwatchd.core.domain.capability import CHARS_PER_TOKEN, Needs
from ocwatchd.core.domain.snapshot import ABORTED, Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ErrorDetails, ModelRef
from ocwatchd.core.text.redact import REASON_CAP
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api
from ocwatchd.opencode.sessions.messages import Message

_FEW, _MANY = 4, 60
"""Number of messages to fetch first, and number to fetch if these messages contain no answer. A message can be several
megabytes long, and the last prompt and the last answer are nearly always among the last four messages.
"""

SOON = 60.0
"""A subagent that is waiting in OpenCode's own retry is treated as working if its next attempt is at most this many
seconds away.
"""

_IDLE = RetryStatus("idle")
_STATES = {"busy": SessionState.BUSY, "retry": SessionState.RETRY}


def take_snapshot(
    api: Api,
    session: Session,
    clock: Clock,
    statuses: Mapping[str, RetryStatus] | None = None,
    *,
    questions: bool = True,
) -> SessionSnapshot:
    """Return the current snapshot of a session.

    `statuses`, if given, are used instead of a request. If `questions` is False, open questions are not fetched, and
    `asking` is False.

    Raises:
        EndpointError: The endpoint does not respond, or does not know the session.
    """
    return take_detailed_snapshot(api, session, clock, statuses, questions=questions).snapshot


@dataclass(frozen=True, slots=True)
class DetailedSnapshot:
    """A snapshot with its sources: statuses by session id, and the session's last messages, oldest first."""

    snapshot: SessionSnapshot
    statuses: Mapping[str, RetryStatus]
    messages: Sequence[Message]


def take_detailed_snapshot(
    api: Api,
    session: Session,
    clock: Clock,
    statuses: Mapping[str, RetryStatus] | None = None,
    *,
    questions: bool = True,
) -> DetailedSnapshot:
    """Return the same snapshot as `take_snapshot`, together with its sources. This usually takes one round trip.

    Raises:
        EndpointError: Same as for `take_snapshot`.
    """
    shown = api.at_once(session, _FEW, clock.now, status=statuses is None, questions=questions)
    known = shown.statuses if statuses is None else statuses
    messages = _complete(api, session, shown.messages)
    status = known.get(session.id, _IDLE)
    found = snapshot_of(api.endpoint, session, status, messages, shown.asking, shown.seen)
    return DetailedSnapshot(replace(found, background=_in_background(api, session, found, known)), known, messages)


def _in_background(
    api: Api, session: Session, now: SessionSnapshot, statuses: Mapping[str, RetryStatus]
) -> tuple[str, ...]:
    """Return the session's direct and indirect subagents that are working although no running tool call is waiting for
    them.

    Subagents with a long wait in their own retry are excluded, because an abort would not destroy any of their work.
    """
    if now.state not in (SessionState.BUSY, SessionState.RETRY):
        return ()  # a move does not abort an idle session, so its subagents do not matter
    named = {tool.child for tool in now.running}
    others = {ident: status for ident, status in statuses.items() if ident not in (session.id, session.parent, *named)}
    at_work = {ident for ident, status in others.items() if _works(status, now.seen)}
    found: list[str] = []
    asked = [session.id, *(child for child in named if child)]
    while asked and at_work:
        children = [child for child in api.children(asked.pop(), session.directory) if child in at_work]
        at_work.difference_update(children)
        found += children
        asked += children
    return tuple(found)


def _works(status: RetryStatus, now: float) -> bool:
    return status.type == "busy" or (status.next_at is not None and status.next_at - now <= SOON)


def unfinished_children(api: Api, session: Session, since: float, known: str | None) -> tuple[str, ...]:
    """Return the session's direct and indirect subagents whose last answer is open and began after `since`.

    This function is used if the session's process cannot be queried. `api` belongs to another process with the same
    home. That process cannot distinguish working subagents from waiting ones. `since` is in epoch seconds. The subagent
    `known` is excluded.

    Raises:
        EndpointError: Same as for `take_snapshot`.
    """
    found: list[str] = []
    asked = [session.id]
    while asked:
        for child in api.children(asked.pop(), session.directory):
            answer = last_answer(api.messages(child, session.directory, _FEW))
            if answer is not None and answer.completed is None and (answer.created or since) >= since:
                found += [child] if child != known else []
                asked.append(child)
    return tuple(found)


def turn(api: Api, session: Session) -> list[Message]:
    """Return the last messages, oldest first, including at least the last prompt and the running answer.

    Raises:
        EndpointError: Same as for `take_snapshot`.
    """
    return _complete(api, session, api.messages(session.id, session.directory, _FEW))


def _complete(api: Api, session: Session, last: list[Message]) -> list[Message]:
    """Return the session's last messages. This is `last`, or a longer list if `last` lacks the last prompt or the last
    answer.
    """
    if len(last) == _FEW and not any(not message.user for message in last):
        last = api.messages(session.id, session.directory, _MANY)  # many prompts may be queued after the last answer
    answer = last_answer(last)
    # the turn may be so long that its prompt is not among the last messages
    if answer and answer.parent and not any(message.user for message in last):
        return [api.message(session.id, answer.parent, session.directory), *last]
    return last


def last_answer(messages: Sequence[Message]) -> Message | None:
    """Return the newest assistant message."""
    return next((message for message in reversed(messages) if not message.user), None)


def last_prompt(messages: Sequence[Message]) -> Message | None:
    """Return the newest user message."""
    return next((message for message in reversed(messages) if message.user), None)


def snapshot_of(
    endpoint: Endpoint, session: Session, status: RetryStatus, messages: Sequence[Message], asking: bool, seen: float
) -> SessionSnapshot:
    """Build a snapshot from the responses. `seen` is the time of the responses, in epoch seconds."""
    answer, prompt = last_answer(messages), last_prompt(messages)
    state = _STATES.get(status.type) or _idle_state(answer)
    retrying = state is SessionState.RETRY
    answered = answer is not None and (_answers(answer, prompt, messages) or state is not SessionState.IDLE)
    return SessionSnapshot(
        session=session.id,
        directory=session.directory,
        endpoint=endpoint,
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
        empty_steps=_empty_steps(messages),
        cut_steps=_cut_steps(messages),
        compacting=answer is not None and answer.summary,
        queued=_queued(messages, answer),
        version=session.version,
        needs=needs_of(messages),
    )


def needs_of(messages: Sequence[Message]) -> Needs:
    """Return what the session requires of a model: a context window that is large enough for all tokens (counted up to
    the last answer, and estimated for later texts), support for the session's media, and support for tool calls if the
    session has any.
    """
    counted = [index for index, message in enumerate(messages) if message.tokens]
    known, after = 0, messages
    if counted:
        last = messages[counted[-1]]
        # After a summary, only the summary itself is sent to the model.
        known = (last.tokens.output if last.summary else last.tokens.context) if last.tokens else 0
        after = messages[counted[-1] + 1 :]
    kinds = frozenset(kind for message in messages for kind in message.media)
    tokens = known + sum(message.length for message in after) // CHARS_PER_TOKEN
    return Needs(tokens, kinds, any(message.called for message in messages))


def _before(messages: Sequence[Message], answer: Message | None) -> tuple[ModelRef, ...]:
    """Return the models, other than that of `answer`, that produced the earlier answers, most recent first."""
    models = [message.model for message in reversed(messages) if not message.user and message is not answer]
    return tuple(dict.fromkeys(model for model in models if model and answer and model != answer.model))


def _idle_state(answer: Message | None) -> SessionState:
    failed = answer is not None and (answer.error is not None or answer.stopped)
    return SessionState.ERROR if failed else SessionState.IDLE


def _error(answer: Message | None) -> ErrorDetails | None:
    if answer is not None and answer.error is None and answer.stopped:
        return ErrorDetails(name=ABORTED)
    return answer.error if answer else None


def _answers(answer: Message, prompt: Message | None, messages: Sequence[Message]) -> bool:
    """Return whether an answer belongs to this prompt, not to an earlier prompt."""
    if prompt is None or answer.parent == prompt.id:
        return True
    return messages.index(answer) > messages.index(prompt)


def _empty_steps(messages: Sequence[Message]) -> int:
    """Return the number of consecutive empty answers of the last model, ending with the latest. A running answer is not
    counted.
    """
    answers = [message for message in messages if not message.user]
    if not answers:
        return 0
    model = answers[-1].model
    if answers[-1].completed is None and not answers[-1].spoke:
        del answers[-1]
    return sum(1 for _ in takewhile(lambda message: message.empty and message.model == model, reversed(answers)))


def _cut_steps(messages: Sequence[Message]) -> int:
    """Return the number of consecutive cut-off answers of the last model, ending with the latest. A running answer is
    not counted.
    """
    answers = [message for message in messages if not message.user]
    if answers and answers[-1].completed is None:
        del answers[-1]
    model = answers[-1].model if answers else None
    return sum(1 for _ in takewhile(lambda message: message.cut and message.model == model, reversed(answers)))


def _queued(messages: Sequence[Message], answer: Message | None) -> int:
    """Return the number of prompts that arrived during or after the last answer."""
    if answer is None:
        return 0
    ids = [message.id for message in messages]
    since = ids.index(answer.parent) if answer.parent in ids else -1
    return sum(1 for message in messages[since + 1 :] if message.user)
