"""Fixtures for tests that drive a real OpenCode."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.opencode import VERSIONS, Home
from tests.support.provider import Provider


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    """Each generation of OpenCode in turn."""
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path, provider: Provider) -> Home:
    """A private HOME whose OpenCode knows only the fake provider."""
    return Home(tmp_path / "home", provider.url)
