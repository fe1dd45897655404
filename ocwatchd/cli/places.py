"""Where our files and OpenCode's lie, as plain text: what `ocwatchd.paths` says, for commands that start at once.

`ocwatchd.paths` costs 12 CPU ms to import (pathlib, dataclasses). A test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from ocwatchd.xdg import base


def state_file(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """A file in our state directory."""
    return f"{base('XDG_STATE_HOME', '.local/state', environ)}/ocwatchd/{name}"


def opencode_directories(environ: Mapping[str, str] = os.environ) -> list[str]:
    """OpenCode's global configuration directories, the weaker first: the last one holds our own configuration."""
    usual = f"{base('XDG_CONFIG_HOME', '.config', environ)}/opencode"
    override = environ.get("OPENCODE_CONFIG_DIR", "")
    return [usual, override] if override and override != usual else [usual]


def config_file(environ: Mapping[str, str] = os.environ) -> str:
    """Our configuration."""
    return f"{opencode_directories(environ)[-1]}/rate-limit-config.json"


def data_directory(environ: Mapping[str, str] = os.environ) -> str:
    """OpenCode's data directory."""
    return f"{base('XDG_DATA_HOME', '.local/share', environ)}/opencode"
