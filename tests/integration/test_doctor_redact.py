"""Tests of which data a bug report contains."""

from __future__ import annotations

import pytest

from ocwatchd.doctor.bundle import REMOVED, redacted, redacted_text

HOME = "/home/jane"


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdef123456", "ghp_abcdefghij0123456789", "AIzaSyA1234567890", "eyJhbGciOi.eyJzdWIi.c2ln",
        "Bearer abc.def-ghi123", "xoxb-1234-abcd", "a1B2c3D4e5F6g7H8i9J0a1B2c3D4e5F6g7H8i9J0",
    ],
)  # fmt: skip
def test_secrets_in_texts(secret: str) -> None:
    assert redacted_text(f"refused: {secret} is limited", HOME) == f"refused: {REMOVED} is limited"


@pytest.mark.parametrize(
    "text",
    [
        "ses_dfb805d5effeAhniXR1ZvNfJ1V", "001a2047fb086d99533b7", "github-copilot/claude-sonnet-4",
        "2026-11-22T10:08:53.256Z",
        "openrouter/anthropic/claude-sonnet-4.5:free", "/var/lib/some/quite/long/directory/name/with/many/parts/x1",
    ],
)  # fmt: skip
def test_what_helps_stays(text: str) -> None:
    assert redacted_text(text, HOME) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/.config", "~/.config"), ("in /home/jane", "in ~"), ("/home/janet/x", f"/home/{REMOVED}/x"),
        ("http://me:pw@127.0.0.1:1/", f"http://{REMOVED}@127.0.0.1:1/"),
    ],
)  # fmt: skip
def test_homes_and_passwords_in_addresses(text: str, shown: str) -> None:
    assert redacted_text(text, HOME) == shown


def test_fields_that_hold_secrets_keep_their_names_only() -> None:
    given = {
        "apiKey": "x", "headers": {"a": "b"}, "deep": [{"Authorization": "y", "prompt": "write", "n": 3}],
        "/home/jane/p": None,
    }  # fmt: skip
    assert redacted(given, HOME) == {
        "apiKey": REMOVED, "headers": REMOVED, "deep": [{"Authorization": REMOVED, "prompt": REMOVED, "n": 3}],
        "~/p": None,
    }  # fmt: skip
