"""The rules to classify with: the built-in ones and the user's own."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from ocwatchd.config.model import Config
from ocwatchd.core.rules import RuleSet

_FILE = Path(__file__).parents[1] / "rules" / "builtin.json"
# Not importlib.resources: that imports tempfile, shutil, zipfile and random, 1 MiB and 15 CPU ms for one small file.


@cache
def builtin() -> RuleSet:
    """The rules that ship with ocwatchd."""
    return RuleSet.load(_FILE.read_bytes(), trusted=True)  # the tests load them untrusted


def rules_for(config: Config) -> RuleSet:
    """The same, and the `errorPatterns` of the configuration."""
    return builtin().with_user_patterns(config.error_patterns)
