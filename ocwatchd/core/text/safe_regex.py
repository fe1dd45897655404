"""Reject regular expressions that could run for a long time, and compile expressions on first use. Pure functions.

For example, `(a+)+$` takes 6-12 s in `re` on 26 characters, and an ordinary `.*a.*(b|c)` takes 2 s on a crafted line.
An expression is accepted only if no repeated group contains a repetition or an alternation, and at most two of its
parts are unbounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache

UNBOUNDED_CAP = 2
"""Maximum number of unbounded parts in one expression. Each unbounded part multiplies the running time by the length of
the text.
"""

_ATOMS = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z-]+\)|\((?:\?(?:[:=!]|<[=!]|P<\w+>))?|\)|[*+?]|\{\d*,?\d*\}|.",
    re.DOTALL,
)

_NESTED_SET = re.compile(r"(?<!\\)\[|--|&&|~~|\|\|")


def pattern_fault(pattern: str, cap: int = 200, *, own: bool = False) -> str | None:
    """Return why an expression is rejected, or None if it is harmless. `cap` is the maximum length of an expression.

    ocwatchd's own expressions (`own`) may repeat a group a bounded number of times, because their running time is
    tested.
    """
    if len(pattern) > cap:
        return f"longer than {cap} characters"
    atoms = _ATOMS.findall(pattern)
    if "[[" in pattern or any(atom[0] == "[" and _NESTED_SET.search(atom, 1) for atom in atoms):
        return "a set inside a set"  # `re` warns that the meaning of nested sets will change
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression ({error})"
    return _scan(atoms, own)


def _scan(atoms: list[str], own: bool) -> str | None:
    risky: list[bool] = [False]
    unbounded = 0
    closed: bool | None = None
    for atom in atoms:
        if len(atom) == 2 and atom[0] == "\\" and atom[1].isdigit() and atom[1] != "0":
            return "a back-reference"
        if _is_quantifier(atom):
            if closed and (_unbounded(atom) or (_repeats(atom) and not own)):
                return "a repetition inside a repetition"
            unbounded += _unbounded(atom)
            risky[-1] = risky[-1] or _repeats(atom)
            closed = None
            continue
        closed = None
        risky[-1] = risky[-1] or atom == "|"
        if atom.startswith("(") and not re.fullmatch(r"\(\?[a-zA-Z-]+\)", atom):
            risky.append(False)
        elif atom == ")" and len(risky) > 1:
            closed = risky.pop()
            risky[-1] = risky[-1] or closed
    return f"more than {UNBOUNDED_CAP} unbounded parts" if unbounded > UNBOUNDED_CAP else None


def _is_quantifier(atom: str) -> bool:
    return atom in "*+?" or re.fullmatch(r"\{\d*,?\d*\}", atom) is not None


def _repeats(atom: str) -> bool:
    return atom != "?" and atom not in ("{0,1}", "{1}")


def _unbounded(atom: str) -> bool:
    return atom in "*+" or re.fullmatch(r"\{\d*,\}", atom) is not None


def late(expression: str, flags: int = 0) -> Callable[[], re.Pattern[str]]:
    """Return a function that compiles the expression on the first call and then always returns the compiled expression.

    The expressions in `durations` take 6 ms of CPU time to compile, and most texts need none of them.
    """
    return cache(lambda: re.compile(expression, flags))


class LateExpression:
    """A case-insensitive expression that is compiled on first use. Compiling one takes 1 to 3 ms of CPU time, and most
    texts contain no date.
    """

    def __init__(self, expression: str, *needs: str) -> None:
        """Store the expression. `needs`: lower-case literals, at least one of which occurs in every text
        that matches.
        """
        self._compiled = late(expression, re.IGNORECASE)
        self._needs = needs

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """Yield all matches in the text."""
        lowered = text.lower()
        if not any(need in lowered for need in self._needs):
            return iter(())
        return self._compiled().finditer(text)
