"""Tests of a restart without an OpenCode: which process and terminal it affects, what is kept, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from ocwatchd.core.domain.moves import MoveResult, Order
from ocwatchd.core.domain.snapshot import Endpoint, SessionSnapshot, SessionState, TcpAddress
from ocwatchd.core.domain.types import ModelRef, Target
from ocwatchd.core.engine.guards import forbidden
from ocwatchd.errors import OcwatchError, OpenCodeUnreachable, UsageError
from ocwatchd.movers.restart import VARIABLE, Restart, StrandedSession, Supervised, find_supervised
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api, Rerun
from ocwatchd.opencode.discovery.endpoints import OpenCodeProcess
from ocwatchd.opencode.discovery.processes import Relative, Running, inspect
from ocwatchd.opencode.discovery.unreachable import Unreached
from ocwatchd.opencode.process.temporary_server import private_server
from ocwatchd.opencode.process.tmux import Again, Pane, TerminalFault, deliver, find_pane, handover, script_of
from ocwatchd.paths import Paths
from tests.integration.fakedoor import listening, routes

NOW = 1_795_000_000.0
SHELL = Relative(40, "bash", ("-bash",))
TMUX = Relative(20, "tmux: server", ("tmux",))


def running(*arguments: str, **more: Any) -> Running:
    """Return a TUI of process 50 in the first pane, typed into the shell of process 40."""
    known: dict[str, Any] = {
        "pid": 50, "created": NOW - 100, "exe": Path("/bin/opencode"), "environ": {"TMUX": "/t/s,20,0"},
        "directory": "/a", "tty": "/dev/pts/7", "above": (SHELL, TMUX),
    }  # fmt: skip
    return Running(**{**known, **more}, arguments=arguments)


# ---- what is kept


@pytest.mark.parametrize(
    ("arguments", "kept", "subcommand"),
    [
        ("", "", None),
        ("-s ses_1 --port 4100 --model a/b", "--port 4100", None),
        ("--session=ses_1 --log-level=DEBUG -c --fork", "--log-level=DEBUG", None),
        (
            "--print-logs ../project --agent x --hostname 127.0.0.1 --mdns",
            "--print-logs --hostname 127.0.0.1 --mdns",
            None,
        ),
        ("--prompt run --log-level INFO", "--log-level INFO", None),
        ("--log-level INFO serve --port 1", "--log-level INFO --port 1", "serve"),
        ("run hello", "", "run"),
        ("attach http://127.0.0.1:1", "", "attach"),
    ],
)
def test_options_of_the_process_are_kept_those_of_the_turn_are_not(
    arguments: str, kept: str, subcommand: str | None
) -> None:
    process = running(*arguments.split())
    assert (" ".join(process.kept()), process.subcommand) == (kept, subcommand)


# ---- which terminal


def panes(*lines: str) -> Any:
    """Return a tmux that lists these panes."""

    def run(command: Sequence[str]) -> str:
        assert command[:4] == ["tmux", "-S", "/t/s", "list-panes"]
        return "\n".join(lines)

    return run


@pytest.mark.parametrize(
    ("above", "root", "found"),
    [
        ((SHELL, TMUX), 40, "bash"),
        ((Relative(45, "node", ("node", "/bin/opencode")), SHELL, TMUX), 40, "bash"),
        ((TMUX,), 50, None),  # the pane's own process
        ((Relative(45, "node", ("node", "/bin/opencode")), TMUX), 45, None),
        ((Relative(40, "zsh", ("zsh", "-c", "opencode; make deploy")), TMUX), 40, "none"),
        ((Relative(40, "bash", ("bash", "work.sh")), TMUX), 40, "none"),
        ((Relative(45, "sh", ("sh", "work.sh")), SHELL, TMUX), 40, "none"),
        ((Relative(45, "bash", ("bash",)), SHELL, TMUX), 40, "none"),  # it is not known which of both gets the keys
        ((SHELL, TMUX), 99, "none"),  # not below this pane
    ],
)
def test_a_pane_is_used_only_if_it_is_known_what_follows(
    above: tuple[Relative, ...], root: int, found: str | None
) -> None:
    process = running(above=above)
    pane = find_pane(process, panes("%1 7 /dev/pts/6", f"%2 {root} /dev/pts/7"))
    assert (pane.shell if pane else "none") == found
    assert pane is None or (pane.server, pane.ident) == ("/t/s", "%2")


def test_no_terminal_no_tmux_no_pane() -> None:
    assert find_pane(running(environ={}), panes("%2 40 /dev/pts/7")) is None
    assert find_pane(running(tty=None), panes("%2 40 /dev/pts/7")) is None
    assert find_pane(running(tty="/dev/pts/9"), panes("%2 40 /dev/pts/7")) is None

    def broken(command: Sequence[str]) -> str:
        raise subprocess.CalledProcessError(1, command)

    assert find_pane(running(), broken) is None


def test_a_pane_of_its_own_is_kept_open_and_put_back() -> None:
    seen: list[list[str]] = []

    def run(command: Sequence[str]) -> str:
        seen.append(list(command[3:]))
        return "\n"

    pane = Pane("/t/s", "%2", None, run)
    with pane.kept_open():
        pane.start("/a b", Path("/x y/pipe"))
    on, respawn, back = seen[1:]
    assert on == ["set-option", "-p", "-t", "%2", "remain-on-exit", "on"]
    assert respawn == ["respawn-pane", "-k", "-c", "/a b", "-t", "%2", "exec sh '/x y/pipe'"]
    assert back == ["set-option", "-p", "-u", "-t", "%2", "remain-on-exit"]


def test_an_old_tmux_that_would_close_the_pane_is_told_before_anything_ends() -> None:
    def run(command: Sequence[str]) -> str:
        raise subprocess.CalledProcessError(1, command)

    with pytest.raises(TerminalFault), Pane("/t/s", "%2", None, run).kept_open():
        raise AssertionError("the block must not begin")


@pytest.mark.parametrize(
    ("named", "above", "found"),
    [
        ("30", (Relative(30, "oc-smart", ("python",)), SHELL), 30),
        ("30", (Relative(45, "node", ("node",)), Relative(30, "oc-smart", ("python",)), SHELL), 30),
        ("30", (SHELL,), None),  # its launcher has ended
        ("30", (SHELL, TMUX, SHELL, Relative(30, "oc-smart", ("python",))), None),  # it launched another OpenCode
        ("1x", (SHELL,), None),
        ("", (SHELL,), None),
    ],
)
def test_a_launcher_is_known_by_its_mark_and_its_place(
    named: str, above: tuple[Relative, ...], found: int | None, tmp_path: Path
) -> None:
    process = running(environ={VARIABLE: named}, above=above)
    terminal = find_supervised(process, tmp_path)
    assert (terminal.launcher if terminal else None) == found


def test_a_launcher_that_does_not_react_is_told(tmp_path: Path) -> None:
    terminal = Supervised(os.getpid(), tmp_path / "state")
    again = Again(Path("/bin/opencode"), ["-s", "ses_1"], "/a", {})
    with terminal.kept_open(again):
        (request,) = (tmp_path / "state").iterdir()
        assert request.stat().st_mode & 0o777 == 0o600
        terminal.withdraw()
        assert not request.exists()
    assert terminal.runs(running(pid=os.getpid()))
    assert not terminal.runs(running(pid=1))


# ---- what is started


def test_the_environment_reaches_the_new_process_and_no_file(tmp_path: Path) -> None:
    awkward = {"KEY": 'it\'s "quoted" $HOME\nand `two` lines', "BASH_FUNC_x%%": "() { :; }", "LONG": "x" * 100_000}
    out = tmp_path / "out.json"
    code = f"import json,os; json.dump([dict(os.environ), os.getcwd()], open({str(out)!r}, 'w'))"
    place = tmp_path / "a b"
    place.mkdir()
    script = script_of(str(place), awkward, [sys.executable, "-c", code])
    with handover(tmp_path) as path:
        assert path.stat().st_mode & 0o777 == 0o600
        reader = subprocess.Popen(["sh", str(path)], env={"PATH": os.environ["PATH"]})
        deliver(script, path)
    assert reader.wait(20) == 0
    environ, cwd = json.loads(out.read_text())
    assert (environ["KEY"], len(environ["LONG"]), cwd) == (awkward["KEY"], 100_000, str(place))
    assert not path.exists()


def test_a_terminal_that_reads_nothing_is_told(tmp_path: Path) -> None:
    with handover(tmp_path) as path, pytest.raises(TerminalFault):
        deliver("exec true", path, limit=0.1)


# ---- its end


@pytest.mark.parametrize(
    ("ignored", "by"), [((), signal.SIGTERM), (("TERM",), signal.SIGHUP), (("TERM", "HUP", "INT"), signal.SIGKILL)]
)
def test_it_is_ended_more_and_more_firmly(ignored: Sequence[str], by: signal.Signals) -> None:
    traps = "".join(f"trap '' {name}; " for name in ignored)
    process = subprocess.Popen(
        ["sh", "-c", f"{traps}echo ready; while :; do sleep 0.02; done"], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        found = inspect(process.pid)
        assert found is not None
        assert found.alive()
        stops = [(number, 2.0) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)]
        assert found.end(stops) is by
        assert not found.alive()
    finally:
        process.kill()
        process.wait()


def test_a_process_that_has_taken_its_number_is_not_touched() -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        found = inspect(process.pid)
        assert found is not None
        assert replace(found, created=found.created - 5).end([(signal.SIGKILL, 0.1)]) is signal.SIGKILL  # gone already
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


def test_a_server_that_ends_at_once_is_told_before_anything_is_touched(tmp_path: Path) -> None:
    program = tmp_path / "opencode"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    with (
        pytest.raises(OpenCodeUnreachable, match="code 3"),
        private_server(program, str(tmp_path), dict(os.environ)),
    ):
        raise AssertionError("the block must not begin")


def test_a_server_is_not_started_any_more_where_the_gate_is_closed(tmp_path: Path) -> None:
    program = tmp_path / "opencode"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)

    class Closed(nullcontext[None]):
        def __enter__(self) -> None:
            raise OpenCodeUnreachable("it ends")

    with pytest.raises(OpenCodeUnreachable, match="it ends"), ExitStack() as stack:
        stack.enter_context(private_server(program, str(tmp_path), dict(os.environ), gate=Closed()))
    assert not (tmp_path / "started").exists()


# ---- which process


def stored(data: Path, ident: str, started: float, directory: str = "/a", **answer: Any) -> None:
    """Write a session whose prompt is answered with this."""
    made = {"created": (started - 1) * 1000, "updated": started * 1000}
    model = {"providerID": "p", "modelID": "m"}
    about = {"id": ident, "directory": directory, "version": "1.1.65", "time": made}
    prompt = {"id": f"msg_1{ident}", "role": "user", "model": model, "agent": "build", "time": made}
    reply = {"id": f"msg_2{ident}", "role": "assistant", "parentID": prompt["id"], **model}
    reply |= {"time": {"created": started * 1000}, **answer}
    storage = data / "storage"
    files = {storage / "session" / "prj" / f"{ident}.json": about}
    files |= {storage / "message" / ident / f"{message['id']}.json": message for message in (prompt, reply)}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(orjson.dumps(content))
        os.utime(path, (started, started))


def unreached(data: Path, *processes: Running) -> Unreached:
    table = {process.pid: process for process in processes}
    listed = [OpenCodeProcess(pid, 1.0, it.directory, data, None, False) for pid, it in table.items()]
    return Unreached(data, lambda: listed, table.get)


def test_the_one_process_that_may_have_begun_it(tmp_path: Path) -> None:
    stored(tmp_path, "ses_1", NOW - 50)
    elsewhere, later = running(pid=51, directory="/b"), running(pid=52, created=NOW - 10)
    one = unreached(tmp_path, running(), elsewhere, later)
    snapshot = one.session("ses_1", NOW)
    assert snapshot is not None
    assert (snapshot.model, snapshot.user_message, snapshot.answer_completed) == (
        ModelRef("p", "m"),
        "msg_1ses_1",
        False,
    )
    assert one.process(snapshot).pid == 50
    assert one.process(snapshot, 50).pid == 50
    for nobody in (51, 52):
        with pytest.raises(OpenCodeUnreachable, match=f"process {nobody} is not an OpenCode process that can be"):
            one.process(snapshot, nobody)


def test_two_are_told_apart_by_evidence_or_not_at_all(tmp_path: Path) -> None:
    stored(tmp_path, "ses_1", NOW - 50)
    launcher = running(pid=49, above=(SHELL,))
    launched = running(above=(Relative(49, "opencode", ("opencode",)), SHELL))
    one = unreached(tmp_path, launcher, launched)
    snapshot = one.session("ses_1", NOW)
    assert snapshot is not None
    assert one.process(snapshot).pid == 50

    helper = running("pm", "ls", "-g", pid=51, above=(Relative(50, "opencode", ("opencode",)),))
    assert unreached(tmp_path, running(), helper).process(snapshot).pid == 50

    with pytest.raises(UsageError, match="--pid 53"):
        unreached(tmp_path, running(), running("--continue", pid=53)).process(snapshot)
    assert unreached(tmp_path, running(), running("-s", "ses_1", pid=53)).process(snapshot).pid == 53
    assert unreached(tmp_path, running(), running(pid=53)).process(snapshot, 53).pid == 53


def stamp(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.mark.parametrize(
    ("began", "level", "pid"),
    [
        (-99.4, "INFO", 50),
        (-69.5, "DEBUG", 53),
        (-10.0, "INFO", None),  # from a process that has ended
        (-69.5, "ERROR", None),  # the first line of a log without INFO is not a start
        (-45.0, "INFO", None),  # 53 and 54 are too close together
    ],
)
def test_a_log_that_all_share_tells_by_the_start_of_its_run(
    tmp_path: Path, began: float, level: str, pid: int | None
) -> None:
    stored(tmp_path, "ses_1", NOW - 30)
    three = unreached(tmp_path, running(), running(pid=53, created=NOW - 70), running(pid=54, created=NOW - 60))
    snapshot = three.session("ses_1", NOW)
    assert snapshot is not None
    (tmp_path / "log").mkdir()
    lines = [(began, level, "cafe0001", "message=init"), (-30, "INFO", "cafe0001", "message=loop session.id=ses_1")]
    text = "".join(f"timestamp={stamp(NOW + at)} level={name} run={run} {rest}\n" for at, name, run, rest in lines)
    (tmp_path / "log" / "opencode.log").write_text("garbage\n" + text)
    if pid is None:
        with pytest.raises(UsageError):
            three.process(snapshot)
    else:
        assert three.process(snapshot).pid == pid


def test_the_start_of_a_process_is_known_to_a_fraction_of_a_second() -> None:
    """Two OpenCodes opened within two seconds were mixed up: the time in the process table is up to a second early."""
    before = time.time()
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        try:
            after = time.time()
            found = inspect(sleeper.pid)
        finally:
            sleeper.kill()
    assert found is not None
    assert before - 0.1 <= found.started <= after + 0.1


def test_only_a_tui_is_restarted(tmp_path: Path) -> None:
    stored(tmp_path, "ses_1", NOW - 50)
    one = unreached(tmp_path, running("run", "hello"))
    snapshot = one.session("ses_1", NOW)
    assert snapshot is not None
    with pytest.raises(UsageError, match="opencode run"):
        one.process(snapshot)


def test_unsettled_sessions_are_those_of_running_projects(tmp_path: Path) -> None:
    error = {"name": "APIError", "data": {"message": "Quota exceeded", "statusCode": 429}}
    stored(tmp_path, "ses_open", NOW - 50)
    stored(tmp_path, "ses_failed", NOW - 60, error=error, time={"created": 1, "completed": (NOW - 55) * 1000})
    stored(tmp_path, "ses_old", NOW - 60, error=error, time={"created": 1, "completed": (NOW - 9000) * 1000})
    stored(tmp_path, "ses_done", NOW - 60, finish="stop", time={"created": 1, "completed": (NOW - 50) * 1000})
    stored(tmp_path, "ses_b", NOW - 50, directory="/b")
    one = unreached(tmp_path, running())
    assert [snapshot.session for snapshot in one.unsettled(NOW)] == ["ses_open", "ses_failed"]
    snapshot = one.session("ses_failed", NOW)
    assert snapshot is not None
    assert [other.session for other in one.others(snapshot, running(), NOW, ())] == ["ses_open"]
    assert one.others(snapshot, running(), NOW, ("ses_open",)) == []


# ---- the move


VIEW = SessionSnapshot("ses_1", "/a", Endpoint(TcpAddress("127.0.0.1", 1)), SessionState.IDLE, user_message="msg_1")
TARGET = Target(ModelRef("q", "n"), "build")


@pytest.mark.parametrize(
    ("changes", "own_abort", "result"),
    [
        ({"answer": "msg_2"}, True, None),  # left open by the process that we ended
        ({"answer": "msg_2"}, False, MoveResult.REFUSED),
        ({"answer": None}, True, None),
        ({"answer": "msg_0", "answer_completed": True, "queued": 1}, True, None),
        ({"answer": "msg_2", "answer_completed": True}, True, MoveResult.ALREADY),
    ],
)
def test_what_an_ended_process_leaves_behind_may_be_run_again(
    changes: dict[str, Any], own_abort: bool, result: MoveResult | None
) -> None:
    ruling = forbidden(Order(VIEW, TARGET, own_abort=own_abort), replace(VIEW, **changes))
    assert (ruling.result if ruling else None) is result


def test_a_prompt_is_addressed_without_being_run() -> None:
    body = orjson.loads(Rerun("msg_1", TARGET.model, "build", {"system": "Be brief"}, only_address=True).body())
    assert (body["noReply"], body["parts"], body["system"], body["messageID"]) == (True, [], "Be brief", "msg_1")
    assert "noReply" not in orjson.loads(Rerun("msg_1", TARGET.model, None, {}).body())


@pytest.mark.parametrize(
    ("version", "methods", "deleted"),
    [("1.3.2", None, True), ("1.2.27", ["get", "delete"], True), ("1.1.65", ["get"], False)],
)
def test_a_message_is_deleted_only_where_that_is_a_route(
    version: str, methods: list[str] | None, deleted: bool
) -> None:
    seen: list[str] = []
    table: dict[str, Any] = {"/session/ses_1/message/msg_2": True}
    if methods:
        described: dict[str, Any] = {method: {} for method in methods}
        others: dict[str, Any] = {"/session/{id}": {"delete": {}}}
        table["/doc"] = {"paths": {"/session/{sessionID}/message/{messageID}": described, **others}}
    with listening(routes(table, seen)) as endpoint:
        assert Api(endpoint).forget(Session("ses_1", "/a", version=version), "msg_2") is deleted
    assert any(line.startswith("DELETE") for line in seen) is deleted


def test_the_plugin_is_added_to_what_the_environment_already_says(tmp_path: Path) -> None:
    paths = Paths(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path)
    said = json.dumps({"plugin": ["theirs"], "theme": "x"})
    pane = Pane("/t/s", "%2", None)
    process = running(environ={"OPENCODE_CONFIG_CONTENT": said, "HOME": "/h"})
    stranded = StrandedSession(VIEW, process, pane)
    environ = stranded.again(Path("/p/rate-limit-fallback.js")).environ
    content = json.loads(environ["OPENCODE_CONFIG_CONTENT"])
    assert content == {"plugin": ["theirs", "file:///p/rate-limit-fallback.js"], "theme": "x"}
    assert stranded.again(None).environ["OPENCODE_CONFIG_CONTENT"] == said
    with pytest.raises(OcwatchError, match="plugin install"):
        Restart(
            paths,
            StrandedSession(VIEW, replace(process, environ={"OPENCODE_CONFIG_CONTENT": "[1]"}), pane),
            Path("/p/x.js"),
        )


def test_the_command_for_a_person_can_be_typed_as_it_stands() -> None:
    stranded = StrandedSession(replace(VIEW, directory="/a b"), running("--port", "1", "-s", "ses_0"), None)
    assert stranded.by_hand() == "cd '/a b' && opencode --port 1 -s ses_1"
    assert (str(stranded.again(None).program), stranded.again(None).words) == (
        "/bin/opencode",
        ["--port", "1", "-s", "ses_1"],
    )
