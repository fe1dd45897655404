"""Tests that these facts of an error give this verdict, and that no hostile text makes the rules run long."""

import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ocwatchd.core.classify.error_details import details_from_text
from ocwatchd.core.classify.phrases import Index, PhraseError, check, compile_folded
from ocwatchd.core.classify.rules import RuleError, RuleSet
from ocwatchd.core.domain.types import Certainty, ErrorDetails, LimitKind, Scope
from ocwatchd.core.text.normalize import fold, read

ROOT = Path(__file__).parents[2]
DATA = Path(__file__).parent / "data"
RULES = RuleSet.load((ROOT / "ocwatchd" / "rules" / "builtin.json").read_bytes())
TEXTS = [json.loads(line)["text"] for line in (DATA / "messages.jsonl").read_text("utf-8").splitlines()]

RULE = {
    "id": "slow",
    "kind": "rate_limit",
    "phrases": ["slow down"],
    "examples": ["Slow down"],
    "counter_examples": ["Bye"],
}


def verdict(text, **facts):
    return RULES.classify(ErrorDetails(message=text, **facts))


def rule_file(**changes):
    rule = {**RULE, **changes}
    return json.dumps({"version": 1, "rules": [{key: value for key, value in rule.items() if value is not None}]})


def test_every_example_goes_to_its_rule_and_no_counter_example_does():
    assert RULES.self_check() == []


def test_a_rule_whose_example_does_not_behave_is_reported():
    rules = RuleSet.load(rule_file(examples=["Slow down", "Hurry up"], counter_examples=["please slow down"]))
    assert [fault.split(":")[0] for fault in rules.self_check()] == ["slow", "slow"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"examples": None}, "slow: needs both examples and counter_examples"),
        ({"counter_examples": []}, "slow: needs both examples and counter_examples"),
        ({"phrases": None}, "slow: nothing to match"),
        ({"kind": "tired"}, "slow: 'tired'"),
        ({"kind": None}, "slow: needs either a kind"),
        ({"weight": "soft"}, "slow: needs either a kind"),
        ({"scope": "galaxy"}, "slow: 'galaxy'"),
        ({"phrases": ["(slow"]}, "slow: the phrase is empty, or its brackets"),
        ({"phrases": ["~"]}, "slow: the phrase contains no literal text"),
        ({"phrases": "slow down"}, "slow: phrases must be a list"),
        ({"regex": ["(a+)+$"]}, "slow: a repetition inside a repetition"),
        ({"regex": ["("]}, "slow: not a regular expression"),
        ({"headers": ["x"]}, "slow: headers must map"),
        ({"pharses": ["x"]}, "slow: unknown fields pharses"),
        ({"unless": ["(slow"]}, "slow: the phrase is empty, or its brackets"),
        ({"unless": [3]}, "slow: unless must be a list"),
        ({"hosts": ["example.com"]}, "slow: hosts can only be used"),
        ({"together": ["slow"]}, "slow: together must be a list"),
        ({"together": {"a": ["slow"]}}, "slow: together must be a list of lists"),
        ({"together": [["(slow"]]}, "slow: the phrase is empty, or its brackets"),
        ({"together": [["slow"]] * 9}, "slow: more than 8 groups"),
        ({"together": [["slow"]], "corrects": ["quota"]}, 'slow: "together" needs a kind'),
        ({"id": 7}, "rule 1 has no id"),
    ],
)
def test_a_faulty_rule_does_not_load_and_the_message_names_it(change, says):
    with pytest.raises(RuleError, match=re.escape(says)):
        RuleSet.load(rule_file(**change))


@pytest.mark.parametrize("raw", ["", "[]", "{}", '{"version": 2, "rules": []}', '{"version": 1}', b"\xff\xfe"])
def test_what_is_no_rule_file_does_not_load(raw):
    with pytest.raises(RuleError):
        RuleSet.load(raw)


def test_an_id_used_twice_does_not_load():
    with pytest.raises(RuleError, match="used twice: slow"):
        RuleSet.load(json.dumps({"version": 1, "rules": [RULE, RULE]}))


