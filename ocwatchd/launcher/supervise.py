"""Supervise one `opencode run` from the first sign of a limit until its prompt is answered.

The engine is the same as the daemon's, but its input comes from the child's endpoint, and its effects are different. If
all models are cooling down, the supervisor waits for the model that will be available first. After an internal fault,
the child runs unwatched.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from uuid import uuid4

from ocwatchd.clock import SystemClock, both_clocks
from ocwatchd.config import load
from ocwatchd.config.active_rules import rules_for
from ocwatchd.core.domain.backoff import delay
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot
from ocwatchd.core.domain.timeline import Timeline
from ocwatchd.core.domain.types import LimitKind, ModelRef, ResetSource, Scope, Target
from ocwatchd.core.engine.engine import Engine
from ocwatchd.core.engine.messages import (
    ClockSet,
    Failure,
    FellSilent,
    Message,
    Move,
    MoveEnded,
    Probe,
    Probed,
    Tick,
    TroubleReported,
)
from ocwatchd.core.engine.parking import run_at
from ocwatchd.core.engine.session import Doing, TrackedSession
from ocwatchd.core.fallback.choice import candidates
from ocwatchd.core.policy import Mode, Policy
from ocwatchd.daemon.blacklist_writer import BlacklistWriter
from ocwatchd.daemon.effects import EffectExecutor, remember_in
from ocwatchd.daemon.faults import Faults, FileHealth
from ocwatchd.daemon.lanes import WorkerLanes
from ocwatchd.daemon.opencode_work import OpenCodeWork
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.launcher.answer_stream import Served, ServedPrivately
from ocwatchd.launcher.child import wait_for
from ocwatchd.launcher.effects import RunNotes, YieldingWriter, launcher_handlers
from ocwatchd.launcher.output import Printer
from ocwatchd.launcher.service_run import ClientMover, ClientPrinter, ServedByService
from ocwatchd.launcher.session_host import (
    OwnSessionHost,
    Run,
    RunMover,
    ServerSessionHost,
    ServiceSessionHost,
    SessionHost,
)
from ocwatchd.launcher.transform import until_words
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.client.activity import StreamActivity
from ocwatchd.opencode.client.event_stream import EventListener
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import STARTING_LIMIT, Api
from ocwatchd.opencode.process.process_tree import descendants, end_all
from ocwatchd.opencode.process.reaper import Guardian
from ocwatchd.paths import Paths
from ocwatchd.state import cursors, prices
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.blacklist.sync import SharedBlacklist
from ocwatchd.state.journal import Journal
from ocwatchd.state.plugin_reports import keep_alive_age


def soonest(cooldowns: Cooldowns, models: Iterable[ModelRef], now: float) -> Cooldown | None:
    """Return the cooldown of these models that ends first, or None if none of them ends before a user clears it.

    An available model is treated as a model whose cooldown ends now. The result names the model even if all models of
    its provider are cooling down.
    """
    entries = [(model, cooldowns.limited(model, now)) for model in models]
    known = [(now if entry is None else entry.until, model, entry) for model, entry in entries]
    ends = [(end, index) for index, (end, _, _) in enumerate(known) if end is not None]
    if not ends:
        return None
    end, index = min(ends)
    _, model, entry = known[index]
    reset_source = entry.reset_source if entry else ResetSource.RETRY_AFTER
    return Cooldown(model, LimitKind.RATE_LIMIT, Scope.MODEL, now, end, 0, reset_source)


def spread(entry: Cooldown, policy: Policy, attempt: int, draw: float) -> float:
    """Return the time, in seconds, to add to a reset time. It is 0 for a reported reset time, and a random backoff for
    an estimated one.

    The backoff prevents processes that are waiting for the same model from using it at the same time or too frequently.
    `attempt` counts from 1; `draw` is a uniform random number in [0, 1).
    """
    if entry.reset_source is not ResetSource.ESTIMATE:
        return 0.0
    retry = policy.retry_for(entry.model)
    return delay(attempt, retry.base_delay, retry.max_delay, retry.jitter_range, draw)


def model_named(name: str | None) -> ModelRef | None:
    """Return the model with this name, or None if the name is not valid."""
    try:
        return ModelRef.parse(name) if name else None
    except ValueError:
        return None


POLL = 0.1
"""Interval, in seconds, between checks of the child and of the session in the private server."""
AGAIN = 2.0
"""Delay, in seconds, before a session that could not be moved is checked again."""
LISTEN_INTERVAL = 10.0
"""Interval, in seconds, between searches for endpoints without an open event stream. A stream may end at any time, and
without it, a stalled answer would remain undetected. A search takes 15 ms of CPU time.
"""
MAX_STRANDED = 3
"""Number of failed moves after which the supervisor gives up. The prompt is still in OpenCode's message store."""


