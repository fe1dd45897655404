"""Expressions that are compiled only for a text that may match them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property


class LateExpression:
    """An expression in which case does not count. To compile one takes 1 to 3 CPU ms, and most texts name no date."""

    def __init__(self, expression: str, *needs: str) -> None:
        """`needs`: small literals, one of which stands in every text that matches."""
        self._expression = expression
        self._needs = needs

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self._expression, re.IGNORECASE)

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        """All matches in the text."""
        lowered = text.lower()
        if not any(need in lowered for need in self._needs):
            return iter(())
        return self._compiled.finditer(text)
