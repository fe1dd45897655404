"""Decide by its words whether an error is a limit: rules as data, one verdict. Pure.

The order of the rules in `rules/builtin.json` is their priority: the first rule of a limit that matches names kind and
scope. What is no limit is told by rules, too, in five weights:

    never    not a provider's words (a prompt, a title, a tool): wins over every other word
    hard     wins over the words of rules further down (context overflow)
    quotes   somebody else's text follows: words of a limit beside these are DOUBTFUL
    doubt    the request is faulty: words of a limit beside these are DOUBTFUL, unless their rule is `firm`
    soft     only said where no limit was found (authentication, a broken connection)

A status decides first where it can: 429 is always a limit, 503 and 529 always mean overload, 402 billing or quota.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from ocwatchd.core.facts import facts_from_body, facts_from_text
from ocwatchd.core.limits import Certainty, ErrorFacts, LimitKind, Scope, Verdict
from ocwatchd.core.phrases import Index
from ocwatchd.core.rule import Rule, RuleError, Weight, rule_from
from ocwatchd.core.userpatterns import UserPattern
from ocwatchd.core.words import Words, plain, read

CACHE = 256
"""Verdicts kept: a limit storm repeats a few texts a thousand times."""

CACHED_LENGTH = 2048
"""Characters of an error whose verdict is kept; longer ones are rare and would fill the memory."""

_ALWAYS = {429: LimitKind.RATE_LIMIT, 503: LimitKind.OVERLOADED, 529: LimitKind.OVERLOADED, 402: LimitKind.BILLING}
_ALLOWED = {
    429: frozenset(LimitKind),
    503: frozenset({LimitKind.OVERLOADED}),
    529: frozenset({LimitKind.OVERLOADED}),
    402: frozenset({LimitKind.BILLING, LimitKind.QUOTA}),
}
_DEFAULT_SCOPE = {LimitKind.BILLING: Scope.PROVIDER, LimitKind.QUOTA: Scope.PROVIDER}
_SDK_NAMES = frozenset(
    {"AI_APICallError", "AI_RetryError", "APIError", "UnknownError", "Error", "HttpError", "HTTPError"}
)
_UNKNOWN = Verdict(Certainty.UNKNOWN, why="no rule knows these words")


@dataclass(frozen=True, slots=True)
class _Key:
    """What a verdict depends on, hashable."""

    message: str
    name: str | None
    codes: tuple[str, ...]
    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class _Found:
    """The rules that match, by where their words stand, in order of priority."""

    said: tuple[Rule, ...]
    coded: tuple[Rule, ...]
    quoted: tuple[Rule, ...]

    def never(self) -> set[int]:
        """The ranks of the rules that forbid to call this a limit."""
        return {rule.rank for rule in (*self.said, *self.coded) if rule.weight is Weight.NEVER}

    def first_limit(self) -> Rule | None:
        """The limit of highest priority, in the provider's own words or its machine words."""
        limits = [rule for rule in (*self.coded, *self.said) if rule.kind is not None]
        return min(limits, key=lambda rule: rule.rank, default=None)

    def no(self, weight: Weight, *, coded: bool = True) -> Rule | None:
        """The first rule of a weight that says no limit, in the words or (if `coded`) in the machine words, too."""
        rules = (*self.said, *self.coded) if coded else self.said
        return next((rule for rule in rules if rule.weight is weight), None)


