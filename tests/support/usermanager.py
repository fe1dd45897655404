"""A real `systemd --user` for one test, without systemd as PID 1: with a private home, runtime directory and cgroup.

with UserManager(home_directory) as manager:
    manager.ocwatch("service", "install")

If run by root, it has a mount namespace with its own cgroup file system. Without that, systemd would take over the
cgroup in which it is started, and move all processes in that cgroup into its `init.scope` (observed with 252).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.processes import wait_until

_AS_ROOT = """
set -e
mount -t tmpfs none /run/systemd 2>/dev/null || { mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; }
mkdir /run/systemd/system  # by this directory systemd recognises a machine that it runs
mount -t cgroup2 none /sys/fs/cgroup
group=/sys/fs/cgroup/ocwatchd-test-$$
mkdir "$group"
sh -c 'echo $$ > "$1/cgroup.procs"; exec "$2" --user' - "$group" "$1" || true
echo 1 > "$group/cgroup.kill" || true
for attempt in 1 2 3 4 5 6 7 8 9 10; do
  find "$group" -depth -type d -exec rmdir {} + 2>/dev/null && exit 0
  sleep 0.2
done
"""


class SystemdMissing(Exception):
    """systemd is not installed on this machine. This is always a failure, never a skip."""


class UserManager:
    """systemd's user instance for `home`. A context manager."""

    def __init__(self, home: Path, **environment: str) -> None:
        """Prepare the environment; nothing is started before `__enter__`."""
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        # A socket's path may have about 100 characters; the paths of pytest's directories are too long.
        self._runtime = Path(tempfile.mkdtemp(prefix="ocw-run-"))
        self._output = self._runtime / "manager.log"
        own = {"HOME": str(home), "XDG_RUNTIME_DIR": str(self._runtime), "PATH": os.environ["PATH"], "TZ": "UTC"}
        self._manager_env = own
        self.env = {**own, **environment}

    def __enter__(self) -> Self:
        """Start systemd and wait until it answers."""
        with self._output.open("ab") as sink:
            self._process = subprocess.Popen(
                _command(self._manager_env), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
                start_new_session=True,
            )  # fmt: skip
        try:
            wait_until(self._answers, 60, why="systemd --user to answer")
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        """End systemd and everything that it started."""
        if kind is not None:
            print(self.systemctl("status", "--no-pager", "--lines=0", "ocwatchd.service").stdout)
        print(self._output.read_text(errors="replace"))
        self._stop()

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"systemd --user ended:\n{self._output.read_text(errors='replace')}")
        return self.systemctl("show", "--property=Version").returncode == 0

    def _stop(self) -> None:
        self.systemctl("exit")
        try:
            self._process.wait(40)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        shutil.rmtree(self._runtime, ignore_errors=True)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program as this user."""
        return subprocess.run(
            command, env={**self.env, **environment}, cwd=self.home, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=150,
        )  # fmt: skip

    def systemctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `systemctl --user WORDS`."""
        return self.run("systemctl", "--user", *words)

    def ocwatch(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `ocwatch WORDS`."""
        done = self.run(sys.executable, "-m", "ocwatchd.cli", *words, **environment)
        assert "Traceback" not in done.stderr
        return done

    def json(self, *words: str, code: int = 0) -> dict[str, Any]:
        """Run `ocwatch WORDS --json`, check that it exits with `code`, and return its document."""
        done = self.ocwatch(*words, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        assert document["version"] == 1
        return document


def _command(env: Mapping[str, str]) -> list[str]:
    found = [place for place in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if Path(place).exists()]
    if not found or shutil.which("systemctl") is None:
        raise SystemdMissing("the tests of the service need systemd: install it (it need not be booted)")
    clean = ["env", "-i", *(f"{name}={value}" for name, value in env.items())]
    if os.geteuid() == 0:
        return [*clean, "unshare", "--mount", "sh", "-c", _AS_ROOT, "-", found[0]]
    # Under a desktop's systemd, use a cgroup that it delegates, for the same reason.
    return ["systemd-run", "--user", "--scope", "--quiet", "--property=Delegate=yes", *clean, found[0], "--user"]
