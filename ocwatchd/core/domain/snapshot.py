"""The values that describe a session at one moment, as reported by an endpoint. The engine can use them without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.domain.capability import NOTHING, Needs
from ocwatchd.core.domain.types import ErrorDetails, ModelRef

ABORTED = "MessageAbortedError"
"""OpenCode's name for the error of an aborted message (1.0 - 1.18)."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A TCP port on loopback, as opened by `opencode serve`, `opencode web`, `--port N` and the TUI of 1.0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The path of a socket file, such as the one that the companion plugin opens inside every OpenCode process."""

    path: str

    def __str__(self) -> str:
        return self.path


RUN_SLACK = 2.0
"""Maximum time, in seconds, by which the recorded start or end of a process may be later than the real one."""


@dataclass(frozen=True, slots=True)
class RunClient:
    """An `opencode run` process that is a client of another OpenCode process. Times are epoch seconds. `anew`: whether
    the client started a new session.
    """

    directory: str | None
    started: float
    anew: bool
    ended: float | None = None
    """When the client was last observed, in epoch seconds; None while it is running."""
    session: str | None = None
    """The session that the client continues, or None if the client started a new session or its session is unknown."""

    def may_own(
        self, directory: str, created: float | None, session: str | None = None, parent: str | None = None
    ) -> bool:
        """Return whether the client may be waiting for a session that was created at `created` (epoch seconds; None if
        unknown) in this directory. `session` and `parent` are the ids of that session and of its parent.
        """
        if self.session is not None and session is not None:
            return self.session in (session, parent)
        if self.directory is not None and self.directory != directory:
            return False
        if created is None:
            return True
        begun = not self.anew or created >= self.started - RUN_SLACK
        return begun and (self.ended is None or not self.anew or created <= self.ended + RUN_SLACK)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A way to access the API of one running OpenCode process. `pid` is None only for an address that a user
    configured.

    `directory` is the project in which the process was started; it is queried before other projects. `auth` is the
    value of the Authorization header; it is kept out of `repr` because endpoints are printed and journaled.
    """

    address: TcpAddress | UnixAddress
    pid: int | None = None
    directory: str | None = None
    auth: str | None = field(default=None, repr=False)
    many: bool = False
    """Whether this is a server for several project directories (`serve`, `web`) instead of a single terminal."""
    run: bool = False
    """Whether this is an `opencode run` process. If its turn is stopped, it exits without an answer and with code 0
    (1.0 - 1.18).
    """
    rival: str | None = None
    """The name of another plugin that moves sessions in that process, as reported by the companion plugin; None if
    there is none.
    """
    generation: int = 1
    """The generation of OpenCode, 1 or 2, which determines the API."""
    opened: str | None = None
    """The session with which the terminal was opened (`-s`); None if no session was named."""
    launched: bool = False
    """Whether the process was started by an `oc-smart` that is still running. That `oc-smart` then handles the limits
    of the process's turns.
    """
    runs: tuple[RunClient, ...] = field(default=(), compare=False, repr=False)
    """The `opencode run` clients that the process is currently serving, if they are separate processes."""

    def __str__(self) -> str:
        return f"{self.address} (pid {self.pid})" if self.pid else str(self.address)


class SessionState(StrEnum):
    """What a session is doing."""

    BUSY = "busy"  # a model or a tool is working
    RETRY = "retry"  # OpenCode waits before it sends another request to the same model
    IDLE = "idle"  # nothing is running; the last turn ended successfully, or there was none
    ERROR = "error"  # nothing is running; the last turn ended in an error or was aborted


@dataclass(frozen=True, slots=True)
class RunningTool:
    """A tool call that has begun but not ended. `child` is the subagent's session, if the call started one."""

    tool: str
    child: str | None = None
    pending: bool = False
    """Whether the model is still writing the call, so that nothing is running yet."""


