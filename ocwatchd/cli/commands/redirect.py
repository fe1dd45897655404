"""`ocwatch redirect`: move a session on request, with the same checks, claim and verification as the daemon.

The module also contains the parts shared by `redirect` and `restart`: choosing the target, writing the claim to the
journal, and printing the result. Long because both commands use every step of a move.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from shlex import quote
from uuid import uuid4

from ocwatchd.cli.commands.block import known_names, named
from ocwatchd.cli.model_check import refuse_unknown
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say_json, tell
from ocwatchd.cli.sessions import described, known_sessions, named_session, no_such, whole_id
from ocwatchd.clock import SystemClock
from ocwatchd.config import Config, load
from ocwatchd.config.active_rules import rules_for
from ocwatchd.config.offered_models import Offered, read_offered
from ocwatchd.core.domain.budget import DayBudget
from ocwatchd.core.domain.capability import Capacity
from ocwatchd.core.domain.chains import resolve
from ocwatchd.core.domain.cooldowns import Cooldowns
from ocwatchd.core.domain.moves import MoveOutcome, MoveResult, Order
from ocwatchd.core.domain.pools import Pool
from ocwatchd.core.domain.snapshot import SessionSnapshot, SessionState
from ocwatchd.core.domain.types import Certainty, ModelRef, Target
from ocwatchd.core.engine import journal_notes as notes
from ocwatchd.core.engine.assess import judge
from ocwatchd.core.engine.messages import MoveEnded, Note
from ocwatchd.core.fallback.choice import Choice, Chosen, Exhausted, agent_for, member, onwards
from ocwatchd.core.fallback.considered import considered
from ocwatchd.core.fallback.outlook import Outlook
from ocwatchd.errors import AllCooling, ExitCode, OcwatchError, OpenCodeUnreachable, UsageError
from ocwatchd.movers.preflight import Mover
from ocwatchd.movers.rerun import RerunOverApi
from ocwatchd.movers.switch import SwitchModel
from ocwatchd.opencode.discovery.earlier import EarlierProcess, earlier_processes
from ocwatchd.opencode.discovery.endpoints import GENERATION_LIMIT, EndpointFinder, ProcessTable, generations
from ocwatchd.opencode.discovery.probes import Findings, Prober
from ocwatchd.opencode.discovery.unreachable import Unreached
from ocwatchd.opencode.sessions.capabilities import offers_at
from ocwatchd.opencode.sessions.message_store import SessionStore
from ocwatchd.opencode.sessions.names import SessionName
from ocwatchd.paths import Paths
from ocwatchd.state import moved_sessions, prices
from ocwatchd.state.blacklist import store as blacklist
from ocwatchd.state.heartbeat import unserved
from ocwatchd.state.journal import Journal
from ocwatchd.time_words import exactly, when

ANSWERED = "the last prompt has been answered"
DONE = (MoveResult.MOVED, MoveResult.ALREADY, MoveResult.SWITCHED)
"""The results that are reported as success (exit code 0)."""


@dataclass(frozen=True, slots=True)
class MoveOptions:
    """The arguments of `redirect` or `restart`. If a value is None, ocwatch chooses it."""

    session: str | None = None
    to: str | None = None
    agent: str | None = None
    dry_run: bool = False
    as_json: bool = False
    force: bool = False
    """Whether to accept a target (`to`) that OpenCode does not offer or that is cooling down."""


@dataclass(frozen=True, slots=True)
class Job:
    """A limited session (`stuck`) and the session to move.

    The two differ if the limited session is a subagent, because its waiting parent is moved in its place.
    """

    stuck: SessionSnapshot
    moved: SessionSnapshot
    loads: Mapping[str, float] = field(default_factory=dict)
    """The number of sessions that use each model. These numbers determine which member of a pool is chosen."""
    offers: Mapping[str, Capacity] = field(default_factory=dict)
    """The capacities of models as reported by an endpoint. The mapping is empty if no endpoint reported any."""
    day_budget: DayBudget = field(default_factory=DayBudget)
    origin: ModelRef | None = None
    """The session's model before its last move, if the target of that move is now limited; otherwise, None."""

    @property
    def outlook(self) -> Outlook:
        """Return the inputs for choosing a target for the moved session."""
        return Outlook(self.moved.session, self.loads, self.moved.needs, self.offers, day_budget=self.day_budget)

    @property
    def child(self) -> str | None:
        """Return the id of the limited subagent if the subagent's parent is moved in its place; otherwise, return
        None.
        """
        return self.stuck.session if self.moved.session != self.stuck.session else None