def test_the_index_finds_exactly_what_trying_every_phrase_finds():
    phrases = [(rule.rank, fold(phrase)) for rule in RULES.rules for phrase in rule.phrases]
    index = Index(phrases)
    for text in TEXTS:
        said = read(text).said
        tried = sorted({rank for rank, phrase in phrases if compile_folded(phrase).search(said)})
        assert list(index.find(said)) == tried, said


LITERAL = sorted({fold(phrase) for rule in RULES.rules for phrase in rule.phrases if not set(phrase) & set("(~*#^")})


@given(st.sampled_from(LITERAL), st.lists(st.sampled_from(["", " ", *"x7é#(限ß_-"]), max_size=6), st.data())
def test_literal_words_are_found_as_their_expression_would(phrase: str, around: list[str], data: st.DataObject) -> None:
    pieces = [data.draw(st.sampled_from([phrase, phrase[1:], phrase[:-1]])) for _ in range(len(around) + 1)]
    text = "".join(part for pair in zip(pieces, [*around, ""], strict=True) for part in pair)
    assert list(Index([(0, phrase)]).find(text)) == [0] * bool(compile_folded(phrase).search(text))


@pytest.mark.parametrize(
    ("phrase", "hits", "misses"),
    [
        ("rate limit", ["a rate limit"], ["rate limits", "pirate limit"]),
        ("rate limit*", ["rate limited now"], ["rate lim"]),
        ("limit ~ (reached|hit)", ["limit reached", "limit for x, was hit"], ["limit reachedx", "limitreached"]),
        ("max rpm: #", ["max rpm: 3", "max rpm: 1,000"], ["max rpm: x"]),
        ("(has |)ended", ["it ended", "has ended"], ["blended"]),
        ("^limit", ["limit", "- limit"], ["no limit"]),
        ("请求~频繁", ["请求过于频繁"], ["请求"]),
    ],
)
def test_what_a_phrase_means(phrase, hits, misses):
    check(phrase)
    assert all(compile_folded(fold(phrase)).search(text) for text in hits)
    assert not any(compile_folded(fold(phrase)).search(text) for text in misses)


def test_brackets_of_a_phrase_must_match():
    with pytest.raises(PhraseError):
        check("(a|b")


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (429, "", LimitKind.RATE_LIMIT),
        (429, "nobody knows these words", LimitKind.RATE_LIMIT),
        (429, "Weekly usage limit reached", LimitKind.QUOTA),
        (429, "The engine is currently overloaded", LimitKind.OVERLOADED),
        (503, "rate limit exceeded", LimitKind.OVERLOADED),
        (529, "", LimitKind.OVERLOADED),
        (402, "", LimitKind.BILLING),
        (402, "You have no quota", LimitKind.QUOTA),
        (402, "too many requests", LimitKind.BILLING),
    ],
)
def test_a_status_that_says_limit_decides_and_the_words_say_which(status, text, kind):
    found = verdict(text, status=status)
    assert (found.certainty, found.kind) == (Certainty.SURE, kind)


def two_rules(**second):
    """Return the rule "slow down" and another one, to show how they interact."""
    other = {**RULE, "id": "other", "phrases": ["elsewhere"], **second}
    other = {key: value for key, value in other.items() if value is not None or key == "kind"}
    return RuleSet.load(json.dumps({"version": 1, "rules": [RULE, other]}))


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Slow down, says https://api.example.com/v1", Certainty.NO),
        ("Slow down, says EXAMPLE.COM.", Certainty.NO),
        ("Slow down, says https://example.org/data/rows", Certainty.NO),
        ("Slow down, says https://example.org/other", Certainty.SURE),
        ("Slow down, says https://notexample.com/v1", Certainty.SURE),
        ("Slow down, says https://example.com.evil.net", Certainty.SURE),
        ("Slow down", Certainty.SURE),
        ("429: Slow down, says example.com", Certainty.NO),
    ],
)
def test_a_limit_of_another_service_is_none_of_the_model(text, certainty):
    rules = two_rules(kind=None, weight="elsewhere", hosts=["example.com", "example.org/data"])
    assert rules.classify(details_from_text(text)).certainty is certainty


