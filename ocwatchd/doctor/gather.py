"""Gather all facts, which takes about a second. This changes no files and contacts no other machine."""

from __future__ import annotations

import os
import plistlib
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ocwatchd.config import load
from ocwatchd.config.coverage import models_in_use, named_models
from ocwatchd.config.known_models import recent_models
from ocwatchd.config.names import needs_no_fallback, read_names
from ocwatchd.config.offered_models import read_offered
from ocwatchd.config.opencode_config import global_files, merged, object_in, project_files
from ocwatchd.config.opencode_setup import OWN_AGENTS, config_directories, read_setup
from ocwatchd.config.reader import read_document
from ocwatchd.config.starter import starter_for
from ocwatchd.core.domain.chains import Chains, normalise, opened, resolve
from ocwatchd.core.domain.snapshot import Endpoint
from ocwatchd.doctor.disk import (
    inotify_limits,
    journal_bytes,
    json_object,
    last_error,
    log_directory,
    newest_time,
    open_modes,
    state_free,
)
from ocwatchd.doctor.values import Agents, Configured, Daemon, Facts, Plugin, Running, Service
from ocwatchd.errors import ConfigError, OpenCodeUnreachable
from ocwatchd.opencode.client.connect import client_of
from ocwatchd.opencode.client.request import EndpointError
from ocwatchd.opencode.discovery.earlier import EarlierProcess, earlier_processes
from ocwatchd.opencode.discovery.endpoints import (
    GENERATION_LIMIT,
    EndpointFinder,
    Endpoints,
    OpenCodeProcess,
    ProcessTable,
    generations,
)
from ocwatchd.opencode.discovery.plugin_sockets import hooks_in
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.opencode.plugin.install import PluginFault
from ocwatchd.opencode.process.program import ProgramVersion, about_program
from ocwatchd.opencode.sessions.message_store import taken_over_by_v2
from ocwatchd.ownership import read_followed
from ocwatchd.paths import Paths, config_home
from ocwatchd.service.find import manager_for
from ocwatchd.service.values import NoManager
from ocwatchd.state import heartbeat, quota_command
from ocwatchd.state.blacklist.format import read_entries
from ocwatchd.state.read_progress import unread_log

FILE_CAP = 1 << 20
"""Maximum size of a unit or property list, in bytes."""


def service(paths: Paths, environ: Mapping[str, str]) -> Service:
    """Return the service file for systemd or launchd, and whether the program that it starts exists."""
    config = Path(config_home(environ, str(paths.home)))
    places = (config / "systemd/user/ocwatchd.service", paths.home / "Library/LaunchAgents/dev.ocwatchd.plist")
    for file in places:
        try:
            content = read_followed(file, FILE_CAP)
        except OSError:
            continue
        program = _from_plist(content) if file.suffix == ".plist" else _from_unit(content)
        return Service(str(file), program, program is None or os.access(program, os.X_OK))
    manager = manager_for(paths, environ)
    return Service(unserved=manager.reason if isinstance(manager, NoManager) else None)


def _from_unit(content: bytes) -> str | None:
    for line in content.decode(errors="replace").splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "ExecStart":
            try:
                words = shlex.split(value)
            except ValueError:
                return None
            return words[0].lstrip("@-:+!") if words else None
    return None


def _from_plist(content: bytes) -> str | None:
    try:
        arguments = plistlib.loads(content).get("ProgramArguments")
    except (ValueError, AttributeError, plistlib.InvalidFileException):
        return None
    return str(arguments[0]) if isinstance(arguments, list) and arguments else None


RIVALS = re.compile(r"fallback|failover|oh-my-open(code|agent)", re.IGNORECASE)
"""Parts of the names of published fallback plugins. The companion plugin contains the same list."""
MAX_ENDPOINTS = 5
"""Maximum number of endpoints that are queried for models and agents."""
REQUEST_TIMEOUT = 3.0
"""Timeout, in seconds, for a request to an endpoint. The list of models takes 0.1 s; in 1.18, it takes 2 s shortly
after OpenCode's start.
"""


