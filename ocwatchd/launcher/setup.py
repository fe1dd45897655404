"""The user's OpenCode as it would start now: its merged configuration, its agents, the session that would go on.

What costs to import (Markdown agents, the message store) is imported only where there is something to read with it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ocwatchd.config.opencode import global_files, merged, project_files
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.launcher.transform import Agents, agents_of

if TYPE_CHECKING:
    from ocwatchd.opencode.records import Message

RECENT = 30 * 86400.0
"""Seconds back for the session that `--continue` means."""

_AGENT_DIRECTORIES = ("agent", "agents", "mode", "modes")


def read(
    arguments: Arguments, directories: Sequence[str], environ: Mapping[str, str]
) -> tuple[dict[str, object], Agents, list[Message]]:
    """Configuration, agents, and the last messages of the session that goes on.

    Raises:
        ConfigError: OpenCode's configuration cannot be read.
    """
    project = environ.get("PWD") or os.getcwd()
    files = [*global_files(directories[:1], environ), *project_files(project), *global_files(directories[1:], {})]
    config = merged(files, environ)
    agents = agents_of(config, _markdown_agents([*directories, f"{project}/.opencode"]), environ)
    return config, agents, _earlier(arguments, project) if arguments.continues else []


def last_model(messages: Sequence[Message]) -> str | None:
    """The one that the session was on."""
    last = next((message for message in reversed(messages) if message.model), None)
    return str(last.model) if last else None


def _markdown_agents(directories: Sequence[str]) -> dict[str, tuple[str | None, bool]]:
    holding = [place for place in directories if any(os.path.isdir(f"{place}/{name}") for name in _AGENT_DIRECTORIES)]
    if not holding:
        return {}
    from pathlib import Path

    from ocwatchd.config.setup import markdown_agents

    found = markdown_agents(tuple(map(Path, holding)))
    return {agent.name: (agent.model, agent.leads) for agent in found}


def _earlier(arguments: Arguments, project: str) -> list[Message]:
    import time

    from ocwatchd.opencode.sessions import SessionStore
    from ocwatchd.paths import Paths

    store = SessionStore(Paths.from_env().opencode_data)
    session = arguments.session
    if session is None:
        here = (s for s in store.recent(time.time() - RECENT) if s.directory == project and s.parent is None)
        latest = next(here, None)
        session = latest.id if latest else None
    return store.messages(session) if session else []
