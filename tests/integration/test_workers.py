"""Tests of worker threads: a lane that hangs delays only its own work, and nothing delays the end of the process."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from ocwatchd.workers import Workers
from tests.support.processes import wait_until

PATIENCE = 30.0


def test_a_lane_that_hangs_holds_up_its_own_alone() -> None:
    workers, end, done = Workers(3, {"wide": 3}, 2), threading.Event(), list[str]()
    for number in range(5):
        workers.submit("bad", lambda number=number: (end.wait(PATIENCE), done.append(f"bad {number}")))
    workers.submit("good", lambda: done.append("good"))
    wait_until(lambda: done == ["good"], PATIENCE)
    end.set()
    wait_until(lambda: len(done) == 6, PATIENCE)
    assert sorted(done[1:]) == [f"bad {number}" for number in range(5)]
    workers.close()


def test_so_many_at_once_and_no_more() -> None:
    workers, lock, at_work, most = Workers(4, {"wide": 3}, 2), threading.Lock(), [0], {"wide": 0, "narrow": 0}
    left = threading.Semaphore(0)

    def work(lane: str) -> None:
        with lock:
            at_work[0] += 1
            most[lane] = max(most[lane], at_work[0])
        time.sleep(0.002)
        with lock:
            at_work[0] -= 1
        left.release()

    for lane in most:
        for _ in range(60):
            workers.submit(lane, lambda lane=lane: work(lane))
        for _ in range(60):
            assert left.acquire(timeout=PATIENCE)
    assert most["wide"] <= 3
    assert most["narrow"] <= 2
    workers.close()


def test_work_that_came_at_once_finds_threads_at_once() -> None:
    """One thread is idle and gets the first task; the second must not wait for it."""
    workers, end, begun = Workers(3, {"a": 3}, 3), threading.Event(), threading.Semaphore(0)
    workers.submit("a", begun.release)
    assert begun.acquire(timeout=PATIENCE)
    time.sleep(0.05)
    for _ in range(2):
        workers.submit("a", lambda: (begun.release(), end.wait(PATIENCE)))
    assert begun.acquire(timeout=PATIENCE / 2) and begun.acquire(timeout=PATIENCE / 2)
    end.set()
    workers.close()


def test_the_end_waits_for_what_must_not_be_left_half_done() -> None:
    workers, done = Workers(2, {}, 2), list[str]()
    begun = threading.Barrier(3)
    workers.submit("move", lambda: (begun.wait(), time.sleep(0.2), done.append("moved")))
    workers.submit("look", lambda: (begun.wait(), threading.Event().wait()))
    begun.wait(PATIENCE)
    workers.close(PATIENCE, lambda lane: lane == "move")
    assert done == ["moved"]


def test_the_process_ends_while_work_hangs() -> None:
    script = """
import threading
from ocwatchd.workers import Workers
workers, begun = Workers(2, {}, 2), threading.Event()
workers.submit("a", lambda: (begun.set(), threading.Event().wait()))
begun.wait()
workers.close()
workers.submit("a", lambda: print("too late"))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_threads_without_work_end_and_new_ones_come() -> None:
    workers, end, begun = Workers(8, {"a": 8}, 8, idle_timeout=0.02), threading.Event(), list[threading.Thread]()

    def work() -> None:
        begun.append(threading.current_thread())
        end.wait(PATIENCE)

    for _ in range(8):
        workers.submit("a", work)
    wait_until(lambda: len(begun) == 8, PATIENCE)
    end.set()
    wait_until(lambda: not any(thread.is_alive() for thread in begun), PATIENCE)
    for _ in range(8):
        workers.submit("a", work)
    wait_until(lambda: len(begun) == 16, PATIENCE)
    workers.close()


def test_no_work_is_lost_between_a_thread_that_ends_and_the_next() -> None:
    workers, done = Workers(2, {}, 2, idle_timeout=0.001), threading.Semaphore(0)
    for number in range(400):
        workers.submit("a", done.release)
        assert done.acquire(timeout=PATIENCE), number
        time.sleep(0.0005 + number % 3 * 0.0005)  # about as long as a thread waits for work
    workers.close()
