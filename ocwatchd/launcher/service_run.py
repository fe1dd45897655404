"""Watch and move the session of an `opencode run` of OpenCode 2, which is a client of a server.

Switching the model is enough to move a limited turn if the next attempt begins soon, or if the server exits together
with the client, as with `--standalone`. Otherwise, the turn must be interrupted, which would make the client exit
without an answer. The launcher therefore ends the client first, continues the turn in the server, and prints the answer
as the client would (0.0.0-next-16350).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol, TextIO

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, RunClient, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.launcher.answer_stream import Served
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.attached_server import FEW, contains_prompt
from ocwatchd.launcher.messages_to_user import printable
from ocwatchd.launcher.output import Writer
from ocwatchd.movers.switch import NEAR, SwitchModel, destroyed_by_interrupt
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v2.messages import Info
from ocwatchd.opencode.client.v2.routes import Routes
from ocwatchd.opencode.client.v2.service import auth_in
from ocwatchd.opencode.client.v2.snapshot import turn_of
from ocwatchd.opencode.discovery.endpoints import EndpointFinder, endpoint_of_url
from ocwatchd.opencode.discovery.probes import Findings
from ocwatchd.opencode.process.process_tree import descendants
from ocwatchd.opencode.sessions.messages import Json, mapping, seconds, text
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat

RECENT = 30
"""Number of recent sessions that are searched for our session."""
SLACK = 2.0
"""Tolerance, in seconds, for a prompt whose time is before the start of its client."""


CREATION_SLACK = 0.25
"""The same tolerance for a session that the client creates. It is shorter than the shortest run, so that a run with the
same prompt that ended a moment ago is not mistaken for ours.
"""


class RunService:
    """The server of an OpenCode 2 client. `session` is the client's session, or None until it is found."""

    def __init__(self, arguments: Arguments, state: str, began: float, child: int) -> None:
        """Store the arguments. `state` is our state directory; `began` is the client's start in epoch seconds; `child`
        is its pid.
        """
        self.arguments, self._began, self._child = arguments, began, child
        self._beat = f"{state}/daemon.json"
        paths = Paths.from_env()
        self.directory = os.path.realpath(os.environ.get("PWD") or ".")
        self.standalone = arguments.has("--standalone")
        self.finder = EndpointFinder(paths.opencode_data, environ={}, state=paths.opencode_state)
        self.endpoint: Endpoint | None = None
        self.session: Info | None = None
        self.clock = SystemClock()

    # ---- signs of a limit, after which the engine is started

    def retrying(self) -> bool:
        """Return whether our session or one of its subagents is waiting for a retry without a daemon to handle it."""
        snapshots = self._asked()
        return any(found.state is SessionState.RETRY and not self._left_to_daemon(found) for found in snapshots)

    def in_error(self) -> bool:
        """Return whether the turn of our session has ended in an error that the user did not cause."""
        return any(found.state is SessionState.ERROR and not found.aborted for found in self._asked()[:1])

    def claimed(self) -> float | None:
        """Return None, because the daemon moves a client's session only by switching its model, and the client prints
        the answer.
        """
        return None

    def _left_to_daemon(self, snapshot: SessionSnapshot) -> bool:
        """Return whether the next attempt begins soon and a running daemon will switch its model."""
        soon = snapshot.next_at is not None and snapshot.next_at - self.clock.now() <= NEAR
        return soon and heartbeat.read(self._beat).state(self.clock.now()) == heartbeat.State.UP

    def _asked(self) -> Sequence[SessionSnapshot]:
        with suppress(EndpointError):  # the client reports the fault itself
            return self.findings().snapshots
        return ()

    # ---- probes for the engine

    def findings(self, ident: str | None = None) -> Findings:
        """Return snapshots of our session and its active subagents. If `ident` is given, return only the snapshot of
        the session with this id.

        Raises:
            EndpointError: The server does not answer.
        """
        session = self._find()
        if session is None or self.endpoint is None:
            return Findings((), 0)
        api = Routes(self.endpoint)
        below = [child for child in api.children(session.id) if child.id in api.active()]
        wanted = [info for info in (session, *below) if ident in (None, info.id)]
        found = [replace(turn_of(api, info.id, self.clock).snapshot, belongs_to_run=False) for info in wanted]
        return Findings(tuple(found), 1)

    def _find(self) -> Info | None:
        """Return our session if exactly one session matches. Clients that send the same prompt
        cannot be distinguished.
        """
        if self.session is not None:
            return self.session
        for endpoint in self._endpoints():
            with suppress(EndpointError):
                mine = [info for info in Routes(endpoint).sessions(RECENT) if self._is_ours(Routes(endpoint), info)]
                if len(mine) == 1:
                    self.endpoint, self.session = replace(endpoint, runs=()), mine[0]
                    return self.session
        return None

    def _endpoints(self) -> Iterator[Endpoint]:
        url = self.arguments.value("--server")
        if url is not None:
            found = endpoint_of_url(url, auth_in(os.environ))
            if isinstance(found, Endpoint):
                yield replace(found, generation=2)
            return
        own = frozenset(descendants(self._child)) if self.standalone else None
        for endpoint in self.finder.find().open:
            if endpoint.generation == 2 and (own is None or endpoint.pid in own):
                yield endpoint

    def _is_ours(self, api: Routes, info: Info) -> bool:
        given = self.arguments.session if not self.arguments.has("--fork") else None
        if info.parent is not None or given not in (None, info.id):
            return False
        if os.path.realpath(info.directory) != self.directory:
            return False
        continues = given is not None or self.arguments.has("-c", "--continue")
        if not continues and info.created is not None and info.created < self._began - CREATION_SLACK:
            return False
        for raw in api.messages(info.id, FEW):
            sent = seconds(mapping(raw.get("time")).get("created")) or 0.0
            new = raw.get("type") == "user" and sent >= self._began - SLACK
            if new and contains_prompt(self.arguments, ({"type": "text", "text": raw.get("text")},)):
                return True
        return False


