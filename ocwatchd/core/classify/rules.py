"""Decide from an error's text and codes whether the error is a limit. The rules are data. Pure functions and classes.

The module is long because a verdict depends on all weights at once. The rules, their index and the order of precedence
therefore cannot be separated.

The order of the rules in `rules/builtin.json` is their priority: the first limit rule that matches determines kind and
scope. Rules also recognize errors that are not limits, with seven weights:

    never      text that is not the provider's (a prompt, a title, a tool): overrides all other matches
    elsewhere  the limit of another service, quoted by a tool or a gateway: overrides all other matches and a status
               that was only read in the text
    supposed   a forecast, a warning or a condition: the sentence that contains it is ignored
    hard       overrides matches of later rules (context overflow)
    quotes     a quotation follows: a limit in the same text is DOUBTFUL
    doubt      the request is faulty: a limit in the same text is DOUBTFUL, unless its rule is `firm`
    soft       used only if no limit was found (authentication, a broken connection)

A conclusive status takes precedence: 429 is always a limit, 503 and 529 always mean overload, and 402 means billing or
quota. The text overrides the code in one case: the code says billing, which lasts until a user clears it, but the text
says that the provider is busy. For example, one-api sends `billing_not_active` with "the load of this group is
saturated, try again".
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache, lru_cache
from itertools import chain
from typing import Protocol

from ocwatchd.core.classify.error_details import details_from_body, details_from_text
from ocwatchd.core.classify.phrases import Index, PhraseError, check, compile_folded
from ocwatchd.core.classify.user_patterns import UserPattern
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitKind, Scope, Verdict
from ocwatchd.core.text.normalize import Words, fold, plain, read
from ocwatchd.core.text.safe_regex import pattern_fault

PATTERN_CAP = 1500
"""A rule's expressions are matched only against this number of characters at the start of a text."""

_DOMAIN = re.compile(r"[a-zA-Z0-9]\.[a-zA-Z]{2}|://")
_ADDRESS = re.compile(
    r"(?<![a-z0-9.-])(?P<host>[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){1,6})"
    r"(?P<path>/[a-z0-9-]{1,40}(?:/[a-z0-9-]{1,40})?)?"
)


class RuleError(ValueError):
    """Raised for a rule file that cannot be used. The message names the rule and the field."""


class Weight(StrEnum):
    """How strongly a rule indicates that an error is not a limit."""

    NEVER = "never"
    ELSEWHERE = "elsewhere"
    SUPPOSED = "supposed"
    HARD = "hard"
    QUOTES = "quotes"
    DOUBT = "doubt"
    SOFT = "soft"


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """One rule: phrases, codes and headers that have the same meaning.

    `kind` is None if the meaning is not a limit; `weight` is then set. A `firm` rule is certain even if the same text
    also describes a bad request; a `doubtful` rule is never certain. The raw text must contain one of the literals in
    `needs`, and none of the phrases in `unless`. A text that names one of the `hosts` matches. A rule with `corrects`
    does not prove a limit on its own. It replaces the kind of a limit in the same text if `corrects` contains that
    kind, or the id of the rule that found the limit. `together` contains groups of phrases; a short text matches if it
    contains one phrase of each group, in any order, and no other rule matches.
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
    unless: tuple[str, ...] = ()
    hosts: frozenset[str] = frozenset()
    corrects: frozenset[str] = frozenset()
    together: tuple[tuple[str, ...], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    weight: Weight | None = None
    firm: bool = False
    doubtful: bool = False
    why: str = ""

    def is_possible(self, lowered: str) -> bool:
        """Return whether the lower-case text contains one of the literals without which the rule cannot match."""
        for need in self.needs:  # a plain loop, because a generator inside `any` would take twice as long
            if need in lowered:
                return True
        return not self.needs

    def is_excluded(self, said: str) -> bool:
        """Return whether the plain text contains one of the phrases in `unless`, so that the rule does not apply."""
        return bool(self.unless) and any(compile_folded(phrase).search(said) for phrase in self.unless)

    def names_host(self, lowered: str) -> bool:
        """Return whether the text contains one of the hosts or one of their subdomains, either alone or in
        an address.
        """
        return bool(self.hosts) and any(
            not self.hosts.isdisjoint(_names_of(match)) for match in _ADDRESS.finditer(lowered)
        )

    def matches_pattern(self, text: str, lowered: str) -> bool:
        """Return whether one of the rule's expressions matches the start of a text."""
        if self.needs and not self.is_possible(lowered):
            return False
        return bool(self.regex) and _compiled(self.regex).search(text, 0, PATTERN_CAP) is not None

    def matches_headers(self, headers: Sequence[tuple[str, str]]) -> bool:
        """Return whether the response had one of the rule's headers with the value that the rule requires."""
        return any(self.headers.get(name) == value.strip().lower() for name, value in headers)


