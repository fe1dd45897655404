"""`ocwatch redirect`: the daemon's move, by hand. Same guards, same proof, same claim in the journal."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from ocwatchd.cli.escape import escape
from ocwatchd.cli.register import named
from ocwatchd.cli.render import clock, iso, say, say_json, span
from ocwatchd.cli.rules import rules_for
from ocwatchd.clock import SystemClock
from ocwatchd.config import Config, load
from ocwatchd.core import notes
from ocwatchd.core.decide import stand_in
from ocwatchd.core.evidence import judge
from ocwatchd.core.fallback import Chosen, Exhausted, agent_for
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import Certainty, ModelRef, Target
from ocwatchd.core.messages import MoveEnded, MoveResult
from ocwatchd.core.views import SessionState, SessionView
from ocwatchd.errors import AllCooling, ExitCode, OcwatchError, OpenCodeUnreachable, UsageError
from ocwatchd.opencode.doors import DoorFinder
from ocwatchd.opencode.sessions import SessionStore
from ocwatchd.opencode.survey import Findings, Surveyor
from ocwatchd.paths import Paths
from ocwatchd.redirect import MoveOutcome, RerunOverApi
from ocwatchd.state import blacklist
from ocwatchd.state.journal import Journal

DONE = (MoveResult.MOVED, MoveResult.ALREADY)


@dataclass(frozen=True, slots=True)
class Wish:
    """What the person asked for; None where they left it to us."""

    session: str | None = None
    to: str | None = None
    agent: str | None = None
    dry_run: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """The session that is stuck, and the one to move: its parent, if it is a subagent that a parent waits for."""

    stuck: SessionView
    moved: SessionView

    @property
    def child(self) -> str | None:
        """The subagent, if the parent is moved for its sake."""
        return self.stuck.session if self.moved.session != self.stuck.session else None


def redirect(wish: Wish) -> int:
    """Move one limited session to another model now.

    Raises:
        UsageError: no such session or model, or several sessions are limited.
        OpenCodeUnreachable: no running OpenCode answers.
        AllCooling: everything that could stand in rests.
        OcwatchError: no session is limited.
    """
    paths = Paths.from_env()
    config = load(paths)
    finder = DoorFinder(paths.opencode_data, urls=config.doors, sockets=paths.doors, environ=os.environ)
    surveyor = Surveyor(finder, SessionStore(paths.opencode_data))
    ledger = Ledger(blacklist.read(paths.blacklist).entries())
    job = _job(surveyor, wish.session, ledger, config)
    tried: set[ModelRef] = set()
    mover, own_abort = RerunOverApi(), False
    while True:
        target = _target(wish, job.stuck, config, ledger, tried)
        if wish.dry_run:
            return _tell(wish, job, target, None)
        outcome = _move(paths, mover, job, target, own_abort)
        if outcome.result is not MoveResult.TARGET_LIMITED or wish.to is not None:
            return _tell(wish, job, target, outcome)
        tried.add(target.model)
        own_abort = True


def _job(surveyor: Surveyor, session: str | None, ledger: Ledger, config: Config) -> Job:
    if session is None:
        stuck = _the_one(surveyor.stuck(), ledger, config)
    else:
        found = surveyor.session(session)
        _answered(found)
        if not found.views:
            raise UsageError(f"no running OpenCode knows the session {session}")
        stuck = found.views[0]
    parent = surveyor.session(stuck.parent).views if stuck.parent else ()
    waiting = parent and parent[0].state is SessionState.BUSY
    return Job(stuck, parent[0] if waiting else stuck)


def _the_one(found: Findings, ledger: Ledger, config: Config) -> SessionView:
    _answered(found)
    limited = [view for view in found.views if _limited(view, ledger, config)]
    if not limited:
        raise OcwatchError("no session is limited")
    if len(limited) > 1:
        listed = "".join(f"\n  {view.session}  {view.model}  {view.directory}" for view in limited)
        raise UsageError(f"{len(limited)} sessions are limited; name one:{listed}")
    return limited[0]


def _limited(view: SessionView, ledger: Ledger, config: Config) -> bool:
    """A retry counts in whatever words; a failure only if it was a limit."""
    if view.state is SessionState.RETRY:
        return True
    if not view.stuck or view.model is None:
        return False
    event = judge(view, rules_for(config), None)
    sure = event is not None and event.verdict.certainty is Certainty.SURE
    return sure or ledger.cooling(view.model, time.time()) is not None


def _answered(found: Findings) -> None:
    if not found.doors:
        why = f" ({found.troubles[0]})" if found.troubles else ""
        raise OpenCodeUnreachable(
            f"no running OpenCode can be reached{why}; start it as `opencode serve`, or with --port"
        )


def _target(
    wish: Wish, view: SessionView, config: Config, ledger: Ledger, tried: Sequence[ModelRef] | set[ModelRef]
) -> Target:
    if wish.to is not None:
        model = named(wish.to)
        return Target(model, wish.agent or agent_for(model, config.policy) or view.agent)
    if view.model is None:
        raise UsageError(f"the model of {view.session} is not known; name the new one with --to")
    choice = stand_in(config.policy, ledger, view.model, view.agent, {view.model, *tried}, time.time())
    if isinstance(choice, Chosen):
        return Target(choice.target.model, wish.agent or choice.target.agent)
    raise _exhausted(choice, view.model)


def _exhausted(choice: Exhausted, model: ModelRef) -> OcwatchError:
    if not choice.chained:
        return UsageError(f"no chain names a stand-in for {model}; name one with --to")
    if choice.soonest is None:
        return AllCooling(f"everything that stands in for {model} is limited")
    name, end = choice.soonest
    now = time.time()
    return AllCooling(
        f"everything that stands in for {model} is limited; {name} is back in {span(end - now)} ({iso(end)})"
    )


def _move(paths: Paths, mover: RerunOverApi, job: Job, target: Target, own_abort: bool) -> MoveOutcome:
    """Claim, move, and write down how it ended: a daemon that comes up in between can finish what we began."""
    journal, ident = Journal(paths.journal, SystemClock()), f"hand-{uuid4().hex[:12]}"
    origin = job.stuck.model or target.model
    claim = notes.claim(ident, job.stuck, job.moved, origin, target)
    journal.append({"what": claim.what, **claim.fields, "by": "hand"}, durable=True)
    outcome = mover.move(job.moved, target, child=job.child, own_abort=own_abort)
    end = MoveEnded(ident, job.stuck.session, origin, target, outcome.result, outcome.detail, outcome.view)
    note = notes.ended(end)
    journal.append({"what": note.what, **note.fields, "seconds": round(outcome.seconds, 3)}, durable=True)
    return outcome


def _tell(wish: Wish, job: Job, target: Target, outcome: MoveOutcome | None) -> int:
    done = outcome is None or outcome.result in DONE
    if wish.as_json:
        say_json({
            "time": iso(time.time()), "session": job.moved.session, "from": str(job.stuck.model),
            "target": {"model": str(target.model), "agent": target.agent}, "dry_run": wish.dry_run,
            "result": outcome.result.value if outcome else None, "why": outcome.detail if outcome else None,
            "elapsed_seconds": round(outcome.seconds, 3) if outcome else None,
        })  # fmt: skip
    else:
        say(escape(_text(job, target, outcome)))
    return ExitCode.DONE if done else ExitCode.FAILED


def _text(job: Job, target: Target, outcome: MoveOutcome | None) -> str:
    agent = f" with agent {target.agent}" if target.agent else ""
    way = f"{job.moved.session}: {job.stuck.model} -> {target.model}{agent}"
    if outcome is None:
        until = (
            f", where OpenCode would try again at {clock(job.stuck.next_at, time.time())}" if job.stuck.next_at else ""
        )
        return f"would move {way}{until}"
    why = f" ({outcome.detail})" if outcome.detail else ""
    if outcome.result is MoveResult.MOVED:
        return f"moved {way}, after {outcome.seconds:.1f} s{why}"
    return f"{way}: {outcome.result.value.replace('_', ' ')}{why}"
