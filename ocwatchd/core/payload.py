"""The failed request inside an old error record: `{"error": {…}}`, of which only the error's own fields are believed.

The record holds the whole conversation (35-50 kB, with images megabytes), and the conversation is somebody else's
text. So the fields behind it are read from the record's end, where their depth is proved by the parser, and nothing
inside the request is looked at but the model's name and, with some providers, the cache key, which is the session.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import orjson

from ocwatchd.core.facts import facts_from_body, facts_from_text
from ocwatchd.core.limits import ErrorFacts

_HEAD = re.compile(
    rb'\{"error":\{(?P<several>"name":"AI_RetryError","reason":"\w{1,40}","errors":\[\{)?"name":"AI_APICallError",'
    rb'"url":"(?P<url>[^"\\]{0,2000})","requestBodyValues":\{'
    rb'(?:"model":"(?P<model>[^"\\]{0,300})")?'
)
_TRIES = 8
"""Places tried for `"statusCode"` from the record's end; a provider's own body may hold a few more of them."""

_CACHE_KEYS = (b'"prompt_cache_key":', b'"promptCacheKey":')
_URL_MODEL = re.compile(r"/(?:models|model|deployments)/(?P<model>[^/?]+?)(?::[a-zA-Z]*[gG]enerate\w*|/[a-z-]|\?|$)")
_HEADER_WORDS = ("retry-after", "ratelimit", "rate-limit", "reset")
_HEADERS_KEPT, _HEADER_CAP = 48, 200
_SDK_NAMES = ("AI_", "APICallError", "TimeoutError", "AbortError")
_SPOKEN = frozenset({"message", "error", "errors", "type", "code", "status", "detail", "msg", "cause"})


@dataclass(frozen=True, slots=True)
class Payload:
    """A failed request: its address, the model asked for, the session if the cache key tells it, and the error."""

    facts: ErrorFacts
    url: str | None = None
    asked: str | None = None
    cache_key: str | None = None


def read_payload(data: bytes, *, truncated: bool = False) -> Payload | None:
    """The payload of `{"error": …}`. Of a truncated one, head and tail are read. None if it is no such JSON."""
    head = _HEAD.match(data)
    if head and (truncated or not any(key in data for key in _CACHE_KEYS)):
        # Of several errors the last stands once more behind them all, one level deeper than an error alone.
        tail = _tail(data, depth=2 if head["several"] else 1)
        if tail is not None:
            asked = head["model"].decode(errors="replace") if head["model"] else None
            return _api_error(tail, head["url"].decode(errors="replace"), asked, None)
    if truncated:
        return None
    whole = _loads(data)
    if not isinstance(whole, dict) or "error" not in whole:
        return None
    return payload_of(whole["error"])


def payload_of(error: object) -> Payload:
    """The payload of an error object, or of whatever was thrown in its place."""
    if isinstance(error, str):
        return Payload(replace(facts_from_text(error), midstream=True))
    if not isinstance(error, dict):
        return Payload(ErrorFacts())
    last = _last_of_several(error)
    if last is not None:
        return payload_of(last)
    if "statusCode" in error or "requestBodyValues" in error:
        return _whole_api_error(error)
    if str(error.get("name", "")).startswith(_SDK_NAMES) or not error:
        # AI_JSONParseError and the like hold a piece of the answer, never words of the provider about itself.
        return Payload(ErrorFacts(name=_text(error.get("name"))))
    if not _SPOKEN & error.keys():
        return Payload(ErrorFacts())  # something of the program's own: {"line", "column", "sourceURL"}
    facts = facts_from_body(orjson.dumps(error).decode())
    return Payload(replace(facts, midstream=True))


def _last_of_several(error: Mapping[str, Any]) -> Any:
    """AI_RetryError: the SDK's own retries. The last of them is what the request ended with."""
    if isinstance(error.get("lastError"), dict) and error["lastError"]:
        return error["lastError"]
    errors = error.get("errors")
    if str(error.get("name", "")) == "AI_RetryError" and isinstance(errors, list) and errors:
        return errors[-1]
    return None


def _whole_api_error(error: Mapping[str, Any]) -> Payload:
    values = error.get("requestBodyValues")
    request: Mapping[str, Any] = values if isinstance(values, dict) else {}
    key = _text(request.get("prompt_cache_key")) or _text(request.get("promptCacheKey"))
    return _api_error(error, _text(error.get("url")), _text(request.get("model")), key)


def _api_error(fields: Mapping[str, Any], url: str | None, asked: str | None, key: str | None) -> Payload:
    status = fields.get("statusCode")
    body = fields.get("responseBody")
    facts = facts_from_body(
        body if isinstance(body, str) else "",
        status if isinstance(status, int) else None,
        kept_headers(fields.get("responseHeaders")),
    )
    if not facts.message and not facts.codes and isinstance(fields.get("data"), dict):
        told = facts_from_body(orjson.dumps(fields["data"]).decode())
        facts = replace(facts, message=told.message, codes=told.codes)
    retryable = fields.get("isRetryable")
    facts = replace(
        facts,
        name=_text(fields.get("name")) or "AI_APICallError",
        status=status if isinstance(status, int) else facts.status,
        retryable=retryable if isinstance(retryable, bool) else None,
    )
    session = key if key and key.startswith("ses_") else None
    return Payload(facts, url, asked or _model_in(url), session)


def kept_headers(headers: object) -> dict[str, str]:
    """Only what tells when to come back: names in lower case, values capped. Everything else is not ours to keep."""
    if not isinstance(headers, dict):
        return {}
    named = ((str(name).lower(), value) for name, value in headers.items() if isinstance(value, str | int | float))
    kept = [(n, str(v)[:_HEADER_CAP]) for n, v in named if n == "date" or any(word in n for word in _HEADER_WORDS)]
    return dict(kept[:_HEADERS_KEPT])


def _model_in(url: str | None) -> str | None:
    """Google, Bedrock and Azure name the model in the address, not in the body."""
    match = _URL_MODEL.search(url) if url else None
    return unquote(match["model"]) if match else None


def _tail(data: bytes, depth: int) -> dict[str, Any] | None:
    """The error's fields from `statusCode` on; `depth` objects are around the error.

    A cut at any other depth than the error's own leaves a closing brace too many and does not parse, so neither a
    response body nor a tool's schema in the request can pass for it.
    """
    if not data.endswith(b"}" * (depth + 1)):
        return None
    at = len(data)
    for _ in range(_TRIES):
        at = data.rfind(b',"statusCode":', 0, at)
        if at < 0:
            return None
        fields = _loads(b"{" + data[at + 1 : -depth])
        if isinstance(fields, dict):
            return fields
    return None


def _loads(data: bytes) -> object:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:  # invalid UTF-8, which OpenCode itself never writes
        return orjson.loads(data.decode(errors="replace"))
    except orjson.JSONDecodeError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
