"""Fixtures for every test, and what was survived in all of them: `counted("kills", 20)`, summed up at the end."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.provider import Provider

# A shell starts its background jobs with Ctrl-C ignored, and whoever is started inherits that: OpenCode would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

Count = Callable[[str, int], None]
COUNTED = "counted"


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A running fake provider."""
    with Provider() as running:
        yield running


@pytest.fixture
def counted(record_property: Callable[[str, object], None]) -> Count:
    """Say how much of something this test went through. Only what a passed test says is summed up."""

    def count(what: str, number: int) -> None:
        record_property(COUNTED, (what, number))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sums. Properties travel with the reports, so this holds with several processes, too."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, value in getattr(report, "user_properties", ()):
            if name == COUNTED and report.when == "call":
                what, number = value
                sums[what] += number
    if sums:
        terminalreporter.write_sep("-", "survived")
        for what, number in sorted(sums.items()):
            terminalreporter.write_line(f"{what}: {number:,}")
