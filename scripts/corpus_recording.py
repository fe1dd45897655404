"""One recording: a home, the fake provider that plays scenarios to it, and the labels of all its answers."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from scripts.corpus_scenarios import SCOUT, SMALL, Scenario, fill, filled, is_refusal
from tests.support.answers import Answer, Drop, Error, Hang, MidStream, Ok, Request, Tool
from tests.support.homes import ANTHROPIC, GOOGLE, OPENAI, OPENAI_COMPATIBLE, Home, ProviderSpec
from tests.support.opencode import free_port, model_parts
from tests.support.provider import Provider

SDKS = {"anthropic": ANTHROPIC, "openai": OPENAI, "google": GOOGLE}
STRICT_BEFORE = (1, 0, 98)
"""Versions before this one refuse a configuration with unknown keys, such as `enabled_providers`."""
LOGFMT_FROM = (1, 17, 0)
RESPONSE_FAILED_FROM = (1, 18, 0)
BODY_CAP = 600

_TAG = re.compile(r"\(ref (T\d{4})\)")


class Recording:
    """A home, a provider that plays scenarios to it, and the record of all requests."""

    def __init__(self, version: str, root: Path, provider: Provider, scenarios: Sequence[Scenario]) -> None:
        """Prepare the home and script every model."""
        self.version = version
        self.numbers = tuple(int(n) for n in version.split("."))
        self.provider = provider
        self.tags = {f"T{n:04d}": scenario for n, scenario in enumerate(scenarios, 1)}
        self.sessions: dict[str, str] = {}
        self.children: dict[str, str] = {}
        self.rows: list[tuple[Request, str | None, str, int, Answer]] = []
        self.driver_rows: list[dict[str, Any]] = []
        self.counts: Counter[tuple[str | None, str]] = Counter()
        self.home = self._home(root)
        for name, spec in self.home.providers.items():
            for model in spec.models:
                provider.script(f"{name}/{model}", self.answer)
        for directory in {s.directory for s in scenarios}:
            project = self.home.project(directory, git=True)
            branch = ["git", "branch", "-m", f"fix/{directory}-429"]
            subprocess.run(branch, cwd=project, env=self.home.env(), check=True)

    def _home(self, root: Path) -> Home:
        models: dict[str, dict[str, None]] = {}
        for full in (*(s.model for s in self.tags.values()), SCOUT, SMALL):
            provider, _, model = full.partition("/")
            models.setdefault(provider, {})[model] = None
        dead = {"deadgw": f"http://127.0.0.1:{free_port()}/v1"}
        specs = {
            name: ProviderSpec(tuple(names), SDKS.get(name, OPENAI_COMPATIBLE), dead.get(name))
            for name, names in models.items()
        }
        agents = {
            "rate-limit-doctor": {"mode": "primary", "description": "cures 429 rate_limit_error"},
            "scout": {"mode": "subagent", "model": SCOUT, "description": "looks around"},
        }
        settings = {"enabled_providers": None} if self.numbers < STRICT_BEFORE else {}
        return Home(root / "home", self.provider.url, specs, agents, model="corpgw/coder-ok", settings=settings)

    # ---- the provider's side

    def answer(self, request: Request) -> Answer:
        """Return the answer to this request, and record it."""
        marks = [m[1] for text in request.user_texts for m in _TAG.finditer(text)]
        tag = marks[0] if marks else None
        role = self._role(request)
        n = self.counts[tag, role]
        self.counts[tag, role] += 1
        answer = filled(self._scripted(tag, role, n), {"TAG": tag or "", "HOME": str(self.home.root)})
        self.rows.append((request, tag, role, n, answer))
        return answer

    def _role(self, request: Request) -> str:
        if request.model == SMALL:
            return "title"
        if request.model == SCOUT:
            return "subagent"
        return "main" if _TAG.search(request.prompt) or not request.user_texts else "compaction"

    def _scripted(self, tag: str | None, role: str, n: int) -> Answer:
        scenario = self.tags.get(tag or "")
        if scenario is None:
            return Ok("Hello.")
        if role == "title":
            answers = scenario.titles or (Ok("Parser test fix"),)
        else:
            answers = scenario.sub if role == "subagent" and scenario.sub else scenario.answers
        return answers[min(n, len(answers) - 1)]

    def asked(self, tag: str) -> int:
        """Return the number of the main model's requests that were answered."""
        return sum(t == tag and role == "main" and r.status is not None for r, t, role, _, _ in list(self.rows))

    def prompt(self, tag: str) -> str:
        """Return the text of a scenario's prompt, with its mark."""
        return f"{fill(self.tags[tag].prompt, {})} (ref {tag})"

    def note_dead(self, tag: str) -> None:
        """Record a scenario whose provider does not listen and therefore cannot record its requests."""
        scenario = self.tags[tag]
        if scenario.model.startswith("deadgw/"):
            row = {"t": None, "source": "driver", **model_parts(scenario.model), "sessionID": self.sessions.get(tag)}
            more = {"tag": tag, "scenario": scenario.name, "status": None, "is_limit": False, "kind": "none"}
            self.driver_rows.append({**row, **more, "note": scenario.note})

    # ---- the labels

    def labels(self) -> list[dict[str, Any]]:
        """Return one row for each answer."""
        rows = [*self.driver_rows, *(self._label(*row) for row in self.rows)]
        return [{**row, "logged": False} if unlogged(self.numbers, row, self.counts) else row for row in rows]

    def _label(self, request: Request, tag: str | None, role: str, n: int, answer: Answer) -> dict[str, Any]:
        scenario = self.tags.get(tag or "")
        limit = scenario is not None and scenario.kind != "none" and is_refusal(answer)
        known = self.children if role == "subagent" else self.sessions
        label: dict[str, Any] = {
            "t": request.wall,
            "t_end": request.finished,
            "providerID": request.provider,
            "modelID": request.name,
            "sessionID": known.get(tag or "") or request.session,
            "tag": tag,
            "req": role,
            "n": n,
            "scenario": scenario.name if scenario else None,
            "status": request.status or None,
            "headers": dict(answer.headers) if isinstance(answer, Error) else {},
            "body": _body(answer)[:BODY_CAP],
            "is_limit": limit,
            "kind": scenario.kind if limit and scenario else "none",
            "retry_after_s": scenario.after if limit and scenario else None,
            "ambiguous": bool(scenario and scenario.ambiguous and is_refusal(answer)),
            "note": scenario.note if scenario else "",
        }
        if isinstance(answer, MidStream):
            label["midstream"] = True
        kinds = scenario.kinds_ok if limit and scenario else ()
        if limit and self.numbers >= LOGFMT_FROM and isinstance(answer, Error) and not _has_message(answer.body):
            label["opaque"] = True
            kinds = kinds and (*kinds, "rate_limit")
        if kinds:
            label["kinds_ok"] = sorted(set(kinds))
        if request.client_left:
            label["client_left"] = True
        return label


