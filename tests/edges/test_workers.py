"""Worker threads: a lane that hangs holds up its own work alone, and nothing holds up the end of the process."""

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
        workers.submit("bad", lambda number=number: (end.wait(PATIENCE), done.append(f"bad {number}")))  # type: ignore[misc]
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
            workers.submit(lane, lambda lane=lane: work(lane))  # type: ignore[misc]
        for _ in range(60):
            assert left.acquire(timeout=PATIENCE)
    assert most["wide"] <= 3
    assert most["narrow"] <= 2
    workers.close()


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