def failed_by_limit(view: SessionSnapshot, cooldowns: Cooldowns, config: Config) -> bool:
    """Return whether a limit ended the last turn: its error is a limit, or its model is cooling down."""
    if not view.stuck or view.model is None:
        return False
    event = judge(view, rules_for(config), None)
    sure = event is not None and event.verdict.certainty is Certainty.SURE
    return sure or cooldowns.cooling(view.model, time.time()) is not None


def the_only(limited: Sequence[SessionSnapshot], if_none: str) -> SessionSnapshot:
    """Return the only limited session.

    Raises:
        UsageError: Several sessions are limited; the message lists them.
        OcwatchError: No session is limited; the message is `if_none`.
    """
    if not limited:
        raise OcwatchError(if_none)
    if len(limited) > 1:
        names, now = {name.id: name for name in known_sessions()}, time.time()
        lines = []
        for view in limited:
            name = names.get(view.session, SessionName(view.session, directory=view.directory))
            lines.append(f"\n  {view.session}  {described(name, now)}, limited on {view.model}")
        raise UsageError(f"{len(limited)} sessions are limited. Name one of them:{''.join(lines)}")
    return limited[0]


def stranded_sessions(unreached: Unreached, cooldowns: Cooldowns, config: Config) -> list[SessionSnapshot]:
    """Return the limited sessions in this home directory whose OpenCode process has no endpoint.

    A parent that only waits for a limited subagent is left out.
    """
    found = [one for one in unreached.unsettled(time.time()) if _waits_limited(one, cooldowns, config)]
    # A parent and its subagent have the same problem, but only the subagent shows which model is limited, so the parent
    # is left out.
    parents = {one.parent for one in found}
    return [one for one in found if one.session not in parents]


def _waits_limited(snapshot: SessionSnapshot, cooldowns: Cooldowns, config: Config) -> bool:
    """Return whether the session, whose OpenCode process has no endpoint, is limited.

    Without an endpoint, OpenCode's retries are not visible. An unfinished answer from a model that is cooling down is
    treated as a retry.
    """
    waiting = snapshot.answer is not None and snapshot.answer_ended is None and snapshot.model is not None
    if waiting and snapshot.model is not None:
        return cooldowns.cooling(snapshot.model, time.time()) is not None
    return failed_by_limit(snapshot, cooldowns, config)


def unreached_of(paths: Paths) -> Unreached:
    """Return the object that reads the sessions of OpenCode 1 processes without an endpoint."""
    return Unreached(
        paths.opencode_data, lambda: [process for process in generations(ProcessTable()()) if process.generation == 1]
    )


def restart_instead(
    fault: OcwatchError, stranded: Sequence[SessionSnapshot], unloaded: Sequence[EarlierProcess] = ()
) -> OcwatchError:
    """Return an error that lists, for each stranded session, a command to continue it. If there are none, return
    `fault`.

    `unloaded` contains the OpenCode processes without the companion plugin.
    """
    if not stranded:
        return fault
    names = {name.id: name for name in known_sessions()}
    lines = []
    for one in stranded:
        about = described(names.get(one.session, SessionName(one.session, directory=one.directory)), time.time())
        lines.append(f"\n  {one.session}  {about}, limited on {one.model}\n    {_how_to_continue(one, unloaded)}")
    number = f"{len(stranded)} sessions are" if len(stranded) > 1 else "one session is"
    return OpenCodeUnreachable(
        f"{number} limited, but cannot be moved: the companion plugin is not loaded in that OpenCode process. To "
        f"continue:{''.join(lines)}"
    )


def _how_to_continue(snapshot: SessionSnapshot, unloaded: Sequence[EarlierProcess]) -> str:
    """Return the user's options for a session whose OpenCode process has no endpoint.

    A restart does not help if the process was started with `--pure`, because the new process would not load any plugins
    either.
    """
    here = os.path.realpath(snapshot.directory)
    same = [process for process in unloaded if os.path.realpath(process.directory) == here]
    pure = next((process for process in same if process.pure), None)
    if pure is None or any(not process.pure for process in same):
        return f"ocwatch restart {quote(snapshot.session)}"
    return f"process {pure.pid} {pure.why}: {pure.remedy}"


def unserved_instead(fault: OcwatchError, finder: EndpointFinder) -> OcwatchError:
    """Return the error for a session that was not found.

    It names the OpenCode processes that cannot be reached, because the session may be running in one of them.
    """
    troubles = unserved(status.as_json() for status in finder.find(GENERATION_LIMIT).statuses)
    return OpenCodeUnreachable(f"{fault}. {'; '.join(troubles)}") if troubles else fault


