"""Find the installed OpenCode program: the one that `oc-smart` would start."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from ocwatchd.cli.commands.run import configured_program
from ocwatchd.config.reader import read_document
from ocwatchd.errors import ConfigError
from ocwatchd.launcher.find import find_opencode
from ocwatchd.paths import config_file


def installed_opencode() -> Path | None:
    """Return the configured program, or else the first `opencode` on PATH that is not our script. Return None if there
    is no such program.
    """
    try:
        configured = configured_program(read_document(config_file()))
    except ConfigError:  # `ocwatch doctor` reports this error
        configured = None
    scripts = (sys.argv[0], str(Path(sys.argv[0]).with_name("oc-smart")))
    found = find_opencode(os.environ.get("PATH", os.defpath), scripts, configured)
    return Path(found).absolute() if found else None
