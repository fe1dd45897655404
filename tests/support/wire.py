"""How four provider APIs look on the wire: what a request holds, and the event streams and bodies that answer it.

Pure functions from and to JSON values; the server in `provider.py` does the talking.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Api(StrEnum):
    """The dialects that the fake provider speaks."""

    CHAT = "chat"  # OpenAI-compatible /v1/chat/completions
    MESSAGES = "messages"  # Anthropic /v1/messages
    RESPONSES = "responses"  # OpenAI /v1/responses
    GOOGLE = "google"  # Google generateContent


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One tool call of an answer."""

    name: str
    arguments: dict[str, Any]
    call_id: str
    said: str = ""


Event = tuple[str | None, Any]
"""An SSE event: its name, if the dialect names events, and its data (a JSON value, or text as it is)."""

# ---------------------------------------------------------------- requests


def api_of(path: str) -> Api | None:
    """The dialect that a request path belongs to; None if it is none of the four."""
    path = path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return Api.CHAT
    if path.endswith("/messages"):
        return Api.MESSAGES
    if path.endswith("/responses"):
        return Api.RESPONSES
    return Api.GOOGLE if path.endswith(("generateContent", "GenerateContent")) else None


def texts_of(api: Api, body: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The user texts and the tool results in a request body, in order, and whether a tool result comes last."""
    users: list[str] = []
    tools: list[str] = []
    last_is_tool = False
    for item in body.get({Api.RESPONSES: "input", Api.GOOGLE: "contents"}.get(api, "messages"), []):
        for is_tool, text in _item_texts(item):
            (tools if is_tool else users).append(text)
            last_is_tool = is_tool
    return tuple(users), tuple(tools), last_is_tool


def _item_texts(item: dict[str, Any]) -> Iterator[tuple[bool, str]]:
    if item.get("type") == "function_call_output":
        yield True, _flat(item.get("output"))
        return
    role = item.get("role")
    if role not in ("user", "tool"):
        return
    content = item.get("content", item.get("parts", []))
    for part in [{"text": content}] if isinstance(content, str) else content:
        if role == "tool" or part.get("type") == "tool_result" or "functionResponse" in part:
            yield True, _flat(part.get("text") or part.get("content") or part.get("functionResponse"))
        elif "text" in part:
            yield False, str(part["text"])


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return "".join(_flat(v) for v in value)
    if isinstance(value, dict):
        return _flat(value.get("text") or value.get("output") or value.get("response") or "")
    return str(value)


# ---------------------------------------------------------------- streams


def text_events(api: Api, model: str, pieces: Sequence[str]) -> list[Event]:
    """The events of an answer that says `pieces`, up to but without its end."""
    match api:
        case Api.CHAT:
            return [_chat(model, {"role": "assistant", "content": ""}), *(_chat(model, {"content": p}) for p in pieces)]
        case Api.MESSAGES:
            start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
            deltas = [
                {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": p}} for p in pieces
            ]
            return _named([_message_start(model), start, *deltas])
        case Api.RESPONSES:
            item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
            deltas = [
                {
                    "type": "response.output_text.delta",
                    "item_id": "msg_1",
                    "output_index": 0,
                    "content_index": 0,
                    "delta": p,
                }
                for p in pieces
            ]
            added = {"type": "response.output_item.added", "output_index": 0, "item": item}
            return _named([_response("response.created", model, "in_progress", []), added, *deltas])
        case Api.GOOGLE:
            return [(None, _candidate([{"text": p}], None)) for p in pieces]


def end_events(api: Api, model: str, text: str) -> list[Event]:
    """The events that end a text answer properly."""
    match api:
        case Api.CHAT:
            return [_chat(model, {}, "stop"), _chat_usage(model), (None, "[DONE]")]
        case Api.MESSAGES:
            return _named([{"type": "content_block_stop", "index": 0}, *_message_end("end_turn")])
        case Api.RESPONSES:
            item = _message_item(text)
            done = {"type": "response.output_item.done", "output_index": 0, "item": item}
            return _named([done, _response("response.completed", model, "completed", [item])])
        case Api.GOOGLE:
            return [(None, _candidate([{"text": ""}], "STOP"))]


def tool_events(api: Api, model: str, use: ToolUse) -> list[Event]:
    """The whole stream of an answer that calls one tool."""
    arguments = json.dumps(use.arguments)
    match api:
        case Api.CHAT:
            function = {"name": use.name, "arguments": arguments}
            call = {"index": 0, "id": use.call_id, "type": "function", "function": function}
            said = text_events(api, model, [use.said]) if use.said else []
            delta = {"role": "assistant", "content": None, "tool_calls": [call]}
            return [*said, _chat(model, delta), _chat(model, {}, "tool_calls"), _chat_usage(model), (None, "[DONE]")]
        case Api.MESSAGES:
            block: dict[str, Any] = {"type": "tool_use", "id": use.call_id, "name": use.name, "input": {}}
            opened: dict[str, Any] = {"type": "content_block_start", "index": 0, "content_block": block}
            given = {"type": "input_json_delta", "partial_json": arguments}
            step = {"type": "content_block_delta", "index": 0, "delta": given}
            stop = {"type": "content_block_stop", "index": 0}
            return _named([_message_start(model), opened, step, stop, *_message_end("tool_use")])
        case Api.RESPONSES:
            item = _call_item(use)
            added = {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}}
            done = {"type": "response.output_item.done", "output_index": 0, "item": item}
            created = _response("response.created", model, "in_progress", [])
            return _named([created, added, done, _response("response.completed", model, "completed", [item])])
        case Api.GOOGLE:
            return [(None, _candidate([{"functionCall": {"name": use.name, "args": use.arguments}}], "STOP"))]


def error_event(api: Api, payload: Any) -> Event:
    """An error in the middle of a stream; `payload` is the event's data as the provider sends it."""
    named = isinstance(payload, dict) and api in (Api.MESSAGES, Api.RESPONSES)
    return (str(payload.get("type", "error")) if named else None, payload)


def whole_body(api: Api, model: str, text: str, use: ToolUse | None) -> dict[str, Any]:
    """The body of a request that asked for no stream."""
    match api:
        case Api.CHAT:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if use:
                function = {"name": use.name, "arguments": json.dumps(use.arguments)}
                message["tool_calls"] = [{"id": use.call_id, "type": "function", "function": function}]
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if use else "stop"}
            return {**_chat_head(model, "chat.completion"), "choices": [choice], "usage": _CHAT_USAGE}
        case Api.MESSAGES:
            blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
            if use:
                blocks = [{"type": "tool_use", "id": use.call_id, "name": use.name, "input": use.arguments}]
            reason = "tool_use" if use else "end_turn"
            return {**_message_start(model)["message"], "content": blocks, "stop_reason": reason}
        case Api.RESPONSES:
            item = _call_item(use) if use else _message_item(text)
            whole: dict[str, Any] = _response("", model, "completed", [item])["response"]
            return whole
        case Api.GOOGLE:
            return _candidate([{"text": text}], "STOP")


