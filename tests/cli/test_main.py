"""Tests of the command line as a whole: imports, exit codes, paths, and output."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import ocwatchd
from ocwatchd import __version__
from ocwatchd import paths as places
from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import columns, fit, fit_middle, iso
from ocwatchd.cli.report.page import lasting
from ocwatchd.clock import rfc3339
from ocwatchd.daemon.loop import usage
from ocwatchd.time_words import clock, span, stamp, when
from scripts.man_pages import pages
from tests.cli.conftest import Cli, resting
from tests.support.pty import Pty

SLOW = ("typer", "click", "rich", "orjson", "psutil", "watchdog", "platformdirs", "json5")
VALUES = ("dataclasses", "pathlib", "typing", "inspect", "datetime", "contextlib")


def imported(cli: Cli, *arguments: str) -> set[str]:
    """Return the modules that a command line imports beyond those of a bare interpreter."""
    code = "import sys; from ocwatchd.cli.main import run; run(sys.argv[1:]); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, *arguments], env=cli.env, cwd=cli.paths.home, capture_output=True, timeout=60
    )
    return {name.partition(".")[0] for name in done.stderr.decode().splitlines()[-1].split()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",), ("status",), ("status", "--json"), ("cooldowns",), ("pick", "p/a"), ("pick", "big"),
        ("statusline",), ("statusline", "--format", "{model} {left}"), ("statusline", "--format=waybar"),
        ("__complete", "models"), ("__complete", "ids"),
    ],
)  # fmt: skip
def test_quick_commands_import_nothing_slow(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli.register(**{"p/a": resting()})
    cli.heartbeat()
    cli.configure(fallbackChain={"p/a": "q/b"}, models={"big": "p/a"})
    assert imported(cli, *arguments) & set(SLOW) == set()


def test_pick_imports_no_value_types(cli: Cli) -> None:
    cli.configure(fallbackChain={"p/a": "q/b"}, models={"big": "p/a"})
    assert imported(cli, "pick", "big") & set(VALUES) == set()
    assert imported(cli, "statusline") & set(VALUES) == set()


def test_version(cli: Cli) -> None:
    done = cli("--version")
    assert (done.returncode, done.stdout) == (0, f"ocwatch {__version__}\n")


def test_help_names_every_command(cli: Cli) -> None:
    done = cli("--help")
    assert done.returncode == 0
    for command in (
        "status", "cooldowns", "block", "clear", "pick", "classify", "redirect", "up", "down", "service", "history",
        "explain", "report", "watch", "statusline", "completion",
    ):  # fmt: skip
        assert f"  {command} " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments", [(), ("nonsense",), ("status", "extra"), ("status", "--nonsense"), ("pick", "a/b", "c/d"), ("--json",)]
)
def test_usage_errors_are_2_on_standard_error(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert "Usage" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("history", "-n", "many"), "'many' is not a whole number. "),
        (("service", "logs", "-n", "1.5"), "'1.5' is not a whole number. "),
        (("statsu",), "Usage: ocwatch [OPTIONS] COMMAND [ARGS]... For help: "),
        (("share", "tets"), "[ARGS]... For help: "),
    ],
)
def test_a_usage_error_is_a_sentence(cli: Cli, arguments: tuple[str, ...], said: str) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "?." not in done.stderr
    assert "...." not in done.stderr


@pytest.mark.parametrize("group", [(), ("share",), ("plugin",), ("config",), ("service",)])
def test_the_list_of_commands_is_cut_nowhere(cli: Cli, group: tuple[str, ...]) -> None:
    done = cli(*group, "--help", COLUMNS="80")
    _, found, listed = done.stdout.partition("Commands:")
    assert found
    assert [line for line in listed.splitlines() if line.endswith("...")] == []


@pytest.mark.parametrize("arguments", [("cooldowns", "--help"), ("--json", "cooldowns"), ("cooldowns", "--json")])
def test_quick_and_full_command_lines_are_told_apart(cli: Cli, arguments: tuple[str, ...]) -> None:
    assert cli(*arguments).returncode == (2 if arguments[0] == "--json" else 0)


def test_a_closed_pipe_is_no_fault(cli: Cli) -> None:
    cli.register(**{f"p/{number}": resting() for number in range(5000)})
    process = subprocess.Popen(
        cli.command("cooldowns", "--json"), env=cli.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert (process.wait(30), process.stderr.read()) == (0, b"")


def test_an_output_that_takes_nothing_is_one_message(cli: Cli) -> None:
    with Path(os.devnull).open("rb") as unwritable:
        done = subprocess.run(
            cli.command("cooldowns"), env=cli.env, stdout=unwritable, stderr=subprocess.PIPE, timeout=60
        )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert done.stderr.startswith(b"ocwatch: standard output: ")


def test_without_any_standard_stream(cli: Cli) -> None:
    done = subprocess.run(["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "-", *cli.command("status")], env=cli.env)
    assert done.returncode == 3


def test_sentences_break_between_words_on_a_terminal_and_nowhere_in_a_pipe(cli: Cli) -> None:
    sentence = cli("block", "nonsense").stderr.removesuffix("\n")
    assert "\n" not in sentence
    command = cli.command("block", "nonsense")
    with Pty(command, cli.env, cli.paths.home, size=(60, 24)) as terminal:
        assert terminal.end() == 2
        lines = terminal.shown.decode().split("\r\n")[:-1]
    assert len(lines) > 1
    assert max(map(len, lines)) <= 60
    assert " ".join(lines) == sentence


def test_a_command_on_a_line_of_its_own_is_not_broken(cli: Cli) -> None:
    typed = "    cd '/home/somebody/projects/a long name' && opencode --log-level DEBUG -s ses_1"
    program = f"from ocwatchd.cli.output.render import tell; tell({'Type this: ' * 9 + chr(10) + typed!r})"
    with Pty([sys.executable, "-c", program], cli.env, cli.paths.home, size=(60, 24)) as terminal:
        assert terminal.end() == 0
        *prose, last = terminal.shown.decode().split("\r\n")[:-1]
    assert last == typed
    assert len(prose) == 2
    program = f"from ocwatchd.cli.output.render import tell; tell('Sessions:\\n  ' + {'a session ' * 9!r})"
    with Pty([sys.executable, "-c", program], cli.env, cli.paths.home, size=(60, 24)) as terminal:
        assert terminal.end() == 0
        _, first, second = terminal.shown.decode().split("\r\n")[:-1]
    assert first.startswith("  a session a")
    assert second.startswith("    session")


def test_a_state_directory_that_cannot_be_made_is_one_message(cli: Cli) -> None:
    env = {**cli.env, "XDG_STATE_HOME": "/dev/null/state"}
    daemon = [sys.executable, "-m", "ocwatchd"]
    done = subprocess.run(daemon, env=env, cwd=cli.paths.home, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ocwatchd: /dev/null/state: Not a directory\n"


def test_ctrl_c_ends_quietly(cli: Cli) -> None:
    process = subprocess.Popen(
        cli.command("classify", "-"), env=cli.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(b"\n" * (1 << 20))  # more than a pipe can contain: the process reads once this returns
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"XDG_STATE_HOME": "/s", "XDG_CONFIG_HOME": "/c"},
        {"XDG_CONFIG_HOME": "/c/", "XDG_STATE_HOME": ""},
        {"XDG_STATE_HOME": "relative"},
        {"OPENCODE_CONFIG_DIR": "/elsewhere"},
        {"HOME": "/other/home"},
    ],
)
def test_quick_places_are_the_real_ones(environ: dict[str, str]) -> None:
    code = (
        "from ocwatchd.paths import Paths; from ocwatchd import paths as places; p = Paths.from_env();"
        "a = [str(p.blacklist), str(p.heartbeat), str(p.config_file)];"
        "b = [places.state_file('blacklist.json'), places.state_file('daemon.json'), places.config_file()];"
        "assert a == b, (a, b)"
    )
    root = str(Path(places.__file__).parents[2])
    env = {"HOME": "/home/dev", "PATH": os.environ["PATH"], "PYTHONPATH": root, **environ}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr.decode()) == (0, "")


@given(st.text())
@example("\x00\x1b\x7f\x85\x9b\u200e\u202e\u2028\ufeff\ud800\U000e0001")
def test_escaped_text_is_printable_and_plain_text_stays(text: str) -> None:
    shown = escape(text)
    forbidden = ("Cc", "Cs", "Zl", "Zp")
    assert not [char for char in shown if unicodedata.category(char) in forbidden or unicodedata.bidirectional(char) in
                ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")]  # fmt: skip


@pytest.mark.parametrize("text", ["请求过多", "naïve — ok…", "日本語", "a b", "", "👍"])
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert escape(text) == text


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (-5, "0s"), (0.2, "1s"), (59, "59s"), (60, "1m"), (200, "3m 20s"), (3600, "1h"), (7500, "2h 5m"),
     (3601, "1h"), (90000, "1d 1h"), (86400 * 400, "400d")],
)  # fmt: skip
def test_spans(seconds: float | None, shown: str) -> None:
    assert span(seconds) == shown


@given(st.text(alphabet="ab智谱 é\u0301", max_size=40), st.integers(2, 30))
def test_fitting(text: str, width: int) -> None:
    assert columns(fit(text, width)) <= width
    assert len(fit_middle(text, width)) <= max(width, 0)
    if columns(text) <= width:
        assert fit(text, width) == text


@given(st.floats(0, 4e9))
def test_times_in_json_are_those_of_our_files(epoch: float) -> None:
    assert iso(epoch) == rfc3339(epoch)


def test_a_time_too_far_off_for_this_machine_is_no_fault() -> None:
    assert clock(None, 0.0) == "-"
    assert clock(1e18, 0.0) == "far off"


@pytest.mark.parametrize(
    "arguments",
    [("fly",), ("status", "--nope"), ("block",), ("history", "--since"), ("service", "logs", "-n", "many"), ("clear",)],
)
def test_an_error_has_one_form_and_is_a_document_with_json(cli: Cli, arguments: tuple[str, ...]) -> None:
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ocwatch: ")
    assert done.stderr.count("\n") == 1
    done = cli(*arguments, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    document = json.loads(done.stderr)
    assert document["version"] == 1
    assert document["error"]["code"] == 2
    assert document["error"]["message"]


def test_one_time_format_for_people() -> None:
    now = 1_795_341_600.0
    today, tomorrow = time.localtime(now), now + 86400
    assert when(now + 200, now) in (
        time.strftime(f"{form}%H:%M (in 3m 20s)", time.localtime(now + 200)) for form in ("", "%a ")
    )
    assert when(now - 5, now).endswith(" (5s ago)")
    assert when(tomorrow, now) == time.strftime("%a %H:%M (in 1d)", time.localtime(tomorrow))
    assert when(None, now) == "-"
    assert when(1e20, now) == "far off"
    assert stamp(now, now) == time.strftime("%H:%M:%S", today)
    assert stamp(tomorrow, now) == time.strftime("%a %H:%M:%S", time.localtime(tomorrow))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d", stamp(now + 400 * 86400, now))


def test_only_json_and_logs_print_times_of_machines() -> None:
    """Formatting a time without `time_words` adds a format that users have to learn."""
    named = {"own_log.py", "share/helper.py"}  # logs
    root = Path(ocwatchd.__file__).parent
    shown = re.compile(r"""\{(?:_?iso|rfc3339)\(|strftime\("(?!%Z|%Y%m%d)""")
    days = {"cli/commands/history.py", "cli/commands/report.py"}  # headings and keys of whole days
    charts = {"cli/report/page.py", "time_words.py"} | days  # labels of axes
    found = {str(file.relative_to(root)) for file in root.rglob("*.py") if shown.search(file.read_text())}
    assert found <= named | charts


def test_durations_are_formatted_in_one_place() -> None:
    """Formatting seconds without `core.text.amounts` adds a format that users have to learn."""
    root = Path(ocwatchd.__file__).parent
    by_hand = re.compile(r"\{[^{}\n]+\} (?:s|min|h)\b")
    column = {"cli/commands/drill.py"}  # hundredths of a second, aligned
    assert {str(file.relative_to(root)) for file in root.rglob("*.py") if by_hand.search(file.read_text())} == column


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "–"), (0.62, "0.6s"), (45.0, "45.0s"), (740.0, "12m 20s"), (12_000.0, "3h 20m")]
)
def test_the_page_of_the_report_shows_durations_like_the_commands(seconds: float | None, shown: str) -> None:
    assert lasting(seconds) == shown


