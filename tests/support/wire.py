"""The wire formats of four provider APIs: the content of a request, and the event streams and bodies that answer it.

All functions are pure and work on JSON values; `server.py` sends and receives.
"""

from __future__ import annotations

import hashlib
import json
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tests.support.shapes import Shape


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


@dataclass(frozen=True, slots=True)
class Reply:
    """The properties shared by all events of one answer. `ident` is unique, because real item ids never occur twice.

    `thought` is the model's thinking before its text or call. The provider signs it (`seal`), and recognises its own
    signatures in later requests.
    """

    api: Api
    model: str
    provider: str = ""
    ident: str = "1"
    thought: str = ""
    used: int = 100
    """Tokens of the prompt, as the provider counts them."""

    @property
    def at(self) -> int:
        """Return the index of the item after the thought."""
        return 1 if self.thought else 0

    def seal(self, material: str) -> str:
        """Return this provider's signature of a part of the answer."""
        return seal(self.provider, material)


def seal(provider: str, material: str) -> str:
    """Return a provider's signature of a thought or a call. Like real ones, it is opaque base64 and unique to the
    provider.
    """
    return b64encode(hashlib.sha256(f"{provider}\n{material}".encode()).digest()).decode()


def call_material(name: str, arguments: Any) -> str:
    """Return the signed content of a call without an id (Google)."""
    return f"{name} {json.dumps(arguments, sort_keys=True)}"


Event = tuple[str | None, Any]
"""An SSE event: its name, if the dialect names events, and its data (a JSON value, or literal text)."""

# ---------------------------------------------------------------- requests


def api_of(path: str) -> Api | None:
    """Return the dialect of a request path, or None if it is none of the four."""
    path = path.partition("?")[0]
    if path.endswith("/chat/completions"):
        return Api.CHAT
    if path.endswith("/messages"):
        return Api.MESSAGES
    if path.endswith("/responses"):
        return Api.RESPONSES
    return Api.GOOGLE if path.endswith(("generateContent", "GenerateContent")) else None


