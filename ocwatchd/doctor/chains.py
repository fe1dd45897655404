"""Checks of what is configured: the file itself, and whether its chains lead anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from ocwatchd.core.chains import candidates, find_cycles
from ocwatchd.doctor.models import Answer, judge
from ocwatchd.doctor.values import Check, Facts, Severity

EXAMPLE = '"fallbackChain": {"provider/primary": "provider/fallback"}'
_SHOWN = 5


def config_file(facts: Facts) -> Iterator[Check]:
    """Can our configuration, and OpenCode's, be used?"""
    config = facts.config
    if config.fault:
        yield Check(
            "config-file", Severity.ERROR, config.fault, f"correct {config.path}; nothing runs with it as it is"
        )
    elif not config.exists:
        yield Check("config-file", Severity.WARNING, f"no {config.path}", "write a starter: ocwatch up")
    else:
        yield Check("config-file", Severity.OK, f"{config.path} can be used")
    if facts.opencode_config_fault:
        yield Check("opencode-config", Severity.ERROR, facts.opencode_config_fault, "correct OpenCode's configuration")


def config_keys(facts: Facts) -> Iterator[Check]:
    """Is there anything in it that means nothing, or is doubtful?"""
    for warning in facts.config.warnings:
        yield Check(
            "config-key", Severity.WARNING, warning, "correct or remove it; `//` before a key makes it a remark"
        )


def chains_lead_somewhere(facts: Facts) -> Iterator[Check]:
    """Do chains name models that exist, and end?"""
    if facts.config.fault:
        return
    chains = facts.config.chains
    if not any(chains.values()) and not any(len(members) > 1 for members in facts.config.pools.values()):
        yield Check("chain-none", Severity.WARNING, "no chain is configured: nothing can be moved", f"write {EXAMPLE}")
        return
    found = [*_circles(facts), *_models(facts)]
    yield from found
    if not found:
        number = len(_named(facts))
        seen = f"{number} model{'s' if number > 1 else ''} in chains and pools, all known, and no circle"
        yield Check("chain-model", Severity.OK, seen)


def _circles(facts: Facts) -> Iterator[Check]:
    for circle in find_cycles(facts.config.chains):
        way = " -> ".join(circle)
        remedy = "take one of them out of another's chain; until then the chain is cut where it closes"
        yield Check("chain-circle", Severity.ERROR, f"a chain in a circle: {way}", remedy)


def _named(facts: Facts) -> list[str]:
    """Every model that a chain or a pool names, in the order of the file."""
    chains = facts.config.chains
    names = [name for key, targets in chains.items() for name in (key, *targets)]
    names += [member for members in facts.config.pools.values() for member in members]
    return [name for name in dict.fromkeys(names) if not name.endswith("*")]


def _models(facts: Facts) -> Iterator[Check]:
    unsure = []
    for model in _named(facts):
        judgement = judge(model, facts.offered)
        if judgement.answer is Answer.NO:
            seen = f"a chain or a pool names {model}: {judgement.why}"
            yield Check(
                "chain-model", Severity.ERROR, seen, f"correct it in {facts.config.path}; `opencode models` lists all"
            )
        elif judgement.answer is Answer.UNSURE:
            unsure.append(model)
    if unsure:
        seen = f"{_listed(unsure)}: whether OpenCode offers this cannot be told from here"
        yield Check(
            "chain-model", Severity.INFO, seen, "run this while OpenCode runs, or compare with: opencode models"
        )


def agents(facts: Facts) -> Iterator[Check]:
    """Do the agents exist that are to carry models?"""
    missing = {agent: model for model, agent in facts.config.agents.items() if agent not in facts.agents.names}
    for agent, model in missing.items():
        sure = facts.agents.complete
        where = "of a running OpenCode" if sure else "in OpenCode's configuration"
        seen = f"{agent}, which is to carry {model}, is no agent {where}"
        remedy = f"correct `agents` in {facts.config.path}; `opencode agent list` lists all"
        yield Check("chain-agent", Severity.ERROR if sure else Severity.WARNING, seen, remedy)
    if facts.config.agents and not missing:
        yield Check("chain-agent", Severity.OK, f"{_listed(list(dict.fromkeys(facts.config.agents.values())))}: known")


def models_without_fallback(facts: Facts) -> Iterator[Check]:
    """Has every model that is used something that stands in for it?"""
    if facts.config.fault or not (any(facts.config.chains.values()) or facts.config.pools):
        return
    targets = {target for chain in facts.config.chains.values() for target in chain}  # a chain's end is no oversight
    led = [model for model in facts.used if model not in targets]
    alone = [model for model in led if next(candidates(model, facts.config.chains, facts.config.pools), None) is None]
    if alone:
        remedy = 'give it a chain, or a default to all: "*": "provider/fallback"'
        yield Check("no-fallback", Severity.WARNING, f"nothing stands in for {_listed(alone)}", remedy)
    elif led:
        yield Check("no-fallback", Severity.OK, f"something stands in for {_listed(led)}")


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
