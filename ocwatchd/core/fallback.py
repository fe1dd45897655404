"""Chains: `choose(...)` says where a limited session goes, or that everything it could use is cooling."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ocwatchd.core import chains
from ocwatchd.core.chains import find_cycles, resolve
from ocwatchd.core.experience import best_first
from ocwatchd.core.limits import ModelRef, Target
from ocwatchd.core.outlook import UNKNOWN, Outlook
from ocwatchd.core.policy import Order, Policy
from ocwatchd.core.pools import arranged, pool_of

__all__ = ["Choice", "Chosen", "Exhausted", "agent_for", "candidates", "choose", "find_cycles", "resolve"]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The model and agent to move to, and the nearer models: they rest, were tried, or cannot take the session."""

    target: Target
    passed: tuple[ModelRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Exhausted:
    """Nothing is free. `models` are the limited model and all that could stand in for it, nearest first.

    `soonest` is the first of `models` to return and when (epoch
    seconds); None if nobody knows or asked.
    """

    models: tuple[ModelRef, ...]
    soonest: tuple[ModelRef, float] | None = None
    unfit: tuple[tuple[ModelRef, str], ...] = ()
    """What is free, and why it is not taken all the same."""

    @property
    def chained(self) -> bool:
        """Whether anything at all was written down to stand in."""
        return len(self.models) > 1


Choice = Chosen | Exhausted


def candidates(model: ModelRef, policy: Policy, outlook: Outlook = UNKNOWN) -> Iterator[ModelRef]:
    """Everything that may stand in for `model`, nearest first; names that are no models are passed over."""
    return (ref for ref, _ in _ways(model, policy, outlook))


def _ways(model: ModelRef, policy: Policy, outlook: Outlook) -> Iterator[tuple[ModelRef, str | None]]:
    plain: chains.Chains = chains.normalise(policy.chains, policy.aliases)
    members = arranged(policy.pools, outlook.session, outlook.loads)
    if policy.order is Order.LEARNT:
        fixed = {name: best_first(members[name], outlook.known) for name, p in policy.pools.items() if not p.spreads}
        members |= fixed
        plain = {key: best_first(names, outlook.known, members) for key, names in plain.items()}
    for name, pool in chains.ways(str(model), plain, members):
        try:
            ref = ModelRef.parse(name)
        except ValueError:
            continue
        if ref.model != "*":
            yield ref, pool


def choose(
    model: ModelRef,
    session_agent: str | None,
    policy: Policy,
    cooling: Callable[[ModelRef], bool],
    tried: Collection[ModelRef] = (),
    ends: Callable[[ModelRef], float | None] | None = None,
    outlook: Outlook = UNKNOWN,
) -> Choice:
    """The nearest free stand-in for `model`, with the agent to carry it.

    `cooling` says whether a model rests (its provider's and its free tier's rest included), `tried` are targets that
    this turn already failed on, `ends` tells when a model's rest ends, `outlook` in which order a pool's members come
    for this session, and which models cannot take it. The agent is the one configured for the target,
    else the session's own: without one OpenCode would fall back to its default agent.
    """
    passed: list[ModelRef] = []
    for ref, pool in _ways(model, policy, outlook):
        if ref not in tried and not cooling(ref) and outlook.refused(ref) is None:
            return Chosen(Target(ref, agent_for(ref, policy) or session_agent, pool), tuple(passed))
        passed.append(ref)
    models = (model, *passed)
    free = [ref for ref in passed if ref not in tried and not cooling(ref)]
    unfit = tuple((ref, why) for ref in free if (why := outlook.refused(ref)))
    return Exhausted(models, _soonest(models, ends), unfit)


def agent_for(model: ModelRef, policy: Policy) -> str | None:
    """The agent that the configuration names for this model, by its name, by an alias of it, or by its pool."""
    direct = policy.agents.get(str(model))
    if direct is not None:
        return direct
    pool = pool_of(str(model), policy.pools)
    for wanted in (str(model), pool.name if pool else ""):
        for name, agent in policy.agents.items():
            if resolve(name, policy.aliases) == wanted:
                return agent
    return None


def _soonest(
    models: tuple[ModelRef, ...], ends: Callable[[ModelRef], float | None] | None
) -> tuple[ModelRef, float] | None:
    if ends is None:
        return None
    known = [(end, index) for index, ref in enumerate(models) if (end := ends(ref)) is not None]
    return (models[min(known)[1]], min(known)[0]) if known else None
