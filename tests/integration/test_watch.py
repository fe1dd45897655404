"""Tests of wake-ups: when a file grows, when a directory appears, and again after faults that end a watch."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ocwatchd.logs.watcher import Waker


class Bell:
    """A bell that a Waker rings."""

    def __init__(self) -> None:
        self.rung = Event()
        self.said: list[str] = []

    def rings(self, after: Callable[[], object], patience: float = 5.0) -> bool:
        """Return whether it rings after `after` was called. Earlier rings have to end first."""
        while self.rung.is_set():
            self.rung.clear()
            self.rung.wait(0.15)
        after()
        return self.rung.wait(patience)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def watch(bell: Bell) -> Iterator[Callable[..., Waker]]:
    running: list[Waker] = []

    def begin(*directories: Path) -> Waker:
        waker = Waker(directories, bell.rung.set, bell.said.append)
        running.append(waker)
        waker.start()
        return waker

    yield begin
    for waker in running:
        waker.stop()


def grow(path: Path) -> Callable[[], object]:
    def write() -> None:
        with path.open("ab") as file:
            file.write(b"x\n")

    return write


def test_a_growing_file_rings_and_is_named(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    log = tmp_path / "opencode.log"
    log.touch()
    waker = watch(tmp_path)
    waker.hints()
    assert bell.rings(grow(log))
    assert log in waker.hints()
    assert waker.hints() == set()


def test_our_own_reading_does_not_ring(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    log = tmp_path / "opencode.log"
    log.write_bytes(b"x\n")
    watch(tmp_path)
    assert not bell.rings(log.read_bytes, patience=0.5)
    assert bell.rings(grow(log))


def test_a_directory_that_does_not_exist_yet(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    directory = tmp_path / "share" / "opencode" / "log"
    waker = watch(directory)
    assert bell.rings(lambda: directory.mkdir(parents=True))
    waker.check(1.0)
    assert bell.rings(grow(directory / "opencode.log"))


def test_a_directory_removed_and_made_again(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    waker = watch(directory)
    shutil.rmtree(directory)
    waker.check(1.0)
    assert bell.rings(directory.mkdir)
    waker.check(2.0)
    assert bell.rings(grow(directory / "opencode.log"))


def test_a_directory_replaced_between_two_looks(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    waker = watch(directory)
    directory.rename(tmp_path / "away")
    directory.mkdir()
    waker.check(1.0)
    assert bell.rings(grow(directory / "opencode.log"))


def test_two_directories_missing_below_one_parent(tmp_path: Path, bell: Bell, watch: Callable[..., Waker]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    waker = watch(one, two)
    one.mkdir()
    waker.check(1.0)
    assert bell.rings(two.mkdir), "the watch on the parent is still there for the other"
    waker.check(2.0)
    assert bell.rings(grow(one / "a.log"))
    assert bell.rings(grow(two / "b.log"))


class Exhausted(Waker):
    """A Waker on a machine without free inotify watches."""

    left = 0

    def _schedule(self, target: Path) -> object:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super()._schedule(target)


def test_no_watches_left_is_said_once_and_tried_again(tmp_path: Path, bell: Bell) -> None:
    waker = Exhausted([tmp_path], bell.rung.set, bell.said.append)
    waker.start()
    try:
        waker.check(1.0)
        waker.check(2.0)
        (said,) = bell.said
        assert "max_user_watches" in said and str(tmp_path) in said
        assert waker.health() == [said]
        waker.left = 1
        waker.check(200.0)
        assert waker.health() == []
        assert bell.rings(grow(tmp_path / "opencode.log"))
    finally:
        waker.stop()


class Mortal(Waker):
    """A Waker that gives tests access to its watcher."""

    def _new_observer(self) -> Any:
        self.observer = super()._new_observer()
        return self.observer


def test_a_dead_watcher_is_replaced_and_said(tmp_path: Path, bell: Bell) -> None:
    waker = Mortal([tmp_path], bell.rung.set, bell.said.append)
    waker.start()
    try:
        waker.observer.stop()
        waker.observer.join(5)
        waker.check(1.0)
        assert any("has stopped" in line for line in bell.said)
        assert waker.health() == []
        assert bell.rings(grow(tmp_path / "opencode.log"))
    finally:
        waker.stop()
