"""Moves a session that no door reaches: its OpenCode is ended, and a new one goes on with the same prompt.

Before anything is ended, a private server of the same program and home has to answer, to know target and agent, and to
show no tool at work. It then writes the target into the prompt without running it, so that the new TUI begins on the
target; the prompt is run in that TUI, through the companion plugin's door: the answer comes on the screen as it is
made, however long it takes, and questions reach the user. Without a terminal that can be used, the private server runs
it to its end.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import orjson

from ocwatchd.clock import SystemClock
from ocwatchd.core.guards import Ruling
from ocwatchd.core.limits import Target
from ocwatchd.core.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.views import Door, SessionState, SessionView
from ocwatchd.errors import OcwatchError
from ocwatchd.opencode.answers import Session
from ocwatchd.opencode.api import Api, Rerun
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.guardian import Guardian
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.look import last_answer, last_prompt, look, turn
from ocwatchd.opencode.private import private_server
from ocwatchd.opencode.processes import Running, inspect
from ocwatchd.opencode.terminals import Again
from ocwatchd.paths import Paths
from ocwatchd.redirect import RerunOverApi
from ocwatchd.state.files import make_private_dir

ADDRESS_LIMIT = 5.0
"""Seconds within which the prompt must name the target; 0.02 s on 1.0 - 1.18."""
DOOR_LIMIT = 60.0
"""Seconds until the new TUI's door must answer; 2 - 4 s on an idle machine of two cores."""
CLOCK_SLACK = 1.0
"""Seconds: the kernel's word for when a process began lay 0.24 s before the clock's."""
POLL = 0.1
WATCH = 0.5
"""Seconds between looks at an answer that the private server makes."""


