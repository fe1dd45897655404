"""Parse OpenCode 2's sessions and messages. A field of an unexpected type is treated as missing.

Only the lengths of texts are kept, not the texts. Code that sends a prompt again must itself keep the text of the
prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ocwatchd.core.domain.budget import Tokens
from ocwatchd.core.domain.snapshot import RunningTool
from ocwatchd.core.domain.types import ErrorDetails, ModelRef
from ocwatchd.opencode.client.v2.errors import error_of
from ocwatchd.opencode.sessions.messages import Json, Message, amount, mapping, medium, seconds, text

PROMPTS = frozenset(("user", "synthetic", "skill"))
"""Types of messages that prompt a model."""
ENDED = frozenset(("completed", "error"))
"""States of a finished tool call. In all other states, the call is running (`streaming`, `pending`, `running`)."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The next attempt of a waiting step. `attempt` is the number of refused attempts so far; `at` is the time in epoch
    seconds.
    """

    attempt: int
    at: float | None
    error: ErrorDetails | None


@dataclass(frozen=True, slots=True)
class Info:
    """A session. `model` is the model that was chosen for the session, or None if no model was chosen."""

    id: str
    directory: str
    parent: str | None = None
    model: ModelRef | None = None
    agent: str | None = None
    created: float | None = None
    updated: float | None = None
    reverting: bool = False
    """Whether a revert is staged in the session."""


@dataclass(frozen=True, slots=True)
class Step:
    """A message, with the fields that only OpenCode 2 has."""

    message: Message
    type: str
    retry: Retry | None = None
    tools_ended: bool = False
    """Whether a tool call in the message has finished. A move must not lose or repeat finished tool calls."""


def info_of(raw: object) -> Info | None:
    """Parse a session. Return None if the id or the directory is missing."""
    fields = mapping(raw)
    ident, directory = text(fields.get("id")), text(mapping(fields.get("location")).get("directory"))
    if not ident or not directory:
        return None
    time = mapping(fields.get("time"))
    return Info(
        id=ident,
        directory=directory,
        parent=text(fields.get("parentID")),
        model=model_in(fields.get("model")),
        agent=text(fields.get("agent")),
        created=seconds(time.get("created")),
        updated=seconds(time.get("updated")),
        reverting=bool(mapping(fields.get("revert"))),
    )


def model_in(raw: object) -> ModelRef | None:
    """Parse a model such as `{"providerID": …, "id": …}`. Return None if a name is missing."""
    fields = mapping(raw)
    provider, model = text(fields.get("providerID")), text(fields.get("id")) or text(fields.get("modelID"))
    return ModelRef(provider, model) if provider and model else None


def steps_of(raw: Sequence[object]) -> list[Step]:
    """Parse the prompts and answers among these messages, in the same order."""
    return [step for entry in raw if (step := step_of(mapping(entry))) is not None]


def summarizes(raw: Sequence[Json]) -> bool:
    """Return whether one of these messages is a summary of the session (compaction) that is being written."""
    return any(entry.get("type") == "compaction" and entry.get("status") == "running" for entry in raw)


def step_of(raw: Json) -> Step | None:
    """Parse a message. Return None if the message is neither a prompt nor an answer."""
    ident, kind, time = text(raw.get("id")), text(raw.get("type")) or "", mapping(raw.get("time"))
    if not ident:
        return None
    if kind in PROMPTS:
        return Step(_prompt(ident, raw, seconds(time.get("created"))), kind)
    if kind != "assistant":
        return None
    content = raw.get("content")
    parts = [mapping(part) for part in content] if isinstance(content, list) else []
    states = [text(mapping(part.get("state")).get("status")) for part in parts if part.get("type") == "tool"]
    message = Message(
        id=ident,
        role="assistant",
        model=model_in(raw.get("model")),
        agent=text(raw.get("agent")),
        created=seconds(time.get("created")),
        completed=seconds(time.get("completed")),
        error=error_of(raw.get("error")),
        began=bool(parts),
        spoke=any(part.get("type") == "tool" or text(part.get("text")) for part in parts),
        running=tuple(_running(parts)),
        finish=text(raw.get("finish")),
        tokens=_tokens(mapping(raw.get("tokens"))),
        cost=amount(raw.get("cost")),
        length=sum(_length(part) for part in parts),
        called=bool(states),
    )
    return Step(message, kind, retry_of(raw.get("retry")), any(state in ENDED for state in states))


def retry_of(raw: object) -> Retry | None:
    """Parse the scheduled attempt in a message or event. Return None if there is no such attempt. OpenCode numbers the
    first retry 2.
    """
    fields = mapping(raw)
    attempt = fields.get("attempt")
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        return None
    return Retry(max(attempt - 1, 1), seconds(fields.get("at")), error_of(fields.get("error")))


def _prompt(ident: str, raw: Json, created: float | None) -> Message:
    files = raw.get("files")
    attached = [mapping(file) for file in files] if isinstance(files, list) else []
    media = frozenset(kind for file in attached if (kind := medium(text(file.get("mime")))))
    length = len(text(raw.get("text")) or "")
    return Message(id=ident, role="user", created=created, began=True, spoke=True, length=length, media=media)


def _running(parts: Sequence[Json]) -> Iterator[RunningTool]:
    for part in parts:
        state = mapping(part.get("state"))
        if part.get("type") == "tool" and state.get("status") not in ENDED:
            child = text(mapping(state.get("metadata")).get("sessionID"))
            yield RunningTool(text(part.get("name")) or "?", child, pending=state.get("status") == "streaming")


def _length(part: Json) -> int:
    length = len(text(part.get("text")) or "")
    content = mapping(part.get("state")).get("content")
    results = [mapping(entry) for entry in content] if isinstance(content, list) else []
    return length + sum(len(text(entry.get("text")) or "") for entry in results)


def _tokens(raw: Json) -> Tokens | None:
    cache = mapping(raw.get("cache"))
    values = (raw.get("input"), raw.get("output"), raw.get("reasoning"), cache.get("read"), cache.get("write"))
    counts = [int(value) if isinstance(value, int | float) and 0 < value < 1e12 else 0 for value in values]
    return Tokens(*counts) if any(counts) else None


def again(raw: Mapping[str, object]) -> dict[str, object]:
    """Return the request body that sends a stored user message again, with the same id and content."""
    body: dict[str, object] = {"id": raw.get("id"), "text": raw.get("text") or ""}
    files = raw.get("files")
    if isinstance(files, list) and files:
        body["files"] = [_file(mapping(file)) for file in files]
    for name in ("agents", "metadata"):
        if raw.get(name):
            body[name] = raw[name]
    return body


def _file(file: Json) -> dict[str, object]:
    """Return a stored attachment with its content inline, so that the attachment stays the same even if its source has
    changed.
    """
    kept = {name: file[name] for name in ("name", "description", "mention") if file.get(name)}
    return {"uri": f"data:{file.get('mime')};base64,{file.get('data')}", **kept}
