"""`oc-smart run` on real OpenCode: a limit costs time, never the answer."""

from __future__ import annotations

import json
import random
import signal
import time

import pytest

from tests.support.daemon import Daemon, epoch
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
    plain = smart.plain("run", "hello")
    done = smart.run("run", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert "answer of mock/primary" in done.stdout
    piped = smart.run("run", input="from a pipe")
    assert piped.stdout == plain.stdout
    assert provider.requests("mock/primary")[-1].count("from a pipe") == 1
    provider.script("mock/primary", error(401, {"error": {"message": "Invalid key", "type": "auth"}}))
    plain, done = smart.plain("run", "hello"), smart.run("run", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (plain.returncode, plain.stdout, plain.stderr)
    assert not smart.left_behind()


def test_limited_at_the_first_request(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", limited(3600))
    done = smart.run("run", "say it once")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert [r.count("say it once") for r in provider.requests("mock2/fallback")] == [1]
    assert "mock/primary is limited until" in done.stderr
    assert smart.cooldowns()["mock/primary"]["strikes"] == 1
    assert not smart.left_behind()
    before = asked(provider, "mock/primary")
    again = smart.run("run", "--format", "json", "once more")
    assert again.returncode == 0
    assert [json.loads(line)["type"] for line in again.stdout.splitlines()][-1] == "step_finish"
    assert asked(provider, "mock/primary") == before


def test_limited_after_a_tool_call(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", after_tool(bash("echo side >> side.txt"), limited(3600)))
    done = smart.run("run", "--format", "json", "use the tool")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0
    assert [event["part"]["text"] for event in events if event["type"] == "text"] == ["answer of mock2/fallback"]
    assert [event["type"] for event in events].count("tool_use") == 1
    assert (smart.cwd / "side.txt").read_text() == "side\n"
    assert provider.requests("mock2/fallback")[-1].ends_with_tool_result
    assert len({event["sessionID"] for event in events}) == 1


def test_two_targets_limited_as_well(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", limited(3600))
    done = smart.run("run", "go on")
    assert (done.returncode, done.stdout) == (0, "answer of mock3/third\n")
    assert [r.count("go on") for r in provider.requests("mock3/third")] == [1]
    assert set(smart.cooldowns()) == {"mock/primary", "mock2/fallback"}
    assert not smart.left_behind()


def test_everything_limited(provider: Provider, smart: Smart) -> None:
    for model in ALL:
        provider.script(model, limited(3600))
    done = smart.run("run", "hello")
    assert (done.returncode, done.stdout) == (75, "")
    assert "every model is cooling" in done.stderr and "until" in done.stderr
    before = [asked(provider, model) for model in ALL]
    again = smart.run("run", "hello")
    assert (again.returncode, again.stdout) == (75, "")
    assert "until" in again.stderr
    assert [asked(provider, model) for model in ALL] == before
    assert not smart.left_behind()


def test_a_short_wait_is_left_to_opencode(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", in_turn(limited(2), ok()))
    done = smart.run("run", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    assert asked(provider, "mock2/fallback") == 0


def test_a_retry_after_that_says_nothing(provider: Provider, home: Home, version: str) -> None:
    smart = Smart(home, version, maxRetries=1)
    provider.script("mock/primary", in_turn(limited("soon, perhaps"), limited("-3600"), limited("NaN")))
    began = time.time()
    done = smart.run("run", input="say it once, from a pipe")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert [r.count("say it once, from a pipe") for r in provider.requests("mock2/fallback")] == [1]
    entry = smart.cooldowns()["mock/primary"]
    assert began < epoch(entry["until"]) < time.time() + 3600, "a guess of ours"
    assert entry["told_by"] != "retry-after"
    assert not smart.left_behind()


def test_a_final_refusal_is_moved_too(provider: Provider, smart: Smart, version: str) -> None:
    provider.script("mock/primary", error(402, {"error": {"message": "Insufficient credits", "type": "billing"}}))
    for options in ((), ("--pure",)) if version == NEWEST else ((),):  # no older one has it
        done = smart.run("run", *options, "hello")
        assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
        assert smart.cooldowns()["mock/*"]["kind"] == "billing"
        (smart.home.root / ".local/state/ocwatchd/blacklist.json").unlink(missing_ok=True)
    assert asked(provider, "mock/primary") == (2 if version == NEWEST else 1)


def test_ctrl_c_leaves_nothing_behind(provider: Provider, smart: Smart) -> None:
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", Hang())
    register = smart.home.root / ".local/state/ocwatchd/blacklist.json"
    for moment in ("mock/primary", "mock2/fallback", *(random.uniform(0.3, 8.0) for _ in range(2))):
        process = smart.start("run", "hello")
        if isinstance(moment, str):
            seen = asked(provider, moment)
            wait_until(
                lambda seen=seen, moment=moment: asked(provider, moment) > seen, 90, why=f"a request to {moment}"
            )
        time.sleep(0.2 if isinstance(moment, str) else moment)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode in (-signal.SIGINT, 130), out) == (True, ""), (moment, process.returncode, err)
        assert "Traceback" not in err, (moment, err)
        wait_until(lambda: not smart.left_behind(), 20, why=f"the end of every process, at {moment}")
        register.unlink(missing_ok=True)
    process = smart.start("run", "hello")
    seen = asked(provider, "mock2/fallback")
    wait_until(lambda: asked(provider, "mock2/fallback") > seen, 90, why="the private server's request")
    process.kill()
    process.wait()
    wait_until(lambda: not smart.left_behind(), 20, why="the end of child and private server")


def test_wait_waits_for_the_soonest(provider: Provider, home: Home, version: str) -> None:
    smart = Smart(home, version, {"mock/primary": "mock2/fallback"}, maxDelay=0)
    provider.script("mock/primary", in_turn(limited(8), ok()))
    provider.script("mock2/fallback", limited(3600))
    done = smart.run("run", "--wait", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    first, second = provider.requests("mock/primary")
    assert second.wall - first.wall >= 7.9


def test_with_the_daemon_up_only_one_of_the_two_moves(provider: Provider, home: Home) -> None:
    provider.script("mock/primary", limited(3600))
    with Daemon(home) as daemon:
        smart = Smart(home, MIDDLE, chain=None)
        done = smart.run("run", "say it once")
        assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
        assert [r.count("say it once") for r in provider.requests("mock2/fallback")] == [1]
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
def test_a_client_of_another_server_gets_the_answer_of_the_daemons_move(
    version: str, provider: Provider, home: Home
) -> None:
    smart = Smart(home, version, chain=None)
    provider.script("mock/primary", limited(3600))
    provider.script("mock2/fallback", slow("said elsewhere", 2.0))
    with Daemon(home) as daemon, Serve(version, home, smart.cwd) as serve:
        done = smart.run("run", "--attach", serve.url, "say it once")
        assert (done.returncode, done.stdout) == (0, "said elsewhere\n")
        assert [r.count("say it once") for r in provider.requests("mock2/fallback")] == [1]
        assert len(daemon.journal("claim")) == 1
        done = smart.run("run", "--attach", serve.url, "--format", "json", "-m", "mock3/third", "say more")
        assert done.returncode == 0
        assert [json.loads(line)["type"] for line in done.stdout.splitlines()][-1] == "step_finish"


def test_no_fallback_is_opencodes_own_affair(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    provider.script("mock/primary", in_turn(limited(2), ok()))
    done = smart.run("run", "--no-fallback", "hello")
    assert (done.returncode, done.stdout) == (0, "answer of mock/primary\n")
    smart.block(**{"mock/primary": {"until": "2099-01-01T00:00:00Z"}})
    done = smart.run("run", "--no-fallback", "hello")
    assert (done.returncode, done.stdout, asked(provider, "mock/primary")) == (75, "", 2)


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

    (smart.home.root / ".local/state/ocwatchd/blacklist.json").unlink(missing_ok=True)
    done = smart.run("run", "--format", "json", "-s", session, "--fork", "in a fork")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, events[-1]["sessionID"] != session) == (0, True)
    assert "answer of mock2/fallback" in [event["part"].get("text") for event in events]

    (smart.home.root / ".local/state/ocwatchd/blacklist.json").unlink(missing_ok=True)
    (home.config_dir / "command").mkdir()
    (home.config_dir / "command" / "greet.md").write_text("---\ndescription: greets\n---\nGreet $ARGUMENTS warmly")
    done = smart.run("run", "--command", "greet", "the", "world")
    assert (done.returncode, done.stdout) == (0, "answer of mock2/fallback\n")
    assert provider.requests("mock2/fallback")[-1].count("Greet the world") == 1
    assert not smart.left_behind()


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


def test_ten_at_once_share_what_the_first_learns(provider: Provider, home: Home) -> None:
    smart = Smart(home, MIDDLE)
    assert smart.plain("run", "warm up").returncode == 0  # the database's first start may not be shared
    before = asked(provider, "mock/primary")
    provider.script("mock/primary", limited(3600))
    running = []
    for number in range(10):
        running.append(smart.start("run", f"prompt {number}."))
        time.sleep(0.7)  # as a script's loop starts them; what is sent within a second of the first nobody can know
    said = [process.communicate(timeout=270) for process in running]
    assert [process.returncode for process in running] == [0] * 10, said
    assert [out for out, _ in said] == ["answer of mock2/fallback\n"] * 10
    moved = provider.requests("mock2/fallback")
    assert [sum(r.count(f"prompt {number}.") for r in moved) for number in range(10)] == [1] * 10
    first, *more = provider.requests("mock/primary")[before:]
    print(f"requests to the limited model: {1 + len(more)}, after {[round(r.wall - first.wall, 2) for r in more]} s")
    assert len(more) < 5, "1 in all where it was measured"
    assert not smart.left_behind()
    seen = asked(provider, "mock/primary")
    assert smart.run("run", "one more").returncode == 0
    assert asked(provider, "mock/primary") == seen
