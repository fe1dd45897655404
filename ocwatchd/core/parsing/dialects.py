"""Parse the dialects (formats) of OpenCode's log, with one function for each record type. Each function returns None
for an irrelevant record, and no function raises.

In the format before 1.17, an error record contains the failed request, `{"error": {…}}`, which is also parsed, but only
the error's own fields are trusted. The record contains the whole conversation (35 to 50 kB, or megabytes with images),
which is untrusted text. The fields after the conversation are therefore read from the record's end, where the parser
can prove their depth. Inside the request, only the model's name is read and, for some providers, the cache key, which
is the session.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from ocwatchd.core.classify.error_details import details_from_body, details_from_text
from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.parsing.lines import Line
from ocwatchd.core.parsing.record import Dialect, Kind, LogRecord, epoch, old_header
from ocwatchd.core.text.parse_json import parse_json

_HEAD = re.compile(
    rb'\{"error":\{(?P<several>"name":"AI_RetryError","reason":"\w{1,40}","errors":\[\{)?"name":"AI_APICallError",'
    rb'"url":"(?P<url>[^"\\]{0,2000})","requestBodyValues":\{'
    rb'(?:"model":"(?P<model>[^"\\]{0,300})")?'
)
_TRIES = 8
"""Maximum number of occurrences of `"statusCode"` that are tried, beginning at the record's end. A provider's own
response body may contain a few.
"""

_CACHE_KEYS = (b'"prompt_cache_key":', b'"promptCacheKey":')
_URL_MODEL = re.compile(r"/(?:models|model|deployments)/(?P<model>[^/?]+?)(?::[a-zA-Z]*[gG]enerate\w*|/[a-z-]|\?|$)")
_HEADER_WORDS = ("retry-after", "ratelimit", "rate-limit", "reset")
_HEADERS_KEPT, _HEADER_CAP = 48, 200
_SDK_NAMES = ("AI_", "APICallError", "TimeoutError", "AbortError")
_SPOKEN = frozenset({"message", "error", "errors", "type", "code", "status", "detail", "msg", "cause"})


@dataclass(frozen=True, slots=True)
class Payload:
    """A failed request: its address, the requested model, the session if the cache key contains it, and the error."""

    facts: ErrorDetails
    url: str | None = None
    asked: str | None = None
    cache_key: str | None = None


def read_payload(data: bytes, *, truncated: bool = False) -> Payload | None:
    """Return the payload of `{"error": …}`, or None if the bytes are not JSON of this form. If the payload is
    truncated, only its head and its tail are parsed.
    """
    head = _HEAD.match(data)
    if head and (truncated or not any(key in data for key in _CACHE_KEYS)):
        # If there are several errors, the last one is repeated after all of them, one level deeper than a single error
        # would be.
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
    """Return the payload of an error object, or of another value that was thrown in its place."""
    if isinstance(error, str):
        return Payload(replace(details_from_text(error), midstream=True))
    if not isinstance(error, dict):
        return Payload(ErrorDetails())
    last = _last_of_several(error)
    if last is not None:
        return payload_of(last)
    if "statusCode" in error or "requestBodyValues" in error:
        return _whole_api_error(error)
    if str(error.get("name", "")).startswith(_SDK_NAMES) or not error:
        # The text of errors such as AI_JSONParseError is ignored, because it quotes the answer instead of the provider.
        return Payload(ErrorDetails(name=_text(error.get("name"))))
    if not _SPOKEN & error.keys():
        return Payload(ErrorDetails())  # an error in OpenCode itself contains "line", "column" and "sourceURL"
    facts = details_from_body(orjson.dumps(error).decode())
    return Payload(replace(facts, midstream=True))


def _last_of_several(error: Mapping[str, Any]) -> Any:
    """Return the error that ended the request: the last one of an AI_RetryError, which lists the SDK's own retries."""
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
    facts = details_from_body(
        body if isinstance(body, str) else "",
        status if isinstance(status, int) else None,
        kept_headers(fields.get("responseHeaders")),
    )
    if not facts.message and not facts.codes and isinstance(fields.get("data"), dict):
        data = details_from_body(orjson.dumps(fields["data"]).decode())
        facts = replace(facts, message=data.message, codes=data.codes)
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
    """Return only the headers that concern retries and limits, with lower-case names and truncated values."""
    if not isinstance(headers, dict):
        return {}
    named = ((str(name).lower(), value) for name, value in headers.items() if isinstance(value, str | int | float))
    kept = [(n, str(v)[:_HEADER_CAP]) for n, v in named if n == "date" or any(word in n for word in _HEADER_WORDS)]
    return dict(kept[:_HEADERS_KEPT])


