"""The server that a client was attached to: which of its sessions is ours, how it fares, and what moved it.

The client names its session nowhere before the first words of an answer, so the server is asked: in the client's own
directory, which is the server's unless `--dir` names another, for the session that was sent our words since we began.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from ocwatchd.clock import SystemClock, from_rfc3339
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.errors import ExitCode
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.child import Signals
from ocwatchd.launcher.output import Printer, Writer, created
from ocwatchd.launcher.served import Served
from ocwatchd.opencode.answers import RetryStatus, Session
from ocwatchd.opencode.api import Api, connect
from ocwatchd.opencode.doors import basic_auth, door_of_url
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.look import look
from ocwatchd.opencode.records import Json, mapping
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Findings
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat
from ocwatchd.state.journal import Journal

POLL = 0.2
FEW = 30
"""Messages of a session among which our prompt has to stand."""


class Elsewhere:
    """One client's server. `session` is the client's, once it is known; `door` None if nobody here may ask there."""

    def __init__(self, arguments: Arguments, state: str, began: float) -> None:
        """`state` is our own directory, `began` when the client was started, epoch seconds."""
        self.arguments, self._began = arguments, began
        self._beat, self._journal = Path(f"{state}/daemon.json"), Journal(Path(f"{state}/journal.jsonl"))
        self.environ = password(arguments)
        self.url = arguments.value("--attach") or ""
        found = door_at(arguments)
        self.door = found if isinstance(found, Door) else None
        self.session: Session | None = None
        self._clock = SystemClock()

    def retrying(self) -> bool:
        """Whether our session or a subagent of it waits in OpenCode's own retry, and the daemon does not see to it."""
        return self._asked(self._retrying)

    def in_error(self) -> bool:
        """Whether its turn has ended in an error that nobody wished for, and the daemon does not see to it."""
        return self._asked(self._in_error)

    def claimed(self) -> float | None:
        """When the daemon claimed a move of our session, epoch seconds; None if it has not."""
        if not self._asked(lambda: self._find() is not None):
            return None
        claim = next(iter(self._entries("claim", "moved")), None)
        return from_rfc3339(str(claim["time"])) if claim else None

    def left_to_daemon(self) -> bool:
        """Whether the daemon is up and has our session in its care: then it decides, until it can do nothing more."""
        up = heartbeat.read(self._beat).state(time.time()) == heartbeat.State.UP
        if self.session is None or not up:
            return False
        known = SessionStore(Paths.from_env().opencode_data).session(self.session.id) is not None
        return known and not self._entries("exhausted", "session")

    # ---- the brain's eyes

    def findings(self, ident: str | None = None) -> Findings:
        """Our session and its limited subagents, or the one that is named, if it is one of these."""
        if self.door is None or self.session is None:
            return Findings((), 0)
        try:
            return Findings(tuple(self._views(connect(self.door), self.session, ident)), 1)
        except DoorError as fault:
            return Findings((), 0, (str(fault),), 1)

    def _views(self, api: Api, own: Session, ident: str | None) -> Iterable[SessionView]:
        statuses = api.status(own.directory)
        waiting = _retrying(statuses) - {own.id}
        others = waiting if ident is None else ({ident} - {own.id})
        below = [child for child in (api.session(other, own.directory) for other in others) if child.parent == own.id]
        wanted = [own, *below] if ident in (None, own.id) else below
        return [look(api, session, self._clock, statuses) for session in wanted]

    # ---- asking

    def _asked(self, question: Callable[[], bool]) -> bool:
        with suppress(DoorError):  # the client says what is wrong with its server
            return self.door is not None and question()
        return False

    def _api(self) -> Api:
        assert self.door is not None
        return connect(self.door)

    def _retrying(self) -> bool:
        if not _retrying(self._api().status(self.arguments.value("--dir"))) or self._find() is None:
            return False
        return any(view.state is SessionState.RETRY for view in self.findings().views) and not self.left_to_daemon()

    def _in_error(self) -> bool:
        session = self._find()
        if session is None or self.left_to_daemon():
            return False
        view = look(self._api(), session, self._clock, questions=False)
        return view.state is SessionState.ERROR and not view.aborted

    def _find(self) -> Session | None:
        """Ours, if exactly one can be meant: clients that send the same words at once cannot be told apart."""
        if self.session is None:
            listed = self._api().sessions(self.arguments.value("--dir"))
            recent = [each for each in listed if each.parent is None and (each.updated or 0.0) >= self._began]
            mine = [session for session in recent if self._sent_by_us(session)]
            self.session = mine[0] if len(mine) == 1 else None
        return self.session

    def _sent_by_us(self, session: Session) -> bool:
        arguments = self.arguments
        if arguments.session not in (None, session.id) and not arguments.has("--fork"):
            return False
        for entry in self._api().raw_messages(session.id, session.directory, FEW):
            info, parts = mapping(entry.get("info")), entry.get("parts")
            new = info.get("role") == "user" and created(info) >= self._began
            if new and says(arguments, map(mapping, parts) if isinstance(parts, list) else ()):
                return True
        return False

    def _entries(self, what: str, field: str) -> list[dict[str, object]]:
        """The journal's entries about our session since we began."""
        ident = self.session.id if self.session else None
        return [e for e in self._journal.read(self._began) if e.get("what") == what and e.get(field) == ident]


