"""Gathers the facts, once, in about a second. Nothing is changed and nobody outside this machine is asked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ocwatchd.config import load
from ocwatchd.config.names import is_model, read_names
from ocwatchd.config.opencode import global_files, merged, object_in, project_files
from ocwatchd.config.reader import read_document
from ocwatchd.config.setup import config_directories, read_setup
from ocwatchd.core.chains import normalise, opened, resolve
from ocwatchd.core.views import Door
from ocwatchd.doctor.disk import (
    clock_of_ours,
    inotify_limits,
    journal_bytes,
    json_object,
    last_error,
    log_directory,
    open_modes,
    state_free,
)
from ocwatchd.doctor.unit import service
from ocwatchd.doctor.values import Agents, Configured, Daemon, Facts, Offered, Plugin, Running
from ocwatchd.errors import ConfigError, OpenCodeUnreachable
from ocwatchd.opencode import plugin_file
from ocwatchd.opencode.api import Api
from ocwatchd.opencode.doors import DoorFinder, Doors, OpenCodeProcess, ProcessTable
from ocwatchd.opencode.http import DoorError
from ocwatchd.opencode.plugin_file import PluginFault
from ocwatchd.opencode.program import version_of_program
from ocwatchd.paths import Paths
from ocwatchd.state import heartbeat
from ocwatchd.state.entries import read_entries
from ocwatchd.state.hearing import unheard

RIVALS = re.compile(r"fallback|failover|oh-my-open(code|agent)", re.IGNORECASE)
"""As in the companion plugin: the published ones all carry one of these in their names."""
OWN_AGENTS = frozenset(("build", "plan", "general", "explore", "title", "summary", "compaction"))
"""OpenCode's own (1.0 - 1.18)."""
DOORS_ASKED = 5
ASK_LIMIT = 3.0
"""Seconds for one question to a door; the list of models takes 0.1 s, in a cold 1.18 two."""


def gather(paths: Paths, program: Path | None, now: float, environ: Mapping[str, str] | None = None) -> Facts:
    """The facts about this user's home. `program`: the OpenCode that would be started."""
    environ = os.environ if environ is None else environ
    beat = heartbeat.read(paths.heartbeat)  # at once: `now` is compared with it, and what follows takes seconds
    daemon = _daemon(paths, beat, now)
    with ThreadPoolExecutor(1) as aside:  # 0.3 - 1.2 s, the longest of all
        version = aside.submit(_version, program, environ)
        config, directories, urls = _config(paths)
        found = _doors(paths, urls, environ)
        running = tuple(_running(process, found.open, paths) for process in _processes(paths))
        projects = [*_here(), *(run.directory for run in running if run.directory)]
        setup_fault, used, configs, agents = _opencode(paths, environ, projects)
        register = read_entries(paths.blacklist)
        number, fault = version.result()
    return Facts(
        now=now,
        program=str(program) if program else None,
        version=number,
        program_fault=fault,
        running=running,
        doors=len(found.open),
        door_troubles=found.troubles,
        logs=tuple(log_directory(path) for path in (paths.log_dir, *directories)),
        daemon=daemon,
        config=config,
        opencode_config_fault=setup_fault,
        used=used,
        offered=_offered(paths, configs, found.open, now),
        agents=_agents(agents, found.open),
        plugin=_plugin(paths, now),
        rivals=tuple(_rivals(paths, environ, configs)),
        service=service(paths, environ),
        open_modes=tuple(open_modes(paths)),
        inotify=inotify_limits(),
        newest_of_ours=clock_of_ours(beat, register),
        register_problems=tuple(register.problems()),
        journal_bytes=journal_bytes(paths),
        state_free=state_free(paths),
    )


def _here() -> list[str]:
    try:
        return [os.getcwd()]  # noqa: PTH109 (a name is what is wanted)
    except OSError:  # it was removed
        return []


def _version(program: Path | None, environ: Mapping[str, str]) -> tuple[str | None, str | None]:
    if program is None:
        return None, None
    try:
        return version_of_program(program, environ), None
    except OpenCodeUnreachable as fault:
        return None, str(fault)


# ---- configuration


def _config(paths: Paths) -> tuple[Configured, tuple[Path, ...], tuple[str, ...]]:
    """Ours, and the log directories and doors that it names."""
    where = str(paths.config_file)
    try:
        document = read_document(paths.config_file)
        names, config = read_names(document), load(paths)
    except ConfigError as fault:
        return Configured(where, exists=True, fault=str(fault)), (), ()
    pools = {name: pool.members for name, pool in names.pools.items()}
    chains = opened(normalise(names.chains, names.aliases), pools)
    agents = {resolve(model, names.aliases): agent for model, agent in names.agents.items()}
    warnings = tuple(text for text in config.warnings if "in a circle" not in text)  # which has a check of its own
    configured = Configured(where, document.exists, None, warnings, chains, agents, pools)
    return configured, config.logs.directories, config.doors


def _opencode(
    paths: Paths, environ: Mapping[str, str], projects: Iterable[str]
) -> tuple[str | None, tuple[str, ...], list[dict[str, object]], frozenset[str]]:
    """OpenCode's configuration: what is wrong with it, models in use, one merged object a project, agents' names."""
    files = global_files(map(str, config_directories(paths, environ)), environ)
    try:
        setup = read_setup(paths, environ)
        configs = [merged(files, environ)]
    except ConfigError as fault:
        return str(fault), (), [], frozenset()
    for project in dict.fromkeys(projects):
        with suppress(ConfigError):  # a project's own trouble is not this machine's
            configs.append(merged([*files, *project_files(project)], environ))
    named = (setup.model, *(agent.model for agent in setup.agents))
    used = tuple(dict.fromkeys(model for model in named if model and is_model(model)))
    agents = {agent.name for agent in setup.agents}
    return None, used, configs, frozenset(agents.union(*(object_in(config, "agent") for config in configs)))


