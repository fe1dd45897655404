"""Choose a fallback for the engine, by passing the engine's values to `core.fallback.selection`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from ocwatchd.core.domain.chains import Chains, Members, agent_chain, agent_rows, ways
from ocwatchd.core.domain.cooldowns import Cooldown, Cooldowns
from ocwatchd.core.domain.pools import Pool, arranged
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.fallback.outlook import UNKNOWN, Outlook
from ocwatchd.core.fallback.ranking import Experiences, best_first
from ocwatchd.core.fallback.selection import Listed, Selection, Situation, select
from ocwatchd.core.policy import Order, Policy


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model and agent to move to, and the preferred models that were skipped (`passed`).

    A skipped model is cooling down, was tried before, or cannot run the session.
    """

    target: Target
    passed: tuple[ModelRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Exhausted:
    """The result of a choice if no fallback is available. `models` contains the limited model and all its fallbacks,
    nearest first.

    `soonest` is the model among them that will be available first, with the time (epoch seconds); None if unknown or
    not requested. `unfit` contains the models that are not cooling down but cannot be used, with the reasons.
    """

    models: tuple[ModelRef, ...]
    soonest: tuple[ModelRef, float] | None = None
    unfit: tuple[tuple[ModelRef, str], ...] = ()

    @property
    def chained(self) -> bool:
        """Whether any fallback is configured for the model."""
        return len(self.models) > 1


Choice = Chosen | Exhausted
Blocking = Callable[[ModelRef], bool]


def candidates(
    model: ModelRef, policy: Policy, outlook: Outlook = UNKNOWN, agent: str | None = None
) -> Iterator[ModelRef]:
    """Yield every configured fallback of `model`, nearest first. Names that are not models are skipped.

    The fallbacks in the chain of `agent` come first. If no agent is given, the chains of agents are ignored.
    """
    chains, pools = _written(policy, outlook)
    own = agent_chain(agent, str(model), chains, pools)
    if own is None:
        names = [name for name, _ in ways(str(model), chains, pools)]
    else:
        mine = [name for name, _ in own]
        names = (
            [*mine, *(name for start in (str(model), *mine) for name, _ in ways(start, chains, pools))] if own else []
        )
    found = (_usable(name) for name in dict.fromkeys(names) if name != str(model))
    return (ref for ref in found if ref is not None)


def named(
    fallback: ModelRef, model: ModelRef, policy: Policy, outlook: Outlook = UNKNOWN, agent: str | None = None
) -> bool:
    """Return whether `fallback` is a configured fallback of `model`, for sessions of `agent` if it is given."""
    return any(ref == fallback for ref in candidates(model, policy, outlook, agent))


def has_own_chain(agent: str | None, model: ModelRef, policy: Policy) -> bool:
    """Return whether the configuration contains a chain for this model in sessions of this agent."""
    members = {name: pool.members for name, pool in policy.pools.items()}
    return agent_chain(agent, str(model), policy.fallbacks.chains, members) is not None


def of_agents(policy: Policy, outlook: Outlook) -> dict[str, dict[str, list[dict[str, str | None]]]]:
    """Return the agents' chains in the form that is published for the companion plugin."""
    chains, pools = _written(policy, outlook)
    found = agent_rows(chains, pools, policy.fallbacks.agents)
    return {
        agent: {model: [row for row in rows if _usable(row["model"] or "")] for model, rows in by_model.items()}
        for agent, by_model in found.items()
    }


def choose(
    model: ModelRef,
    session_agent: str | None,
    policy: Policy,
    cooling: Blocking,
    tried: Collection[ModelRef] = (),
    ends: Callable[[ModelRef], float | None] | None = None,
    outlook: Outlook = UNKNOWN,
    *,
    avoided: Blocking | None = None,
    listed: Callable[[str], tuple[Listed, ...]] | None = None,
    asker: str | None = None,
) -> Choice:
    """Return the nearest available fallback of `model` and the agent to use with it.

    `cooling` returns whether a model must not be used, because it, its provider or its free tier is limited. `avoided`
    also returns True for a model that is about to be limited. `tried` contains targets on which this turn has already
    failed. `ends` returns when a model's cooldown ends, and `listed` returns the targets that the blacklist contains
    for a model.

    The returned agent is the one configured for the target or, if there is none, the session's own agent. It is given
    explicitly, because OpenCode would otherwise use its default agent. If a move has changed the session's agent,
    `asker` is the agent that the user chose; its chain comes first.
    """
    by = asker or session_agent
    situation = _situation(policy, outlook, cooling, avoided or cooling, listed or _no_targets, by)
    return _choice(model, select(str(model), situation, {str(model), *map(str, tried)}), session_agent, ends)


def _situation(
    policy: Policy,
    outlook: Outlook,
    cooling: Blocking,
    avoided: Blocking,
    listed: Callable[[str], Iterable[Listed]],
    asker: str | None = None,
) -> Situation:
    chains, pools = _written(policy, outlook)

    def of(test: Blocking) -> Callable[[str], bool]:
        return lambda name: (ref := _usable(name)) is None or test(ref)

    return Situation(
        chains, policy.fallbacks.agents, of(avoided), of(cooling), pools,
        lambda name: outlook.unfit(ModelRef.parse(name)),
        lambda name: outlook.over_budget(ModelRef.parse(name)),
        listed, asker,
    )  # fmt: skip


def _choice(
    model: ModelRef | None,
    found: Selection,
    session_agent: str | None,
    ends: Callable[[ModelRef], float | None] | None,
) -> Choice:
    passed = tuple(ref for name in found.passed if (ref := _usable(name)) is not None)
    if found.model is not None:
        return Chosen(Target(ModelRef.parse(found.model), found.agent or session_agent, found.pool), passed)
    models = (*([model] if model else []), *passed)
    return Exhausted(models, _soonest(models, ends), tuple((ModelRef.parse(name), why) for name, why in found.refused))


def fallback(
    policy: Policy,
    cooldowns: Cooldowns,
    model: ModelRef,
    agent: str | None,
    tried: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
    *,
    as_listed: bool = True,
    asker: str | None = None,
) -> Choice:
    """Return the fallback of `model` according to the current cooldowns.

    `as_listed`: whether a target that another program wrote to the blacklist comes first, as is the rule for every new
    prompt. (Targets that ocwatchd wrote come from the chains, so they need no preference.) `asker`: see `choose`.
    """

    def ends(ref: ModelRef) -> float | None:
        entry = cooldowns.limited(ref, now)
        return entry.until if entry else None

    def listed(name: str) -> tuple[Listed, ...]:
        ref = ModelRef.parse(name)
        return tuple(
            (str(target.model), target.agent, target.pool)
            for target in cooldowns.targets(ref, now)
            if not named(target.model, ref, policy, outlook)
        )

    return choose(
        model, agent, policy, _blocked(cooldowns.limited, now), tried, ends, outlook,
        avoided=_blocked(cooldowns.avoided, now), listed=listed if as_listed else None, asker=asker,
    )  # fmt: skip


def by_chains(policy: Policy, cooldowns: Cooldowns, now: float, outlook: Outlook) -> Situation:
    """Return a `Situation` without the blacklist's targets and without an agent. It can be used for any number of
    choices at the time `now`.

    Results are cached by model, because with 2,000 models cooling down, each in the chains of others, there are 250,000
    queries.
    """
    cooling = _Remembered(lambda name: (ref := _usable(name)) is None or cooldowns.limited(ref, now) is not None)
    avoided = _Remembered(lambda name: (ref := _usable(name)) is None or cooldowns.avoided(ref, now) is not None)
    refused = _Remembered(lambda name: outlook.refused(ModelRef.parse(name)))
    chains, pools = _written(policy, outlook)
    return Situation(
        chains, policy.fallbacks.agents, avoided.__getitem__, cooling.__getitem__, pools, refused.__getitem__
    )


_T = TypeVar("_T")


class _Remembered(dict[str, _T]):
    """A cache of a function's results by name. Each result is computed only once."""

    def __init__(self, find: Callable[[str], _T]) -> None:
        super().__init__()
        self._find = find

    def __missing__(self, name: str) -> _T:
        found = self[name] = self._find(name)
        return found


def onwards(
    policy: Policy,
    cooldowns: Cooldowns,
    refusing: ModelRef | None,
    agent: str | None,
    origin: ModelRef,
    failed: Collection[ModelRef],
    now: float,
    outlook: Outlook = UNKNOWN,
    *,
    asker: str | None = None,
) -> Choice:
    """Return the target of a turn whose model is limited.

    The session's `origin` comes first, if it is available. The next candidates come from the origin's chain, from the
    chain of the limited model, and from the chain of a model that has the limited model as a fallback. `failed`
    contains the targets to which this prompt could not be moved. `asker`: see `choose`.
    """
    tried, by = {*failed, *([refusing] if refusing else [])}, asker or agent

    def back_or_down(origin: ModelRef) -> Choice:
        if origin not in tried and cooldowns.avoided(origin, now) is None and outlook.unfit(origin) is None:
            return Chosen(Target(origin, agent))
        choice = fallback(policy, cooldowns, origin, agent, tried, now, outlook, asker=asker)
        if isinstance(choice, Chosen) or refusing is None or refusing == origin:
            return choice
        further = fallback(policy, cooldowns, refusing, agent, tried, now, outlook, asker=asker)
        return further if isinstance(further, Chosen) else choice

    choice = back_or_down(origin)
    if isinstance(choice, Chosen) or refusing is None or origin != refusing:
        return choice
    for entry in cooldowns.entries():
        if entry.active(now) and entry.model != refusing and named(refusing, entry.model, policy, outlook, by):
            wider = back_or_down(entry.model)
            if isinstance(wider, Chosen) or not choice.chained:
                return wider
    return choice


def member(
    pool: Pool, policy: Policy, cooldowns: Cooldowns, tried: Collection[ModelRef], now: float, outlook: Outlook
) -> Choice:
    """Return the member of a pool for a session that a user moves to the pool. Paid members come last if the day's
    budget is spent.
    """
    alone = replace(policy, chains={}, pools={pool.name: pool})
    situation = _situation(
        alone, outlook, _blocked(cooldowns.limited, now), _blocked(cooldowns.avoided, now), _no_targets
    )
    found = select(pool.name, situation, set(map(str, tried)))
    return _choice(None, found, None, None)


def agent_for(model: ModelRef, policy: Policy) -> str | None:
    """Return the agent configured for this model under its name, an alias or its pool. Return None if there is no such
    agent.
    """
    return policy.fallbacks.agents.get(str(model))


def _no_targets(_: str) -> tuple[Listed, ...]:
    return ()


def _blocked(blocking: Callable[[ModelRef, float], Cooldown | None], now: float) -> Blocking:
    return lambda ref: blocking(ref, now) is not None


def _usable(name: str) -> ModelRef | None:
    """Return the model with this name, or None if the name is not that of a single model."""
    try:
        ref = ModelRef.parse(name)
    except ValueError:
        return None
    return None if ref.model == "*" else ref


def _written(policy: Policy, outlook: Outlook) -> tuple[Chains, Members]:
    """Return the chains and the pools' members, each in the order in which this session considers them."""
    members = arranged(policy.pools, outlook.session, outlook.loads)
    if policy.order is not Order.LEARNT:
        return policy.fallbacks.chains, members
    members |= {name: best_first(members[name], outlook.known) for name, p in policy.pools.items() if not p.spreads}
    return _ranked(policy.fallbacks.chains, outlook.known, members), members


def _ranked(chains: Chains, known: Experiences, members: Members) -> Chains:
    return {key: best_first(names, known, members) for key, names in chains.items()}


def _soonest(
    models: tuple[ModelRef, ...], ends: Callable[[ModelRef], float | None] | None
) -> tuple[ModelRef, float] | None:
    if ends is None:
        return None
    known = [(end, index) for index, ref in enumerate(models) if (end := ends(ref)) is not None]
    return (models[min(known)[1]], min(known)[0]) if known else None