def unlogged(numbers: tuple[int, ...], row: dict[str, Any], counts: Mapping[tuple[str | None, str], int]) -> bool:
    """Return whether this version is known to log nothing about this refusal.

    `counts` is the number of requests by mark and role. Measured: the SDK of a title request tries three times, and
    only the last failure is logged (before 1.0.152, not even that). 0.5.29 does so for every prompt. `response.failed`
    is not logged up to 1.17.
    """
    if not row["is_limit"]:
        return False
    if row["scenario"] == "openai_response_failed" and numbers < RESPONSE_FAILED_FROM:
        return True
    if row["req"] == "title":
        return numbers < (1, 0, 152) or row["n"] % 3 != 2
    return numbers < (1, 0, 0) and not row.get("midstream") and row["n"] + 1 < counts[row["tag"], row["req"]]


def _has_message(body: Any) -> bool:
    """Return whether SDKs find the provider's message in the body. If not, a log of 1.17 and later has only the status
    text.
    """
    with suppress(ValueError):
        body = json.loads(body) if isinstance(body, str) else body
    inner = body.get("error") if isinstance(body, dict) else None
    return isinstance(inner, dict) and isinstance(inner.get("message"), str)


def _body(answer: Answer) -> str:
    match answer:
        case Error(body=body):
            return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
        case MidStream(payload):
            return f"data: {json.dumps(payload, ensure_ascii=False)}"
        case Ok(text):
            return text or ""
        case Tool(name, arguments):
            return f"tool_call {name} {json.dumps(arguments)}"
        case Drop(text):
            return text or ""
        case Hang():
            return ""
