"""What may be kept and shown of a text that somebody else wrote: one line, capped, and nothing that opens a door.

Providers quote what they were sent: keys ("Incorrect API key provided: sk-…"), headers, addresses with a password.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ocwatchd.core.limits import REASON_CAP

HIDDEN = "[hidden]"
_SECRETS = (
    # Keys that their form gives away, and tokens of three parts (JWT).
    re.compile(
        r"\b(?:sk|pk|rk|gsk|xai|hf|r8|nvapi|pplx|fw|tvly|sess|dop_v1|gh[oprsu]|github_pat|glpat|xox[a-z]|xapp|ya29)[-_.]"
        r"[\w.*-]{8,}|\b(?:AIza|AKIA|ASIA)[\w*-]{8,}|\beyJ[\w-]{4,}\.[\w-]{4,}(?:\.[\w-]*)?"
    ),
    re.compile(r"(?<=://)[^\s/@]{1,200}@"),
    re.compile(r"\b(?i:bearer|basic) +[\w+/=.*~-]{8,}"),
    # Whatever is called a key, token or password. Not `tokens: 5000`, which is a count.
    re.compile(
        r"(?i:\b(?:[\w-]{0,20}[-_ ])?(?:api[-_ ]?key|authorization|cookie|secret|password|passwd|key|token)"
        r"(?:[ \w]{0,20} provided)?[\"']?\s{0,2}[=:]\s{0,2}[\"']?)(?!\d{1,9}\b)[^\s\"',;&)}]{6,}"
    ),
    # Nothing that people write: letters of both cases and digits, as long as a key.
    re.compile(r"\b(?=[\w+/-]{0,80}[a-z])(?=[\w+/-]{0,80}[A-Z])(?=[\w+/-]{0,80}\d)[\w+/-]{32,}"),
)
_LOOKED_AT = 4 * REASON_CAP


def reason_of(text: str, cap: int = REASON_CAP) -> str:
    """`text` as it may be stored and shown: printable, one line, at most `cap` characters, secrets as `[hidden]`."""
    # Before it is cut: half a key is a secret, too, and would no longer look like one.
    return _one_line(text[:_LOOKED_AT])[:cap]


@lru_cache(maxsize=64)
def _one_line(text: str) -> str:
    """Remembered: a storm repeats a few texts a thousand times, and every character is looked at."""
    line = text if text.isprintable() else "".join(char if char.isprintable() else " " for char in text)
    for secret in _SECRETS:
        line = secret.sub(HIDDEN, line)
    return " ".join(line.split())
