"""Compare how ocwatchd, fail2ban, mtail, `tail -F` and sec handle faults of log files, live and side by side.

    apt-get install fail2ban mtail sec && python bench/faults.py [--write docs/reliability.md]

Every tool follows a log in a directory of its own. Each line of the log has a number, and the benchmark records the
numbers that a tool reports. A tool that is not installed has no column.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.daemon import Daemon
from tests.support.homes import Home
from tests.support.shortening import shell, trim

ROOT = Path(__file__).resolve().parent.parent
SETTLE = 2.5
"""Time, in seconds, for a tool to notice a change before its output is read. All tools poll at least once a second."""


def line(number: int) -> bytes:
    """Return a line that every tool is configured to report: for ocwatchd, a refused attempt of OpenCode 1.18."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    return (
        f'timestamp={stamp} level=ERROR run=0a1b2c3d message="stream error" providerID=mock modelID=primary'
        f" session.id=ses_{number} small=false agent=build mode=primary"
        ' error.error="AI_APICallError: Too Many Requests"\n'
    ).encode()


class Tool:
    """A program that follows `self.log`; `reported` returns the numbers that it has reported, in order."""

    name = ""
    program = ""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "log" / "opencode.log"
        self.log.parent.mkdir(parents=True)
        self.log.touch()
        self.output = root / "output.txt"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        raise NotImplementedError

    def run(self, *command: str) -> None:
        with self.output.open("ab") as sink:
            self.process = subprocess.Popen(command, stdout=sink, stderr=sink, start_new_session=True)

    def reported(self) -> list[int]:
        return [int(number) for number in re.findall(rb"ses_(\d+)", self.output.read_bytes())]

    def stop(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def memory(self) -> str:
        assert self.process is not None
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
            return f"{int(status.partition('VmHWM:')[2].split()[0]) // 1024} MB"
        except (OSError, IndexError):
            return "ended"


class Ocwatchd(Tool):
    name, program = "ocwatchd", sys.executable

    def __init__(self, root: Path) -> None:
        self.home = Home(root / "home", "http://127.0.0.1:9")
        self.daemon = Daemon(self.home)
        super().__init__(root)
        self.log = self.home.log_dir / "opencode.log"
        self.log.parent.mkdir(parents=True)
        self.log.touch()

    def start(self) -> None:
        self.daemon.start()
        self.process = self.daemon.process

    def reported(self) -> list[int]:
        return [int(entry["session"].removeprefix("ses_")) for entry in self.daemon.journal("limit")]


class TailF(Tool):
    name, program = "tail -F", "tail"

    def start(self) -> None:
        self.run("tail", "-n", "0", "-F", str(self.log))


class Mtail(Tool):
    name, program = "mtail", "mtail"

    def start(self) -> None:
        progs = self.root / "progs"
        progs.mkdir()
        (progs / "e.mtail").write_text("counter hits by n\n/session\\.id=(?P<n>ses_\\d+)/ {\n  hits[$n]++\n}\n")
        port = str(20_000 + os.getpid() % 20_000)
        self.port = port
        self.run("mtail", "-progs", str(progs), "-logs", str(self.log), "-port", port, "-address", "127.0.0.1",
                 "-poll_interval", "250ms", "-poll_log_interval", "250ms")  # fmt: skip

    def reported(self) -> list[int]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
                metrics = answer.read().decode()
        except OSError:
            return []
        counted = re.findall(r'hits\{[^}]*n="ses_(\d+)"[^}]*\} (\d+)', metrics)
        return [int(number) for number, times in counted for _ in range(int(times))]


class Sec(Tool):
    name, program = "sec", "sec"

    def start(self) -> None:
        rules = self.root / "rules"
        rules.write_text("type=Single\nptype=RegExp\npattern=session\\.id=(ses_\\d+)\ndesc=x\naction=write - $1\n")
        self.run("sec", f"--conf={rules}", f"--input={self.log}", "--tail", "--reopen-timeout=1", "--check-timeout=1")


class Fail2ban(Tool):
    name, program, backend = "fail2ban inotify", "fail2ban-server", "pyinotify"

    def start(self) -> None:
        conf = self.root / "conf"
        for part in ("filter.d", "action.d"):
            (conf / part).mkdir(parents=True)
        (conf / "fail2ban.conf").write_text("[Definition]\nloglevel = INFO\nlogtarget = STDOUT\ndbfile = None\n")
        (conf / "filter.d" / "t.conf").write_text(
            "[Definition]\ndatepattern = timestamp=%%Y-%%m-%%dT%%H:%%M:%%S.%%fZ\n"
            "failregex = session\\.id=<F-ID>ses_\\d+</F-ID>\n"
        )
        (conf / "jail.conf").write_text(
            f"[t]\nenabled = true\nfilter = t\nbackend = {self.backend}\nlogpath = {self.log}\nmaxretry = 1000000\n"
            "findtime = 86400\nlogtimezone = UTC\nusedns = no\naction =\n"
        )
        socket, pid = str(self.root / "s.sock"), str(self.root / "s.pid")
        self.run("fail2ban-server", "-f", "-c", str(conf), "-s", socket, "-p", pid, "start")

    def reported(self) -> list[int]:
        found = re.findall(rb"Found (?:\S+ )?ses_(\d+)|\[t\] Found ses_(\d+)", self.output.read_bytes())
        return [int(first or second) for first, second in found]


class Fail2banPoll(Fail2ban):
    name, backend = "fail2ban poll", "polling"


TOOLS: tuple[type[Tool], ...] = (Ocwatchd, Fail2ban, Fail2banPoll, Mtail, TailF, Sec)

# ---- faults: each function damages a log and returns the numbers that a tool should report


Fault = Callable[[Path], list[int]]


def pause() -> None:
    """Give every tool time to notice the previous change."""
    time.sleep(SETTLE)


def add(log: Path, *numbers: int) -> None:
    with log.open("ab") as file:
        file.write(b"".join(line(number) for number in numbers))


def before_rename(log: Path) -> list[int]:
    add(log, 1)
    log.rename(log.with_suffix(".log.1"))
    add(log, 2)
    return [1, 2]


def late_write(log: Path) -> list[int]:
    with log.open("ab", buffering=0) as old:
        old.write(line(1))
        pause()
        log.rename(log.with_suffix(".log.1"))
        add(log, 2)
        pause()
        old.write(line(3))
        pause()
        add(log, 4)
    return [1, 2, 3, 4]


def refilled(log: Path) -> list[int]:
    add(log, *range(1, 22))
    pause()
    os.truncate(log, 0)
    add(log, *range(100, 160))
    return [*range(1, 22), *range(100, 160)]


def torn(log: Path) -> list[int]:
    whole = line(1).replace(b"Requests", "Requests Ω\x00".encode())
    cut = whole.index("Ω".encode()) + 1
    with log.open("ab", buffering=0) as file:
        for part in (whole[:50], whole[50:cut], whole[cut:-1], b"\n"):
            file.write(part)
            time.sleep(0.3)
    add(log, 2)
    return [1, 2]


def invalid(log: Path) -> list[int]:
    with log.open("ab", buffering=0) as file:
        file.write(b"\xff\xfe\x80 \xc3\n" + line(1)[:-1] + b"\r\n" + line(2))
    return [1, 2]


def long_line(log: Path) -> list[int]:
    with log.open("ab") as file:
        for _ in range(50):
            file.write(b"level=ERROR x " * (1 << 16) + b"y" * (1 << 17))
        file.write(b"\n")
    pause()
    add(log, 1)
    return [1]


def to_symlink(log: Path) -> list[int]:
    add(log, 1)
    pause()
    other = log.parent.parent / "elsewhere.txt"
    log.unlink()
    other.touch()
    log.symlink_to(other)
    pause()
    add(other, 2)
    return [1, 2]


def was_directory(log: Path) -> list[int]:
    add(log, 1)
    pause()
    log.unlink()
    log.mkdir()
    pause()
    log.rmdir()
    add(log, 2)
    pause()
    add(log, 3)
    return [1, 2, 3]


def was_pipe(log: Path) -> list[int]:
    add(log, 1)
    pause()
    log.unlink()
    os.mkfifo(log)
    pause()
    log.unlink()
    add(log, 2)
    pause()
    add(log, 3)
    return [1, 2, 3]


def directory_again(log: Path) -> list[int]:
    add(log, 1)
    pause()
    shutil.rmtree(log.parent)
    pause()
    log.parent.mkdir()
    add(log, 2)
    pause()
    add(log, 3)
    return [1, 2, 3]


def trimmed(log: Path) -> list[int]:
    """Trim the log as OpenCode 2 does, and write a line during the copying."""
    add(log, *range(1, 200))
    pause()
    for number, _ in enumerate(trim(log, log.stat().st_size // 3, 4096)):
        if number == 1:
            add(log, 200)
    add(log, 201)
    return list(range(1, 202))


def shortened(log: Path) -> list[int]:
    add(log, *range(1, 200))
    pause()
    shell('tail -n 50 "$f" > "$t" && cat "$t" > "$f"', log, log.parent.parent)
    add(log, 200)
    return list(range(1, 201))


def copytruncate(log: Path) -> list[int]:
    """Write 300 lines while logrotate copies and truncates three times a second. The lines left on disk should be
    reported.
    """
    directory = log.parent.parent
    (directory / "rotate.conf").write_text(f'"{log}" {{\n rotate 1000\n copytruncate\n missingok\n}}\n')
    command = ["logrotate", "-f", "-s", str(directory / "rotate.state"), str(directory / "rotate.conf")]
    rotating: subprocess.Popen[bytes] | None = None
    for number in range(1, 301):
        add(log, number)
        time.sleep(0.01)
        if number % 30 == 0 and (rotating is None or rotating.poll() is not None):
            rotating = subprocess.Popen(command)
    if rotating is not None:
        rotating.wait()
    add(log, 301)
    left = b"".join(path.read_bytes() for path in log.parent.iterdir() if path.is_file())
    return [number for number in range(1, 302) if b"ses_%d " % number in left]


FAULTS: dict[str, Fault] = {
    "line written just before the rename": before_rename,
    "late write to the renamed file": late_write,
    "truncated and refilled larger (21, then 60 lines)": refilled,
    "torn line, split UTF-8, NUL": torn,
    "invalid UTF-8, then CRLF": invalid,
    "50 MB line, then an event": long_line,
    "replaced by a symlink": to_symlink,
    "was a directory for a while": was_directory,
    "was a pipe for a while": was_pipe,
    "directory removed and made again": directory_again,
    "trimmed in place, as OpenCode 2 does": trimmed,
    "shortened with tail and cat": shortened,
    "logrotate copytruncate in a loop (lines left on disk)": copytruncate,
}


@contextmanager
def running(tool: type[Tool]) -> Iterator[Tool]:
    root = Path(tempfile.mkdtemp(prefix="faults-"))
    made = tool(root)
    try:
        made.start()
        deadline = time.monotonic() + 20
        while 900 not in made.reported():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{tool.name} reports nothing: {made.output.read_text(errors='replace')[-800:]}")
            add(made.log, 900)
            time.sleep(0.5)
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


def outcome(tool: type[Tool], fault: Fault) -> str:
    """Return `ok`, or the numbers of lines that were lost and reported twice."""
    with running(tool) as made:
        wanted = fault(made.log)
        deadline = time.monotonic() + 4 * SETTLE
        while time.monotonic() < deadline and not set(wanted) <= set(made.reported()):
            time.sleep(0.1)
        time.sleep(SETTLE / 2)
        reported = [number for number in made.reported() if number != 900]
        lost, twice = len(set(wanted) - set(reported)), len(reported) - len(set(reported))
        words = "ok" if not lost else f"LOST {lost} of {len(wanted)}"
        words += f", {twice} TWICE" if twice else ""
        return f"{words}, {made.memory()}" if fault is long_line else words


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--write", type=Path, help="put the table into this file, between its two markers")
    wanted = arguments.parse_args()
    tools = [tool for tool in TOOLS if shutil.which(tool.program)]
    rows = ["| fault | " + " | ".join(tool.name for tool in tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for name, fault in FAULTS.items():
        with ThreadPoolExecutor(len(tools)) as pool:
            cells = list(pool.map(outcome, tools, [fault] * len(tools)))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
        print(rows[-1], flush=True)
    if wanted.write:
        text = wanted.write.read_text()
        head, _, rest = text.partition("<!-- faults -->\n")
        _, _, tail = rest.partition("<!-- end -->")
        wanted.write.write_text(f"{head}<!-- faults -->\n" + "\n".join(rows) + f"\n<!-- end -->{tail}")


if __name__ == "__main__":
    main()
