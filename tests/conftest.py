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
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # and nohup does the same with the end of a terminal
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

Count = Callable[[str, int], None]
COUNTED = "counted: "
"""What a property of a test begins with that says how much of something it went through."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A running fake provider."""
    with Provider() as running:
        yield running


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Count:
    """Say how much of something this test went through. Only what a passed test says is summed up."""
    properties = request.node.user_properties

    def count(what: str, number: int) -> None:
        name = COUNTED + what
        before = next((entry for entry in properties if entry[0] == name), (name, 0))
        if before in properties:
            properties.remove(before)
        properties.append((name, before[1] + number))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sums. Properties travel with the reports, so this holds with several processes, too."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, number in report.user_properties:
            if name.startswith(COUNTED):
                sums[name.removeprefix(COUNTED)] += number
    if sums:
        terminalreporter.write_sep("-", "survived")
        for what, number in sorted(sums.items()):
            terminalreporter.write_line(f"{what}: {number:,}")
