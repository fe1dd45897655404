"""Check conversations as four provider APIs publicly do: a moved session can receive these 400s.

    provider.script("anthropic/sonnet", strict(after_tool(bash("true"), ok())))

Each rule is one of the real API, with its error message: a signature that the API did not make, a call without its
result, a reasoning item without the item that follows it, a picture that the model does not accept, a prompt that is
too long.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.support.answers import Answer, Error, Request, Script
from tests.support.wire import Api, call_material, seal

Json = dict[str, Any]
NO_CHECK = "skip_thought_signature_validator"
"""The value that Google accepts in place of a signature that the client does not have."""
TOOL_ID = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def strict(script: Answer | Script, *, sees: bool = True, window: int = 0, thinks: bool = False) -> Script:
    """Return the script, preceded by the checks of the request's API.

    Without `sees`, pictures are refused. A prompt of more than `window` tokens (four characters each) is refused. With
    `thinks`, a chat-completions model needs its thoughts with each call of the running turn.
    """

    def checked(request: Request) -> Answer:
        wrong = fault(request, sees=sees, window=window, thinks=thinks)
        if wrong is not None:
            return refusal(request.api, wrong)
        return script(request) if callable(script) else script

    return checked


def fault(request: Request, *, sees: bool = True, window: int = 0, thinks: bool = False) -> str | None:
    """Return the API's first error message for this request, or None if the API accepts it."""
    return next(_faults(request, sees, window, thinks), None)


