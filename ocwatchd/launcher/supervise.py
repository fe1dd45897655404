"""Watches one `opencode run` through its own door, so that its prompt is answered. Imported when a limit shows.

The daemon's own engine decides, on what the child's door shows; only the arms differ. Our faults leave it to itself.
"""

from __future__ import annotations

import os
import queue
import random
import signal
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

from ocwatchd.clock import SystemClock
from ocwatchd.config import load
from ocwatchd.config.rules import rules_for
from ocwatchd.core.cases import Case, Doing
from ocwatchd.core.engine import Engine
from ocwatchd.core.fallback import candidates
from ocwatchd.core.ledger import Cooldown, Ledger
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.messages import Heard, LookUp, Message, Move, MoveEnded, Surveyed, Tick
from ocwatchd.core.moves import MoveResult, Order
from ocwatchd.core.policy import Mode
from ocwatchd.core.views import Door, SessionView
from ocwatchd.errors import ConfigError, ExitCode
from ocwatchd.launcher.child import wait_for
from ocwatchd.launcher.ground import Ground, OwnGround, ServersGround
from ocwatchd.launcher.hands import LaunchHands
from ocwatchd.launcher.mover import RunMover
from ocwatchd.launcher.output import Printer
from ocwatchd.launcher.run import Run
from ocwatchd.launcher.served import Served
from ocwatchd.launcher.transform import until_words
from ocwatchd.launcher.waiting import model_named, soonest, spread
from ocwatchd.opencode.answers import Session
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.family import descendants, end_all
from ocwatchd.opencode.guardian import Guardian
from ocwatchd.opencode.http import DoorError
from ocwatchd.paths import Paths
from ocwatchd.state import blacklist, prices

POLL = 0.1
"""Seconds between looks at the child, and at what the private server's session says."""
AGAIN = 2.0
"""Seconds after which a session that could not be moved is looked at again."""
MOST_STRANDED = 3
"""Attempts to go on after which the prompt is given up; it stays in OpenCode's store."""


