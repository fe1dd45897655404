"""Find the session of an attached client in its server, report the session's state, and detect whether the daemon has
moved the session.

The client does not print the id of its session before the first words of an answer, so the launcher finds the session
through requests to the server. It is the session in the client's directory (the server's, unless `--dir` names another)
that has received our prompt since the client was started.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ocwatchd.clock import SystemClock, from_rfc3339
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.errors import ExitCode
from ocwatchd.launcher.answer_stream import Served, ServedPrivately
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.messages_to_user import say
from ocwatchd.launcher.output import Printer, Writer, created
from ocwatchd.launcher.signals import Signals
from ocwatchd.opencode.client.request import EndpointError, Trouble
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api, connect
from ocwatchd.opencode.discovery.endpoints import basic_auth, endpoint_of_url
from ocwatchd.opencode.discovery.probes import Findings
from ocwatchd.opencode.listeners import NotOurs, places
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.messages import Json, mapping
from ocwatchd.opencode.sessions.snapshots import take_snapshot
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat
from ocwatchd.state.journal import Journal

POLL = 0.2
FEW = 30
"""Number of recent messages of a session that are searched for our prompt."""


class AttachedServer:
    """The server of one client. `session` is the client's session, or None until it is found. `endpoint` is None if no
    request may be sent to the server.
    """

    def __init__(self, arguments: Arguments, state: str, began: float) -> None:
        """Store the arguments. `state` is our state directory; `began` is the client's start in epoch seconds."""
        self.arguments, self._began = arguments, began
        self._beat, self._journal = Path(f"{state}/daemon.json"), Journal(Path(f"{state}/journal.jsonl"))
        self.environ = password(arguments)
        self.url = arguments.value("--attach") or ""
        found = endpoint_at(arguments)
        self.endpoint = found if isinstance(found, Endpoint) else None
        self.session: Session | None = None
        self._clock = SystemClock()
        self._warned = False

    def retrying(self) -> bool:
        """Return whether our session or one of its subagents is waiting in OpenCode's own retry without a daemon to
        handle it.
        """
        return self._asked(self._retrying)

    def unwatched(self) -> bool:
        """Return whether our session is known and no daemon handles it."""
        return self._asked(lambda: self._find() is not None and not self.left_to_daemon())

    def in_error(self) -> bool:
        """Return whether the turn of our session has ended in an error that the user did not cause and no daemon
        handles.
        """
        return self._asked(self._in_error)

    def claimed(self) -> float | None:
        """Return the time, in epoch seconds, at which the daemon claimed a move of our session, or None if it has not
        claimed one.
        """
        if not self._asked(lambda: self._find() is not None):
            return None
        claim = next(iter(self._entries("claim", "moved")), None)
        return from_rfc3339(str(claim["time"])) if claim else None

    def left_to_daemon(self) -> bool:
        """Return whether a running daemon handles our session. Return False once the journal shows that no model is
        available.
        """
        up = heartbeat.read(self._beat).state(time.time()) == heartbeat.State.UP
        if self.session is None or not up:
            return False
        known = SessionStore(Paths.from_env().opencode_data).session(self.session.id) is not None
        return known and not self._entries("exhausted", "session")

    # ---- probes for the engine

    def findings(self, ident: str | None = None) -> Findings:
        """Return snapshots of our session and its waiting subagents. If `ident` is given, return only the snapshot of
        the session with this id.
        """
        if self.endpoint is None or self.session is None:
            return Findings((), 0)
        try:
            return Findings(tuple(self._snapshots(connect(self.endpoint), self.session, ident)), 1)
        except EndpointError as fault:
            return Findings((), 0, (str(fault),), 1)

    def _snapshots(self, api: Api, own: Session, ident: str | None) -> Iterable[SessionSnapshot]:
        statuses = api.status(own.directory)
        waiting = _retrying(statuses) - {own.id}
        others = waiting if ident is None else ({ident} - {own.id})
        below = [child for child in (api.session(other, own.directory) for other in others) if child.parent == own.id]
        wanted = [own, *below] if ident in (None, own.id) else below
        return [take_snapshot(api, session, self._clock, statuses) for session in wanted]

    def holds(self, ident: str) -> bool:
        """Return whether this is our session or one of its subagents."""
        own = self.session
        if own is None or self.endpoint is None or ident == own.id:
            return own is not None and ident == own.id
        try:
            return ident in self._api().children(own.id, own.directory)
        except EndpointError:
            return False

    # ---- requests

    def _asked(self, question: Callable[[], bool]) -> bool:
        try:
            return self.endpoint is not None and question()
        except EndpointError as fault:  # ignore other errors, because the client reports them
            if fault.trouble is Trouble.FOREIGN and not self._warned:
                self._warned = True
                say(f"this run is not watched for limits: {fault}")
            return False

    def _api(self) -> Api:
        assert self.endpoint is not None
        return connect(self.endpoint)

    def _retrying(self) -> bool:
        if not _retrying(self._api().status(self.arguments.value("--dir"))) or self._find() is None:
            return False
        return (
            any(snapshot.state is SessionState.RETRY for snapshot in self.findings().snapshots)
            and not self.left_to_daemon()
        )

    def _in_error(self) -> bool:
        session = self._find()
        if session is None or self.left_to_daemon():
            return False
        snapshot = take_snapshot(self._api(), session, self._clock, questions=False)
        return snapshot.state is SessionState.ERROR and not snapshot.aborted

    def _find(self) -> Session | None:
        """Return our session if exactly one session matches. Clients with the same prompt cannot be distinguished."""
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
            if new and contains_prompt(arguments, map(mapping, parts) if isinstance(parts, list) else ()):
                return True
        return False

    def _entries(self, what: str, field: str) -> list[dict[str, object]]:
        """Return the journal entries about our session since the client was started."""
        ident = self.session.id if self.session else None
        return [e for e in self._journal.read(self._began) if e.get("what") == what and e.get(field) == ident]


