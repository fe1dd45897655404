"""Read the models and agents of the user's OpenCode: the models of configured providers, and agents from JSON and
Markdown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ocwatchd.config.opencode_config import defined_agents, global_files, merged, object_in, text_of
from ocwatchd.config.reader import read_text
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths, config_home

OWN_AGENTS = frozenset(("build", "plan", "general", "explore", "title", "summary", "compaction"))
"""OpenCode's built-in agents (1.0 - 1.18)."""
AGENT_DIRECTORIES = ("agent", "agents", "mode", "modes")
AGENT_FILES_CAP = 500
LOCAL_PROVIDERS = frozenset(("ollama", "lmstudio", "lm-studio", "llama.cpp", "llamacpp", "llama-cpp", "llama-server"))

_LOOPBACK = re.compile(r"^\w+://(?:[^/@]*@)?(?:localhost|127(?:\.\d+){3}|0\.0\.0\.0|\[::1\])(?:[:/]|$)", re.IGNORECASE)
NO_CHAT = re.compile(
    r"embed|rerank|whisper|\btts\b|moderation|transcribe|dall-e|stable-diffusion|image|audio|realtime|\bsora|\bveo|live",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent defined by the user. `leads` is False for an agent that can only be a subagent (`"mode":
    "subagent"`).
    """

    name: str
    model: str | None
    description: str = ""
    leads: bool = True


@dataclass(frozen=True, slots=True)
class Offer:
    """A model that could be a fallback. `local` is True if the model runs on this machine."""

    name: str
    local: bool


@dataclass(frozen=True, slots=True)
class Setup:
    """The parts of OpenCode's configuration that are relevant to fallbacks, without API keys, headers and addresses."""

    model: str | None
    small_model: str | None
    agents: tuple[Agent, ...]
    offers: tuple[Offer, ...]


def read_setup(paths: Paths, environ: Mapping[str, str] | None = None) -> Setup:
    """Return the setup from OpenCode's global configuration and its agent files.

    Raises:
        ConfigError: OpenCode's configuration cannot be read.
    """
    environ = os.environ if environ is None else environ
    directories = config_directories(paths, environ)
    config = merged(global_files(map(str, directories), environ), environ)
    return setup_of(config, markdown_agents(directories), environ)


def setup_of(
    config: Mapping[str, object], files: tuple[Agent, ...] = (), environ: Mapping[str, str] | None = None
) -> Setup:
    """Return the setup for a merged configuration and the agents found in Markdown files."""
    environ = environ or {}
    agents = {agent.name: agent for agent in (*_config_agents(config, environ), *files)}
    default = agents.get(text_of(config, "default_agent", environ) or "build")
    return Setup(
        model=(default.model if default else None) or text_of(config, "model", environ),
        small_model=text_of(config, "small_model", environ),
        agents=tuple(agents.values()),
        offers=tuple(_offers(config, environ)),
    )


def config_directories(paths: Paths, environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Return OpenCode's global configuration directory and, if OPENCODE_CONFIG_DIR is set, the additional directory
    that it names.
    """
    usual = Path(config_home(environ, str(paths.home))) / "opencode"
    if "OPENCODE_CONFIG_DIR" not in environ:
        return (paths.opencode_config,)
    return tuple(dict.fromkeys((usual, paths.opencode_config)))


def agent_names(paths: Paths) -> tuple[str, ...]:
    """Return the names of the user's agents, or an empty tuple if OpenCode's configuration cannot be read."""
    try:
        return tuple(agent.name for agent in read_setup(paths).agents)
    except ConfigError:
        return ()


def _config_agents(config: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Agent]:
    for name, value, leads in defined_agents(config):
        description = text_of(value, "description", environ) or ""
        yield Agent(name, text_of(value, "model", environ), description, leads)


def markdown_agents(directories: tuple[Path, ...]) -> tuple[Agent, ...]:
    """Return the agents defined by Markdown files with front matter. Unreadable files are skipped."""
    agents = []
    for directory in directories:
        for kind in AGENT_DIRECTORIES:
            root = directory / kind
            for file in islice(sorted(root.rglob("*.md")), AGENT_FILES_CAP):
                agent = _markdown_agent(file, file.relative_to(root).with_suffix("").as_posix())
                if agent is not None:
                    agents.append(agent)
    return tuple(agents)


def _markdown_agent(file: Path, name: str) -> Agent | None:
    try:
        text = read_text(str(file))
    except ConfigError:
        return None
    fields = front_matter(text or "")
    if fields.get("disable") == "true":
        return None
    return Agent(name, fields.get("model"), fields.get("description", ""), fields.get("mode") != "subagent")


def front_matter(text: str) -> dict[str, str]:
    """Return the top-level scalar values in YAML front matter.

    Nested values are skipped. The lines of block scalars are joined with spaces.
    """
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    fields: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return {name: value for name, value in fields.items() if value}
        if line[:1] in (" ", "\t", ""):
            if key and line.strip():
                fields[key] = f"{fields[key]} {line.strip()}".strip()
            continue
        key, colon, value = line.partition(":")
        key = key.strip() if colon else ""
        if key:
            fields[key] = _scalar(value)
    return {}


def _scalar(value: str) -> str:
    value = value.strip()
    if value[:1] in ("'", '"'):
        return value[1:].partition(value[0])[0]
    value = re.split(r"\s#", value)[0].strip()
    return "" if value in (">", ">-", "|", "|-", "null", "~") else value


def _offers(config: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[Offer]:
    enabled, disabled = config.get("enabled_providers"), config.get("disabled_providers")
    for provider, value in object_in(config, "provider").items():
        if not isinstance(value, dict) or (isinstance(enabled, list) and provider not in enabled):
            continue
        if isinstance(disabled, list) and provider in disabled:
            continue
        local = _is_local(provider, text_of(object_in(value, "options"), "baseURL", environ))
        for model, details in object_in(value, "models").items():
            tools = details.get("tool_call") if isinstance(details, dict) else None
            if tools is not False and not NO_CHAT.search(model):  # a model without tools cannot continue a session
                yield Offer(f"{provider}/{model}", local)


def _is_local(provider: str, base_url: str | None) -> bool:
    """Return whether a provider runs on this machine, based on its address or, if it has no address, on its name."""
    if base_url is not None:
        return bool(_LOOPBACK.match(base_url))
    return provider.lower() in LOCAL_PROVIDERS