def _model_in(url: str | None) -> str | None:
    """Return the model named in the address, or None. Google, Bedrock and Azure do not name it in the body."""
    match = _URL_MODEL.search(url) if url else None
    return unquote(match["model"]) if match else None


def _tail(data: bytes, depth: int) -> dict[str, Any] | None:
    """Return the error's fields from `statusCode` on, or None. The error is nested in `depth` objects.

    A cut at any depth other than the error's own leaves an extra closing brace and does not parse, so neither a
    response body nor a tool's schema in the request can be mistaken for the error's fields.
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
        return parse_json(data)
    except ValueError:
        pass
    try:  # the bytes may be invalid UTF-8, which OpenCode itself never writes
        return parse_json(data.decode(errors="replace"))
    except ValueError:
        return None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


_ENDINGS = tuple(
    f" {words}".encode()
    for words in (
        *("stream", "stream error", "streamText error", "process", "retrying with backoff", "created"),
        *("loop", "cancel", "locking", "unlocking", "chatting", "prompt", "getModel", "found", "provider"),
    )
)
"""The final words of relevant records in the formats before 1.17."""


def parse(line: Line) -> LogRecord | None:
    """Return the record in this line if it is relevant, in any dialect; otherwise, return None. The function never
    raises, even for arbitrary bytes.
    """
    if line.data.startswith(b"timestamp="):
        return logfmt(line)
    if not line.data.endswith(_ENDINGS) and b" error=" not in line.data[:400]:
        return None  # the cheapest test, which rejects four of five lines that contain a wanted literal
    header = old_header(line.data)
    return old(line, *header) if header else None


# ---- old: LEVEL time +ms k=v … message, values unquoted and unescaped

FAILURE = b' error={"error":'
"""A literal that occurs in every failure of the old dialects and hardly ever in other records. It is found at 3 GB/s;
comparing each line's log level takes twice as long.
"""
_TAG = re.compile(rb"(?:^| )([A-Za-z][\w.]{0,40})=")


def old(line: Line, when: float, body: int) -> LogRecord | None:
    """Parse a record in one of the formats before 1.17 with the function for its service."""
    text = line.data[body:]
    for prefix, read in _OLD:
        if text.startswith(prefix):
            return read(line, when, text)
    return None


def _service_session(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Parse a record of service `session`; 0.5 logs a turn's records this way, 1.0 and later only `created`."""
    if text.endswith(b"} streamText error"):
        return _failed(line, when, text, Dialect.SESSION, b" streamText error")
    for ending, kind in _TURNS:
        if text.endswith(ending):
            return _turn(line, when, text, Dialect.SESSION, kind)
    if text.endswith(b" created"):
        return _created(line, when, text)
    if b" error=" in text and b" id=ses_" not in text:
        return _echo(line, when, text, Dialect.SESSION)
    return None


