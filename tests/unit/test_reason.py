"""Tests of stored provider messages: the words are kept, keys in them are not."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ocwatchd.core.text.redact import REASON_CAP, reason_of
from tests.integration.test_secrets import KEYS, WORDS


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("words", WORDS)
def test_keys_are_hidden_whatever_is_around_them(key: str, words: str) -> None:
    assert "SECRET" not in reason_of(words.format(key))
    assert reason_of(words.format(key)).startswith("Rate limit reached")


@pytest.mark.parametrize(
    "words",
    [
        "Rate limit reached for gpt-4o in organization org-abc123 on tokens per min (TPM): Limit 30000, Used 29000",
        "limit on input tokens: 40000 per minute; token limit: 12345678",
        "request id: req_011CSHoEeqs5C35K2UUqR7Fy",
        "model anthropic.claude-3-5-sonnet-20241022-v2:0 is overloaded",
        "免费额度已用完，请稍后再试",
    ],
)
def test_ordinary_words_stay(words: str) -> None:
    assert reason_of(words) == words


@given(st.text())
def test_one_line_capped_and_printable(text: str) -> None:
    kept = reason_of(text)
    assert kept.isprintable() and len(kept) <= REASON_CAP and kept == kept.strip()


@pytest.mark.parametrize("piece", ["a", "A1a-", "key ", "api_key", "eyJ", "key provided", "a@", "sk-", "x-", " "])
def test_no_text_takes_long(piece: str) -> None:
    begun = time.process_time()
    reason_of(piece * 100_000)
    assert time.process_time() - begun < 0.2
