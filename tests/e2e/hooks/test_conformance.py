"""Tests that the plugin chooses fallbacks by `tests/conformance/fallback.json`, under the Bun inside OpenCode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.bun import Bun, prompt, went_to
from tests.support.conformance import Case, Files, cases

pytestmark = pytest.mark.e2e

TABLE = [case for case in cases() if case.concerns("plugin") and case.row["asked"] == case.asked]


def history(case: Case) -> list[dict[str, Any]]:
    """Return messages with the needs of the case."""
    needs = case.needs
    parts: list[dict[str, Any]] = [{"type": "text", "text": ""}]
    parts += [{"type": "file", "mime": "application/pdf" if kind == "pdf" else f"{kind}/x"} for kind in needs.inputs]
    parts += [{"type": "tool", "tool": "bash", "state": {"status": "completed"}}] * needs.tools
    tokens = {"input": max(needs.tokens - 1, 0), "output": 1, "reasoning": 0, "cache": {"read": 0, "write": 0}}
    return [{"info": {"id": "msg_1", "role": "assistant", "tokens": tokens}, "parts": parts}]


def test_the_plugin_agrees_with_the_table(bun: Bun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "written"))
    steps: list[dict[str, Any]] = []
    for number, case in enumerate(TABLE):
        files = Files(case)
        for path in (files.paths.blacklist, files.paths.budget):
            text = path.read_text() if path.exists() else "{}"
            # The length differs each time: rewritten within a millisecond with the same length, the file would look
            # unchanged.
            steps.append({"act": "write", "path": str(bun.state / path.name), "text": text + "\n" * number})
            path.unlink(missing_ok=True)
        # The session differs each time, because a session that was sent to a fallback is remembered.
        steps += [
            {"act": "history", "data": history(case)},
            prompt(case.asked, True, case.agent or "build", f"ses_{number}"),
        ]
    outputs = bun.play(*steps)[3::4]
    went = {case.name: went_to(output) for case, output in zip(TABLE, outputs, strict=True)}
    assert went == {
        case.name: f"{case.expected[0] or case.asked} {case.expected[1] or case.agent or 'build'}" for case in TABLE
    }
    assert bun.errors() == ""
    assert len(TABLE) >= 80