def refusal(api: Api, words: str) -> Error:
    """Return a 400 in this API's format."""
    bodies: dict[Api, Json] = {
        Api.MESSAGES: {"type": "error", "error": {"type": "invalid_request_error", "message": words}},
        Api.GOOGLE: {"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}},
    }
    plain = {"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}}
    return Error(400, bodies.get(api, plain))


def pictures(request: Request) -> int:
    """Return the number of images and documents in the request."""
    return sum(1 for part in _parts(request.body) if _is_picture(part))


def picture() -> dict[str, str]:
    """Return a white PNG of 8 x 8 pixels as a part of a prompt. It is valid, because 1.18 decodes the pictures that it
    sends on.
    """

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff" * 24) * 8))
    png = b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")
    url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return {"type": "file", "mime": "image/png", "filename": "white.png", "url": url}


def _faults(request: Request, sees: bool, window: int, thinks: bool) -> Iterator[str]:
    rules: dict[Api, Callable[[Request], Iterator[str]]] = {
        Api.MESSAGES: _messages,
        Api.RESPONSES: _responses,
        Api.GOOGLE: _google,
        Api.CHAT: lambda request: _chat(request, thinks),
    }
    size = len(json.dumps([request.body.get(key) for key in ("messages", "input", "contents")])) // 4
    if window and size > window:
        yield f"prompt is too long: {size} tokens > {window} maximum"
    if not sees and pictures(request):
        yield "Invalid content type: image_url is not supported by this model"
    yield from rules[request.api](request)


def _parts(value: Any) -> Iterator[Json]:
    """Yield every object in the conversation; outer objects come first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def _is_picture(part: Json) -> bool:
    kinds = ("image", "image_url", "input_image", "document", "input_file", "file")
    return part.get("type") in kinds or "inlineData" in part


# ---------------------------------------------------------------- Anthropic


def _messages(request: Request) -> Iterator[str]:
    messages: list[Json] = request.body.get("messages", [])
    roles = [message["role"] for message in messages]
    if roles[:1] != ["user"]:
        yield "messages: first message must use the user role"
    for index, message in enumerate(messages):
        blocks = _blocks(message)
        if not blocks:
            yield f"messages.{index}: all messages must have non-empty content"
        for place, block in enumerate(blocks):
            yield from _block(request.provider, f"messages.{index}.content.{place}", block)
        yield from _paired(messages, index)
    yield from _thinks_last(request.body, messages)
    if roles[-1:] == ["assistant"] and str(_blocks(messages[-1])[-1].get("text", "")).endswith(" "):
        yield "messages: final assistant content cannot end with trailing whitespace"


def _blocks(message: Json) -> list[Json]:
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _block(provider: str, place: str, block: Json) -> Iterator[str]:
    kind = block.get("type")
    if kind == "text" and not block.get("text", "").strip():
        yield f"{place}: text content blocks must contain non-whitespace text"
    if kind == "tool_use" and not TOOL_ID.fullmatch(block.get("id", "")):
        yield f"{place}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    if kind == "thinking" and not block.get("signature"):
        yield f"{place}.thinking.signature: Field required"
    if kind == "thinking" and block.get("signature") != seal(provider, block["thinking"]):
        yield f"{place}: Invalid `signature` in `thinking` block"


def _paired(messages: list[Json], index: int) -> Iterator[str]:
    """Yield a fault for each call without a result in the next message, and for each result without a call."""
    calls = _named(messages[index], "tool_use", "id")
    after = messages[index + 1] if index + 1 < len(messages) else {}
    results = _named(after, "tool_result", "tool_use_id")
    if set(calls) - set(results):
        yield (
            f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: "
            f"{', '.join(sorted(set(calls) - set(results)))}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )
    own = _named(messages[index], "tool_result", "tool_use_id")
    before = _named(messages[index - 1], "tool_use", "id") if index else []
    if set(own) - set(before):
        yield f"messages.{index}.content.0: unexpected `tool_use_id` found in `tool_result` blocks: {own[0]}"


def _named(message: Json, kind: str, key: str) -> list[str]:
    return [str(block.get(key)) for block in _blocks(message) if block.get("type") == kind]


def _thinks_last(body: Json, messages: list[Json]) -> Iterator[str]:
    """Yield a fault if thinking is on and the answer with the completed calls does not begin with a thought."""
    on = body.get("thinking", {}).get("type") == "enabled"
    if not on or len(messages) < 2 or not _named(messages[-1], "tool_result", "tool_use_id"):
        return
    kind = _blocks(messages[-2])[0]["type"]
    if kind not in ("thinking", "redacted_thinking"):
        yield (
            f"messages.{len(messages) - 2}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
            f"`{kind}`. When `thinking` is enabled, a final `assistant` message must start with a thinking block"
        )


# ---------------------------------------------------------------- OpenAI


def _responses(request: Request) -> Iterator[str]:
    items: list[Json] = request.body.get("input", [])
    yield from _item_ids(items)
    calls = [item.get("call_id") for item in items if item.get("type") == "function_call"]
    results = [item.get("call_id") for item in items if item.get("type") == "function_call_output"]
    for call in calls:
        if call not in results:
            yield f"No tool output found for function call {call}."
    for result in results:
        if result not in calls:
            yield f"No tool call found for function call output with call_id {result}."
    for index, item in enumerate(items):
        if item.get("type") == "item_reference":
            yield (
                f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false. "
                "Try again with `store` set to true, or remove this item from your input."
            )
        if item.get("type") == "reasoning":
            yield from _reasoning(request.provider, items, index)


def _item_ids(items: list[Json]) -> Iterator[str]:
    seen: set[str] = set()
    starts = {"reasoning": "rs", "function_call": "fc", "message": "msg"}
    for index, item in enumerate(items):
        ident, start = item.get("id"), starts.get(item.get("type", "message"), "")
        if ident is None or item.get("type") == "item_reference":
            continue
        if not str(ident).startswith(start):
            yield f"Invalid 'input[{index}].id': '{ident}'. Expected an ID that begins with '{start}'."
        if ident in seen:
            yield f"Duplicate item found with id {ident}. Remove duplicate items from your input and try again."
        seen.add(ident)


def _reasoning(provider: str, items: list[Json], index: int) -> Iterator[str]:
    item = items[index]
    ident = str(item.get("id"))
    said = "".join(part.get("text", "") for part in item.get("summary", []))
    if item.get("encrypted_content") != seal(provider, said):
        yield f"The encrypted content for item {ident} could not be verified."
    after = next((other for other in items[index + 1 :] if other.get("type") != "reasoning"), {})
    follows = after.get("type") == "function_call" or after.get("role") == "assistant"
    if not follows:
        yield f"Item '{ident}' of type 'reasoning' was provided without its required following item."


def _chat(request: Request, thinks: bool) -> Iterator[str]:
    messages: list[Json] = request.body.get("messages", [])
    last_prompt = max((n for n, message in enumerate(messages) if message["role"] == "user"), default=0)
    for index, message in enumerate(messages):
        calls = [call["id"] for call in message.get("tool_calls") or []]
        results = []
        for after in messages[index + 1 :]:
            if after["role"] != "tool":
                break
            results.append(after.get("tool_call_id"))
        missing = [call for call in calls if call not in results]
        if missing:
            yield (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(missing)}"
            )
        if thinks and calls and index > last_prompt and not message.get("reasoning_content"):
            yield (
                f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {index}"
            )


# ---------------------------------------------------------------- Google


def _google(request: Request) -> Iterator[str]:
    contents: list[Json] = request.body.get("contents", [])
    for index, content in enumerate(contents):
        parts: list[Json] = content.get("parts", [])
        if not parts:
            yield "* GenerateContentRequest.contents: contents.parts must not be empty."
        for part in parts:
            yield from _sealed(request.provider, part)
        calls = [part for part in parts if "functionCall" in part]
        after = contents[index + 1].get("parts", []) if index + 1 < len(contents) else []
        results = [part for part in after if "functionResponse" in part]
        if calls and len(calls) != len(results):
            yield (
                "Please ensure that the number of function response parts is equal to the number of function call "
                "parts of the function call turn."
            )
    if "gemini-3" in request.name:
        yield from _signed_calls(contents)


def _sealed(provider: str, part: Json) -> Iterator[str]:
    signature = part.get("thoughtSignature")
    if signature is None or signature == NO_CHECK:
        return
    call = part.get("functionCall")
    known = seal(provider, call_material(call["name"], call.get("args"))) if call else seal(provider, part["text"])
    if signature != known:
        yield "Corrupted thought signature."


def _signed_calls(contents: list[Json]) -> Iterator[str]:
    """Yield a fault for each step of the running turn whose first call has no signature."""
    prompts = [n for n, content in enumerate(contents) if content["role"] == "user" and _speaks(content)]
    for index, content in enumerate(contents):
        calls = [part for part in content.get("parts", []) if "functionCall" in part]
        if calls and index > max(prompts, default=-1) and not calls[0].get("thoughtSignature"):
            yield (
                "Function call is missing a thought_signature in functionCall parts. This is required for tools to "
                "work correctly, and missing thought_signature may lead to degraded model performance. Additional "
                f"data, function call `default_api:{calls[0]['functionCall']['name']}` , position {index + 1}."
            )


def _speaks(content: Json) -> bool:
    return any("text" in part for part in content.get("parts", []))
