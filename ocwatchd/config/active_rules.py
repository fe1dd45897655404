"""The rules for classifying errors: the built-in rules, and the patterns that the user has configured."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ocwatchd.config.names import ROOT
from ocwatchd.config.reader import read_document
from ocwatchd.core.classify.rules import RuleSet

if TYPE_CHECKING:
    # for type checkers only: the import takes 20 ms of CPU time
    from ocwatchd.config.model import Config

_FILE = Path(__file__).parents[1] / "rules" / "builtin.json"
# importlib.resources would import tempfile, shutil, zipfile and random: 1 MiB and 15 ms of CPU time for one small file.


@cache
def builtin() -> RuleSet:
    """Return the rules that ship with ocwatchd."""
    # skip the checks here, because a test runs all of them on this file
    return RuleSet.load(_FILE.read_bytes(), trusted=True)


def rules_for(config: Config) -> RuleSet:
    """Return the built-in rules together with the configured `errorPatterns`."""
    return builtin().with_user_patterns(config.error_patterns)


def rules_of(file: str) -> RuleSet:
    """Return the rules for this configuration file.

    A file without `errorPatterns` is parsed but not checked further, because its other settings are not needed.

    Raises:
        ConfigError: The file cannot be read, or it has `errorPatterns` and is not valid.
    """
    settings = read_document(file).data.get(ROOT)
    if not isinstance(settings, dict) or not settings.get("errorPatterns"):
        return builtin()
    from ocwatchd.config import load  # lazy import: without patterns, no other part of the configuration is needed
    from ocwatchd.paths import Paths  # lazy import: without patterns, no other part of the configuration is needed

    return rules_for(load(Paths.from_env(), Path(file)))