class RuleSet:
    """The rules, ready to classify. Immutable; `classify` is cached and never raises."""

    __slots__ = ("_built", "_classify", "_headers", "_numbers", "_own_words", "_patterned", "rules", "user_patterns")

    def __init__(self, rules: Sequence[Rule], user_patterns: Sequence[UserPattern] = ()) -> None:
        """Take rules in order of priority."""
        self.rules = tuple(rules)
        self.user_patterns = tuple(user_patterns)
        self._built: Index | None = None
        self._numbers = {code: rule for rule in reversed(self.rules) for code in rule.codes}
        self._headers = {name for rule in self.rules for name in rule.headers}
        self._patterned = tuple(rule for rule in self.rules if rule.regex)
        # "My gateway says no" reads like prose: a rule that the person's own words set off does not speak against them.
        self._own_words = [(pattern, self._never(pattern.text)) for pattern in self.user_patterns]
        self._classify = lru_cache(maxsize=CACHE)(self._judge)

    @classmethod
    def load(cls, raw: bytes | str, *, trusted: bool = False) -> RuleSet:
        """Read rules from JSON. `trusted`: phrases and expressions are not tried, which takes most of the time.

        Raises:
            RuleError: the text is no rule file; a rule lacks examples, or a field is wrong. The message names the rule.
        """
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise RuleError(f"the rules are not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("version") != 1 or not isinstance(data.get("rules"), list):
            raise RuleError('the rules need the form {"version": 1, "rules": […]}')
        rules = [rule_from(entry, rank, trusted=trusted) for rank, entry in enumerate(data["rules"])]
        twice = {rule.id for rule in rules if sum(other.id == rule.id for other in rules) > 1}
        if twice:
            raise RuleError(f"rule ids used twice: {', '.join(sorted(twice))}")
        return cls(rules)

    def with_user_patterns(self, patterns: Sequence[str]) -> RuleSet:
        """The same rules and the user's own (`errorPatterns`); one that could run long is taken as literal text."""
        own = [UserPattern.of(pattern) for pattern in patterns if pattern.strip()]
        return RuleSet(self.rules, own) if own else self

    def prepare(self) -> None:
        """Make now what the first text to judge would wait for."""
        assert self._index

    @property
    def _index(self) -> Index:
        """Made with the first text to judge: 40 CPU ms that a log without failures need not pay."""
        if self._built is None:
            self._built = Index((rule.rank, phrase) for rule in self.rules for phrase in rule.phrases)
        return self._built

    def self_check(self) -> list[str]:
        """What the rules' own examples say against them, one sentence each; empty if all behave."""
        return [fault for rule in self.rules for fault in self._faults(rule)]

    def classify(self, facts: ErrorFacts) -> Verdict:
        """Say whether an error is a limit, and which."""
        headers = tuple((name, facts.headers[name]) for name in self._headers if name in facts.headers)
        key = _Key(facts.message, facts.name, facts.codes, facts.status, headers, facts.body)
        return self._classify(key) if len(key.message) + len(key.body) <= CACHED_LENGTH else self._judge(key)

    def _faults(self, rule: Rule) -> Iterable[str]:
        for example in rule.examples:
            verdict = self.classify(facts_from_text(example))
            if verdict.rule != rule.id and (rule.kind is not None or verdict.certainty is not Certainty.NO):
                yield f"{rule.id}: example {example!r} goes to {verdict.rule} ({verdict.certainty})"
        for example in rule.counter_examples:
            if self.classify(facts_from_text(example)).rule == rule.id:
                yield f"{rule.id}: counter-example {example!r} matches"

    def _judge(self, key: _Key) -> Verdict:
        message, codes, seen = _with_body(key)
        words = read(message)
        named = codes if key.name is None or key.name in _SDK_NAMES else (*codes, key.name)
        found = self._match(words, plain(" ; ".join(named)) if named else "", codes, key)
        status = key.status if key.status not in (None, 200) else seen
        if status in _ALWAYS and (key.status == status or not found.no(Weight.NEVER)):
            return _by_status(status, found)
        verdict = _by_words(found, status)
        user = self._by_user(words, codes, status, found)
        return user if user and verdict.certainty is not Certainty.SURE else verdict

    def _never(self, text: str) -> set[int]:
        return self._match(read(text), "", (), _Key(text, None, (), None, (), "")).never()

    def _match(self, words: Words, coded: str, codes: tuple[str, ...], key: _Key) -> _Found:
        lowered = words.raw.lower()
        said = set(self._index.find(words.said))
        machine = set(self._index.find(coded)) if coded else set()
        machine.update(self._numbers[code].rank for code in codes if code in self._numbers)
        if key.headers:
            machine.update(rule.rank for rule in self.rules if rule.matches_headers(key.headers))
        if not said or any(self.rules[rank].kind for rank in said | machine):  # where it could change the verdict
            said.update(rule.rank for rule in self._patterned if rule.matches_pattern(words.bare, lowered))
        quoted = self._index.find(words.quoted) if words.quoted else ()
        return _Found(*(self._ranked(ranks, lowered) for ranks in (said, machine, quoted)))

    def _ranked(self, ranks: Iterable[int], lowered: str) -> tuple[Rule, ...]:
        return tuple(rule for rank in sorted(ranks) if (rule := self.rules[rank]).is_possible(lowered))

    def _by_user(self, words: Words, codes: tuple[str, ...], status: int | None, found: _Found) -> Verdict | None:
        never = found.never()
        for pattern, own in self._own_words:
            where = None if never - own else pattern.find(words, codes, status)
            if where is None:
                continue
            doubtful = where == "quoted" or found.no(Weight.DOUBT) is not None
            if doubtful and found.no(Weight.DOUBT) and where == "quoted":
                continue
            certainty = Certainty.DOUBTFUL if doubtful else Certainty.SURE
            return Verdict(
                certainty, LimitKind.RATE_LIMIT, Scope.MODEL, "user-pattern", f"your pattern {pattern.text!r}"
            )
        return None


def _with_body(key: _Key) -> tuple[str, tuple[str, ...], int | None]:
    """Message and codes with what only the body says, and a status that only the machine words name."""
    message, codes = key.message, key.codes
    seen = next((int(code) for code in codes if len(code) == 3 and code.isdigit() and code[0] in "45"), None)
    if key.body:
        inner = facts_from_body(key.body)
        codes = tuple(dict.fromkeys((*codes, *inner.codes)))
        seen = seen or inner.status
        if inner.message and inner.message not in message:
            message = f"{message}\n{inner.message}" if message else inner.message
    return message, codes, seen


def _by_status(status: int, found: _Found) -> Verdict:
    """The verdict where the status says limit, and the words only which."""
    rules = sorted({*found.coded, *found.said, *found.quoted}, key=lambda rule: rule.rank)
    rule = next((rule for rule in rules if rule.kind in _ALLOWED[status]), None)
    kind = rule.kind if rule and rule.kind else _ALWAYS[status]
    scope = rule.scope if rule else _DEFAULT_SCOPE.get(kind, Scope.MODEL)
    return Verdict(Certainty.SURE, kind, scope, rule.id if rule else f"status-{status}", f"status {status}")


def _by_words(found: _Found, status: int | None) -> Verdict:
    """The verdict of the words, where the status alone proves nothing."""
    limit, never, hard = found.first_limit(), found.no(Weight.NEVER), found.no(Weight.HARD)
    if never:
        return _no(never)
    if limit and hard and hard.rank < limit.rank:
        return _no(hard)
    if limit:
        doubt = _doubt(limit, found, status)
        certainty = Certainty.DOUBTFUL if doubt or limit.doubtful else Certainty.SURE
        why = f"words of a limit beside: {doubt.why}" if doubt else limit.why
        return Verdict(certainty, limit.kind, limit.scope, limit.id, why or "the words name it")
    no = hard or found.no(Weight.QUOTES) or found.no(Weight.DOUBT) or found.no(Weight.SOFT)
    quoted = next((rule for rule in found.quoted if rule.kind is not None), None)
    if quoted and not no and status is None:
        return Verdict(Certainty.DOUBTFUL, quoted.kind, quoted.scope, quoted.id, "the words stand in a quotation")
    if no:
        return _no(no)
    if status is not None and 400 <= status <= 599:
        return Verdict(Certainty.NO, rule=f"status-{status}", why=f"status {status} and no words of a limit")
    return _UNKNOWN


def _doubt(limit: Rule, found: _Found, status: int | None) -> Rule | None:
    """What makes the words of a limit doubtful, if anything does.

    Codes are coarser than words: Mistral calls "Service tier capacity exceeded" an invalid_request_error, Anthropic an
    empty credit balance. They count only against the two kinds that a bad request may quote, and only in a known 4xx.
    """
    if limit in found.coded:
        return None
    quotes = found.no(Weight.QUOTES)
    if quotes or limit.firm:
        return quotes
    quotable = limit.kind in (LimitKind.RATE_LIMIT, LimitKind.OVERLOADED)
    return found.no(Weight.DOUBT, coded=quotable and status is not None)


def _no(rule: Rule) -> Verdict:
    return Verdict(Certainty.NO, rule=rule.id, why=rule.why)