def door_at(arguments: Arguments) -> Door | str:
    """The door into the server that is attached to, or what is wrong with it."""
    return door_of_url(arguments.value("--attach") or "", basic_auth(password(arguments)))


def no_door(arguments: Arguments) -> str | None:
    """Why nobody here may ask that server; None if we may."""
    door = door_at(arguments)
    return door if isinstance(door, str) else None


def password(arguments: Arguments) -> Mapping[str, str]:
    """User and password for the server, as OpenCode takes them: options go before the environment."""
    given = {"PASSWORD": ("-p", "--password"), "USERNAME": ("-u", "--username")}
    names = {f"OPENCODE_SERVER_{name}": options for name, options in given.items()}
    return {name: arguments.value(*options) or os.environ.get(name, "") for name, options in names.items()}


def says(arguments: Arguments, parts: Iterable[Json]) -> bool:
    """Whether a prompt's parts hold what the client makes of our words: 1.3 - 1.18 quote those with a space in them."""
    words = arguments.prompt
    if not words or arguments.has("--command"):  # from standard input alone; or what a template makes of them
        return True
    quoted = ['"' + word.replace('"', '\\"') + '"' if " " in word else word for word in words]
    starts = {" ".join(form).strip() for form in (words, quoted)}
    said = [str(part.get("text", "")).strip() for part in parts if part.get("type") == "text"]
    return any(text == start or text.startswith(f"{start}\n") for text in said for start in starts)


def follow(server: Elsewhere, since: float, out: Writer, signals: Signals, say: Callable[[str], None]) -> int:
    """The exit code of our session's turn, which the daemon has claimed to move at `since`, epoch seconds."""
    assert server.door is not None
    assert server.session is not None
    say(f"the daemon has moved {server.session.id}; waiting for its answer")
    try:
        printer = Printer(Api(server.door), server.session, server.arguments.format == "json", out, since=since)
        return _wait(
            Served(server.door, server.session, printer, server.arguments.has("--auto"), SystemClock()), signals
        )
    except DoorError as fault:
        say(str(fault))
        return ExitCode.FAILED


def _wait(served: Served, signals: Signals) -> int:
    while signals.got is None:
        view = served.look()
        code = served.ended(view) if view is not None else None
        if code is not None:
            return code
        signals.wait(POLL)
    return -signals.got


def _retrying(statuses: Mapping[str, RetryStatus]) -> frozenset[str]:
    return frozenset(ident for ident, status in statuses.items() if status.type == "retry")