class Supervisor:
    """The supervisor of one run, from the first sign of a limit to the exit code."""

    def __init__(self, run: Run, guardian: Guardian, say: Callable[[str], None]) -> None:
        """Store the arguments. `guardian` watches each started process; `say` prints a line for the user.

        Raises:
            ConfigError: The configuration cannot be used.
        """
        child = run.child
        self._run, self._guardian, self._say = run, guardian, say
        self._child, self._signals, self._arguments = child, run.signals, run.arguments
        self._clock, self._paths = SystemClock(), Paths.from_env()
        config = load(self._paths)
        self._policy = config.policy
        known = blacklist.read(self._paths.blacklist)
        cooldowns = Cooldowns(known.entries())
        self._engine = Engine(
            config.policy, rules_for(config), cooldowns, lambda: uuid4().hex[:12], resumes=False, strict=False
        )
        context, now = self._engine.context, self._clock.now()
        context.fill.measure(known.loads, (), now)
        self._activity: StreamActivity | None = None
        if run.service is None:  # a stalled session of OpenCode 2 is watched only by the daemon
            gaps = cursors.load_gaps(self._paths.stream_gaps)
            self._activity = StreamActivity(gaps, keep_alive=self._keep_alive_age)
            context.learn_gaps(gaps.longest())
        silence = self._activity.silence if self._activity else lambda _: None
        prices.recall(context, self._paths, now)
        # SimpleQueue cannot be used: on Python 3.11, its `get` waits forever if a signal (such as SIGCHLD) arrives just
        # before the timeout.
        self._queue: queue.Queue[Message | Failure] = queue.Queue()
        self._mover: RunMover | ClientMover
        if run.service:
            self._session_host: SessionHost = ServiceSessionHost(run.service, self._paths)
            self._mover = ClientMover(child, run.service, self._opened)
        else:
            own = OwnSessionHost(run, self._paths, self._clock, guardian.watch)
            self._session_host = ServerSessionHost(run.server, self._paths) if run.server else own
            self._mover = RunMover(child, self._session_host, self._clock, self._opened, silence)
        session_host = self._session_host
        post, faults, health = self._queue.put, Faults(say, self._clock.now), FileHealth(say)
        self._lanes = WorkerLanes(post, faults)
        self._opencode = OpenCodeWork(
            self._paths,
            self._clock,
            self._lanes,
            post,
            health,
            session_host.finder,
            session_host.prober,
            EventListener(
                post,
                (self._paths.log_dir / "opencode.log").exists,
                clock=self._clock,
                activity=self._activity,
                directory=run.server.session.directory if run.server and run.server.session else None,
            ),
            self._mover,
            self._mover if isinstance(self._mover, ClientMover) else SwitchModel(clock=self._clock),
            self._activity,
        )
        shared = SharedBlacklist(self._paths.blacklist, known)
        self._writer = YieldingWriter(BlacklistWriter(shared, self._clock, health), shared, self._paths, self._clock)
        story = RunNotes(Journal(self._paths.journal, self._clock), say)
        remember = remember_in(self._paths.moved, self._clock, health)
        self._executor = EffectExecutor(launcher_handlers(self._writer, story, self._opencode, remember), faults)
        self._asked = model_named(run.asked)
        self._served: Served | None = None
        self._failed: SessionSnapshot | None = None
        self._judged = self._landed = False
        self._waiting: tuple[str, int] | None = None
        self._due = 0.0
        self._listened_at = float("-inf")
        """Time of the last search for endpoints without an open event stream, in monotonic seconds."""
        self._stranded = self._attempt = 0
        self._timeline = Timeline()

    def run(self) -> int | None:
        """Return the exit code of the run. It is negative if a signal ended the run.

        Return None if the daemon took over the session before the launcher changed anything. The caller then only waits
        for the child.
        """
        if self._policy.mode is not Mode.AUTO:
            return wait_for(self._child, self._signals, self._run.output)
        try:
            return self._loop()
        finally:
            self._close()

    def _loop(self) -> int | None:
        self._listen()
        self._executor.do([Probe(None, None)])
        while True:
            if time.monotonic() - self._listened_at >= LISTEN_INTERVAL:
                self._listen()
            if self._signals.got is not None:
                return self._interrupted(self._signals.got)
            if self._untouched() and self._session_host.left_to_daemon():
                return None
            for fact in self._session_host.facts.poll():
                self._handle(fact)
            self._run.output.take()
            self._take_messages()
            self._handle(Tick())
            for session in self._silent():
                self._handle(FellSilent(session))
            news = self._writer.news()
            if news is not None:
                self._handle(news)
            self._writer.save()
            code = self._step()
            if code is not None:
                return code

    def _listen(self) -> None:
        """Open the event streams that are not open. This method may be called from the mover's thread."""
        self._listened_at = time.monotonic()
        self._opencode.listen()

    def _silent(self) -> list[str]:
        """Return the sessions of this run that have been silent for too long."""
        found = self._activity.silent(self._engine.context.stall_after) if self._activity else []
        return [session for session in found if self._session_host.holds(session)]

    def _keep_alive_age(self, session: str) -> float | None:
        """Return the number of seconds since the last keep-alive was sent to the session. Return None if there was no
        keep-alive, or if `stall.after` is a number, because keep-alives do not extend that time.
        """
        if self._policy.stall.after is not None:
            return None
        return keep_alive_age(self._paths.keep_alives, session, self._clock.now())

    def _untouched(self) -> bool:
        moving = any(tracked.moving for tracked in self._engine.tracked_sessions.all())
        return not (moving or self._mover.taken_over or self._mover.endpoint)

    def _take_messages(self) -> None:
        with suppress(queue.Empty):
            message = self._queue.get(timeout=POLL)
            while True:
                self._handle(message)
                message = self._queue.get_nowait()

    def _handle(self, message: Message | Failure) -> None:
        if isinstance(message, Failure):  # only OpenCode 2 reports failures this way; it is not watched here
            return
        if isinstance(message, MoveEnded):
            outcome = message.outcome
            # The prompt has also begun in the server if its run failed immediately, for example because of another
            # limit.
            began = outcome.result is not MoveResult.FAILED or (outcome.snapshot is not None and not outcome.stranded)
            self._landed = self._landed or began
            self._stranded = self._stranded + 1 if message.outcome.stranded else 0
        if isinstance(message, Probed):
            for snapshot in message.snapshots:
                self._remember_origin(snapshot)
        now, boot = both_clocks(self._clock)
        step = self._timeline.read(now, boot)
        if step is not None:
            self._executor.do(self._engine.handle(ClockSet(step), now))
        self._executor.do(self._engine.handle(message, now))
        if isinstance(message, MoveEnded) and message.outcome.result is MoveResult.REFUSED:
            # A guard has refused the move, often for a reason that soon disappears. No other process would probe this
            # session again.
            self._engine.tracked_sessions.of(message.order.session, now).wake_at(now + AGAIN)

    def _remember_origin(self, snapshot: SessionSnapshot) -> None:
        """Set the origin of a session that began on a fallback, so that the requested model's chain is used for the
        session.
        """
        now = self._clock.now()
        if self._asked in (None, snapshot.model) or snapshot.parent is not None:
            return
        tracked = self._engine.tracked_sessions.of(snapshot.session, now)
        if tracked.origin is None and self._engine.cooldowns.avoided(self._asked, now) is not None:
            tracked.came_from(self._asked, snapshot.model)

    def _step(self) -> int | None:
        if self._stranded and (self._mover.endpoint is None or self._stranded >= MAX_STRANDED):
            self._say(
                "the prompt could not be run again. It is kept in its session; to continue the session: opencode -c"
            )
            return ExitCode.FAILED
        stuck = next((tracked for tracked in self._engine.tracked_sessions.all() if tracked.doing is Doing.STUCK), None)
        if stuck is not None:
            code = self._exhausted(stuck)
            if code is not None:
                return code
        if self._served is not None:
            return self._follow(self._served)
        code = self._child.poll()
        return None if code is None or self._mover.taken_over else self._child_ended(code)

    # ---- the child has ended

    def _child_ended(self, code: int) -> int | None:
        """Return the child's exit code, or None if a limit ended the child, so that its prompt must be run again."""
        if code < 0:
            return code
        if not self._judged:
            self._judged = True
            self._failed = self._session_host.failed(
                [tracked.session for tracked in self._engine.tracked_sessions.all()]
            )
            if self._failed is not None:
                snapshot = self._failed
                self._handle(Probed(snapshot.session, None, (snapshot,), 1))
        tracked = self._engine.tracked_sessions.known(self._failed.session) if self._failed else None
        going_on = tracked is not None and (tracked.doing in (Doing.MOVING, Doing.STUCK) or self._stranded)
        return None if going_on else code

    # ---- every model is cooling down

    def _exhausted(self, tracked: TrackedSession) -> int | None:
        """Return exit code 75 to give up. Return None to wait, if a model will be available soon or `--wait` was
        given.
        """
        now = self._clock.now()
        first = self._soonest(tracked, now)
        if first is None:
            self._say("every model is cooling down, and no reset time is known")
            return self._give_up()
        end, name = first.until or now, f"{first.model}"
        if self._attempt >= self._policy.max_resumes:
            times = "once" if self._attempt == 1 else f"{self._attempt} times in a row"
            self._say(
                f"the prompt was run again {times} after a wait (maxResumes), but every model is cooling down again"
            )
            return self._give_up()
        if end > now and "--wait" not in self._arguments.own and end - now > self._policy.retry.max_delay:
            self._say(f"every model is cooling down; {name} will be available first: it is limited {until_words(end)}")
            return self._give_up()
        if end > now and self._waiting != (name, int(end)):
            self._waiting = (name, int(end))
            at = run_at(tracked.session, end, now)
            self._due = at + spread(first, self._policy, self._attempt + 1, random.random())  # noqa: S311 (not used for security)
            self._say(f"every model is cooling down; waiting for {name}, limited {until_words(end)}")
        if self._has_given_up() and now >= max(end, self._due):
            self._run_again(tracked, first.model)
        return None

    def _soonest(self, tracked: TrackedSession, now: float) -> Cooldown | None:
        origin = tracked.origin or tracked.landed
        models = [origin, *candidates(origin, self._policy, agent=tracked.origin_agent)] if origin else []
        return soonest(self._engine.cooldowns, models, now)

    def _has_given_up(self) -> bool:
        """Return whether OpenCode makes no further attempts: the child has ended, or the turn in the private server has
        failed.
        """
        if self._served is not None:
            return self._served.failed is not None
        return self._child.poll() is not None and not self._mover.taken_over

    def _run_again(self, tracked: TrackedSession, model: ModelRef) -> None:
        snapshot = self._served.failed if self._served else self._failed
        if snapshot is None:
            return
        self._attempt += 1
        tracked.run_again()
        self._executor.do([Move(uuid4().hex[:12], Order(snapshot, Target(model, snapshot.agent), own_abort=True))])

    def _give_up(self) -> int:
        self._mover.take_over()
        self._child.end()
        self._session_host.abandon()
        return ExitCode.ALL_COOLING

    # ---- the private server

    def _opened(self, endpoint: Endpoint, session: Session) -> None:
        """Start printing the session at this endpoint. This method is called from the mover's thread."""
        given = self._arguments
        if endpoint.generation == 2:
            words = ClientPrinter(endpoint, session.id, given.format == "json", self._run.output)
            self._served = ServedByService(endpoint, session, words, given.has("--auto"))
            return
        printer = Printer(Api(endpoint, STARTING_LIMIT), session, given.format == "json", self._run.output)
        self._served = ServedPrivately(endpoint, session, printer, given.has("--auto"), self._clock)
        self._listen()  # a stalled answer in the server is detected by the server's events

    def _follow(self, served: Served) -> int | None:
        try:
            snapshot = served.poll()
        except EndpointError as fault:
            self._say(str(fault))
            return ExitCode.FAILED
        tracked = self._engine.tracked_sessions.of(served.session.id, self._clock.now())
        if snapshot is None or tracked.moving or not self._landed:
            return None
        before = served.failed
        code = served.ended(snapshot)
        if served.failed is not None and before is None:
            self._handle(TroubleReported(snapshot.session, self._clock.now()))
        undecided = tracked.doing in (Doing.MOVING, Doing.STUCK) or tracked.being_probed
        return None if code == ExitCode.FAILED and undecided else code

    # ---- the end of the run

    def _interrupted(self, number: signal.Signals) -> int:
        self._mover.take_over()
        self._child.end(number)
        code = self._child.poll()
        return code if code is not None and code != 0 and self._mover.endpoint is None else -number

    def _close(self) -> None:
        """End all started processes. The private server is in a separate process session, so a signal to our group does
        not terminate it.
        """
        self._session_host.close()
        with suppress(Exception):
            self._writer.save(at_once=True)
        self._lanes.close()
        # do not end what an OpenCode 2 child has started: it may be the shared service, which must keep running
        if self._run.service is None:
            started = [pid for pid in descendants(os.getpid()) if pid != self._guardian.pid]
            end_all(started, signal.SIGTERM, 1.0)
        with suppress(Exception):
            self._mover.close()


def supervise(run: Run, guardian: Guardian, say: Callable[[str], None]) -> int | None:
    """Supervise a run and return its exit code, or None if the daemon has taken it over.

    An internal fault is reported, and the child then runs unwatched.
    """
    try:
        return Supervisor(run, guardian, say).run()
    except ConfigError as fault:
        say(f"{fault}. OpenCode continues without fallbacks")
    except Exception as fault:
        say(f"internal fault: {fault!r}")
    return wait_for(run.child, run.signals, run.output)
