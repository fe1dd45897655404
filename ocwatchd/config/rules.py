"""The rules to classify with: the built-in ones and the user's own."""

from __future__ import annotations

from functools import cache
from importlib import resources

from ocwatchd.config.model import Config
from ocwatchd.core.rules import RuleSet


@cache
def builtin() -> RuleSet:
    """The rules that ship with ocwatchd."""
    return RuleSet.load(resources.files("ocwatchd").joinpath("rules/builtin.json").read_bytes())


def rules_for(config: Config) -> RuleSet:
    """The same, and the `errorPatterns` of the configuration."""
    return builtin().with_user_patterns(config.error_patterns)