def test_the_models_own_status_wins_over_another_services_words():
    text = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    assert RULES.classify(details_from_text(text)).certainty is Certainty.NO
    assert RULES.classify(details_from_text(f"HTTP 429: {text}")).certainty is Certainty.NO
    assert RULES.classify(details_from_text(text, 403)).certainty is Certainty.NO
    assert RULES.classify(details_from_text(text, 429)).certainty is Certainty.SURE


@pytest.mark.parametrize(
    ("text", "certainty"),
    [
        ("Perhaps you have to slow down", Certainty.NO),
        ("Perhaps later. You have to slow down", Certainty.SURE),
        ("Slow down\nPerhaps it helps", Certainty.SURE),
        ("Slow down · perhaps it helps", Certainty.SURE),
        ("Slow down, perhaps it helps", Certainty.NO),
    ],
)
def test_a_sentence_that_only_supposes_a_limit_does_not_count(text, certainty):
    rules = two_rules(kind=None, weight="supposed", phrases=["perhaps"])
    assert rules.classify(details_from_text(text)).certainty is certainty


def test_a_code_speaks_also_where_the_words_only_suppose():
    rules = two_rules(kind=None, weight="supposed", phrases=["perhaps"])
    assert rules.classify(ErrorDetails("Perhaps.", codes=("slow_down",))).certainty is Certainty.SURE


def test_words_correct_the_kind_of_a_limit_but_are_none_themselves():
    rules = two_rules(kind="quota", corrects=["rate_limit"], phrases=["weekly"], unless=["hourly"])
    assert rules.classify(details_from_text("Slow down")).kind is LimitKind.RATE_LIMIT
    assert rules.classify(details_from_text("Slow down, weekly")).kind is LimitKind.QUOTA
    assert rules.classify(details_from_text("Slow down, weekly, not hourly")).kind is LimitKind.RATE_LIMIT
    assert rules.classify(details_from_text("Weekly")).kind is None
    by_id = two_rules(kind="quota", corrects=["slow"], phrases=["weekly"])
    assert by_id.classify(details_from_text("Slow down, weekly", 429)).kind is LimitKind.QUOTA


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("the well is dry today", None, LimitKind.QUOTA),
        ("today the water, alas, is dry", 500, LimitKind.QUOTA),
        ("today the water, alas, is dry", 403, LimitKind.QUOTA),
        ("today the water, alas, is dry", 400, None),
        ("the well is dry", None, None),
        ("dry today", None, None),
        ("the well is dry today, slow down", None, LimitKind.RATE_LIMIT),
        ("the well is dry today " + "and so on " * 50, None, None),
        ("the oil well is dry today", None, None),
    ],
)
def test_words_that_stand_together_name_a_limit_in_whatever_order(text, status, kind):
    rules = two_rules(kind="quota", phrases=None, together=[["well", "water"], ["dry"], ["today"]], unless=["oil"])
    assert rules.classify(details_from_text(text, status)).kind is kind


def test_a_rule_may_have_eight_groups_of_words():
    assert two_rules(phrases=None, together=[[f"word{number}"] for number in range(8)]).rules[1].together[7] == (
        "word7",
    )


