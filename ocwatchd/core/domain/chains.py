"""Fallback chains as plain strings: the ordered fallbacks of each model. The module defines no value classes and has no
costly imports.

A chain maps a name to its fallbacks. Names are models (`provider/model`), aliases and pools. Keys may also be
`provider/*` and `*` for models without a chain of their own, and `agent:NAME` and `agent:NAME@model` for the sessions
of one agent (see `agent_chain`). A pool's name represents its members, in the order given by `core.domain.pools`.
`ocwatch pick` uses only this module and must start within 25 ms of CPU time, and importing dataclasses takes 10 ms.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence

TYPE_CHECKING = False  # defined here because importing it from typing takes 5 ms of CPU time
if TYPE_CHECKING:
    from ocwatchd.core.domain.pools import Pools

DEFAULT = "*"
"""The key of the chain for every model without a chain of its own."""

AGENT = "agent:"
"""Prefix of the key of an agent's chain: `agent:NAME`, or `agent:NAME@model` for one of its models."""

MAX_CYCLES = 50
"""After this many cycles have been found, names that already lie on one of them are not searched for further cycles."""

LONGEST = 64
"""Maximum number of models considered for one choice; a longer chain is a mistake or an attack."""

Chains = Mapping[str, Sequence[str]]
Members = Mapping[str, Sequence[str]]
"""The members of each pool, in order of use."""
NO_POOLS: Members = {}