class ClientProcess(Protocol):
    """The started client's process."""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process is running."""
        ...

    def end(self, number: signal.Signals, /) -> None:
        """End the client, but not the processes that it started."""
        ...


class ClientMover(SwitchModel):
    """Moves the session of a client. `endpoint` is set after the launcher has replaced the client."""

    name = "run"

    def __init__(self, child: ClientProcess, service: RunService, opened: Callable[[Endpoint, Session], None]) -> None:
        """Store the arguments. `opened` is called once, when the launcher replaces the client."""
        super().__init__()
        self._child, self._service, self._opened = child, service, opened
        self.endpoint: Endpoint | None = None
        self._shown = False
        self._taken_over = False

    @property
    def taken_over(self) -> bool:
        """Return whether the launcher has replaced the client."""
        return self._taken_over

    def take_over(self) -> None:
        """Record that the launcher replaces the client. The client's exit code is ignored from now on."""
        self._taken_over = True

    def move(self, order: Order) -> MoveOutcome:
        """Make the move. If the turn must be interrupted because its next attempt is far off, end the client before the
        move.
        """
        if self.endpoint is None:
            if self._child.poll() is None and not self._is_slow(order):
                client = RunClient(order.snapshot.directory, 0.0, False)
                waited_for = replace(order.snapshot.endpoint, runs=(client,))
                return super().move(replace(order, snapshot=replace(order.snapshot, endpoint=waited_for)))
            self._take_over(order.snapshot)
        if not self._shown:
            try:
                self._show(order.snapshot)
            except EndpointError as fault:
                return MoveOutcome(MoveResult.FAILED, str(fault), None, stranded=True)
        return super().move(order)

    def close(self) -> None:
        """Do nothing, because the mover holds no resources."""

    def _is_slow(self, order: Order) -> bool:
        """Return whether the next attempt is far off, and an interrupt would end only the wait for that attempt."""
        snapshot = order.snapshot
        if self._service.standalone or snapshot.parent is not None or snapshot.next_at is None:
            return False
        if snapshot.next_at - self._service.clock.now() <= NEAR:
            return False
        try:
            turn = turn_of(Routes(snapshot.endpoint), snapshot.session, self._service.clock, thorough=True)
            known = Routes(snapshot.endpoint).knows(order.target.model, snapshot.directory)
        except EndpointError:
            return False
        return known and turn.snapshot.state is SessionState.RETRY and destroyed_by_interrupt(turn) is None

    def _take_over(self, snapshot: SessionSnapshot) -> None:
        self.take_over()
        self._child.end(signal.SIGKILL)  # on any other signal, the client would stop the turn
        self.endpoint = snapshot.endpoint

    def _show(self, snapshot: SessionSnapshot) -> None:
        """Start printing the session's output. Nothing is run before that."""
        self._opened(snapshot.endpoint, Session(snapshot.session, snapshot.directory, snapshot.parent, None))
        self._shown = True


