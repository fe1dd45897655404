"""Fixtures for tests that run a real OpenCode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.opencode import VERSIONS, Home
from tests.support.opencode2 import Home2
from tests.support.provider import Provider
from tests.support.reaper import reaper, sweep


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_pytest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ends the processes of the tests however pytest ends, also if it is killed."""
    with reaper(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each generation of OpenCode in turn."""
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path, provider: Provider) -> Iterator[Home]:
    """A private HOME whose OpenCode knows only the fake provider. Processes that a failed test leaves are ended."""
    made = Home(tmp_path / "home", provider.url)
    yield made
    for line in sweep(made.root):
        print(f"left behind: {line}")


@pytest.fixture
def home2(tmp_path: Path, provider: Provider) -> Iterator[Home2]:
    """A private HOME of OpenCode 2. Its remaining processes are ended, because a service outlives its client."""
    made = Home2(tmp_path / "home", provider.url)
    yield made
    for line in sweep(made.root):
        print(f"left behind: {line}")
