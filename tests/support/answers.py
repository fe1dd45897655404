"""The fake provider's answers, its record of a request, and the scripts that choose an answer for a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.support.shapes import Shape
from tests.support.wire import Api

SESSION_HEADERS = ("x-session-id", "x-session-affinity", "x-opencode-session", "session_id")


@dataclass(frozen=True, slots=True)
class Ok:
    """An answer of text, after a `thought`. With `seconds`, it is streamed in `pieces` over that time.

    `used`: tokens of the prompt, as a provider of chat completions counts them. `keep_alive`: seconds before the text
    during which only keep-alive comments are sent, one a second.
    """

    text: str | None = None
    seconds: float = 0.0
    pieces: int = 1
    headers: Mapping[str, str] = field(default_factory=dict)
    thought: str = ""
    used: int = 100
    keep_alive: float = 0.0


@dataclass(frozen=True, slots=True)
class Error:
    """A refusal, or any other complete response with this status, headers and body. `reason` is the reason phrase."""

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
    """A tool call, after a `thought`. `said` contains words before the call, only in the dialect of chat
    completions.
    """

    name: str
    arguments: dict[str, Any]
    said: str = ""
    thought: str = ""


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer for `seconds`; then the connection is closed."""

    seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Drop:
    """A broken connection: before any answer, or with `text` in the middle of the stream."""

    text: str | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """An answer that stalls after the part `shape`, in the dialect of chat completions, until the client leaves."""

    shape: Shape


@dataclass(frozen=True, slots=True)
class Cut:
    """Half an answer: the response ends properly but without a finish reason, or (`reset`) the connection is reset."""

    text: str = "It is half "
    reset: bool = False


Answer = Ok | Error | MidStream | Tool | Hang | Drop | Stall | Cut
Script = Callable[["Request"], Answer]


def ok(text: str | None = None) -> Ok:
    """Return an answer with this text, or with `answer of PROVIDER/MODEL`."""
    return Ok(text)


def slow(text: str, seconds: float, pieces: int = 10) -> Ok:
    """Return a text that is streamed over `seconds`."""
    return Ok(text, seconds, pieces)


def error(
    status: int, body: Any = "", headers: Mapping[str, str] | None = None, reason: str | None = None, delay: float = 0.0
) -> Error:
    """Return a refusal; a `body` that is not text is sent as JSON."""
    return Error(status, body, headers or {}, reason, delay)


def limited(retry_after: float | str | None = None, message: str = "Rate limit reached for requests") -> Error:
    """Return a plain 429 in OpenAI's words."""
    body = {"error": {"message": message, "type": "requests", "code": "rate_limit_exceeded"}}
    return Error(429, body, {} if retry_after is None else {"Retry-After": f"{retry_after}"})


def midstream(payload: Any, text: str = "Let me ") -> MidStream:
    """Return an error in the middle of an answer."""
    return MidStream(payload, text)


def tool(name: str, **arguments: Any) -> Tool:
    """Return a tool call."""
    return Tool(name, arguments)


def bash(command: str, said: str = "") -> Tool:
    """Return a call of OpenCode's `bash` tool."""
    return Tool("bash", {"command": command, "description": "Runs a command"}, said)


def in_turn(*answers: Answer) -> Script:
    """Return a script that gives these answers in order, and repeats the last one."""
    left = list(answers)
    return lambda _request: left.pop(0) if len(left) > 1 else left[0]


def after_tool(call: Tool, then: Answer | Script) -> Script:
    """Return a script that calls a tool, and answers `then` as soon as the conversation ends with the tool's result."""

    def script(request: Request) -> Answer:
        if not request.ends_with_tool_result:
            return call
        return then(request) if callable(then) else then

    return script


@dataclass(slots=True)
class Request:
    """One request as the provider saw it. `status` is None until the answer's first byte, and 0 if there was
    no answer.
    """

    number: int
    monotonic: float
    """`time.monotonic()` when the request's first line was read."""
    wall: float
    """Epoch seconds of the same moment."""
    provider: str
    name: str
    """The model's name without its provider."""
    api: Api
    stream: bool
    path: str
    headers: Mapping[str, str]
    """Headers by their lower-case names."""
    body: dict[str, Any]
    user_texts: tuple[str, ...]
    tool_results: tuple[str, ...]
    ends_with_tool_result: bool
    nth: int
    """Number of earlier requests to this model."""
    answer: Answer | None = None
    status: int | None = None
    finished: float | None = None
    """Epoch seconds at the end of the answer."""
    client_left: bool = False

    @property
    def model(self) -> str:
        """Return `provider/model`."""
        return f"{self.provider}/{self.name}"

    @property
    def session(self) -> str | None:
        """Return the OpenCode session, if this version sends it to the provider."""
        named = next((self.headers[h] for h in SESSION_HEADERS if h in self.headers), None)
        key = self.body.get("prompt_cache_key")
        return named or (str(key) if key else None)

    @property
    def prompt(self) -> str:
        """Return the user's last text."""
        return self.user_texts[-1] if self.user_texts else ""

    def count(self, text: str) -> int:
        """Return the number of occurrences of `text` in the user's messages."""
        return sum(said.count(text) for said in self.user_texts)
