"""Tests of edits of the configuration during a long run. Time is passed as a value, so no test waits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ocwatchd.config import Config, load
from ocwatchd.config.loading import SETTLED, LiveConfig
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths

CHAIN = {"rateLimit": {"fallbackChain": {"p/a": "q/b"}}}
OTHER = {"rateLimit": {"fallbackChain": {"p/a": "r/c"}}}


class Edited:
    """A configuration file and the object that follows it."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home, home / "config", home / "data", home / "state", home / "cache")
        self.file = self.paths.config_file
        self.file.parent.mkdir()
        self.write(CHAIN)
        self.now = 1000.0
        self.live = LiveConfig(self.paths, load(self.paths), self.now)
        assert self.look() is None

    def write(self, content: Any) -> None:
        self.file.write_text(content if isinstance(content, str) else json.dumps(content))

    def look(self, seconds: float = SETTLED + 0.01) -> Config | ConfigError | None:
        """Return what is reported after this time without a further change."""
        assert not isinstance(self.live.read_edit(self.now), Config)
        self.now += seconds
        return self.live.read_edit(self.now)

    def chain(self, news: Config | ConfigError | None) -> tuple[str, ...]:
        assert isinstance(news, Config)
        return news.policy.chains["p/a"]


@pytest.fixture
def edited(tmp_path: Path) -> Edited:
    return Edited(tmp_path)


def test_an_edit_is_told_once_it_has_settled(edited: Edited) -> None:
    edited.write(OTHER)
    assert edited.look(SETTLED / 2) is None
    assert edited.live.due == pytest.approx(edited.now + SETTLED / 2)
    edited.write("")  # an editor that truncates first: an empty file is valid too
    assert edited.look(SETTLED / 2) is None
    edited.write(OTHER)
    assert edited.look(SETTLED / 2) is None
    assert edited.chain(edited.look()) == ("r/c",)
    assert (edited.live.due, edited.live.loaded, edited.live.health()) == (None, edited.now, [])
    assert edited.look() is None


def test_editors_that_rename_links_and_a_file_that_goes(edited: Edited, tmp_path: Path) -> None:
    fresh = tmp_path / "fresh"
    fresh.write_text(json.dumps(OTHER))
    edited.file.unlink()
    assert edited.look(SETTLED / 2) is None
    fresh.rename(edited.file)
    assert edited.chain(edited.look()) == ("r/c",)
    aside = tmp_path / "dotfiles.json"
    aside.write_text(json.dumps(CHAIN))
    edited.file.unlink()
    edited.file.symlink_to(aside)
    assert edited.chain(edited.look()) == ("q/b",)
    aside.write_text(json.dumps(OTHER))
    assert edited.chain(edited.look()) == ("r/c",)
    aside.unlink()
    gone = edited.look()
    assert isinstance(gone, Config)
    assert gone == Config()


def test_a_broken_edit_keeps_the_last_good_one_and_is_told_once(edited: Edited) -> None:
    good = edited.live.config
    edited.write('{"rateLimit": {\n"mode": "fast"}}')
    fault = edited.look()
    assert isinstance(fault, ConfigError)
    assert "line 2" in str(fault)
    assert edited.live.config == good
    assert edited.live.health() == [f"{fault}; until this is fixed, the last valid configuration is used"]
    assert edited.live.as_json()["problem"] == str(fault)
    assert edited.look() is None
    edited.write('{"rateLimit": {\n"mode": "fast"  }}')
    assert edited.look() is None, "the same fault again is no news"
    edited.write('{"rateLimit": {')
    assert isinstance(edited.look(), ConfigError)
    edited.write(CHAIN)
    assert edited.chain(edited.look()) == ("q/b",), "mended is news, also with the same values"
    assert (edited.live.health(), edited.live.as_json()["problem"]) == ([], None)


def test_what_changes_no_value_is_no_news(edited: Edited) -> None:
    edited.write("// a remark\n" + json.dumps(CHAIN))
    os.utime(edited.file)
    assert edited.look() is None


def test_a_clock_that_is_set_back_delays_nothing(edited: Edited) -> None:
    edited.write(OTHER)
    assert edited.live.read_edit(edited.now) is None
    assert edited.chain(edited.live.read_edit(edited.now - 3600)) == ("r/c",)


def test_an_edit_while_we_start_is_not_missed(edited: Edited) -> None:
    config = load(edited.paths)
    edited.write(OTHER)
    edited.live = LiveConfig(edited.paths, config, edited.now)
    assert edited.chain(edited.look()) == ("r/c",)


def test_log_directories_wait_for_a_new_start(edited: Edited) -> None:
    edited.write({"rateLimit": {"logs": {"directories": ["/var/log/oc"]}}})
    assert isinstance(edited.look(), Config)
    (line,) = edited.live.health()
    assert "restart ocwatchd" in line
    edited.write({"rateLimit": {}})
    assert isinstance(edited.look(), Config)
    assert edited.live.health() == []
