"""Run the steps of the drill with a private home, a session and a simulated user (`Scene`).

The daemon, the plugin and OpenCode are real; the user and the provider are simulated. A failed step stops the drill
only if later steps depend on it. Every wait has a timeout.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ocwatchd.drill.home import DrillHome
from ocwatchd.drill.provider import FALLBACK, PRIMARY, DrillProvider
from ocwatchd.drill.user import User, user_of
from ocwatchd.errors import OcwatchError
from ocwatchd.opencode.client.v1.responses import version_of
from ocwatchd.opencode.process.process_tree import stop_group
from ocwatchd.opencode.process.program import about_program, last_output
from ocwatchd.opencode.process.temporary_server import private_server
from ocwatchd.state import heartbeat
from ocwatchd.state.blacklist.format import Entry, read_entries
from ocwatchd.state.journal import Journal
from ocwatchd.time_words import exactly, stamp

POLL_INTERVAL = 0.02
IDLE_TIMEOUT = 5.0
"""Timeout, in seconds, for a session to become idle. On an idle machine, the first check succeeds."""
AFTER_TURN = 0.3
"""Pause, in seconds, between the end of a turn and the next prompt.

A prompt that arrives in the milliseconds in which OpenCode's loop exits is lost (measured on 1.0.185). Users are
slower.
"""
PROMPT = "This is a fire drill: {}."
KEEP = "run the drill again with --keep, and attach the directory to a bug report"

Found = TypeVar("Found")


class StepFailed(OcwatchError):
    """Raised if a step of the drill failed. `fatal` is True if the later steps depend on it."""

    def __init__(self, expected: str, seen: str, remedy: str, *, fatal: bool = False) -> None:
        """Store the expectation, the observation and the remedy, as phrases without a period."""
        super().__init__(f"expected {expected}; seen: {seen}")
        self.expected, self.seen, self.remedy, self.fatal = expected, seen, remedy, fatal


class Scene:
    """One drill's home, the session in that home, the simulated user, and the remaining time."""

    def __init__(self, home: DrillHome, budget: float) -> None:
        """Start the clock. After `budget` seconds, all further waits end immediately."""
        self.home, self.session = home, ""
        self.user: User
        self._deadline = time.monotonic() + budget

    # ---- bounded waiting

    def left(self, seconds: float) -> float:
        """Return `seconds`, or the time that remains for the drill if that is shorter."""
        return max(min(seconds, self._deadline - time.monotonic()), 0.01)

    def slow_down(self, seconds: float) -> None:
        """Extend the whole drill by `seconds`, because the machine is slow."""
        self._deadline += seconds

    @property
    def over(self) -> bool:
        """Whether the time for the whole drill is used up."""
        return time.monotonic() >= self._deadline

    def poll(self, check: Callable[[], Found | None], seconds: float) -> Found | None:
        """Call `check` until its result is true, and return the result. Return None if this takes longer than
        `seconds`.
        """
        until = time.monotonic() + self.left(seconds)
        while True:
            found = check()
            if found or time.monotonic() > until:
                return found or None
            time.sleep(POLL_INTERVAL)

    # ---- the simulated user

    def begin_session(self) -> None:
        """Create the drill's session.

        Raises:
            StepFailed: OpenCode does not create a session.
            EndpointError: The endpoint does not respond.
        """
        session = self.user.new_session()
        if session is None:
            raise StepFailed("a new session", "a response without the session's id", KEEP, fatal=True)
        self.session = session

    def prompt(self, which: str) -> float:
        """Send a prompt in the session, and return the time at which it was sent, in epoch seconds.

        Raises:
            EndpointError: The endpoint does not answer.
        """
        sent = time.time()
        self.user.prompt(self.session, PROMPT.format(which))
        return sent

    def settle(self) -> None:
        """Wait until the session is idle. If it stays busy after the move, create a new session.

        Raises:
            StepFailed: OpenCode creates no session.
            EndpointError: The endpoint does not answer.
        """
        if self.poll(lambda: self.user.is_idle(self.session), IDLE_TIMEOUT):
            time.sleep(AFTER_TURN)
        else:
            self.begin_session()

    # ---- observations

    def entry(self) -> Entry | None:
        """Return the primary's entry in the blacklist, or None if it has no entry."""
        return read_entries(self.home.paths.blacklist).entries.get(PRIMARY)

    def known_end(self) -> Entry | None:
        """Return the primary's entry if its reset time is not an estimate; otherwise, return None."""
        entry = self.entry()
        return entry if entry is not None and entry.reset_source != "estimate" else None

    def verified(self) -> bool:
        """Return whether the daemon has recorded the session's move."""
        return any(entry.get("what") == "moved" for entry in Journal(self.home.paths.journal).read())

    # ---- the daemon

    def start_daemon(self, stack: ExitStack, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
        """Start `ocwatchd` in this environment, which it shares with OpenCode. `stack` stops the daemon."""
        with self.home.output("daemon").open("wb") as sink:
            daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "ocwatchd"],
                cwd=self.home.project,
                env=self.home.daemon_environ(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        stack.callback(stop_group, daemon, 5.0)
        return daemon

    def daemon_said(self) -> str:
        """Return the last part of the daemon's output."""
        return last_output(self.home.output("daemon")) or "nothing"


BUDGET = 150.0
"""Timeout, in seconds, for the whole drill, even if a process hangs. An idle machine with two cores needs 15 - 20 s.

After a slow start, both the simulated limit and the drill are extended. Otherwise, after a start
that took 45 s, the last step would have only 5 s left.
"""
OVER = "; the drill timed out. If this machine is busy, try again later"
START_TIMEOUT, STEP_TIMEOUT = 60.0, 30.0
"""Timeouts, in seconds, for OpenCode's cold start (3 s on an idle machine) and a later step (1 s).

The timeout for a step is longer after a slow start.
"""
LOG_TIMEOUT = 15.0
"""Timeout, in seconds, for the limit to appear in OpenCode's log. OpenCode 1.17 and later writes the log in batches, up
to one second late on an idle machine.
"""
MIN_COOLDOWN = 8.0
"""Minimum time, in seconds, for which the primary is limited. A move, and a later prompt that the plugin sends to the
fallback in advance, must fit into this time.
"""
BUNDLED_SINCE = (1, 0, 142)
"""First version that can pass the drill. Versions up to 1.0.98 cannot, because they install `@ai-sdk/…` from npm at run
time.
"""
RETURN_TIMEOUT = 5.0
"""Timeout, in seconds, for the daemon to return an OpenCode 2 session to the primary. The daemon has to do so, because
prompts in OpenCode 2 do not name a model.
"""
CALL_TIMEOUT = 10.0
"""Timeout, in seconds, for a request by the simulated user."""
TITLES = {
    "opencode": "OpenCode runs",
    "start": "OpenCode and the daemon start",
    "endpoint": "the plugin opens its endpoint",
    "detection": "the limit is recognized",
    "log": "OpenCode's log contains the limit",
    "cooldown": "the reset time is known",
    "move": "the session is moved through the endpoint",
    "prevention": "the next prompt avoids the limited model",
    "return": "after the reset time, the primary is used again",
}
"""The title of each step."""
TITLES_V2 = TITLES | {
    "endpoint": "the plugin is loaded, and the daemon reaches OpenCode",
    "log": "OpenCode's record of the session contains the limit",
}
"""The title of each step for OpenCode 2."""
MAX_DIFFERENCE = 5.0
"""Maximum difference, in seconds, between the reset time in the blacklist and the provider's own. A slow machine causes
a small difference.
"""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of one step. `expected` and `remedy` are set only if the step failed.

    `seconds` is the duration to report, such as the duration of a move, rather than the time that the drill waited.
    """

    code: str
    title: str
    passed: bool
    seconds: float
    seen: str
    expected: str | None = None
    remedy: str | None = None


Work = Callable[[], tuple[str, float | None]]
"""A function that runs a step. It returns the observation and the duration to report. A duration of None means the
duration of the whole step.
"""


class Drill:
    """One drill with one OpenCode program in one home."""

    def __init__(self, program: Path, home: DrillHome, environ: Mapping[str, str], budget: float = BUDGET) -> None:
        """Store the arguments. `run` starts the processes."""
        self._program, self._environ = program, environ
        self._scene = Scene(home, budget)
        self.provider = DrillProvider()
        self.version: str | None = None
        self._generation = 1
        self._stack = ExitStack()
        self._step_timeout = STEP_TIMEOUT

    def run(self) -> Generator[Step, None, None]:
        """Yield each step as soon as it has finished.

        When the iterator is exhausted or closed, all processes of the drill have exited.
        """
        steps: tuple[tuple[str, Work], ...] = (
            ("opencode", self._version),
            ("start", self._start),
            ("endpoint", self._open_endpoint),
            ("detection", self._detection),
            ("log", self._log),
            ("cooldown", self._cooldown),
            ("move", self._move),
            ("prevention", self._prevention),
            ("return", self._return),
        )
        with self._stack:
            for code, work in steps:
                title = (TITLES_V2 if self._generation == 2 else TITLES)[code]
                step, fatal = self._try(code, title, work)
                yield step
                if fatal:
                    return

    def _try(self, code: str, title: str, work: Work) -> tuple[Step, bool]:
        began = time.monotonic()
        try:
            seen, seconds = work()
        except StepFailed as fault:
            took = time.monotonic() - began
            seen = f"{fault.seen}{OVER if self._scene.over else ''}"
            return Step(code, title, False, took, seen, fault.expected, fault.remedy), fault.fatal
        except (OcwatchError, OSError) as fault:
            took = time.monotonic() - began
            return Step(code, title, False, took, str(fault), "no error during the step", KEEP), True
        return Step(code, title, True, time.monotonic() - began if seconds is None else seconds, seen), False

    # ---- start

    def _version(self) -> tuple[str, None]:
        try:
            about = about_program(self._program, self._environ, self._scene.left(20))
            self.version, self._generation = about.number, about.generation
        except OcwatchError as fault:
            remedy = "reinstall OpenCode, or try another version: ocwatch drill --fetch latest"
            raise StepFailed("an OpenCode program that reports its version", str(fault), remedy, fatal=True) from fault
        if self._generation == 1 and () < version_of(self.version) < BUNDLED_SINCE:
            raise StepFailed(
                "an OpenCode version that works offline",
                f"version {self.version}, which downloads its providers' libraries at run time",
                "the daemon supports this version, but the drill does not. Use: ocwatch drill --fetch latest",
                fatal=True,
            )
        return f"version {self.version}, {self._program}", None

    def _start(self) -> tuple[str, None]:
        began = time.monotonic()
        url = self._stack.enter_context(self.provider).url
        self._scene.home.prepare(url, self._generation)
        environ = self._scene.home.environ(url, self._environ)
        daemon = self._scene.start_daemon(self._stack, environ)
        output = self._scene.home.output("opencode")
        try:
            server = private_server(
                self._program, str(self._scene.home.project), environ, output=output,
                limit=self._scene.left(START_TIMEOUT), generation=self._generation,
            )  # fmt: skip
            self._endpoint = self._stack.enter_context(server)
        except OcwatchError as fault:
            seen = f"{fault}; its last output: {last_output(output) or 'none'}"
            remedy = f"start `opencode serve` yourself to see whether it works without ocwatchd, or {KEEP}"
            raise StepFailed("a response from `opencode serve`", seen, remedy, fatal=True) from fault
        beat = self._scene.home.paths.heartbeat
        if self._scene.poll(lambda: heartbeat.read(beat).pid == daemon.pid, START_TIMEOUT) is None:
            seen = last_output(self._scene.home.output("daemon")) or "no heartbeat"
            raise StepFailed("the daemon's heartbeat", seen, "run `ocwatchd` in a terminal to see why", fatal=True)
        # On a slow machine, the limit must last longer; otherwise, it ends before the next prompt. OpenCode 2 took 8 s
        # to start at a load of 4; the steps within the limit took less than half of that.
        took = time.monotonic() - began
        self.provider.cooldown = max(MIN_COOLDOWN, (1 if self._generation == 2 else 2) * took)
        self._step_timeout = max(STEP_TIMEOUT, self.provider.cooldown)
        self._scene.slow_down(self.provider.cooldown + took)
        return "`opencode serve` responds, and the daemon writes its heartbeat", None

    # ---- steps

    def _open_endpoint(self) -> tuple[str, None]:
        # OpenCode loads a project at the first request that names it, and loads the plugins with the project.
        first = user_of(self._scene.home, self._endpoint, self._step_timeout)
        first.open_project()
        self._scene.user = user_of(self._scene.home, self._endpoint, CALL_TIMEOUT)
        endpoint = self._scene.poll(first.plugin_endpoint, self._step_timeout)
        if endpoint is None:
            noted = last_output(self._scene.home.paths.state_dir / "plugin-errors.log")
            advice = f"without the plugin, ocwatchd can only reach an OpenCode started with `serve` or `--port`; {KEEP}"
            if self._generation == 2:
                advice = f"without the plugin, each prompt hits a limit once before it is moved; {KEEP}"
            raise StepFailed(
                first.endpoint_expected, f"{first.missing_endpoint()}; the plugin logs: {noted or 'nothing'}", advice
            )
        self._scene.user = user_of(self._scene.home, endpoint, CALL_TIMEOUT)
        return first.endpoint_seen, None

    def _detection(self) -> tuple[str, float]:
        self._scene.begin_session()
        self._scene.prompt("the first prompt")
        refused = self.provider.wait(PRIMARY, 1, self._scene.left(self._step_timeout))
        if not refused:
            raise StepFailed("a request from OpenCode to the drill's provider", "no request", KEEP, fatal=True)
        if self._scene.poll(self._scene.entry, self._step_timeout) is None:
            remedy = f"ocwatchd does not recognize how this OpenCode version reports limits: {KEEP}"
            raise StepFailed(f"{PRIMARY} on the blacklist", "no entry, although the request was refused (429)", remedy)
        return f"{PRIMARY} was refused (429) and is on the blacklist", time.time() - refused[0].time

    def _log(self) -> tuple[str, float]:
        """Check that the limit is also recognized in OpenCode's own record, which is slower than the event stream."""
        refused, user = self.provider.asked(PRIMARY)[0].time, self._scene.user
        seen = self._scene.poll(lambda: user.limit_on_record(self._scene.session), LOG_TIMEOUT)
        if seen is None:
            logs = ", ".join(sorted(path.name for path in self._scene.home.paths.log_dir.glob("*"))) or "none"
            advice = f"limits of sessions without an endpoint are not recognized: upgrade ocwatchd, or {KEEP}"
            raise StepFailed(user.record_says, f"no limit; logs: {logs}", advice)
        return seen, time.time() - refused

    def _cooldown(self) -> tuple[str, float]:
        free_at, entry = self.provider.free_at or 0.0, self._scene.poll(self._scene.known_end, self._step_timeout)
        off = abs((entry.until or 0.0) - free_at) if entry else 0.0
        if entry is None or off > MAX_DIFFERENCE:
            seen = "no entry with a reset time" if entry is None else f"a reset time that differs by {exactly(off)}"
            raise StepFailed(f"the reset time that the provider reported, {stamp(free_at, time.time())}", seen, KEEP)
        since = free_at - self.provider.cooldown
        return f"until {stamp(free_at, time.time())}, from {entry.reset_source}", time.time() - since

    def _move(self) -> tuple[str, float]:
        refused, asked = (
            self.provider.asked(PRIMARY),
            self.provider.wait(FALLBACK, 1, self._scene.left(self._step_timeout)),
        )
        expected = f"the same prompt, sent once to {FALLBACK}, and its answer in the same session"
        if not asked:
            raise StepFailed(expected, f"no request to {FALLBACK}; daemon output: {self._scene.daemon_said()}", KEEP)
        if self._scene.poll(lambda: self._scene.user.is_idle(self._scene.session), self._step_timeout) is None:
            raise StepFailed(expected, "the request arrived, but the session does not become idle", KEEP)
        copies = asked[0].text.count(PROMPT.format("the first prompt"))
        written = self._scene.user.prompts(self._scene.session)
        if (copies, written) != (1, 1):
            seen = f"copies of the prompt in the request: {copies}; user messages in the session: {written}"
            raise StepFailed(expected, seen, KEEP)
        if self._scene.poll(self._scene.verified, self._step_timeout) is None:
            raise StepFailed(expected, "the answer arrived, but the daemon has not verified the move", KEEP)
        return f"{FALLBACK} received the prompt once and answered", asked[0].time - refused[0].time

    def _prevention(self) -> tuple[str, float]:
        before = {model: len(self.provider.asked(model)) for model in (PRIMARY, FALLBACK)}
        self._scene.settle()
        self._scene.user.select_primary(self._scene.session)
        sent = self._scene.prompt("the second prompt")
        asked = self.provider.wait(FALLBACK, before[FALLBACK] + 1, self._scene.left(self._step_timeout))[
            before[FALLBACK] :
        ]
        tried = len(self.provider.asked(PRIMARY)) - before[PRIMARY]
        most = 0 if self._scene.user.prevents() else 1
        if not asked or tried > most:
            expected = f"{'at most one' if most else 'no'} request to {PRIMARY}, and one to {FALLBACK}"
            late = (
                " (the limit had already ended, because this machine is busy; try again)"
                if sent > (self.provider.free_at or 0)
                else ""
            )
            advice = f"until this works, every prompt during a limit costs a refused request and a move; {KEEP}"
            raise StepFailed(expected, f"{tried} to {PRIMARY}, {len(asked)} to {FALLBACK}{late}", advice)
        took = asked[0].time - sent
        if tried:
            return (
                f"there is no plugin hook: {PRIMARY} refused the prompt once before the session moved to {FALLBACK}",
                took,
            )
        return f"the prompt went to {FALLBACK} without a request to {PRIMARY}", took

    def _return(self) -> tuple[str, float]:
        entry = self._scene.entry()
        end = max(self.provider.free_at or 0.0, (entry.until or 0.0) if entry else 0.0)
        self._scene.poll(lambda: time.time() > end + POLL_INTERVAL or None, end - time.time() + 1)
        before = len(self.provider.asked(PRIMARY))
        self._scene.settle()
        self._scene.poll(lambda: self._scene.user.has_returned(self._scene.session), RETURN_TIMEOUT)
        sent = self._scene.prompt("the third prompt")
        asked = self.provider.wait(PRIMARY, before + 1, self._scene.left(self._step_timeout))[before:]
        if not asked:
            raise StepFailed(f"a request to {PRIMARY}", "none", f"see `ocwatch cooldowns`; {KEEP}")
        if asked[0].status != 200:
            raise StepFailed(
                f"an answer from {PRIMARY}",
                "a request that arrived before the limit had ended",
                f"check whether the system clock was changed during the drill; {KEEP}",
            )
        return f"the first prompt after the reset time went to {PRIMARY}", asked[0].time - sent
