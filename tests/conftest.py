"""Fixtures for every test, and sums over all tests: a test records an amount with `counted("kills", 20)`."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.support.provider import Provider

# A shell starts background jobs with Ctrl-C ignored. Their children, such as OpenCode, would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup does the same with SIGHUP
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

Count = Callable[[str, int], None]
COUNTED = "counted: "
"""Prefix of a test property that contains a recorded amount."""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A running fake provider."""
    with Provider() as running:
        yield running


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Count:
    """Return a function that records an amount for this test. Only the amounts of tests that pass are summed up."""
    properties = request.node.user_properties

    def count(what: str, number: int) -> None:
        name = COUNTED + what
        before = next((entry for entry in properties if entry[0] == name), (name, 0))
        if before in properties:
            properties.remove(before)
        properties.append((name, before[1] + number))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sums. Properties are part of the reports, so this also works with several processes."""
    sums: Counter[str] = Counter()
    for report in terminalreporter.stats.get("passed", []):
        for name, number in report.user_properties:
            if name.startswith(COUNTED):
                sums[name.removeprefix(COUNTED)] += number
    if sums:
        terminalreporter.write_sep("-", "survived")
        for what, number in sorted(sums.items()):
            terminalreporter.write_line(f"{what}: {number:,}")
