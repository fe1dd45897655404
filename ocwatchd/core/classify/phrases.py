"""The small language in which rules name words, and its compiler. Pure.

A phrase is written in the plain form of `words.plain`. Five signs have a meaning, everything else is literal:

    (a|b|)   one of these (not nested; an empty one makes it optional)
    ~        up to 60 characters of anything, words left whole
    *        the word may go on: `limit*` is limit, limits, limited
    #        a number
    ^        the text begins here (first sign only)

There is no repetition but these bounded ones, so a phrase cannot be made to run long. Phrases are found by one word
each (`Index`), so that a message costs what its own words cost and not what all rules together cost.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache

from ocwatchd.core.words import fold

KEY_LENGTH = 5
"""Letters of a word by which phrases are found: long enough to be rare, short enough for `exceed*`."""

GAP_CAP = 60
"""Characters between two words that still belong together: half a sentence of provider prose."""

_TOKEN = re.compile(r"\([^()]{0,800}\)|[~*#]|[^()~*#]+")
_LITERAL = re.compile(r"[^~*#]+")
_SPACED_GAP = re.compile(r" ?~ ?")
_WORDS = re.compile(r"[a-z0-9']+")
_GROUP = re.compile(r"\([^()]{0,800}\)")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_WEAK_KEYS = frozenset(
    {"a", "an", "and", "any", "are", "at", "be", "been", "by", "can", "do", "for", "from", "has", "have", "in", "is",
     "it", "its", "no", "not", "of", "on", "or", "out", "per", "the", "this", "to", "was", "with", "you", "your"}
)  # fmt: skip


class PhraseError(ValueError):
    """A phrase that the language does not know."""


@lru_cache(maxsize=4096)
def compile_folded(phrase: str) -> re.Pattern[str]:
    """The expression of a folded phrase, compiled on first use: most are never needed, and each costs 0.1-0.3 ms."""
    anchor = r"\A\W{0,8}" if phrase.startswith("^") else ""
    tokens = _tokens(phrase)
    body = "".join(_translate(token) for token in tokens)
    before = r"(?<![a-z0-9])" if _is_word(tokens[0], 0) else ""
    after = r"(?![a-z0-9])" if _is_word(tokens[-1], -1) else ""
    return re.compile(anchor + before + body + after)


@lru_cache(maxsize=4096)
def _needed(phrase: str) -> tuple[tuple[str, ...], ...]:
    """Of each of these one is in every text that a folded phrase matches."""
    choices = [token[1:-1].split("|") if token.startswith("(") else [token] for token in _tokens(phrase)]
    return tuple(tuple(max(_LITERAL.findall(part), key=len, default="") for part in parts) for parts in choices)


@lru_cache(maxsize=4096)
def _probe(phrase: str) -> str:
    """The longest literal that is in every text a folded phrase matches; empty if there is none."""
    return max((parts[0] for parts in _needed(phrase) if len(parts) == 1), key=len, default="")


def _occurs(phrase: str, text: str) -> bool:
    """Whether the phrase's expression finds something, which is compiled only where the words alone do not tell."""
    if _probe(phrase) not in text:  # most end here: of some 30 candidates of a message one or two occur
        return False
    needed = _needed(phrase)
    for parts in needed:  # generators inside of `all` and `any` would take twice the time of all the rest
        for part in parts:
            if part in text:
                break
        else:
            return False
    return _stands_in(phrase, text) if needed == ((phrase,),) else compile_folded(phrase).search(text) is not None


def _stands_in(words: str, text: str) -> bool:
    """Whether literal words stand somewhere in the text that are no parts of longer ones."""
    opens, closes = _is_word(words, 0), _is_word(words, -1)
    at = text.find(words)
    while at >= 0:
        before, after = text[max(at - 1, 0) : at], text[at + len(words) : at + len(words) + 1]
        if not ((opens and before in _LETTERS) or (closes and after in _LETTERS)):
            return True
        at = text.find(words, at + 1)
    return False


def _tokens(phrase: str) -> list[str]:
    return _TOKEN.findall(_SPACED_GAP.sub("~", phrase.removeprefix("^")))


def _is_word(token: str, end: int) -> bool:
    """Whether a token begins (0) or ends (-1) with an ASCII word, which must then not be part of a longer one."""
    if token.startswith("("):
        return any(choice and choice[end].isascii() and choice[end].isalnum() for choice in token[1:-1].split("|"))
    return token[end] == "#" or (token[end].isascii() and token[end].isalnum())


def _translate(part: str) -> str:
    if part == "~":
        return rf"(?:\W(?:.{{0,{GAP_CAP}}}?\W)?|(?<=[^\x00-\x7f]).{{0,{GAP_CAP}}}?(?=[^\x00-\x7f]))"
    if part == "*":
        return r"\w{0,24}"
    if part == "#":
        return r"\d[\d,.]{0,15}"
    if part.startswith("("):
        return "(?:" + "|".join(_inside_group(choice) for choice in part[1:-1].split("|")) + ")"
    return re.escape(part)