def normalise(chains: Chains, aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the chains with every alias replaced by its model. If two keys name one model, their chains are joined in
    order.
    """
    plain: dict[str, tuple[str, ...]] = {}
    for name, targets in chains.items():
        agent, model = split_key(name)
        key = resolve(name, aliases) if agent is None else key_of(agent, model and resolve(model, aliases))
        models = (resolve(target, aliases) for target in targets)
        plain[key] = tuple(dict.fromkeys([*plain.get(key, ()), *models]))
    return plain


def resolve(name: str, aliases: Mapping[str, str]) -> str:
    """Return the model that an alias leads to, directly or through other aliases; return any other name unchanged."""
    for _ in range(len(aliases)):  # bounded, because aliases may form a cycle
        if name not in aliases:
            return name
        name = aliases[name]
    return name


def split_key(name: str) -> tuple[str | None, str | None]:
    """Split the key of a chain into agent and model.

    If the returned agent is None, the key names a model, an alias, a pool or a wildcard. If the returned model is None,
    the chain applies to all models of the agent. The agent ends at the first `@`, because model names may contain one,
    such as Vertex's `claude-sonnet-4@20250514`.
    """
    if not name.startswith(AGENT):
        return None, name
    agent, at, model = name.removeprefix(AGENT).partition("@")
    return agent, model if at else None


def key_of(agent: str, model: str | None) -> str:
    """Return the key of an agent's chain for one model, or for all models (None)."""
    return f"{AGENT}{agent}" if model is None else f"{AGENT}{agent}@{model}"


def models_in(chains: Chains) -> Iterator[str]:
    """Yield every name of a model, alias or pool in these chains, in the order written. A name may appear more than
    once.
    """
    for key, targets in chains.items():
        model = split_key(key)[1]
        yield from targets if model is None else (model, *targets)


def agent_chain(
    agent: str | None, model: str, chains: Chains, pools: Members = NO_POOLS
) -> Sequence[tuple[str, str | None]] | None:
    """Return the fallbacks of `model` for sessions of `agent`, each with the pool through which it was found (None if
    it was named directly).

    These fallbacks take precedence over the chains that apply to every agent. The result is None if the agent has no
    chain for the model, or if that chain names only the model itself. The result is empty if the agent's chain is
    empty, because no other model may be used then. If several of the agent's chains apply, the most specific one is
    used, as in `chain_of`.
    """
    if not agent:
        return None
    within = [name for name, members in pools.items() if model in members]
    for part in (model, *within, f"{model.partition('/')[0]}/*", None):
        targets = chains.get(key_of(agent, part))
        if targets is not None:
            rows = ((name, t if t in pools else None) for t in targets for name in pools.get(t, (t,)))
            return [row for row in rows if row[0] != model] or (None if targets else [])
    return None


def agent_rows(
    chains: Chains, pools: Members, carriers: Mapping[str, str]
) -> dict[str, dict[str, list[dict[str, str | None]]]]:
    """Return the chains of agents for readers that do not support pools. The outer key is the agent and the inner key
    the model, with `*` for the agent's other models.

    A row has `model`, `agent` (the agent to use with the model) and `pool`.
    """
    found: dict[str, dict[str, list[dict[str, str | None]]]] = {}
    of_agents = [(*split_key(key), targets) for key, targets in chains.items() if key.startswith(AGENT)]
    of_agents.sort(key=lambda row: row[1] in pools)  # the model's own name takes precedence over its pool
    for agent, part, targets in of_agents:
        rows: list[dict[str, str | None]] = [
            {"model": name, "agent": carriers.get(name), "pool": target if target in pools else None}
            for target in targets
            for name in pools.get(target, (target,))
        ]
        for key in pools.get(part or "", (part or DEFAULT,)):
            found.setdefault(agent or "", {}).setdefault(key, rows)
    return found


def chain_of(model: str, chains: Chains, pools: Members = NO_POOLS) -> Sequence[str]:
    """Return the names to which `model` can fall back: first its pools, because their members are equal models, then
    one chain.

    The first of these chains that exists applies: the model's own chain (if it is empty, there is no fallback), its
    pool's chain, its provider's chain, or the default chain.
    """
    within = [name for name, members in pools.items() if model in members]
    for key in (model, *within, f"{model.partition('/')[0]}/*", DEFAULT):
        if key in chains:
            return (*within, *chains[key])
    return within


def candidates(model: str, chains: Chains, pools: Members = NO_POOLS) -> Iterator[str]:
    """Yield every fallback for `model`, nearest first, without duplicates and without `model` itself.

    If `model` is a pool, yield its members and their fallbacks.
    """
    return (name for name, _ in ways(model, chains, pools))


def ways(model: str, chains: Chains, pools: Members = NO_POOLS) -> Iterator[tuple[str, str | None]]:
    """Yield the candidates, each with the name of the pool through which it was found, or None.

    A chain's own list comes before the fallbacks of its members (A: B, C and B: D gives B, C, D), because the user
    wrote that list specifically for this model. No name is followed twice, so the search ends even if the chains form a
    cycle.
    """
    seen = {model}
    waiting = [model]
    for current in waiting:
        named = [current] if current in pools else []
        for target in (*named, *chain_of(current, chains, pools)):
            for name in pools.get(target, (target,)):
                if name not in seen and len(seen) <= LONGEST:
                    seen.add(name)
                    waiting.append(name)
                    yield name, target if target in pools else None


def opened(chains: Chains, pools: Members) -> dict[str, tuple[str, ...]]:
    """Return normalized chains with every pool replaced by its members, both in the keys and in the lists
    of fallbacks.
    """
    plain: dict[str, tuple[str, ...]] = {}
    for name, targets in chains.items():
        models = [member for target in targets for member in pools.get(target, (target,))]
        for key in pools.get(name, (name,)):
            own = [model for model in models if model != key or name not in pools]
            plain[key] = tuple(dict.fromkeys([*plain.get(key, ()), *own]))
    return plain


def find_cycles(chains: Chains) -> list[tuple[str, ...]]:
    """Return the cycles among the chains as written. Each cycle is a sequence of names that ends with its first name.

    Every name on a cycle is in at least one of the returned cycles. The default chain is never part of a cycle, because
    a model that would fall back to itself through `*` is skipped.
    """
    found: dict[frozenset[str], tuple[str, ...]] = {}
    covered: set[str] = set()
    for start in _on_cycles(chains):
        if len(found) >= MAX_CYCLES and start in covered:
            continue
        way = _shortest_cycle(start, chains)
        if way:
            found.setdefault(frozenset(way), way)
            covered.update(way)
    return list(found.values())


def _on_cycles(chains: Chains) -> list[str]:
    """Return the names that lie on a cycle or between two cycles, in the order written.

    Names that only lead out of all cycles, or into one, are omitted. The function takes linear time.
    """
    left = dict.fromkeys(chains)
    for follows in (chains, _reversed(chains)):
        count = {name: sum(target in left for target in follows.get(name, ())) for name in left}
        ends = [name for name, number in count.items() if not number]
        before = _reversed(follows)
        for name in ends:
            del left[name]
            for other in before.get(name, ()):
                if other in left:
                    count[other] -= 1
                    if not count[other]:
                        ends.append(other)
    return list(left)


def _reversed(chains: Chains) -> dict[str, list[str]]:
    """Return the reversed chains: for each name, the names that lead to it."""
    found: dict[str, list[str]] = {}
    for name, targets in chains.items():
        for target in targets:
            found.setdefault(target, []).append(name)
    return found


def _shortest_cycle(start: str, chains: Chains) -> tuple[str, ...]:
    """Return the shortest path from `start` to itself, or an empty tuple if there is none. The breadth-first search
    takes linear time.
    """
    came_from: dict[str, str] = {}
    waiting = [start]
    for current in waiting:
        for target in chains.get(current, ()):
            if target == start:
                way = [start, current]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return tuple(reversed(way))
            if target not in came_from:
                came_from[target] = current
                waiting.append(target)
    return ()


def is_free(model: str) -> bool:
    """Return whether the model's name marks it as a provider's free variant (`…:free` at OpenRouter,
    `…-free` at Zen).
    """
    return model.endswith((":free", "-free"))


def no_fallback(models: Collection[str]) -> str:
    """Return a message listing the models in use without a fallback."""
    has = "has" if len(models) == 1 else "have"
    return (
        f"{', '.join(models)} {has} no fallback, so limited sessions cannot be moved. Add one to fallbackChain, or "
        'a default for all models: "*"'
    )


def not_offered(models: Collection[str]) -> str:
    """Return a message listing the configured models that OpenCode does not offer."""
    which = "a model" if len(models) == 1 else "models"
    return (
        f"the configuration names {which} that OpenCode does not offer: {', '.join(models)}. To see where, type: "
        "ocwatch config check"
    )


class Fallbacks:
    """The configured fallbacks.

    `chains` contains only models and pools. `agents` maps a model to the agent to use with it. `models` maps a provider
    to the names of its configured models.
    """

    __slots__ = ("agents", "aliases", "chains", "models")

    def __init__(
        self,
        chains: Chains,
        aliases: Mapping[str, str],
        agents: Mapping[str, str],
        pools: Pools,
        opencode_agents: Container[str] = (),
    ) -> None:
        """Resolve the names as configured, which may be models, aliases or pools."""
        self.aliases = aliases
        self.chains = normalise(chains, aliases)
        self.agents = carriers(agents, aliases, pools, opencode_agents)
        named = (name for name in models_in(self.chains) if name not in pools)
        members = (member for pool in pools.values() for member in pool.members)
        self.models: dict[str, list[str]] = {}
        for name in dict.fromkeys((*named, *members, *self.agents)):
            if not name.endswith("/*") and "/" in name:
                self.models.setdefault(name.partition("/")[0], []).append(name)


def carriers(
    agents: Mapping[str, str], aliases: Mapping[str, str], pools: Pools, opencode_agents: Container[str] = ()
) -> dict[str, str]:
    """Return the agent to use with each model.

    The keys of `agents` are models, aliases or pools; the more specific key takes precedence. An alias that is also the
    name of one of OpenCode's agents names both the model and its agent. If two aliases apply to one model, the first
    one in the configuration is used.
    """
    written = [(resolve(name, aliases), name, agent) for name, agent in agents.items()]
    written.sort(key=lambda row: row[0] != row[1])  # the model's own name takes precedence over its aliases
    written += [(resolve(alias, aliases), alias, alias) for alias in aliases if alias in opencode_agents]
    found: dict[str, str] = {}
    for name, _, agent in written:
        if name not in pools:
            found.setdefault(name, agent)
    for name, _, agent in written:
        for member in pools[name].members if name in pools else ():
            found.setdefault(member, agent)
    return found
