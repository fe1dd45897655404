"""Tests of `ocwatch history`, `explain` and `report` with a generated history of the real engine."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ocwatchd.cli.output.render import columns
from ocwatchd.cli.times import since_of
from ocwatchd.core.domain.moves import MoveResult
from ocwatchd.core.domain.types import LimitKind
from ocwatchd.errors import UsageError
from tests.cli.conftest import Cli, at, resting, store
from tests.support.lives import Life, busy_days
from tests.support.pty import Pty

EVENT_KEYS = {"id", "decision", "time", "what", "session", "model", "text"}
LONG = "ses_dfc06b6b5ffe6Z6q2chMTZ9Z0U"


def journal(cli: Cli) -> Path:
    return cli.paths.journal


def life(cli: Cli, ago: float = 3600) -> Life:
    return Life(journal(cli), {"p/a": ["p/b", "p/c"]}, time.time() - ago)


@pytest.fixture
def moved(cli: Cli) -> Cli:
    """An hour ago p/b was cooling down, p/a was limited for two hours, and the session was moved to p/c."""
    known = life(cli)
    known.refuse("p/b", "ses_other", wait=20)
    known.refuse("p/a", LONG, wait=7200)
    known.pass_time(1)
    return cli


def test_history_tells_each_event_once_and_fits(moved: Cli) -> None:
    done = moved("history", COLUMNS="80")
    assert done.returncode == 0
    assert max(map(columns, done.stdout.splitlines())) <= 80
    said = re.findall(r"^\d\d:\d\d:\d\d  [0-9a-f]{6}  (\S+(?: \S+)?)\s+(\S+)", done.stdout, re.MULTILINE)
    assert said == [
        ("limited", "p/b"), ("waiting", "p/b:"), ("limited", "p/a"), ("moved", "p/a"), ("free", "p/b"),
    ]  # fmt: skip


def test_history_as_json(moved: Cli) -> None:
    document = moved.json("history")
    assert set(document) == {"version", "time", "since", "journal_begins", "events"}
    for event in document["events"]:
        assert set(event) >= EVENT_KEYS
    whats = [event["what"] for event in document["events"]]
    assert whats == ["limit", "wait", "limit", "claim", "moved", "free"]
    claim = document["events"][3]
    assert claim["considered"][-1] == {"model": "p/c", "why": "available", "chosen": True}
    assert claim["decision"] == document["events"][2]["decision"] == document["events"][4]["decision"]


@pytest.mark.parametrize(("arguments", "events"), [
    (("--since", "2h"), 6), (("--since", "1m"), 0), (("--session", LONG), 3), (("--session", "TZ9Z0U"), 3),
])  # fmt: skip
def test_history_is_cut_by_time_and_session(moved: Cli, arguments: tuple[str, ...], events: int) -> None:
    assert len(moved.json("history", *arguments)["events"]) == events


def test_nothing_yet(cli: Cli) -> None:
    assert cli("history").stdout == "Nothing has happened yet.\n"
    assert cli.json("history")["events"] == []
    done = cli("explain")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no limit has been seen yet" in done.stderr
    assert not cli.paths.state_dir.exists()


def test_nothing_lately_says_how_to_see_the_rest(cli: Cli) -> None:
    life(cli, 3.5 * 86400).refuse("p/a", "ses_1", wait=20)
    assert "ocwatch history --since 4d" in cli("history").stdout
    assert "limited" in cli("history", "--since", "4d").stdout


def test_a_session_that_does_not_exist_is_one_usage_error(cli: Cli) -> None:
    life(cli, 3.5 * 86400).refuse("p/a", "ses_1aaa", wait=20)
    for part, said in (("zzz", "there is no session 'zzz'"), ("zz", "'zz' is too short. Type at least 3 characters")):
        done = cli("history", "--session", part)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert said in done.stderr


def test_the_advice_about_a_session_is_about_its_own_last_event(cli: Cli) -> None:
    life(cli, 3.5 * 86400).refuse("p/a", "ses_1aaa", wait=20)
    lines = [json.loads(line) for line in journal(cli).read_text().splitlines()]
    lines.append({**lines[0], "time": at(-60), "session": "ses_2bbb", "id": "1ab-1"})
    journal(cli).write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = cli("history", "--session", "1aaa")
    assert "ocwatch history --since 4d" in done.stdout
    assert done.returncode == 0


def test_a_time_that_is_none_or_lies_ahead_is_a_usage_error(cli: Cli) -> None:
    for wrong in ("yesterday-ish", "2099-01-01T00:00Z"):
        done = cli("history", "--since", wrong)
        assert done.returncode == 2
        assert wrong in done.stderr


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("2h", 7200), ("1d12h", 129600)])
def test_since_a_length_of_time_ago(text: str, ago: float) -> None:
    assert since_of(text, 1e9) == 1e9 - ago


def test_since_a_clock_time_is_the_last_one() -> None:
    now = time.time()
    for text in ("00:00", "23:59", time.strftime("%H:%M", time.localtime(now))):
        assert now - 25 * 3600 <= since_of(text, now) <= now
    with pytest.raises(UsageError):
        since_of("25:00", now)


def test_explain_tells_evidence_rule_hint_door_choice_and_outcome(moved: Cli) -> None:
    done = moved("explain", COLUMNS="100")
    assert done.returncode == 0
    assert max(map(columns, done.stdout.splitlines())) <= 100
    text = " ".join(done.stdout.split())
    for part in (
        f"session {LONG}: moved to another model.",
        "This request would exceed your organization's rate limit", "(HTTP 429)",
        "log line /home/dev/.local/share/opencode/log/opencode.log, byte ",
        "rule rate-limit: the text matches this rule",
        "reset time the Retry-After header, until ",
        "OpenCode retry, attempt 1, next one in 2h",
        "why move 2h to wait; maxDelay is 30s",
        "choice - p/b: cooling down (rate_limit) until ", "-> p/c: available",
        "MOVED p/a -> p/c",
        "s: the time that the turn waited, counted from its first limit saved about ",
    ):  # fmt: skip
        assert part in text


def test_explain_finds_a_decision_by_id_session_and_move(moved: Cli) -> None:
    events = moved.json("history")["events"]
    limit, claim = events[2], events[3]
    wanted = limit["decision"]
    for name in (wanted, limit["id"], claim["id"], claim["id"][13:], claim["claim"], LONG, LONG[4:], "Z9Z0U", None):
        arguments = ("explain",) if name is None else ("explain", name)
        document = moved.json(*arguments)
        assert document["id"] == wanted, name
    assert document["outcome"] == "moved"
    assert document["lost_seconds"] < 5
    assert 3500 < document["saved_seconds"] + document["lost_seconds"] < 3700
    assert [entry["what"] for entry in document["entries"]] == ["limit", "claim", "moved"]


@pytest.mark.parametrize(("name", "said"), [("zzzzzz", "no decision"), ("ab", "too short. Type at least 3 characters")])
def test_explain_of_nothing_known_is_a_usage_error(moved: Cli, name: str, said: str) -> None:
    done = moved("explain", name)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_an_id_of_two_decisions_lists_both(moved: Cli) -> None:
    lines = [json.loads(line) for line in journal(moved).read_text().splitlines()]
    for number, line in enumerate(lines):
        line["id"] = f"{number:013x}abcdef{number:02x}"
    journal(moved).write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = moved("explain", "abcdef")
    assert done.returncode == 2
    assert "matches 2 decisions" in done.stderr


HOSTILE = "\x1b[31m<script>alert(1)</script>\u202e\"'&"


@pytest.fixture
def hostile(cli: Cli) -> Cli:
    known = life(cli)
    known.refuse("p/a", "ses_1", wait=7200)
    known.pass_time(1)
    text = journal(cli).read_text()
    for name in ("p/a", "p/c", "p/b", "ses_1", "rate-limit"):
        text = text.replace(json.dumps(name), json.dumps(f"x/{HOSTILE}"))
    journal(cli).write_text(text)
    return cli


@pytest.mark.parametrize(
    "command",
    [("history",), ("explain",), ("watch",), ("report", "--out", "-"), ("report", "--format", "prometheus")],
)
def test_hostile_text_reaches_neither_terminal_nor_page(hostile: Cli, command: tuple[str, ...]) -> None:
    done = hostile(*command)
    assert done.returncode == 0
    assert done.stdout.replace("\n", "").isprintable()
    if "--out" in command:
        assert "<script" not in done.stdout
        assert "&lt;script&gt;" in done.stdout


# ---- the report


class Page(HTMLParser):
    """Collects every address and every script, and checks whether tags are closed."""

    VOID = frozenset(("meta", "rect", "br"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "img", "iframe", "object", "form", "a")
        assert not [name for name, value in attrs if name in ("src", "href", "action") or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture
def week(cli: Cli) -> Cli:
    busy_days(journal(cli), days=2, start=time.time() - 2.5 * 86400)
    cli.register(**{"openai/gpt-5": resting(600), 'we"ird/\\name': resting(None)})
    return cli


def test_the_page_stands_alone_and_says_the_figures(week: Cli) -> None:
    done = week("report")
    path = week.paths.cache_dir / "ocwatch-report.html"
    assert done.stdout == f"Wrote {path}\n"
    text = path.read_text()
    page = Page(text)
    figures = week.json("report")
    shown = " ".join(" ".join(page.text).split())
    assert f"{figures['limits']} limits" in shown
    for model in figures["models"]:
        assert model["model"] in shown
    assert "url(" not in text and "http:" not in text and "https:" not in text and "@import" not in text
    assert "prefers-color-scheme:dark" in text
    assert "How this is counted" in shown
    assert len(text) < 200_000


def test_the_page_of_nothing(cli: Cli) -> None:
    text = cli("report", "--out", "-").stdout
    Page(text)
    assert "No model was limited." in text
    assert not (cli.paths.cache_dir / "ocwatch-report.html").exists()


REPORT_KEYS = {
    "version", "time", "since", "journal_begins", "limits", "turns", "outcomes", "lost_seconds", "saved_seconds",
    "to_come_seconds", "uncounted_turns", "models", "fallbacks", "limits_by_hour", "cooldowns",
    "money",
    "plan_windows", "days", "sessions",
}  # fmt: skip


def test_the_figures_as_json(week: Cli) -> None:
    figures = week.json("report", "--since", "3d")
    assert set(figures) == REPORT_KEYS
    assert set(figures["models"][0]) == {
        "model", "limits", "kinds", "cooling_seconds", "lost_seconds", "saved_seconds", "to_come_seconds",
        "uncounted_turns",
    }  # fmt: skip
    assert set(figures["fallbacks"][0]) == {
        "model", "tried", "moved", "limited", "failed", "success_rate", "recoveries", "median_recovery_seconds",
        "worst_recovery_seconds", "median_first_token_seconds",
    }  # fmt: skip
    assert set(figures["cooldowns"][0]) == {
        "model", "kind", "reset_source", "since", "until", "ended", "ended_by", "duration_seconds", "limits",
        "decision",
        "reason",
    }  # fmt: skip
    assert sum(hour["limits"] for hour in figures["limits_by_hour"]) == figures["limits"] > 20
    assert figures["journal_begins"] is not None
    assert week.json("report", "--since", "1h")["limits"] == 0
    assert figures["money"] == {
        "spent_dollars": 0.0, "moved_dollars": 0, "instead_dollars_estimate": 0, "saved_dollars_estimate": None,
        "targets": [],
    }  # fmt: skip


METRIC = re.compile(r'^ocwatchd_([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\+Inf|-?\d+(?:\.\d+)?)$')


def test_the_figures_for_prometheus(week: Cli) -> None:
    path = week.paths.home / "metrics" / "ocwatchd.prom"
    path.parent.mkdir()
    assert week("report", "--format", "prometheus", "--out", str(path)).returncode == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["ocwatchd.prom"]
    text = path.read_text()
    assert text.endswith("\n")
    named: list[str] = []
    values = {}
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            assert line == f"# TYPE {named[-1]} gauge"
        elif line.startswith("# HELP"):
            named.append(line.split()[2])
        else:
            match = METRIC.match(line)
            assert match, line
            assert f"ocwatchd_{match[1]}" == named[-1]
            values[match[1], match[2]] = match[3]
    assert len(named) == len(set(named))
    figures = week.json("report")
    limits = sum(int(value) for (name, _), value in values.items() if name == "limits")
    assert limits == figures["limits"]
    assert values["up", None] == "0"
    assert values["cooldown_end_timestamp_seconds", 'model="we\\"ird/\\\\name",kind="rate_limit"'] == "+Inf"


def test_a_file_that_cannot_be_written_is_one_message(week: Cli) -> None:
    done = week("report", "--out", "/nonexistent/report.html")
    assert (done.returncode, done.stdout) == (1, "")
    assert "/nonexistent/report.html cannot be written" in done.stderr
    assert week("report", "--format", "pdf").returncode == 2


def test_block_and_clear_by_hand_are_part_of_the_story(cli: Cli) -> None:
    cli("block", "p/a", "--for", "1h")
    cli("clear", "p/a")
    assert [event["what"] for event in cli.json("history")["events"]] == ["blocked", "cleared"]
    (rest,) = cli.json("report")["cooldowns"]
    assert (rest["reset_source"], rest["ended_by"]) == ("manual", "cleared")


def test_a_refused_target_is_explained(cli: Cli) -> None:
    known = life(cli)
    known.outcomes["p/b"] = lambda: MoveResult.TARGET_LIMITED
    known.refuse("p/a", "ses_1", wait=7200, kind=LimitKind.QUOTA)
    known.pass_time(1)
    text = " ".join(cli("explain").stdout.split())
    assert "LIMITED p/a -> p/b: did not answer" in text
    assert "MOVED p/b -> p/c" in text


def test_the_report_is_a_table_on_a_terminal_and_stays_out_of_the_project(week: Cli) -> None:
    with Pty(week.command("report"), {**week.env, "TERM": "xterm"}, week.paths.home, size=(80, 40)) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    figures = week.json("report")
    assert f"{figures['limits']} limits in {figures['turns']} turns" in shown
    assert re.search(r"Lost: \S+( \d+s)?, the time that limited turns waited\.", shown)
    assert re.search(r"Saved: about [\dhms ]+ of further waiting", shown)
    for one in figures["fallbacks"]:
        count = "1 turn" if one["recoveries"] == 1 else f"median of {one['recoveries']}"
        assert re.search(rf"{re.escape(one['model'])} .*s \({count}\)", shown)
    assert all(model["model"] in shown for model in figures["models"])
    assert max(map(len, shown.splitlines())) <= 80
    assert list(week.paths.home.glob("*.html")) == []
    assert week("report", "--open", "--format", "json").returncode == 2


def test_a_report_without_a_move_claims_no_saved_time(cli: Cli) -> None:
    Life(cli.paths.journal, {}, time.time() - 3600).refuse("p/a", "ses_1", wait=7200)
    with Pty(cli.command("report"), {**cli.env, "TERM": "xterm"}, cli.paths.home, size=(80, 40)) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert "1 limit in 1 turn since " in shown
    assert "Saved" not in shown


def test_one_move_has_no_median(moved: Cli) -> None:
    (one,) = (one for one in moved.json("report")["fallbacks"] if one["model"] == "p/c")
    assert one["recoveries"] == 1
    with Pty(moved.command("report"), {**moved.env, "TERM": "xterm"}, moved.paths.home, size=(80, 40)) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert re.search(r"p/c +1 of 1 +\S+s \(1 turn\)", shown)
    assert "MEDIAN" not in shown.upper()
    page = moved("report", "--out", "-").stdout
    assert "(1 turn)" in page
    assert "median of" not in page


def test_history_ends_with_the_last_events(moved: Cli) -> None:
    every = [event["what"] for event in moved.json("history")["events"]]
    assert [event["what"] for event in moved.json("history", "-n", "2")["events"]] == every[-2:]
    assert len(moved("history", "-n", "1").stdout.splitlines()) == 2  # the day and one event
    assert moved("history", "-n", "0").returncode == 2
    assert moved("history", "-f", "--json").returncode == 2


def test_history_follows_the_journal(moved: Cli) -> None:
    with Pty(moved.command("history", "-n", "1", "-f"), moved.env, moved.paths.home, size=(60, 24)) as terminal:
        terminal.wait("free")
        assert moved("block", "p/new", "--for", "1h").returncode == 0
        assert b"blocked" in terminal.wait("p/new")


def test_a_bundle_makes_no_directories(cli: Cli) -> None:
    done = cli("doctor", "--bundle", "nowhere/there.tar.gz")
    assert (done.returncode, "cannot be written" in done.stderr) == (1, True)
    assert not (cli.paths.home / "nowhere").exists()


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    root = Path(__file__).parents[2]
    dashboard = json.loads((root / "docs/grafana-dashboard.json").read_text())
    asked = {name for panel in dashboard["panels"] for name in re.findall(r"ocwatchd_\w+", panel["targets"][0]["expr"])}
    assert len(asked) > 8
    assert asked <= set(re.findall(r"ocwatchd_\w+", (root / "docs/contracts.md").read_text()))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(set(places)) == len(places)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in dashboard["panels"])


def test_sessions_have_names_wherever_the_journal_is_shown(moved: Cli) -> None:
    store(moved, (LONG, "Fix the tests", "/src/project"))
    said = " ".join(moved("history").stdout.split())
    assert "p/a -> p/c" in said
    assert "in “Fix the tests” " in said
    assert "ses_other" not in said
    about = " ".join(moved("explain", LONG).stdout.split())
    assert "“Fix the tests” in /src/project, last used " in about
    assert f"({LONG}): moved to another model." in about
    assert "in “Fix the tests”" in moved("watch", COLUMNS="120").stdout


def test_a_wait_that_is_decided_again_is_one_line(cli: Cli) -> None:
    known = life(cli)
    known.refuse("p/a", LONG, wait=20)
    lines = [json.loads(line) for line in journal(cli).read_text().splitlines()]
    wait = next(line for line in lines if line["what"] == "wait")
    with journal(cli).open("a") as file:
        for number in (1, 2):
            file.write(json.dumps({**wait, "id": wait["id"][:-1] + "ghj"[number]}) + "\n")
        file.write(json.dumps({**wait, "id": wait["id"][:-1] + "k", "session": "ses_2"}) + "\n")
    assert len(re.findall("  waiting  ", cli("history").stdout)) == 2
    assert sum(event["what"] == "wait" for event in cli.json("history")["events"]) == 4


def test_the_report_shows_use_by_day_and_by_session_title(cli: Cli) -> None:
    store(cli, ("ses_1", "Fix the tests", "/src/project"), ("ses_2", "", "/src"))
    now = int(time.time() * 1000)
    tokens = {"input": 1000, "output": 200, "reasoning": 0, "cache": {"read": 30, "write": 4}}
    said = {"role": "assistant", "providerID": "p", "modelID": "a", "cost": 0.125, "tokens": tokens}
    with sqlite3.connect(cli.paths.opencode_data / "opencode.db") as connection:
        for number, session in enumerate(("ses_1", "ses_1", "ses_2")):
            data = json.dumps({**said, "time": {"created": now, "completed": now}})
            connection.execute("INSERT INTO message VALUES (?, ?, ?, ?)", (f"msg_{number}", session, now, data))
    figures = cli.json("report")
    used = {"answers": 3, "input_tokens": 3000, "output_tokens": 600, "cache_tokens": 102, "dollars": 0.375}
    today = time.strftime("%Y-%m-%d", time.gmtime(now / 1000))
    assert figures["days"] == [{"day": today, "model": "p/a", **used}]
    one, two = figures["sessions"]
    assert (one["session"], one["title"], one["directory"], one["dollars"]) == (
        "ses_1", "Fix the tests", "/src/project", 0.25,
    )  # fmt: skip
    assert (two["session"], two["title"]) == ("ses_2", None)
    page = cli("report", "--out", "-").stdout
    assert "Fix the tests in /src/project" in page
    assert today in page
    with Pty(cli.command("report"), {**cli.env, "TERM": "xterm"}, cli.paths.home, size=(80, 40)) as terminal:
        assert terminal.end() == 0
        shown = terminal.shown.decode()
    assert re.search(f"p/a +{today} +3,702 +[$]0.3750", shown)
    assert re.search("Fix the tests in /src/project +2,468 +[$]0.2500", shown)


def test_a_block_and_its_end_are_explained_as_what_the_user_did(cli: Cli) -> None:
    cli("block", "p/a")
    assert cli("explain").stdout.splitlines()[0].endswith(": you blocked the model.")
    cli("clear", "p/a")
    assert cli("explain").stdout.splitlines()[0].endswith(": you ended the cooldown.")
