"""Tests that a limit that is read late, and was in no event stream, moves the session if it still waits."""

from __future__ import annotations

import os
import signal

import pytest

from tests.support.daemon import Daemon, settle
from tests.support.opencode import NEWEST, Home, Serve
from tests.support.provider import Provider, limited, ok

pytestmark = pytest.mark.e2e

PRIMARY, FALLBACK = "mock/primary", "mock2/fallback"
STOPPED = 12.0
"""Seconds for which the daemon is stopped; after 10 a line of the log is old."""


def test_a_daemon_that_stood_still_moves_what_was_limited_meanwhile(home: Home, provider: Provider) -> None:
    provider.script(PRIMARY, limited(3600))
    provider.script(FALLBACK, ok("better late"))
    with Daemon(home) as daemon:
        os.kill(daemon.pid, signal.SIGSTOP)
        try:
            with Serve(NEWEST, home) as serve:  # without a reader of its events
                session = serve.create_session()
                serve.prompt_async(session, "Move me all the same", model=PRIMARY)
                serve.wait_status(session, "retry")
                settle(STOPPED)
                os.kill(daemon.pid, signal.SIGCONT)
                serve.wait_answer(session, "better late", timeout=60)
                assert [r.count("Move me all the same") for r in provider.requests(FALLBACK)] == [1]
                assert len(serve.user_messages(session)) == 1
        finally:
            os.kill(daemon.pid, signal.SIGCONT)
