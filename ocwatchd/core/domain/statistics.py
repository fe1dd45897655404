"""The middle of some values."""

from __future__ import annotations

from collections.abc import Iterable


def median(values: Iterable[float]) -> float:
    """The median.

    Raises:
        StatisticsError: there are no values.
    """
    from statistics import median as middle  # late: it brings decimal, half a MiB of a daemon that idles

    return middle(values)
