"""`ocwatch history`, `explain` and `report`: what they say of a made-up life of the real engine."""

from __future__ import annotations

import json
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ocwatchd.cli.render import columns
from ocwatchd.cli.times import since_of
from ocwatchd.core.limits import LimitKind
from ocwatchd.core.moves import MoveResult
from ocwatchd.errors import UsageError
from tests.cli.conftest import Cli, resting
from tests.support.lives import Life, busy_days

EVENT_KEYS = {"id", "decision", "time", "what", "session", "model", "text"}
LONG = "ses_dfc06b6b5ffe6Z6q2chMTZ9Z0U"


def journal(cli: Cli) -> Path:
    return cli.paths.journal


def life(cli: Cli, ago: float = 3600) -> Life:
    return Life(journal(cli), {"p/a": ["p/b", "p/c"]}, time.time() - ago)


@pytest.fixture
def moved(cli: Cli) -> Cli:
    """An hour ago: p/b was resting, p/a was limited for two hours, the session was moved to p/c."""
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
        ("limited", "p/b"), ("waits", "p/b:"), ("limited", "p/a"), ("moved", "p/a"), ("free", "p/b"),
    ]  # fmt: skip


def test_history_as_json(moved: Cli) -> None:
    document = moved.json("history")
    assert set(document) == {"version", "time", "since", "journal_begins", "events"}
    for event in document["events"]:
        assert set(event) >= EVENT_KEYS
    whats = [event["what"] for event in document["events"]]
    assert whats == ["limit", "wait", "limit", "claim", "moved", "free"]
    claim = document["events"][3]
    assert claim["considered"][-1] == {"model": "p/c", "why": "free", "chosen": True}
    assert claim["decision"] == document["events"][2]["decision"] == document["events"][4]["decision"]


@pytest.mark.parametrize(("arguments", "events"), [
    (("--since", "2h"), 6), (("--since", "1m"), 0), (("--session", LONG), 3), (("--session", "TZ9Z0U"), 3),
    (("--session", "nobody"), 0),
])  # fmt: skip
def test_history_is_cut_by_time_and_session(moved: Cli, arguments: tuple[str, ...], events: int) -> None:
    assert len(moved.json("history", *arguments)["events"]) == events


def test_nothing_yet(cli: Cli) -> None:
    assert cli("history").stdout == "Nothing has happened yet.\n"
    assert cli.json("history")["events"] == []
    done = cli("explain")
    assert (done.returncode, done.stdout) == (1, "")
    assert "no limit was seen yet" in done.stderr
    assert not cli.paths.state_dir.exists()


def test_nothing_lately_says_how_to_see_the_rest(cli: Cli) -> None:
    life(cli, 3.5 * 86400).refuse("p/a", "ses_1", wait=20)
    assert "ocwatch history --since 4d" in cli("history").stdout
    assert "limited" in cli("history", "--since", "4d").stdout


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
        "rule rate-limit: the words name it",
        "hint the Retry-After header, until ",
        "door shows retry, attempt 1, next one in 2h",
        "why move 7200 s to wait, maxDelay is 30 s",
        "choice - p/b: rests (rate_limit) until ", "-> p/c: free",
        "MOVED p/a -> p/c",
        "saved ",
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


@pytest.mark.parametrize(("name", "said"), [("zzzzzz", "no decision"), ("abc", "too short")])
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
    assert "may mean 2 decisions" in done.stderr


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


@pytest.mark.parametrize("command", [("history",), ("explain",), ("watch",), ("report", "--out", "-")])
def test_hostile_text_reaches_neither_terminal_nor_page(hostile: Cli, command: tuple[str, ...]) -> None:
    done = hostile(*command)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout and "\u202e" not in done.stdout
    if command[0] == "report":
        assert "<script" not in done.stdout
        assert "&lt;script&gt;" in done.stdout


# ---- the report


class Page(HTMLParser):
    """Notes every address, every script and whether tags are closed."""

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
    path = week.paths.home / "ocwatch-report.html"
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
    assert not (cli.paths.home / "ocwatch-report.html").exists()


REPORT_KEYS = {
    "version", "time", "since", "journal_begins", "limits", "turns", "outcomes", "lost_seconds", "saved_seconds",
    "to_come_seconds", "uncounted_turns", "models", "fallbacks", "limits_by_hour", "cooldowns",
    "money",
}  # fmt: skip


def test_the_figures_as_json(week: Cli) -> None:
    figures = week.json("report", "--since", "3d")
    assert set(figures) == REPORT_KEYS
    assert set(figures["models"][0]) == {
        "model", "limits", "kinds", "cooling_seconds", "lost_seconds", "saved_seconds", "to_come_seconds",
        "uncounted_turns",
    }  # fmt: skip
    assert set(figures["fallbacks"][0]) == {
        "model", "tried", "moved", "limited", "failed", "success_rate", "median_recovery_seconds",
        "worst_recovery_seconds", "median_first_token_seconds",
    }  # fmt: skip
    assert set(figures["cooldowns"][0]) == {
        "model", "kind", "told_by", "since", "until", "ended", "ended_by", "duration_seconds", "limits", "decision",
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
    assert (rest["told_by"], rest["ended_by"]) == ("manual", "cleared")


def test_a_refused_target_is_explained(cli: Cli) -> None:
    known = life(cli)
    known.outcomes["p/b"] = lambda: MoveResult.TARGET_LIMITED
    known.refuse("p/a", "ses_1", wait=7200, kind=LimitKind.QUOTA)
    known.pass_time(1)
    text = " ".join(cli("explain").stdout.split())
    assert "LIMITED p/a -> p/b: did not answer" in text
    assert "MOVED p/b -> p/c" in text
