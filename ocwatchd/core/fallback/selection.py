"""Choose a fallback: the model to use in place of one that must not be used now.

The module uses strings, plain classes and no costly imports, because `ocwatch pick` and every start through `oc-smart`
load it. The companion plugin makes the same choice in JavaScript (`opencode/plugin/rate-limit-fallback/selection.js`).
Both are tested with `tests/conformance/fallback.json`.

The candidates, without duplicates and nearest first, are:

1. the chain of the session's agent, if it has one; an empty chain means no fallback at all;
2. the blacklist's target for the model (if several entries cover it, the one that ends last comes first); a target
   that is itself cooling down is followed to its own target, but each model only once;
3. the other members of the model's pool, its chain, and the fallbacks of the models in the chain;
4. the fallbacks of those models in the agent's chain that are cooling down.

An agent's own chain precedes the blacklist's target, because the blacklist is the same for all agents.

The choice is the first candidate that is neither cooling down nor about to be limited, has not been tried before, can
run the session and is within the day's budget. If no candidate qualifies, the model itself is used if it is only about
to be limited, and otherwise the first candidate that is only about to be limited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from ocwatchd.core.domain.chains import NO_POOLS, Chains, Members, agent_chain, ways

Listed = tuple[str, "str | None", "str | None"]
"""A target in the blacklist: model, agent, and the pool from which the model was taken."""


def _nothing(_: str) -> None:
    """Return None, which means that nothing is known against the model."""


def _no_targets(_: str) -> tuple[Listed, ...]:
    """Return an empty tuple, which means that the blacklist contains no targets."""
    return ()


class Situation:
    """The values on which a choice depends, as functions of a model's name.

    `pools` contains the members of each pool in the order in which this session uses them. `blocked` returns whether
    the model must not be used or is about to be limited; `limited` returns only whether it must not be used. `unfit`
    and `over_budget` return why the model cannot run the session or would cost too much, or None. `listed` returns the
    targets that the blacklist contains for the model; the target of the entry that ends last comes first. `agents` maps
    a model to the agent to use with it. `asker` is the session's own agent (None: unknown), whose chain comes first.
    """

    __slots__ = ("agents", "asker", "blocked", "chains", "limited", "listed", "over_budget", "pools", "unfit")

    def __init__(
        self,
        chains: Chains,
        agents: Mapping[str, str],
        blocked: Callable[[str], bool],
        limited: Callable[[str], bool],
        pools: Members = NO_POOLS,
        unfit: Callable[[str], str | None] = _nothing,
        over_budget: Callable[[str], str | None] = _nothing,
        listed: Callable[[str], Iterable[Listed]] = _no_targets,
        asker: str | None = None,
    ) -> None:
        """Store the values. `chains` must be normalized."""
        self.chains, self.agents, self.pools = chains, agents, pools
        self.blocked, self.limited, self.listed = blocked, limited, listed
        self.unfit, self.over_budget = unfit, over_budget
        self.asker = asker

    def candidates(self, asked: str) -> Iterator[Listed]:
        """Yield every model that may be used instead of `asked`, nearest first, with its agent and its pool."""
        own = agent_chain(self.asker, asked, self.chains, self.pools)
        if own is not None and not own:
            return
        mine: list[Listed] = [(name, None, pool) for name, pool in own or ()]
        onwards = (found for name, _, _ in mine if self.blocked(name) for found in self._chain(name))
        seen = {asked}
        for found in (mine, self._trail(asked), self._chain(asked), onwards):
            for name, agent, pool in found:
                if name not in seen:
                    seen.add(name)
                    yield name, agent or self.agents.get(name), pool

    def _trail(self, asked: str) -> Iterator[Listed]:
        """Yield the blacklist's targets for the model. If a target is itself cooling down, its own targets follow."""
        seen = {asked}
        waiting = [asked]
        for current in waiting:
            for target, agent, pool in self.listed(current) if self.blocked(current) else ():
                members = [(name, None, pool) for name in self.pools.get(pool or "", ())]
                for name, carrier, _ in (*members, (target, agent, pool)):
                    if name not in seen:
                        seen.add(name)
                        waiting.append(name)
                        yield name, carrier, pool

    def _chain(self, asked: str) -> Iterator[Listed]:
        return ((name, None, pool) for name, pool in ways(asked, self.chains, self.pools))


class Selection:
    """The result of a choice.

    `model` is None if no model may be used. `agent` is the agent configured for the model, and `pool` is the pool from
    which the model was taken. `passed` contains the nearer candidates that were skipped (all candidates, if there is no
    model). `refused` contains the skipped candidates that are not cooling down, each with the reason for skipping it.
    """

    __slots__ = ("agent", "model", "passed", "pool", "refused")

    def __init__(
        self,
        model: str | None,
        agent: str | None,
        pool: str | None,
        passed: Collection[str],
        refused: Collection[tuple[str, str]],
    ) -> None:
        """Store the result."""
        self.model, self.agent, self.pool = model, agent, pool
        self.passed, self.refused = tuple(passed), tuple(refused)


def select(asked: str, situation: Situation, tried: Collection[str] = ()) -> Selection:
    """Return the model to use now in place of `asked`, or `asked` itself if it is available.

    `asked` is a model or a pool. `tried` contains models that must not be used in any case, including `asked` itself if
    it has just been limited. A model that was requested by name is used regardless of its cost, but a pool's paid
    members come after its other members.
    """
    is_pool = asked in situation.pools
    own = situation.pools[asked] if is_pool else (asked,)
    if not is_pool and asked not in tried and not situation.blocked(asked):
        return Selection(asked, None, None, (), ())

    def refusal(name: str) -> str | None:
        return situation.unfit(name) or (None if name in own else situation.over_budget(name))

    def usable(name: str, excluded: Callable[[str], bool]) -> bool:
        return name not in tried and not excluded(name) and not refusal(name)

    def chosen(found: Listed, nearer: Iterable[Listed]) -> Selection:
        name, agent, pool = found
        return Selection(name, agent, pool, *_passed(nearer, situation, tried, refusal))

    skipped: list[Listed] = []
    for found in _in_order(asked, own, situation) if is_pool else situation.candidates(asked):
        if usable(found[0], situation.blocked):
            return chosen(found, skipped)
        skipped.append(found)
    if not is_pool and usable(asked, situation.limited):
        return Selection(asked, None, None, (), ())
    for index, found in enumerate(skipped):
        if usable(found[0], situation.limited):
            return chosen(found, skipped[:index])
    return Selection(None, None, None, *_passed(skipped, situation, tried, refusal))


def _in_order(asked: str, own: Collection[str], situation: Situation) -> list[Listed]:
    """Return a pool's members, followed by its fallbacks. Paid members come last among the members if the day's budget
    is spent.
    """
    return sorted(situation.candidates(asked), key=lambda row: (row[0] not in own, bool(situation.over_budget(row[0]))))


def _passed(
    nearer: Iterable[Listed],
    situation: Situation,
    tried: Collection[str],
    refusal: Callable[[str], str | None],
) -> tuple[list[str], list[tuple[str, str]]]:
    passed = [name for name, _, _ in nearer]
    free = (name for name in passed if name not in tried and not situation.blocked(name))
    return passed, [(name, why) for name in free if (why := refusal(name))]