def sse(event: Event) -> bytes:
    """An event as bytes."""
    name, data = event
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()


# ---------------------------------------------------------------- parts

_CHAT_USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}


def _named(events: Sequence[dict[str, Any]]) -> list[Event]:
    return [(str(e["type"]), e) for e in events]


def _chat_head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": model}


def _chat(model: str, delta: dict[str, Any], finish: str | None = None) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (None, {**_chat_head(model, "chat.completion.chunk"), "choices": [choice]})


def _chat_usage(model: str) -> Event:
    return (None, {**_chat_head(model, "chat.completion.chunk"), "choices": [], "usage": _CHAT_USAGE})


def _message_start(model: str) -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 1}
    head: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "usage": usage,
    }
    return {"type": "message_start", "message": {**head, "stop_reason": None, "stop_sequence": None}}


def _message_end(reason: str) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 10}}, {"type": "message_stop"}]


def _message_item(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def _call_item(use: ToolUse) -> dict[str, Any]:
    given = {"name": use.name, "arguments": json.dumps(use.arguments), "status": "completed"}
    return {"type": "function_call", "id": f"fc_{use.call_id}", "call_id": use.call_id, **given}


def _response(kind: str, model: str, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    response = {"id": "resp_1", "object": "response", "created_at": int(time.time()), "status": status, "model": model}
    return {"type": kind, "response": {**response, "output": output, "usage": usage, "incomplete_details": None}}


def _candidate(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
    return {"candidates": [candidate], "usageMetadata": usage}