def choose_target(
    options: MoveOptions, job: Job, config: Config, cooldowns: Cooldowns, tried: Collection[ModelRef]
) -> Target:
    """Return the target: the model that the user named, or the first available model in the limited model's chain.

    If the target has no configured agent, it uses the moved session's agent. The agent of a limited subagent is not
    used, because it would change the parent's turn.

    Raises:
        UsageError: The model has no fallback, or the named model does not exist.
        AllCooling: All fallbacks are cooling down.
    """
    limited, agent = job.stuck.model, job.moved.agent
    if options.to is not None:
        pool = _pool_of(options, config)
        model = _member(pool, job, config, cooldowns, tried) if pool else named(options.to)
        if not options.force:
            refuse_unknown(str(model), known_names(config.policy, cooldowns.entries()), partial(_offered, job))
        return Target(model, options.agent or agent_for(model, config.policy) or agent)
    if limited is None:
        raise UsageError(f"the model of {job.stuck.session} is unknown. To choose the new model, add: --to MODEL")
    choice = _choice(job, limited, agent, config, cooldowns, tried)
    if isinstance(choice, Chosen):
        return Target(choice.target.model, options.agent or choice.target.agent)
    raise _exhausted(choice, limited)


def _offered(job: Job) -> Offered:
    """Return the models that OpenCode offers, according to its files and to the session's OpenCode process."""
    by_provider: dict[str, set[str]] = {}
    for model in job.offers:
        provider, _, name = model.partition("/")
        by_provider.setdefault(provider, set()).add(name)
    reported = {provider: frozenset(names) for provider, names in by_provider.items()}
    return replace(read_offered(Paths.from_env()), by_endpoints=reported)


def _pool_of(options: MoveOptions, config: Config) -> Pool | None:
    return config.policy.pools.get(resolve(options.to or "", config.policy.aliases))


def _member(pool: Pool, job: Job, config: Config, cooldowns: Cooldowns, tried: Collection[ModelRef]) -> ModelRef:
    """Return the session's current member of the pool, or the next available member. Paid members are tried last."""
    away = {*tried, *([job.stuck.model] if job.stuck.model else [])}
    choice = member(pool, config.policy, cooldowns, away, time.time(), job.outlook)
    if isinstance(choice, Chosen):
        return choice.target.model
    if choice.unfit:
        raise _nothing_fits(choice.unfit)
    raise AllCooling(f"all members of {pool.name} are cooling down: {', '.join(pool.members)}")


def _choice(
    job: Job, limited: ModelRef, agent: str | None, config: Config, cooldowns: Cooldowns, tried: Collection[ModelRef]
) -> Choice:
    origin = job.origin or limited
    return onwards(config.policy, cooldowns, limited, agent, origin, tried, time.time(), job.outlook)


def _considered(
    options: MoveOptions, job: Job, config: Config, cooldowns: Cooldowns, tried: Collection[ModelRef]
) -> list[dict[str, object]]:
    """Return the targets that were considered, as entries for the journal."""
    limited = job.stuck.model
    if options.to is not None or limited is None:
        return [{"model": options.to, "why": "named by you", "chosen": True}]
    return considered(
        _choice(job, limited, None, config, cooldowns, tried), cooldowns, limited, tried, time.time(), job.outlook
    )


def _nothing_fits(unfit: Iterable[tuple[ModelRef, str]]) -> OcwatchError:
    return OcwatchError("no available model can continue the session: " + "; ".join(f"{m}: {why}" for m, why in unfit))


def _exhausted(choice: Exhausted, model: ModelRef) -> OcwatchError:
    if not choice.chained:
        return UsageError(f"{model} has no fallback. To choose the new model, add: --to MODEL")
    if choice.unfit:
        return _nothing_fits(choice.unfit)
    if choice.soonest is None:
        return AllCooling(f"all fallbacks of {model} are cooling down")
    name, end = choice.soonest
    now = time.time()
    return AllCooling(f"all fallbacks of {model} are cooling down; {name} is available again at {when(end, now)}")