def _offered(paths: Paths, configs: list[dict[str, object]], doors: Iterable[Door], now: float) -> Offered:
    catalogue_file = paths.cache_dir.parent / "opencode" / "models.json"
    catalogue = json_object(catalogue_file)
    age = None
    with suppress(OSError):
        age = now - catalogue_file.stat().st_mtime
    configured: dict[str, frozenset[str]] = {}
    for config in configs:
        for provider, value in object_in(config, "provider").items():
            models = frozenset(object_in(value, "models")) if isinstance(value, dict) else frozenset()
            configured[provider] = configured.get(provider, frozenset()) | models
    return Offered(
        by_doors=_by_doors(doors),
        configured=configured,
        catalogue={p: frozenset(object_in(v, "models")) for p, v in catalogue.items() if isinstance(v, dict)},
        catalogue_age=age,
        signed_in=frozenset(json_object(paths.opencode_data / "auth.json")),
        enabled=_enabled(configs),
        disabled=_disabled(configs),
    )


def _enabled(configs: list[dict[str, object]]) -> frozenset[str] | None:
    """What any project may use; None if one of them has no such list."""
    if not configs or not all(isinstance(config.get("enabled_providers"), list) for config in configs):
        return None
    return frozenset[str]().union(*(_names(config, "enabled_providers") for config in configs))


def _disabled(configs: list[dict[str, object]]) -> frozenset[str]:
    """What no project may use."""
    lists = [_names(config, "disabled_providers") for config in configs]
    return frozenset.intersection(*lists) if lists else frozenset()


def _names(config: Mapping[str, object], key: str) -> frozenset[str]:
    value = config.get(key)
    return frozenset(str(item) for item in value) if isinstance(value, list) else frozenset()


# ---- what runs


def _doors(paths: Paths, urls: tuple[str, ...], environ: Mapping[str, str]) -> Doors:
    return DoorFinder(paths.opencode_data, urls=urls, sockets=paths.doors, environ=environ).find()


def _processes(paths: Paths) -> list[OpenCodeProcess]:
    own = os.path.realpath(paths.opencode_data)
    return [found for found in ProcessTable()() if found.data and os.path.realpath(found.data) == own]


def _running(process: OpenCodeProcess, doors: Iterable[Door], paths: Paths) -> Running:
    about = json_object(paths.doors / f"{process.pid}.json")
    texts = {key: value for key, value in about.items() if isinstance(value, str)}
    return Running(
        pid=process.pid,
        directory=process.directory,
        opencode=texts.get("opencode"),
        plugin=texts.get("plugin"),
        door=any(door.pid == process.pid for door in doors),
        standing_back=texts.get("standing_back"),
        runs_once=process.runs_once,
    )


def _by_doors(doors: Iterable[Door]) -> dict[str, frozenset[str]]:
    offered: dict[str, frozenset[str]] = {}
    for door in list(doors)[:DOORS_ASKED]:
        with suppress(DoorError):
            for provider, models in Api(door, ASK_LIMIT).models(door.directory).items():
                offered[provider] = offered.get(provider, frozenset()) | models
    return offered


def _agents(known: frozenset[str], doors: Iterable[Door]) -> Agents:
    names, complete = known | OWN_AGENTS, False
    for door in list(doors)[:DOORS_ASKED]:
        with suppress(DoorError):
            names, complete = names | Api(door, ASK_LIMIT).agents(door.directory), True
    return Agents(names, complete)


def _daemon(paths: Paths, beat: heartbeat.Heartbeat, now: float) -> Daemon:
    state = beat.state(now)
    if state == heartbeat.State.DOWN:
        return Daemon()
    deaf = unheard(str(paths.log_dir), str(paths.cursors), beat.started, now)
    age = None if beat.beat is None else now - beat.beat
    return Daemon(state, beat.pid, age, tuple(beat.health), deaf if state == heartbeat.State.UP else None)


def _plugin(paths: Paths, now: float) -> Plugin:
    errors = last_error(paths.state_dir / "plugin-errors.log", now)
    try:
        found = plugin_file.look(paths)
    except PluginFault as fault:
        return Plugin(trouble=str(fault), last_error=errors)
    return Plugin(found.state.value, str(found.path), found.installed, found.shipped, None, errors)


def _rivals(paths: Paths, environ: Mapping[str, str], configs: list[dict[str, object]]) -> Iterable[str]:
    """Other fallback plugins: by package in OpenCode's configuration, by file in its plugin directories."""
    listed = [entry for config in configs for entry in _plugins(config)]
    for name in dict.fromkeys(name for name in listed if RIVALS.search(name) and plugin_file.NAME not in name):
        yield f"{name} in OpenCode's configuration"
    for directory in config_directories(paths, environ):
        for kind in (plugin_file.DIRECTORY, plugin_file.OTHER_DIRECTORY):
            for path in sorted((directory / kind).glob("*.[jt]s")):
                if RIVALS.search(path.name) and path.name != plugin_file.NAME:
                    yield f"{path.name} in {path.parent}"


def _plugins(config: Mapping[str, object]) -> list[str]:
    """Names as listed; an entry may be a pair of name and options."""
    value = config.get("plugin")
    entries = value if isinstance(value, list) else []
    return [str(entry[0]) if isinstance(entry, list) and entry else str(entry) for entry in entries]
