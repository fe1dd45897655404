"""The user's own patterns (`errorPatterns`): words, a status code, or a regular expression that cannot take long to
match.
Pure functions and classes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ocwatchd.core.text.normalize import Words, plain
from ocwatchd.core.text.safe_regex import pattern_fault

TEXT_CAP = 2048
"""A user's expression is matched only against this number of characters at the start of a message."""

_LOOKS_LIKE_REGEX = re.compile(
    r"\\[dswbDSWB.]|\.[*+?]|\[[^\]]+\]|\(\?|\([^)]*\|[^)]*\)|^\^|\$$|[*+]\Z|\w\|\w|\{\d+,?\d*\}"
)

Where = Literal["said", "quoted"]


def _as_status(number: str) -> re.Pattern[str]:
    """Return an expression that matches a number used as a status: `HTTP 503`, `status code: 503`, `(503)`, `503
    Service Unavailable`.
    """
    ahead = r"\b(?:http(?:/\d(?:\.\d)?)?|status|code|error|returned|response|responded with|got)\b[\W_]{1,3}"
    behind = r"(?=$|[\])]|[:,;.](?!\d)|\s[a-z{<\"'])"
    counted = r"(?!\s(?:tokens?|ms|files?|lines?|times|tests?|items|bytes|s)\b)"
    return re.compile(rf"(?:^|(?:{ahead})|[\[(]){number}{behind}{counted}")


@dataclass(frozen=True, slots=True)
class UserPattern:
    """One of the user's patterns. `refused` is the reason why an expression is treated as literal text."""

    text: str
    literal: str | None
    regex: re.Pattern[str] | None
    status: int | None = None
    refused: str | None = None

    @classmethod
    def of(cls, text: str) -> UserPattern:
        """Interpret a pattern as a status code, literal text, or a regular expression, whichever is most likely.

        Never raises, and never returns a pattern that could take very long to match.
        """
        text = text.strip()[:TEXT_CAP]
        if re.fullmatch(r"[1-5]\d\d", text):
            return cls(text, None, _as_status(text), status=int(text))
        if not _LOOKS_LIKE_REGEX.search(text):
            return cls(text, plain(text), None)
        fault = pattern_fault(text)
        if fault:
            return cls(text, plain(text), None, refused=fault)
        return cls(text, None, re.compile(text, re.IGNORECASE))

    def find(self, words: Words, codes: tuple[str, ...], status: int | None) -> Where | None:
        """Return where the pattern occurs: in the provider's own text, only in a quotation, or nowhere."""
        if self.status is not None and (status == self.status or str(self.status) in codes):
            return "said"
        if self.literal is not None:
            coded = (plain(code) for code in codes)
            if _holds(words.said, self.literal) or any(_holds(code, self.literal) for code in coded):
                return "said"
            return "quoted" if _holds(words.quoted, self.literal) else None
        return self._search(words, codes)

    def _search(self, words: Words, codes: tuple[str, ...]) -> Where | None:
        if self.regex is None:
            return None
        said = (words.said,) if self.status is not None else (words.said, words.bare, *codes)
        if any(self.regex.search(text, 0, TEXT_CAP) for text in said):
            return "said" if self.regex.search(words.said, 0, TEXT_CAP) or not words.quoted else "quoted"
        return "quoted" if self.regex.search(words.quoted, 0, TEXT_CAP) else None


def _holds(text: str, literal: str) -> bool:
    """Return whether the literal occurs at the start of a word. The word may be longer: `limit` occurs in `limited`."""
    at = text.find(literal)
    while at >= 0:
        end = at + len(literal)
        clear = at == 0 or not (text[at - 1].isalnum() and literal[:1].isalnum())
        digits = literal[-1:].isdigit() and text[end : end + 1].isalnum()
        if clear and not digits:
            return True
        at = text.find(literal, at + 1)
    return False
