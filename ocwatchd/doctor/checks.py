"""List all checks in output order, and check the configuration.

The checks in this module cover the configuration file itself and its chains, pools and agents. All other checks are in
`machine`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

from ocwatchd import DOCUMENTATION
from ocwatchd.config.offered_models import Answer, judge, nearest
from ocwatchd.core.domain.chains import candidates, find_cycles, models_in
from ocwatchd.doctor import machine
from ocwatchd.doctor.values import Check, Facts, Severity

INIT = "ocwatch config init --write --force"
_SHOWN = 5
"""Maximum number of names listed in a finding."""
_PROPOSED = 3
"""Maximum number of fallbacks in a proposed chain."""
_PLACEHOLDER = "provider/fallback"


def config_file(facts: Facts) -> Iterator[Check]:
    """Check that our configuration and OpenCode's can be used."""
    config = facts.config
    if config.fault:
        yield Check(
            "config-file",
            Severity.ERROR,
            config.fault,
            f"correct {config.path}; until then, ocwatchd cannot start. To list all errors: ocwatch config check",
        )
    elif not config.exists:
        yield Check("config-file", Severity.WARNING, f"{config.path} does not exist", "create it: ocwatch up")
    else:
        yield Check("config-file", Severity.OK, f"{config.path} is valid")
    if facts.opencode_config_fault:
        yield Check("opencode-config", Severity.ERROR, facts.opencode_config_fault, "correct OpenCode's configuration")


def config_keys(facts: Facts) -> Iterator[Check]:
    """Check for unknown keys and settings without effect."""
    for warning in facts.config.warnings:
        yield Check(
            "config-key", Severity.WARNING, warning, "correct or remove it; a key that begins with `//` is a comment"
        )


def chains(facts: Facts) -> Iterator[Check]:
    """Check that chains are configured, contain only models that exist, and are not circular."""
    if facts.config.fault:
        return
    pools = facts.config.pools.values()
    if not any(facts.config.chains.values()) and not any(len(members) > 1 for members in pools):
        why = facts.config.no_fallback_needed
        if why:
            yield Check("chain-none", Severity.OK, f"no fallback chain is configured, and none is needed: {why}")
            return
        severity = Severity.ERROR if facts.used else Severity.WARNING
        seen = "no fallback chain is configured, so no session can be moved"
        yield Check("chain-none", severity, seen, *_first_chain(facts))
        return
    found = [*_circles(facts), *_models(facts)]
    yield from found
    if not found:
        number = len(_named(facts))
        seen = f"OpenCode offers all configured models ({number}), and no chain is circular"
        yield Check("chain-model", Severity.OK, seen)


def _first_chain(facts: Facts) -> tuple[str, str]:
    """Return the remedy for a missing chain, and the end of the remedy that the user can copy."""
    if not facts.used:
        remedy = (
            "set `model` in opencode.json, then write a configuration (an existing file is kept under another name)"
        )
        return f"{remedy}: {INIT}", INIT
    primary, *_ = facts.used
    fallbacks = list(facts.proposed[:_PROPOSED]) or [_PLACEHOLDER]
    document = json.dumps({"rateLimit": {"fallbackChain": {primary: fallbacks, "*": [primary, *fallbacks]}}})
    choose = "" if facts.proposed else f", with another model (to list all: opencode models) instead of {_PLACEHOLDER}"
    remedy = f"write this to {facts.config.path}, beside the other keys of its `rateLimit`{choose}"
    return f"{remedy}: {document}", document


def _circles(facts: Facts) -> Iterator[Check]:
    for circle in find_cycles(facts.config.chains):
        way = " -> ".join(circle)
        remedy = (
            "remove one of these models from another's chain; until then, each chain ends before the first repetition"
        )
        yield Check("chain-circle", Severity.ERROR, f"circular chain: {way}", remedy)


def _named(facts: Facts) -> list[str]:
    """Return every configured model: first the models in chains and pools, then all other models."""
    names = [*models_in(facts.config.chains)]
    names += [member for members in facts.config.pools.values() for member in members]
    names += facts.config.named
    return [name for name in dict.fromkeys(names) if not name.endswith("*")]


