"""Tests of which subagents work in the background, by the answers of OpenCode's API."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from ocwatchd.clock import SystemClock
from ocwatchd.core.domain.snapshot import Endpoint, RunningTool, TcpAddress
from ocwatchd.opencode.client.v1.responses import RetryStatus, Session
from ocwatchd.opencode.client.v1.routes import Api, Shown
from ocwatchd.opencode.sessions.messages import Message
from ocwatchd.opencode.sessions.snapshots import take_snapshot, unfinished_children

BUSY, RETRY = RetryStatus("busy"), RetryStatus("retry", 1, 9e9)
SOON = RetryStatus("retry", 1, 0.0)
PARENT = Session("ses_p", "/p")
TREE = {"ses_p": ["ses_a", "ses_b"], "ses_a": ["ses_aa"]}


class FakeApi(Api):
    """An API with subagents: `statuses` of all that are not idle; `calls`: the running calls of the parent."""

    def __init__(self, statuses: Mapping[str, RetryStatus], *calls: str, open_since: float | None = 1000.0) -> None:
        super().__init__(Endpoint(TcpAddress("127.0.0.1", 4096), 7, "/p"))
        self.statuses, self.calls, self.open_since = statuses, calls, open_since
        self.asked: list[str] = []

    def status(self, directory: str | None) -> Mapping[str, RetryStatus]:
        return self.statuses

    def messages(self, session: str, directory: str | None, limit: int) -> list[Message]:
        ended = None if session in self.statuses else 2000.0
        calls = tuple(RunningTool("task", child) for child in self.calls) if session == "ses_p" else ()
        answer = Message("msg_2", "assistant", "msg_1", created=self.open_since, completed=ended, running=calls)
        return [Message("msg_1", "user"), answer]

    def at_once(
        self, session: Session, limit: int, now: Callable[[], float], *, status: bool = True, questions: bool = True
    ) -> Shown:
        statuses = self.status(session.directory) if status else {}
        messages = self.messages(session.id, session.directory, limit)
        return Shown(now(), statuses, messages, questions and self.asking(session))

    def asking(self, session: Session) -> bool:
        return False

    def children(self, session: str, directory: str | None) -> list[str]:
        self.asked.append(session)
        return TREE.get(session, [])


@pytest.mark.parametrize(
    ("statuses", "calls", "found"),
    [
        ({"ses_p": RETRY}, (), ()),
        ({"ses_p": RETRY, "ses_a": BUSY}, (), ("ses_a",)),
        ({"ses_p": RETRY, "ses_a": SOON}, (), ("ses_a",)),
        ({"ses_p": RETRY, "ses_a": RETRY}, (), ()),  # the subagent is stuck itself
        ({"ses_p": RETRY, "ses_other": BUSY}, (), ()),
        ({"ses_p": RETRY, "ses_a": BUSY, "ses_b": BUSY}, (), ("ses_a", "ses_b")),
        ({"ses_p": RETRY, "ses_a": BUSY, "ses_aa": BUSY}, (), ("ses_a", "ses_aa")),
        ({"ses_p": BUSY, "ses_a": RETRY}, ("ses_a",), ()),
        ({"ses_p": BUSY, "ses_a": RETRY, "ses_b": BUSY}, ("ses_a",), ("ses_b",)),
        ({"ses_p": BUSY, "ses_a": RETRY, "ses_aa": BUSY}, ("ses_a",), ("ses_aa",)),
        ({"ses_a": BUSY}, (), ()),  # the session is idle, so no turn is aborted
    ],
)
def test_those_that_work_although_no_running_call_names_them(
    statuses: dict[str, RetryStatus], calls: tuple[str, ...], found: tuple[str, ...]
) -> None:
    api = FakeApi(statuses, *calls)
    assert tuple(sorted(take_snapshot(api, PARENT, SystemClock()).background)) == found
    if len(statuses) == 1:
        assert api.asked == [], "nobody is asked about subagents where nothing else works"


@pytest.mark.parametrize(
    ("since", "known", "found"), [(999.0, None, ("ses_a",)), (999.0, "ses_a", ()), (1001.0, None, ())]
)
def test_of_a_process_that_cannot_be_asked_open_answers_count_since_it_was_started(
    since: float, known: str | None, found: tuple[str, ...]
) -> None:
    assert unfinished_children(FakeApi({"ses_a": BUSY}), PARENT, since, known) == found
