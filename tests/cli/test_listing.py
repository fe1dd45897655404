"""Tests of `ocwatch status` and `ocwatch cooldowns`."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys

import pytest

from ocwatchd.cli.commands.status import session_table, status
from ocwatchd.cli.output.render import columns, table
from ocwatchd.opencode.discovery.earlier import EarlierProcess
from tests.cli.conftest import Cli, at, resting, store
from tests.support.pty import Pty

ENTRY_KEYS = {
    "model", "kind", "scope", "since", "until", "remaining_seconds", "strikes", "reset_source", "rule", "reason",
    "session",
    "target",
}  # fmt: skip
STATUS_KEYS = {
    "version", "time", "state", "up", "pid", "started", "uptime_seconds", "beat", "beat_age_seconds", "following",
    "cooldowns", "sessions", "forecasts", "plan_windows", "health", "remedy", "configuration", "endpoints",
    "earlier", "serves_all", "unknown_models", "without_fallback",
}  # fmt: skip


def test_down_is_one_sentence_with_the_remedy_and_3(cli: Cli) -> None:
    done = cli("status")
    assert (done.returncode, done.stdout) == (3, "ocwatchd is not running; start it with: ocwatch up\n")
    document = cli.json("status", code=3)
    assert set(document) == STATUS_KEYS
    assert (document["state"], document["up"], document["pid"]) == ("down", False, None)
    assert not cli.paths.state_dir.exists()


def test_up_and_hearing(cli: Cli) -> None:
    cli.heartbeat(
        following=["/logs/opencode.log"],
        sessions=[{"session": "ses_1", "phrase": "waits 20 s for openai/gpt-5"}],
        health=["cannot read /logs/old.log"],
    )
    cli.register(**{"openai/gpt-5": resting(20)})
    done = cli("status")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"ocwatchd is up (pid {os.getpid()}, since ")
    assert lines[0].endswith("follows 1 log.")
    assert any("openai/gpt-5" in line and "rate limit" in line for line in lines)
    assert lines[lines.index("ses_1") + 1].endswith("waits 20 s for openai/gpt-5")
    assert lines[-3:] == ["# cannot read /logs/old.log", "", "next: ocwatch doctor (see what to do)"]
    document = cli.json("status")
    assert set(document) == STATUS_KEYS
    assert (document["state"], document["up"], document["pid"], document["remedy"]) == ("up", True, os.getpid(), None)
    assert 299 < document["uptime_seconds"] < 330
    nothing = dict.fromkeys(("title", "directory", "updated", "model"))
    assert document["sessions"] == [{"session": "ses_1", "phrase": "waits 20 s for openai/gpt-5", **nothing}]
    assert [entry["model"] for entry in document["cooldowns"]] == ["openai/gpt-5"]


def test_an_opencode_that_cannot_be_served_is_said_and_5(cli: Cli) -> None:
    told = {"pid": os.getpid(), "address": "127.0.0.1:1", "generation": 2, "plugin": False, "trouble": "it is too new"}
    gone = {**told, "pid": 2**22 + 7, "trouble": "it has ended"}
    cli.heartbeat(following=["/logs/opencode.log"], endpoints=[told, gone])
    done = cli("status")
    assert (done.returncode, "follows" in done.stdout) == (5, False)
    told_line, empty, step = done.stdout.splitlines()[-3:]
    assert (told_line, empty) == (f"# OpenCode {os.getpid()}: it is too new", "")
    assert step == "next: ocwatch doctor (see what to do)"
    document = cli.json("status", code=5)
    assert (document["up"], document["serves_all"], document["endpoints"]) == (True, False, [told])
    line = cli("statusline")
    assert (line.returncode, line.stdout) == (5, "OpenCode not served\n")
    assert cli("statusline", "--format", "{state} {daemon}").stdout == "unserved up\n"
    cli.heartbeat(following=["/logs/opencode.log"], endpoints=[{**told, "trouble": None}])
    assert (cli("status").returncode, cli("statusline").returncode) == (0, 0)


def earlier(**changes: object) -> dict[str, object]:
    """Return an entry of the heartbeat's list of processes without the companion plugin."""
    known = {"pid": os.getpid(), "terminal": "/dev/pts/7", "directory": "/shop", "session": "ses_1", "title": "Fix it"}
    told = {"restart": "cd /shop && opencode -s ses_1", "pure": False, "started": at(-600), "way": "quit it, then type"}
    why, place = "was started before the companion plugin was installed", "OpenCode 50 (pts/7, /shop, session “Fix it”)"
    return {**known, **told, "place": place, "why": why, **changes}