_FIELDS = frozenset(
    {"id", "kind", "scope", "firm", "doubtful", "weight", "why", "codes", "needs", "unless", "hosts", "corrects",
     "together", "headers", "phrases", "regex", "examples", "counter_examples"}
)  # fmt: skip


def rule_from(entry: object, rank: int, *, trusted: bool) -> Rule:
    """Read one rule. `trusted`: whether its phrases and expressions are known to be valid and need not be checked
    again.

    Raises:
        RuleError: A field is missing, unknown or of the wrong form.
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
        raise ValueError("needs either a kind (a limit) or a weight (not a limit)")
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
        unless=tuple(fold(text) for text in _strings(entry, "unless")),
        hosts=frozenset(text.lower() for text in _strings(entry, "hosts")),
        corrects=frozenset(_strings(entry, "corrects")),
        together=tuple(_texts("together", group) for group in _listed(entry, "together")),
        headers=_headers(entry.get("headers", {})),
        weight=weight,
        firm=entry.get("firm") is True,
        doubtful=entry.get("doubtful") is True,
        why=str(entry.get("why", "")),
    )
    if not rule.examples or not rule.counter_examples:
        raise ValueError("needs both examples and counter_examples")
    if rule.hosts and weight is not Weight.ELSEWHERE:
        raise ValueError('hosts can only be used with the weight "elsewhere"')
    if len(rule.together) > MAX_GROUPS:
        raise ValueError(f"more than {MAX_GROUPS} groups of words")
    if rule.together and (kind is None or rule.corrects):
        raise ValueError('"together" needs a kind and no "corrects"')
    if not (rule.phrases or rule.codes or rule.regex or rule.headers or rule.hosts or rule.together):
        raise ValueError("nothing to match")
    return rule


def _strings(entry: dict[str, object], key: str) -> tuple[str, ...]:
    return _texts(key, entry.get(key, []))


def _listed(entry: dict[str, object], key: str) -> list[object]:
    value = entry.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} must be a list of lists of texts")
    return value


def _texts(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item.strip() for item in value):
        raise ValueError(f"{key} must be a list of texts")
    return tuple(value)


def _headers(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("headers must map names to texts")
    return {str(name).lower(): item.lower() for name, item in value.items()}


def _try(rule: Rule) -> None:
    for phrase in (*rule.phrases, *rule.unless, *chain.from_iterable(rule.together)):
        check(fold(phrase))
    for text in rule.regex:
        fault = pattern_fault(text, cap=4000, own=True)
        if fault:
            raise ValueError(f"{fault}: {text[:60]!r}")


def _names_of(address: re.Match[str]) -> Iterator[str]:
    """Yield a host and its parent domains, each alone and with one and two parts of the path."""
    host, path = address["host"], address["path"] or ""
    first = "/".join(path.split("/")[:2])
    while "." in host:
        yield from (host, host + first, host + path)
        host = host.partition(".")[2]


@cache
def _compiled(expressions: tuple[str, ...]) -> re.Pattern[str]:
    """Return an expression that matches if any of these expressions matches.

    It is compiled on first use, because all rules together take 10 ms of CPU time and few of them are needed.
    """
    return re.compile("|".join(f"(?:{each})" for each in expressions), re.IGNORECASE)


CACHE = 256
"""Maximum number of cached verdicts. Verdicts are cached because a burst of limits repeats a few texts a thousand
times.
"""

CACHED_LENGTH = 2048
"""Maximum length of an error, in characters, whose verdict is cached. Longer errors are rare and would take up too much
memory.
"""

TOGETHER_CAP = 400
"""Maximum length, in characters, of a text in which the groups of `together` are searched for: two or three
sentences.
"""

MAX_GROUPS = 8
"""Maximum number of groups in one rule."""

_ALWAYS = {429: LimitKind.RATE_LIMIT, 503: LimitKind.OVERLOADED, 529: LimitKind.OVERLOADED, 402: LimitKind.BILLING}
_ALLOWED = {
    429: frozenset(LimitKind),
    503: frozenset({LimitKind.OVERLOADED}),
    529: frozenset({LimitKind.OVERLOADED}),
    402: frozenset({LimitKind.BILLING, LimitKind.QUOTA}),
}
_PASSING = frozenset({LimitKind.RATE_LIMIT, LimitKind.OVERLOADED})
"""Kinds of limits that end within minutes without any action."""

_SENTENCE_END = re.compile(
    r"(?<=[.!?;。！？；])\s{1,4}|[。！？；\n]|\s[·•∙|]\s|,\s(?=(?:if|when|once|unless|as soon as)\b)", re.IGNORECASE
)
_DEFAULT_SCOPE = {LimitKind.BILLING: Scope.PROVIDER, LimitKind.QUOTA: Scope.PROVIDER}
_SDK_NAMES = frozenset(
    {"AI_APICallError", "AI_RetryError", "APIError", "UnknownError", "Error", "HttpError", "HTTPError"}
)
_UNKNOWN = Verdict(Certainty.UNKNOWN, why="no rule matches this text")


@dataclass(frozen=True, slots=True)
class _Key:
    """The values on which a verdict depends, as a hashable key."""

    message: str
    name: str | None
    codes: tuple[str, ...]
    status: int | None
    headers: tuple[tuple[str, str], ...]
    body: str
    status_read: bool


_NOTHING = _Key("", None, (), None, (), "", status_read=False)
"""The key of an error that consists only of its text."""


@dataclass(frozen=True, slots=True)
class _Found:
    """The matching rules in order of priority, grouped by the part of the error that they match.

    `said`: in the provider's own text; `coded`: in the error's codes and headers; `quoted`: in text that the provider
    quotes.
    """

    said: tuple[Rule, ...]
    coded: tuple[Rule, ...]
    quoted: tuple[Rule, ...]

    def never(self) -> set[int]:
        """Return the ranks of the rules that rule out a limit."""
        return {rule.rank for rule in (*self.said, *self.coded) if rule.weight is Weight.NEVER}

    def first_limit(self, kinds: Collection[LimitKind] = frozenset(LimitKind), *, quoted: bool = False) -> Rule | None:
        """Return the limit rule of highest priority that matches the provider's own text or the error's codes, or None.
        Only limits of these kinds are considered.

        If `quoted`, text that the provider quotes is also considered. A rule with `corrects` may replace the result: a
        limit per minute is a rate limit, whatever the text calls it.
        """
        words, code = _limit(self.said, kinds), _limit(self.coded, kinds)
        first = _earlier(words, code)
        if quoted:
            first = _earlier(first, _limit(self.quoted, kinds))
        if first is None:
            return None
        if first.kind is LimitKind.BILLING and first is not words and words and words.kind in _PASSING:
            first = words
        # A kind that was determined from the text is overridden only by other text, not by a code. For example,
        # Gemini's "You exceeded your current quota" stays a quota although the id of that quota is
        # GenerateRequestsPerMinutePerProjectPerModel-FreeTier.
        for rule in self.said if first is words else (*self.said, *self.coded):
            if rule.corrects and rule.kind in kinds and (first.kind in rule.corrects or first.id in rule.corrects):
                return rule
        return first

    def no(self, weight: Weight, *, coded: bool = True) -> Rule | None:
        """Return the first rule of this weight that matches the text or, if `coded`, the codes and headers."""
        for rule in self.said:
            if rule.weight is weight:
                return rule
        for rule in self.coded if coded else ():
            if rule.weight is weight:
                return rule
        return None


class RuleSet:
    """The rules in a form that is ready to classify errors. Immutable; `classify` is cached and never raises."""

    __slots__ = (
        "_built", "_classify", "_elsewhere", "_groups", "_headers", "_limits_by_pattern", "_needs", "_numbers",
        "_own_words", "_patterned", "_supposed", "rules", "user_patterns",
    )  # fmt: skip

    def __init__(self, rules: Sequence[Rule], user_patterns: Sequence[UserPattern] = ()) -> None:
        """Store the rules, which must be in order of priority, and the user's patterns."""
        self.rules = tuple(rules)
        self.user_patterns = tuple(user_patterns)
        self._built: Index | None = None
        self._groups: Index | None = None
        self._numbers = {code: rule for rule in reversed(self.rules) for code in rule.codes}
        self._headers = {name for rule in self.rules for name in rule.headers}
        self._elsewhere = tuple(rule for rule in self.rules if rule.weight is Weight.ELSEWHERE)
        self._supposed = tuple(rule for rule in self.rules if rule.weight is Weight.SUPPOSED)
        patterned = [rule for rule in self.rules if rule.regex and rule.weight is not Weight.ELSEWHERE]
        self._limits_by_pattern = tuple(rule for rule in patterned if rule.kind)
        self._patterned = tuple(rule for rule in patterned if not rule.kind)
        self._needs = tuple({need for rule in self._limits_by_pattern for need in rule.needs or ("",)})
        # A user's pattern may match a `never` rule ("My gateway says no" reads like prose). That rule then does not
        # exclude texts in which the pattern occurs.
        self._own_words = [(pattern, self._never(pattern.text)) for pattern in self.user_patterns]
        self._classify = lru_cache(maxsize=CACHE)(self._judge)

    @classmethod
    def load(cls, raw: bytes | str, *, trusted: bool = False) -> RuleSet:
        """Read rules from JSON. `trusted`: whether to skip the check of phrases and expressions, which takes most of
        the time.

        Raises:
            RuleError: The text is not a rule file; a rule lacks examples, or a field is wrong. The message names the
                rule.
        """
        try:
            data = json.loads(raw)
        except ValueError as error:
            raise RuleError(f"the rules are not JSON: {error}") from error
        if not isinstance(data, dict) or data.get("version") != 1 or not isinstance(data.get("rules"), list):
            raise RuleError('the rules must have the form {"version": 1, "rules": […]}')
        rules = [rule_from(entry, rank, trusted=trusted) for rank, entry in enumerate(data["rules"])]
        twice = {name for name, uses in Counter(rule.id for rule in rules).items() if uses > 1}
        if twice:
            raise RuleError(f"rule ids used twice: {', '.join(sorted(twice))}")
        return cls(rules)

    def with_user_patterns(self, patterns: Sequence[str]) -> RuleSet:
        """Return these rules together with the user's patterns (`errorPatterns`).

        A pattern that could run for a long time is treated as literal text.
        """
        own = [UserPattern.of(pattern) for pattern in patterns if pattern.strip()]
        return RuleSet(self.rules, own) if own else self

    def prepare(self) -> None:
        """Build the index now, so that the classification of the first text does not have to wait for it."""
        assert self._index

    @property
    def _index(self) -> Index:
        """The index of all phrases. It is built when the first text is classified, because building it takes 40 ms of
        CPU time and a log without failures does not need it.
        """
        if self._built is None:
            self._built = Index((rule.rank, phrase) for rule in self.rules for phrase in rule.phrases)
        return self._built

    def self_check(self) -> list[str]:
        """Classify the rules' own examples. Return one error message for each example that fails."""
        return [fault for rule in self.rules for fault in self._faults(rule)]

    def classify(self, facts: ErrorDetails) -> Verdict:
        """Return the verdict on an error: whether it is a limit, and of which kind."""
        headers = tuple((name, facts.headers[name]) for name in self._headers if name in facts.headers)
        key = _Key(facts.message, facts.name, facts.codes, facts.status, headers, facts.body, facts.status_read)
        return self._classify(key) if len(key.message) + len(key.body) <= CACHED_LENGTH else self._judge(key)

    def _faults(self, rule: Rule) -> Iterable[str]:
        for example in rule.examples:
            verdict = self.classify(details_from_text(example))
            if verdict.rule != rule.id and (rule.kind is not None or verdict.certainty is not Certainty.NO):
                yield f"{rule.id}: example {example!r} matches the rule {verdict.rule} instead ({verdict.certainty})"
        for example in rule.counter_examples:
            if self.classify(details_from_text(example)).rule == rule.id:
                yield f"{rule.id}: counter-example {example!r} matches"

    def _judge(self, key: _Key) -> Verdict:
        message, codes, seen = _with_body(key)
        words = read(message)
        named = codes if key.name is None or key.name in _SDK_NAMES else (*codes, key.name)
        found = self._match(words, [plain(name) for name in named], codes, key)
        status = key.status if key.status not in (None, 200) else seen
        if status in _ALWAYS and (key.status == status or not found.no(Weight.NEVER)):
            verdict = _by_status(status, found)
            other = self._quoted_service(key, found) if key.status != status or key.status_read else None
        else:
            verdict = _by_words(found, status)
            other = self._quoted_service(key, found) if verdict.kind else None
            supposed = found.no(Weight.SUPPOSED, coded=False) if verdict.kind and not other else None
            if supposed:
                verdict = self._without_supposed(words, found, status) or _no(supposed)
            elif not other and _is_open(verdict, found, status) and len(words.said) <= TOGETHER_CAP:
                verdict = self._together(words, found) or verdict
                other = self._quoted_service(key, found) if verdict.kind else None
        if other:
            verdict = _no(other)
        user = self._by_user(words, codes, status, found)
        return user if user and verdict.certainty is not Certainty.SURE else verdict

    def _quoted_service(self, key: _Key, found: _Found) -> Rule | None:
        """Return the rule that attributes the limit to another service, or None. Such a rule matches by its phrases,
        hosts or expression.
        """
        for rule in (*found.said, *found.coded, *found.quoted):
            if rule.weight is Weight.ELSEWHERE:
                return rule
        for text in (key.message, key.body):
            # skip the search for addresses, which takes 6 µs, if there is no domain, as in most texts
            if _DOMAIN.search(text):
                lowered = text.lower()
                for rule in self._elsewhere:
                    if rule.names_host(lowered) or rule.matches_pattern(text, lowered):
                        return rule
        return None

    def _without_supposed(self, words: Words, found: _Found, status: int | None) -> Verdict | None:
        """Return the verdict without the sentences that only predict or assume a limit, or None if no limit remains."""
        sentences = [sentence for sentence in _SENTENCE_END.split(words.bare) if sentence and sentence.strip()]
        kept = [sentence for sentence in sentences if not self._is_supposed(sentence)]
        left = self._match(read("\n".join(kept)), "", (), _NOTHING)
        verdict = _by_words(_Found(left.said, found.coded, left.quoted), status)
        return verdict if verdict.kind else None

    def _together(self, words: Words, found: _Found) -> Verdict | None:
        """Return the verdict of a rule whose `together` groups all occur in the text, or None if no such rule matches
        with certainty.
        """
        if self._groups is None:
            groups = [
                (rule.rank * MAX_GROUPS + at, phrase)
                for rule in self.rules
                for at, group in enumerate(rule.together)
                for phrase in group
            ]
            self._groups = Index(groups)
        seen: dict[int, set[int]] = {}
        for number in self._groups.find(words.said):
            rank, at = divmod(number, MAX_GROUPS)
            seen.setdefault(rank, set()).add(at)
        said = [rank for rank, groups in seen.items() if len(groups) == len(self.rules[rank].together)]
        rules = self._ranked(said, words.raw.lower(), words.said)
        limit = _Found((*found.said, *rules), found.coded, found.quoted).first_limit() if rules else None
        if limit is None or limit.doubtful:
            return None
        return Verdict(Certainty.SURE, limit.kind, limit.scope, limit.id, limit.why)

    def _is_supposed(self, sentence: str) -> bool:
        said = plain(sentence)
        ranks = set(self._index.find(said))
        return any(rule.rank in ranks or rule.matches_pattern(sentence, said) for rule in self._supposed)

    def _never(self, text: str) -> set[int]:
        return self._match(read(text), "", (), _NOTHING).never()

    def _match(self, words: Words, coded: Iterable[str], codes: tuple[str, ...], key: _Key) -> _Found:
        # Each code is matched separately, because Google's RESOURCE_EXHAUSTED and GenerateRequestsPerMinute… do not
        # form a sentence.
        lowered = words.raw.lower()
        said = set(self._index.find(words.said))
        machine = {rank for code in coded for rank in self._index.find(code)}
        machine.update(self._numbers[code].rank for code in codes if code in self._numbers)
        if key.headers:
            machine.update(rule.rank for rule in self.rules if rule.matches_headers(key.headers))
        if any(need in lowered for need in self._needs):
            said.update(rule.rank for rule in self._limits_by_pattern if rule.matches_pattern(words.said, lowered))
        # a rule with a weight can change the verdict only in these cases
        if not said or any(self.rules[rank].kind for rank in said | machine):
            said.update(rule.rank for rule in self._patterned if rule.matches_pattern(words.bare, lowered))
        quoted = self._index.find(words.quoted) if words.quoted else ()
        return _Found(*(self._ranked(ranks, lowered, words.said) for ranks in (said, machine, quoted)))

    def _ranked(self, ranks: Iterable[int], lowered: str, said: str) -> tuple[Rule, ...]:
        rules = (self.rules[rank] for rank in sorted(ranks))
        return tuple(
            rule
            for rule in rules
            if (not rule.needs or rule.is_possible(lowered)) and (not rule.unless or not rule.is_excluded(said))
        )

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
    """Return the message, the codes (including those in the body), and a status that occurs only in the codes."""
    message, codes = key.message, key.codes
    seen = next((int(code) for code in codes if len(code) == 3 and code.isdigit() and code[0] in "45"), None)
    if key.body:
        inner = details_from_body(key.body)
        codes = tuple(dict.fromkeys((*codes, *inner.codes)))
        seen = seen or inner.status
        if inner.message and inner.message not in message:
            message = f"{message}\n{inner.message}" if message else inner.message
    return message, codes, seen


