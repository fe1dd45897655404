"""The rules to classify with: the built-in ones and the user's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ocwatchd.config.names import ROOT
from ocwatchd.config.reader import read_document
from ocwatchd.core.rules import RuleSet

if TYPE_CHECKING:
    from ocwatchd.config.model import Config  # 20 CPU ms with all it brings, for whoever needs the rules alone

_FILE = Path(__file__).parents[1] / "rules" / "builtin.json"
# Not importlib.resources: that imports tempfile, shutil, zipfile and random, 1 MiB and 15 CPU ms for one small file.


@cache
def builtin() -> RuleSet:
    """The rules that ship with ocwatchd."""
    return RuleSet.load(_FILE.read_bytes(), trusted=True)  # the tests load them untrusted


def rules_for(config: Config) -> RuleSet:
    """The same, and the `errorPatterns` of the configuration."""
    return builtin().with_user_patterns(config.error_patterns)


def rules_of(file: str) -> RuleSet:
    """The same for this configuration file. One without `errorPatterns` is not looked at any further.

    Raises:
        ConfigError: it cannot be read; or it has such patterns, and cannot be used.
    """
    settings = read_document(file).data.get(ROOT)
    if not isinstance(settings, dict) or not settings.get("errorPatterns"):
        return builtin()
    from ocwatchd.config import load
    from ocwatchd.paths import Paths

    return rules_for(load(Paths.from_env(), Path(file)))