def _models(facts: Facts) -> Iterator[Check]:
    unsure = []
    for model in _named(facts):
        judgement = judge(model, facts.offered)
        if judgement.answer is Answer.NO:
            near = nearest(model, facts.offered)
            meant = f" Did you mean {near[0]}?" if near else ""
            seen = f"the configuration contains {model}: {judgement.why}.{meant}".removesuffix(".")
            yield Check(
                "chain-model",
                Severity.ERROR,
                seen,
                f"correct it in {facts.config.path}; to see the line and similar names, run: ocwatch config check",
            )
        elif judgement.answer is Answer.UNSURE:
            unsure.append(model)
    if unsure:
        seen = f"{_listed(unsure)}: it is not known whether OpenCode offers {'it' if len(unsure) == 1 else 'them'}"
        yield Check(
            "chain-model",
            Severity.INFO,
            seen,
            "run `ocwatch doctor` while OpenCode is running, or compare with: opencode models",
        )


def agents(facts: Facts) -> Iterator[Check]:
    """Check that the agents named in our configuration's `agents` exist."""
    missing = {agent: model for model, agent in facts.config.agents.items() if agent not in facts.agents.names}
    for agent, model in missing.items():
        sure = facts.agents.complete
        where = "a running OpenCode process" if sure else "OpenCode's configuration"
        seen = f"there is no agent {agent} in {where}, but ocwatchd's configuration names it for {model}"
        remedy = f"correct `agents` in {facts.config.path}; to list all agents, use: opencode agent list"
        yield Check("chain-agent", Severity.ERROR if sure else Severity.WARNING, seen, remedy)
    if facts.config.agents and not missing:
        known = _listed(list(dict.fromkeys(facts.config.agents.values())))
        yield Check("chain-agent", Severity.OK, f"all agents in `agents` exist: {known}")


def models_without_fallback(facts: Facts) -> Iterator[Check]:
    """Check that every model in use has a fallback."""
    if (
        facts.config.fault
        or facts.config.no_fallback_needed
        or not (any(facts.config.chains.values()) or facts.config.pools)
    ):
        return
    targets = {
        target for chain in facts.config.chains.values() for target in chain
    }  # the last model of a chain needs no fallback
    led = [model for model in facts.used if model not in targets]
    alone = [model for model in led if next(candidates(model, facts.config.chains, facts.config.pools), None) is None]
    if alone:
        where = f"`fallbackChain` in {facts.config.path}"
        remedy = f'add a chain for each to {where}, or one for all models: "*": "{_PLACEHOLDER}"'
        yield Check("no-fallback", Severity.ERROR, f"no fallback is configured for {_listed(alone)}", remedy)
    elif led:
        yield Check("no-fallback", Severity.OK, f"a fallback is configured for {_listed(led)}")


def plan_command(facts: Facts) -> Iterator[Check]:
    """Check whether the last run of `forecast.command` failed."""
    if not facts.config.plan_command:
        return
    if facts.plan_command_problem:
        remedy = f"run it yourself and compare its output with {DOCUMENTATION}/forecast.md"
        yield Check("plan-command", Severity.WARNING, f"forecast.command: {facts.plan_command_problem}", remedy)
    else:
        yield Check("plan-command", Severity.OK, "no problem with forecast.command is known")


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


CHECKS: tuple[Callable[[Facts], Iterator[Check]], ...] = (
    machine.opencode_program,
    machine.opencode_running,
    machine.generation,
    machine.database,
    machine.daemon,
    machine.service,
    machine.logs,
    machine.endpoints,
    machine.plugin,
    machine.rivals,
    config_file,
    config_keys,
    chains,
    agents,
    models_without_fallback,
    plan_command,
    machine.file_modes,
    machine.our_files,
    machine.inotify,
    machine.clock,
)

CODES = (
    "opencode-program", "opencode-running", "opencode-generation", "opencode-database", "daemon", "daemon-health",
    "session", "service", "log-directory", "log-lines", "doors", "plugin", "plugin-errors", "rival-plugin",
    "config-file", "opencode-config", "config-key", "chain-none", "chain-circle", "chain-model", "chain-agent",
    "no-fallback", "plan-command", "file-mode", "register", "journal", "disk", "inotify", "clock",
)  # fmt: skip
"""The codes of all checks. They are a public contract, documented in docs/doctor.md."""


def examine(facts: Facts) -> list[Check]:
    """Return the results of all checks."""
    return [found for check in CHECKS for found in check(facts)]
