"""Move a session that has no endpoint: end its OpenCode process and continue the same prompt in a new process.

First, a private server of the same program and home must respond, offer the target and its agent, and show no running
tool. Only then is the OpenCode process ended. The server writes the target into the prompt without running it, so that
the new TUI opens the session on the target. The prompt is then run in that TUI, through the companion plugin's
endpoint. There, the user sees the answer appear and can answer questions. Without a usable terminal, the private server
runs the prompt until it is answered.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import orjson

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState
from ocwatchd.core.domain.types import Target
from ocwatchd.core.engine.guards import Ruling, in_background
from ocwatchd.errors import OcwatchError
from ocwatchd.movers.preflight import repeated, unknown_target
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import STARTING_LIMIT, Api, Rerun
from ocwatchd.opencode.discovery.endpoints import EndpointFinder
from ocwatchd.opencode.discovery.processes import Running, inspect
from ocwatchd.opencode.process.process_tree import descends
from ocwatchd.opencode.process.reaper import Guardian
from ocwatchd.opencode.process.temporary_server import private_server
from ocwatchd.opencode.process.tmux import PICKUP_LIMIT, Again, TerminalFault
from ocwatchd.opencode.sessions.snapshots import last_answer, last_prompt, take_snapshot, turn, unfinished_children
from ocwatchd.paths import Paths
from ocwatchd.state.files import make_private_dir
from ocwatchd.state.relaunch_requests import Asking, path_for

ADDRESS_LIMIT = 5.0
"""Timeout, in seconds, for OpenCode to write the target into the prompt. This takes 0.02 s on 1.0 - 1.18."""
ENDPOINT_TIMEOUT = 60.0
"""Timeout, in seconds, for the new TUI's endpoint to respond. This takes 2 - 4 s on an idle machine with two cores."""
CLOCK_SLACK = 1.0
"""Tolerance, in seconds, for comparing the start of a process with other times."""
POLL = 0.1
"""Interval, in seconds, between searches for the new endpoint."""
WATCH = 0.5
"""Interval, in seconds, between checks of whether the private server has completed the answer."""


class Terminal(Protocol):
    """A terminal in which OpenCode can be started again: a tmux pane, or the terminal of `oc-smart`."""

    def kept_open(self, again: Again, /) -> AbstractContextManager[None]:
        """Keep the terminal open during the block even if its process ends.

        Raises:
            OcwatchError: The terminal cannot be kept open; nothing was changed.
            OSError: Same as OcwatchError.
        """
        ...

    def withdraw(self) -> None:
        """Cancel the preparations of `kept_open`, because the OpenCode process was not ended."""
        ...

    def launch(self, again: Again, scratch: Path) -> None:
        """Start the program.

        Raises:
            OcwatchError: The program cannot be started.
            OSError: Same as OcwatchError.
        """
        ...

    def runs(self, running: Running) -> bool:
        """Return whether a process is running in this terminal."""
        ...


@dataclass(frozen=True, slots=True)
class StrandedSession:
    """A session to restart: its snapshot from the message store, its process, and its terminal if that is usable.

    If a subagent is stuck, `snapshot` is that of its parent and `child` is the subagent.
    """

    snapshot: SessionSnapshot
    process: Running
    terminal: Terminal | None
    child: str | None = None

    @property
    def unreachable_again(self) -> bool:
        """Whether OpenCode would again have no endpoint if it were started in the same way: with `--pure` and without a
        port.
        """
        return self.terminal is not None and self.process.pure and not self.process.port

    def by_hand(self) -> str:
        """Return the command that a user can type to reopen the session.

        It omits `--pure` if there is no usable terminal or if the successor would have no endpoint.
        """
        with_plugins = self.terminal is None or self.unreachable_again
        words = ["opencode", *(self.process.with_plugins() if with_plugins else self.process.kept())]
        words += ["-s", self.snapshot.session]
        return f"cd {shlex.quote(self.snapshot.directory)} && {shlex.join(words)}"

    def again(self, plugin: Path | None) -> Again:
        """Return the command that reopens the session with the same program, options and environment, and loads
        `plugin`.

        Raises:
            OcwatchError: The environment contains a configuration that cannot be read.
        """
        process = self.process
        environ = _with_plugin(process.environ, plugin)
        return Again(process.exe, self._options(), self.snapshot.directory, environ, plugin)

    def _options(self) -> list[str]:
        return [*self.process.kept(), "-s", self.snapshot.session]


