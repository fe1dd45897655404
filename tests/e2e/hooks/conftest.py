"""Fixtures with the companion plugin in a private home."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.bun import Bun
from tests.support.opencode import NEWEST, OLDEST


@pytest.fixture(params=[NEWEST, OLDEST])
def bun(request: pytest.FixtureRequest, tmp_path: Path) -> Bun:
    return Bun(request.param, tmp_path / "home")


@pytest.fixture
def newest(tmp_path: Path) -> Bun:
    return Bun(NEWEST, tmp_path / "home")
