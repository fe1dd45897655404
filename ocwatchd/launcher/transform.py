"""Before a launch, replace models that are cooling down, using only OpenCode's arguments and environment.

OPENCODE_CONFIG_CONTENT takes precedence over all configuration files and is merged with the user's own value of this
variable (1.0 to 1.18). No file is changed. If a configuration cannot be read, the launch is not changed, and OpenCode
reports the fault.

The module reads the same configuration, agents and continued session as OpenCode would. It imports the costly modules
for Markdown agents and for the message store only if there is something to read.

The generation of a program is cached, because determining it takes 0.3 to 0.7 s. It is not cached for a version
manager's shim, because the program behind an unchanged shim can change.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ocwatchd.config.names import Names
from ocwatchd.config.opencode_config import (
    DEFAULT_AGENT,
    defined_agents,
    global_files,
    merged,
    project_files,
    text_of,
)
from ocwatchd.config.reader import parse
from ocwatchd.core.domain.chains import Fallbacks, agent_chain
from ocwatchd.core.fallback.selection import Selection
from ocwatchd.errors import ConfigError
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.ownership import make_directories, read_followed
from ocwatchd.state.blacklist.query import CooldownTable
from ocwatchd.state.safe_read import StateError, read_plain, replace_unsynced

if TYPE_CHECKING:
    from ocwatchd.opencode.sessions.messages import Message


CONTENT = "OPENCODE_CONFIG_CONTENT"
KEPT_AGENTS = frozenset(("plan", "general", "explore"))
"""OpenCode's own agents with fewer permissions. Only their model is changed, not the agent itself."""


class Plan:
    """The changes for one launch.

    `words` contains OpenCode's arguments, `environ` the variables to set, and `story` the lines for standard error. If
    this launch's model and all its fallbacks are cooling down, `exhausted` contains them, the launch's own model first.
    """

    __slots__ = ("environ", "exhausted", "story", "words")

    def __init__(self, words: Sequence[str]) -> None:
        """Initialize a plan without changes. `words` contains OpenCode's arguments."""
        self.words = list(words)
        self.environ: dict[str, str] = {}
        self.story: list[str] = []
        self.exhausted: list[str] = []


class Agents:
    """The models of the user's agents, and the names of the agents (`subordinate`) that are never replaced, because
    they are subagents or have fewer permissions.
    """

    __slots__ = ("models", "subordinate")

    def __init__(self, models: Mapping[str, str | None], subordinate: frozenset[str] = frozenset()) -> None:
        """`models` maps each agent's name to its model."""
        self.models = models
        self.subordinate = subordinate | KEPT_AGENTS


