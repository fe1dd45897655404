"""Convert a provider's text into a plain form in which words can be compared. Pure functions; every step takes linear
time and has a size limit.

Providers write the same phrase as `rate_limit_error`, `RateLimitError`, `rate-limited` and `Rate limit`, and some use
typographic quotes or full-width punctuation. Rules are written only in the plain form, and this module converts every
text to that form.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

HEAD_CAP = 4096
"""Number of characters read from the start of a text. In a recorded message of 100 kB, the relevant part was at the
start.
"""

TAIL_CAP = 1024
"""Number of characters read from the end of a text. Gateways quote another provider's error, and append their own
sentence and the length of the wait.
"""

_URL = re.compile(r"\bhttps?:/{1,2}[^\s<>\"'`)\]}，。；、）]{1,1024}", re.IGNORECASE)
_STACK = re.compile(r"\s{1,8}at (?:async )?[\w.$<>\[\] ]{1,80}\((?:/|file:|native|node:|[A-Z]:\\)")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_JOINERS = re.compile(r"[\s_\-‐‑\u200b]+")
_GLUED = (
    ("ratelimit", "rate limit"),
    ("toomanyrequests", "too many requests"),
    ("insufficientquota", "insufficient quota"),
    ("quotaexceeded", "quota exceeded"),
)

# Variants of the same letter: accents (which people and providers often omit), traditional Chinese forms, apostrophes.
_TRADITIONAL_PAIRS = (
    "請请過过頻频額额餘余帳账賬账戶户達达數数試试後后於于務务載载負负滿满時时間间總总費费購购買买觸触發发這这個个單单獨独調调萬万號号為为無无並并將将當当"
    "會会應应關关擁拥擠挤續续訪访問问壓压網网處处資资員员級级錯错誤误暫暂內内種种與与從从遠远長长還还們们對对開开佔占們们點点週周歷历您您設设啟启"
    "獲获報报稱称訂订閱阅儲储儘尽複复較较進进運运釋释連连線线終终併并該该麼么據据權权檢检類类條条聯联絡络絕绝優优幾几質质讓让轉转鐘钟鍾钟異异項项統统動动結结繼继體体規规則则記记憶忆"
)
_VARIANTS: dict[int, str] = {
    **{ord(old): new for old, new in zip(_TRADITIONAL_PAIRS[::2], _TRADITIONAL_PAIRS[1::2], strict=True)},
    **{
        code: base
        for code in (*range(0xC0, 0x250), *range(0x1E00, 0x1F00))  # the second range contains the Vietnamese letters
        if (base := unicodedata.normalize("NFKD", chr(code))[0]).isascii() and base.isalpha()
    },
    0x307: "",  # the combining dot that remains when a Turkish capital İ is lowercased
    **{
        ord(letter): base
        for letter, base in {"ø": "o", "ł": "l", "đ": "d", "ı": "i", "æ": "ae", "œ": "oe", "ß": "ss"}.items()
    },
}
_MARKS = str.maketrans({"’": "'", "‘": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"'})

# The text before a quoted part that is the provider's own sentence: `429 "…"`, `403 Forbidden "…"`, `error: "…"`.
_OPENER = re.compile(
    r"(?:^|[\s(\[{,;:=])(?:[45]\d\d(?: [A-Z][A-Za-z]{1,12}){0,3}|error|message|msg|detail|details|reason|response|body"
    r"|description|upstream|provider|returned|raw|said|says|error code|errore|fehler|erreur|错误|原因)\W{0,3}$",
    re.IGNORECASE,
)
_QUOTED = re.compile(
    r'"[^"]{0,2048}"'
    r"|`[^`]{0,512}`"
    r"|(?<![^\s(\[{:=,])'[^']{0,512}'(?![^\s)\]},.;:!?])"
    r"|「[^」]{0,512}」"
)
_WRAPPERS = re.compile(
    r"\b(?:ai|api|call|error|errors|message|msg|http|status|code|response|body|provider|upstream|returned|request|failed|unknown|server"
    r"|from|the|with|stream|\d{1,4})\b|[^\w]+|_",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Words:
    """A text in the plain form, split into the provider's own text (`said`) and quoted text (`quoted`).

    `raw` is the truncated text, and `bare` is that text without links and stack frames.
    """

    raw: str
    bare: str
    said: str
    quoted: str


def clip(text: str) -> str:
    """Return the parts of a text that are read: its head and, if the text is longer than the head, its tail."""
    if len(text) <= HEAD_CAP + TAIL_CAP:
        return text
    return f"{text[:HEAD_CAP]} … {text[-TAIL_CAP:]}"


def fold(text: str) -> str:
    """Return the text with equivalent characters unified: differences in letter case, width, accents, traditional
    Chinese and apostrophes are removed.
    """
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text.translate(_MARKS))
    return text.lower().translate(_VARIANTS)


def plain(text: str) -> str:
    """Return the text in the form in which rules are written: folded, with camel case and joined words split, and with
    single spaces.
    """
    text = _JOINERS.sub(" ", fold(_CAMEL.sub(" ", text))).strip()
    for glued, apart in _GLUED:
        if glued in text:
            text = text.replace(glued, apart)
    return text


def without_links(text: str) -> str:
    """Return the text without links and stack frames, because a link to a page about rate limits is not a limit."""
    if "://" in text or "http:/" in text:
        text = _URL.sub(" ", text)
    if " at " in text:
        frame = _STACK.search(text)
        if frame:
            text = text[: frame.start()]
    return text


def read(text: str) -> Words:
    """Return a message, split into the sender's own text and quoted text, both in plain form. Never raises."""
    raw = clip(text)
    bare = without_links(raw if raw.isascii() else raw.translate(_MARKS))
    said, quoted = _split_quotes(bare)
    return Words(raw=raw, bare=bare, said=plain(said), quoted=plain(quoted))


def _split_quotes(text: str) -> tuple[str, str]:
    if not any(mark in text for mark in "\"'`「"):
        return text, ""
    quoted: list[str] = []

    def cut(match: re.Match[str]) -> str:
        if _OPENER.search(text, max(0, match.start() - 60), match.start()):
            return f" {match.group()[1:-1]} "
        quoted.append(match.group()[1:-1])
        return " "

    said = _QUOTED.sub(cut, text)
    if quoted and not _WRAPPERS.sub("", said):
        return " ; ".join((said, *quoted)), ""  # the whole text is a quotation, so the quotation is the message
    return said, " ; ".join(quoted)