class Supervisor:
    """One supervised run, from the first sign of a limit to its exit code."""

    def __init__(self, run: Run, guardian: Guardian, say: Callable[[str], None]) -> None:
        """`guardian` is told of what is started.

        Raises:
            ConfigError: the configuration cannot be used.
        """
        child = run.child
        self._run, self._guardian, self._say = run, guardian, say
        self._child, self._signals, self._arguments = child, run.signals, run.arguments
        self._clock, self._paths = SystemClock(), Paths.from_env()
        config = load(self._paths)
        self._policy = config.policy
        register = blacklist.read(self._paths.blacklist)
        ledger = Ledger(register.entries())
        self._engine = Engine(config.policy, rules_for(config), ledger, lambda: uuid4().hex[:12])
        mind, now = self._engine.mind, self._clock.now()
        mind.fill.measure(register.loads, (), now)
        prices.recall(mind, self._paths, now)
        # Not SimpleQueue: on 3.11 a signal (a child's end) just before the timeout makes its `get` wait for good.
        self._queue: queue.Queue[Message] = queue.Queue()
        self._ground: Ground = (
            ServersGround(run.server, self._paths)
            if run.server
            else OwnGround(run, self._paths, self._clock, guardian.watch)
        )
        ground = self._ground
        self._mover = RunMover(child, ground, self._clock, self._opened)
        self._hands = LaunchHands(
            self._paths, self._clock, ground.finder, ground.surveyor, self._mover, say, self._queue.put
        )
        self._hands.tell = say
        self._hands.register.know(register)
        self._asked = model_named(run.asked)
        self._served: Served | None = None
        self._failed: SessionView | None = None
        self._judged = self._landed = False
        self._waiting: tuple[str, int] | None = None
        self._due = 0.0
        self._stranded = self._attempt = 0

    def run(self) -> int | None:
        """The exit code to end with; negative for the signal that ended OpenCode.

        None if the daemon has come to see to the session before we touched it: then the child is only waited for.
        """
        if self._policy.mode is not Mode.AUTO:
            return wait_for(self._child, self._signals, self._run.output)
        try:
            return self._loop()
        finally:
            self._close()

    def _loop(self) -> int | None:
        self._hands.listen()
        self._hands.do([LookUp(None, None)])
        while True:
            if self._signals.got is not None:
                return self._interrupted(self._signals.got)
            if self._untouched() and self._ground.anothers():
                return None
            for fact in self._ground.facts.poll():
                self._handle(fact)
            self._run.output.take()
            self._take_messages()
            self._handle(Tick())
            news = self._hands.register_news()
            if news is not None:
                self._handle(news)
            self._hands.save()
            code = self._step()
            if code is not None:
                return code

    def _untouched(self) -> bool:
        moving = any(case.doing is Doing.MOVING for case in self._engine.cases.all())
        return not (moving or self._mover.taken_over or self._mover.door)

    def _take_messages(self) -> None:
        with suppress(queue.Empty):
            message = self._queue.get(timeout=POLL)
            while True:
                self._handle(message)
                message = self._queue.get_nowait()

    def _handle(self, message: Message) -> None:
        if isinstance(message, MoveEnded):
            self._landed = self._landed or message.outcome.result is not MoveResult.FAILED
            self._stranded = self._stranded + 1 if message.outcome.stranded else 0
        if isinstance(message, Surveyed):
            for view in message.views:
                self._remember_origin(view)
        now = self._clock.now()
        self._hands.do(self._engine.handle(message, now))
        if isinstance(message, MoveEnded) and message.outcome.result is MoveResult.REFUSED:
            # A guard held, often for a moment; where the daemon has its logs, nobody else looks here.
            self._engine.cases.of(message.order.session, now).wake = now + AGAIN

    def _remember_origin(self, view: SessionView) -> None:
        """A session that began on a stand-in has the chain of the model that was asked for."""
        now = self._clock.now()
        if self._asked in (None, view.model) or view.parent is not None:
            return
        case = self._engine.cases.of(view.session, now)
        if case.origin is None and self._engine.ledger.avoided(self._asked, now) is not None:
            case.origin, case.landed = self._asked, view.model

    def _step(self) -> int | None:
        if self._stranded and (self._mover.door is None or self._stranded >= MOST_STRANDED):
            self._say("the prompt could not be run again; it waits in its session: opencode -c")
            return ExitCode.FAILED
        stuck = next((case for case in self._engine.cases.all() if case.doing is Doing.STUCK), None)
        if stuck is not None:
            code = self._exhausted(stuck)
            if code is not None:
                return code
        if self._served is not None:
            return self._look_at(self._served)
        code = self._child.poll()
        return None if code is None or self._mover.taken_over else self._child_ended(code)

    # ---- the child has ended

    def _child_ended(self, code: int) -> int | None:
        """Its own code, unless it has ended in a limit: then its prompt is run again."""
        if code < 0:
            return code
        if not self._judged:
            self._judged = True
            self._failed = self._ground.failed([case.session for case in self._engine.cases.all()])
            if self._failed is not None:
                view = self._failed
                self._handle(Surveyed(view.session, None, (view,), 1))
        case = self._engine.cases.known(self._failed.session) if self._failed else None
        going_on = case is not None and (case.doing in (Doing.MOVING, Doing.STUCK) or self._stranded)
        return None if going_on else code

    # ---- everything cools

    def _exhausted(self, case: Case) -> int | None:
        """75, or None where a model returns soon, or the soonest is to be waited for."""
        now = self._clock.now()
        first = self._soonest(case, now)
        if first is None:
            self._say("every model is cooling, and nobody knows until when")
            return self._give_up()
        end, name = first.until or now, f"{first.model}"
        if end > now and "--wait" not in self._arguments.own and end - now > self._policy.retry.max_delay:
            self._say(f"every model is cooling; {name} is the first to return, limited {until_words(end)}")
            return self._give_up()
        if end > now and self._waiting != (name, int(end)):
            self._waiting = (name, int(end))
            self._due = end + spread(first, self._policy, self._attempt + 1, random.random())  # noqa: S311 (a spread, no secret)
            self._say(f"every model is cooling; waiting for {name}, limited {until_words(end)}")
        if self._rests() and now >= max(end, self._due):
            self._go_on(case, first.model)
        return None

    def _soonest(self, case: Case, now: float) -> Cooldown | None:
        origin = case.origin or case.landed
        models = [origin, *candidates(origin, self._policy)] if origin else []
        return soonest(self._engine.ledger, models, now)

    def _rests(self) -> bool:
        """Whether nothing asks again by itself: the child has ended, or the private server's turn has failed."""
        if self._served is not None:
            return self._served.failed is not None
        return self._child.poll() is not None and not self._mover.taken_over

    def _go_on(self, case: Case, model: ModelRef) -> None:
        view = self._served.failed if self._served else self._failed
        if view is None:
            return
        self._attempt += 1
        case.doing = Doing.MOVING
        self._hands.do([Move(uuid4().hex[:12], Order(view, Target(model, view.agent), own_abort=True))])

    def _give_up(self) -> int:
        self._mover.taken_over = True
        self._child.end()
        self._ground.abandon()
        return ExitCode.ALL_COOLING

    # ---- the private server

    def _opened(self, door: Door, session: Session) -> None:
        """Called from the mover's thread."""
        given = self._arguments
        printer = Printer(Api(door), session, given.format == "json", self._run.output)
        self._served = Served(door, session, printer, given.has("--auto"), self._clock)

    def _look_at(self, served: Served) -> int | None:
        try:
            view = served.look()
        except DoorError as fault:
            self._say(str(fault))
            return ExitCode.FAILED
        case = self._engine.cases.of(served.session.id, self._clock.now())
        if view is None or case.doing is Doing.MOVING or not self._landed:
            return None
        before = served.failed
        code = served.ended(view)
        if served.failed is not None and before is None:
            self._handle(Heard(view.session, self._clock.now()))
        undecided = case.doing in (Doing.MOVING, Doing.STUCK) or case.looking
        return None if code == ExitCode.FAILED and undecided else code

    # ---- ends

    def _interrupted(self, number: signal.Signals) -> int:
        self._mover.taken_over = True
        self._child.end(number)
        code = self._child.poll()
        return code if code is not None and code != 0 and self._mover.door is None else -number

    def _close(self) -> None:
        """Nothing that we started stays: the private server runs in a session of its own."""
        self._ground.close()
        with suppress(Exception):
            self._hands.save(at_once=True)
        self._hands.close()
        started = [pid for pid in descendants(os.getpid()) if pid != self._guardian.pid]
        end_all(started, signal.SIGTERM, 1.0)
        with suppress(Exception):
            self._mover.close()


def supervise(run: Run, guardian: Guardian, say: Callable[[str], None]) -> int | None:
    """The exit code of a supervised run; None if it is the daemon's to see to now.

    A fault of ours is said, and leaves the child to itself.
    """
    try:
        return Supervisor(run, guardian, say).run()
    except ConfigError as fault:
        say(f"{fault}; going on without it")
    except Exception as fault:
        say(f"internal fault: {fault!r}")
    return wait_for(run.child, run.signals, run.output)
