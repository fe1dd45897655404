"""Log lines as OpenCode wrote them in each of its old dialects: one call writes one record of a test's history."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

BASE = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC).timestamp()
"""The time that is second 0 of every history."""

ANTHROPIC = "http://127.0.0.1:9/p/anthropic/v1/messages"
CHAT = "http://127.0.0.1:9/p/corpgw/v1/chat/completions"
OTHER = "http://127.0.0.1:9/p/mirror/v1/chat/completions"


def at(second: float) -> str:
    return datetime.fromtimestamp(BASE + second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def info(second: float, text: str) -> bytes:
    return f"INFO  {at(second)} +1ms {text}\n".encode()


def error(second: float, text: str) -> bytes:
    return f"ERROR {at(second)} +1ms {text}\n".encode()


def tags(
    session: str, model: str = "coder", provider: str = "corpgw", *, small: bool = False, agent: str = "build"
) -> str:
    size = str(small).lower()
    return f"providerID={provider} modelID={model} sessionID={session} small={size} agent={agent} mode=primary"


def stream(second: float, session: str, model: str = "coder", provider: str = "corpgw", **more: Any) -> bytes:
    """Return a line of 1.0.185 - 1.15: a request begins."""
    return info(second, f"service=llm {tags(session, model, provider, **more)} stream")


def payload(
    model: str | None = "coder",
    url: str = CHAT,
    status: int | None = 429,
    *,
    headers: dict[str, str] | None = None,
    body: Any = None,
    request: dict[str, Any] | None = None,
) -> str:
    """Return the JSON of a refused request, with the fields in the order of the SDK's error."""
    if body is None:
        body = {"error": {"message": "Rate limit reached for requests", "type": "requests"}}
    values: dict[str, Any] = {"model": model} if model else {}
    values |= {"messages": [{"role": "user", "content": "why do I get 429 rate_limit_error?"}], **(request or {})}
    fields: dict[str, Any] = {"name": "AI_APICallError", "url": url, "requestBodyValues": values}
    if status is not None:
        text = body if isinstance(body, str) else json.dumps(body)
        fields |= {"statusCode": status, "responseHeaders": headers or {}, "responseBody": text, "isRetryable": True}
        if not isinstance(body, str):
            fields["data"] = body
    return json.dumps({"error": fields}, separators=(",", ":"), ensure_ascii=False)


def failed(second: float, shown: str, what: str | None = None) -> bytes:
    """Return a line of 1.0.185 - 1.15: a request fails. `shown` are the tags of the record, right or wrong."""
    return error(second, f"service=llm {shown} error={what or payload()} stream error")


def told_again(second: float, text: str, *, stack: bool = True) -> bytes:
    """Return the processor's copy of the error, which has the stack from 1.1 on."""
    tail = " stack=" + json.dumps(f"AI_APICallError: {text}\n    at <anonymous> (/$bunfs/root/src/index.js:1:2)")
    return error(second, f"service=session.processor error={text}{tail if stack else ''} process")


def created(second: float, session: str, title: str = "New session", parent: str | None = None) -> bytes:
    born = int((BASE + second) * 1000)
    family = f" parentID={parent}" if parent else ""
    when = json.dumps({"created": born, "updated": born}, separators=(",", ":"))
    return info(second, f"service=session id={session} version=1.3.2{family} title={title} time={when} created")


def loop(second: float, session: str, step: int = 0) -> bytes:
    return info(second, f"service=session.prompt step={step} sessionID={session} loop")


def exits(second: float, session: str) -> bytes:
    return info(second, f"service=session.prompt sessionID={session} exiting loop")


def cancel(second: float, session: str) -> bytes:
    return info(second, f"service=session.prompt sessionID={session} cancel")


# ---- 1.17 and later


def logfmt(second: float, level: str, text: str, run: str = "0a1b2c3d") -> bytes:
    moment = datetime.fromtimestamp(BASE + second, UTC)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
    return f"timestamp={stamp} level={level} run={run} {text}\n".encode()


def new_tags(session: str, model: str = "coder", provider: str = "corpgw", *, small: bool = False) -> str:
    agent = "title" if small else "build"
    return (
        f"providerID={provider} modelID={model} session.id={session} small={str(small).lower()}"
        f" agent={agent} mode=primary"
    )


def new_stream(second: float, session: str, model: str = "coder", provider: str = "corpgw", **more: Any) -> bytes:
    run = more.pop("run", "0a1b2c3d")
    return logfmt(second, "INFO", f"message=stream {new_tags(session, model, provider, **more)}", run)


def new_failed(
    second: float, session: str, text: str, model: str = "coder", provider: str = "corpgw", **more: Any
) -> bytes:
    run = more.pop("run", "0a1b2c3d")
    value = json.dumps(f"AI_APICallError: {text}", ensure_ascii=False) if text else "AI_APICallError"
    shown = new_tags(session, model, provider, **more)
    return logfmt(second, "ERROR", f'message="stream error" {shown} error.error={value}', run)
