"""Rules that can be exchanged: a log is read on, with all it told so far, by those of an edited configuration."""

from __future__ import annotations

from typing import Protocol

from ocwatchd.core.limits import ErrorFacts, Verdict
from ocwatchd.core.rules import RuleSet


class Classifier(Protocol):
    """Says whether an error is a limit, and which."""

    def classify(self, facts: ErrorFacts) -> Verdict:
        """The verdict on one error. Never raises."""


class LiveRules:
    """A classifier whose `rules` may be exchanged while it is in use."""

    __slots__ = ("rules",)

    def __init__(self, rules: RuleSet) -> None:
        """Begin with these."""
        self.rules = rules

    def classify(self, facts: ErrorFacts) -> Verdict:
        """By the rules that hold now."""
        return self.rules.classify(facts)
