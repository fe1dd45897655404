"""Parse OpenCode 2's errors into the provider's message, status and body.

Errors of the preview (0.0.0-next-16350) have only a type and a message, which contains the status and the body. The
releases add `status` and `response.body`. The types are not reliable. A 400 that quotes a rate limit has the type
`provider.rate-limit`. A 402 has the type `provider.unknown`, as does a 429 from any provider that uses the AI SDK.
"""

from __future__ import annotations

import re
from dataclasses import replace

from ocwatchd.core.classify.error_details import details_from_body, details_from_text
from ocwatchd.core.domain.snapshot import ABORTED
from ocwatchd.core.domain.types import ErrorDetails, LimitKind
from ocwatchd.opencode.sessions.messages import MESSAGE_CAP, mapping, text

STOPPED = "aborted"
"""The error type of a step that was interrupted."""
OF_THE_PROVIDER = "APIError"
"""OpenCode 1's name for a provider's error. It replaces all types that OpenCode 2 gives to provider errors, because
those types are not reliable.
"""
_TYPED = {"provider.rate-limit": LimitKind.RATE_LIMIT, "provider.quota": LimitKind.QUOTA}
_REFUSED = re.compile(r"(?:[\w.]+: )*Provider request failed with HTTP (\d{3})(?:: ?|\s*$)", re.DOTALL)
"""Matches the beginning of the error message of a provider for which OpenCode 2 does not use the AI SDK. The response
body follows.
"""


def error_of(error: object) -> ErrorDetails | None:
    """Parse an error, and discard the request that it may contain. Return None if the value is not an error."""
    raw = mapping(error)
    kind, message = text(raw.get("type")), text(raw.get("message")) or ""
    if kind is None and not message:
        return None
    if kind == STOPPED:
        return ErrorDetails(message=message[:MESSAGE_CAP], name=ABORTED)
    match = _REFUSED.match(message)
    status, body = raw.get("status"), text(mapping(raw.get("response")).get("body"))
    if not isinstance(status, int) or isinstance(status, bool):
        status = int(match[1]) if match else None
    detail = message[match.end() :] if match else message
    facts = details_from_body(body, status) if body else details_from_text(detail, status)
    if body and not facts.message:
        facts = replace(facts, message=details_from_text(detail, status).message)
    name = OF_THE_PROVIDER if kind is not None and kind.startswith("provider.") else kind
    return replace(facts, message=facts.message[:MESSAGE_CAP], name=name, typed=_TYPED.get(kind or ""))
