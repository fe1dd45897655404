"""Tests of the user's own patterns: which texts they make a limit, and that none of them can hang."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.classify.rules import RuleSet
from ocwatchd.core.classify.user_patterns import UserPattern
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitKind
from ocwatchd.core.text.safe_regex import pattern_fault

RULES = RuleSet.load((Path(__file__).parents[2] / "ocwatchd" / "rules" / "builtin.json").read_bytes())


def with_user(*patterns):
    return RULES.with_user_patterns(patterns)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("zurzeit keine Kapazität frei", "Zurzeit keine Kapazitat frei"),
        ("billing\\s+paused", "vendor error: Billing  paused today"),
        ("mein_fehler", "AI_APICallError: Mein-Fehler 7"),
        ("418", "HTTP 418: I am a teapot"),
        ("418", "418 I'm a teapot"),
        ("418", "Request failed with status code 418"),
        ("(teapot|kettle) empty", "the kettle empty error"),
    ],
)
def test_a_users_pattern_makes_unknown_words_a_limit(pattern, text):
    assert RULES.classify(details_from_text(text)).certainty is not Certainty.SURE
    found = with_user(pattern).classify(details_from_text(text))
    assert (found.certainty, found.kind, found.rule) == (Certainty.SURE, LimitKind.RATE_LIMIT, "user-pattern")


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("418", "used 140418 tokens"),
        ("418", "llama-418b does not load"),
        ("418", "section 418 of the docs"),
        ("418", "line 418: no"),
        ("418", "418 tokens were left over"),
        ("418", "took 418ms"),
        ("cap", "the landscape is wide"),
        ("rate_limit_error", "add a test for rate_limit_error in src/client.test.ts"),
        ("teapot", "nothing of the kind"),
    ],
)
def test_a_users_pattern_means_whole_words_and_real_statuses(pattern, text):
    assert with_user(pattern).classify(details_from_text(text)).certainty is not Certainty.SURE


def test_a_users_number_matches_the_status_itself_and_a_code():
    assert with_user("418").classify(ErrorDetails(message="no", status=418)).certainty is Certainty.SURE
    assert with_user("418").classify(ErrorDetails(message="no", codes=("418",))).certainty is Certainty.SURE
    assert with_user("418").classify(ErrorDetails(message="no", status=417)).certainty is Certainty.NO


@pytest.mark.parametrize("pattern", ["rate_limit_error", "overloaded_error", "429"])
def test_the_default_patterns_do_not_make_a_quoting_400_sure(pattern):
    text = "Failed to parse tool arguments: unexpected token in \"{'note': 'got HTTP 429 rate_limit_error'}\""
    assert with_user(pattern).classify(ErrorDetails(message=text, status=400)).certainty is not Certainty.SURE


def test_a_built_in_verdict_is_kept_where_a_users_pattern_matches_too():
    assert with_user("overloaded_error").classify(ErrorDetails(message="overloaded_error")).rule == "overloaded"


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a*)*b", "(a|a)*$", "(.*a){12}", ".*a.*b.*c", r"(\w)\1+", "a" * 300 + "+", "(unclosed|", "([a-z]+)*x"],
)
def test_a_pattern_that_could_run_long_is_taken_as_literal_text(pattern):
    assert UserPattern.of(pattern).regex is None


def test_a_refused_pattern_says_why():
    assert UserPattern.of("(a+)+$").refused == "a repetition inside a repetition"
    assert UserPattern.of("plain words").refused is None


@pytest.mark.parametrize(
    "pattern", [r"quota\s+gone", "^error: (x|y)$", "[0-9]{3} limits", "(?:too many) calls?", ".*limit"]
)
def test_harmless_expressions_are_accepted(pattern):
    assert pattern_fault(pattern) is None


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="ab(|)*+?.{}[]\\d^$1,", max_size=24), st.sampled_from(["a", "ab", "1", "a1 "]))
def test_no_pattern_of_a_user_hangs(pattern, bit):
    rules = with_user(pattern)
    started = time.process_time()
    rules.classify(ErrorDetails(message=bit * 3000 + "!"))
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize("words", ["my gateway says no", "the user has no seat today", "why do you ask so much?"])
def test_words_of_a_persons_own_that_read_like_prose_still_count(words: str) -> None:
    rules = with_user(words)
    for message in (words, words.capitalize(), f"418: {words}"):
        verdict = rules.classify(ErrorDetails(message=message, status=418))
        assert (verdict.certainty, verdict.rule) == (Certainty.SURE, "user-pattern"), message
    # Other words still count: an error of a tool is not one of the provider.
    assert rules.classify(ErrorDetails(message=f"mcp server: {words}")).certainty is Certainty.NO
