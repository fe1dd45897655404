"""The language in which rules describe the wording of errors, and its compiler. Pure functions and classes.

A phrase is written in the plain form of `normalize.plain`. Five signs have a special meaning; every other character is
literal:

    (a|b|)   one of these (not nested; an empty one makes it optional)
    ~        up to 60 characters of any kind; no word is split
    *        the word may continue: `limit*` is limit, limits, limited
    #        a number
    ^        the text begins here (allowed only as the first sign)

All repetitions are bounded, so no phrase can take long to match. Each phrase is found by one of its words (`Index`), so
the cost of classifying a message depends on the message's words and not on the number of rules.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from ocwatchd.core.text.normalize import fold

KEY_LENGTH = 5
"""Length, in letters, of a key. A key is the beginning of a word, by which phrases are found. Longer keys would occur
in fewer messages, but words such as `exceed*` would then have no key.
"""

GAP_CAP = 60
"""Maximum number of characters between two words of a phrase, which is about half a sentence of a provider's text."""

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
    """Raised for a phrase that is not valid in the language."""


@lru_cache(maxsize=4096)
def compile_folded(phrase: str) -> re.Pattern[str]:
    """Return the expression of a folded phrase. Most expressions are never needed, and each takes 0.1 to 0.3 ms to
    compile, so it is compiled on first use.
    """
    anchor = r"\A\W{0,8}" if phrase.startswith("^") else ""
    tokens = _tokens(phrase)
    body = "".join(_translate(token) for token in tokens)
    before = r"(?<![a-z0-9])" if _is_word(tokens[0], 0) else ""
    after = r"(?![a-z0-9])" if _is_word(tokens[-1], -1) else ""
    return re.compile(anchor + before + body + after)


class _Phrase:
    """A folded phrase with its rank. For most texts, its literals suffice to rule out a match, and its expression is
    not needed.
    """

    __slots__ = ("_needed", "_probe", "rank", "text")

    def __init__(self, rank: int, text: str) -> None:
        """Store the phrase. Its literals are extracted on first use, because most phrases are never needed."""
        self.rank = rank
        self.text = text
        self._probe: str | None = None
        self._needed: tuple[tuple[str, ...], ...] = ()

    def occurs(self, text: str) -> bool:
        """Return whether the phrase occurs in the text. Its expression is compiled only if the literals are not
        sufficient.
        """
        if self._probe is None:
            self._needed = _needed(self.text)
            self._probe = max((parts[0] for parts in self._needed if len(parts) == 1), key=len, default="")
        # This cheap test rejects most candidates: a message has about 15 candidate phrases, and only one or two of them
        # occur in it.
        if self._probe not in text:
            return False
        # plain loops, because generators inside `all` and `any` would take twice as long as the rest of the function
        for parts in self._needed:
            for part in parts:
                if part in text:
                    break
            else:
                return False
        literal = self._needed == ((self.text,),)
        return _occurs_whole(self.text, text) if literal else compile_folded(self.text).search(text) is not None


def _needed(phrase: str) -> tuple[tuple[str, ...], ...]:
    """Return sets of literals. Every text that the folded phrase matches contains at least one literal of each set."""
    choices = [token[1:-1].split("|") if token.startswith("(") else [token] for token in _tokens(phrase)]
    return tuple(tuple(max(_LITERAL.findall(part), key=len, default="") for part in parts) for parts in choices)


def _occurs_whole(words: str, text: str) -> bool:
    """Return whether these literal words occur in the text and are not parts of longer words."""
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
    """Return whether a token begins (`end` is 0) or ends (`end` is -1) with an ASCII word. Such a word must not be part
    of a longer word in the text.
    """
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
    """Check that a phrase is valid.

    Raises:
        PhraseError: The phrase is empty, its brackets do not match, or it contains no literal.
    """
    bare = _GROUP.sub("", phrase)
    if not phrase.strip() or "(" in bare or ")" in bare:
        raise PhraseError(f"the phrase is empty, or its brackets do not match: {phrase!r}")
    if not re.search(r"\w{2}|[^\x00-\x7f]", phrase):
        raise PhraseError(f"the phrase contains no literal text: {phrase!r}")


def _key_sets(phrase: str) -> list[frozenset[str]]:
    """Return sets of keys. Every text that the phrase matches contains at least one key of each set."""
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
    """Return one key for each alternative, or an empty set if an alternative has no key. Results are cached, because
    many phrases share a few long groups.
    """
    choices = [_keys(choice, opens=opens, closes=closes) for choice in token[1:-1].split("|")]
    return frozenset(max(keys, key=len) for keys in choices) if all(choices) else frozenset()


def _keys(text: str, *, opens: bool, closes: bool) -> list[str]:
    """Return the keys of a literal piece: the first letters of its words, and its runs of characters in other scripts.

    `opens` and `closes`: whether the piece begins and ends with whole words. A word that may continue (`limit*`) has a
    key only if its known part is as long as a key.
    """
    if text.isascii() and text.isalnum():  # fast path: most alternatives are a single word
        return [text[:KEY_LENGTH]] if opens and (closes or len(text) >= KEY_LENGTH) and text not in _WEAK_KEYS else []
    keys = _FOREIGN.findall(text)
    for match in _WORDS.finditer(text):
        word, end = match.group(), match.end()
        whole = text[end] not in "*#" if end < len(text) else closes
        if (match.start() or opens) and (len(word) >= KEY_LENGTH or whole) and word not in _WEAK_KEYS:
            keys.append(word[:KEY_LENGTH])
    return keys


class Index:
    """An index of the phrases of many rules. Each phrase is found by one of its words, so the cost of `find` depends on
    the text and not on the number of rules.
    """

    __slots__ = ("_always", "_by_key", "_foreign")

    def __init__(self, entries: Iterable[tuple[int, str]]) -> None:
        """Index pairs of rank and phrase. The rank determines the order of the results of `find`. The phrases must pass
        `check`.
        """
        phrases = [_Phrase(rank, fold(text)) for rank, text in entries]
        sets = [_key_sets(phrase.text) for phrase in phrases]
        uses = Counter(key for several in sets for keys in several for key in keys)
        self._always: list[_Phrase] = []
        self._by_key: dict[str, list[_Phrase]] = {}
        for phrase, several in zip(phrases, sets, strict=True):
            self._add(phrase, several, uses)
        self._foreign = [key for key in self._by_key if not key.isascii()]

    def _add(self, phrase: _Phrase, sets: list[frozenset[str]], uses: Counter[str]) -> None:
        if not sets:
            self._always.append(phrase)
            return
        for key in min(sets, key=lambda keys: sum(uses[key] for key in keys)):
            self._by_key.setdefault(key, []).append(phrase)

    def find(self, text: str) -> list[int]:
        """Return the ranks of the phrases that occur in a plain text, without duplicates, in ascending order."""
        found: set[int] = set()
        for phrase in self._candidates(text):
            if phrase.rank not in found and phrase.occurs(text):
                found.add(phrase.rank)
        return sorted(found)

    def _candidates(self, text: str) -> set[_Phrase]:
        found = set(self._always)
        words = _WORDS.findall(text)
        if "'" in text:  # the parts of `plan's` and `l'usage` are also words
            words += [part for word in words if "'" in word for part in word.split("'")]
        for key in self._by_key.keys() & {word[:KEY_LENGTH] for word in words}:
            found.update(self._by_key[key])
        if not text.isascii():
            for key in self._foreign:
                if key in text:
                    found.update(self._by_key[key])
        return found