def test_words_that_stand_together_say_nothing_beside_words_of_a_bad_request():
    text = "Too many people are talking to this model. Hold on a moment."
    assert RULES.classify(details_from_text(text)).kind is LimitKind.OVERLOADED
    assert RULES.classify(details_from_text(f"{text} Invalid parameter: stream")).kind is None


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("billing_not_active", "当前分组负载已饱和，请稍后再试", LimitKind.OVERLOADED),
        ("billing_not_active", "Requests rate limit exceeded, try again in 20s", LimitKind.RATE_LIMIT),
        ("billing_not_active", "Your credit balance is empty", LimitKind.BILLING),
        ("billing_not_active", "nobody knows these words", LimitKind.BILLING),
        ("billing_not_active", "Weekly usage limit reached", LimitKind.QUOTA),
        ("FreeUsageLimitError", "Rate limit exceeded. Please try again later.", LimitKind.QUOTA),
        ("rate_limit_error", "You have no credits left", LimitKind.BILLING),
    ],
)
@pytest.mark.parametrize("status", [None, 429])
def test_words_of_a_passing_limit_beat_a_code_of_billing(code, text, kind, status):
    assert verdict(text, codes=(code,), status=status).kind is kind


@pytest.mark.parametrize("number", ["429", "402", "503", "529"])
@pytest.mark.parametrize(
    "form",
    ["{} Provider returned error", "[{}] Provider returned error", "({}) upstream refused",
     "HTTP/1.1 {} upstream said no", "(HTTP/2 {}) request to https://llm.example.net/v1 failed",
     "Error: {} from the proxy", "openai: {} - slowed", "claude [{}]: failed", "got a {} from upstream",
     "Received status code: {}.", "returned HTTP {} with no words"],
)  # fmt: skip
def test_a_bare_status_in_front_of_words_decides(form, number):
    kinds = {"429": LimitKind.RATE_LIMIT, "402": LimitKind.BILLING}
    found = RULES.classify(details_from_text(form.format(number)))
    assert (found.certainty, found.kind) == (Certainty.SURE, kinds.get(number, LimitKind.OVERLOADED))


@pytest.mark.parametrize("number", ["429", "402", "503", "529"])
@pytest.mark.parametrize(
    "form",
    ["{} tests passed, 3 skipped", "{} files changed", "[{}] links checked", "{} of 500 tests ran", "{} ms",
     "{}.5 seconds", "{},000 rows", "{}:30 min", "Line {}: unexpected token", "port {} is in use", "PR {} was merged",
     "Search returned {} results", "{} and 500 are retried", "{} means that you have to wait", "{}% done",
     "took {} seconds", "wait for '{} x' in the text"],
)  # fmt: skip
def test_a_number_that_counts_something_is_no_status(form, number):
    assert RULES.classify(details_from_text(form.format(number))).certainty in (Certainty.NO, Certainty.UNKNOWN)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 422, 500, 502, 504, 520])
def test_other_statuses_are_no_limits_without_words_of_one(status):
    assert verdict("", status=status).certainty is Certainty.NO
    assert verdict("nobody knows these words", status=status).certainty is Certainty.NO


@pytest.mark.parametrize("text", ["", "Unknown error", "AI_APICallError", "Provider returned error"])
def test_words_that_say_nothing_are_unknown_without_a_status(text):
    assert RULES.classify(details_from_text(text)).certainty is Certainty.UNKNOWN


@pytest.mark.parametrize("status", [None, 400, 422])
@pytest.mark.parametrize(
    "text",
    [
        "Unknown parameter: 'rate_limit_per_user'. Did you mean 'max_tokens'? See docs section 429.",
        'Invalid prompt: flagged. Offending text: "HTTP 429 Too Many Requests: rate limit exceeded, retry after 60 s"',
        "Invalid prompt: flagged. Offending text: HTTP 429 Too Many Requests: rate limit exceeded",
        "Failed to parse tool arguments: unexpected token in \"{'note': 'got HTTP 429 rate_limit_error'}\"",
        "messages.2: the text `Too Many Requests` is not a valid tool name",
        "Tool output contained “quota exceeded”",
    ],
)
def test_a_quoted_limit_is_never_sure(text, status):
    assert verdict(text, status=status).certainty in (Certainty.NO, Certainty.DOUBTFUL)