def move_down_the_chain(
    paths: Paths, mover: Mover, job: Job, options: MoveOptions, config: Config, cooldowns: Cooldowns
) -> tuple[Target, MoveOutcome]:
    """Move the session to the first target that is not limited itself. If the user named a model, try only that model.

    Raises:
        UsageError, AllCooling: `choose_target` finds no target, either initially or after all targets have been tried.
    """
    tried: set[ModelRef] = set()
    while True:
        target = choose_target(options, job, config, cooldowns, tried)
        order = Order(job.moved, target, job.child, bool(tried), limited=job.stuck.model)
        cooldown = cooldowns.cooling(order.origin, time.time()) if order.origin else None
        targets = _considered(options, job, config, cooldowns, tried)
        ident = f"hand-{uuid4().hex[:12]}"
        claim = notes.claim(ident, order, job.stuck, "requested by you", cooldown, targets)
        outcome = _move(Journal(paths.journal, SystemClock()), mover, order, ident, claim)
        named_one = options.to is not None and _pool_of(options, config) is None
        if outcome.result is not MoveResult.TARGET_LIMITED or named_one:
            return target, outcome
        tried.add(target.model)


def _move(journal: Journal, mover: Mover, order: Order, ident: str, claim: Note) -> MoveOutcome:
    """Write the claim, move the session, and write the result.

    The claim lets a daemon that starts in the meantime finish the move.
    """
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


def report_move(
    options: MoveOptions, job: Job, target: Target | None, outcome: MoveOutcome | None, **more: object
) -> int:
    """Print the result of the move, and return the exit code. Without an `outcome`, print what would be done.

    `target` is None if there is nothing to move. `more` is added to the JSON document only.
    """
    done = outcome is None or outcome.result in DONE
    if options.as_json:
        say_json({
            "time": iso(time.time()), "session": job.moved.session, "from": str(job.stuck.model),
            "target": {"model": str(target.model), "agent": target.agent} if target else None,
            "dry_run": options.dry_run, "result": outcome.result.value if outcome else None,
            "why": outcome.why if outcome else None,
            "elapsed_seconds": round(outcome.seconds, 3) if outcome and outcome.seconds is not None else None, **more,
        })  # fmt: skip
    else:
        tell(escape(_text(job, target, outcome)))
    return ExitCode.DONE if done else ExitCode.FAILED


def _text(job: Job, target: Target | None, outcome: MoveOutcome | None) -> str:
    name = next((name for name in known_sessions() if name.id == job.moved.session), None)
    if target is None:
        return f"{named_session(job.moved.session, name)} is not moved: {ANSWERED}."
    agent = f" with agent {target.agent}" if target.agent else ""
    way = f"{named_session(job.moved.session, name)}: {job.stuck.model} -> {target.model}{agent}"
    if outcome is None:
        at = when(job.stuck.next_at, time.time()) if job.stuck.next_at else ""
        return f"Would move {way}." + (f" Without a move, OpenCode would retry at {at}." if at else "")
    why = f" ({outcome.why})" if outcome.why else ""
    if outcome.result is MoveResult.MOVED:
        took = f" in {exactly(outcome.seconds)}" if outcome.seconds is not None else ""
        return f"Moved {way}{took}{why}."
    return f"{way}: {outcome.result.value.replace('_', ' ')}{why}."


def redirect(options: MoveOptions) -> int:
    """Move one limited session to another model now, and return the exit code.

    Raises:
        UsageError: The session or model does not exist, or none is named and several sessions are limited.
        OpenCodeUnreachable: No running OpenCode process responds.
        AllCooling: All fallbacks are cooling down.
        OcwatchError: No session is limited.
    """
    paths = Paths.from_env()
    config = load(paths)
    finder = EndpointFinder(
        paths.opencode_data,
        urls=config.endpoints,
        sockets=paths.endpoints,
        environ=os.environ,
        state=paths.opencode_state,
    )
    prober = Prober(finder, SessionStore(paths.opencode_data))
    known = blacklist.read(paths.blacklist)
    cooldowns = Cooldowns(known.entries())
    try:
        job = _patient_job(finder, prober, options.session, cooldowns, config)
    except UsageError:
        raise
    except OcwatchError as fault:  # the session was not found: it may be running in a process that cannot be reached
        if options.session is None:
            fault = restart_instead(
                fault, stranded_sessions(unreached_of(paths), cooldowns, config), earlier_processes(paths)
            )
        raise unserved_instead(fault, finder) from None
    now = time.time()
    day_budget = prices.day_budget(paths.prices, paths.budget, config.policy.budget, now)
    offers = offers_at([(job.moved.endpoint, job.moved.directory)], now) or {}
    origin = moved_sessions.origin_of(paths.moved, job.moved.session, job.stuck.model)
    job = replace(job, loads=known.loads, offers=offers, day_budget=day_budget, origin=origin)
    _refuse_useless(options, job, config, cooldowns)
    if _is_answered(job):
        return report_move(options, job, None, MoveOutcome(MoveResult.ALREADY, ANSWERED, job.moved))
    if options.dry_run:
        return report_move(options, job, choose_target(options, job, config, cooldowns, ()), None)
    mover: Mover = SwitchModel() if job.moved.endpoint.generation == 2 else RerunOverApi()
    return report_move(options, job, *move_down_the_chain(paths, mover, job, options, config, cooldowns))


