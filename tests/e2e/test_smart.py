"""Tests of `oc-smart run` on real OpenCode: a limit costs time, never the answer."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from itertools import pairwise

import pytest

from ocwatchd.core.engine.decide import RUN_RECHECK
from tests.support.daemon import Daemon, epoch, settle
from tests.support.homes import Home
from tests.support.opencode import MIDDLE, NEWEST, Serve, wait_until
from tests.support.provider import (
    Answer,
    Hang,
    Provider,
    Request,
    after_tool,
    bash,
    error,
    in_turn,
    limited,
    midstream,
    ok,
    slow,
    tool,
)
from tests.support.smart import Smart

pytestmark = pytest.mark.e2e
ALL = ("mock/primary", "mock2/fallback", "mock3/third")


@pytest.fixture(params=(NEWEST, MIDDLE, "1.1.65"))
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def smart(home: Home, version: str) -> Smart:
    return Smart(home, version)


def asked(provider: Provider, model: str) -> int:
    return len(provider.requests(model))


def test_without_a_limit_nothing_differs(provider: Provider, smart: Smart) -> None:
    smart.plain("run", "the first start makes the database, and says so")
    plain, done = smart.plain("run", input="from a pipe"), smart.run("run", input="from a pipe")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert done.stdout == "answer of mock/primary\n"
    assert provider.requests("mock/primary")[-1].count("from a pipe") == 1
    provider.script("mock/primary", error(401, {"error": {"message": "Invalid key", "type": "auth"}}))
    plain, done = smart.plain("run", "hello"), smart.run("run", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert not smart.left_behind()


def test_limited_at_the_first_request_then_after_a_tool_call_then_everywhere(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", limited(3600))
    done = smart.run("run", "say it once")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert [r.count("say it once") for r in provider.requests("mock2/fallback")] == [1]
    assert "mock/primary is limited until" in done.stderr
    assert smart.cooldowns()["mock/primary"]["strikes"] == 1
    assert not smart.left_behind()

    smart.forget()
    look = "Let me look first."
    provider.script("mock/primary", after_tool(bash("echo side >> side.txt", said=look), limited(3600)))
    provider.script("mock2/fallback", limited(3600))
    done = smart.run("run", "--format", "json", "use the tool")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [event["part"]["text"] for event in events if event["type"] == "text"] == [look, "answer of mock3/third"]
    assert [event["type"] for event in events].count("tool_use") == 1
    assert (smart.cwd / "side.txt").read_text() == "side\n"
    assert [(r.count("use the tool"), r.ends_with_tool_result) for r in provider.requests("mock3/third")] == [(1, True)]
    assert len({event["sessionID"] for event in events}) == 1
    assert set(smart.cooldowns()) == {"mock/primary", "mock2/fallback"}

    before = asked(provider, "mock/primary"), asked(provider, "mock2/fallback")
    again = smart.run("run", "--format", "json", "once more")
    assert again.returncode == 0
    assert [json.loads(line)["type"] for line in again.stdout.splitlines()][-1] == "step_finish"
    assert (asked(provider, "mock/primary"), asked(provider, "mock2/fallback")) == before

    smart.forget()  # output from before the limit is withdrawn where that is possible
    provider.script("mock3/third", limited(3600))
    done = smart.run("run", "use the tool")
    assert (done.returncode, done.stdout, (smart.cwd / "side.txt").read_text()) == (75, "", "side\nside\n")
    assert "every model is cooling" in done.stderr and "until" in done.stderr
    before = [asked(provider, model) for model in ALL]
    again = smart.run("run", "hello")
    assert (again.returncode, again.stdout) == (75, "")
    assert "until" in again.stderr
    assert [asked(provider, model) for model in ALL] == before
    assert not smart.left_behind()


def test_waits_garbage_and_final_refusals(provider: Provider, home: Home, version: str) -> None:
    smart = Smart(home, version)
    provider.script("mock/primary", in_turn(limited(2), ok()))
    done = smart.run("run", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    assert asked(provider, "mock2/fallback") == 0

    smart.forget()
    smart = Smart(home, version, maxRetries=1)
    before = asked(provider, "mock2/fallback")
    provider.script("mock/primary", in_turn(limited("soon, perhaps"), limited("-3600"), limited("NaN")))
    provider.script("mock2/fallback", ok())
    began = time.time()
    done = smart.run("run", input="say it once, from a pipe")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert [r.count("say it once, from a pipe") for r in provider.requests("mock2/fallback")[before:]] == [1]
    entry = smart.cooldowns()["mock/primary"]
    assert began < epoch(entry["until"]) < time.time() + 3600, "a guess of ours"
    assert entry["reset_source"] != "retry-after"

    before = asked(provider, "mock/primary")
    provider.script("mock/primary", error(402, {"error": {"message": "Insufficient credits", "type": "billing"}}))
    smart.forget()
    done = smart.run("run", *(["--pure"] if version == NEWEST else []), "hello")  # older versions do not have it
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert smart.cooldowns()["mock/*"]["kind"] == "billing"
    assert asked(provider, "mock/primary") - before == 1
    assert not smart.left_behind()


@pytest.mark.parametrize(
    ("version", "moment"),
    [(NEWEST, "mock2/fallback"), (MIDDLE, "mock/primary"), ("1.1.65", "mock2/fallback")],
)
def test_ctrl_c_leaves_nothing_behind(provider: Provider, smart: Smart, moment: str) -> None:
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", Hang())

    def begun(at: str) -> subprocess.Popen[str]:
        smart.forget()
        process, seen = smart.start("run", "hello"), asked(provider, at)
        wait_until(lambda: asked(provider, at) > seen, 90, why=f"a request to {at}")
        return process

    for anywhere in (None, random.uniform(0.3, 6.0)):
        process = begun(moment) if anywhere is None else smart.start("run", "hello")
        time.sleep(0.2 if anywhere is None else anywhere)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode in (-signal.SIGINT, 130), out) == (True, ""), (anywhere, process.returncode, err)
        assert "Traceback" not in err, (anywhere, err)
        wait_until(lambda: not smart.left_behind(), 60, why=f"the end of every process, after {anywhere or moment}")
    if moment == "mock2/fallback":
        process = begun(moment)
        process.kill()
        process.wait()
        wait_until(lambda: not smart.left_behind(), 60, why="the end of child and private server")


def test_with_the_daemon_up_only_one_of_the_two_moves(provider: Provider, home: Home) -> None:
    provider.script("mock/primary", limited(3600))
    with Daemon(home) as daemon:
        smart = Smart(home, MIDDLE, chain=None)
        done = smart.run("run", "say it once")
        assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
        assert [r.count("say it once") for r in provider.requests("mock2/fallback")] == [1]
        # `oc-smart` may have entered it early; the daemon counts it when it is logged, up to a second late.
        wait_until(lambda: daemon.wait_cooldown("mock/primary")["strikes"], why="the daemon's strike")
        settle(1)
        entry = daemon.wait_cooldown("mock/primary")
        assert (entry["strikes"], entry["kind"]) == (1, "rate_limit")
        assert [entry.get("by") for entry in daemon.wait_journal("moved")] == ["oc-smart"]
        assert len(daemon.journal("claim")) == 1
        provider.script("mock2/fallback", limited(3600))
        provider.script("mock3/third", limited(3600))
        done = smart.run("run", "hello")
        assert (done.returncode, done.stdout) == (75, "")
        before = [asked(provider, model) for model in ALL]
        assert smart.run("run", "hello").returncode == 75
        assert [asked(provider, model) for model in ALL] == before


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_run_that_was_moved_stays_moved_in_history_and_its_wait_counts_as_saved(
    provider: Provider, home: Home, version: str
) -> None:
    """The daemon leaves an `opencode run` alone and probes again after 30 s, when `oc-smart` has long moved it.

    The run has ended by then. Another OpenCode of the same project shows its session, with the fallback's answer.
    """
    provider.script("mock/primary", limited(3600))
    smart = Smart(home, version)
    with Daemon(home) as daemon, Serve(version, home, smart.cwd):
        settle(3)  # time for the daemon to find the server
        done = smart.run("run", "say it once")
        assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
        assert [entry.get("by") for entry in daemon.wait_journal("moved")] == ["oc-smart"]
        settle(RUN_RECHECK + 5)
        assert daemon.journal("went_on") == daemon.journal("already") == []
        report = json.loads(daemon.ocwatch("report", "--json").stdout)
        (limited_model,) = [one for one in report["models"] if one["model"] == "mock/primary"]
        assert limited_model["saved_seconds"] + limited_model["to_come_seconds"] > 3000
        entry = daemon.wait_cooldown("mock/primary")
        assert entry["reset_source"] != "estimate"
        assert 3500 < epoch(entry["until"]) - epoch(entry["since"]) < 3700


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_client_of_another_server_is_moved_once_with_the_daemon_and_without(
    version: str, provider: Provider, home: Home
) -> None:
    home.environment = {"OPENCODE_SERVER_PASSWORD": "pass word"}
    smart = Smart(home, version)
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", slow("said elsewhere", 1.0))
    journal = home.root / ".local/state/ocwatchd/journal.jsonl"

    def claims() -> list[str]:
        entries = [json.loads(line) for line in journal.read_text().splitlines()]
        return [entry.get("by", "daemon") for entry in entries if entry["what"] == "claim"]

    with Serve(version, home, home.project("elsewhere", git=True), password="pass word") as serve:
        attach = ("run", "--attach", serve.url)
        done = smart.run(*attach, "say it", 'to "one" client')
        assert (done.returncode, done.stdout) == (0, "said elsewhere\n")
        assert [r.count("say it") for r in provider.requests("mock2/fallback")] == [1]
        assert claims() == ["oc-smart"]
        smart.forget()
        with Daemon(home):
            done = smart.run(*attach, "--format", "json", "say more")
            assert done.returncode == 0
            events = [json.loads(line) for line in done.stdout.splitlines()]
            assert [e["part"]["text"] for e in events if e["type"] == "text"] == ["said elsewhere"]
            assert claims() == ["oc-smart", "daemon"]
        smart.forget()
        provider.script("mock2/fallback", limited(3600))
        provider.script("mock3/third", limited(3600))
        done = smart.run(*attach, "hello")
        assert (done.returncode, done.stdout) == (75, "")
        assert not any(status["type"] == "retry" for status in serve.status().values()), "it asks for nobody"
    assert not smart.left_behind()


def test_no_fallback_is_opencodes_own_affair_and_wait_waits(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    provider.script("mock/primary", in_turn(limited(2), ok()))
    done = smart.run("run", "--no-fallback", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    smart.block(**{"mock/primary": {"until": "2099-01-01T00:00:00Z"}})
    done = smart.run("run", "--no-fallback", "hello")
    assert (done.returncode, done.stdout, asked(provider, "mock/primary")) == (75, "", 2)

    smart.forget()
    smart = Smart(home, MIDDLE, {"mock/primary": "mock2/fallback"}, maxDelay=0)
    before = asked(provider, "mock/primary")
    provider.script("mock/primary", in_turn(limited(4), ok()))
    provider.script("mock2/fallback", limited(3600))
    done = smart.run("run", "--wait", "wait for the soonest")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    first, second = provider.requests("mock/primary")[before:]
    assert second.wall - first.wall >= 3.9


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_wait_runs_the_prompt_again_as_often_as_the_daemon_would(provider: Provider, home: Home, version: str) -> None:
    smart = Smart(home, version, {"mock/primary": []}, maxResumes=2)
    words = json.dumps({"error": {"message": "Usage limit reached, resets in 3 seconds", "code": "usage"}})
    provider.script("mock/primary", error(403, words))
    done = smart.run("run", "--wait", "wait twice")
    assert (done.returncode, done.stdout) == (75, "")
    assert "run again 2 times in a row" in done.stderr
    times = [request.wall for request in provider.requests("mock/primary") if request.count("wait twice")]
    assert len(times) == 3, "once, and two more times"
    assert all(later - sooner >= 2.9 for sooner, later in pairwise(times))


def test_a_session_goes_on_with_attachment_and_command_line(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    first = smart.run("run", "--format", "json", "the first prompt")
    session = json.loads(first.stdout.splitlines()[0])["sessionID"]
    provider.script("mock/primary", limited(3600))
    (smart.cwd / "notes.txt").write_text("attached words")
    done = smart.run("run", "-s", session, "the second prompt", "-f", "notes.txt")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    moved = provider.requests("mock2/fallback")[-1]
    assert (moved.count("the first prompt"), moved.count("the second prompt")) == (1, 1)
    assert "attached words" in json.dumps(moved.body)
    again = smart.run("run", "-c", "--agent", "claude-primary", "the third prompt")
    assert (again.returncode, again.stdout) == (0, "answer of mock2/fallback\n")
    assert provider.requests("mock2/fallback")[-1].count("the first prompt") == 1

    smart.forget()
    done = smart.run("run", "--format", "json", "-s", session, "--fork", "in a fork")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, events[-1]["sessionID"] != session) == (0, True)
    assert "answer of mock2/fallback" in [event["part"].get("text") for event in events]

    smart.forget()
    (home.config_dir / "command").mkdir()
    (home.config_dir / "command" / "greet.md").write_text("---\ndescription: greets\n---\nGreet $ARGUMENTS warmly")
    done = smart.run("run", "--command", "greet", "the", "world")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert provider.requests("mock2/fallback")[-1].count("Greet the world") == 1
    assert not smart.left_behind()


@pytest.mark.parametrize("version", [NEWEST, MIDDLE])
def test_a_fallback_that_is_an_agent_starts_that_agent(provider: Provider, home: Home, version: str) -> None:
    home.agents = {**home.agents, "claude-fallback": {**home.agents["claude-fallback"], "prompt": "WORDS OF THE AGENT"}}
    home.write_config()
    smart = Smart(home, version, {"mock/primary": ["claude-fallback"]}, models={"claude-fallback": "mock2/fallback"})
    smart.block(**{"mock/primary": {"until": "2099-01-01T00:00:00Z"}})
    done = smart.run("run", "-m", "mock/primary", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert "WORDS OF THE AGENT" in json.dumps(provider.requests("mock2/fallback")[-1].body)
    plain = smart.run("run", "hello")
    assert (plain.returncode, plain.stdout) == (0, "answer of mock2/fallback\n")
    assert "WORDS OF THE AGENT" in json.dumps(provider.requests("mock2/fallback")[-1].body)
    kept = smart.run("run", "-m", "mock/primary", "--agent", "plan", "hello")
    assert (kept.returncode, kept.stdout) == (0, "answer of mock2/fallback\n")
    assert "WORDS OF THE AGENT" not in json.dumps(provider.requests("mock2/fallback")[-1].body)


def test_an_error_in_the_middle_of_an_answer(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE, retry={"enabled": False})
    provider.script("mock/primary", midstream({"error": {"type": "overloaded_error", "message": "Overloaded"}}))
    done = smart.run("run", "hello")
    assert done.returncode == 0
    assert done.stdout.endswith("answer of mock2/fallback\n")


def test_a_limited_subagent_is_moved_with_the_run(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    call = tool("task", description="Look around", prompt="SUBTASK: look", subagent_type="general")

    def primary(request: Request) -> Answer:
        return limited(3600) if "SUBTASK" in request.prompt else call

    provider.script("mock/primary", primary)
    provider.script("mock2/fallback", lambda r: ok("subtask done") if "SUBTASK" in r.prompt else ok("all done"))
    done = smart.run("run", "delegate it")
    assert done.returncode == 0
    assert done.stdout == "all done\n"
    assert not smart.left_behind()


EARLY = 5
"""Number of runs that may start before the first limit is known."""


def test_ten_at_once_share_what_the_first_learns(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    assert smart.plain("run", "warm up").returncode == 0  # creates the database, once
    before = asked(provider, "mock/primary")
    provider.script("mock/primary", limited(3600))
    running = []
    for number in range(10):
        if number == EARLY:  # on a busy machine, OpenCode may need longer for its start than the others for theirs
            wait_until(lambda: "mock/primary" in smart.cooldowns(), why="the first limit")
        running.append(smart.start("run", f"prompt {number}."))
        time.sleep(0.7)  # as in a loop of a script; the first limit is not known within its first second
    said = [process.communicate(timeout=270) for process in running]
    assert [process.returncode for process in running] == [0] * 10, said
    assert [out for out, _ in said] == ["answer of mock2/fallback\n"] * 10
    moved = provider.requests("mock2/fallback")
    assert [sum(r.count(f"prompt {number}.") for r in moved) for number in range(10)] == [1] * 10
    limited_requests = provider.requests("mock/primary")[before:]
    print(f"requests to the limited model: {len(limited_requests)}")
    late = [f"prompt {number}." for number in range(EARLY, 10)]
    assert [text for text in late if any(request.count(text) for request in limited_requests)] == []
    assert len(limited_requests) <= EARLY, "each asks once at most"
    assert not smart.left_behind()
    seen = asked(provider, "mock/primary")
    assert smart.run("run", "one more").returncode == 0
    assert asked(provider, "mock/primary") == seen
