"""One rule and how it is read from data. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache

from ocwatchd.core.limits import LimitKind, Scope
from ocwatchd.core.patterns import pattern_fault
from ocwatchd.core.phrases import PhraseError, check
from ocwatchd.core.words import fold

PATTERN_CAP = 1500
"""Characters of a text that expressions of rules look at: they judge how a text begins."""


class RuleError(ValueError):
    """A rule file that cannot be used; the message names the rule and the field."""


class Weight(StrEnum):
    """How strongly a rule says that something is no limit."""

    NEVER = "never"
    HARD = "hard"
    QUOTES = "quotes"
    DOUBT = "doubt"
    SOFT = "soft"


@dataclass(frozen=True, slots=True)
class Rule:
    """Words of one meaning. `kind` is None for what is no limit; then `weight` says how strongly.

    `firm` words are clear even beside words of a bad request; `doubtful` ones never are clear. `needs` are literals of
    which the raw text must hold one.
    """

    id: str
    rank: int
    kind: LimitKind | None
    scope: Scope
    phrases: tuple[str, ...]
    examples: tuple[str, ...]
    counter_examples: tuple[str, ...]
    codes: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    weight: Weight | None = None
    firm: bool = False
    doubtful: bool = False
    why: str = ""

    def is_possible(self, lowered: str) -> bool:
        """Whether the text holds one of the literals without which the rule cannot match."""
        return not self.needs or any(need in lowered for need in self.needs)

    def matches_pattern(self, text: str, lowered: str) -> bool:
        """Whether one of the expressions matches the start of a text."""
        return self.is_possible(lowered) and any(_compiled(each).search(text, 0, PATTERN_CAP) for each in self.regex)

    def matches_headers(self, headers: Sequence[tuple[str, str]]) -> bool:
        """Whether one of the rule's headers was sent with the rule's value."""
        return any(self.headers.get(name) == value.strip().lower() for name, value in headers)


_FIELDS = frozenset(
    {"id", "kind", "scope", "firm", "doubtful", "weight", "why", "codes", "needs", "headers", "phrases", "regex",
     "examples", "counter_examples"}
)  # fmt: skip


def rule_from(entry: object, rank: int, *, trusted: bool) -> Rule:
    """Read one rule. `trusted`: its phrases and expressions were tried before, and need not be again.

    Raises:
        RuleError: a field is missing, unknown or of the wrong form.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise RuleError(f"rule {rank + 1} has no id")
    name = entry["id"]
    unknown = entry.keys() - _FIELDS
    if unknown:
        raise RuleError(f"rule {name}: unknown fields {', '.join(sorted(unknown))}")
    try:
        rule = _rule(entry, name, rank)
        if not trusted:
            _try(rule)
    except (PhraseError, ValueError, TypeError) as error:
        raise RuleError(f"rule {name}: {error}") from error
    return rule


def _rule(entry: dict[str, object], name: str, rank: int) -> Rule:
    kind = None if entry.get("kind") is None else LimitKind(str(entry["kind"]))
    weight = None if entry.get("weight") is None else Weight(str(entry["weight"]))
    if (kind is None) == (weight is None):
        raise ValueError("either a kind (a limit) or a weight (no limit) is needed")
    rule = Rule(
        id=name,
        rank=rank,
        kind=kind,
        scope=Scope(str(entry.get("scope", "model"))),
        phrases=_strings(entry, "phrases"),
        examples=_strings(entry, "examples"),
        counter_examples=_strings(entry, "counter_examples"),
        codes=_strings(entry, "codes"),
        regex=_strings(entry, "regex"),
        needs=tuple(fold(text) for text in _strings(entry, "needs")),
        headers=_headers(entry.get("headers", {})),
        weight=weight,
        firm=entry.get("firm") is True,
        doubtful=entry.get("doubtful") is True,
        why=str(entry.get("why", "")),
    )
    if not rule.examples or not rule.counter_examples:
        raise ValueError("both examples and counter_examples are needed")
    if not (rule.phrases or rule.codes or rule.regex or rule.headers):
        raise ValueError("nothing to match")
    return rule


def _strings(entry: dict[str, object], key: str) -> tuple[str, ...]:
    value = entry.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(value)


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("headers must map names to texts")
    return {str(name).lower(): item.lower() for name, item in value.items()}


def _try(rule: Rule) -> None:
    for phrase in rule.phrases:
        check(fold(phrase))
    for text in rule.regex:
        fault = pattern_fault(text, cap=4000, own=True)
        if fault:
            raise ValueError(f"{fault}: {text[:60]!r}")


@cache
def _compiled(text: str) -> re.Pattern[str]:
    """Compiled with the first message to judge: 10 CPU ms for all, and few are ever needed."""
    return re.compile(text, re.IGNORECASE)