def gather(paths: Paths, program: Path | None, now: float, environ: Mapping[str, str] | None = None) -> Facts:
    """Return the facts about this user's home. `program` is the installed OpenCode."""
    environ = os.environ if environ is None else environ
    # The heartbeat is read first, because it is compared with `now`, and gathering the other facts takes seconds.
    beat = heartbeat.read(paths.heartbeat)
    daemon = _daemon(paths, beat, now)
    with ThreadPoolExecutor(1) as executor:  # in parallel, because the version takes longest (0.3 - 1.2 s)
        version = executor.submit(_version, program, environ)
        config, directories, urls = _config(paths)
        found = _endpoints(paths, urls, environ)
        newer = frozenset(status.pid for status in found.statuses if status.generation == 2)
        earlier = {one.pid: one for one in earlier_processes(paths)}
        running = tuple(
            _running(process, found.open, paths, newer, earlier.get(process.pid)) for process in _processes(paths)
        )
        projects = [*_here(), *(run.directory for run in running if run.directory)]
        setup_fault, used, proposed, configs, agents = _opencode(paths, environ, projects, config.chains)
        blacklist = read_entries(paths.blacklist)
        about, fault = version.result()
    return Facts(
        now=now,
        program=str(program) if program else None,
        version=about.number if about else None,
        program_fault=fault,
        generation=about.generation if about else 1,
        running=running,
        migrated=str(taken_over_by_v2(paths.opencode_data) or "") or None,
        endpoints=len(found.open),
        endpoint_troubles=found.troubles,
        endpoint_statuses=tuple(status.as_json() for status in found.statuses),
        logs=tuple(log_directory(path) for path in (paths.log_dir, *directories)),
        daemon=daemon,
        config=config,
        opencode_config_fault=setup_fault,
        used=used,
        proposed=proposed,
        offered=replace(read_offered(paths, configs), by_endpoints=_by_endpoints(found.open)),
        agents=_agents(agents, found.open),
        plugin=_plugin(paths, now),
        rivals=tuple(_rivals(paths, environ, configs)),
        service=service(paths, environ),
        open_modes=tuple(open_modes(paths)),
        inotify=inotify_limits(),
        newest_time=newest_time(beat, blacklist),
        blacklist_problems=tuple(blacklist.problems()),
        plan_command_problem=asked.problem if (asked := quota_command.read(paths.allowances)) else None,
        journal_bytes=journal_bytes(paths),
        state_free=state_free(paths),
    )


def _here() -> list[str]:
    try:
        return [os.getcwd()]  # noqa: PTH109 (the name is needed)
    except OSError:  # the working directory was removed
        return []


def _version(program: Path | None, environ: Mapping[str, str]) -> tuple[ProgramVersion | None, str | None]:
    if program is None:
        return None, None
    try:
        return about_program(program, environ), None
    except OpenCodeUnreachable as fault:
        return None, str(fault)


# ---- configuration


def _config(paths: Paths) -> tuple[Configured, tuple[Path, ...], tuple[str, ...]]:
    """Return our configuration, and the additional log directories and endpoints that it names."""
    where = str(paths.config_file)
    try:
        document = read_document(paths.config_file)
        names, config = read_names(document), load(paths)
    except ConfigError as fault:
        return Configured(where, exists=True, fault=str(fault)), (), ()
    pools = {name: pool.members for name, pool in names.pools.items()}
    chains = opened(normalise(names.chains, names.aliases), pools)
    agents = {resolve(model, names.aliases): agent for model, agent in names.agents.items()}
    # Warnings about circular chains are left out, because a separate check reports them.
    warnings = tuple(text for text in config.warnings if "circular chain" not in text)
    named = tuple(model for _, model in named_models(names))
    asks = bool(config.policy.prevention.command)
    why = needs_no_fallback(document)
    configured = Configured(where, document.exists, None, warnings, chains, agents, pools, asks, named, why)
    return configured, config.logs.directories, config.endpoints


def _opencode(
    paths: Paths, environ: Mapping[str, str], projects: Iterable[str], chains: Chains
) -> tuple[str | None, tuple[str, ...], tuple[str, ...], list[dict[str, object]], frozenset[str]]:
    """Return the fault in OpenCode's configuration, the models in use, the fallbacks to propose for the first of them,
    the merged configurations, and agent names.

    The first merged configuration is the global configuration. All others belong to projects.
    """
    files = global_files(map(str, config_directories(paths, environ)), environ)
    try:
        setup = read_setup(paths, environ)
        configs = [merged(files, environ)]
    except ConfigError as fault:
        return str(fault), (), (), [], frozenset()
    for project in dict.fromkeys(projects):
        with suppress(ConfigError):  # a fault in one project does not affect the others
            configs.append(merged([*files, *project_files(project)], environ))
    used = models_in_use(setup, recent_models(paths), chains)
    proposed = starter_for(replace(setup, model=used[0])).targets if used else ()
    agents = {agent.name for agent in setup.agents}
    return None, used, proposed, configs, frozenset(agents.union(*(object_in(config, "agent") for config in configs)))


# ---- running processes


def _endpoints(paths: Paths, urls: tuple[str, ...], environ: Mapping[str, str]) -> Endpoints:
    finder = EndpointFinder(
        paths.opencode_data, urls=urls, sockets=paths.endpoints, environ=environ, state=paths.opencode_state
    )
    finder.find(GENERATION_LIMIT)
    finder.find_late()
    return finder.last()