def test_an_opencode_without_the_plugin_is_named_with_its_restart(cli: Cli) -> None:
    one = earlier()
    cli.heartbeat(following=["/logs/opencode.log"], earlier=[one])
    done = cli("status", COLUMNS="200")
    assert done.returncode == 0
    assert done.stdout.splitlines()[2:] == [
        "",
        "# OpenCode 50 (pts/7, /shop, session “Fix it”) was started before the companion plugin was installed, so its "
        "sessions cannot be moved. To restart it with the plugin, quit it, then type:",
        "    cd /shop && opencode -s ses_1",
        "",
        "next: restart the OpenCode processes named above (until then, their sessions cannot be moved)",
    ]
    document = cli.json("status")
    hidden = {key: value for key, value in one.items() if key not in ("place", "way")}
    assert document["earlier"] == [{**hidden, "model": None, "limit": None}]
    assert document["serves_all"] is False
    (cli.paths.state_dir / "doors").mkdir()
    (cli.paths.state_dir / f"doors/{os.getpid()}.json").write_text("{}")  # the plugin was loaded since the heartbeat
    assert (cli.json("status")["earlier"], cli.json("status")["serves_all"]) == ([], True)


def test_a_plugin_that_is_not_installed_is_named_with_the_command_that_installs_it(cli: Cli) -> None:
    process = EarlierProcess(os.getpid(), None, "/shop", "", "", None, "cd /shop && opencode", installed=False)
    cli.heartbeat(following=["/logs/opencode.log"], earlier=[process.for_heartbeat()])
    shown = " ".join(cli("status").stdout.split())
    assert (
        f"# OpenCode {os.getpid()} (no terminal, /shop) runs without the companion plugin, which is not installed, so "
        "its sessions cannot be moved. To restart it with the plugin, run `ocwatch plugin install`, quit it, then "
        "type: cd /shop && opencode next: "
    ) in shown


def test_an_opencode_that_has_ended_or_is_starting_is_not_named(cli: Cli) -> None:
    cli.heartbeat(following=["/logs/opencode.log"], earlier=[earlier(pid=2**22 + 7), earlier(started=at(0))])
    assert "next: nothing to do" in cli("status").stdout
    assert cli.json("status")["earlier"] == []


@pytest.mark.parametrize(
    ("source", "pure", "shown"),
    [
        (
            "estimate",
            False,
            "(in 1h). This time is an estimate: without the companion plugin, ocwatchd reads only the log, and the log "
            "contained no reset time. To continue on another model: ocwatch restart ses_1",
        ),
        ("text", False, "(in 1h). To continue on another model: ocwatch restart ses_1"),
        ("text", True, "(in 1h)."),
    ],
)
def test_the_limit_of_an_opencode_without_the_plugin_is_an_estimate_if_it_is_one(
    cli: Cli, source: str, pure: bool, shown: str
) -> None:
    store(cli, ("ses_1", "Fix it", "/shop"))
    with sqlite3.connect(cli.paths.opencode_data / "opencode.db") as connection:
        message = {"role": "assistant", "providerID": "p", "modelID": "a"}
        connection.execute("INSERT INTO message VALUES ('msg_1', 'ses_1', 1, ?)", (json.dumps(message),))
    cli.register(**{"p/a": resting(3600, reset_source=source)})
    cli.heartbeat(following=["/logs/opencode.log"], earlier=[earlier(pure=pure)])
    *_, limit, _, step = cli("status", COLUMNS="300").stdout.splitlines()
    about = "about " if source == "estimate" else ""
    assert re.fullmatch(rf"# Its model p/a is cooling down until {about}(\w+ )?\d\d:\d\d {re.escape(shown)}", limit)
    assert step.startswith("next: restart the OpenCode" if pure else "next: ocwatch restart ses_1 (continue this")
    found = cli.json("status")["earlier"][0]
    assert (found["model"], found["limit"]["estimate"]) == ("p/a", source == "estimate")
    assert found["limit"]["restart"] == (None if pure else "ocwatch restart ses_1")
    assert bool(found["limit"]["reason"]) == (source == "estimate")


