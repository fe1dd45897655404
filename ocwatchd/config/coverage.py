"""Find gaps in a valid configuration: models in use without a fallback, and models that do not exist.

If a model without a usable fallback is limited, its sessions cannot be moved. The heartbeat contains both lists, so
that `status` can report them without reading OpenCode's files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ocwatchd.config.known_models import cached_catalogue, catalogue_file, recent_models
from ocwatchd.config.names import AGENTS, ALIASES, CHAIN, POOLS, Names, is_model, needs_no_fallback, read_names
from ocwatchd.config.offered_models import Answer, judge, named_by_opencode, read_offered
from ocwatchd.config.opencode_setup import Setup, read_setup
from ocwatchd.config.reader import read_document
from ocwatchd.core.domain.chains import Chains, agent_chain, candidates, models_in, normalise
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths

NO_CHAINS: Chains = {}
CHECK_INTERVAL = 60.0
"""Interval, in seconds, between checks of an unchanged configuration."""
READ_TIMEOUT = 30.0
"""Timeout, in seconds, for the process that reads OpenCode's list of models (usually 0.1 s)."""


def models_in_use(setup: Setup, recent: Iterable[str] = (), chains: Chains = NO_CHAINS) -> tuple[str, ...]:
    """Return OpenCode's default model, the models of agents that are not subagents, and the `recent` models.

    The model of an agent that has its own chain in `chains` is omitted, because the agent needs no other fallback.
    """
    agents = (agent for agent in setup.agents if agent.leads and agent.model)
    led = (agent.model for agent in agents if not agent_chain(agent.name, agent.model or "", chains))
    named = (setup.model, *led, *recent)
    return tuple(dict.fromkeys(model for model in named if model and is_model(model)))


def without_fallback(used: Iterable[str], names: Names) -> list[str]:
    """Return the models in use that have no fallback. A model that is itself a fallback needs none."""
    chains = normalise(names.chains, names.aliases)
    pools = {name: pool.members for name, pool in names.pools.items()}
    targets = {target for chain in chains.values() for target in chain}
    return [model for model in used if model not in targets and next(candidates(model, chains, pools), None) is None]