def _processes(paths: Paths) -> list[OpenCodeProcess]:
    own = os.path.realpath(paths.opencode_data)
    return generations(found for found in ProcessTable()() if found.data and os.path.realpath(found.data) == own)


def _running(
    process: OpenCodeProcess,
    endpoints: Iterable[Endpoint],
    paths: Paths,
    newer: frozenset[int | None],
    earlier: EarlierProcess | None,
) -> Running:
    """Return the facts about an OpenCode process. `newer` contains the pids of the processes that have identified
    themselves as OpenCode 2.
    """
    about = json_object(paths.endpoints / f"{process.pid}.json")
    texts = {key: value for key, value in about.items() if isinstance(value, str)}
    return Running(
        pid=process.pid,
        directory=process.directory,
        opencode=texts.get("opencode"),
        plugin=texts.get("plugin"),
        endpoint=any(endpoint.pid == process.pid for endpoint in endpoints),
        standing_back=texts.get("standing_back"),
        runs_once=process.runs_once,
        generation=2 if process.pid in newer else process.generation,
        listens=bool(process.listeners),
        place=earlier.place if earlier else "",
        why=earlier.why if earlier else "",
        remedy=earlier.remedy if earlier else "",
        again=earlier.again if earlier else "",
        hooks=hooks_in(paths.endpoints, process.pid),
    )


def _by_endpoints(endpoints: Iterable[Endpoint]) -> dict[str, frozenset[str]]:
    offered: dict[str, frozenset[str]] = {}
    for endpoint in list(endpoints)[:MAX_ENDPOINTS]:
        with suppress(EndpointError):
            for provider, models in client_of(endpoint, limit=REQUEST_TIMEOUT).models(endpoint.directory).items():
                offered[provider] = offered.get(provider, frozenset()) | models
    return offered


def _agents(known: frozenset[str], endpoints: Iterable[Endpoint]) -> Agents:
    names, complete = known | OWN_AGENTS, False
    for endpoint in list(endpoints)[:MAX_ENDPOINTS]:
        with suppress(EndpointError):
            names, complete = names | client_of(endpoint, limit=REQUEST_TIMEOUT).agents(endpoint.directory), True
    return Agents(names, complete)


def _daemon(paths: Paths, beat: heartbeat.Heartbeat, now: float) -> Daemon:
    state = beat.state(now)
    if state == heartbeat.State.DOWN:
        return Daemon()
    stalled = unread_log(str(paths.log_dir), str(paths.cursors), beat.started, now)
    age = None if beat.beat is None else now - beat.beat
    unread = stalled if state == heartbeat.State.UP else None
    return Daemon(state, beat.pid, age, tuple(beat.health), unread, tuple(_waiting(beat.sessions)))


def _waiting(sessions: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, str, str]]:
    """Yield the id, the phrase and the command of each waiting session whose phrase ends with an `ocwatch` command for
    the user.
    """
    for one in sessions:
        phrase, marked, command = str(one.get("phrase", "")).rpartition(": ocwatch ")
        if marked:
            yield str(one.get("session", "?")), phrase, command


def _plugin(paths: Paths, now: float) -> Plugin:
    errors = last_error(paths.state_dir / "plugin-errors.log", now)
    try:
        found = plugin_file.find_plugin(paths)
    except PluginFault as fault:
        return Plugin(trouble=str(fault), last_error=errors)
    return Plugin(found.state.value, str(found.path), found.installed, found.shipped, None, errors)


def _rivals(paths: Paths, environ: Mapping[str, str], configs: list[dict[str, object]]) -> Iterable[str]:
    """Yield other fallback plugins: packages in OpenCode's configuration, and files in its plugin directories."""
    listed = [entry for config in configs for entry in _plugins(config)]
    for name in dict.fromkeys(name for name in listed if RIVALS.search(name) and plugin_file.NAME not in name):
        yield f"{name} in OpenCode's configuration"
    for directory in config_directories(paths, environ):
        for kind in (plugin_file.DIRECTORY, plugin_file.OTHER_DIRECTORY):
            for path in sorted((directory / kind).glob("*.[jt]s")):
                if RIVALS.search(path.name) and path.name != plugin_file.NAME:
                    yield f"{path.name} in {path.parent}"


def _plugins(config: Mapping[str, object]) -> list[str]:
    """Return the names of the plugins in a configuration. An entry may be a pair of a name and options."""
    value = config.get("plugin")
    entries = value if isinstance(value, list) else []
    return [str(entry[0]) if isinstance(entry, list) and entry else str(entry) for entry in entries]
