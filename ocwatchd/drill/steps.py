"""The steps of the drill, in order, each with what was seen and how long it took.

The real daemon and the real plugin work in the private home; the drill itself is only the person who types prompts, and
the provider. A failed step does not end the drill where the next ones can still show something.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.drill.home import DrillHome
from ocwatchd.drill.provider import FALLBACK, PRIMARY, DrillProvider
from ocwatchd.drill.scene import KEEP, POLL, PROMPT, Scene, StepFailed
from ocwatchd.errors import OcwatchError
from ocwatchd.opencode.answers import version_of
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.private import private_server
from ocwatchd.opencode.program import last_words, version_of_program
from ocwatchd.state import heartbeat

BUDGET = 150.0
"""Seconds for the whole drill, whatever hangs; an idle machine of two cores needs 15 - 20. Where the start is slow, the
limit lasts longer and so may the drill: with a start of 45 s the last step had 5 s left."""
OVER = "; the time for the whole drill was over: is this machine busy? Try again"
START, STEP = 60.0, 30.0
"""Seconds for OpenCode's cold start (3 s on an idle machine), and for a later step (1 s); more after a slow start."""
LOG = 15.0
"""Seconds for the log: 1.17 and later write it in batches, up to a second late on an idle machine."""
REST_LEAST = 8.0
"""Seconds that the primary is limited at least: a move and a prevented prompt have to fit in, with room."""
BUNDLED_SINCE = (1, 0, 142)
"""From this version on the drill is known to pass; up to 1.0.98 OpenCode installs `@ai-sdk/…` from npm at run time."""
EXACT = 5.0
"""Seconds by which the known end of a limit may differ from what the provider said, where OpenCode is slow."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `seconds` is what counts in it, not how long we waited; `expected`, `remedy` only where it failed."""

    code: str
    title: str
    passed: bool
    seconds: float
    seen: str
    expected: str | None = None
    remedy: str | None = None


Work = Callable[[], tuple[str, float | None]]
"""A step's work: what was seen, and the seconds that count (None: as long as it took)."""


