"""The main loop of the daemon: one thread that owns the engine, reads the logs, and takes messages from one queue.

Blocking work runs on other threads and posts its results to the queue. Lost wake-ups, a suspended machine and clock
changes do no harm: logs are also polled every second, the length of each wait is limited, and deadlines are wall-clock
times. Only the loop writes the heartbeat, so that a stuck loop is detected.

The module is long because the daemon's construction, the steps of the loop and the shutdown belong together.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from ocwatchd import __version__, own_log
from ocwatchd.clock import Clock, SystemClock, both_clocks, rfc3339
from ocwatchd.config import Config, load
from ocwatchd.config.active_rules import rules_for
from ocwatchd.config.coverage import ConfigurationGaps
from ocwatchd.config.loading import LiveConfig
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.streams import MAX_PATIENCE_2
from ocwatchd.core.domain.timeline import Timeline
from ocwatchd.core.domain.types import Certainty, LimitEvent
from ocwatchd.core.engine.assess import refusal_of
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import (
    Aborted,
    Asked,
    ClockSet,
    Configured,
    Failure,
    FellSilent,
    GapsLearned,
    Message,
    Note,
    Refused,
    SaveBlacklist,
    Tick,
    TroubleReported,
)
from ocwatchd.core.engine.session import Doing, TrackedSession
from ocwatchd.core.parsing.cursor import Cursor
from ocwatchd.core.parsing.detect import Cancelled
from ocwatchd.core.policy import Mode, WhenExhausted
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.decisions import Decisions
from ocwatchd.daemon.effects import EffectExecutor, daemon_handlers, remember_in
from ocwatchd.daemon.faults import Faults, FileHealth
from ocwatchd.daemon.journal_buffer import JournalBuffer
from ocwatchd.daemon.lanes import FILES, WorkerLanes
from ocwatchd.daemon.notifier import Notifier
from ocwatchd.daemon.opencode_work import OpenCodeWork
from ocwatchd.daemon.recovery import NOTHING_BEFORE
from ocwatchd.daemon.sd_notify import ServiceNotifier
from ocwatchd.daemon.usage_meter import UsageMeter
from ocwatchd.errors import ExitCode, OcwatchError
from ocwatchd.logs.directory import LogDirectories
from ocwatchd.logs.tail import Sighting, Window
from ocwatchd.logs.watcher import Waker
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.event_stream import EventListener
from ocwatchd.opencode.client.v2.event_stream import Progress
from ocwatchd.opencode.client.v2.service import registrations
from ocwatchd.opencode.discovery.endpoints import EndpointFinder
from ocwatchd.opencode.discovery.probes import Prober
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.names import name_among_several, project_directories
from ocwatchd.own_log import clean, outline, printable
from ocwatchd.paths import Paths
from ocwatchd.state import cursors, heartbeat, prices
from ocwatchd.state import daemon_lock as daemonlock
from ocwatchd.state import moved_sessions as moved
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.counted import Counted
from ocwatchd.state.blacklist.sync import SharedBlacklist
from ocwatchd.state.files import StateError, make_private_dir, sweep_leftovers
from ocwatchd.state.journal import Journal
from ocwatchd.state.plugin_reports import PluginReports, keep_alive_age, remove_old
from ocwatchd.time_words import span

POLL_INTERVAL = 1.0
"""Interval, in seconds, at which the logs are read even without a wake-up, because file-system watches can fail without
an error.
"""
BLACKLIST_INTERVAL = 0.5
"""Maximum interval, in seconds, between checks for changes to the blacklist by other programs. A check is one `stat`
call.
"""
BEAT_INTERVAL = 2.0
"""Interval, in seconds, between heartbeats. Readers consider a heartbeat stale after ten seconds."""
SEARCH_INTERVAL = 2.0
"""Minimum interval, in seconds, between searches for endpoints while logs grow. A search takes 3 ms with 300 processes.
"""
POSTPONED = 2.0
"""Additional delay, in seconds, before a search for endpoints while a session is being probed or moved. A search would
slow down the probe or move.
"""
PROGRESS_PAUSE = 30.0
"""Minimum interval, in seconds, between saves of the read position in OpenCode 2's events if none of the events was a
failure.
"""
RESUME_WITHIN = 86_400.0
"""Maximum time, in seconds, between the reset time and the rerun of a turn that an earlier run parked. A machine may be
suspended overnight, but a turn from last week must not start.
"""
CLAIM_MEMORY = 3600.0
"""Maximum age, in seconds, of journal entries that are searched for moves left unfinished by a killed daemon."""
FAULT_PAUSE = 0.1
"""Time, in seconds, that the loop sleeps after a round with an internal fault."""


log = logging.getLogger(__name__)

Queue = queue.SimpleQueue[Message | Failure | None]
"""The queue from which the loop takes its messages. The item None only wakes the loop."""


class Daemon:
    """The daemon of one home, which runs until it is stopped."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        clock: Clock | None = None,
        service_notifier: ServiceNotifier | None = None,
        level: str | None = None,
    ) -> None:
        """Store the arguments; `run` does the work. `level` is the log level; the default is the value of
        OCWATCHD_LOG.
        """
        self._level = level
        self._paths, self._config, self._clock = paths, config, clock or SystemClock()
        self._service_notifier = service_notifier or ServiceNotifier({})
        self._queue: Queue = queue.SimpleQueue()
        self._stopping = False
        self._faults = Faults(log.warning, self._clock.now)

    def run(self) -> None:
        """Run until SIGTERM, SIGINT or `stop`.

        Raises:
            AlreadyRunning: Another daemon is running with this state directory.
        """
        own_log.set_up(self._level)
        make_private_dir(self._paths.state_dir)
        heartbeat.remember_program(self._paths)
        with daemonlock.hold(self._paths.daemon_lock), self._hooks():
            for ours in (self._paths.cursors, self._paths.heartbeat, self._paths.forecasts, self._paths.budget):
                sweep_leftovers(ours)  # safe, because only the daemon writes these files
            loop = Loop(self._paths, self._config, self._clock, self._service_notifier, self._queue, self._faults)
            loop.start()
            try:
                loop.pump(lambda: self._stopping)
            finally:
                loop.close()

    def stop(self) -> None:
        """Make `run` return soon. This method may be called from a signal handler."""
        self._stopping = True
        self._queue.put(None)

    @contextlib.contextmanager
    def _hooks(self) -> Iterator[None]:
        """Install handlers for SIGTERM, SIGINT and exceptions in threads; restore the previous ones afterwards."""
        hook, threading.excepthook = threading.excepthook, self._thread_failed
        before = {number: signal.signal(number, lambda *_: self.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            threading.excepthook = hook

    def _thread_failed(self, told: threading.ExceptHookArgs) -> None:
        name = told.thread.name.rstrip("0123456789 ") if told.thread is not None else "?"
        if told.exc_value is not None and not isinstance(told.exc_value, SystemExit):
            self._faults.note(f"thread {name}", told.exc_value)


class Loop:
    """One run of the daemon: passes messages from the queue to the engine, and the engine's effects to the executor."""

    def __init__(
        self,
        paths: Paths,
        config: Config,
        clock: Clock,
        service_notifier: ServiceNotifier,
        messages: Queue,
        faults: Faults,
    ) -> None:
        """Build all parts of the daemon and read the state of earlier runs. Watching begins only with `start`."""
        self._paths, self._clock, self._service_notifier = paths, clock, service_notifier
        self._queue, self._faults = messages, faults
        self._started = started = clock.now()
        self._code = heartbeat.code_mark()
        self._beat_at = self._searched_at = self._logs_read_at = 0.0
        self._reopened, self._search_wanted = True, False
        self._saved_cursors: dict[str, Cursor] = {}
        self._saved_progress: tuple[dict[str, int], float] = {}, 0.0
        self._services: object = None
        self._timeline = Timeline()
        self._unsaved: list[SaveBlacklist] = []

        self._live = LiveConfig(paths, config, started)
        for warning in config.warnings:
            log.warning(f"configuration: {warning}")
        known, rules = blacklist.read(paths.blacklist), rules_for(config)
        for problem in known.problems:
            log.warning(problem)
        self._engine = Engine(config.policy, rules, Cooldowns(known.entries()), lambda: uuid4().hex[:12], strict=False)
        with faults.survived("restoring the budget"):
            prices.recall(self._engine.context, paths, started)
        with faults.survived("restoring moved sessions"):
            self._engine.returns.note(moved.recall(paths.moved, started))

        post, self._health, self._lanes = messages.put, FileHealth(log.info), WorkerLanes(messages.put, faults)
        self._gaps = ConfigurationGaps(
            paths,
            lambda what, work: self._lanes.submit(FILES, what, work),
            lambda: project_directories(str(paths.opencode_data)),
        )
        self._journal = JournalBuffer(Journal(paths.journal, clock), self._health)
        self._counted = Counted(known.counted, started)
        self._writer = BlacklistWriter(
            SharedBlacklist(paths.blacklist, known), clock, self._health, self._counted, self._journal.write
        )
        self._finder = EndpointFinder(
            paths.opencode_data,
            urls=config.endpoints,
            sockets=paths.endpoints,
            environ=os.environ,
            state=paths.opencode_state,
        )
        self._progress = Progress(*cursors.load_event_numbers(paths.event_progress))
        store = SessionStore(paths.opencode_data)
        prober = Prober(self._finder, store, clock=clock)
        modern = (paths.log_dir / "opencode.log").exists
        self._activity = StreamActivity(cursors.load_gaps(paths.stream_gaps), keep_alive=self._keep_alive_age)
        self._gaps_saved = self._activity.gaps_learned()
        self._engine.context.learn_gaps(self._activity.gaps().longest())
        listener = EventListener(
            post, modern, clock=clock, progress=self._progress, located=prober.located, activity=self._activity
        )
        self._opencode = OpenCodeWork(
            paths,
            clock,
            self._lanes,
            post,
            self._health,
            self._finder,
            prober,
            listener,
            RerunOverApi(silence=self._activity.silence),
            SwitchModel(clock=clock, silence=self._activity.silence),
            self._activity,
        )
        self._decisions = Decisions(paths.decisions, post, clock)
        self._notifier = Notifier(
            config.notices,
            log.warning,
            lambda endpoint, work: self._lanes.submit(endpoint.address, "toast", work),
            lambda session: name_among_several(str(paths.opencode_data), session),
        )
        handlers = daemon_handlers(
            self._writer,
            self._journal,
            self._opencode,
            self._lanes,
            self._notifier,
            self._decisions,
            remember_in(paths.moved, clock, self._health),
        )
        self._executor = EffectExecutor(handlers, faults)
        self._usage_meter = UsageMeter(
            self._lanes.measure, self._writer.publish, self._opencode.ask_offers, faults, store, paths, clock
        )

        self._directories = (paths.log_dir, *config.logs.directories)
        window = Window(config.logs.look_back_bytes, config.logs.look_back)
        self._cursors_before, trouble = cursors.load(paths.cursors)
        if trouble:
            log.warning(trouble)
        self._logs = LogDirectories(
            self._directories, rules, cursors=self._cursors_before, window=window, on_fault=faults.note
        )
        self._facts = PluginReports(paths.facts, prober.reported)
        self._waker = Waker((*self._directories, paths.facts), self._wake, log.warning)

    def start(self) -> None:
        """Start watching logs and events, and continue the unfinished work of the previous run."""
        # If the directory were missing, its nearest existing parent would be watched. That is our state directory, so
        # our own writes would wake the loop.
        try:
            make_private_dir(self._paths.facts)
        except (OSError, StateError) as fault:
            why = f"the companion plugin's reports cannot be read: {fault}"
            self._health.note("facts", why)
            log.warning(why)
        self._waker.start()
        log.info(f"ocwatchd {__version__} follows {', '.join(map(str, self._directories))}")
        self._opencode.listen()
        with self._faults.survived("opening the socket for plugin requests"):
            self._open_decisions()
        with self._faults.survived("removing old reports"):
            self._facts.tidy(self._clock.now())
            remove_old(self._paths.keep_alives.glob("*.json"), self._clock.now())
        self._resume(self._cursors_before)

    def _open_decisions(self) -> None:
        """Open the socket for requests from OpenCode 2's `retry` hook.

        A failure is logged but not reported as a fault: OpenCode 2's sessions are then moved through its API, and many
        users never run OpenCode 2.
        """
        try:
            self._decisions.open()
        except (OSError, StateError) as fault:
            log.warning(f"the socket for requests from OpenCode 2 cannot be opened: {fault}")

    def _resume(self, saved: Mapping[str, Cursor]) -> None:
        """Continue the unfinished work of the previous run."""
        now, last = self._clock.now(), NOTHING_BEFORE
        with self._faults.survived("reading the journal of the previous run"):
            beat = heartbeat.read(self._paths.heartbeat).beat
            last = self._journal.previous_run(now - CLAIM_MEMORY, saved, beat)
        self._executor.do([Note("started", {"pid": os.getpid(), "release": __version__})])
        with self._faults.survived("restoring the state of the previous run"):
            # Cleared cooldowns are taken into account regardless of when they were cleared, because the logs may still
            # contain refused attempts from before that time.
            self._engine.cooldowns.lift(last.cleared)
            self._engine.remember(last.refused, self._counted.shown(), now)
            self._engine.remember_origins(last.origins)
            self._engine.remember_resumes(last.resumes)
        for session, parked in last.parked.items():
            if parked.until is None or now - parked.until < RESUME_WITHIN:
                with self._faults.survived("resuming a parked turn"):
                    self._executor.do(self._engine.recall_parked(session, parked, now))
        for session, claims in last.unfinished.items():
            log.info(f"a move of {session} was left unfinished; checking the session")
            with self._faults.survived("resuming a move"):
                self._executor.do(self._engine.resume(session, claims, now))
        # sessions that no endpoint showed in their last probe come last
        for session in sorted(last.unhandled, key=last.missed.__contains__):
            with self._faults.survived("resuming a refused attempt"):
                self._executor.do(self._engine.probe_session(session, now, missed=session in last.missed))

    def _wake(self) -> None:
        self._queue.put(None)

    def pump(self, stopping: Callable[[], bool]) -> None:
        """Run rounds of the loop until `stopping` returns True."""
        steps = (
            ("reading logs", self._read_logs_if_due),
            ("reading the configuration", self._reconfigure),
            ("checking the clock", lambda: self._handle(Tick())),
            ("reading the blacklist", self._check_blacklist),
            ("looking for stalled streams", self._look_for_stalls),
            ("measuring use", lambda: self._usage_meter.step(self._engine.context)),
            ("writing the blacklist", lambda: self._writer.save()),
            ("writing the journal", lambda: self._journal.write()),
            ("writing the heartbeat", self._beat),
            ("notifying the service manager", lambda: self._service_notifier.feed_watchdog(self._clock.now())),
            ("waiting", self._take_messages),
        )
        while not stopping():
            faults = self._faults.count
            for where, step in steps:
                try:  # a plain `try`, because `survived` costs more, and an idle daemon runs 20 steps a second
                    step()
                except Exception as fault:
                    self._faults.note(where, fault)
            if self._faults.count != faults:
                time.sleep(FAULT_PAUSE)  # a permanent fault must not occupy a whole core

    def _read_logs_if_due(self) -> None:
        if self._reopened or abs(self._clock.now() - self._logs_read_at) >= POLL_INTERVAL:
            self._read_logs()

    def _look_for_stalls(self) -> None:
        """Request a probe of each session whose model has been silent for too long, and pass newly measured gaps in
        answers to the engine.
        """
        for session in self._activity.silent(self._engine.context.stall_after, self._cap_patience):
            self._handle(FellSilent(session))
        gaps_learned = self._activity.gaps_learned()
        if gaps_learned != self._gaps_saved:
            self._gaps_saved, gaps = gaps_learned, self._activity.gaps()
            self._handle(GapsLearned(gaps.longest()))
            with contextlib.suppress(OSError, StateError):  # a lost file does no harm: the gaps are measured again
                cursors.save_gaps(self._paths.stream_gaps, gaps, self._clock.now())

    def _cap_patience(self, endpoint: object, limit: float) -> float:
        """Return the stall timeout `limit`, reduced for an endpoint of OpenCode 2 unless it is configured."""
        learned = self._engine.context.policy.stall.after is None
        return min(limit, MAX_PATIENCE_2) if learned and getattr(endpoint, "generation", 1) == 2 else limit

    def _keep_alive_age(self, session: str) -> float | None:
        """Return the number of seconds since the last keep-alive was sent to the session. Return None if there was no
        keep-alive, or if `stall.after` is a number, because keep-alives do not extend that time.
        """
        if self._engine.context.policy.stall.after is not None:
            return None
        return keep_alive_age(self._paths.keep_alives, session, self._clock.now())

    def _check_blacklist(self) -> None:
        news = self._writer.news()
        if news is not None:
            self._handle(news)

    def _handle(self, message: Message | Failure) -> None:
        """Pass a message to the engine and carry out the effects. An exception is recorded and does not affect other
        messages.
        """
        with self._faults.survived(f"handling {type(message).__name__}"):
            if log.isEnabledFor(logging.DEBUG) and not isinstance(message, Tick):
                log.debug("message: %s", outline(message))
            self._decide(message)

    def _decide(self, message: Message | Failure) -> None:
        now, boot = both_clocks(self._clock)
        step = self._timeline.read(now, boot)
        if step is not None:
            log.info(f"the clock was set {'ahead' if step.seconds > 0 else 'back'} by {span(abs(step.seconds))}")
            self._executor.do(self._engine.handle(ClockSet(step), now))
        if isinstance(message, Asked):
            self._answer(message, now)
            return
        self._save_answered()
        told = self._for_engine(message)
        if told is not None:
            self._executor.do(self._engine.handle(told, now))

    def _answer(self, question: Asked, now: float) -> None:
        """Send the decision to the companion plugin before writing the blacklist, because plugins wait only 300 ms for
        a decision.
        """
        # A decision is final, so it must respect a block that the user has just set.
        news = None if self._unsaved else self._writer.news()
        if news is not None:
            self._executor.do(self._engine.handle(news, now))
        effects = self._engine.handle(question, now)
        self._executor.do([effect for effect in effects if not isinstance(effect, SaveBlacklist)])
        self._unsaved += [effect for effect in effects if isinstance(effect, SaveBlacklist)]

    def _save_answered(self) -> None:
        if self._unsaved:
            saves, self._unsaved = self._unsaved, []
            self._executor.do(saves)

    def _for_engine(self, message: Message | Failure) -> Message | None:
        """Return the engine's message for an item of the queue, or None if the engine does not need the item."""
        if isinstance(message, Failure):
            return self._from_failure(message)
        if isinstance(message, Aborted) and message.exact and self._engine.tracked_sessions.known(message.session):
            return self._journal.origin_of(message)
        return message

    def _from_failure(self, failure: Failure) -> Message | None:
        """Return the engine's message for a failure in OpenCode 2's events, or None if the failure is irrelevant or
        already handled.
        """
        if not self._progress.done(failure) or self._engine.questions.decided(failure, self._clock.now()):
            return None
        event = refusal_of(failure, self._engine.context.rules)
        if event.verdict.certainty is Certainty.NO:
            # Even a failure that is not a limit is reported to the engine, which must replace a fallback that fails in
            # a session that was moved to it.
            ours = failure.final and failure.live and self._engine.tracked_sessions.known(failure.session) is not None
            return TroubleReported(failure.session, failure.time) if ours else None
        return Refused(event, failure.live, self._counted.again(failure.session, event, self._clock.now()))

    def _reconfigure(self) -> None:
        """Apply a changed configuration. Cooldowns, sessions and cursors are kept."""
        news = self._live.read_edit(self._clock.now())
        if news is None:
            return
        self._beat_at = 0.0  # write the heartbeat now, because the user may be looking at the status
        self._gaps.check_again()
        if not isinstance(news, Config):
            self._executor.do([Note("misconfigured", {"why": str(news)})])
            return
        rules = rules_for(news)
        self._logs.exchange_rules(rules)
        self._finder.set_urls(news.endpoints)
        self._notifier.configure(news.notices)
        self._executor.do([Note("configured", {"file": str(self._paths.config_file), "warnings": list(news.warnings)})])
        self._handle(Configured(news.policy, rules))

    def _read_logs(self) -> None:
        """Read new log records and check the file-system watches. Large logs are read in slices to avoid delaying other
        work.
        """
        now = self._logs_read_at = self._clock.now()
        self._reopened = False
        hints: set[Path] = set()
        with self._faults.survived("watching directories"):
            self._waker.check(now)
            hints = self._waker.hints()
        with self._faults.survived("reading reports"):
            for fact in self._facts.poll():
                self._handle(fact)
        for sighting in self._logs.poll(now, hints):
            with self._faults.survived("handling a log record"):
                self._take_in(sighting)
        with self._faults.survived("searching for endpoints"):
            self._look_for_endpoints(now, stirred=bool(hints))
        if self._logs.behind:
            self._wake()
        # OpenCode is working, so import the modules that its first refused attempt needs. An idle daemon does without
        # them to save memory. OpenCode 2 logs little, so the existence of an OpenCode 2 process is sufficient.
        if hints or any(endpoint.get("generation") == 2 for endpoint in self._opencode.endpoints):
            self._logs.prepare()

    def _look_for_endpoints(self, now: float, *, stirred: bool) -> None:
        # A growing log can mean that a process has opened an endpoint, and the new line may be the process's last one
        # for hours. A search that is not due yet is therefore postponed, not skipped.
        services = registrations(self._paths.opencode_state)
        self._search_wanted = self._search_wanted or stirred or services != self._services or self._opencode.starting
        self._services = services
        if self._search_wanted and abs(now - self._searched_at) >= (
            SEARCH_INTERVAL + POSTPONED if self._is_moving() else SEARCH_INTERVAL
        ):
            self._searched_at, self._search_wanted = now, False
            self._opencode.listen()

    def _is_moving(self) -> bool:
        """Return whether a session is being probed or moved."""
        return any(tracked.being_probed or tracked.moving for tracked in self._engine.tracked_sessions.all())

    def _take_in(self, sighting: Sighting) -> None:
        message = self._message(sighting)
        if isinstance(message, Aborted) and self._engine.tracked_sessions.known(message.session) is not None:
            message = self._journal.origin_of(message)
        if message is not None:
            self._handle(message)

    def _message(self, sighting: Sighting) -> Message | None:
        """Return the engine's message for a new log record, or None for a record of the beginning or end of a turn,
        which only the log reader needs.
        """
        match sighting.seen:
            case LimitEvent() as event:
                counted = self._counted.again(sighting.log, event, self._clock.now())
                return Refused(event, sighting.live, counted, late=event.time >= self._started)
            case Cancelled(session, time) if sighting.live:
                return Aborted(session, time)
            case _:
                return None

    def _take_messages(self) -> None:
        """Wait for a message, at most until the next deadline, and handle all messages that have arrived."""
        due = [at for at in (self._engine.next_wake(), self._writer.due, self._live.due) if at is not None]
        patience = min([BLACKLIST_INTERVAL, *(max(moment - self._clock.now(), 0.0) for moment in due)])
        with contextlib.suppress(queue.Empty):
            message = self._queue.get(timeout=patience)
            while True:
                if message is None:
                    self._reopened = True
                else:
                    self._handle(message)
                message = self._queue.get_nowait()
        self._save_answered()

    def _beat(self) -> None:
        now = self._clock.now()
        if abs(now - self._beat_at) < BEAT_INTERVAL:
            return
        self._beat_at = now
        with self._faults.survived("reading events"):
            self._progress.read(now)
        with self._faults.survived("writing cursors"):
            self._save_cursors()
        with self._faults.survived("saving the position in OpenCode 2's events"):
            self._save_progress(now)
        health: list[str] = []
        for problems_of in (
            self._live.health, self._health.problems, self._logs.problems, self._waker.health,
            self._faults.health,  # called last, so that it includes faults in the preceding calls
        ):  # fmt: skip
            with self._faults.survived("collecting faults"):
                health.extend(problems_of())
        following, sessions = list[str](), list[dict[str, object]]()
        without, unknown = list[str](), list[str]()
        with self._faults.survived("listing logs"):
            following = self._logs.following()
        with self._faults.survived("listing sessions"):
            then = self._engine.context.policy.when_exhausted
            sessions = [_shown(one, then) for one in self._engine.tracked_sessions.all() if one.phrase]
        if self._engine.context.policy.mode is not Mode.OFF:
            with self._faults.survived("searching for models without a fallback"):
                without = self._gaps.without_fallback(now)
            with self._faults.survived("checking model names"):
                unknown = self._gaps.unknown_models(now)
        with contextlib.suppress(OSError):  # if this fails, `status` reports the daemon as stalled
            heartbeat.write(
                self._paths.heartbeat, os.getpid(), self._started, now, following, sessions, health,
                self._live.as_json(), self._opencode.endpoints, without, unknown, self._code,
                self._opencode.earlier,
            )  # fmt: skip
        self._service_notifier.report_status("; ".join([_cooling(self._engine.cooldowns.entries(), now), *health]))

    def _save_cursors(self) -> None:
        """Save the cursors, but only after the blacklist contains every limit that was read before them. No refused
        attempt is therefore lost if the daemon is killed.

        A refused attempt that is read twice is recognized. Saving is not urgent, because only a limited part of the log
        is read again after the loss of a cursor.
        """
        places = self._logs.cursors()
        if places == self._saved_cursors:
            return
        self._writer.save(at_once=True)
        if self._writer.due is not None:
            return
        try:
            cursors.save(self._paths.cursors, places)
        except OSError as fault:
            self._health.note("cursors", f"{self._paths.cursors} cannot be written: {fault.strerror or fault}")
            return
        self._health.clear("cursors")
        self._saved_cursors = places

    def _save_progress(self, now: float) -> None:
        """Save the read position in OpenCode 2's events after the blacklist has been written. If there was no failure,
        save it at most every half minute.
        """
        numbers, read_at = self._progress.saved()
        before, saved_at = self._saved_progress
        if numbers == before and (read_at is None or now - saved_at < PROGRESS_PAUSE):
            return
        self._writer.save(at_once=True)
        if self._writer.due is not None:
            return
        with contextlib.suppress(OSError):  # if this fails, a restart reads events again and recognizes their numbers
            cursors.save_event_numbers(self._paths.event_progress, numbers, read_at)
            self._saved_progress = numbers, now

    def close(self) -> None:
        """Save the state, and give moves in progress time to finish."""
        for step in (
            self._service_notifier.stopping,
            self._waker.stop,
            lambda: self._executor.do([Note("ended", {})]),
            lambda: self._writer.save(at_once=True),
            self._save_cursors,
            lambda: self._save_progress(float("inf")),
            self._logs.close,
            self._decisions.close,
            self._lanes.close,
            lambda: self._paths.heartbeat.unlink(missing_ok=True),
        ):
            with self._faults.survived("shutting down"), contextlib.suppress(OSError):
                step()


def _shown(tracked: TrackedSession, then: WhenExhausted) -> dict[str, object]:
    """Return the session as shown by `ocwatch status`. `then` is the action that will follow the session's current
    wait.
    """
    shown: dict[str, object] = {"session": tracked.session, "doing": tracked.doing.value, "phrase": tracked.phrase}
    at = tracked.resumes_at if tracked.parked and tracked.doing is Doing.STUCK else None
    return {**shown, "until": None if at is None else rfc3339(at), "then": None if at is None else then.value}


def _cooling(entries: Sequence[Cooldown], now: float) -> str:
    count = sum(entry.active(now) for entry in entries)
    return "no model is cooling down" if not count else f"{count} model{'s are' if count > 1 else ' is'} cooling down"


def run(paths: Paths | None = None, level: str | None = None) -> None:
    """Run the daemon in the foreground until it is stopped. `level` is the log level; the default is the value of
    OCWATCHD_LOG.

    Raises:
        ConfigError: The configuration cannot be used.
        AlreadyRunning: Another daemon is running for this home.
    """
    paths = paths or Paths.from_env()
    Daemon(paths, load(paths), service_notifier=ServiceNotifier(os.environ), level=level).run()


OPTIONS = (
    ("-v", "--verbose", "Log what the daemon does and why, as with OCWATCHD_LOG=debug."),
    ("-V", "--version", "Print the version."),
    ("-h", "--help", "Show this message and exit."),
)
"""The options of `ocwatchd`, of which it accepts one at a time: the short name, the long name, and the help text."""


def usage() -> str:
    """Return the help text of `ocwatchd`."""
    options = "\n".join(f"  {f'{short}, {long}':15}{words}" for short, long, words in OPTIONS)
    return (
        "Usage: ocwatchd [OPTION]\n\n  Run the daemon in the foreground. To run it as a service: ocwatch up.\n"
        f"  For all commands: ocwatch --help\n\nOptions:\n{options}"
    )


def main() -> None:
    """Run the console script `ocwatchd`."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        print(f"ocwatchd {__version__}")
        return
    verbose = sys.argv[1:] in (["--verbose"], ["-v"])
    if sys.argv[1:] and not verbose:
        asked = sys.argv[1] in ("-h", "--help")
        print(usage(), file=sys.stdout if asked else sys.stderr)
        sys.exit(ExitCode.DONE if asked else ExitCode.USAGE)
    if sys.stderr is not None:
        faulthandler.enable()  # so that the log shows where the loop hung if systemd's watchdog ends it
    # Endpoints are on loopback or socket files, so the HTTP client is loaded without TLS: 0.9 MiB instead of 5.1 MiB.
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # the documented way to block an import
    try:
        run(level="debug" if verbose else None)
    except OcwatchError as fault:
        print(printable(clean(f"ocwatchd: {fault}")), file=sys.stderr)
        sys.exit(fault.exit_code)
    except OSError as fault:  # the home is not writable, for example because its file system is read-only
        print(printable(clean(f"ocwatchd: {fault.filename or 'state'}: {fault.strerror or fault}")), file=sys.stderr)
        sys.exit(ExitCode.FAILED)
