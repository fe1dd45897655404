"""Chains in plain names: which models stand in for which, in what order. No values, no imports.

A chain maps a name to the names that stand in for it. Names are models (`provider/model`), aliases, and on the left
also `provider/*` and `*` for models without a chain of their own; a pool's name stands for its members, which come in
the order that `core.pools` gives them. `ocwatch pick` runs on this alone and has to start
within 25 CPU ms: importing dataclasses costs 10 of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

DEFAULT = "*"
"""The chain of every model that has none of its own."""

LONGEST = 64
"""Models that are looked at for one choice; a chain that long is a mistake, or hostile."""

Chains = Mapping[str, Sequence[str]]
Members = Mapping[str, Sequence[str]]
"""Of each pool, in the order in which they are to be used."""
NO_POOLS: Members = {}


def normalise(chains: Chains, aliases: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The same chains with every alias replaced by its model; two keys for one model are joined, in order."""
    plain: dict[str, tuple[str, ...]] = {}
    for name, targets in chains.items():
        key = resolve(name, aliases)
        models = (resolve(target, aliases) for target in targets)
        plain[key] = tuple(dict.fromkeys([*plain.get(key, ()), *models]))
    return plain


def resolve(name: str, aliases: Mapping[str, str]) -> str:
    """The model behind an alias, also behind an alias of an alias; any other name is itself."""
    for _ in range(len(aliases)):  # bounded: aliases may name each other in a circle
        if name not in aliases:
            return name
        name = aliases[name]
    return name


def chain_of(model: str, chains: Chains, pools: Members = NO_POOLS) -> Sequence[str]:
    """What holds for `model`: the pools it is in, as equals are nearest, and the chain of its own (an empty one means:
    no fallback), its pool's, its provider's, else the default.
    """
    within = [name for name, members in pools.items() if model in members]
    for key in (model, *within, f"{model.partition('/')[0]}/*", DEFAULT):
        if key in chains:
            return (*within, *chains[key])
    return within


def candidates(model: str, chains: Chains, pools: Members = NO_POOLS) -> Iterator[str]:
    """Everything that may stand in for `model`, nearest first, each once, never `model` itself. Of a pool: its members
    and what stands in for them.
    """
    return (name for name, _ in ways(model, chains, pools))


def ways(model: str, chains: Chains, pools: Members = NO_POOLS) -> Iterator[tuple[str, str | None]]:
    """The candidates, each with the pool by whose name it was found (None: by its own).

    A chain's own list comes before what its members fall back to in turn (A: B, C and B: D gives B, C, D): the list
    that a person wrote for this very model is the better answer. What was seen is not followed again: a circle ends.
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
    """Normalised chains with every pool replaced by its members, on both sides: what is written, in plain models."""
    plain: dict[str, tuple[str, ...]] = {}
    for name, targets in chains.items():
        models = [member for target in targets for member in pools.get(target, (target,))]
        for key in pools.get(name, (name,)):
            own = [model for model in models if model != key or name not in pools]
            plain[key] = tuple(dict.fromkeys([*plain.get(key, ()), *own]))
    return plain


def find_cycles(chains: Chains) -> list[tuple[str, ...]]:
    """The circles among the written chains, as the names passed until the first one comes again.

    Every name that lies on a circle is in one of them. The default chain makes no circle: a model that falls back on
    itself through `*` is passed over.
    """
    found: dict[frozenset[str], tuple[str, ...]] = {}
    for start in chains:
        way = _way_back(start, chains)
        if way:
            found.setdefault(frozenset(way), way)
    return list(found.values())


def _way_back(start: str, chains: Chains) -> tuple[str, ...]:
    """The shortest way from `start` to itself; empty if there is none. Breadth first: linear in what is written."""
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


def follow(model: str, target_of: Callable[[str], str | None], blocked: Callable[[str], bool]) -> str | None:
    """Where prompts for `model` really go: its target, or, while that is blocked too, the target's own target.

    None if the trail ends, or turns in a circle, before a free model.
    """
    passed = {model}
    current = target_of(model)
    while current is not None and current not in passed:
        if not blocked(current):
            return current
        passed.add(current)
        current = target_of(current)
    return None


def covers(key: str, scope: str, model: str) -> bool:
    """Whether a listed entry blocks `model`: its own model, its whole provider, or its provider's free models."""
    provider, _, name = key.partition("/")
    if key == model or (name == "*" and model.startswith(f"{provider}/")):
        return True
    return scope == "free_tier" and is_free(key) and is_free(model) and model.startswith(f"{provider}/")


def is_free(model: str) -> bool:
    """Whether the name says that this is a provider's free variant (`…:free` at OpenRouter, `…-free` at Zen)."""
    return model.endswith((":free", "-free"))


def first_free(names: Collection[str] | Iterator[str], blocked: Callable[[str], bool]) -> str | None:
    """The first name that is not blocked."""
    return next((name for name in names if not blocked(name)), None)
