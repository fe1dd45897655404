"""Private words that the terms of docs/glossary.md replaced must not return to prose, messages or documentation.

The test reads docstrings, comments and texts of the Python and JavaScript sources, and the Markdown files. Code itself,
quoted names (`doors`), log records and provider messages may contain any word.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PRIVATE = {
    "door": r"\bdoors?\b",
    "ears": r"\bears?\b|\bhears?\b|\bheard\b|\bunheard\b",
    "deaf": r"\bdeaf\b",
    "dear": r"\bdear(?:er|est)?\b",
    "purse": r"\bpurses?\b",
    "gauge": r"\bgauges?\b",
    "ground": r"\bground\b",
    "sentinel": r"\bsentinels?\b",
    "last life": r"\blastlife\b|\b(?:daemon's|last|long|former|earlier|previous|first|its|a|ten) (?:life|lives)\b",
    "hands": r"\b(?:daemon's|launcher's|the|its|our) (?:hands|arms)\b",
    "told": r"\btold\b|\btells?\b|\btelling\b|\btellings\b",
    "stand-in": r"\bstand[- ]?ins?\b(?! for)|\bstands? in for\b|\bstanding in for\b",
    "register": r"\b(?:the|a|public|whole|no|empty) register\b",
    "ledger": r"\bledgers?\b",
    "rest": r"\b(?:models?|it|that|which|provider|entry|who|and) rests?\b|\bconfigured rest\b|\b(?:to|at) rest\b",
    "look": r"\b(?:a|an|the|one|another|each|every|first|next|last|fresh|whole|two|between|further|of) looks?\b",
    "survey": r"\bsurveys?\b",
    "view": r"\b(?:the|its|a|session's|whose) views?\b|\bin view\b",
    "give back": r"\bg(?:ive|ives|iven|ave|iving) back\b",
    "come back": r"\bc(?:ome|omes|ame|oming) back\b",
    "somebody": r"\b(?:some|no|every|any)body\b",
    "aside": r"\bstands? aside\b",
    "eye": r"\banother eye\b|\bopen eyes\b|\beyes shut\b",
}
"""An expression for the private meaning of each word that the glossary replaced; case is ignored."""

ALLOWED = {
    r"\bground truth\b|\bbackground\b": "ordinary words",
    r"\bgauges? over\b|\bare gauges\b|\bPrometheus metrics are gauges\b": "the metric type of Prometheus",
    r"\bdoor\.js\b|\bdoing door endpoint\b": "a file of the plugin, and a key of its old files that is safe",
    r"\btell\}:|\bmove\.tell\(": "a field of the plugin's JavaScript",
    r"\(until, since, told\)": "the names of the returned values",
    r"\bup, deaf or down\b|\bdeaf \(stalled\)": "the value of `state` in the JSON contract",
}
"""Allowed uses, each with its reason."""

SOURCES = sorted(
    path
    for pattern in ("ocwatchd/**/*.py", "ocwatchd/**/*.js", "docs/**/*.md", "*.md")
    for path in ROOT.glob(pattern)
    if path.name != "glossary.md"
)
_ANY = re.compile("|".join(f"(?:{expression})" for expression in PRIVATE.values()), re.IGNORECASE)
_ALLOWED = re.compile("|".join(ALLOWED), re.IGNORECASE)
_CODE = re.compile(r"``.*?``|`[^`\n]*`|\"[^\"\n]{0,200}\"|“[^”]*”|\]\([^)]*\)|https?://\S+", re.DOTALL)
"""Quoted parts of prose: names, options, words of others, links."""


def prose_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the prose of a file with its line numbers."""
    text = path.read_text(encoding="utf-8")
    match path.suffix:
        case ".py":
            yield from _python(text)
        case ".js":
            yield from _javascript(text)
        case _:
            yield from _markdown(text)


def _python(text: str) -> Iterator[tuple[int, str]]:
    tree = ast.parse(text)
    documented = {id(statement.value) for statement in ast.walk(tree) if isinstance(statement, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) in documented:
                yield node.lineno, _without_code(node.value)
            elif " " in node.value.strip() and not re.search(r"[\\|^$]|\(\?|\s{2}", node.value):
                yield node.lineno, _without_code(node.value)  # a message, unless it is an expression or a list of words
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], _without_code(token.string)


def _javascript(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        comment = re.search(r"(?:^|\s)//\s(.*)|^\s*/?\*+\s?(.*)", line)
        if comment:
            yield number, _without_code(comment[1] or comment[2] or "")
        for words in re.findall(r"\"([^\"]* [^\"]*)\"|`([^`]* [^`]*)`", line):
            yield number, re.sub(r"\$\{[^}]*\}", " ", words[0] or words[1])


def _markdown(text: str) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced = fenced != line.startswith("```")
        if not fenced and not line.startswith(("```", "    ")):
            yield number, _without_code(line)


def _without_code(text: str) -> str:
    return _CODE.sub(" … ", text)


def private_words(text: str) -> list[str]:
    """Return the private words in a text, without the allowed uses."""
    return [found.group() for found in _ANY.finditer(_ALLOWED.sub(" … ", text))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_prose_uses_the_words_of_the_glossary(path: Path) -> None:
    found = [(line, words, text.strip()[:100]) for line, text in prose_of(path) if (words := private_words(text))]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "Nothing is told to a model that rests.",
        "Of old news, too, a door may have shown the session.",
        "is the daemon up and hearing … down or deaf",
        "the next target, or another look",
        "words that may only be quoted wait for another eye",
        "what the daemon's hands have done in the last life",
        "the public register of cooldowns",
        "nobody gives the session back: it does not come back",
    ],
)
def test_the_private_language_is_recognised(text: str) -> None:
    assert private_words(text)


@pytest.mark.parametrize(
    "text",
    [
        "The rest of the chain stays in the background.",
        "A user looks at the log; the daemon checks it by hand.",
        "Register a handler and return it; lifetime in seconds.",
        "Prometheus: all are gauges over the window.",
    ],
)
def test_ordinary_english_is_not(text: str) -> None:
    assert not private_words(text)