@dataclass(frozen=True, slots=True)
class SessionSnapshot:
    """One session at one endpoint at one moment. Times are epoch seconds.

    A snapshot covers only main turns, because OpenCode stores no messages for the requests that create titles and
    summaries.
    """

    session: str
    directory: str
    endpoint: Endpoint
    state: SessionState
    seen: float = 0.0
    """When the endpoint was queried, in epoch seconds."""
    attempt: int | None = None
    """Number of retries so far, counted from 1; None unless the state is RETRY."""
    next_at: float | None = None
    """When OpenCode retries on the same model, in epoch seconds; None unless the state is RETRY."""
    message: str = ""
    """OpenCode's message about the retry, truncated if it is long."""
    model: ModelRef | None = None
    """The model of the running or failed answer, or the prompt's model if there is no answer yet."""
    agent: str | None = None
    user_message: str | None = None
    """The id of the last user message, which a move runs again."""
    before: tuple[ModelRef, ...] = ()
    """The other models that wrote recent answers, newest first."""
    prompt_model: ModelRef | None = None
    """The model named in the last user message. It differs from `model` if the user chose another model while waiting.
    """
    parent: str | None = None
    """The session whose task tool started this session. A subagent that is not `switchable` is moved together with its
    parent.
    """
    running: tuple[RunningTool, ...] = ()
    background: tuple[str, ...] = ()
    """Busy subagents that are not named in any running tool call. If this session is aborted, they are canceled and
    their results are lost without a message (1.18).
    """
    asking: bool = False
    """Whether a permission request or a question in this session is waiting for the user."""
    last_error: ErrorDetails | None = None
    """The error with which the last answer ended, after its last attempt."""
    answer: str | None = None
    """The id of the last assistant message, if it answers (or tries to answer) one of the user messages that were read.
    """
    answer_started: float | None = None
    """When the last answer began, in epoch seconds."""
    answer_ended: float | None = None
    """When the last answer finished or failed, in epoch seconds; None while it is running."""
    answer_completed: bool = False
    answer_began: bool = False
    """Whether the last answer has content: the model's stream has begun."""
    answer_spoke: bool = False
    """Whether the last answer has text, reasoning or tool calls."""
    empty_steps: int = 0
    """The number of consecutive answers from this model, ending with the latest, that are complete but empty."""
    cut_steps: int = 0
    """The number of consecutive answers from this model, ending with the latest, that started but did not finish."""
    silence: float | None = None
    """Seconds since the last event of this session, at the time of the probe; None if no event stream shows the session
    as busy.
    """
    compacting: bool = False
    """Whether the last answer is a summary of the session instead of a part of the user's turn."""
    queued: int = 0
    """The number of user messages that came after the message being answered."""
    version: str | None = None
    """The version of OpenCode that created the session."""
    needs: Needs = NOTHING
    """The capabilities that a model must have to continue the session."""
    refusal: ErrorDetails | None = None
    """The error of the refused attempt that caused the retry, if OpenCode reports more details than its message."""
    honoured: bool | None = None
    """Whether the wait is longer than OpenCode's own backoff; None if this must be derived from the length of the wait.
    """
    switchable: bool = False
    """Whether the model can be changed while the session is waiting, without stopping the turn. A subagent can then be
    moved without its parent.
    """
    belongs_to_run: bool = False
    """Whether the session may belong to an `opencode run` in another process, which exits without an answer if the turn
    is stopped.
    """

    @property
    def stuck(self) -> bool:
        """Whether the session is waiting for a model or has given up on it.

        The session may be moved only in these states.
        """
        return self.state is SessionState.RETRY or (self.state is SessionState.ERROR and not self.aborted)

    @property
    def aborted(self) -> bool:
        """Whether the last answer was aborted."""
        return self.last_error is not None and self.last_error.name == ABORTED

    @property
    def tool_running(self) -> bool:
        """Whether a tool call is running. An abort would destroy its work."""
        return bool(self.running)

    @property
    def tool_executing(self) -> bool:
        """Whether a tool call is running and the model has finished writing it."""
        return any(not tool.pending for tool in self.running)