def endpoint_at(arguments: Arguments) -> Endpoint | str:
    """Return the endpoint of the client's server, or an error message if the server cannot be used."""
    return endpoint_of_url(arguments.value("--attach") or "", basic_auth(password(arguments)))


def no_endpoint(arguments: Arguments) -> str | None:
    """Return the reason why no request may be sent to the server, or None if requests are allowed."""
    endpoint = endpoint_at(arguments)
    if isinstance(endpoint, Endpoint) and isinstance(endpoint.address, TcpAddress):
        try:
            places(endpoint.address.host, endpoint.address.port)
        except NotOurs as fault:
            return str(fault)
        except OSError:  # the client itself reports an unknown host name
            return None
    return endpoint if isinstance(endpoint, str) else None


def password(arguments: Arguments) -> Mapping[str, str]:
    """Return the user and password for the server. As in OpenCode, options take precedence over the environment."""
    given = {"PASSWORD": ("-p", "--password"), "USERNAME": ("-u", "--username")}
    names = {f"OPENCODE_SERVER_{name}": options for name, options in given.items()}
    return {name: arguments.value(*options) or os.environ.get(name, "") for name, options in names.items()}


def contains_prompt(arguments: Arguments, parts: Iterable[Json]) -> bool:
    """Return whether these message parts contain our prompt in the form in which the client sends it. OpenCode 1.3 to
    1.18 quotes words that contain spaces.
    """
    words = arguments.prompt
    # the prompt is unknown: it came from standard input, or a command's template changed it
    if not words or arguments.has("--command"):
        return True
    quoted = ['"' + word.replace('"', '\\"') + '"' if " " in word else word for word in words]
    starts = {" ".join(form).strip() for form in (words, quoted)}
    said = [str(part.get("text", "")).strip() for part in parts if part.get("type") == "text"]
    return any(text == start or text.startswith(f"{start}\n") for text in said for start in starts)


def follow(server: AttachedServer, since: float, out: Writer, signals: Signals, say: Callable[[str], None]) -> int:
    """Print the answer of a turn that the daemon moved, and return its exit code.

    `since` is the time, in epoch seconds, at which the daemon claimed the move.
    """
    assert server.endpoint is not None
    assert server.session is not None
    say(f"the daemon has moved {server.session.id}; waiting for the answer")
    try:
        printer = Printer(Api(server.endpoint), server.session, server.arguments.format == "json", out, since=since)
        return _wait(
            ServedPrivately(server.endpoint, server.session, printer, server.arguments.has("--auto"), SystemClock()),
            signals,
        )
    except EndpointError as fault:
        say(str(fault))
        return ExitCode.FAILED


def _wait(served: Served, signals: Signals) -> int:
    while signals.got is None:
        snapshot = served.poll()
        code = served.ended(snapshot) if snapshot is not None else None
        if code is not None:
            return code
        signals.wait(POLL)
    return -signals.got


def _retrying(statuses: Mapping[str, RetryStatus]) -> frozenset[str]:
    return frozenset(ident for ident, status in statuses.items() if status.type == "retry")
