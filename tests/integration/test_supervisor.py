"""Tests of the datagrams to the service manager, at given times."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ocwatchd.daemon.sd_notify import ServiceNotifier


class Listener:
    """The service manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.name = "@" + address[1:] if address.startswith("\0") else address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


ADDRESSES = ["path", "abstract"] if sys.platform == "linux" else ["path"]


@pytest.fixture(params=ADDRESSES)
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    monkeypatch.chdir(tmp_path)  # a socket's path may have about 100 characters
    made = Listener("notify" if request.param == "path" else f"\0ocwatchd-test-{secrets.token_hex(8)}")
    if request.param == "path":
        made.name = str(tmp_path / "notify") if len(str(tmp_path)) < 90 else "notify"
    yield made
    made.socket.close()


def supervisor(listener: Listener, **more: str) -> ServiceNotifier:
    return ServiceNotifier({"NOTIFY_SOCKET": listener.name, **more})


def test_the_first_word_says_that_it_serves_and_only_news_follow(listener: Listener) -> None:
    told = supervisor(listener)
    told.feed_watchdog(1.0)
    told.report_status("no model is cooling down")
    told.report_status("no model is cooling down")
    told.report_status("1 model is cooling down; a path\nwith MAINPID=1 in it")
    told.stopping()
    assert listener.heard() == [
        "READY=1\nSTATUS=no model is cooling down",
        "READY=1\nSTATUS=1 model is cooling down; a path with MAINPID=1 in it",
        "STOPPING=1\nSTATUS=ending",
    ]


def test_the_watchdog_is_fed_three_times_in_its_patience(listener: Listener) -> None:
    told = supervisor(listener, WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    assert told.interval == 10.0
    for now in range(1000, 1030):
        told.feed_watchdog(float(now))
    assert listener.heard() == ["WATCHDOG=1"] * 3
    told.feed_watchdog(500.0)  # the clock was set back, so the remaining time is unknown
    assert listener.heard() == ["WATCHDOG=1"]


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours_is_not_fed(listener: Listener, more: dict[str, str]) -> None:
    told = supervisor(listener, **more)
    told.feed_watchdog(1000.0)
    assert listener.heard() == []


def test_children_do_not_inherit_the_manager() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "HOME": "/home/dev"}
    ServiceNotifier(environ)
    assert environ == {"HOME": "/home/dev"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "/nowhere/at/all"])
def test_without_a_manager_that_hears_nothing_happens(address: str) -> None:
    told = ServiceNotifier({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000"})
    told.report_status("well")
    told.feed_watchdog(1.0)
    told.stopping()


def test_a_manager_that_takes_nothing_is_not_waited_for_and_told_again(listener: Listener) -> None:
    told = supervisor(listener, WATCHDOG_USEC="3000000")
    for number in range(5000):  # far more than a queue of datagrams can contain
        told.report_status(f"word {number}")
    assert 0 < len(listener.heard()) < 5000
    told.feed_watchdog(1000.0)
    assert listener.heard() == ["WATCHDOG=1"]