def _service_prompt(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Parse a record of the prompt loop. In 1.0.0 - 1.0.152, the loop logged failures (the first versions with a
    session tag); later versions log only steps.
    """
    dialect = Dialect.PROMPT if text.startswith(b"service=session.prompt session=") else Dialect.BARE
    if text.endswith(b"} stream error"):
        return _failed(line, when, text, dialect, b" stream error")
    if text.endswith(b" process"):
        return _echo(line, when, text, dialect) if b" error=" in text else None
    if text.endswith(b" retrying with backoff"):
        return _retrying(line, when, text)
    for ending, kind in _TURNS:
        if text.endswith(ending):
            return _turn(line, when, text, dialect, kind)
    return None


_TURNS = (
    (b" exiting loop", Kind.ENDED),
    (b" unlocking", Kind.ENDED),
    (b" locking", Kind.BUSY),
    (b" chatting", Kind.BUSY),
    (b" prompt", Kind.BUSY),
    (b" loop", Kind.BUSY),
    (b" cancel", Kind.CANCEL),
)


def _service_processor(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Parse a failure repeated by the processor of 1.0.98 - 1.15. From 1.14 on, the record names the session, and only
    the last failure is repeated.
    """
    if text.endswith(b" process") and b" error=" in text:
        return _echo(line, when, text, Dialect.LLM)
    return None


def _service_llm(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Parse a stream's start or failure in 1.0.185 - 1.15. Only the tags of a start are correct."""
    if text.endswith(b"} stream error"):
        return _failed(line, when, text, Dialect.LLM, b" stream error")
    if text.endswith(b" stream"):
        return _tagged(line, when, Dialect.LLM, Kind.STREAM, _tags(text[:-7]))
    return None


def _service_provider(line: Line, when: float, text: bytes) -> LogRecord | None:
    """Parse a record about a provider's SDK or model. OpenCode logs such a record, with correct tags, when a model is
    first used.
    """
    if not text.endswith((b" found", b" getModel", b" using bundled provider")):
        return None
    tags = _tags(text.rpartition(b" ")[0])
    sdk = tags.get("npm") or tags.get("pkg", "").removesuffix(" using bundled")
    return LogRecord(
        when, Dialect.BARE, Kind.KNOWN, line.offset, "", tags.get("providerID"), tags.get("modelID"), sdk=sdk or None
    )


_Reader = Callable[[Line, float, bytes], LogRecord | None]
_OLD: tuple[tuple[bytes, _Reader], ...] = (
    (b"service=llm ", _service_llm),
    (b"service=session.prompt ", _service_prompt),
    (b"service=session.processor ", _service_processor),
    (b"service=session ", _service_session),
    (b"service=provider ", _service_provider),
)


def _failed(line: Line, when: float, text: bytes, dialect: Dialect, ending: bytes) -> LogRecord | None:
    at = text.find(FAILURE)
    if at < 0:
        return None
    payload = read_payload(text[at + 7 : -len(ending)], truncated=line.truncated)
    if payload is None:
        return None
    return _tagged(line, when, dialect, Kind.FAILED, _tags(text[:at]), payload)


def _echo(line: Line, when: float, text: bytes, dialect: Dialect) -> LogRecord:
    """Return the record of a repeated failure. Its text is not parsed, because the failure's first record contained
    more details.
    """
    return _tagged(line, when, dialect, Kind.ECHO, _tags(text.partition(b" error=")[0]))


def _retrying(line: Line, when: float, text: bytes) -> LogRecord:
    tags = _tags(text)
    delay = tags.get("delayMs", "").partition(" ")[0]
    wait = int(delay) / 1000 if delay.isdigit() and len(delay) < 12 else None
    return LogRecord(when, Dialect.PROMPT, Kind.RETRYING, line.offset, session=tags.get("session"), wait=wait)


def _turn(line: Line, when: float, text: bytes, dialect: Dialect, kind: Kind) -> LogRecord | None:
    """Parse a change of a turn's state. The tag `sessionID` belongs to this record. The tag `session` comes from a
    shared logger and names the session that wrote last.
    """
    tags = _tags(text)
    own = tags.get("sessionID") or tags.get("session.id")
    if own is None and text.endswith((b" chatting", b" prompt")):
        own = tags.get("session")
    session = (own or "").partition(" ")[0]
    return LogRecord(when, dialect, kind, line.offset, session=session) if session else None


def _created(line: Line, when: float, text: bytes) -> LogRecord | None:
    tags = _tags(text.partition(b" title=")[0])  # a session's title may contain text that looks like tags
    session = tags.get("id")
    if not session:
        return None
    return LogRecord(when, Dialect.BARE, Kind.CREATED, line.offset, session=session, parent=tags.get("parentID"))


@lru_cache(maxsize=1024)
def _tags(text: bytes) -> Mapping[str, str]:
    """Parse `k=v …`. A value extends to the next tag. If a name occurs twice, the first tag is used.

    Results are cached, because a session's streams always have the same tags, and parsing them takes 15 µs.
    """
    tags: dict[str, str] = {}
    name, begin = "", 0
    for match in _TAG.finditer(text):
        if name:
            tags.setdefault(name, text[begin : match.start()].decode(errors="replace"))
        name, begin = match[1].decode(), match.end()
    if name:
        tags.setdefault(name, text[begin:].decode(errors="replace"))
    return tags


# ---- new: logfmt, values bare or JSON strings, objects flattened with dots

# A pattern that chooses an alternative for each letter would take 200 bytes per letter in `re`: 20 MB for a message of
# 100 kB.
_PAIR = re.compile(rb' ?([^\s="]+)=("[^"\\]*(?:\\.[^"\\]*)*"|[^\s"]*)')
_MESSAGES = {
    "stream": Kind.STREAM,
    "stream error": Kind.FAILED,
    "process": Kind.ECHO,
    "cancel": Kind.CANCEL,
    "exiting loop": Kind.ENDED,
    "loop": Kind.BUSY,
    "created": Kind.CREATED,
    "Failed to drain Session": Kind.DRAINED,
}
_REFUSED = re.compile(r"(?:[\w.]+: )*Provider request failed with HTTP (\d{3})(?:: ?|\s*$)", re.DOTALL)
_STACK = "\n    at "
"""The beginning of the stack trace that follows an error's text. The trace lists positions in OpenCode's source and
repeats the error as its cause.
"""


def logfmt(line: Line) -> LogRecord | None:
    """Parse a record of 1.17 and later, whose tags are reliable."""
    pairs = _pairs(line.data)
    when = epoch(pairs.get("timestamp", "").encode())
    kind = _MESSAGES.get(pairs.get("message", ""))
    if when is None or kind is None:
        return None
    run = pairs.get("run", "")
    if kind is Kind.CREATED:
        session, parent = pairs.get("id"), pairs.get("parentID")
        parent = parent if parent and parent.startswith("ses_") else None
        return LogRecord(when, Dialect.LOGFMT, kind, line.offset, run, session=session, parent=parent)
    if kind is Kind.DRAINED:
        facts = _drained(pairs.get("cause", ""))
        return LogRecord(when, Dialect.LOGFMT, kind, line.offset, run, session=pairs.get("sessionID"), facts=facts)
    payload = None
    if kind in (Kind.FAILED, Kind.ECHO):
        payload = _flat_payload(pairs)
        if payload is None:
            return None
    return _tagged(line, when, Dialect.LOGFMT, kind, pairs, payload)


def _drained(cause: str) -> ErrorDetails:
    """Return the error that ended a turn of OpenCode 2. The log contains its status and body, but no model
    (0.0.0-next-16350).
    """
    words = cause.partition(_STACK)[0]
    refused = _REFUSED.match(words)
    return details_from_text(words[refused.end() :], int(refused[1])) if refused else details_from_text(words)


def _pairs(data: bytes) -> dict[str, str]:
    """Return the key-value pairs of a line. If a key occurs more than once, only its first pair is used, because a
    later one may be forged text inside a quoted value.
    """
    pairs: dict[str, str] = {}
    at = 0
    while match := _PAIR.match(data, at):
        pairs.setdefault(match[1].decode(errors="replace"), _unquoted(match[2]))
        at = match.end()
    return pairs


def _unquoted(value: bytes) -> str:
    if not value.startswith(b'"'):
        return value.decode(errors="replace")
    try:
        return str(parse_json(value))
    except ValueError:
        return value[1:-1].decode(errors="replace")


def _flat_payload(pairs: Mapping[str, str]) -> Payload | None:
    """Return the error of a record, which is either one text, or an object flattened into `error.error.type=…
    error.error.message=…`.
    """
    for key in ("error.error", "error"):
        if key in pairs:
            text = pairs[key]
            facts = details_from_text(text)
            if facts.name is None and key == "error.error":
                return payload_of(text)  # the error was thrown as plain text in the middle of an answer
            return Payload(facts)
    nested = _nested(pairs, "error.error.") or _nested(pairs, "error.")
    return payload_of(nested) if nested else None


def _nested(pairs: Mapping[str, str], prefix: str) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in pairs.items():
        if key.startswith(prefix):
            *path, leaf = key[len(prefix) :].split(".")[:8]
            node = tree
            for step in path:
                inner = node.setdefault(step, {})
                node = inner if isinstance(inner, dict) else {}
            node[leaf] = _bare_value(value)
    return tree


def _bare_value(value: str) -> object:
    if value in ("true", "false", "null", "undefined"):
        return value == "true" if value in ("true", "false") else None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else value


# ---- both formats


def _tagged(
    line: Line, when: float, dialect: Dialect, kind: Kind, tags: Mapping[str, str], payload: Payload | None = None
) -> LogRecord:
    small = tags.get("small")
    return LogRecord(
        time=when,
        dialect=dialect,
        kind=kind,
        offset=line.offset,
        run=tags.get("run", ""),
        provider=tags.get("providerID"),
        model=tags.get("modelID"),
        session=tags.get("session.id") or tags.get("sessionID") or tags.get("session"),
        agent=tags.get("agent"),
        small=None if small not in ("true", "false") else small == "true",
        message_id=tags.get("messageID"),
        url=payload.url if payload else None,
        asked=payload.asked if payload else None,
        cache_key=payload.cache_key if payload else None,
        facts=payload.facts if payload else None,
    )
