import json
import os
import threading

import pytest

from ocwatchd.core.domain.types import WEB_PAGE
from ocwatchd.state.plugin_reports import KEPT, PluginReports, fact, keep_alive_age, prevented, remove_old

LINE = {
    "version": 1,
    "time": "2026-11-22T12:00:00.250Z",
    "pid": 7,
    "session": "ses_1",
    "provider": "openrouter",
    "model": "qwen/qwen3:free",
    "agent": "build",
    "small": False,
    "status": 429,
    "retry_after": "3600",
    "url_host": "127.0.0.1:1",
}


def line(**changes):
    return json.dumps({**LINE, **changes}).encode()


def test_a_fact_names_session_model_status_and_retry_after():
    heard = fact(line(retry_after_ms=2500))
    assert (heard.session, heard.model, heard.facts.status) == ("ses_1", "openrouter/qwen/qwen3:free", 429)
    assert dict(heard.facts.headers) == {"retry-after": "3600", "retry-after-ms": "2500"}
    assert heard.time == 1795348800.25


def test_what_came_in_place_of_an_answer_is_read_as_any_error():
    body = '{"error": {"message": "Rate limit reached, try again in 20m", "code": "rate_limit_exceeded"}}'
    heard = fact(line(status=200, body=body))
    assert (heard.facts.status, heard.facts.codes) == (200, ("rate_limit_exceeded",))
    assert heard.facts.message == "Rate limit reached, try again in 20m"
    page = fact(line(status=200, page=True)).facts
    assert (page.status, page.name, page.message) == (200, WEB_PAGE, "")
    for odd in ({"body": None}, {"body": {"error": 1}}, {"page": "yes"}):
        assert fact(line(status=200, **odd)).facts.name is None


def test_what_is_no_fact_of_a_main_turn_is_passed_over():
    odd = [b"", b"{", b"[]", b"null", b"[" * 100_000, b"\xff\xfe"]
    assert [fact(text) for text in odd] == [None] * len(odd)
    changed = [{"session": None}, {"small": True}, {"status": "429"}, {"status": True}, {"time": "soon"}, {"time": 5}]
    assert [fact(line(**change)) for change in changed] == [None] * len(changed)


def test_files_are_followed_from_their_end_and_torn_lines_are_waited_for(tmp_path):
    path = tmp_path / "7.jsonl"
    path.write_bytes(line(session="ses_old") + b"\n")
    files = PluginReports(tmp_path)
    assert files.poll() == []
    with path.open("ab") as file:
        file.write(line(session="ses_new") + b"\n" + line(session="ses_torn")[:40])
    assert [heard.session for heard in files.poll()] == ["ses_new"]
    with path.open("ab") as file:
        file.write(line(session="ses_torn")[40:] + b"\n")
    (tmp_path / "8.jsonl").write_bytes(line(session="ses_other") + b"\n")
    assert sorted(heard.session for heard in files.poll()) == ["ses_other", "ses_torn"]
    assert files.poll() == []


def test_the_process_that_reports_a_session_is_named(tmp_path):
    reported = []
    files = PluginReports(tmp_path, lambda session, pid: reported.append((session, pid)))
    (tmp_path / "7.jsonl").write_bytes(line(session="ses_a") + b"\n")
    (tmp_path / "other.jsonl").write_bytes(line(session="ses_b") + b"\n")
    assert sorted(heard.session for heard in files.poll()) == ["ses_a", "ses_b"]
    assert reported == [("ses_a", 7)]


def test_a_file_set_aside_and_begun_anew_is_read_from_its_beginning(tmp_path):
    path = tmp_path / "7.jsonl"
    path.write_bytes(line() * 3 + b"\n")
    files = PluginReports(tmp_path)
    path.rename(tmp_path / "7.jsonl.1")
    path.write_bytes(line(session="ses_new") + b"\n")
    assert [heard.session for heard in files.poll()] == ["ses_new"]