def test_a_living_process_without_a_beat_is_deaf(cli: Cli) -> None:
    cli.heartbeat(age=60)
    done = cli("status")
    assert done.returncode == 3
    assert "is stalled" in done.stdout
    assert "last heartbeat was 1m" in done.stdout
    assert cli.json("status", code=3)["state"] == "deaf"


def test_what_a_dead_daemon_said_is_not_repeated(cli: Cli) -> None:
    cli.heartbeat(pid=2**31 - 2, sessions=[{"session": "ses_1", "phrase": "waits"}], health=["old"])
    document = cli.json("status", code=3)
    assert (document["state"], document["sessions"], document["health"]) == ("down", [], [])


def test_cooldowns_are_the_contract(cli: Cli) -> None:
    target = {"model": "zhipuai/glm-4.5", "agent": "claude-fallback"}
    cli.register(
        **{
            "p/late": resting(
                7200, reset_source="retry-after", rule="r", reason="slow down", session="ses_1", target=target
            ),
            "p/soon": resting(60),
            "p/never": resting(None, kind="billing"),
            "p/over": resting(-1),
        }
    )
    document = cli.json("cooldowns")
    assert set(document) == {"version", "time", "cooldowns", "problems"}
    assert [entry["model"] for entry in document["cooldowns"]] == ["p/soon", "p/late", "p/never"]
    late = document["cooldowns"][1]
    assert set(late) == ENTRY_KEYS
    assert (late["reset_source"], late["reason"], late["session"], late["target"]) == (
        "retry-after", "slow down", "ses_1", target,
    )  # fmt: skip
    assert late["until"].endswith("Z")
    assert 7100 < late["remaining_seconds"] <= 7200
    assert (document["cooldowns"][2]["until"], document["cooldowns"][2]["remaining_seconds"]) == (None, None)


def test_no_cooldowns(cli: Cli) -> None:
    assert cli("cooldowns").stdout == "No model is cooling down.\n"
    assert cli.json("cooldowns")["cooldowns"] == []


@pytest.mark.parametrize("width", [80, 100, 60])
def test_a_table_is_aligned_and_fits(cli: Cli, width: int) -> None:
    long = "github-copilot/" + "claude-sonnet-4-thinking-" * 3 + "x"
    target = {"model": "openrouter/anthropic/claude-sonnet-4.5:free", "agent": None}
    cli.register(**{long: resting(90000, strikes=3, target=target), "zai/智谱": resting(5), "a/b": resting(None)})
    done = cli("cooldowns", COLUMNS=str(width))
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    assert max(map(columns, lines)) <= width
    start = lines[0].index("LEFT")
    assert all(columns(line[: line.index("  ")].ljust(0)) <= start for line in lines)
    assert {line[start - 2 : start] for line in lines if line.isascii()} == {"  "}
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;pwned\x07", r"\x1b[2J\x1b]0;pwned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("one\r\ntwo", r"one\r\ntwo"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud800", r"\ud800"),
    ],
)
def test_hostile_text_reaches_no_terminal(cli: Cli, text: str, shown: str) -> None:
    cli.heartbeat(health=[text], sessions=[{"session": text, "phrase": text}])
    done = cli("status")
    assert f"# {shown}" in done.stdout
    assert all(char.isprintable() or char == "\n" for char in done.stdout)
    assert cli.json("status")["health"] == [text]


