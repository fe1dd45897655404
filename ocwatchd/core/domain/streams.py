"""Learn, for each model, how long a running answer may stay silent before it counts as stalled. The module is pure.

The longest gap between two events is stored, by model, for each successful answer (one that finished without an error).
A model that thinks for a long time before its first word has long gaps, so it is given more time than a model that
never pauses.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

FACTOR = 4.0
"""A stream counts as stalled if it has been silent for this many times the longest gap in its model's successful
answers.
"""
MIN_PATIENCE, MAX_PATIENCE = 60.0, 900.0
"""Minimum and maximum, in seconds, of a stall timeout that is learned from successful answers."""
DEFAULT_PATIENCE = 300.0
"""Stall timeout, in seconds, for a model without a known successful answer. Models that hide their thinking have been
silent for minutes.
"""
MAX_PATIENCE_2 = 240.0
"""Maximum, in seconds, of a stall timeout in OpenCode 2, unless it is configured. OpenCode 2 itself ends a silent
request after five minutes (281 and 300 s, 0.0.0-next-16350), and with it the turn, if the answer had begun.
"""
MIN_CALL_PATIENCE = 300.0
"""Minimum stall timeout, in seconds, while a model is writing a tool call. OpenCode reports a call only when its text
is complete (1.3.2, 1.18.33), and a call may contain a whole file.
"""
KEPT = 50
"""Number of successful answers of each model for which the longest gap is stored."""
MAX_MODELS = 500
"""Maximum number of models for which gaps are stored; the model that answered least recently is dropped first."""


def learned_patience(longest: float | None) -> float:
    """Return how long, in seconds, a stream may stay silent, given the longest gap in the model's successful answers
    (None: unknown).
    """
    if longest is None:
        return DEFAULT_PATIENCE
    return min(max(FACTOR * longest, MIN_PATIENCE), MAX_PATIENCE)


class StreamGaps:
    """The longest gap in each of the most recent successful answers, in seconds, by model."""

    def __init__(self, known: Mapping[str, Iterable[float]] | None = None) -> None:
        """Initialize the object with the gaps that an earlier run recorded."""
        self._gaps: dict[str, deque[float]] = {
            model: deque(gaps, KEPT) for model, gaps in list((known or {}).items())[-MAX_MODELS:]
        }

    def note(self, model: str, longest: float) -> None:
        """Store the longest gap of a successful answer."""
        gaps = self._gaps.pop(model, None)
        if gaps is None:
            gaps = deque[float](maxlen=KEPT)
        gaps.append(round(longest, 3))
        self._gaps[model] = gaps
        if len(self._gaps) > MAX_MODELS:
            del self._gaps[next(iter(self._gaps))]

    def longest(self) -> dict[str, float]:
        """Return the longest gap of each model."""
        return {model: max(gaps) for model, gaps in self._gaps.items() if gaps}

    def all(self) -> dict[str, list[float]]:
        """Return all stored gaps, to be written to a file."""
        return {model: list(gaps) for model, gaps in self._gaps.items()}
