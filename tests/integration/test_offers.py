"""The models' list: asked for once at a time, waited for briefly, and used as soon as it is there."""

from __future__ import annotations

import socket
import threading
import time

from ocwatchd.opencode.offers import KEPT, Offers
from tests.edges.fakedoor import answer, listening

LIST = {"providers": [{"id": "mock", "models": {"primary": {"limit": {"context": 1000}}}}]}
NOW = 1_800_000_000.0
WAIT = 0.3


def test_a_list_that_takes_its_time_holds_up_nobody_and_is_not_asked_for_twice() -> None:
    loaded, asked = threading.Event(), list[str]()

    def starting(connection: socket.socket, line: str, request: bytes) -> None:
        asked.append(line)
        loaded.wait(30)
        connection.sendall(answer(LIST))

    offers = Offers(patience=30, wait=WAIT)
    with listening(starting) as door:
        began = time.monotonic()
        for _ in range(20):
            assert offers.at([(door, "/a"), (door, "/a")], NOW) is None
        assert WAIT <= time.monotonic() - began < 2 * WAIT + 1  # 20 looks wait for one question together
        loaded.set()
        deadline = time.monotonic() + 30
        while not (found := offers.at([(door, "/a")], NOW)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert found is not None
        assert list(found) == ["mock/primary"]
        assert len(asked) == 1
        loaded.clear()  # it hangs from now on: what it told is better than nothing
        assert offers.at([(door, "/a")], NOW + KEPT + 1) == found
        assert len(asked) == 2
        loaded.set()


def test_a_door_without_a_list_forbids_nothing_and_is_asked_again() -> None:
    asked: list[str] = []

    def none(connection: socket.socket, line: str, request: bytes) -> None:
        asked.append(line)
        connection.sendall(answer({}, 500))

    offers = Offers(wait=10)
    with listening(none) as door:
        assert [offers.at([(door, "/a")], NOW) for _ in range(2)] == [None, None]
    assert len(asked) == 2