def uncovered(paths: Paths, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return the models in use in this home directory that have no fallback but need one.

    The list is empty if a configuration cannot be read. Other checks report that error.
    """
    try:
        document = read_document(paths.config_file)
        if needs_no_fallback(document):
            return []
        setup = read_setup(paths, os.environ if environ is None else environ)
        names = read_names(document)
    except ConfigError:
        return []
    chains = normalise(names.chains, names.aliases)
    return without_fallback(models_in_use(setup, recent_models(paths), chains), names)


def named_models(names: Names) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield, for each configured model, its path of keys below `rateLimit` and the model. No model is yielded twice."""
    seen = set[str]()
    chains = [((CHAIN, key), name) for key, chain in names.chains.items() for name in models_in({key: chain})]
    members = [((POOLS, key), member) for key, pool in names.pools.items() for member in pool.members]
    aliases = [((ALIASES, key), model) for key, model in names.aliases.items()]
    for path, name in (*chains, *members, *aliases, *(((AGENTS, key), key) for key in names.agents)):
        if is_model(name) and not name.endswith("/*") and name not in seen:
            seen.add(name)
            yield path, name


def _whole_catalogue(paths: Paths, _: Collection[str]) -> dict[str, frozenset[str]]:
    return {provider: frozenset(models) for provider, models in cached_catalogue(paths).items()}


def unknown_models(
    paths: Paths,
    environ: Mapping[str, str] | None = None,
    projects: Iterable[str] = (),
    catalogue_of: Callable[[Paths, Collection[str]], Mapping[str, frozenset[str]]] = _whole_catalogue,
) -> list[str]:
    """Return the models in ocwatchd's configuration that OpenCode does not offer, according to the rules of `config
    check`.

    `projects` contains directories whose OpenCode configuration may define additional models. `catalogue_of` returns
    OpenCode's cached list, which contains the names of all providers, but the models of only the given providers. It is
    called only if a name is in no OpenCode configuration. The result is empty if ocwatchd's configuration cannot be
    read. Other checks report that error.
    """
    environ = os.environ if environ is None else environ
    try:
        named = [model for _, model in named_models(read_names(read_document(paths.config_file)))]
    except ConfigError:
        return []
    own = named_by_opencode(paths)
    offered = read_offered(paths, environ=environ, projects=projects, catalogue={})
    doubtful = [name for name in named if name not in own and judge(name, offered).answer is not Answer.YES]
    if not doubtful:
        return []
    whole = replace(offered, catalogue=catalogue_of(paths, {name.partition("/")[0] for name in doubtful}))
    return [name for name in doubtful if judge(name, whole).answer is Answer.NO]


class ConfigurationGaps:
    """Repeatedly checks for models in use without a fallback, and for configured models that OpenCode does
    not offer.
    """

    def __init__(
        self, paths: Paths, submit: Callable[[str, Callable[[], None]], None], projects: Callable[[], Iterable[str]]
    ) -> None:
        """Initialize the checks; there are no results yet. `submit` runs slow work on another thread; its first
        argument names the work.

        `projects` returns directories whose OpenCode configuration may define models.
        """
        self._paths, self._submit, self._projects = paths, submit, projects
        self._uncovered: tuple[float, list[str]] = (float("-inf"), [])
        self._checked_at, self._files, self._unknown = float("-inf"), (0, 0), list[str]()

    def check_again(self) -> None:
        """Repeat all checks on the next call, because the configuration has changed."""
        self._uncovered, self._checked_at = (float("-inf"), []), float("-inf")

    def without_fallback(self, now: float) -> list[str]:
        """Return the models in use that have no fallback. The result is at most CHECK_INTERVAL seconds old."""
        if abs(now - self._uncovered[0]) >= CHECK_INTERVAL:
            self._uncovered = now, uncovered(self._paths)
        return self._uncovered[1]

    def unknown_models(self, now: float) -> list[str]:
        """Return the configured models that OpenCode did not offer at the last check, and start another check if one is
        due.

        If the last check found such models, the next check is due after CHECK_INTERVAL seconds; otherwise, it is due
        when a file changes.
        """
        if abs(now - self._checked_at) >= CHECK_INTERVAL:
            files = _changed(self._paths.config_file), _changed(catalogue_file(self._paths))
            if self._unknown or files != self._files:
                self._submit("checking model names", self._check)
            self._checked_at, self._files = now, files
        return self._unknown

    def _check(self) -> None:
        with suppress(OSError, ValueError):  # if the list cannot be read, the result of the last check is kept
            self._unknown = unknown_models(self._paths, projects=self._projects(), catalogue_of=_read_elsewhere)


def _changed(path: Path) -> int:
    """Return the file's modification time in nanoseconds, or -1 if the file does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return -1


def _read_elsewhere(paths: Paths, providers: Collection[str]) -> Mapping[str, frozenset[str]]:
    """Return the models of these providers in OpenCode's cached list, and the names of all others, without models.

    The list is read by another process, because reading its 2 MB in this process would permanently increase the memory
    use by 9 to 24 MB (Python 3.11).

    Raises:
        OSError, ValueError: The process could not read the list.
    """
    import json  # lazy import: `config check` does not need this module
    import subprocess

    file = catalogue_file(paths)
    if not file.exists():
        return {}
    code = "from ocwatchd.config.known_models import print_catalogue as run; run()"
    command = [sys.executable, "-P", "-c", code, str(file), *sorted(providers)]
    try:
        done = subprocess.run(command, timeout=READ_TIMEOUT, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    except subprocess.SubprocessError as fault:
        raise ValueError(str(fault)) from fault
    return {provider: frozenset(models) for provider, models in json.loads(done.stdout).items()}