def _is_answered(job: Job) -> bool:
    """Return whether the session is idle and its last prompt has been answered, so that there is nothing to move.

    No claim is written in this case, because `explain` would show it as a decision. On OpenCode 2, a session's model
    can still be changed while the session waits for its next prompt.
    """
    now = job.moved
    answered = now.state is SessionState.IDLE and now.answer_completed and not now.queued
    return answered and job.child is None and now.endpoint.generation == 1


def _refuse_useless(options: MoveOptions, job: Job, config: Config, cooldowns: Cooldowns) -> None:
    """Check that the named target is not the session's own model and is not cooling down.

    Raises:
        UsageError: The check fails, and `force` is not given.
    """
    if options.to is None or options.force or options.to.strip() in config.policy.pools:
        return
    model, now = named(options.to), time.time()
    if model == job.stuck.model:
        raise UsageError(
            f"the session is already on {model}. Name another model, or omit --to for the next one in the chain"
        )
    entry = cooldowns.cooling(model, now)
    if entry is not None:
        end = "until you clear it" if entry.until is None else f"until {when(entry.until, now)}"
        raise UsageError(f"{model} is cooling down {end}. To use it anyway, add: --force")


def _patient_job(
    finder: EndpointFinder, prober: Prober, session: str | None, cooldowns: Cooldowns, config: Config
) -> Job:
    """Return the job as `_job` does. If no session was found, wait for OpenCode processes that respond late."""
    try:
        return _job(prober, session, cooldowns, config)
    except UsageError:
        raise
    except OcwatchError:
        if not finder.find_late():
            raise
    return _job(prober, session, cooldowns, config)


def _job(prober: Prober, session: str | None, cooldowns: Cooldowns, config: Config) -> Job:
    stuck = _only_limited(prober.stuck(), cooldowns, config) if session is None else _named(prober, session)
    parent = prober.session(stuck.parent).snapshots if stuck.parent else ()
    waiting = parent and parent[0].state is SessionState.BUSY and not stuck.switchable
    return Job(stuck, parent[0] if waiting else stuck)


def _named(prober: Prober, part: str) -> SessionSnapshot:
    """Return the session that the user named.

    Raises:
        UsageError: No session has this name, or several sessions do.
        OpenCodeUnreachable: The session may exist, but no OpenCode process that is running it can be reached.
    """
    known = known_sessions()
    session = whole_id(part, known)
    found = prober.session(session)
    if found.snapshots:
        return found.snapshots[0]
    if known and session not in {one.id for one in known}:
        raise no_such(part, known)
    _answered(found)
    if not known:
        raise UsageError(f"no running OpenCode process has the session {part}")
    raise OpenCodeUnreachable(
        f"the session {session} is not in any OpenCode process that ocwatchd can reach. If it is open in a terminal, "
        f"use: ocwatch restart {quote(session)}"
    )


def _only_limited(found: Findings, cooldowns: Cooldowns, config: Config) -> SessionSnapshot:
    _answered(found)
    return the_only(
        [snapshot for snapshot in found.snapshots if _limited(snapshot, cooldowns, config)], "no session is limited"
    )


def _limited(snapshot: SessionSnapshot, cooldowns: Cooldowns, config: Config) -> bool:
    """Return whether the session is limited. A session that is waiting for a retry is always limited. A failed session
    is limited only if a limit caused the failure.
    """
    return snapshot.state is SessionState.RETRY or failed_by_limit(snapshot, cooldowns, config)


def _answered(found: Findings) -> None:
    if not found.endpoints:
        if not found.troubles and not _is_running(Paths.from_env()):
            raise OpenCodeUnreachable("OpenCode is not running, so there is no session to move")
        why = f" ({found.troubles[0]})" if found.troubles else ""
        raise OpenCodeUnreachable(
            f"no running OpenCode process can be reached{why}. To see why, and what to do, use: ocwatch doctor"
        )


def _is_running(paths: Paths) -> bool:
    """Return whether an OpenCode process may be using this home directory. If the data directory of a process is not
    known, it may be.
    """
    own = os.path.realpath(paths.opencode_data)
    return any(process.data is None or os.path.realpath(process.data) == own for process in ProcessTable()())
