"""What `redirect` and `restart` have in common: which target, the claim in the journal, and how it ended in words."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import uuid4

from ocwatchd.cli.escape import escape
from ocwatchd.cli.register import named
from ocwatchd.cli.render import clock, iso, say, say_json, span
from ocwatchd.clock import SystemClock
from ocwatchd.config import Config
from ocwatchd.config.rules import rules_for
from ocwatchd.core import notes
from ocwatchd.core.capability import Capacity
from ocwatchd.core.chains import resolve
from ocwatchd.core.considered import considered
from ocwatchd.core.decide import stand_in
from ocwatchd.core.evidence import judge
from ocwatchd.core.fallback import Choice, Chosen, Exhausted, agent_for
from ocwatchd.core.ledger import Ledger
from ocwatchd.core.limits import Certainty, ModelRef, Target
from ocwatchd.core.messages import MoveEnded, Note
from ocwatchd.core.money import Purse
from ocwatchd.core.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.outlook import Outlook
from ocwatchd.core.pools import Pool, order
from ocwatchd.core.views import SessionView
from ocwatchd.errors import AllCooling, ExitCode, OcwatchError, UsageError
from ocwatchd.paths import Paths
from ocwatchd.redirect import Mover
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
    loads: Mapping[str, float] = field(default_factory=dict)
    """How full the members of pools are, sessions' worth by model."""
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    """What models can take, where a door told."""
    purse: Purse = field(default_factory=Purse)

    @property
    def outlook(self) -> Outlook:
        """For the session that is moved."""
        return Outlook(self.moved.session, self.loads, self.moved.needs, self.offers, purse=self.purse)

    @property
    def child(self) -> str | None:
        """The subagent, if the parent is moved for its sake."""
        return self.stuck.session if self.moved.session != self.stuck.session else None


def failed_by_limit(view: SessionView, ledger: Ledger, config: Config) -> bool:
    """Whether the last turn ended in a limit: by its words, or because its model is cooling."""
    if not view.stuck or view.model is None:
        return False
    event = judge(view, rules_for(config), None)
    sure = event is not None and event.verdict.certainty is Certainty.SURE
    return sure or ledger.cooling(view.model, time.time()) is not None


def the_only(limited: Sequence[SessionView], nobody: str) -> SessionView:
    """The one session that is limited.

    Raises:
        UsageError: several are; they are listed.
        OcwatchError: none is (`nobody` says so).
    """
    if not limited:
        raise OcwatchError(nobody)
    if len(limited) > 1:
        listed = "".join(f"\n  {view.session}  {view.model}  {view.directory}" for view in limited)
        raise UsageError(f"{len(limited)} sessions are limited; name one:{listed}")
    return limited[0]


def choose_target(wish: Wish, job: Job, config: Config, ledger: Ledger, tried: Collection[ModelRef]) -> Target:
    """Where to: what the person named, else the nearest free model of the limited one's chain.

    Without an agent of its own the target is carried by the moved session's: a subagent's would change a parent's turn.

    Raises:
        UsageError: no chain names any, or the name is none.
        AllCooling: all of them rest.
    """
    limited, agent = job.stuck.model, job.moved.agent
    if wish.to is not None:
        pool = _pool_of(wish, config)
        model = _member(pool, job, ledger, tried) if pool else named(wish.to)
        return Target(model, wish.agent or agent_for(model, config.policy) or agent)
    if limited is None:
        raise UsageError(f"the model of {job.stuck.session} is not known; name the new one with --to")
    choice = _choice(job, limited, agent, config, ledger, tried)
    if isinstance(choice, Chosen):
        return Target(choice.target.model, wish.agent or choice.target.agent)
    raise _exhausted(choice, limited)


def _pool_of(wish: Wish, config: Config) -> Pool | None:
    return config.policy.pools.get(resolve(wish.to or "", config.policy.aliases))


def _member(pool: Pool, job: Job, ledger: Ledger, tried: Collection[ModelRef]) -> ModelRef:
    """The session's member of the pool, or the next one that is free; one that costs too much only after the others."""
    now, members = time.time(), map(ModelRef.parse, order(pool, job.moved.session, job.loads))
    free = [m for m in members if m != job.stuck.model and m not in tried and ledger.cooling(m, now) is None]
    if not free:
        raise AllCooling(f"no member of {pool.name} is free: {', '.join(pool.members)}")
    fit = [m for m in free if job.outlook.unfit(m) is None]
    if not fit:
        raise _nothing_fits([(m, job.outlook.unfit(m) or "") for m in free])
    fit.sort(key=lambda m: job.outlook.refused(m) is not None)
    return next((m for m in fit if ledger.avoided(m, now) is None), fit[0])