def test_symbols_of_findings_without_unicode(cli: Cli) -> None:
    for encoding, marks in (("utf-8", "✓·!✗"), ("ascii", "+-!x")):
        lines = cli("doctor", PYTHONIOENCODING=encoding).stdout.splitlines()
        heads = {line[0] for line in lines if line[:1].strip() and line[1:2] == " " and not line[0].isdecimal()}
        assert heads and heads <= set(marks), lines
        assert heads & set(marks[:2])


def daemon(cli: Cli, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ocwatchd", *arguments]
    return subprocess.run(command, env=cli.env, cwd=cli.paths.home, capture_output=True, text=True, timeout=60)


def test_the_daemons_help_and_manual_name_the_options_that_it_accepts(cli: Cli) -> None:
    for option in ("-h", "--help"):
        done = daemon(cli, option)
        assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 80
    manual = pages()["ocwatchd.1"].replace("\\-", "-")
    for option in re.findall(r"--?[a-zA-Z]+", done.stdout.partition("Options:")[2]):
        assert option in manual
    for option in ("-V", "--version"):
        assert option in done.stdout
        assert daemon(cli, option).stdout == f"ocwatchd {__version__}\n"
    wrong = daemon(cli, "--port", "1")
    assert (wrong.returncode, wrong.stdout, wrong.stderr) == (2, "", done.stdout)


@pytest.mark.parametrize("option", ["-v", "--verbose"])
def test_the_daemon_accepts_verbose(cli: Cli, option: str) -> None:
    assert f"  {option}" in usage() or f", {option}" in usage()
    cli.paths.config_file.write_text("{")  # so that the daemon ends immediately
    assert daemon(cli, option).returncode == 4


def test_help_and_version_typed_as_commands_name_the_options(cli: Cli) -> None:
    for words, advice in (
        (("help",), "ocwatch --help"),
        (("version",), "ocwatch --version"),
        (("service", "help"), "ocwatch service --help"),
    ):
        done = cli(*words)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"ocwatch: no such command '{words[-1]}'. Use: {advice}\n"
    assert cli("-V").stdout == cli("--version").stdout == f"ocwatch {__version__}\n"


@pytest.mark.parametrize("words", [("doctor", "--bundle"), ("service", "logs", "-n")])
def test_a_missing_value_of_an_option_names_the_help_of_its_command(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"requires an argument. For help: ocwatch {' '.join(words[:-1])} --help\n")


@pytest.mark.parametrize(("words", "least"), [(("history",), 1), (("logs",), 0), (("service", "logs"), 0)])
def test_the_number_of_lines_has_a_range_and_a_plain_help_text(cli: Cli, words: tuple[str, ...], least: int) -> None:
    for number in (least - 1, 100001):
        done = cli(*words, "-n", str(number))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{number} is not in the range from {least} to 100000" in done.stderr
    text = cli(*words, "--help").stdout
    assert "-n, --lines LINES " in text
    assert "<=x<=" not in text


def test_an_error_message_continues_the_line_that_begins_with_the_program(cli: Cli) -> None:
    for command in ("test", "install"):
        assert cli("share", command).stderr.startswith("ocwatch: cooldowns are not shared. To share them,")
    assert cli("share", "status").stdout.startswith("Cooldowns are not shared.")
