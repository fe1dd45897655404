"""Tests that the answer of a private server's session is printed as `opencode run` prints it, each part once."""

from __future__ import annotations

import io
import json
from typing import Any, cast

from ocwatchd.launcher.output import Printer
from ocwatchd.opencode.client.v1.responses import Session
from ocwatchd.opencode.client.v1.routes import Api

SESSION = Session("ses_1", "/project")


class Told:
    """A fake API with the session's messages as a test sets them."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def raw_messages(self, session: str, directory: str, limit: int) -> list[dict[str, Any]]:
        assert (session, directory) == ("ses_1", "/project")
        return self.messages[-limit:]


def answer(ident: str, *parts: dict[str, Any], done: bool = True, **more: Any) -> dict[str, Any]:
    time = {"created": 1, "completed": 2} if done else {"created": 1}
    listed = [{"id": f"{ident}_{number}", **part} for number, part in enumerate(parts)]
    return {"info": {"id": ident, "role": "assistant", "time": time, **more}, "parts": listed}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": text, **more}


def printer(told: Told, as_json: bool = False) -> tuple[Printer, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Printer(cast(Api, told), SESSION, as_json, out, err, lambda: 1.5), out, err


def test_only_what_is_new_and_finished_is_printed_once() -> None:
    told = Told()
    told.messages = [answer("msg_1", said("before"))]
    made, out, err = printer(told)
    made.poll()
    told.messages.append({"info": {"id": "msg_2", "role": "user"}, "parts": [{"id": "p", **said("the prompt")}]})
    told.messages.append(answer("msg_3", said("half"), done=False))
    made.poll()
    assert out.getvalue() == ""
    tool = {"type": "tool", "tool": "bash", "state": {"status": "completed", "title": "Runs"}}
    told.messages[-1] = answer("msg_3", said("half a line\n"), tool)
    told.messages.append(answer("msg_4", said(" 完成 "), done=True))
    made.poll()
    made.poll()
    assert out.getvalue() == "half a line\n完成\n"
    assert err.getvalue() == "| bash  Runs\n"


def test_what_a_refusal_cut_off_is_not_an_answer() -> None:
    told = Told()
    made, out, _ = printer(told)
    told.messages = [
        answer("msg_1", said("Let me "), error={"name": "MessageAbortedError"}),
        answer("msg_2", said("ok")),
    ]
    made.poll()
    assert out.getvalue() == "ok\n"


def test_an_open_answer_that_goes_on_by_itself_is_printed_from_where_it_was() -> None:
    told = Told()
    tool = {"type": "tool", "tool": "bash", "state": {"status": "completed"}}
    told.messages = [answer("msg_1", {"type": "step-start"}, tool, done=False)]
    made, out, err = printer(told)
    told.messages = [answer("msg_1", {"type": "step-start"}, tool, said("cut", time={"end": 1}), done=False)]
    made.poll()
    assert out.getvalue() == "", "a refusal may still throw it away"
    told.messages = [answer("msg_1", {"type": "step-start"}, tool, said("the rest", time={"end": 2}))]
    made.poll()
    made.poll()
    assert (out.getvalue(), err.getvalue()) == ("the rest\n", "")


def test_json_lines() -> None:
    told = Told()
    made, out, _ = printer(told, as_json=True)
    parts = [{"type": "step-start"}, said("a\nb"), {"type": "patch"}, {"type": "step-finish", "reason": "stop"}]
    told.messages = [answer("msg_1", *parts)]
    made.poll()
    made.error("gone", {"name": "APIError"})
    events = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [event["type"] for event in events] == ["step_start", "text", "step_finish", "error"]
    assert {(event["sessionID"], event["timestamp"]) for event in events} == {("ses_1", 1500)}
    assert events[1]["part"]["text"] == "a\nb"


def test_nothing_on_standard_error_moves_the_cursor() -> None:
    told = Told()
    made, _, err = printer(told)
    hostile = "\x1b]0;owned\x07\u202e\n\x9b31m"
    told.messages = [
        answer("msg_1", {"type": "tool", "tool": "bash", "state": {"status": "completed", "title": hostile}})
    ]
    made.poll()
    made.error(hostile, {})
    assert [line.isprintable() for line in err.getvalue().splitlines()] == [True, True]