class Terminal(Protocol):
    """Where OpenCode's successor can be started: a tmux pane, or under a launcher of ours."""

    def kept_open(self, again: Again, /) -> AbstractContextManager[None]:
        """Within the block it outlives the end of what runs in it. Raises OcwatchError, OSError if it cannot."""
        ...

    def withdraw(self) -> None:
        """Nothing was ended, so nothing is to follow."""
        ...

    def launch(self, again: Again, scratch: Path) -> None:
        """Start it. Raises OcwatchError, OSError."""
        ...

    def runs(self, running: Running) -> bool:
        """Whether a process runs there."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """What is to be restarted: a session as the store shows it, its process, and its terminal if that can be used.

    `child` is a subagent for whose sake its parent, `view`, is restarted.
    """

    view: SessionView
    process: Running
    terminal: Terminal | None
    child: str | None = None

    def by_hand(self) -> str:
        """What a person types to have the TUI with the session again."""
        words = ["opencode", *self._options()]
        return f"cd {shlex.quote(self.view.directory)} && {shlex.join(words)}"

    def again(self, plugin: Path | None) -> Again:
        """The same for us: the program that ran, with its own options and environment, and with this plugin.

        Raises:
            OcwatchError: the environment holds a configuration of its own that cannot be read.
        """
        process = self.process
        environ = _with_plugin(process.environ, plugin)
        return Again(process.exe, self._options(), self.view.directory, environ, plugin)

    def _options(self) -> list[str]:
        return [*self.process.kept(), "-s", self.view.session]


class Restart:
    """A mover, and a context whose end ends what is temporary. The first move restarts, later ones use the new door."""

    name = "restart"

    def __init__(
        self, paths: Paths, case: Case, plugin: Path | None, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """`plugin`: the companion plugin's file, loaded into the new process alone; None if it is installed anyway.

        `say` takes a line about what is under way. Nothing is touched yet.
        """
        self._paths, self._case, self._say, self._clock = paths, case, say, SystemClock()
        self.again = case.again(plugin if case.terminal else None)
        self._held = ExitStack()
        self._door: Door | None = None
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        """Begin; the private server starts with the first move."""
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """End the private server."""
        self._held.close()

    def move(self, order: Order) -> MoveOutcome:
        """Restart and run the prompt on the target. Without `stranded` in the outcome nothing was touched.

        Raises:
            OpenCodeUnreachable: the private server does not work; nothing was touched.
        """
        door = self._door or self._restart(order.target)
        if isinstance(door, MoveOutcome):
            return door
        self._door = door
        # Whatever was stopped, we did it. A subagent has ended with its process.
        there = replace(order, view=replace(order.view, door=door), child=None, own_abort=True)
        return replace(RerunOverApi().move(there), seconds=time.monotonic() - self._began)

    def finish(self) -> str | None:
        """Wait for the end of an answer that the private server makes; why it did not come to a good one, or None."""
        if self._case.terminal is not None or self._door is None:
            return None
        self._say("waiting for the end of the answer")
        api, session = Api(self._door), self._session
        while True:
            view = look(api, session, self._clock)
            if view.asking:
                return "the answer needs a permission: start OpenCode, and send the prompt again"
            if view.state is SessionState.RETRY:
                return view.message
            if view.state in (SessionState.IDLE, SessionState.ERROR):
                return view.last_error.message if view.last_error else None
            time.sleep(WATCH)

    @property
    def _session(self) -> Session:
        view = self._case.view
        return Session(view.session, view.directory, view.parent, view.version)

    def _restart(self, target: Target) -> Door | MoveOutcome:
        """The door that the prompt can be run through; else how it has ended."""
        case, process = self._case, self._case.process
        guardian = self._held.enter_context(Guardian())
        server = private_server(process.exe, case.view.directory, process.environ, guardian.watch)
        door = self._held.enter_context(server)
        api = Api(door)
        refused = self._refusal(api, target)
        if refused is not None:
            return MoveOutcome(refused.result, refused.why, case.view)
        if case.terminal is not None:
            self._held.enter_context(case.terminal.kept_open(self.again))
        self._say(f"ending OpenCode, process {process.pid}")
        if process.end() is None:
            if case.terminal is not None:
                case.terminal.withdraw()
            return MoveOutcome(MoveResult.FAILED, f"process {process.pid} does not end", case.view)
        if case.terminal is None:
            return door
        return self._hand_back(api, case.terminal, target)

    # ---- before anything is touched

    def _refusal(self, api: Api, target: Target) -> Ruling | None:
        session, case = self._session, self._case
        if not api.knows(target.model, session.directory):
            return Ruling(MoveResult.FAILED, f"OpenCode knows no model {target.model}")
        if target.agent and target.agent not in api.agents(session.directory):
            return Ruling(MoveResult.FAILED, f"OpenCode knows no agent {target.agent}")
        now = look(api, session, self._clock, questions=False)
        if now.user_message is None:
            return Ruling(MoveResult.REFUSED, "the session holds no prompt")
        if now.user_message != case.view.user_message:
            return Ruling(MoveResult.USER_TOOK_OVER, "there is a new prompt")
        if now.state is SessionState.IDLE and now.answer_completed and not now.queued:
            return Ruling(MoveResult.ALREADY, "the prompt is answered")
        tools = [running.tool for running in now.running if running.child is None or running.child != case.child]
        if tools:  # a tool that waits for a permission shows as running as well
            return Ruling(MoveResult.REFUSED, f"tool {tools[0]} is running")
        return None

    # ---- in its terminal

    def _hand_back(self, api: Api, terminal: Terminal, target: Target) -> Door | MoveOutcome:
        trouble: str | None = "interrupted"
        since = time.time()
        try:
            trouble = self._address(api, target)
        finally:  # whatever has happened: a person's terminal is not left empty
            fault = self._launch(terminal)
            self._held.close()
        if fault is not None:
            return MoveOutcome(MoveResult.FAILED, f"{fault}; type: {self._case.by_hand()}", None, stranded=True)
        door = self._door_of(terminal, since)
        why = trouble or "the new OpenCode opened no door: send the prompt again there"
        return door or MoveOutcome(MoveResult.FAILED, why, None, stranded=True)

    def _address(self, api: Api, target: Target) -> str | None:
        """Write the target into the last prompt and run nothing; what went wrong, None if nothing did."""
        session = self._session
        try:
            messages = turn(api, session)
            answer, prompt = last_answer(messages), last_prompt(messages)
            if prompt is None:
                return "the prompt is gone"
            if answer and not answer.began and (answer.completed is None or answer.stopped):
                # It holds nothing. 1.3.2 leaves it open, and its TUI then calls every later prompt QUEUED; 1.18.33
                # closes it, and its TUI draws it above the prompt.
                with suppress(DoorError):
                    api.forget(session, answer.id)
            agent = target.agent or prompt.agent
            rerun = Rerun(prompt.id, target.model, agent, prompt.copied, only_address=True)
            api.rerun(session.id, session.directory, rerun)
            deadline = time.monotonic() + ADDRESS_LIMIT
            while time.monotonic() < deadline:
                if api.message(session.id, prompt.id, session.directory).model == target.model:
                    return None
                time.sleep(POLL / 4)
        except DoorError as fault:
            return str(fault)
        return "the prompt does not take the new model"

    def _launch(self, terminal: Terminal) -> str | None:
        """Start the TUI; what went wrong, None if nothing did."""
        self._say(f"starting it again in {terminal}")
        try:
            make_private_dir(self._paths.state_dir)
            terminal.launch(self.again, self._paths.state_dir)
        except (OcwatchError, OSError) as fault:
            return str(fault)
        return None

    def _door_of(self, terminal: Terminal, since: float) -> Door | None:
        """The door of the OpenCode that began in this terminal since then (epoch seconds)."""
        deadline = time.monotonic() + DOOR_LIMIT
        while time.monotonic() < deadline:
            # A new finder each time: one that was refused in the first second would not ask again for three.
            finder = DoorFinder(self._paths.opencode_data, sockets=self._paths.doors, environ=os.environ)
            for door in finder.find().open:
                process = inspect(door.pid) if door.pid else None
                if process and process.created >= since - CLOCK_SLACK and terminal.runs(process):
                    return door
            time.sleep(POLL)
        return None


def _with_plugin(environ: Mapping[str, str], plugin: Path | None) -> Mapping[str, str]:
    """The environment, so that OpenCode loads this plugin as well (1.0 - 1.18).

    Raises:
        OcwatchError: the environment holds a configuration of its own that cannot be read.
    """
    if plugin is None:
        return environ
    try:
        content = orjson.loads(environ.get("OPENCODE_CONFIG_CONTENT", "").strip() or "{}")
        content["plugin"] = [*(content.get("plugin") or []), plugin.resolve().as_uri()]
    except (ValueError, AttributeError, TypeError) as fault:
        why = "OPENCODE_CONFIG_CONTENT of that OpenCode is no plain JSON"
        raise OcwatchError(f"{why}: install the plugin first (ocwatch plugin install)") from fault
    return {**environ, "OPENCODE_CONFIG_CONTENT": orjson.dumps(content).decode()}
