"""Tests of ocwatchd's own log: levels, one line per event, and no secret at any level."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ocwatchd import own_log
from ocwatchd.core.domain.types import ModelRef

KEY = "sk-ant-api03-SECRETsecretSECRETsecretSECRET-AA"
LOG = logging.getLogger("ocwatchd.somewhere")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    logger = logging.getLogger("ocwatchd")
    before = logger.level, logger.propagate, list(logger.handlers)
    logger.handlers.clear()
    yield
    logger.level, logger.propagate, logger.handlers[:] = before
    logger.setLevel(before[0])


@pytest.mark.parametrize(
    ("level", "shown"),
    [("debug", "diw"), ("info", "iw"), ("", "iw"), ("WARNING", "w"), ("error", ""), ("loud", "!iw")],
)
def test_the_level_of_the_environment(capsys: pytest.CaptureFixture[str], level: str, shown: str) -> None:
    own_log.set_up(environ={"OCWATCHD_LOG": level})
    LOG.debug("d")
    LOG.info("i")
    LOG.warning("w")
    lines = capsys.readouterr().err.splitlines()
    assert ["!" if "is not a level" in line else line[-1] for line in lines] == list(shown)


def test_an_argument_wins_and_twice_is_once(capsys: pytest.CaptureFixture[str]) -> None:
    own_log.set_up(environ={"OCWATCHD_LOG": "error"})
    own_log.set_up("debug", {"OCWATCHD_LOG": "error"})
    LOG.debug("reads %d files", 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("Z debug somewhere: reads 3 files")


def test_an_event_is_one_printable_line_without_its_level(capsys: pytest.CaptureFixture[str]) -> None:
    own_log.set_up(environ={})
    LOG.warning("two\nlines\x1b[31m")
    assert (
        capsys.readouterr().err.rstrip("\n").partition("Z ")[2]
        == "two\N{REPLACEMENT CHARACTER}lines\N{REPLACEMENT CHARACTER}[31m"
    )


@pytest.mark.parametrize(
    "words", ["key {}", "Authorization: Bearer {}", "http://user:{}@127.0.0.1:4096/x", "a=b&token={}"]
)
def test_no_secret_is_printed(capsys: pytest.CaptureFixture[str], words: str) -> None:
    own_log.set_up("debug")
    try:
        raise ValueError(words.format(KEY))
    except ValueError:
        for level in (logging.DEBUG, logging.INFO, logging.ERROR):
            LOG.log(level, "failed: %s", words.format(KEY), exc_info=True)
    said = capsys.readouterr().err
    assert said.count("failed") == 3 and "[hidden]" in said
    assert "SECRET" not in said and "Traceback" not in said


def test_the_home_and_our_own_ids_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/tmp/tmpab3x9z_q1")
    line = "claim: id=3f9a81c2d4e5 log=/tmp/tmpab3x9z_q1/.local/share/opencode/log model=p/a"
    assert own_log.clean(line) == line
    assert "3f9a81c2d4e5" not in own_log.clean("token=3f9a81c2d4e5")
    aside = "kept as blacklist.json.corrupt-20261130T235959Z-2"
    assert own_log.clean(aside) == aside


def test_fields_are_redacted_one_by_one() -> None:
    line = own_log.clean_fields("limit", {"model": "p/a", "reason": f"limit of key {KEY}", "id": "3f9a81c2d4e5"})
    assert line == "limit: model=p/a reason=limit of key [hidden] id=3f9a81c2d4e5"


def test_other_programs_loggers_stay_silent(capsys: pytest.CaptureFixture[str]) -> None:
    own_log.set_up("debug")
    logging.getLogger("watchdog").debug("an event")
    assert "an event" not in capsys.readouterr().err


@dataclass(frozen=True)
class _Inner:
    status: int
    password: str


@dataclass(frozen=True)
class _Message:
    session: str
    model: ModelRef
    prompt: str
    snapshot: _Inner
    removed: tuple[str, ...]
    reason: str


def test_an_outline_has_the_fields_that_are_allowed_and_no_other() -> None:
    message = _Message("ses_1", ModelRef("p", "a"), "SECRET", _Inner(429, "SECRET"), ("x", "y"), "r" * 500)
    said = own_log.outline(message)
    assert said.startswith("_Message session=ses_1 model=p/a snapshot=(_Inner status=429) removed=2 reason=rrr")
    assert "SECRET" not in said and len(said) < 260