def test_a_sentence_quoted_whole_is_the_message_itself():
    text = '429 "Your team 16f2 has either used all available credits or reached its monthly spending limit."'
    assert RULES.classify(details_from_text(text)).kind is LimitKind.BILLING
    text = 'API error: POST "https://api.x.ai/v1/responses": 403 Forbidden "Your team has used all available credits"'
    assert RULES.classify(details_from_text(text)).certainty is Certainty.SURE


@pytest.mark.parametrize(
    ("codes", "text", "kind"),
    [
        (("overloaded_error",), "", LimitKind.OVERLOADED),
        (("tokens", "rate_limit_exceeded"), "", LimitKind.RATE_LIMIT),
        (("429",), "Provider returned error", LimitKind.RATE_LIMIT),
        (("1113",), "", LimitKind.BILLING),
        (("1308",), "", LimitKind.QUOTA),
        (("Throttling.AllocationQuota",), "", LimitKind.RATE_LIMIT),
        (("FreeUsageLimitError",), "Rate limit exceeded. Please try again later.", LimitKind.QUOTA),
        (("ModelAccountTpmRateLimitExceeded",), "nobody knows these words", LimitKind.RATE_LIMIT),
        (("server_error",), "The server had an error processing your request.", None),
        (("context_length_exceeded",), "", None),
    ],
)
def test_machine_words_of_a_stream_that_broke_off_carry_without_a_status(codes, text, kind):
    assert verdict(text, codes=codes, midstream=True).kind is kind


def test_a_body_speaks_where_the_message_is_only_the_reason_phrase():
    body = '{"error": {"message": "You\'ve reached your weekly usage limit", "type": "rate_limit_error"}}'
    found = verdict("Too Many Requests", status=429, body=body)
    assert (found.kind, found.scope) == (LimitKind.QUOTA, Scope.PROVIDER)


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("anthropic-ratelimit-unified-status", "rejected"),
        ("x-ratelimit-exceeded", "quota"),
        ("x-codex-primary-used-percent", "100"),
    ],
)
def test_headers_tell_a_plan_from_a_rate(header, value):
    assert verdict("slow down", status=429, headers={header: value}).kind is LimitKind.QUOTA
    assert verdict("slow down", status=429, headers={header: "other"}).kind is LimitKind.RATE_LIMIT


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("Rate limit reached for requests", Scope.MODEL),
        ("You've hit your weekly limit · resets Nov 24, 9am (UTC)", Scope.PROVIDER),
        ("Insufficient balance", Scope.PROVIDER),
        ("Free usage exceeded, subscribe to Go", Scope.FREE_TIER),
        ("Rate limit exceeded: free-models-per-day", Scope.FREE_TIER),
    ],
)
def test_what_rests_follows_from_the_words(text, scope):
    assert verdict(text).scope is scope


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400), st.one_of(st.none(), st.integers(100, 599)))
@example('{"error":' * 3000, None)
@example("[" * 50_000, 429)
@example('{"a":"' + "\\" * 9999, None)
def test_no_text_raises(text, status):
    facts = details_from_text(text, status)
    assert isinstance(RULES.classify(facts).certainty, Certainty)


BITS = [
    "a", '"', "'", "`", "{", '{"error":', "\\", "1", "1s ", "429 ", "rate limit ", "exceeded ", "limit reached ",
    "Error: ", "请求 ", "<a", " at a (/", "https://a ", "a/", "a.ts ", "(", "add a ", "quota ", "too ", "over ", "no ",
    "(a", "~", "=>", "\n", "　",
]  # fmt: skip


@pytest.mark.parametrize("bit", BITS)
def test_no_repetition_makes_it_run_long(bit):
    for text in (bit * 20_000, (bit + "limit ") * 3000, (bit + "x1 ") * 3000):
        started = time.process_time()
        RULES.classify(details_from_text(text))
        assert time.process_time() - started < 1.0


def test_a_known_text_costs_almost_nothing_the_second_time():
    facts = [details_from_text(text) for text in TEXTS[:200]]
    for fact in facts:
        RULES.classify(fact)
    started = time.process_time()
    for fact in facts:
        RULES.classify(fact)
    assert time.process_time() - started < 0.1
