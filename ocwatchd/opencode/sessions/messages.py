"""Parse OpenCode 1's messages and errors, from the API and from message stores.

A field of an unexpected type is treated as missing. Prompts and tool output are never kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ocwatchd.core.domain.budget import Tokens
from ocwatchd.core.domain.snapshot import ABORTED, RunningTool
from ocwatchd.core.domain.types import ErrorDetails, ModelRef
from ocwatchd.core.text.parse_json import parse_json

Json = Mapping[str, Any]

BODY_CAP = 4_000
"""Maximum number of characters of an error's response body. The longest observed body had 1,900 characters."""

MESSAGE_CAP = 2_000
"""Maximum number of characters of an error's message."""
COPIED_FIELDS = ("system", "tools", "format")
"""Fields of a prompt that must be included when it is run again, because OpenCode would otherwise drop them (1.0 -
1.18).
"""
_SPOKEN = ("text", "reasoning", "tool")
_NO_REASON = ("unknown", "other")
"""Finish reasons of an answer whose stream contained no event (1.0.185 to 1.18.33)."""
_OPEN_TOOL_STATES = ("pending", "running")
_CODE_FIELDS = ("type", "code", "status", "reason")
_CODES_DEPTH = 4


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a session, without its text. Times are epoch seconds."""

    id: str
    role: str
    parent: str | None = None
    """The id of the prompt to which an answer belongs."""
    model: ModelRef | None = None
    agent: str | None = None
    created: float | None = None
    completed: float | None = None
    error: ErrorDetails | None = None
    began: bool = False
    """Whether the message has parts. This means that the stream of an answer has begun, or a prompt has content."""
    spoke: bool = False
    """Whether the model has produced text, reasoning or a tool call. With the chat completions API, a stream begins
    before the first token. While a text is being streamed, its part exists but is still empty (1.3.2 to 1.18.33).
    """
    running: tuple[RunningTool, ...] = ()
    finish: str | None = None
    """The finish reason: `stop`, `tool-calls`, …"""
    copied: Json = field(default_factory=dict)
    summary: bool = False
    """Whether this answer is a summary of the session, and not a part of the turn."""
    tokens: Tokens | None = None
    """The tokens of an answer, or None if they have not been counted yet."""
    cost: float = 0.0
    """Cost of an answer in US dollars, as calculated by OpenCode, or 0 if the price is unknown."""
    length: int = 0
    """Number of characters of the message's texts."""
    media: frozenset[str] = frozenset()
    """Kinds of the message's attachments: `image`, `pdf`, `audio`, `video`."""
    called: bool = False
    """Whether the message has tool calls."""
    executed: bool = False
    """Whether the message has a complete tool call, so that the tool may have run."""

    @property
    def user(self) -> bool:
        """Whether the message is a prompt."""
        return self.role == "user"

    @property
    def empty(self) -> bool:
        """Whether this is a completed answer without content. OpenCode endlessly repeats the request after such an
        answer.
        """
        done = self.completed is not None and self.error is None
        return done and not self.user and not self.spoke and self.finish in _NO_REASON

    @property
    def cut(self) -> bool:
        """Whether the answer is incomplete because the response ended without a finish reason. OpenCode repeats the
        request immediately and endlessly, and adds each incomplete answer to the conversation (1.3.2, 1.18.33).
        """
        done = self.completed is not None and self.error is None
        return done and not self.user and self.spoke and not self.called and self.finish in _NO_REASON

    @property
    def stopped(self) -> bool:
        """Whether the answer was aborted.

        Up to 1.3.2, an abort during a retry leaves MessageAbortedError. On 1.18.33, it leaves only a completed, empty
        message without a finish reason.
        """
        if self.error is not None:
            return self.error.name == ABORTED
        return self.completed is not None and self.finish is None and not self.began


def text(value: object) -> str | None:
    """Return the value if it is a non-empty string, otherwise None."""
    return value if isinstance(value, str) and value else None


def mapping(value: object) -> Json:
    """Return the value if it is a JSON object, otherwise an empty object."""
    return value if isinstance(value, Mapping) else {}


def seconds(value: object) -> float | None:
    """Convert OpenCode's timestamps, in milliseconds since the epoch, to epoch seconds. Return None if the value is not
    a number.
    """
    return value / 1000 if isinstance(value, int | float) and not isinstance(value, bool) else None


def amount(value: object) -> float:
    """Return the value if it is a plausible amount of money, otherwise 0."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e9 else 0.0


def model_of(info: Json) -> ModelRef | None:
    """Parse the model of an answer (`providerID`, `modelID`) or of a prompt (`model: {…}`)."""
    named = mapping(info.get("model")) or info
    return ModelRef.of(named.get("providerID"), named.get("modelID"))


def message_of(info: Json, parts: object = (), ident: str | None = None) -> Message | None:
    """Parse a message. Return None if the data is not a message. `info` is in the API's format. Message stores omit the
    id, so it is passed as `ident`.
    """
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
        spoke=any(part.get("type") in _SPOKEN for part in held),
        running=tuple(_running(held)),
        finish=text(info.get("finish")),
        copied={key: info[key] for key in COPIED_FIELDS if info.get(key)},
        summary=role == "assistant" and info.get("summary") is True,
        tokens=_tokens(mapping(info.get("tokens"))),
        cost=amount(info.get("cost")),
        length=sum(len(text(part.get("text")) or "") for part in held),
        called=any(part.get("type") == "tool" for part in held),
        executed=any(
            part.get("type") == "tool" and mapping(part.get("state")).get("status") != "pending" for part in held
        ),
        media=frozenset(
            kind for part in held if part.get("type") == "file" and (kind := medium(text(part.get("mime"))))
        ),
    )


def medium(mime: str | None) -> str | None:
    """Return the kind of input that a model must support to read a file of this type. Return None for text files."""
    kind, _, subtype = (mime or "").partition("/")
    return "pdf" if subtype == "pdf" else kind if kind in ("image", "audio", "video") else None


def _tokens(raw: Json) -> Tokens | None:
    cache = mapping(raw.get("cache"))
    values = (raw.get("input"), raw.get("output"), raw.get("reasoning"), cache.get("read"), cache.get("write"))
    counts = [int(value) if isinstance(value, int | float) and 0 < value < 1e12 else 0 for value in values]
    return Tokens(*counts) if any(counts) else None


def _running(parts: list[Json]) -> Iterator[RunningTool]:
    for part in parts:
        state = mapping(part.get("state"))
        if part.get("type") != "tool" or state.get("status") not in _OPEN_TOOL_STATES:
            continue
        child = mapping(state.get("metadata")).get("sessionId")
        yield RunningTool(text(part.get("tool")) or "?", text(child), state.get("status") == "pending")


def error_of(error: object) -> ErrorDetails | None:
    """Parse the error of a message, and discard the request that it may contain. Return None if there is no error."""
    if not isinstance(error, Mapping) or not error:
        return None
    data = mapping(error.get("data"))
    body, status, retryable = text(data.get("responseBody")) or "", data.get("statusCode"), data.get("isRetryable")
    headers = mapping(data.get("responseHeaders"))
    return ErrorDetails(
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
        parsed = parse_json(body)
    except ValueError:
        return
    yield from _codes(parsed, _CODES_DEPTH)


def _codes(node: object, depth: int) -> Iterator[str]:
    if isinstance(node, list) and node:  # Google sends its errors inside an array
        node = node[0]
    if not isinstance(node, Mapping) or depth == 0:
        return
    for key in _CODE_FIELDS:
        value = node.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool):
            yield str(value)
    yield from _codes(node.get("error"), depth - 1)