def _choice(
    job: Job, limited: ModelRef, agent: str | None, config: Config, ledger: Ledger, tried: Collection[ModelRef]
) -> Choice:
    return stand_in(config.policy, ledger, limited, agent, {limited, *tried}, time.time(), job.outlook)


def _looked_at(
    wish: Wish, job: Job, config: Config, ledger: Ledger, tried: Collection[ModelRef]
) -> list[dict[str, object]]:
    """Which targets were considered, for the journal."""
    limited = job.stuck.model
    if wish.to is not None or limited is None:
        return [{"model": wish.to, "why": "named by hand", "chosen": True}]
    return considered(
        _choice(job, limited, None, config, ledger, tried), ledger, limited, tried, time.time(), job.outlook
    )


def _nothing_fits(unfit: Iterable[tuple[ModelRef, str]]) -> OcwatchError:
    return OcwatchError("nothing that is free can take the session: " + "; ".join(f"{m}: {why}" for m, why in unfit))


def _exhausted(choice: Exhausted, model: ModelRef) -> OcwatchError:
    if not choice.chained:
        return UsageError(f"no chain names a stand-in for {model}; name one with --to")
    if choice.unfit:
        return _nothing_fits(choice.unfit)
    if choice.soonest is None:
        return AllCooling(f"everything that stands in for {model} is limited")
    name, end = choice.soonest
    now = time.time()
    return AllCooling(
        f"everything that stands in for {model} is limited; {name} is back in {span(end - now)} ({iso(end)})"
    )


def move_down_the_chain(
    paths: Paths, mover: Mover, job: Job, wish: Wish, config: Config, ledger: Ledger
) -> tuple[Target, MoveOutcome]:
    """Move to the first target that is not limited itself; a model named by the person is the only one tried.

    Raises:
        UsageError, AllCooling: as `choose_target`; before the first move, or when the chain has come to its end.
    """
    tried: set[ModelRef] = set()
    while True:
        target = choose_target(wish, job, config, ledger, tried)
        order = Order(job.moved, target, job.child, bool(tried), limited=job.stuck.model)
        rests = ledger.cooling(order.origin, time.time()) if order.origin else None
        looked_at = _looked_at(wish, job, config, ledger, tried)
        ident = f"hand-{uuid4().hex[:12]}"
        claim = notes.claim(ident, order, job.stuck, "asked for by hand", rests, looked_at)
        outcome = _move(Journal(paths.journal, SystemClock()), mover, order, ident, claim)
        named_one = wish.to is not None and _pool_of(wish, config) is None
        if outcome.result is not MoveResult.TARGET_LIMITED or named_one:
            return target, outcome
        tried.add(target.model)


def _move(journal: Journal, mover: Mover, order: Order, ident: str, claim: Note) -> MoveOutcome:
    """Claim, move, and write down how it ended: a daemon that comes up in between can finish what we began."""
    journal.append({"what": claim.what, **claim.fields, "by": "hand", "way": mover.name}, durable=True)
    try:
        outcome = mover.move(order)
    except OcwatchError as fault:
        _ended(journal, MoveEnded(ident, order, MoveOutcome(MoveResult.FAILED, str(fault))))
        raise
    _ended(journal, MoveEnded(ident, order, outcome))
    return outcome


def _ended(journal: Journal, end: MoveEnded) -> None:
    note = notes.ended(end)
    journal.append({"what": note.what, **note.fields}, durable=True)


def tell(wish: Wish, job: Job, target: Target, outcome: MoveOutcome | None, **more: object) -> int:
    """Say how it ended, or what would be done (`outcome` None); the exit code. `more` stands in the JSON only."""
    done = outcome is None or outcome.result in DONE
    if wish.as_json:
        say_json({
            "time": iso(time.time()), "session": job.moved.session, "from": str(job.stuck.model),
            "target": {"model": str(target.model), "agent": target.agent}, "dry_run": wish.dry_run,
            "result": outcome.result.value if outcome else None, "why": outcome.why if outcome else None,
            "elapsed_seconds": round(outcome.seconds, 3) if outcome and outcome.seconds is not None else None, **more,
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
    why = f" ({outcome.why})" if outcome.why else ""
    if outcome.result is MoveResult.MOVED:
        return f"moved {way}, after {outcome.seconds:.1f} s{why}"
    return f"{way}: {outcome.result.value.replace('_', ' ')}{why}"
