"""Record logs of real OpenCode binaries, with their labels, into `tests/corpus/recorded`.

    python -m scripts.record_corpus 1.18.33 1.2.27              # `serve`, all scenarios, several sessions at once
    python -m scripts.record_corpus --run 1.18.33               # `opencode run`, one process for each prompt
    python -m scripts.record_corpus --only zhipu_1302 1.3.2     # selected scenarios, to try something out

The script plays `corpus_scenarios.jsonl` on loopback. Each session's prompt carries a mark (`ref T0007`), from which
the provider chooses its answer. `labels.jsonl` contains the provider's answers rather than the content of the log: one
row per answer, in the order of the requests. The logs are kept as OpenCode wrote them, except that request bodies are
emptied and the home directory becomes /home/dev.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

from scripts.corpus_clean import HOME, clean, store
from scripts.corpus_recording import Recording
from scripts.corpus_scenarios import SMALL, fill, load
from tests.support.answers import Ok, Tool
from tests.support.homes import ANTHROPIC, GOOGLE, OPENAI, OPENAI_COMPATIBLE, Home
from tests.support.opencode import Serve, ServeError, binary, model_parts, run_command, start, stop
from tests.support.provider import Provider

RECORDED = Path(__file__).parents[1] / "tests" / "corpus" / "recorded"
PINS = {OPENAI_COMPATIBLE: "1.0.27", ANTHROPIC: "2.0.50", OPENAI: "2.0.71", GOOGLE: "2.0.44"}
"""SDK versions for OpenCode before 1.0.152, which would otherwise fetch the newest SDK at run time."""
BUNDLED_FROM = (1, 0, 152)
AT_ONCE = 6
LINGER = 1.3
"""Seconds to wait after the last required attempt, because 1.17 and later write their log up to a second late."""


# ---------------------------------------------------------------- serve


class Player:
    """Plays scenarios in one `opencode serve`."""

    def __init__(self, recording: Recording, serve: Serve) -> None:
        """Use a server that is already responding."""
        self.recording = recording
        self.serve = serve
        # 1.0.98 has no prompt_async (it proxies unknown routes to the web), and POST …/message blocks until the end.
        self.blocking = recording.numbers < BUNDLED_FROM
        self._silent = recording.numbers < (1, 0, 0)  # its SDK retries silently: only the end is logged
        self.patience = 40.0 if self._silent else 22.0

    def play(self, tag: str) -> None:
        """Play one scenario: create a session, send the prompt, and wait until the turn ends or enough requests were
        made.
        """
        recording, serve, scenario = self.recording, self.serve, self.recording.tags[tag]
        directory = recording.home.project(scenario.directory)
        session = serve.create_session(fill(scenario.title, {}) if scenario.title else None, directory)
        recording.sessions[tag] = session
        self._send(tag, session, directory)
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline and not self._seen_enough(tag) and not self._finished(tag, directory):
            time.sleep(0.1)
        self._linger(tag)
        for _ in range(4):
            if self._finished(tag, directory):
                break
            with suppress(ServeError, OSError, HTTPException):
                serve.abort(session, directory)
            time.sleep(0.3)
        if scenario.sub:
            with suppress(ServeError, OSError, HTTPException, IndexError):
                found = serve.request("GET", f"/session/{session}/children", directory=directory)
                recording.children[tag] = str(found[0]["id"])
        recording.note_dead(tag)

    def _linger(self, tag: str) -> None:
        """Wait until the log is written, unless OpenCode retries without a pause (old versions: up to 250 a second)."""
        enough = self.recording.tags[tag].attempts + 4
        deadline = time.monotonic() + LINGER
        while time.monotonic() < deadline and (self.recording.asked(tag) <= enough or self._silent):
            time.sleep(0.02)

    def _send(self, tag: str, session: str, directory: Path) -> None:
        scenario = self.recording.tags[tag]
        text = self.recording.prompt(tag)
        parts = model_parts(scenario.model)
        if not self.blocking:
            self.serve.prompt_async(session, text, directory=directory, model=scenario.model, agent=scenario.agent)
            return
        body = {"parts": [{"type": "text", "text": text}], "model": parts, "agent": scenario.agent or "build", **parts}

        def post() -> None:
            with suppress(ServeError, OSError, HTTPException):
                self.serve.request("POST", f"/session/{session}/message", body, directory=directory, timeout=90)

        threading.Thread(target=post, daemon=True).start()

    def _seen_enough(self, tag: str) -> bool:
        scenario = self.recording.tags[tag]
        if scenario.leave:
            return any(t == tag and role == "main" for _, t, role, _, _ in list(self.recording.rows))
        if self._silent:
            return False
        last = scenario.answers[-1]
        return not isinstance(last, Ok | Tool) and self.recording.asked(tag) >= scenario.attempts

    def _finished(self, tag: str, directory: Path) -> bool:
        scenario = self.recording.tags[tag]
        try:
            messages = self.serve.messages(self.recording.sessions[tag], directory)
        except (ServeError, OSError, HTTPException):
            return False
        info = messages[-1]["info"] if messages else {}
        if info.get("role") != "assistant" or not info.get("time", {}).get("completed"):
            return False
        return "error" in info or self.recording.asked(tag) >= len(scenario.answers)


def record_serve(recording: Recording) -> dict[str, bytes]:
    """Play all scenarios, several at a time, and return the logs by name."""
    prepare(recording)
    with Serve(recording.version, recording.home, recording.home.project("webapp")) as serve:
        player = Player(recording, serve)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(player.play, recording.tags))
        time.sleep(LINGER)
    return logs_of(recording.home)


# ---------------------------------------------------------------- run


def record_run(recording: Recording) -> dict[str, bytes]:
    """Play each scenario in a separate process, two at a time. Return the longest version of each log by name."""
    prepare(recording)
    kept: dict[str, bytes] = {}
    lock = threading.Lock()

    def play(tag: str) -> None:
        run_one(recording, tag)
        with lock:  # old versions delete all but about ten log files at every start
            for name, data in logs_of(recording.home).items():
                kept[name] = max(kept.get(name, b""), data, key=len)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(play, recording.tags))
    return kept


def run_one(recording: Recording, tag: str) -> None:
    """Play one scenario in `opencode run`, and end the process after enough requests."""
    scenario = recording.tags[tag]
    home, directory = recording.home, recording.home.project(scenario.directory)
    command = run_command(recording.version, recording.prompt(tag), model=scenario.model, agent=scenario.agent)
    process = start(command, home, directory, home.root / f"run-{tag}.out")
    try:
        deadline = time.monotonic() + 40
        while process.poll() is None and time.monotonic() < deadline:
            refused = not isinstance(scenario.answers[-1], Ok | Tool)
            if refused and recording.asked(tag) >= scenario.attempts:
                time.sleep(LINGER)
                break
            time.sleep(0.1)
    finally:
        stop(process)
    found = session_of(home, tag)
    if found:
        recording.sessions[tag] = found


def session_of(home: Home, tag: str) -> str | None:
    """Return the session whose prompt contains this mark, from the message store."""
    mark = f"(ref {tag})"
    if home.database.exists():
        with sqlite3.connect(f"file:{home.database}?mode=ro", uri=True) as store_:
            query = "select session_id from part where instr(data, ?) order by time_created limit 1"
            row = store_.execute(query, (mark,)).fetchone()
            return str(row[0]) if row else None
    for path in sorted(home.data_dir.rglob("prt_*.json")):
        text = path.read_text(errors="replace")
        if mark in text:
            return str(json.loads(text)["sessionID"])
    return None


# ---------------------------------------------------------------- common


def logs_of(home: Home) -> dict[str, bytes]:
    """Return the content of every log file, by name."""
    return {path.name: path.read_bytes() for path in sorted(home.log_dir.glob("*.log"))}


def prepare(recording: Recording) -> None:
    """Start an old version once (it migrates and clears the cache), then install the pinned SDKs, which it lacks."""
    if recording.numbers >= BUNDLED_FROM:
        return
    with Serve(recording.version, recording.home, recording.home.project("webapp")):
        pass
    shutil.rmtree(recording.home.log_dir, ignore_errors=True)
    cache = recording.home.root / ".cache" / "opencode"
    cache.mkdir(parents=True, exist_ok=True)
    packages = [f"{name}@{version}" for name, version in PINS.items()]
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(cache), *packages]
    subprocess.run(install, check=True)
    # OpenCode keeps an installed package only if package.json asks for it with the same version word.
    (cache / "package.json").write_text(json.dumps({"dependencies": dict.fromkeys(PINS, "latest")}))


def save(recording: Recording, logs: dict[str, bytes], target: Path) -> None:
    """Write logs and labels, replacing an earlier recording."""
    shutil.rmtree(target, ignore_errors=True)
    for name, data in logs.items():
        store(name, clean(data, recording.home.root), target)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in recording.labels())
    (target / "labels.jsonl").write_text(text.replace(str(recording.home.root), HOME))


def record(version: str, mode: str, only: Sequence[str], target: Path) -> None:
    """Record one version and print a summary."""
    binary(version)
    scenarios = [s for s in load() if (not only or s.name in only) and (mode == "serve" or s.run)]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ocwatchd-record-") as scratch, Provider((SMALL,)) as provider:
        recording = Recording(version, Path(scratch), provider, scenarios)
        logs = record_serve(recording) if mode == "serve" else record_run(recording)
        save(recording, logs, target / f"{version}-{mode}")
        silent = [s.name for t, s in recording.tags.items() if not recording.asked(t) and "deadgw" not in s.model]
    limits = sum(row["is_limit"] for row in recording.labels())
    print(
        f"{version}-{mode}: {len(scenarios)} scenarios, {len(recording.rows)} answers, {limits} limits, "
        f"{sum(map(len, logs.values()))} bytes of log, {time.monotonic() - began:.0f} s; never asked: {silent}"
    )


def main() -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", metavar="VERSION")
    parser.add_argument("--run", action="store_true", help="record `opencode run` instead of `serve`")
    parser.add_argument("--only", action="append", default=[], metavar="SCENARIO", help="may be given several times")
    parser.add_argument("--target", type=Path, default=RECORDED, help="directory that gets VERSION-serve, VERSION-run")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the context managers, which end OpenCode
    for version in arguments.versions:
        record(version, "run" if arguments.run else "serve", arguments.only, arguments.target)


if __name__ == "__main__":
    main()
