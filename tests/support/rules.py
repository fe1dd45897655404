"""The built-in rules, loaded once."""

from functools import cache
from importlib import resources

from ocwatchd.core.classify.rules import RuleSet


@cache
def builtin() -> RuleSet:
    """Return the built-in rule set."""
    return RuleSet.load(resources.files("ocwatchd").joinpath("rules/builtin.json").read_bytes())