def test_a_damaged_register_is_said_and_left_for_the_writers(cli: Cli) -> None:
    cli.register(**{"p/a": resting()})
    cli.paths.blacklist.write_text("{")
    done = cli("cooldowns")
    assert (done.returncode, done.stdout) == (0, "No model is cooling down.\n")
    assert "damaged" in done.stderr
    assert "damaged" in cli.json("cooldowns")["problems"][0]
    assert "damaged" in cli.json("status", code=3)["health"][0]
    assert cli.paths.blacklist.read_text() == "{"


def test_a_newer_register_is_read(cli: Cli) -> None:
    cli.paths.state_dir.mkdir(parents=True)
    cli.paths.blacklist.write_text(json.dumps({"version": 9, "models": {"p/a": resting()}}))
    assert [entry["model"] for entry in cli.json("cooldowns")["cooldowns"]] == ["p/a"]


def test_chinese_text_and_a_narrow_locale(cli: Cli) -> None:
    cli.heartbeat(health=["请求过多"])
    assert "请求过多" in cli("status", PYTHONUTF8="1").stdout
    done = cli("status", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert (done.returncode, r"# \u8bf7\u6c42\u8fc7\u591a" in done.stdout) == (0, True)


def test_how_near_the_limits_are_as_the_daemon_saw_it_last(cli: Cli) -> None:
    cli.heartbeat()
    cli.register(**{"p/soon": resting(300, reset_source="forecast", target={"model": "q/b", "agent": None})})
    exact = {"model": "p/soon", "label": "exact", "measure": "requests", "window_seconds": None, "used": 48}
    exact |= {"limit": 50, "left": 2, "share": 0.96, "hits": at(90), "free": at(300), "limits_seen": 0}
    learnt = {**exact, "model": "p/far", "label": "learnt", "measure": "tokens", "window_seconds": 3600.0, "hits": None}
    unknown = {"model": "p/new", "label": "not enough data", "measure": None, "hits": None}
    path = cli.paths.forecasts
    path.write_text(json.dumps({"version": 1, "time": at(-5), "forecasts": [exact, learnt, unknown]}))
    text = cli("status").stdout
    assert "about to be limited q/b" in " ".join(text.split())
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in text.splitlines() if line.startswith("p/")}
    assert re.fullmatch(r"(\w+ )?\d\d:\d\d \(in 1m( \d+s)?\) 48 of 50 requests \(exact\)", rows["p/soon"])
    assert rows["p/far"] == "- 48 of 50 tokens in 1h (learnt)"
    assert "p/new" not in rows
    known = cli.json("status")["forecasts"]
    assert [one["model"] for one in known] == ["p/soon", "p/far", "p/new"]
    assert 60 < known[0]["hits_in_seconds"] < 91 and known[1]["hits_in_seconds"] is None
    assert "Next limit (exact): p/soon at " in cli("watch").stdout
    for broken in ("{", "[]", json.dumps({"version": 1, "time": at(-600), "forecasts": [exact]})):
        path.write_text(broken)
        assert cli.json("status")["forecasts"] == []


def test_a_model_in_use_without_a_fallback_is_said_and_is_4(cli: Cli) -> None:
    cli.heartbeat(without_fallback=["p/a", "q/b"])
    done = cli("status")
    assert done.returncode == 4
    assert "# p/a, q/b have no fallback" in done.stdout
    assert cli.json("status", code=4)["without_fallback"] == ["p/a", "q/b"]
    line = cli("statusline")
    assert (line.returncode, line.stdout) == (4, "no fallback\n")


