"""Fixtures for every test."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.support.provider import Provider

# A shell starts its background jobs with Ctrl-C ignored, and whoever is started inherits that: OpenCode would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A running fake provider."""
    with Provider() as running:
        yield running
