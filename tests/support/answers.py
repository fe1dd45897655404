"""What the fake provider can answer, and what it keeps of a request: values, and scripts that map one to the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.wire import Api

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-opencode-session", "session_id")


@dataclass(frozen=True, slots=True)
class Ok:
    """A text, after a `thought`. With `seconds`, streamed in `pieces` over that time. `used`: tokens of the prompt, as
    a provider of chat completions counts them.
    """

    text: str | None = None
    seconds: float = 0.0
    pieces: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    thought: str = ""
    used: int = 100


@dataclass(frozen=True, slots=True)
class Error:
    """A refusal, or any other whole response: status, headers and body as given; `reason` is the reason phrase."""

    status: int
    body: Any = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None
    delay: float = 0.0


@dataclass(frozen=True, slots=True)
class MidStream:
    """Some text, then an error event whose data is `payload`."""

    payload: Any
    text: str = "Let me "


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool call; some words before it only in the dialect of chat completions."""

    name: str
    arguments: dict[str, Any]
    said: str = ""
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer for `seconds`, then the connection is closed."""

    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection breaks: before any answer, or, with `text`, in the middle of the stream."""

    text: str | None = None


Answer = Ok | Error | MidStream | Tool | Hang | Drop
Script = Callable[["Request"], Answer]


def ok(text: str | None = None) -> Ok:
    """A text; without one, `answer of PROVIDER/MODEL`."""
    return Ok(text)


def slow(text: str, seconds: float, pieces: int = 10) -> Ok:
    """A text that takes its time."""
    return Ok(text, seconds, pieces)


def error(
    status: int, body: Any = "", headers: Mapping[str, str] | None = None, reason: str | None = None, delay: float = 0.0
) -> Error:
    """A refusal; a `body` that is not text is sent as JSON."""
    return Error(status, body, headers or {}, reason, delay)


def limited(retry_after: float | str | None = None, message: str = "Rate limit reached for requests") -> Error:
    """A plain 429 in OpenAI's words."""
    body = {"error": {"message": message, "type": "requests", "code": "rate_limit_exceeded"}}
    return Error(429, body, {} if retry_after is None else {"Retry-After": f"{retry_after}"})


def midstream(payload: Any, text: str = "Let me ") -> MidStream:
    """An error in the middle of an answer."""
    return MidStream(payload, text)


def tool(name: str, **arguments: Any) -> Tool:
    """A tool call."""
    return Tool(name, arguments)


def bash(command: str, said: str = "") -> Tool:
    """A call of OpenCode's `bash` tool."""
    return Tool("bash", {"command": command, "description": "Runs a command"}, said)


def in_turn(*answers: Answer) -> Script:
    """One answer after the other; the last one for ever."""
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


def after_tool(call: Tool, then: Answer | Script) -> Script:
    """Calls a tool; once its result is the last thing in the conversation, `then`."""

    def script(request: Request) -> Answer:
        if not request.ends_with_tool_result:
            return call
        return then(request) if callable(then) else then

    return script


@dataclass(slots=True)
class Request:
    """One request as the provider saw it. `status` is None until the answer's first byte; 0 if there was no answer."""

    number: int
    monotonic: float
    """Clock of `time.monotonic`, at the request's first line."""
    wall: float
    """Epoch seconds of the same moment."""
    provider: str
    name: str
    """The model's name without its provider."""
    api: Api
    stream: bool
    path: str
    headers: Mapping[str, str]
    """With lower-case names."""
    body: dict[str, Any]
    user_texts: tuple[str, ...]
    tool_results: tuple[str, ...]
    ends_with_tool_result: bool
    nth: int
    """How many requests this model had before, this one not counted."""
    answer: Answer | None = None
    status: int | None = None
    finished: float | None = None
    """Epoch seconds of the answer's end."""
    client_left: bool = False

    @property
    def model(self) -> str:
        """`provider/model`."""
        return f"{self.provider}/{self.name}"

    @property
    def session(self) -> str | None:
        """The OpenCode session, where this version tells it to the provider."""
        named = next((self.headers[h] for h in SESSION_HEADERS if h in self.headers), None)
        key = self.body.get("prompt_cache_key")
        return named or (str(key) if key else None)

    @property
    def prompt(self) -> str:
        """The last text of the user."""
        return self.user_texts[-1] if self.user_texts else ""

    def count(self, text: str) -> int:
        """How often `text` stands in the user's messages."""
        return sum(said.count(text) for said in self.user_texts)