def test_a_configuration_without_a_chain_is_said_if_sessions_are_to_be_moved(cli: Cli) -> None:
    cli.heartbeat(configuration={"file": str(cli.paths.config_file), "problem": None})
    for settings in ({}, {"mode": "ask"}, {"fallbackChain": {"p/a": []}}, {"whenExhausted": "wait"}):
        cli.configure(**settings)
        done = cli("status")
        assert done.returncode == 0
        assert f"# {cli.paths.config_file} contains no fallback chain" in " ".join(done.stdout.split())
        assert "next: set `model` in opencode.json, then: ocwatch config init" in " ".join(done.stdout.split())
    waiting = {"fallbackChain": {}, "whenExhausted": "wait"}
    for settings in ({"mode": "notify"}, {"mode": "off"}, waiting, {"fallbackChain": {"*": "p/a"}}):
        cli.configure(**settings)
        text = cli("status").stdout
        assert ("fallback chain" in text, "next: nothing to do" in text) == (False, True)


def test_an_edited_configuration_that_cannot_be_used_is_4_and_names_config_check(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"})
    file = str(cli.paths.config_file)
    cli.heartbeat(configuration={"file": file, "problem": "line 3"}, health=["line 3; the last valid one is used"])
    done = cli("status")
    assert done.returncode == 4
    assert "next: ocwatch config check (list all errors of the configuration)" in done.stdout


def test_a_configured_model_that_opencode_does_not_offer_is_said_and_is_4(cli: Cli) -> None:
    cli.heartbeat(unknown_models=["p/typo"])
    done = cli("status")
    assert done.returncode == 4
    text = " ".join(done.stdout.split())
    assert "# the configuration names a model that OpenCode does not offer: p/typo." in text
    assert "type: ocwatch config check next: ocwatch config check" in text
    assert cli.json("status", code=4)["unknown_models"] == ["p/typo"]
    line = cli("statusline")
    assert (line.returncode, line.stdout) == (4, "unknown model\n")
    bar = json.loads(cli("statusline", "--format", "waybar").stdout)
    assert (bar["class"], bar["tooltip"].endswith("To see where: ocwatch config check")) == ("unknown-model", True)


def test_sessions_have_names_and_the_model_that_they_use_now(cli: Cli) -> None:
    one, two = "ses_aaaa1111ffeOne", "ses_bbbb2222ffeTwo"
    here = cli.paths.home / "shop"
    here.mkdir()
    store(cli, (one, "Fix the login form", str(here)), (two, "Port to arm64", "/srv"))
    with sqlite3.connect(cli.paths.opencode_data / "opencode.db") as connection:
        for session, model in ((one, "primary"), (two, "fallback")):
            data = json.dumps({"role": "user", "model": {"providerID": "mock", "modelID": model}})
            connection.execute("INSERT INTO message VALUES (?, ?, 1, ?)", (f"msg_{model}", session, data))
    moved = "moved from mock/primary to mock/fallback"
    cli.heartbeat(sessions=[{"session": session, "phrase": moved} for session in (one, two)])
    lines = cli("status", cwd=here).stdout.splitlines()
    at_one = next(index for index, line in enumerate(lines) if "Fix the login form" in line)
    assert lines[at_one].startswith("“Fix the login form” in ~/shop, last used ")
    assert lines[at_one].endswith(f"this directory ({one})")
    assert lines[at_one + 1] == "  on mock/primary; returned from mock/fallback"
    assert lines[at_one + 3] == f"  on mock/fallback; {moved}"
    assert [entry["model"] for entry in cli.json("status")["sessions"]] == ["mock/primary", "mock/fallback"]
    cli.heartbeat(sessions=[{"session": two, "phrase": "moving to mock/fallback"}])
    assert "  moving to mock/fallback" in cli("status").stdout.splitlines()


def test_a_session_in_the_table_is_recognized_by_its_title_and_has_no_outdated_model() -> None:
    title = "Why does the login form lose its focus after each key"
    moved = "moved from mock/primary to mock2/fallback"
    on = {"session": "ses_1", "title": title, "phrase": moved}
    _, row = session_table([{**on, "model": "mock2/fallback"}], 0.0, 80).split("\n")
    assert row == "Why does the login form lose it…  mock2/fallback  moved from mock/primary"
    _, row = session_table([{**on, "model": "mock/primary"}], 0.0, 80).split("\n")
    assert row.endswith("  mock/primary  returned from mock2/fallback")


@pytest.mark.parametrize("last", ["-", "openai/gpt-5", "a fallback with a very long name indeed"])
def test_a_name_is_shortened_only_if_its_row_does_not_fit(last: str) -> None:
    row = ("anthropic/claude-sonnet-4-5", "59m 27s", "20:22", "rate limit", last)
    fits = len("  ".join((*row[:-1], last.ljust(len("FALLBACK")))))
    titles = ("MODEL", "LEFT", "RESET", "REASON", "FALLBACK")
    assert table(titles, [row], fits).split("\n")[1] == "  ".join(row)
    assert "…" in table(titles, [row], 60).split("\n")[1]


def test_a_name_is_shortened_only_if_the_row_does_not_fit() -> None:
    name = "Login form loses its focus in ~/projects/shop"
    _, row = table(("SESSION", "TOKENS", "COST"), [(name, "110", "$0.00")], 80).split("\n")
    assert row.startswith(f"{name}  110")
    _, row = table(("SESSION", "TOKENS", "COST"), [(name * 2, "110", "$0.00")], 80).split("\n")
    assert (len(row) <= 80, "…" in row) == (True, True)


@pytest.mark.parametrize(
    ("phrase", "step"),
    [
        ("limited on p/a: ocwatch redirect ses_1", "ocwatch redirect ses_1"),
        ("limited on p/a, and no OpenCode process responds: ocwatch restart ses_1", "ocwatch restart ses_1"),
        ("limited; a plain `opencode run` cannot be moved. Use: oc-smart run", "oc-smart run"),
        ("moved from p/a to q/b", "ocwatch explain"),
    ],
)
def test_the_last_line_is_the_one_sensible_command(cli: Cli, phrase: str, step: str) -> None:
    cli.register(**{"p/a": resting()})
    cli.heartbeat(sessions=[{"session": "ses_1", "phrase": phrase}])
    assert cli("status").stdout.splitlines()[-1].startswith(f"next: {step}")


def test_up_replaces_the_last_line_only_if_there_is_nothing_else_to_do(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(cli.paths.home))
    for name in [name for name in os.environ if name.startswith("XDG_")]:
        monkeypatch.delenv(name)
    cli.heartbeat()
    assert status(instead="restart OpenCode") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "next: restart OpenCode"
    cli.register(**{"p/a": resting()})
    status(instead="restart OpenCode")
    assert capsys.readouterr().out.splitlines()[-1] == "next: restart OpenCode"
    cli.heartbeat(health=["cannot read /logs/old.log"])
    status(instead="restart OpenCode")
    assert capsys.readouterr().out.splitlines()[-1].startswith("next: ocwatch doctor")


def test_an_estimate_looks_like_one(cli: Cli) -> None:
    cli.register(**{"p/a": resting(3600), "q/b": resting(3600, reset_source="retry-after")})
    rows = {line.split()[0]: line.split()[1:] for line in cli("cooldowns").stdout.splitlines()}
    assert rows["p/a"][0].startswith("~")
    assert "~" not in "".join(rows["q/b"])


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_terminals(cli: Cli, env: dict[str, str], coloured: bool) -> None:
    cli.register(**{"p/a": resting()})
    assert "\x1b" not in cli("status", **env).stdout
    with Pty(cli.command("status"), {**cli.env, "TERM": "xterm", **env}, cli.paths.home) as terminal:
        terminal.end()
        assert (b"\x1b[31m" in terminal.shown) == coloured
    program = "from ocwatchd.cli.output.render import symbol; print(symbol('warning'))"
    for command, code in ((cli.command("cooldowns"), b"\x1b[1mMODEL"), ([sys.executable, "-c", program], b"\x1b[33m!")):
        with Pty(command, {**cli.env, "TERM": "xterm", **env}, cli.paths.home) as terminal:
            assert terminal.end() == 0
            assert (code in terminal.shown) == coloured