class ClientPrinter:
    """Prints the new output of a session as OpenCode 2's `opencode run` does: text, or JSON lines."""

    def __init__(self, endpoint: Endpoint, session: str, as_json: bool, out: Writer, err: TextIO | None = None) -> None:
        """Mark the complete messages as printed.

        Raises:
            EndpointError: The endpoint does not answer.
        """
        self._api, self._session, self._json = Routes(endpoint), session, as_json
        self._out, self._err = out, err or sys.stderr
        self._old = {text(raw.get("id")) for raw in self._api.messages(session, FEW) if _is_complete(raw)}

    def poll(self) -> None:
        """Print the answers completed since the last call.

        Raises:
            EndpointError: The endpoint does not answer.
        """
        for raw in self._api.messages(self._session, FEW):
            ident = text(raw.get("id"))
            if raw.get("type") == "assistant" and ident not in self._old and _is_complete(raw) and not raw.get("error"):
                self._old.add(ident)
                self._print(ident or "", raw)
        self._out.flush()

    def error(self, message: str) -> None:
        """Print the error that ended the turn."""
        if self._json:
            self._event("error", {"error": {"message": message}})
            self._out.flush()
        else:
            print(printable(f"Error: {message}"), file=self._err, flush=True)

    def _print(self, message: str, raw: Json) -> None:
        content = raw.get("content")
        parts = [mapping(part) for part in content] if isinstance(content, list) else []
        about = {"sessionID": self._session, "messageID": message}
        if self._json:
            self._event("step_start", {"part": {"id": f"{message}_start", **about, "type": "step-start"}})
        for number, part in enumerate(parts):
            kind, said = part.get("type"), (text(part.get("text")) or "").strip()
            if self._json and kind in ("text", "tool"):
                name = {"tool": part.get("name")} if kind == "tool" else {}
                whole = {"id": f"{message}_{number}", **about, **part, **name}
                self._event("tool_use" if kind == "tool" else "text", {"part": whole})
            elif kind == "text" and said:
                self._out.write(said + "\n")
            elif kind == "tool":
                print(printable(f"| {part.get('name')}"), file=self._err, flush=True)
        if self._json:
            end = {"reason": raw.get("finish"), "cost": raw.get("cost"), "tokens": raw.get("tokens")}
            self._event("step_finish", {"part": {"id": f"{message}_finish", **about, "type": "step-finish", **end}})

    def _event(self, kind: str, more: Json) -> None:
        event = {"type": kind, "timestamp": int(time.time() * 1000), "sessionID": self._session, **more}
        self._out.write(json.dumps(event, separators=(",", ":"), ensure_ascii=False) + "\n")


class ServedByService(Served):
    """A session in OpenCode 2's service. The launcher has replaced the session's client."""

    def __init__(self, endpoint: Endpoint, session: Session, printer: ClientPrinter, allow: bool) -> None:
        """Store the arguments. With `allow`, permissions are granted; otherwise, they are refused, because no user can
        be asked.
        """
        super().__init__(session, printer)
        self._api, self._allow, self._clock = Routes(endpoint), allow, SystemClock()
        self._print = printer.error

    def _answer_and_probe(self) -> SessionSnapshot:
        self._api.answer_permissions(self.session.id, self._allow)
        return replace(turn_of(self._api, self.session.id, self._clock).snapshot, belongs_to_run=False)

    def _print_error(self, error: ErrorDetails | None) -> None:
        self._print(error.message if error else "stopped")


def _is_complete(raw: Json) -> bool:
    return raw.get("type") != "assistant" or mapping(raw.get("time")).get("completed") is not None