def test_links_are_not_followed_and_old_files_go(tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(line() + b"\n")
    directory = tmp_path / "facts"
    directory.mkdir()
    files = PluginReports(directory)
    (directory / "1.jsonl").symlink_to(outside)
    assert files.poll() == []
    old = directory / "2.jsonl"
    old.write_bytes(b"")
    os.utime(old, (1000, 1000))
    files.tidy(1000 + KEPT + 1)
    assert not old.exists()
    assert PluginReports(tmp_path / "nowhere").poll() == []


def test_what_prevention_passed_over_is_read_too(tmp_path):
    told = {"version": 1, "time": LINE["time"], "session": "ses_1", "prevented": "p/a", "target": "r/c"}
    passed = [{"model": "q/b", "why": "too small"}]
    read = prevented(json.dumps({**told, "passed": passed}).encode())
    assert (read.session, read.model, read.target, read.passed) == ("ses_1", "p/a", "r/c", (("q/b", "too small"),))
    odd = [{}, {"passed": 7}, {"passed": [7]}, {"passed": [], "session": 3}, {"passed": [], "prevented": None}]
    assert [prevented(json.dumps({**told, **change}).encode()) for change in odd] == [None] * len(odd)
    files = PluginReports(tmp_path)
    (tmp_path / "7.jsonl").write_bytes(line() + b"\n" + json.dumps({**told, "passed": passed}).encode() + b"\n")
    assert [type(found).__name__ for found in files.poll()] == ["TroubleReported", "Prevented"]


def test_what_was_added_just_before_a_file_was_set_aside_is_read_too(tmp_path):
    path = tmp_path / "7.jsonl"
    path.write_bytes(line(session="ses_old") + b"\n")
    files = PluginReports(tmp_path)
    with path.open("ab") as file:
        file.write(line(session="ses_last") + b"\n")
    path.rename(tmp_path / "7.jsonl.1")
    path.write_bytes(line(session="ses_new") + b"\n")
    assert [heard.session for heard in files.poll()] == ["ses_last", "ses_new"]
    assert files.poll() == []


def test_files_that_are_set_aside_while_it_begins_are_no_fault(tmp_path):
    ended = threading.Event()

    def turn(path):
        while not ended.is_set():
            path.write_bytes(line() + b"\n")
            path.rename(f"{path}.1")

    writers = [threading.Thread(target=turn, args=(tmp_path / f"{number}.jsonl",)) for number in range(3)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(4000):
            PluginReports(tmp_path).poll()
    finally:
        ended.set()
        for writer in writers:
            writer.join()


def test_the_latest_keep_alive_of_a_session_counts(tmp_path):
    assert keep_alive_age(tmp_path / "none", "ses_1", 0.0) is None
    for pid, at in ((7, "2026-11-22T12:00:00Z"), (8, "2026-11-22T12:00:20Z"), (9, "soon")):
        (tmp_path / f"{pid}.json").write_text(json.dumps({"version": 1, "sessions": {"ses_1": at, "ses_2": None}}))
    now = 1795348830.0
    assert keep_alive_age(tmp_path, "ses_1", now) == 10.0
    assert keep_alive_age(tmp_path, "ses_1", now - 60) == 0.0
    assert (keep_alive_age(tmp_path, "ses_2", now), keep_alive_age(tmp_path, "ses_3", now)) == (None, None)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2, "sessions": {"ses_1": "2026-11-22T12:00:00Z"}}',
    '{"version": 1, "sessions": ["ses_1"]}', '{"version": 1, "sessions": null}'])  # fmt: skip
def test_a_file_of_keep_alives_that_cannot_be_used_is_as_none(tmp_path, content):
    (tmp_path / "7.json").write_text(content)
    (tmp_path / "8.json").mkdir()
    (tmp_path / "9.json").symlink_to("9.json")
    assert keep_alive_age(tmp_path, "ses_1", 1795348830.0) is None


def test_files_of_processes_that_have_ended_are_removed(tmp_path):
    old, new = tmp_path / "7.json", tmp_path / "8.json"
    for path, at in ((old, 1000.0), (new, 2000.0)):
        path.write_text("{}")
        os.utime(path, (at, at))
    remove_old(tmp_path.glob("*.json"), 1500.0 + KEPT)
    assert list(tmp_path.iterdir()) == [new]
