"""Wrappers for functions of the standard library's `statistics` module, which is imported only when they are called."""

from __future__ import annotations

from collections.abc import Iterable


def median(values: Iterable[float]) -> float:
    """Return the median.

    Raises:
        StatisticsError: There are no values.
    """
    # lazy import: the module imports decimal, which takes half a MiB in an idle daemon
    from statistics import median as middle

    return middle(values)