def texts_of(api: Api, body: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """Return the user texts and the tool results in a request body, in order, and whether a tool result is last."""
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


def text_events(reply: Reply, pieces: Sequence[str]) -> list[Event]:
    """Return the events of an answer with the text `pieces`, without the events that end it."""
    opening = _opening(reply)
    match reply.api:
        case Api.CHAT:
            return [*opening, *(_chat(reply.model, {"content": p}) for p in pieces)]
        case Api.MESSAGES:
            block = {"type": "text", "text": ""}
            start = {"type": "content_block_start", "index": reply.at, "content_block": block}
            return [*opening, *_named([start, *(_block_delta(reply.at, "text", p) for p in pieces)])]
        case Api.RESPONSES:
            item = {**_message_item(reply, ""), "status": "in_progress", "content": []}
            added = {"type": "response.output_item.added", "output_index": reply.at, "item": item}
            place = {"item_id": item["id"], "output_index": reply.at, "content_index": 0}
            deltas = [{"type": "response.output_text.delta", **place, "delta": p} for p in pieces]
            return [*opening, *_named([added, *deltas])]
        case Api.GOOGLE:
            return [*opening, *((None, _candidate([{"text": p}], None)) for p in pieces)]


def end_events(reply: Reply, text: str) -> list[Event]:
    """Return the events that end a text answer properly."""
    match reply.api:
        case Api.CHAT:
            return [_chat(reply.model, {}, "stop"), _chat_usage(reply), (None, "[DONE]")]
        case Api.MESSAGES:
            return _named([{"type": "content_block_stop", "index": reply.at}, *_message_end("end_turn")])
        case Api.RESPONSES:
            item = _message_item(reply, text)
            done = {"type": "response.output_item.done", "output_index": reply.at, "item": item}
            return _named([done, _response(reply, "response.completed", "completed", [item])])
        case Api.GOOGLE:
            sealed = {"thoughtSignature": reply.seal(text)} if reply.thought else {}
            return [(None, _candidate([{"text": "", **sealed}], "STOP"))]


def tool_events(reply: Reply, use: ToolUse) -> list[Event]:
    """Return the whole stream of an answer that calls one tool."""
    arguments = json.dumps(use.arguments)
    opening = _opening(reply)
    match reply.api:
        case Api.CHAT:
            function = {"name": use.name, "arguments": arguments}
            call = {"index": 0, "id": use.call_id, "type": "function", "function": function}
            said = [_chat(reply.model, {"content": use.said})] if use.said else []
            delta = _chat(reply.model, {"content": None, "tool_calls": [call]})
            end = (_chat(reply.model, {}, "tool_calls"), _chat_usage(reply), (None, "[DONE]"))
            return [*opening, *said, delta, *end]
        case Api.MESSAGES:
            block: dict[str, Any] = {"type": "tool_use", "id": use.call_id, "name": use.name, "input": {}}
            opened: dict[str, Any] = {"type": "content_block_start", "index": reply.at, "content_block": block}
            given = {"type": "input_json_delta", "partial_json": arguments}
            step = {"type": "content_block_delta", "index": reply.at, "delta": given}
            stop = {"type": "content_block_stop", "index": reply.at}
            return [*opening, *_named([opened, step, stop, *_message_end("tool_use")])]
        case Api.RESPONSES:
            item = _call_item(use)
            place = {"output_index": reply.at}
            added = {"type": "response.output_item.added", **place, "item": {**item, "arguments": ""}}
            done = {"type": "response.output_item.done", **place, "item": item}
            return [*opening, *_named([added, done, _response(reply, "response.completed", "completed", [item])])]
        case Api.GOOGLE:
            call = {"functionCall": {"name": use.name, "args": use.arguments}}
            sealed = {"thoughtSignature": reply.seal(call_material(use.name, use.arguments))} if reply.thought else {}
            return [*opening, (None, _candidate([{**call, **sealed}], "STOP"))]


def stalling(reply: Reply, shape: Shape) -> list[bytes]:
    """Return the events of an answer that stalls after the part given by `shape`, in the dialect of chat
    completions.
    """
    text = "It is half "
    said = [sse(event) for event in text_events(reply, [text])]
    function = {"name": "write", "arguments": '{"filePath": "/tmp/never", "content": "It is'}
    call = {"index": 0, "id": "call_half", "type": "function", "function": function}
    match shape:
        case Shape.FIRST_CHUNK | Shape.THOUGHT:
            return said[:-1]
        case Shape.TEXT:
            return said
        case Shape.HALF_EVENT:
            return [*said, said[-1][: len(said[-1]) // 2]]
        case Shape.ALL_BUT_END:
            return [*said, sse(_chat(reply.model, {"content": "done."}))]
        case Shape.NO_CLOSE:
            return [*said, sse(_chat(reply.model, {}, "stop")), sse(_chat_usage(reply))]
        case Shape.CALL:
            return [*said, sse(_chat(reply.model, {"content": None, "tool_calls": [call]}))]
        case Shape.TRICKLE:
            return [*said, b"data: "]
        case _:
            return []


def empty_event(model: str) -> bytes:
    """Return an event of chat completions without content."""
    return sse(_chat(model, {}))


def _opening(reply: Reply) -> list[Event]:
    """Return the first events of an answer, including its thought."""
    thought = reply.thought
    match reply.api:
        case Api.CHAT:
            thinks = [_chat(reply.model, {"reasoning_content": thought})] if thought else []
            return [_chat(reply.model, {"role": "assistant", "content": ""}), *thinks]
        case Api.MESSAGES:
            block = {"type": "thinking", "thinking": "", "signature": ""}
            start = {"type": "content_block_start", "index": 0, "content_block": block}
            signed = {"type": "signature_delta", "signature": reply.seal(thought)}
            delta = _block_delta(0, "thinking", thought)
            sealed = {"type": "content_block_delta", "index": 0, "delta": signed}
            thinks = [start, delta, sealed, {"type": "content_block_stop", "index": 0}] if thought else []
            return _named([_message_start(reply.model), *thinks])
        case Api.RESPONSES:
            created = _response(reply, "response.created", "in_progress", [])
            return _named([created, *(_reasoning(reply) if thought else [])])
        case Api.GOOGLE:
            return [(None, _candidate([{"text": thought, "thought": True}], None))] if thought else []


def _reasoning(reply: Reply) -> list[dict[str, Any]]:
    ident = f"rs_{reply.ident}"
    item: dict[str, Any] = {"type": "reasoning", "id": ident, "encrypted_content": None, "summary": []}
    part = {"item_id": ident, "output_index": 0, "summary_index": 0}
    summary = {"type": "summary_text", "text": reply.thought}
    whole = {**item, "encrypted_content": reply.seal(reply.thought), "summary": [summary]}
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.reasoning_summary_part.added", **part, "part": {**summary, "text": ""}},
        {"type": "response.reasoning_summary_text.delta", **part, "delta": reply.thought},
        {"type": "response.reasoning_summary_part.done", **part, "part": summary},
        {"type": "response.output_item.done", "output_index": 0, "item": whole},
    ]


def error_event(api: Api, payload: Any) -> Event:
    """Return an error in the middle of a stream. `payload` is the event's data as sent by the provider."""
    named = isinstance(payload, dict) and api in (Api.MESSAGES, Api.RESPONSES)
    return (str(payload.get("type", "error")) if named else None, payload)


def whole_body(reply: Reply, text: str, use: ToolUse | None) -> dict[str, Any]:
    """Return the body of an answer that is not streamed; such answers contain no thoughts."""
    match reply.api:
        case Api.CHAT:
            message: dict[str, Any] = {"role": "assistant", "content": text}
            if use:
                function = {"name": use.name, "arguments": json.dumps(use.arguments)}
                message["tool_calls"] = [{"id": use.call_id, "type": "function", "function": function}]
            choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if use else "stop"}
            return {
                **_chat_head(reply.model, "chat.completion"),
                "choices": [choice],
                "usage": _chat_usage(reply)[1]["usage"],
            }
        case Api.MESSAGES:
            blocks: list[dict[str, Any]] = [{"type": "text", "text": text}]
            if use:
                blocks = [{"type": "tool_use", "id": use.call_id, "name": use.name, "input": use.arguments}]
            reason = "tool_use" if use else "end_turn"
            return {**_message_start(reply.model)["message"], "content": blocks, "stop_reason": reason}
        case Api.RESPONSES:
            item = _call_item(use) if use else _message_item(reply, text)
            whole: dict[str, Any] = _response(reply, "", "completed", [item])["response"]
            return whole
        case Api.GOOGLE:
            return _candidate([{"text": text}], "STOP")


def sse(event: Event) -> bytes:
    """Return an event as bytes."""
    name, data = event
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return ((f"event: {name}\n" if name else "") + f"data: {text}\n\n").encode()


# ---------------------------------------------------------------- parts


def _named(events: Sequence[dict[str, Any]]) -> list[Event]:
    return [(str(e["type"]), e) for e in events]


def _chat_head(model: str, kind: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": int(time.time()), "model": model}


def _chat(model: str, delta: dict[str, Any], finish: str | None = None) -> Event:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return (None, {**_chat_head(model, "chat.completion.chunk"), "choices": [choice]})


def _chat_usage(reply: Reply) -> Event:
    usage = {"prompt_tokens": reply.used, "completion_tokens": 10, "total_tokens": reply.used + 10}
    return (None, {**_chat_head(reply.model, "chat.completion.chunk"), "choices": [], "usage": usage})


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


def _block_delta(index: int, kind: str, text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": f"{kind}_delta", kind: text}}


def _message_item(reply: Reply, text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {
        "type": "message",
        "id": f"msg_{reply.ident}",
        "role": "assistant",
        "status": "completed",
        "content": content,
    }


def _call_item(use: ToolUse) -> dict[str, Any]:
    given = {"name": use.name, "arguments": json.dumps(use.arguments), "status": "completed"}
    return {"type": "function_call", "id": f"fc_{use.call_id}", "call_id": use.call_id, **given}


def _response(reply: Reply, kind: str, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    about = {"id": f"resp_{reply.ident}", "object": "response", "created_at": int(time.time())}
    response = {**about, "status": status, "model": reply.model}
    return {"type": kind, "response": {**response, "output": output, "usage": usage, "incomplete_details": None}}


def _candidate(parts: list[dict[str, Any]], finish: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
    return {"candidates": [candidate], "usageMetadata": usage}
