"""Tests of what is on disk when a write returns. Only the kernel knows, so the flushing calls are recorded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ocwatchd.state.files import write_atomic
from ocwatchd.state.journal import Journal


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the flushed files and directories, in order."""
    names: list[str] = []
    flush = os.fsync

    def recording(fd: int) -> None:
        flush(fd)
        names.append(Path(f"/proc/self/fd/{fd}").readlink().name)

    monkeypatch.setattr(os, "fsync", recording)
    return names


def test_a_file_is_on_the_disk_before_its_rename_and_the_rename_is_too(tmp_path: Path, synced: list[str]) -> None:
    path = tmp_path / "state" / "blacklist.json"
    write_atomic(path, b"{}")
    temporary, directory = synced
    assert temporary.startswith(".blacklist.json.")
    assert directory == "state"


def test_a_claim_is_on_the_disk_before_anything_is_done_and_a_new_journal_has_its_name(
    tmp_path: Path, synced: list[str]
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"what": "claim", "claim": "c1"}, durable=True)
    assert synced == ["journal.jsonl", tmp_path.name]
    journal.append({"what": "claim", "claim": "c2"}, durable=True)
    assert synced[2:] == ["journal.jsonl"]


def test_what_may_be_lost_in_a_power_cut_waits_for_no_disk(tmp_path: Path, synced: list[str]) -> None:
    Journal(tmp_path / "journal.jsonl").append({"what": "limit"})
    assert synced == []
