"""The daemon: one thread owns engine, ledger and tails and is fed by one queue; everything that blocks answers into it.

Wake-ups are hints. A poll floor of a second, capped waits and wall-time deadlines heal lost wake-ups, suspend and clock
steps. The heartbeat is written by the pumping loop alone, so that a stuck loop shows.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import queue
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from uuid import uuid4

from ocwatchd import __version__
from ocwatchd.clock import Clock, SystemClock, rfc3339
from ocwatchd.config import Config, load
from ocwatchd.config.live import LiveConfig
from ocwatchd.config.rules import rules_for
from ocwatchd.core.cursor import Cursor
from ocwatchd.core.detect import Cancelled
from ocwatchd.core.engine import Engine
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import LimitEvent
from ocwatchd.core.messages import Aborted, Configured, Message, Note, Refused, Tick
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.gauge import Gauge
from ocwatchd.hands import Hands
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.logs.tail import Sighting, Window
from ocwatchd.logs.watch import Waker
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Surveyor
from ocwatchd.paths import Paths
from ocwatchd.redirect import RerunOverApi
from ocwatchd.state import blacklist, cursors, daemonlock, heartbeat, prices
from ocwatchd.state.counted import Counted
from ocwatchd.state.facts import FactFiles
from ocwatchd.state.files import make_private_dir, sweep_leftovers
from ocwatchd.supervisor import Supervisor

POLL_FLOOR = 1.0
"""Seconds between looks at the logs when nothing wakes us: file-system watches die silently."""
REGISTER_FLOOR = 0.5
"""Seconds between looks at the register, which a person's clear or block has just changed; a look is one stat."""
BEAT = 2.0
"""Seconds between heartbeats; readers call one stale after ten."""
LISTEN = 2.0
"""Seconds between looks for new doors while logs are being written; a look costs 3 ms for 300 processes."""
CLAIM_MEMORY = 3600.0
"""Seconds back in the journal for moves that a killed daemon left unfinished."""


def say(line: str) -> None:
    """One event, one line on standard error, stamped and free of control characters."""
    text = line
    if not line.isprintable():
        text = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    with contextlib.suppress(OSError, ValueError):  # a closed standard error must not end the daemon
        print(f"{rfc3339(SystemClock().now())} {text}", file=sys.stderr, flush=True)


