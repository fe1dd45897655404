"""What a door shows of a session at one moment: values only, so that the brain can decide on them without I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ocwatchd.core.capability import NOTHING, Needs
from ocwatchd.core.limits import ErrorFacts, ModelRef

ABORTED = "MessageAbortedError"
"""How OpenCode names the error of a message that somebody stopped (1.0 - 1.18)."""


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A port on loopback: `opencode serve`, `opencode web`, `--port N`, the TUI of 1.0."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A socket file, as the companion plugin opens one inside every OpenCode process."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class Door:
    """A way into one running OpenCode. `pid` is None only for an address that a person configured.

    `directory` is the project the process was started in: a hint where to ask first, not a limit. `auth` is the value
    of the Authorization header; it is kept out of `repr` because doors are printed and journalled.
    """

    address: TcpAddress | UnixAddress
    pid: int | None = None
    directory: str | None = None
    auth: str | None = field(default=None, repr=False)
    many: bool = False
    """A server for several project directories (`serve`, `web`), not one terminal."""
    run: bool = False
    """An `opencode run`: it ends, without an answer and with code 0, when its turn is stopped (1.0 - 1.18)."""
    rival: str | None = None
    """Who else moves sessions in that process, in the companion plugin's words; None if nobody does."""

    def __str__(self) -> str:
        return f"{self.address} (pid {self.pid})" if self.pid else str(self.address)


class SessionState(StrEnum):
    """What a session does."""

    BUSY = "busy"  # a model or a tool works
    RETRY = "retry"  # OpenCode waits before it asks the same model again
    IDLE = "idle"  # nothing runs; the last turn ended well, or none began
    ERROR = "error"  # nothing runs; the last turn ended in an error, an abort included


@dataclass(frozen=True, slots=True)
class RunningTool:
    """A tool call that has begun and not ended. `child` is the session of a subagent, if it is one."""

    tool: str
    child: str | None = None


@dataclass(frozen=True, slots=True)
class SessionView:
    """One session behind one door at one moment. Times are epoch seconds.

    Only main turns show here: titles and summaries have no messages of their own.
    """

    session: str
    directory: str
    door: Door
    state: SessionState
    seen: float = 0.0
    """When the door was asked."""
    attempt: int | None = None
    """Retries so far, from 1; None unless in RETRY."""
    next_at: float | None = None
    """When OpenCode asks the same model again; None unless in RETRY."""
    message: str = ""
    """OpenCode's words for the retry, capped."""
    model: ModelRef | None = None
    """The model of the running or failed answer; of the prompt, while there is no answer to it."""
    agent: str | None = None
    user_message: str | None = None
    """The id of the LAST user message: the one a re-run names."""
    before: tuple[ModelRef, ...] = ()
    """Other models that gave the last answers, the latest first."""
    prompt_model: ModelRef | None = None
    """The model that the last user message names: another one than `model` if the user chose anew while waiting."""
    parent: str | None = None
    """The session whose task tool started this one; a subagent's parent is what can be moved."""
    running: tuple[RunningTool, ...] = ()
    asking: bool = False
    """A permission or a question of this session waits for the user."""
    last_error: ErrorFacts | None = None
    """The error of the last answer, after the last attempt."""
    answer: str | None = None
    """The id of the last assistant message, if it answers (or tries to answer) a user message in view."""
    answer_started: float | None = None
    """When the last answer was begun."""
    answer_ended: float | None = None
    """When the last answer was finished or failed; None while it runs."""
    answer_completed: bool = False
    answer_began: bool = False
    """The last answer holds something: the model's stream has begun."""
    answer_spoke: bool = False
    """It holds words, thoughts or calls."""
    queued: int = 0
    """User messages that came after the one being answered."""
    version: str | None = None
    """The OpenCode that made the session."""
    needs: Needs = NOTHING
    """What a model has to take that goes on with it."""

    @property
    def stuck(self) -> bool:
        """The session waits for a model or has given up on it: the only states from which it may be moved."""
        return self.state is SessionState.RETRY or (self.state is SessionState.ERROR and not self.aborted)

    @property
    def aborted(self) -> bool:
        """The last answer was stopped by somebody."""
        return self.last_error is not None and self.last_error.name == ABORTED

    @property
    def tool_running(self) -> bool:
        """A tool call is under way: an abort would destroy it."""
        return bool(self.running)