class Transform:
    """Computes the changes for one launch."""

    def __init__(
        self,
        names: Names,
        cooldowns: CooldownTable,
        config: Mapping[str, object],
        agents: Agents,
        environ: Mapping[str, str],
    ) -> None:
        """`config` is OpenCode's merged configuration."""
        self._names, self._cooldowns, self._config, self._agents = names, cooldowns, config, agents
        self._environ = environ
        self.fallbacks = Fallbacks(names.chains, names.aliases, names.agents, names.pools, agents.models)
        """The fallback chains, and the agents of models, including the user's own agents."""

    def plan(self, arguments: Arguments, fallback: bool = True, earlier: str | None = None) -> Plan:
        """Return the changes for OpenCode 1. `earlier` is the model of the continued session, if known.

        Without `fallback`, nothing is replaced, and a model that is cooling down is listed as exhausted.
        """
        plan = Plan(arguments.words)
        main = self.main_model(arguments, earlier)
        agent = self.agent(arguments)
        if main is not None and self._cooldowns.limited(main) and not (fallback and self._target(main, agent)):
            plan.exhausted = [main, *(self._choice(main, agent).passed if fallback else ())]
            return plan
        if not fallback:
            return plan
        content = self._content()
        self._explicit(arguments, plan, content)
        if content:
            merged = self._merged(content)
            if merged is not None:
                plan.environ[CONTENT] = merged
        return plan

    def plan_for_client(self, arguments: Arguments, fallback: bool = True, earlier: str | None = None) -> Plan:
        """Return the changes for a client of OpenCode 2, whose model can only be set on its command line.

        The environment is not changed, because a service started by the client would inherit it, and all clients share
        that service.
        """
        plan = Plan(arguments.words)
        main = (self.main_model(arguments, earlier) or "").partition("#")[0] or None  # `provider/model#variant`
        agent = self.agent(arguments)
        target = self._target(main, agent) if fallback else None
        if main is None or target is None:
            if main is not None and self._cooldowns.limited(main):
                plan.exhausted = [main, *(self._choice(main, agent).passed if fallback else ())]
            return plan
        if arguments.client_command in ("run", "mini"):
            plan.words = arguments.with_model(target[0]) if arguments.model else arguments.adding_model(target[0])
            plan.story.append(self._line(main, target[0], by=agent))
        elif arguments.client_command == "":
            entry = self._cooldowns.blocking(main)
            until = until_words(entry.end) if entry else ""
            plan.story.append(f"{main} is limited {until}: choose another model in OpenCode, for example {target[0]}")
        return plan

    def main_model(self, arguments: Arguments, earlier: str | None = None) -> str | None:
        """Return the model with which OpenCode would start, or None if the model is unknown."""
        if arguments.model:
            return arguments.model
        if arguments.agent and self._agents.models.get(arguments.agent):
            return self._agents.models[arguments.agent]
        if arguments.continues:
            return earlier
        agent = self.agent(arguments)
        if arguments.agent is None and self._agents.models.get(agent):
            return self._agents.models[agent]
        return text_of(self._config, "model", self._environ)

    def agent(self, arguments: Arguments) -> str:
        """Return the agent with which OpenCode would start."""
        return arguments.agent or text_of(self._config, "default_agent", self._environ) or DEFAULT_AGENT

    # ---- parts

    def _content(self) -> dict[str, object]:
        """Return a configuration in which fallbacks replace the configured models that are cooling down."""
        content: dict[str, object] = {}
        for key in ("model", "small_model"):
            target = self._target(text_of(self._config, key, self._environ))
            if target:
                content[key] = target[0]
        standard = text_of(self._config, "model", self._environ)
        moved: dict[str, str | None] = {
            name: target[0]
            for name, model in self._agents.models.items()
            if (target := self._target(model or self._own(name, standard), name))
        }
        moved |= {
            name: target[0]
            for name in (DEFAULT_AGENT, *sorted(KEPT_AGENTS))
            if name not in self._agents.models and (target := self._target(self._own(name, standard), name))
        }
        if "model" in content:  # agents whose chain is empty or exhausted must not inherit the fallback
            unmoved = (name for name in (*self._agents.models, DEFAULT_AGENT, *KEPT_AGENTS) if name not in moved)
            moved |= {n: standard for n in unmoved if not self._agents.models.get(n) and self._own(n, standard)}
        if moved:
            content["agent"] = {name: {"model": model} for name, model in sorted(moved.items())}
        return content

    def _explicit(self, arguments: Arguments, plan: Plan, content: dict[str, object]) -> None:
        """Replace the model and the agent on the command line of this launch.

        If the model comes from the configuration, it is replaced in the configuration, and only the agent is set on the
        command line.
        """
        agent, main = self.agent(arguments), None if arguments.continues else self.main_model(arguments)
        named = arguments.model or (self._agents.models.get(arguments.agent) if arguments.agent else None)
        target = self._target(named or main, agent)
        if target is None or (named is None and arguments.subcommand not in ("", "run")):
            return
        carrier = self._carrier(arguments, target[1])
        if arguments.model:
            plan.words = arguments.with_model(target[0])
        if carrier:
            plan.words = Arguments(plan.words).with_agent(carrier)
            if not arguments.model and self._agents.models[carrier] != target[0]:
                agents = content.setdefault("agent", {})
                if isinstance(agents, dict):
                    agents[carrier] = {"model": target[0]}
        if arguments.model:
            plan.story.append(self._line(arguments.model, target[0], by=agent))
        elif named or carrier:
            plan.story.append(self._line(named or main or "", target[0], agent if named else None, by=agent))

    def _own(self, agent: str, model: str | None) -> str | None:
        """Return `model` (the default model) if this agent has its own chain for that model; otherwise, return None."""
        pools = self._cooldowns.pools
        own = None if model is None else agent_chain(agent, model, self.fallbacks.chains, pools)
        return model if own is not None else None

    def _carrier(self, arguments: Arguments, carrier: str | None) -> str | None:
        """Return the agent to use with the fallback, or None if the launch keeps its agent.

        An agent with fewer permissions is kept. The agent of a continued session is also kept, because it is unknown.
        """
        own = self.agent(arguments)
        unknown = arguments.continues and arguments.agent is None
        kept = unknown or own in self._agents.subordinate or carrier == own
        return carrier if not kept and carrier in self._agents.models else None

    def _target(self, model: str | None, agent: str | None = None) -> tuple[str, str | None] | None:
        """Return the fallback for prompts that `agent` sends to `model`, as (model, agent). Return None if the model is
        available, or if no fallback is available.
        """
        if model is None or not self._cooldowns.blocked(model):
            return None
        found = self._choice(model, agent)
        return None if found.model in (None, model) else (str(found.model), found.agent)

    def _choice(self, model: str, agent: str | None = None) -> Selection:
        return self._cooldowns.select(model, self.fallbacks, agent=agent)

    def _line(self, asked: str, target: str, agent: str | None = None, by: str | None = None) -> str:
        over = "".join(f"; {name}: {why}" for name, why in self._choice(asked, by or agent).refused)
        entry = self._cooldowns.blocking(asked)
        until = until_words(entry.end) if entry else ""
        named = f" (agent {agent})" if agent else ""
        return f"{asked}{named} is limited {until}: using {target}{over}"

    def _merged(self, content: Mapping[str, object]) -> str | None:
        inline = self._environ.get(CONTENT, "")
        return merge_content(inline, content)


