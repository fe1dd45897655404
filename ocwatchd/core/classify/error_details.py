"""Extract the readable text (message) and the machine-readable codes from an error's message or response body.

A message may be a response body, a body inside another body, a body inside a gateway's sentence, a Python dict, or an
HTML page. No function here raises, runs for a long time or recurses deeply, because the text is not trusted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ocwatchd.core.domain.types import ErrorDetails
from ocwatchd.core.text.normalize import clip

PARSE_CAP = 262_144
"""Maximum number of characters that are parsed as JSON. A longer body is truncated, and only its fields are read."""

BODY_CAP = 8192
"""Maximum number of characters to keep of a body. A body is kept because it may contain a reset time (RetryInfo,
resets_in_seconds).
"""

_DEPTH, _NODES, _PIECES = 14, 200, 12

_WRAPPER = re.compile(
    r"\s{0,8}(?:(?P<name>AI_\w{1,40}|(?:Unknown|API|Provider|Named|Stream|Http|HTTP)Error|Error)"
    r"(?:\s{0,4}:\s{1,8}|\s{0,8}$)"
    r"|Failed after \d{1,4} attempts?(?:\. Last error:| with non-retryable error:)\s{0,4}"
    r"|(?:stream|streamText) error:\s{1,4})"
)
_STATUS_AHEAD = re.compile(
    r"\W{0,3}(?:(?:HttpError|HTTP(?:/\d(?:\.\d)?)?|API|Error|Code|Status|Server|Provider|Upstream|Codex|LLM|Response"
    r"|Request|failed|with|error,|status:|is|returned|rejected|Invalid)[\s:=(\[#,-]{1,4}){0,8}"
    r"[(\[]?(?P<status>[45]\d\d)\b[)\]]?"
    r"(?:\s(?:Too Many Requests|Payment Required|Service Unavailable|Service Temporarily Unavailable|Bad Request"
    r"|Bad Gateway|Internal Server Error|Gateway Time-?out|Unauthorized|Forbidden|Not Found|Request Entity Too Large"
    r"|Payload Too Large|Unprocessable Entity|Client Error|Server Error|Site is overloaded|status code))?"
    r"(?=\s{0,4}(?:$|[-–—:,;](?!\d)|[{\"'<|(\[\n]|\.(?:\s|$)|with (?:message|body)|for url|[^\x00-\x7f]))",
    re.IGNORECASE,
)
_JSON_AHEAD = re.compile(r"\{\s{0,40}[\"'}]|\[\s{0,40}\{\s{0,40}[\"']")
_DISTRUST = re.compile(
    r"pars(?:e|ing)|unexpected|invalid(?! status| response)|\btool|argument|schema|offending|prompt|parameter|expected"
    r"|input|param\b",
    re.IGNORECASE,
)
_FIELD = re.compile(
    r"\\{0,7}[\"'](?P<key>message|msg|error_msg|status_msg|type|code|status|reason|error|detail|error_code|statusCode|status_code)"
    r"\\{0,7}[\"']\s{0,4}:\s{0,4}(?:(?P<number>\d{1,6})\b|\\{0,7}\"(?P<double>[^\"\\]{0,2000})|\\{0,7}'(?P<single>[^'\\]{0,2000}))"
)
_TAG = re.compile(
    r"<(?:script|style)\b[^>]{0,500}>.{0,4000}?</(?:script|style)>|<[^<>]{0,500}>", re.IGNORECASE | re.DOTALL
)
_BLANKS = re.compile(r"\s*\n\s*")

_SAYS = frozenset(
    {"message", "msg", "errormessage", "errormsg", "detail", "details", "description", "errordescription", "title",
     "raw", "statusmsg", "error", "err", "errors", "lasterror", "lastupstreamerror", "body", "responsebody", "response",
     "reason", "cause", "text", "solution", "faultstring"}
)  # fmt: skip
_NAMES = frozenset(
    {"type", "code", "status", "reason", "errorcode", "errortype", "errcode", "name", "error", "err", "quotaid",
     "limitname", "statuscode", "httpstatus", "httpcode", "ecode"}
)  # fmt: skip
_STATUSES = frozenset({"status", "code", "statuscode", "httpstatus", "httpcode", "errorcode", "httpstatuscode"})
_ECHOES = frozenset(
    {"requestbodyvalues", "request", "input", "messages", "prompt", "tools", "params", "param", "parameters", "headers",
     "responseheaders", "url", "choices", "content", "output", "usage", "documentation", "help", "links", "model", "id",
     "requestid", "object", "providers"}
)  # fmt: skip
_CODE = re.compile(r"[\w.:/-]{2,80}\Z")


@dataclass(slots=True)
class _BodyDetails:
    """The messages, codes and status that have been found so far in a body."""

    says: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    status: int | None = None
    nodes: int = 0

    def say(self, text: str) -> None:
        text = text.strip()
        if text and len(self.says) < _PIECES and not any(text in said for said in self.says):
            self.says.append(text)

    def code(self, word: str) -> None:
        if word not in self.codes and word != "error" and len(self.codes) < _PIECES:
            self.codes.append(word)

    def number(self, key: str, value: int) -> None:
        if key in _STATUSES and 400 <= value <= 599:
            self.status = self.status or value
        if key in _NAMES:
            self.code(str(value))


def details_from_text(text: str, status: int | None = None) -> ErrorDetails:
    """Return the error details in a message's text, in the format that logs have used since 1.17.

    `status` is the HTTP status, if it is known from another source.
    """
    name, rest = _unwrap(text[:PARSE_CAP])
    found = _BodyDetails()
    message = _open(rest, found, 0)
    ahead = _STATUS_AHEAD.match(rest) or _STATUS_AHEAD.match(message)
    read = status is None
    if read:
        status = found.status or (int(ahead["status"]) if ahead else None)
    body = rest[:BODY_CAP] if found.nodes else ""
    return ErrorDetails(
        message=message,
        name=name,
        codes=tuple(found.codes),
        status=status,
        body=body,
        status_read=read and status is not None,
    )


def details_from_body(body: str, status: int | None = None, headers: Mapping[str, str] | None = None) -> ErrorDetails:
    """Return the error details in a response body, which is JSON, plain text or HTML. The names in `headers` must be
    lower case.
    """
    return replace(details_from_text(body, status), headers=headers or {}, body=body[:BODY_CAP])


def _unwrap(text: str) -> tuple[str | None, str]:
    """Return the error's name, if any, and the text without the prefixes that OpenCode and its SDK add.

    Examples of prefixes are `AI_APICallError: ` and `Failed after 3 attempts. Last error: `.
    """
    name: str | None = None
    for _ in range(6):
        match = _WRAPPER.match(text)
        if not match:
            break
        name = name or match["name"]
        text = text[match.end() :]
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] and text[0] in "'\"" and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return name, text


def _open(text: str, found: _BodyDetails, depth: int) -> str:
    """Return the readable message of a text, and add its machine-readable codes to `found`."""
    if "{" in text and depth < _DEPTH:
        opened = _open_json(text, found, depth)
        if opened is not None:
            return opened
    if text[:1] == "<" or "<html" in text[:200].lower():
        return _BLANKS.sub("\n", _TAG.sub("\n", clip(text))).strip()
    return clip(text)


def _open_json(text: str, found: _BodyDetails, depth: int) -> str | None:
    start = _trusted_start(text)
    if start is None:
        return None
    says, inner = found.says, _BodyDetails(codes=found.codes, status=found.status, nodes=found.nodes)
    try:
        value, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        _scrape(clip(text[start:]), inner)
        end = len(text)
    else:
        _walk(value, "", inner, depth + 1)
    if not (inner.says or len(inner.codes) > 0):
        return None
    found.codes, found.status, found.nodes, found.says = inner.codes, inner.status, max(inner.nodes, 1), says
    validation = text.startswith("Type validation failed")
    pieces = [text[:start], "\n".join(inner.says), "" if validation else text[end:][:1000]]
    return clip(" ".join(piece.strip() for piece in pieces if piece.strip()))


def _trusted_start(text: str) -> int | None:
    """Return the position of a response body in the text. Return None if there is none, or if the words before it show
    that it is only quoted.
    """
    match = _JSON_AHEAD.search(text)
    if not match:
        return None
    before = text[: match.start()]
    if before.startswith("Type validation failed"):
        return match.start() if '"error"' in text[match.start() : match.start() + 400] else None
    if len(before) > 600 or before.count('"') % 2 or _DISTRUST.search(before):
        return None
    return match.start()


def _walk(value: object, key: str, found: _BodyDetails, depth: int) -> None:
    found.nodes += 1
    if depth > _DEPTH or found.nodes > _NODES:
        return
    if isinstance(value, dict):
        _walk_object(value, found, depth)
    elif isinstance(value, list):
        for item in value[:20]:
            _walk(item, key, found, depth + 1)
    elif isinstance(value, str):
        _walk_text(value, key, found, depth)
    elif isinstance(value, int) and not isinstance(value, bool):
        found.number(key, value)


def _walk_object(value: dict[str, object], found: _BodyDetails, depth: int) -> None:
    for raw_key, item in list(value.items())[:40]:
        key = re.sub(r"[^a-z]", "", raw_key.lower()) if isinstance(raw_key, str) else ""
        if key not in _ECHOES:
            _walk(item, key, found, depth + 1)


def _walk_text(value: str, key: str, found: _BodyDetails, depth: int) -> None:
    if key in _STATUSES and value.isascii() and value.isdigit() and len(value) < 7:
        found.number(key, int(value))
    elif key in _NAMES and _CODE.match(value):
        found.code(value)
        if key in {"error", "err", "reason"}:
            found.say(value)
    elif key in _SAYS:
        inner = _BodyDetails(codes=found.codes, status=found.status, nodes=found.nodes)
        found.say(_open(_unwrap(value[:PARSE_CAP])[1], inner, depth + 1))
        found.codes, found.status, found.nodes = inner.codes, inner.status or found.status, inner.nodes


def _scrape(text: str, found: _BodyDetails) -> None:
    """Read the fields of a text that only resembles JSON, such as a Python dict or a truncated body."""
    for match in _FIELD.finditer(text):
        found.nodes += 1
        key = match["key"].replace("_", "").lower()
        if match["number"]:
            found.number(key, int(match["number"]))
        else:
            _walk_text(match["double"] or match["single"] or "", key, found, _DEPTH)
