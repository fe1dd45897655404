"""Takes out of a value what nobody else may see: keys, headers, prompts, the home directory. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

REMOVED = "[removed]"

_FIELDS = re.compile(
    r"key|token|secret|passw|auth|header|cookie|credential|prompt|^(parts|body|requestBodyValues|env|environment)$",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"\b(?:sk|pk|rk)-[\w-]{8,}"
    r"|\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AIza|eyJ|AKIA|hf_|gsk_|nvapi-)[\w.-]{8,}"
    r"|\b(?:Bearer|Basic)\s+[\w.+/=-]{8,}"
    r"|(?<=://)[^/\s@]+:[^/\s@]*(?=@)"
    r"|(?<![\w.-])(?=[\w+/-]*\d)(?=[\w+/-]*[a-zA-Z])[\w+-]{40,}={0,2}"
)
"""Well-known shapes of keys, passwords in addresses, and whatever is long and random."""


def redacted(value: object, home: str) -> object:
    """`value` without secrets; texts name the home directory `~`. A secret field keeps its name only."""
    if isinstance(value, Mapping):
        return {
            redacted_text(str(key), home): REMOVED if _FIELDS.search(str(key)) else redacted(item, home)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [redacted(item, home) for item in value]
    return redacted_text(value, home) if isinstance(value, str) else value


def redacted_text(text: str, home: str) -> str:
    """One text, or one line, without secrets and without the home directory's name."""
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home.rstrip('/'))}(?=/|\W|$)", "~", text)
    return _SECRETS.sub(REMOVED, text)