class Restart:
    """Mover whose first move restarts OpenCode. Later moves use the new endpoint.

    As a context manager, it ends the private server at the end of the block.
    """

    name = "restart"

    def __init__(
        self, paths: Paths, stranded: StrandedSession, plugin: Path | None, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Store the arguments without changing anything.

        `plugin` is the companion plugin's file, which is loaded only into the new process; it is None if the plugin is
        installed. `say` is called with one line for each step.
        """
        self._paths, self._stranded, self._say, self._clock = paths, stranded, say, SystemClock()
        self.again = stranded.again(plugin if stranded.terminal else None)
        self._held = ExitStack()
        self._endpoint: Endpoint | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        """Return self. The private server starts with the first move."""
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """End the private server."""
        self._held.close()

    def move(self, order: Order) -> MoveOutcome:
        """Restart OpenCode and run the prompt on the target. If the restart fails and the outcome is not `stranded`,
        nothing was changed.

        Raises:
            OpenCodeUnreachable: The private server cannot be started; nothing was changed.
        """
        endpoint = self._endpoint or self._restart(order.target)
        if isinstance(endpoint, MoveOutcome):
            return endpoint
        self._endpoint = endpoint
        # The restart itself has aborted the turn, and any subagent ended together with the old process.
        there = replace(order, snapshot=replace(order.snapshot, endpoint=endpoint), child=None, own_abort=True)
        mover = RerunOverApi(lambda endpoint: Api(endpoint, STARTING_LIMIT))
        return replace(mover.move(there), seconds=time.monotonic() - self._began)

    def finish(self) -> str | None:
        """If the answer is being generated in the private server, wait until it is complete. Return the error if the
        answer failed; otherwise, return None.
        """
        if self._stranded.terminal is not None or self._endpoint is None:
            return None
        self._say("waiting for the answer to finish")
        api, session = Api(self._endpoint, STARTING_LIMIT), self._session
        while True:
            snapshot = repeated(lambda: take_snapshot(api, session, self._clock), (WATCH, WATCH), time.sleep)
            if snapshot.asking:
                return "the answer requires a permission: start OpenCode and send the prompt again"
            if snapshot.state is SessionState.RETRY:
                return snapshot.message
            if snapshot.state in (SessionState.IDLE, SessionState.ERROR):
                return snapshot.last_error.message if snapshot.last_error else None
            time.sleep(WATCH)

    @property
    def _session(self) -> Session:
        snapshot = self._stranded.snapshot
        return Session(snapshot.session, snapshot.directory, snapshot.parent, snapshot.version)

    def _restart(self, target: Target) -> Endpoint | MoveOutcome:
        """Restart OpenCode. Return the endpoint at which to run the prompt or, if the restart failed, the outcome."""
        stranded, process = self._stranded, self._stranded.process
        guardian = self._held.enter_context(Guardian())
        server = private_server(process.exe, stranded.snapshot.directory, process.environ, guardian.watch)
        endpoint = self._held.enter_context(server)
        api = Api(endpoint, STARTING_LIMIT)
        refused = self._refusal(api, target)
        if refused is not None:
            return MoveOutcome(refused.result, refused.why, stranded.snapshot)
        if stranded.terminal is not None:
            self._held.enter_context(stranded.terminal.kept_open(self.again))
        self._say(f"stopping OpenCode, process {process.pid}")
        if process.end() is None:
            if stranded.terminal is not None:
                stranded.terminal.withdraw()
            return MoveOutcome(MoveResult.FAILED, f"process {process.pid} did not end", stranded.snapshot)
        if stranded.terminal is None:
            return endpoint
        return self._hand_back(api, stranded.terminal, target)

    # ---- before anything is changed

    def _refusal(self, api: Api, target: Target) -> Ruling | None:
        """Return the reason why the session must not be restarted, or None. The information comes from the private
        server.
        """
        session, stranded = self._session, self._stranded
        unknown = unknown_target(api, target, session.directory)
        if unknown is not None:
            return unknown
        now = take_snapshot(api, session, self._clock, questions=False)
        if now.user_message is None:
            return Ruling(MoveResult.REFUSED, "the session has no prompt")
        if now.user_message != stranded.snapshot.user_message and not now.queued:
            return Ruling(MoveResult.USER_TOOK_OVER, "there is a new prompt")
        if now.state is SessionState.IDLE and now.answer_completed and not now.queued:
            return Ruling(MoveResult.ALREADY, "the prompt is answered")
        tools = [running.tool for running in now.running if running.child is None or running.child != stranded.child]
        if tools:  # this includes tools that are waiting for permission
            return Ruling(MoveResult.REFUSED, f"tool {tools[0]} is running")
        children = unfinished_children(api, session, stranded.process.started - CLOCK_SLACK, stranded.child)
        return Ruling(MoveResult.REFUSED, in_background(children)) if children else None

    # ---- in the session's own terminal

    def _hand_back(self, api: Api, terminal: Terminal, target: Target) -> Endpoint | MoveOutcome:
        """Write the target into the prompt and start the new TUI. Return the TUI's endpoint or, after a failure, the
        outcome.
        """
        trouble: str | None = "interrupted"
        since = time.time()
        try:
            trouble = self._address(api, target)
        finally:  # even after a failure, so that the user is not left with an empty terminal
            fault = self._launch(terminal)
            self._held.close()
        if fault is not None:
            return MoveOutcome(MoveResult.FAILED, f"{fault}; type: {self._stranded.by_hand()}", None, stranded=True)
        endpoint = self._endpoint_of(terminal, since)
        why = trouble or "the new OpenCode process opened no endpoint: send the prompt again in that process"
        return endpoint or MoveOutcome(MoveResult.FAILED, why, None, stranded=True)

    def _address(self, api: Api, target: Target) -> str | None:
        """Write the target into the last prompt without running it. Return the error, or None on success."""
        session = self._session
        try:
            messages = turn(api, session)
            answer, prompt = last_answer(messages), last_prompt(messages)
            if prompt is None:
                return "the prompt no longer exists"
            if answer and not answer.began and (answer.completed is None or answer.stopped):
                # The empty answer is deleted. 1.3.2 leaves it open, and its TUI would show every later prompt as
                # QUEUED. 1.18.33 closes it, and its TUI would show it above the prompt.
                with suppress(EndpointError):
                    api.forget(session, answer.id)
            agent = target.agent or prompt.agent
            rerun = Rerun(prompt.id, target.model, agent, prompt.copied, only_address=True)
            api.rerun(session.id, session.directory, rerun)
            deadline = time.monotonic() + ADDRESS_LIMIT
            while time.monotonic() < deadline:
                if api.message(session.id, prompt.id, session.directory).model == target.model:
                    return None
                time.sleep(POLL / 4)
        except EndpointError as fault:
            return str(fault)
        return "OpenCode did not write the new model into the prompt"

    def _launch(self, terminal: Terminal) -> str | None:
        """Start the TUI. Return the error, or None on success."""
        self._say(f"starting OpenCode again in {terminal}")
        try:
            make_private_dir(self._paths.state_dir)
            terminal.launch(self.again, self._paths.state_dir)
        except (OcwatchError, OSError) as fault:
            return str(fault)
        return None

    def _endpoint_of(self, terminal: Terminal, since: float) -> Endpoint | None:
        """Return the endpoint of the OpenCode process started in this terminal after `since` (epoch seconds), or None
        if it does not appear in time.
        """
        deadline = time.monotonic() + ENDPOINT_TIMEOUT
        while time.monotonic() < deadline:
            # Each search uses a new finder, because a reused finder would wait 3 s after a failed probe in the first
            # second.
            finder = EndpointFinder(self._paths.opencode_data, sockets=self._paths.endpoints, environ=os.environ)
            for endpoint in finder.find().open:
                process = inspect(endpoint.pid) if endpoint.pid else None
                if process and process.started >= since - CLOCK_SLACK and terminal.runs(process):
                    return endpoint
            time.sleep(POLL)
        return None


def _with_plugin(environ: Mapping[str, str], plugin: Path | None) -> Mapping[str, str]:
    """Return a copy of the environment in which OpenCode also loads this plugin (1.0 - 1.18).

    Raises:
        OcwatchError: The environment contains a configuration that cannot be read.
    """
    if plugin is None:
        return environ
    try:
        content = orjson.loads(environ.get("OPENCODE_CONFIG_CONTENT", "").strip() or "{}")
        content["plugin"] = [*(content.get("plugin") or []), plugin.resolve().as_uri()]
    except (ValueError, AttributeError, TypeError) as fault:
        why = "OPENCODE_CONFIG_CONTENT of this OpenCode process is not plain JSON"
        raise OcwatchError(f"{why}: install the plugin first (ocwatch plugin install)") from fault
    return {**environ, "OPENCODE_CONFIG_CONTENT": orjson.dumps(content).decode()}


VARIABLE = "OCWATCHD_TERMINAL"
"""Environment variable that the launcher sets to its own pid."""
NEAR = 3
"""Maximum distance, in generations of processes, from an OpenCode process up to its launcher. This allows for one or
two wrappers, but excludes an OpenCode that was started by a tool inside OpenCode.
"""


@dataclass(slots=True)
class Supervised:
    """The terminal of an `oc-smart` process, which starts OpenCode again itself."""

    launcher: int
    state_dir: Path
    asking: Asking | None = None

    def __str__(self) -> str:
        return f"the terminal of oc-smart (process {self.launcher})"

    @contextmanager
    def kept_open(self, again: Again) -> Iterator[None]:
        """Keep the launcher running when OpenCode exits. The launcher runs the command `again` when `launch` is called,
        or at the latest when the block ends.

        Raises:
            OcwatchError: The request cannot be written; nothing was changed.
            OSError: Same as OcwatchError.
        """
        make_private_dir(self.state_dir)
        request = {"words": again.words, "directory": again.directory, "plugin": again.plugin is not None}
        self.asking = Asking(path_for(str(self.state_dir), self.launcher), request)
        try:
            yield
        finally:
            self.asking.close()

    def withdraw(self) -> None:
        """Withdraw the request, because OpenCode was not ended."""
        if self.asking is not None:
            self.asking.withdraw()

    def launch(self, again: Again, scratch: Path) -> None:  # noqa: ARG002 (`kept_open` has passed it)
        """Make the launcher start the program.

        Raises:
            TerminalFault: The launcher does not respond.
        """
        with suppress(ProcessLookupError):
            os.kill(self.launcher, signal.SIGCONT)  # the launcher was stopped together with its child
        if self.asking is None or not self.asking.go(PICKUP_LIMIT):
            raise TerminalFault(f"{self} did not start OpenCode again")

    def runs(self, running: Running) -> bool:
        """Return whether a process is running in this terminal."""
        return descends(running.pid, frozenset((self.launcher,)), most=NEAR)


def find_supervised(running: Running, state_dir: Path) -> Supervised | None:
    """Return the terminal of the launcher that started this process, or None if no launcher is within NEAR
    generations.
    """
    named = running.environ.get(VARIABLE, "")
    near = [relative.pid for relative in running.above[:NEAR]]
    return Supervised(int(named), state_dir) if named.isdecimal() and int(named) in near else None
