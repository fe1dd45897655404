"""OpenCode's messages and errors as values: one reading for what the API answers and what the stores hold.

Tolerant by design: a field that is missing, or of another type, is None. Prompts and tool output are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from ocwatchd.core.limits import ErrorFacts, ModelRef
from ocwatchd.core.money import Tokens
from ocwatchd.core.views import ABORTED, RunningTool

Json = Mapping[str, Any]

BODY_CAP = 4_000
"""Characters of an error's response body that are read for its words; the longest real one seen has 1,900."""

MESSAGE_CAP = 2_000
COPIED_FIELDS = ("system", "tools", "format")
"""What a re-run must name again, else it is lost (1.0 - 1.18)."""
_OPEN_TOOL_STATES = ("pending", "running")
_CODE_FIELDS = ("type", "code", "status", "reason")
_CODES_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a session without its text. Times are epoch seconds."""

    id: str
    role: str
    parent: str | None = None
    """For an answer: the user message it answers."""
    model: ModelRef | None = None
    agent: str | None = None
    created: float | None = None
    completed: float | None = None
    error: ErrorFacts | None = None
    began: bool = False
    """It has parts: a model's stream has begun, or a prompt has text."""
    spoke: bool = False
    """It holds words, thoughts or calls: with chat completions a stream begins before the first token."""
    running: tuple[RunningTool, ...] = ()
    finish: str | None = None
    """How the model ended: `stop`, `tool-calls`, …"""
    copied: Json = field(default_factory=dict)
    summary: bool = False
    """An answer that sums a session up, not a turn of the user's."""
    tokens: Tokens | None = None
    """Of an answer; None while nothing is counted yet."""
    cost: float = 0.0
    """What an answer cost, in US dollars by OpenCode's own prices; 0 where it knows none."""
    length: int = 0
    """Characters of its texts."""
    media: frozenset[str] = frozenset()
    """Kinds of its attachments: `image`, `pdf`, `audio`, `video`."""
    called: bool = False
    """It holds tool calls."""

    @property
    def user(self) -> bool:
        """A prompt."""
        return self.role == "user"

    @property
    def stopped(self) -> bool:
        """Somebody stopped this answer. An abort during a retry leaves MessageAbortedError up to 1.3.2, and on 1.18.33
        nothing but an empty message that is complete and says no reason."""
        if self.error is not None:
            return self.error.name == ABORTED
        return self.completed is not None and self.finish is None and not self.began


def text(value: object) -> str | None:
    """A non-empty string, or None."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Json:
    """A JSON object, or an empty one."""
    return value if isinstance(value, Mapping) else {}


def seconds(value: object) -> float | None:
    """OpenCode's epoch milliseconds as epoch seconds."""
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) else None


def amount(value: object) -> float:
    """A sum of money, or a price; 0 for what is none."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9 else 0.0


def model_of(info: Json) -> ModelRef | None:
    """The model of an answer (`providerID`, `modelID`) or of a prompt (`model: {…}`)."""
    named = mapping(info.get("model")) or info
    provider, model = text(named.get("providerID")), text(named.get("modelID"))
    return ModelRef(provider, model) if provider and model else None


def message_of(info: Json, parts: object = (), ident: str | None = None) -> Message | None:
    """Read a message: `info` as in the API, or the `data` of a store, whose id lies beside it. None if it is none."""
    found, role = ident or text(info.get("id")), text(info.get("role"))
    if not found or role not in ("user", "assistant"):
        return None
    held = [part for part in parts if isinstance(part, Mapping)] if isinstance(parts, list | tuple) else []
    time = mapping(info.get("time"))
    return Message(
        id=found,
        role=role,
        parent=text(info.get("parentID")),
        model=model_of(info),
        agent=text(info.get("agent")) or text(info.get("mode")),
        created=seconds(time.get("created")),
        completed=seconds(time.get("completed")),
        error=error_of(info.get("error")),
        began=bool(held),
        spoke=any(part.get("type") == "tool" or text(part.get("text")) for part in held),
        running=tuple(_running(held)),
        finish=text(info.get("finish")),
        copied={key: info[key] for key in COPIED_FIELDS if info.get(key)},
        summary=role == "assistant" and info.get("summary") is True,
        tokens=_tokens(mapping(info.get("tokens"))),
        cost=amount(info.get("cost")),
        length=sum(len(text(part.get("text")) or "") for part in held),
        called=any(part.get("type") == "tool" for part in held),
        media=frozenset(
            kind for part in held if part.get("type") == "file" and (kind := medium(text(part.get("mime"))))
        ),
    )


def medium(mime: str | None) -> str | None:
    """What a model has to understand to look at such a file; texts are sent as text."""
    kind, _, subtype = (mime or "").partition("/")
    return "pdf" if subtype == "pdf" else kind if kind in ("image", "audio", "video") else None


def _tokens(told: Json) -> Tokens | None:
    cache = mapping(told.get("cache"))
    values = (told.get("input"), told.get("output"), told.get("reasoning"), cache.get("read"), cache.get("write"))
    counts = [int(value) if isinstance(value, int | float) and 0 < value < 1e12 else 0 for value in values]
    return Tokens(*counts) if any(counts) else None


def _running(parts: list[Json]) -> Iterator[RunningTool]:
    for part in parts:
        state = mapping(part.get("state"))
        if part.get("type") != "tool" or state.get("status") not in _OPEN_TOOL_STATES:
            continue
        child = mapping(state.get("metadata")).get("sessionId")
        yield RunningTool(text(part.get("tool")) or "?", text(child))


def error_of(error: object) -> ErrorFacts | None:
    """The error stored with a message, without the request."""
    if not isinstance(error, Mapping) or not error:
        return None
    data = mapping(error.get("data"))
    body, status, retryable = text(data.get("responseBody")) or "", data.get("statusCode"), data.get("isRetryable")
    headers = mapping(data.get("responseHeaders"))
    return ErrorFacts(
        message=(text(data.get("message")) or text(error.get("message")) or "")[:MESSAGE_CAP],
        name=text(error.get("name")),
        codes=tuple(_codes_of_body(body)),
        status=status if isinstance(status, int) else None,
        headers={str(name).lower(): str(value) for name, value in headers.items()},
        body=body[:BODY_CAP],
        retryable=retryable if isinstance(retryable, bool) else None,
    )


def _codes_of_body(body: str) -> Iterator[str]:
    try:
        parsed = orjson.loads(body)
    except ValueError:
        return
    yield from _codes(parsed, _CODES_DEPTH)


def _codes(node: object, depth: int) -> Iterator[str]:
    if isinstance(node, list) and node:  # Google sends its error in an array
        node = node[0]
    if not isinstance(node, Mapping) or depth == 0:
        return
    for key in _CODE_FIELDS:
        value = node.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)
    yield from _codes(node.get("error"), depth - 1)
