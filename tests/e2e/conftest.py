"""Fixtures for tests that drive a real OpenCode."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.opencode import VERSIONS, Home
from tests.support.provider import Provider
from tests.support.reaper import reaper, sweep


@pytest.fixture(scope="session", autouse=True)
def _nothing_outlives_pytest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """However pytest ends, killed included."""
    with reaper(tmp_path_factory.getbasetemp()):
        yield


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each generation of OpenCode in turn."""
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path, provider: Provider) -> Iterator[Home]:
    """A private HOME whose OpenCode knows only the fake provider. What a failed test leaves in it is ended."""
    made = Home(tmp_path / "home", provider.url)
    yield made
    for line in sweep(made.root):
        print(f"left behind: {line}")
