"""Expressions that are compiled only for a text that may match them. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache


def late(expression: str, flags: int = 0) -> Callable[[], re.Pattern[str]]:
    """The expression, compiled when it is first asked for. Those of `durations` take 6 CPU ms; most texts need none."""
    return cache(lambda: re.compile(expression, flags))


class LateExpression:
    """An expression in which case does not count. To compile one takes 1 to 3 CPU ms, and most texts name no date."""

    def __init__(self, expression: str, *needs: str) -> None:
        """`needs`: small literals, one of which stands in every text that matches."""
        self._compiled = late(expression, re.IGNORECASE)
        self._needs = needs

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """All matches in the text."""
        lowered = text.lower()
        if not any(need in lowered for need in self._needs):
            return iter(())
        return self._compiled().finditer(text)
