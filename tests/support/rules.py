"""The rules that ship, loaded once."""

from functools import cache
from importlib import resources

from ocwatchd.core.rules import RuleSet


@cache
def builtin() -> RuleSet:
    """The built-in rule set."""
    return RuleSet.load(resources.files("ocwatchd").joinpath("rules/builtin.json").read_bytes())
