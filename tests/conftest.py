"""Fixtures for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.provider import Provider


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A running fake provider."""
    with Provider() as running:
        yield running
