"""Tests of the list of models: one request at a time, a short wait for it, and its use as soon as it arrives."""

from __future__ import annotations

import socket
import threading
import time

from ocwatchd.opencode.sessions.capabilities import KEPT, Offers
from tests.integration.fakedoor import answer, listening
from tests.support.processes import wait_until

LIST = {"providers": [{"id": "mock", "models": {"primary": {"limit": {"context": 1000}}}}]}
NOW = 1_800_000_000.0
WAIT = 0.3


def test_a_list_that_takes_its_time_holds_up_nobody_and_is_not_asked_for_twice() -> None:
    loaded, asked = threading.Event(), list[str]()

    def starting(connection: socket.socket, line: str, request: bytes) -> None:
        asked.append(line)
        loaded.wait(30)
        connection.sendall(answer(LIST))

    offers = Offers(patience=30, wait=WAIT, later=0.5)
    with listening(starting) as endpoint:
        began = time.monotonic()
        for _ in range(20):
            assert offers.at([(endpoint, "/a"), (endpoint, "/a")], NOW) is None
        assert WAIT <= time.monotonic() - began < 2 * WAIT + 1  # 20 probes wait for one request together
        loaded.set()
        deadline = time.monotonic() + 30
        while not (found := offers.at([(endpoint, "/a")], NOW)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found is not None
        assert list(found) == ["mock/primary"]
        assert len(asked) == 1
        loaded.clear()  # it hangs from now on: the last list is better than none, and nobody waits for the next
        assert offers.at([(endpoint, "/a")], NOW + KEPT + 1) == found
        assert len(asked) == 1
        wait_until(lambda: len(asked) == 2, 30)
        loaded.set()


def test_a_door_without_a_list_forbids_nothing_and_is_asked_again() -> None:
    asked: list[str] = []

    def none(connection: socket.socket, line: str, request: bytes) -> None:
        asked.append(line)
        connection.sendall(answer({}, 500))

    offers = Offers(wait=10)
    with listening(none) as endpoint:
        assert [offers.at([(endpoint, "/a")], NOW) for _ in range(2)] == [None, None]
    assert len(asked) == 2