def _inside_group(choice: str) -> str:
    return "".join(_translate(token) for token in _TOKEN.findall(choice))


def check(phrase: str) -> None:
    """Say what is wrong with a phrase.

    Raises:
        PhraseError: it is empty, its brackets do not match, or nothing in it is literal.
    """
    bare = _GROUP.sub("", phrase)
    if not phrase.strip() or "(" in bare or ")" in bare:
        raise PhraseError(f"brackets of the phrase do not match: {phrase!r}")
    if not re.search(r"\w{2}|[^\x00-\x7f]", phrase):
        raise PhraseError(f"nothing literal in the phrase: {phrase!r}")


def _key_sets(phrase: str) -> list[frozenset[str]]:
    """Sets of keys; of each set at least one key is in every text that the phrase matches."""
    tokens = _tokens(phrase)
    sets: list[frozenset[str]] = []
    for at, token in enumerate(tokens):
        opens = at == 0 or not _is_word(tokens[at - 1], -1)
        closes = at + 1 == len(tokens) or not (tokens[at + 1] == "*" or _is_word(tokens[at + 1], 0))
        if token.startswith("("):
            choices = _group_keys(token, opens=opens, closes=closes)
            if choices:
                sets.append(choices)
        else:
            sets += [frozenset({key}) for key in _keys(token, opens=opens, closes=closes)]
    return sets


@lru_cache(maxsize=512)
def _group_keys(token: str, *, opens: bool, closes: bool) -> frozenset[str]:
    """One key of each choice; empty if a choice has none. Remembered: a few long groups stand in many phrases."""
    choices = [_keys(choice, opens=opens, closes=closes) for choice in token[1:-1].split("|")]
    return frozenset(max(keys, key=len) for keys in choices) if all(choices) else frozenset()


def _keys(text: str, *, opens: bool, closes: bool) -> list[str]:
    """The keys of a literal piece: the first letters of its words, and its runs of other scripts.

    `opens` and `closes` say that the piece begins and ends with whole words. A word that may go on (`limit*`) is a key
    only if its known part is as long as a key.
    """
    if text.isascii() and text.isalnum():  # a single word, as most choices are
        return [text[:KEY_LENGTH]] if opens and (closes or len(text) >= KEY_LENGTH) and text not in _WEAK_KEYS else []
    keys = _FOREIGN.findall(text)
    for match in _WORDS.finditer(text):
        word, end = match.group(), match.end()
        whole = text[end] not in "*#" if end < len(text) else closes
        if (match.start() or opens) and (len(word) >= KEY_LENGTH or whole) and word not in _WEAK_KEYS:
            keys.append(word[:KEY_LENGTH])
    return keys


class Index:
    """Phrases of many rules, found by one word of each. `find` costs by the words of the text, not by the rules."""

    __slots__ = ("_always", "_by_key", "_foreign")

    def __init__(self, entries: Iterable[tuple[int, str]]) -> None:
        """Take `(rank, phrase)` pairs; the rank orders what `find` yields. The phrases have to pass `check`."""
        folded = [(rank, fold(phrase)) for rank, phrase in entries]
        sets = [_key_sets(phrase) for _, phrase in folded]
        uses = Counter(key for several in sets for keys in several for key in keys)
        self._always: list[tuple[int, str]] = []
        self._by_key: dict[str, list[tuple[int, str]]] = {}
        for (rank, phrase), several in zip(folded, sets, strict=True):
            self._add(rank, phrase, several, uses)
        self._foreign = [key for key in self._by_key if not key.isascii()]

    def _add(self, rank: int, phrase: str, sets: list[frozenset[str]], uses: Counter[str]) -> None:
        if not sets:
            self._always.append((rank, phrase))
            return
        for key in min(sets, key=lambda keys: sum(uses[key] for key in keys)):
            self._by_key.setdefault(key, []).append((rank, phrase))

    def find(self, text: str) -> Iterator[int]:
        """The ranks whose phrases occur in a plain text, lowest first, each once."""
        seen = -1
        for rank, phrase in sorted(self._candidates(text)):
            if rank != seen and _occurs(phrase, text):
                seen = rank
                yield rank

    def _candidates(self, text: str) -> set[tuple[int, str]]:
        found = set(self._always)
        for key in self._by_key.keys() & {word[:KEY_LENGTH] for word in _WORDS.findall(text)}:
            found.update(self._by_key[key])
        if not text.isascii():
            for key in self._foreign:
                if key in text:
                    found.update(self._by_key[key])
        return found