class Daemon:
    """Follows the logs of one home until it is stopped."""

    def __init__(
        self, paths: Paths, config: Config, clock: Clock | None = None, supervisor: Supervisor | None = None
    ) -> None:
        """Nothing is touched before `run`."""
        self._paths, self._config, self._clock = paths, config, clock or SystemClock()
        self._supervisor = supervisor or Supervisor({})
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._stopping = False
        self._started = self._beaten = self._listened = self._looked = 0.0
        self._woken, self._unheard = True, False
        self._saved_cursors: dict[str, Cursor] = {}

    def run(self) -> None:
        """Until SIGTERM, SIGINT or `stop`.

        Raises:
            AlreadyRunning: another daemon serves this state directory.
        """
        make_private_dir(self._paths.state_dir)
        with daemonlock.hold(self._paths.daemon_lock), self._signals():
            self._started = self._clock.now()
            for ours in (self._paths.cursors, self._paths.heartbeat, self._paths.forecasts, self._paths.budget):
                sweep_leftovers(ours)  # files that only the one daemon writes
            self._open()
            try:
                self._pump()
            finally:
                self._close()

    def stop(self) -> None:
        """End soon. Safe in a signal handler."""
        self._stopping = True
        self._queue.put(None)

    def _open(self) -> None:
        self._live = LiveConfig(self._paths, self._config, self._started)
        for warning in self._config.warnings:
            say(f"configuration: {warning}")
        register = blacklist.read(self._paths.blacklist)
        rules = rules_for(self._config)
        self._engine = Engine(self._config.policy, rules, Ledger(register.entries()), lambda: uuid4().hex[:12])
        prices.recall(self._engine.mind, self._paths, self._started)
        self._finder = DoorFinder(
            self._paths.opencode_data, urls=self._config.doors, sockets=self._paths.doors, environ=os.environ
        )
        surveyor = Surveyor(self._finder, store := SessionStore(self._paths.opencode_data), clock=self._clock)
        self._hands = Hands(self._paths, self._clock, self._finder, surveyor, RerunOverApi(), say, self._queue.put)
        self._hands.notifier.settings = self._config.notices
        self._hands.register.know(register)
        self._hands.counted = self._counted = Counted(register.counted, self._started)
        self._gauge = Gauge(self._hands, store, self._paths, self._clock)
        for problem in register.problems:
            say(problem)
        directories = (self._paths.log_dir, *self._config.logs.directories)
        window = Window(self._config.logs.look_back_bytes, self._config.logs.look_back)
        saved, trouble = cursors.load(self._paths.cursors)
        if trouble:
            say(trouble)
        self._logs = LogDirectories(directories, rules, cursors=saved, window=window)
        make_private_dir(self._paths.facts)  # the nearest one that exists would be ours: our own writes would wake us
        self._facts = FactFiles(self._paths.facts)
        self._waker = Waker((*directories, self._paths.facts), self._wake, say)
        self._waker.start()
        say(f"ocwatchd {__version__} follows {', '.join(map(str, directories))}")
        self._hands.listen()
        self._facts.tidy(self._clock.now())
        self._go_on(saved)

    def _go_on(self, saved: Mapping[str, Cursor]) -> None:
        """Take up what the life before this one had begun."""
        now = self._clock.now()
        last = self._hands.last_life(now - CLAIM_MEMORY, saved, heartbeat.read(self._paths.heartbeat).beat)
        self._hands.do([Note("started", {"pid": os.getpid(), "release": __version__})])
        self._engine.ledger.lift(last.cleared)  # logs tell of refusals from before
        self._engine.remember(last.refused, self._counted.shown(), now)
        for session, claims in last.unfinished.items():
            say(f"a move of {session} was left unfinished: looking")
            self._hands.do(self._engine.resume(session, claims, now))
        for session in sorted(last.unweighed, key=last.missed.__contains__):  # first whom nobody has looked at
            self._hands.do(self._engine.look_at(session, now, missed=session in last.missed))

    def _wake(self) -> None:
        self._queue.put(None)

    def _pump(self) -> None:
        while not self._stopping:
            if self._woken or abs(self._clock.now() - self._looked) >= POLL_FLOOR:
                self._read_logs()
            self._reconfigure()
            self._handle(Tick())
            news = self._hands.register_news()
            if news is not None:
                self._handle(news)
            self._gauge.step(self._engine.mind)
            self._hands.save()
            self._hands.write_notes()
            self._beat()
            self._supervisor.feed(self._clock.now())
            self._take_messages()

    def _handle(self, message: Message) -> None:
        self._hands.do(self._engine.handle(message, self._clock.now()))

    def _reconfigure(self) -> None:
        """Take over an edit of the configuration; cooldowns, sessions and cursors stay."""
        news = self._live.look(self._clock.now())
        if news is None:
            return
        self._beaten = 0.0  # whoever has just edited looks at the status now
        if not isinstance(news, Config):
            self._hands.do([Note("misconfigured", {"why": str(news)})])
            return
        rules = rules_for(news)
        self._logs.exchange_rules(rules)
        self._finder.urls = news.doors
        self._hands.notifier.settings = news.notices
        self._hands.do([Note("configured", {"file": str(self._paths.config_file), "warnings": list(news.warnings)})])
        self._handle(Configured(news.policy, rules))

    def _read_logs(self) -> None:
        """Look at the logs and at what watches them, in slices: a gigabyte must not keep the rest waiting."""
        now = self._looked = self._clock.now()
        self._woken = False
        self._waker.check(now)
        hints = self._waker.hints()
        # A log that is written belongs to a process that runs, perhaps to one that has just opened its door, or opens
        # it with the line that was its last for hours: so a look that comes too soon is made up for.
        self._unheard = self._unheard or bool(hints)
        if self._unheard and abs(now - self._listened) >= LISTEN:
            self._listened, self._unheard = now, False
            self._hands.listen()
        for fact in self._facts.poll():
            self._handle(fact)
        for sighting in self._logs.poll(now, hints):
            message = self._message(sighting)
            if isinstance(message, Aborted) and self._engine.cases.known(message.session) is not None:
                message = self._hands.whose(message)
            if message is not None:
                self._handle(message)
        if self._logs.behind:
            self._wake()
        if hints:  # OpenCode is at work: its first refusal finds us ready, and who idles has not paid for it
            self._logs.prepare()

    def _message(self, sighting: Sighting) -> Message | None:
        """What the engine is told of a log's news; the comings and goings of turns are the log reader's own affair."""
        match sighting.seen:
            case LimitEvent() as event:
                return Refused(event, sighting.live, self._counted.again(sighting.log, event, self._clock.now()))
            case Cancelled(session, time) if sighting.live:
                return Aborted(session, time)
            case _:
                return None

    def _take_messages(self) -> None:
        """Wait for news, at most until the next deadline; then take all there is."""
        due = [at for at in (self._engine.next_wake(), self._hands.save_due, self._live.due) if at is not None]
        patience = min([REGISTER_FLOOR, *(max(moment - self._clock.now(), 0.0) for moment in due)])
        with contextlib.suppress(queue.Empty):
            message = self._queue.get(timeout=patience)
            while True:
                if message is None:
                    self._woken = True
                else:
                    self._handle(message)
                message = self._queue.get_nowait()

    def _beat(self) -> None:
        now = self._clock.now()
        if abs(now - self._beaten) < BEAT:
            return
        self._beaten = now
        self._save_cursors()
        sessions = [
            {"session": case.session, "doing": case.doing.value, "phrase": case.phrase}
            for case in self._engine.cases.all()
            if case.phrase
        ]
        health = [*self._live.health(), *self._hands.health.values(), *self._logs.problems(), *self._waker.health()]
        with contextlib.suppress(OSError):  # without a heartbeat `status` says deaf, which is then true for its readers
            heartbeat.write(
                self._paths.heartbeat, os.getpid(), self._started, now, self._logs.following(), sessions, health,
                self._live.as_json(),
            )  # fmt: skip
        self._supervisor.tell("; ".join([_cooling(self._engine.ledger.entries(), now), *health]))

    def _save_cursors(self) -> None:
        """Never past what is not in the register yet: a kill in between would lose it. What is read again is known.

        A lost cursor costs one bounded look back; nothing waits for it.
        """
        places = self._logs.cursors()
        if places == self._saved_cursors:
            return
        self._hands.save(at_once=True)
        if self._hands.save_due is not None:
            return
        try:
            cursors.save(self._paths.cursors, places)
        except OSError as fault:
            self._hands.health["cursors"] = f"{self._paths.cursors} cannot be written: {fault.strerror or fault}"
            return
        self._hands.health.pop("cursors", None)
        self._saved_cursors = places

    def _close(self) -> None:
        self._supervisor.stopping()
        self._waker.stop()
        self._hands.do([Note("ended", {})])
        self._hands.save(at_once=True)
        self._save_cursors()
        self._logs.close()
        self._hands.close()
        with contextlib.suppress(OSError):
            self._paths.heartbeat.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT end the loop; the handlers of before come back."""
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _cooling(entries: Sequence[Cooldown], now: float) -> str:
    count = sum(entry.active(now) for entry in entries)
    return "no model is cooling" if not count else f"{count} model{'s are' if count > 1 else ' is'} cooling"


def run(paths: Paths | None = None) -> None:
    """Load the configuration and serve in the foreground until stopped.

    Raises:
        ConfigError: the configuration cannot be used.
        AlreadyRunning: another daemon serves this home.
    """
    paths = paths or Paths.from_env()
    Daemon(paths, load(paths), supervisor=Supervisor(os.environ)).run()


def main() -> None:
    """The console script `ocwatchd`."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"ocwatchd {__version__}")
        return
    if sys.argv[1:]:
        asked = sys.argv[1] in ("-h", "--help")
        words = "ocwatchd takes no arguments and runs in the foreground. For commands see: ocwatch --help"
        print(words, file=sys.stdout if asked else sys.stderr)
        sys.exit(ExitCode.DONE if asked else ExitCode.USAGE)
    if sys.stderr is not None:
        faulthandler.enable()  # systemd's watchdog ends a hung loop with SIGABRT: its log then shows where it hung
    # Doors are on loopback or socket files: as on a Python without TLS, the HTTP client takes 0.9 MiB instead of 5.1.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # the documented way to say: not to be had
    try:
        run()
    except OcwatchError as fault:
        print(f"ocwatchd: {fault}", file=sys.stderr)
        sys.exit(fault.exit_code)
    except OSError as fault:  # a home that cannot be written: seen as a traceback on a read-only file system
        print(f"ocwatchd: {fault.filename or 'state'}: {fault.strerror or fault}", file=sys.stderr)
        sys.exit(ExitCode.FAILED)