class Drill:
    """One drill of one OpenCode program in one home."""

    def __init__(self, program: Path, home: DrillHome, environ: Mapping[str, str], budget: float = BUDGET) -> None:
        """Nothing is started before `run`."""
        self._program, self._environ = program, environ
        self._scene = Scene(home, budget)
        self.provider = DrillProvider()
        self.version: str | None = None
        self._stack = ExitStack()
        self._patience = STEP

    def run(self) -> Generator[Step, None, None]:
        """The steps as they end. Everything that was started has ended when the iterator has, also if it is closed."""
        steps: tuple[tuple[str, str, Work], ...] = (
            ("opencode", "OpenCode runs", self._version),
            ("start", "OpenCode and the daemon start", self._start),
            ("door", "the plugin opens the door", self._open_door),
            ("detection", "the limit is recognised", self._detection),
            ("log", "OpenCode's log tells of it", self._log),
            ("cooldown", "its end is known", self._cooldown),
            ("move", "the session moves through the door", self._move),
            ("prevention", "the next prompt avoids the limited model", self._prevention),
            ("return", "after its end the primary is used again", self._return),
        )
        with self._stack:
            for code, title, work in steps:
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
            return Step(code, title, False, took, str(fault), "no fault on the way", KEEP), True
        return Step(code, title, True, time.monotonic() - began if seconds is None else seconds, seen), False

    # ---- starting

    def _version(self) -> tuple[str, None]:
        try:
            self.version = version_of_program(self._program, self._environ, self._scene.left(20))
        except OcwatchError as fault:
            remedy = "reinstall OpenCode, or try another one: ocwatch drill --fetch latest"
            raise StepFailed("an OpenCode that tells its version", str(fault), remedy, fatal=True) from fault
        if () < version_of(self.version) < BUNDLED_SINCE:
            raise StepFailed(
                "an OpenCode that works offline",
                f"version {self.version}, which fetches its providers' libraries when it runs",
                "the daemon knows this version, the drill does not: ocwatch drill --fetch latest",
                fatal=True,
            )
        return f"version {self.version}, {self._program}", None

    def _start(self) -> tuple[str, None]:
        began = time.monotonic()
        url = self._stack.enter_context(self.provider).url
        self._scene.home.prepare(url)
        environ = self._scene.home.environ(url, self._environ)
        daemon = self._scene.start_daemon(self._stack, environ)
        output = self._scene.home.output("opencode")
        try:
            server = private_server(
                self._program, str(self._scene.home.project), environ, output=output, limit=self._scene.left(START)
            )
            self._scene.door = self._stack.enter_context(server)
        except OcwatchError as fault:
            said = f"{fault}; its last words: {last_words(output) or 'none'}"
            remedy = f"start `opencode serve` yourself to see whether it works without us, or {KEEP}"
            raise StepFailed("`opencode serve` that answers", said, remedy, fatal=True) from fault
        if self._scene.poll(lambda: heartbeat.read(self._scene.home.paths.heartbeat).pid == daemon.pid, START) is None:
            said = last_words(self._scene.home.output("daemon")) or "no sign of life"
            raise StepFailed("the daemon's heartbeat", said, "run `ocwatchd` in a terminal to see why", fatal=True)
        # On a slow machine the limit has to last longer, or it is over before the next prompt is sent.
        took = time.monotonic() - began
        self.provider.rest = max(REST_LEAST, 2 * took)
        self._patience = max(STEP, self.provider.rest)
        self._scene.slow_down(self.provider.rest + took)
        return "`opencode serve` answers, the daemon's heart beats", None

    # ---- what is shown

    def _open_door(self) -> tuple[str, None]:
        # Plugins are loaded with the project, and the project with the first request that names it.
        Api(self._scene.door, self._patience).status(str(self._scene.home.project))
        door = self._scene.poll(self._scene.answering_socket, self._patience)
        if door is None:
            there = any(self._scene.home.paths.doors.glob("*.sock"))
            noted = last_words(self._scene.home.paths.state_dir / "plugin-errors.log")
            seen = "a socket that does not answer" if there else "no socket: the plugin is not loaded, or has no way in"
            raise StepFailed(
                "a socket of the plugin's that answers as OpenCode itself",
                f"{seen}; the plugin notes: {noted or 'nothing'}",
                f"without it only `serve` and `--port` are reached, not a plain TUI; {KEEP}",
            )
        self._scene.door = door
        return "its socket answers as OpenCode's own API", None

    def _detection(self) -> tuple[str, float]:
        self._scene.session = self._scene.new_session()
        self._scene.prompt("the first prompt")
        refused = self.provider.wait(PRIMARY, 1, self._scene.left(self._patience))
        if not refused:
            raise StepFailed("OpenCode to ask the drill's provider", "no request at all", KEEP, fatal=True)
        if self._scene.poll(self._scene.entry, self._patience) is None:
            remedy = f"this OpenCode logs refusals in a way that is not known here: {KEEP}"
            raise StepFailed(f"{PRIMARY} on the register", "no entry, although it was refused (429)", remedy)
        return f"{PRIMARY} was refused (429) and is on the register", time.time() - refused[0].time

    def _log(self) -> tuple[str, float]:
        """The plugin and OpenCode's event stream are faster: that the log is understood too has to be looked at."""
        refused = self.provider.asked(PRIMARY)[0].time
        event = self._scene.poll(self._scene.logged, LOG)
        if event is None:
            logs = ", ".join(sorted(path.name for path in self._scene.home.paths.log_dir.glob("*"))) or "no log at all"
            advice = f"sessions that no door reaches are not seen to be limited: look for a newer ocwatchd, or {KEEP}"
            raise StepFailed("a refusal in OpenCode's log that the rules know", f"none in {logs}", advice)
        seen = f"{event.verdict.kind or 'limit'} of {event.ref}, rule {event.verdict.rule}"
        return seen, time.time() - refused

    def _cooldown(self) -> tuple[str, float]:
        free_at, entry = self.provider.free_at or 0.0, self._scene.poll(self._scene.known_end, self._patience)
        off = abs((entry.until or 0.0) - free_at) if entry else 0.0
        if entry is None or off > EXACT:
            seen = "no entry that names an end" if entry is None else f"an end that is {off:.1f} s off"
            raise StepFailed(f"the end that the provider named, {_clock(free_at)}", seen, KEEP)
        since = free_at - self.provider.rest
        return f"until {_clock(free_at)}, told by {entry.told_by}", time.time() - since

    def _move(self) -> tuple[str, float]:
        refused, asked = self.provider.asked(PRIMARY), self.provider.wait(FALLBACK, 1, self._scene.left(self._patience))
        expected = f"the same prompt, once, at {FALLBACK}, and its answer in the same session"
        if not asked:
            raise StepFailed(expected, f"no request at {FALLBACK}; the daemon says: {self._scene.daemon_said()}", KEEP)
        if self._scene.poll(self._scene.idle, self._patience) is None:
            raise StepFailed(expected, "the request, but the session does not come to rest", KEEP)
        said = asked[0].text.count(PROMPT.format("the first prompt"))
        written = sum(
            message.user
            for message in Api(self._scene.door).messages(self._scene.session, str(self._scene.home.project), 20)
        )
        if (said, written) != (1, 1):
            seen = f"the prompt stands {said} times in the request, {written} user messages in the session"
            raise StepFailed(expected, seen, KEEP)
        if self._scene.poll(self._scene.verified, self._patience) is None:
            raise StepFailed(expected, "the answer, but the daemon has not verified the move", KEEP)
        return f"{FALLBACK} has the prompt, once, and answers", asked[0].time - refused[0].time

    def _prevention(self) -> tuple[str, float]:
        before = {model: len(self.provider.asked(model)) for model in (PRIMARY, FALLBACK)}
        expected = f"no request at {PRIMARY}, one at {FALLBACK}"
        sent = self._scene.prompt_when_free("the second prompt")
        asked = self.provider.wait(FALLBACK, before[FALLBACK] + 1, self._scene.left(self._patience))[before[FALLBACK] :]
        tried = len(self.provider.asked(PRIMARY)) - before[PRIMARY]
        if not asked or tried:
            late = (
                " (the limit was over: this machine is busy, try again)" if sent > (self.provider.free_at or 0) else ""
            )
            advice = f"every prompt during a limit now costs a refused request and a move; {KEEP}"
            raise StepFailed(expected, f"{tried} at {PRIMARY}, {len(asked)} at {FALLBACK}{late}", advice)
        return f"it goes to {FALLBACK} before any request is made", asked[0].time - sent

    def _return(self) -> tuple[str, float]:
        entry = self._scene.entry()
        end = max(self.provider.free_at or 0.0, (entry.until or 0.0) if entry else 0.0)
        self._scene.poll(lambda: time.time() > end + POLL or None, end - time.time() + 1)
        before = len(self.provider.asked(PRIMARY))
        sent = self._scene.prompt_when_free("the third prompt")
        asked = self.provider.wait(PRIMARY, before + 1, self._scene.left(self._patience))[before:]
        if not asked:
            raise StepFailed(f"a request at {PRIMARY}", "none", f"see `ocwatch cooldowns`; {KEEP}")
        if asked[0].status != 200:
            raise StepFailed(f"an answer of {PRIMARY}", "a request before its time", f"is the clock stepping? {KEEP}")
        return f"the first prompt after it goes to {PRIMARY}", asked[0].time - sent


def _clock(epoch: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(epoch))