def _is_open(verdict: Verdict, found: _Found, status: int | None) -> bool:
    """Return whether the verdict is still undecided: no rule matches the text with certainty, and the status does not
    rule out a limit.
    """
    if status is not None and 400 <= status < 500 and status != 403:
        return False
    if found.no(Weight.DOUBT) or found.no(Weight.QUOTES) or found.no(Weight.SUPPOSED):
        return False
    if verdict.kind:
        limit = found.first_limit()
        return limit is not None and limit.doubtful
    return verdict.certainty is Certainty.UNKNOWN or all(rule.corrects for rule in found.said)


def _limit(rules: tuple[Rule, ...], kinds: Collection[LimitKind]) -> Rule | None:
    """Return the first of these rules that describes a limit of one of these kinds, or None. The rules are in order of
    priority.
    """
    for rule in rules:
        if rule.kind in kinds and not rule.corrects:
            return rule
    return None


def _earlier(one: Rule | None, other: Rule | None) -> Rule | None:
    """Return the rule with the higher priority, or None if there is none."""
    if one is None or other is None:
        return one or other
    return one if one.rank <= other.rank else other


def _by_status(status: int, found: _Found) -> Verdict:
    """Return the verdict for a status that proves a limit. The error's text and codes determine only the kind and scope
    of the limit.
    """
    rule = found.first_limit(_ALLOWED[status], quoted=True)
    kind = rule.kind if rule and rule.kind else _ALWAYS[status]
    scope = rule.scope if rule else _DEFAULT_SCOPE.get(kind, Scope.MODEL)
    return Verdict(Certainty.SURE, kind, scope, rule.id if rule else f"status-{status}", f"status {status}")