def merge_content(inline: str, content: Mapping[str, object]) -> str | None:
    """Return the user's inline configuration merged with `content`. Return None if the user's configuration is invalid;
    OpenCode reports that error.
    """
    try:
        own = parse(inline, CONTENT) if inline.strip() else {}
    except ConfigError:
        return None
    return json.dumps(_merge(own, content)) if isinstance(own, dict) else None


def _merge(one: Mapping[str, object], other: Mapping[str, object]) -> dict[str, object]:
    """Merge two configurations. Objects are merged recursively, and lists are appended. All other values of `other`
    replace the values of `one`.
    """
    merged = dict(one)
    for key, value in other.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[key] = _merge(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            merged[key] = [*old, *(item for item in value if item not in old)]
        else:
            merged[key] = value
    return merged


def agents_of(
    config: Mapping[str, object], files: Mapping[str, tuple[str | None, bool]], environ: Mapping[str, str]
) -> Agents:
    """Return the agents of the configuration and of `files`, which maps each Markdown agent to its model and to whether
    it is a primary agent.
    """
    models: dict[str, str | None] = {}
    below: set[str] = set()
    for name, value, leads in defined_agents(config):
        models[name] = text_of(value, "model", environ)
        if not leads:
            below.add(name)
    for name, (model, leads) in files.items():
        models[name] = model
        if not leads:
            below.add(name)
    return Agents(models, frozenset(below))


def until_words(end: float) -> str:
    """Return a phrase for the end of a cooldown: `until 14:20 (in 3m 20s)` in local time, or `until you clear it`."""
    if end == float("inf"):
        return "until you clear it"
    import time  # lazy import: only a limit needs it

    from ocwatchd.time_words import when  # lazy import: only a limit needs it

    return f"until {when(end, time.time())}"


RECENT = 30 * 86400.0
"""Maximum age, in seconds, of the session that `--continue` continues."""

_AGENT_DIRECTORIES = ("agent", "agents", "mode", "modes")


def read(
    arguments: Arguments, directories: Sequence[str], environ: Mapping[str, str]
) -> tuple[dict[str, object], Agents, list[Message]]:
    """Return OpenCode's configuration, the agents, and the last messages of the continued session.

    Raises:
        ConfigError: OpenCode's configuration cannot be read.
    """
    project = environ.get("PWD") or os.getcwd()
    files = [*global_files(directories[:1], environ), *project_files(project), *global_files(directories[1:], {})]
    config = merged(files, environ)
    agents = agents_of(config, _markdown_agents([*directories, f"{project}/.opencode"]), environ)
    return config, agents, _earlier(arguments, project) if arguments.continues else []


def last_model(messages: Sequence[Message]) -> str | None:
    """Return the model that the session used last."""
    last = next((message for message in reversed(messages) if message.model), None)
    return str(last.model) if last else None


def _markdown_agents(directories: Sequence[str]) -> dict[str, tuple[str | None, bool]]:
    holding = [place for place in directories if any(os.path.isdir(f"{place}/{name}") for name in _AGENT_DIRECTORIES)]
    if not holding:
        return {}
    from pathlib import Path

    from ocwatchd.config.opencode_setup import markdown_agents

    found = markdown_agents(tuple(map(Path, holding)))
    return {agent.name: (agent.model, agent.leads) for agent in found}


def _earlier(arguments: Arguments, project: str) -> list[Message]:
    import time

    from ocwatchd.opencode.sessions.message_store import SessionStore
    from ocwatchd.paths import Paths

    store = SessionStore(Paths.from_env().opencode_data)
    session = arguments.session
    if session is None:
        here = (s for s in store.recent(time.time() - RECENT) if s.directory == project and s.parent is None)
        latest = next(here, None)
        session = latest.id if latest else None
    return store.messages(session) if session else []


MAX_KNOWN = 20
"""Maximum number of cached programs."""
_NATIVE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
"""First bytes of native programs of Linux and macOS."""


def generation_of(program: str, cache: str) -> int | None:
    """Return a program's generation, 1 or 2, or None if the program does not report it in time. `cache` is the cache
    file.
    """
    key = _identity(program)
    known = _read(cache)
    if key is not None and known.get(key) in (1, 2):
        return known[key]
    found = _asked(program)
    if key is not None and found is not None:
        _write(cache, {**dict(list(known.items())[-MAX_KNOWN + 1 :]), key: found})
    return found


def _asked(program: str) -> int | None:
    """Run the program to determine its generation, first in a temporary HOME, and then in the user's HOME, which a shim
    may need.
    """
    from pathlib import Path  # lazy import: only the first start of a program needs it

    from ocwatchd.errors import OpenCodeUnreachable
    from ocwatchd.opencode.process.program import NoAnswer, about_program, about_program_here

    for ask in (about_program, about_program_here):  # shims, such as those of asdf, search for their program below HOME
        try:
            return ask(Path(program), os.environ).generation
        except NoAnswer:
            return None
        except OpenCodeUnreachable:
            continue
    return 1  # the configuration is invalid, and OpenCode itself reports the error


def _identity(program: str) -> str | None:
    """Return the cache key of the program, or None for a shim or an unreadable file."""
    real = os.path.realpath(program)
    try:
        about = os.stat(real)
        native = read_followed(real, 4) in _NATIVE
    except OSError:
        return None
    itself = "opencode" in os.path.basename(real).lower() and (native or "/node_modules/" in real)
    return f"{real} {about.st_dev}:{about.st_ino} {about.st_size} {about.st_ctime_ns}" if itself else None


def _read(cache: str) -> dict[str, int]:
    try:
        return dict(json.loads(read_plain(cache, 1 << 16))["programs"])
    except (OSError, StateError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def _write(cache: str, known: Mapping[str, int]) -> None:
    """Write the cache. Ignore errors, because a lost cache only costs time."""
    try:
        make_directories(os.path.dirname(cache))
        replace_unsynced(cache, json.dumps({"version": 1, "programs": known}).encode())
    except OSError:
        return