def _by_words(found: _Found, status: int | None) -> Verdict:
    """Return the verdict based on the text and the codes, for a status that is not conclusive."""
    limit, never, hard = found.first_limit(), found.no(Weight.NEVER), found.no(Weight.HARD)
    if never:
        return _no(never)
    if limit and hard and hard.rank < limit.rank:
        return _no(hard)
    if limit:
        doubt = _doubt(limit, found, status)
        certainty = Certainty.DOUBTFUL if doubt or limit.doubtful else Certainty.SURE
        why = f"the text mentions a limit, but also: {doubt.why}" if doubt else limit.why
        return Verdict(certainty, limit.kind, limit.scope, limit.id, why or "the text matches this rule")
    no = hard or found.no(Weight.QUOTES) or found.no(Weight.DOUBT) or found.no(Weight.SOFT)
    quoted = next((rule for rule in found.quoted if rule.kind is not None), None)
    if quoted and not no and status is None:
        return Verdict(Certainty.DOUBTFUL, quoted.kind, quoted.scope, quoted.id, "the text only quotes a limit")
    if no:
        return _no(no)
    if status is not None and 400 <= status <= 599:
        return Verdict(
            Certainty.NO, rule=f"status-{status}", why=f"status {status}, and the text does not mention a limit"
        )
    return _UNKNOWN


def _doubt(limit: Rule, found: _Found, status: int | None) -> Rule | None:
    """Return the rule that makes this limit doubtful, or None.

    Codes are less specific than texts: invalid_request_error is Mistral's code for "Service tier capacity exceeded" and
    Anthropic's code for an empty credit balance. A code therefore makes only rate limits and overload doubtful (a bad
    request may quote them), and only if the status is known.
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


class Classifier(Protocol):
    """An object that classifies errors: it decides whether an error is a limit, and of which kind."""

    def classify(self, facts: ErrorDetails) -> Verdict:
        """Return the verdict on one error. Never raises."""


class LiveRules:
    """A classifier whose `rules` may be replaced while it is in use, for example after the configuration was edited."""

    __slots__ = ("rules",)

    def __init__(self, rules: RuleSet) -> None:
        """Store the rules to use first."""
        self.rules = rules

    def classify(self, facts: ErrorDetails) -> Verdict:
        """Return the current rules' verdict on one error."""
        return self.rules.classify(facts)
