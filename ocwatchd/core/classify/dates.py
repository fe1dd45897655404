"""Find dates and times in texts: ISO dates, `resets 3pm (Europe/Berlin)`, `24 de nov. de 2026, 9:00`, `明日 00:00`.

The module is long because the pattern of each date form is next to the function that reads it, and all forms are tried
in a fixed order. Its functions are pure.

The result of a date without a time zone, or of a word like "tomorrow", is marked as estimated. Texts are read in the
folded form of `normalize.fold`. The vocabulary of each language is in `calendar_words`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import islice

from ocwatchd.core.classify.calendar_words import (
    AFTER_NOON,
    ALSO_WORDS,
    BEFORE_NOON,
    BEIJING,
    DAYS,
    EVENING,
    FIXED,
    MONTHS,
    MORNING,
    PLACES,
    RESETS,
    SHORT_ZONES,
    TOKYO_SEOUL,
    WEEKDAYS,
)
from ocwatchd.core.text.normalize import fold
from ocwatchd.core.text.safe_regex import LateExpression, late

MATCHES = 8
"""Maximum number of dates of one form that are read. A message contains one or two dates, but a hostile message may
contain thousands.
"""

_NEAR = 34
"""Maximum distance, in characters, between a time of day and the word that names its day, such as "tomorrow"."""

_LEAD_LENGTH = 16
"""Maximum number of characters between a time of day and the date or word after it: ` Uhr morgen`, ` (CET) on `."""

_WEEK = {"mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6}
_DASHES = str.maketrans("−–—", "---")
_BUDDHIST = 543
"""Number of years by which the Thai calendar is ahead of the Gregorian calendar."""


def _any_of(words: Iterable[str]) -> str:
    """Return an expression that matches one of the words, trying the longest first."""
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_WORD = re.compile(r"[^\W\d_][^\s\d.,:;/()\[\]|'\"·-]*")
"""A word. In Thai and Hindi, its first letter may be followed by a vowel sign, which `re` does not count as
a letter.
"""

_CLOCKLIKE = re.compile(r"\d\s?[:.hu时点시]")
_EDGE_BEFORE, _EDGE_AFTER = r"(?<![a-zа-яіїє\d])", r"(?![a-zа-яіїє\d])"

# A time of day with the words that introduce it: `at 9:30 am`, `um 9 Uhr`, `a las 7:00 p. m.`, `15h30`, and in Chinese
# and Korean `下午3点` and `오전 9시`.
_LEAD = (
    r"(?:at|@|um|gegen|ab|bis|a las|a la|as|a partir d[aeo]s?(?: las)?|partir de|vers|avant|des|desde las|hasta las"
    r"|ate as|depois das|a|alle ore|alle|dalle|dopo le|ore|o godz\.?|o godzinie|od|po|o|om|vanaf|na|kl\.?|klo|saat"
    r"|pukul|jam|luc|vao luc|vao|v|ve|jusqu'a|fino alle|do|tot"
    r"|tills?|sampai|hingga|после|до|в|о|об|к|с|після|від|の|的|에|เวลา|الساعة|को)"
)
_EXACT_LEAD = frozenset(
    {"at", "um", "a las", "a la", "as", "alle", "alle ore", "ore", "o godz", "o godz.", "o godzinie", "om", "kl", "kl.",
     "klo", "saat", "pukul", "jam", "luc", "в", "о", "ab", "bis", "jusqu'a", "hasta las", "ate as", "fino alle", "do",
     "tot", "до"}
)  # fmt: skip
"""Words after which a number on its own is an hour. After any of them, `h` and `.` may also separate hours from
minutes.
"""

_TIME = (
    rf"(?:(?P<lead>{_LEAD})(?:\s{{1,2}}|(?=\d)))?(?:(?P<early>{BEFORE_NOON})|(?P<late>{AFTER_NOON}))?\s?"
    r"(?<!\d,)(?<![\d:./-])(?P<hour>2[0-4]|[01]?\d)(?!\d)"
    r"(?::(?P<minute>[0-5]\d)(?!\d)(?::(?P<second>[0-5]\d)(?:\.\d{1,9})?(?!\d))?"
    r"|\s?(?P<sign>[时点시](?!间))(?:(?P<half>半)|\s?(?P<minute_cjk>[0-5]?\d)\s?[分분])?"
    r"(?:\s?(?P<second_cjk>[0-5]?\d)\s?[秒초])?"
    r"|\s?h\s?(?P<minute_h>[0-5]\d)?(?![a-z\d])|\.(?P<minute_dot>[0-5]\d)(?![\d.]))?"
    r"(?:\s?(?P<unit>uhr|uur|hs|heures?|horas|часов|часа)(?![a-zа-я]))?"
    rf"(?:\s{{0,2}}(?:(?P<morning>{MORNING})|(?P<evening>{EVENING}))(?![a-zа-я]))?"
)
_TIME_AT = late(r"(?:t(?=\d)|\s?[,、]?\s{0,2}(?:[(（]?[^\W\d_]{1,14}\.?[)）]?,?\s)??(?:的|の)?\s?)" + _TIME)
_TIME_IN = late(_TIME)
_ZONE_AT = late(
    r"\s{0,2}[(\[]?\s?(?P<zone>z\b|(?:utc|gmt)\s?[+-]\s?\d{1,2}(?::?\d\d)?|[+-]\d\d:?\d\d(?!\d)"
    r"|[a-z][a-z_]{2,20}(?:/[a-z0-9_+-]{1,30}){1,2}"
    rf"|(?:{_any_of(FIXED)}|{_any_of(PLACES)}){_EDGE_AFTER})"
)
_ZONE_IN = late(
    r"(?<![a-z])(?:utc|gmt)\s?[+-]\s?\d{1,2}(?::?\d\d)?(?!\d)"
    r"|(?<=\()[a-z][a-z_]{2,20}(?:/[a-z0-9_+-]{1,30}){1,2}(?=\))"
    rf"|{_EDGE_BEFORE}(?:{_any_of((FIXED.keys() | PLACES.keys()) - SHORT_ZONES - {'z'})}){_EDGE_AFTER}"
)
_YEAR_AT = late(
    r"(?:[./-]|,?\s{0,2}(?:de |del |d'|nam )?)(?P<year>20\d\d|25[67]\d)(?![\d:])"
    r"(?:\s?(?:г\.?|года|р\.|року|r\.|roku|yili)(?![^\W\d_]))?"
)

# Date forms differ only at the beginning; the year, the time and the zone that follow have the same form everywhere.
_YEAR_FIRST = LateExpression(
    r"(?<!\d)(?P<year>20\d\d)\s?[-/.年년]\s?(?P<month>\d{1,2})\s?[-/.月월]\s?(?P<day>\d{1,2})(?!\d)\s?[日일]?", "20"
)
_DAY_FIRST = late(
    r"(?<![\d.,:/-])(?P<day>\d{1,2})(?:st|nd|rd|th|er|o|a|\.)?[ -]{0,2}(?P<of>de |of |d')?"
    r"(?P<name>[^\W\d_][^\s\d.,:;/()'-]{1,13})(?P<stop>\.?)"
)
_MONTH_FIRST = late(r"(?<![^\W_])(?P<name>[^\W\d_]{3,14})(?P<stop>\.?)\s(?P<day>\d{1,2})(?:st|nd|rd|th)?(?![\d:])")
_MONTH_DAY = LateExpression(r"(?<!\d)(?P<month>\d{1,2})\s?[月월]\s?(?P<day>\d{1,2})\s?[日号일]", "月", "월")
_THANG = LateExpression(r"(?<!\d)(?P<day>\d{1,2})\s?thang\s?(?P<month>\d{1,2})(?!\d)", "thang")
_NUMERIC = late(
    r"(?<![\d.,:/-])(?P<first>\d{1,2})(?P<by>[./-])(?P<second>\d{1,2})(?P=by)(?P<year>20\d\d|25[67]\d)(?!\d)"
)
_NUMERIC_SHORT = late(r"(?<![\d.,:/-])(?P<day>\d{1,2})\.(?P<month>\d{1,2})\.(?=\s?,?\s(?:um|kl|klo|v|в|o|om|ab|\d))")
_MAY = late(r"\s(?:be|not|have|also|only|take|need|still|then|re)")

_CUES = (
    "resets?|resetting|again|until|till|available|back|renews?|refresh(?:es|ed)?|resumes?|after|restored|regain|allowed"
    "|lifted|expires?"
)
_CUE = rf"\b(?:{_CUES})\b"
_CUE_NEEDS = (
    "reset", "again", "until", "till", "available", "back", "renew", "refresh", "resume", "after", "restored", "regain",
    "allowed", "lifted", "expire",
)  # fmt: skip
_CUED_TIME = LateExpression(rf"{_CUE}[^.!?;\n\d]{{0,25}}?{_TIME}", *_CUE_NEEDS)
_WEEKDAY = LateExpression(
    rf"\b(?:{_CUES}|next|on)\b[^.!?;\n\d]{{0,12}}?\b(?P<weekday>mon|tue|wed|thu|fri|sat|sun)"
    r"(?:day|sday|nesday|rsday|urday)?\b",
    *_WEEK,
)
_FOREIGN_WEEKDAY = late(rf"(?<![^\W_])(?:下|每)?(?P<weekday>{_any_of(WEEKDAYS)})(?!次|个|均|[a-zа-яіїє])")
_DAY_WORD = late(
    rf"(?<![a-zа-яіїє])(?<!la )(?<!guten )(?P<word>{_any_of(DAYS)})(?![a-zа-яіїє])(?! (?:mattina|matin)\b)"
)
_MIDNIGHT = LateExpression(
    r"(?<![\dt:])(?:\bmidnight|\b0?0:00(?::00)?(?![\d:])|\bmitternacht|\bminuit|\bmedianoche|\bmeia-noite|\bmezzanotte"
    r"|\bpolnoc|\bpulnoc|\bmiddernacht|\bmidnatt|\bgece yarisi|\btengah malam|\bnua dem|полноч|північ"
    r"|零点|零时|午夜|자정|真夜中)",
    "midnight", "0:00", "mitternacht", "minuit", "noche", "noite", "mezzanotte", "lnoc", "middernacht", "midnatt",
    "gece", "malam", "dem", "полноч", "північ", "零", "午夜", "자정", "真夜中",
)  # fmt: skip
_NOON = LateExpression(rf"(?:{_CUE}[^.!?;\n\d]{{0,25}}?\bnoon|正午|정오)", "noon", "正午", "정오")
_RESETS = late(RESETS)
_BREAK = re.compile(r"[.!?;\n\d]")
"""Characters that separate a time from an unrelated word."""

_LONG_NUMBER = re.compile(r"1\d{9}")
_EPOCH = late(
    r"(?:\||\b(?:resets?|until|reset_at|resets_at|after|at|on|(?:reset)?time)\b\W{0,4})(?P<epoch>1\d{9}(?:\d{3})?)(?!\d)"
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_BEIJING_WORDS = late(r"your limit will reset at|limit exhausted|usage limit reached for \d")
_HOURS = late(r"\b(\d{1,2})[- ]?(?:hours?|h)\b|(\d{1,2})\s?小时")
_AMERICAN = late(r"\b(?:your|you|the|will|limit|usage|reset|until|again)\b")

Clock = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time found in a text (epoch seconds), and information about how it was read."""

    until: float
    source: str
    estimated: bool


@dataclass(frozen=True, slots=True)
class _Date:
    """A date in a text: its year (None if missing), and the positions at which it begins and ends."""

    year: int | None
    month: int
    day: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Time:
    """A time of day in a text: hour, minute and second, the time zone next to it, and the positions at which it begins
    and ends.
    """

    clock: Clock
    zone: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _FoldedText:
    """A text in folded form, together with its words."""

    text: str
    words: frozenset[str]

    def may_name(self, words: frozenset[str]) -> bool:
        """Return whether the text may contain one of these words. A text in a script without spaces is not split into
        words, so the result for such a text is always True.
        """
        return not self.words.isdisjoint(words) or not self.text.isascii()


def zone_of(name: str) -> tzinfo | None:
    """Return the time zone for a name, an abbreviation or an offset, or None if it is unknown. Never raises."""
    name = name.strip().strip("()").strip().lower()
    offset = re.fullmatch(r"(?:utc|gmt)?\s?([+-])\s?(\d{1,2}):?(\d\d)?", name)
    if offset and offset[2]:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return timezone(timedelta(minutes=min(minutes, 1439) * (-1 if offset[1] == "-" else 1)))
    fixed = FIXED.get(name)
    return fixed if fixed is not None else _iana(PLACES.get(name, name))


def _iana(name: str) -> tzinfo | None:
    """Return the IANA time zone with this name, in upper or lower case, or None: `europe/berlin`,
    `America/Argentina/Buenos_Aires`.
    """
    from zoneinfo import ZoneInfo  # lazy import: zoneinfo takes 1.2 MiB in an idle daemon, and few texts contain a zone

    proper = "/".join("_".join(piece[:1].upper() + piece[1:] for piece in part.split("_")) for part in name.split("/"))
    for candidate in (name, proper, proper.replace("_Of_", "_of_").replace("_Es_", "_es_")):
        try:
            return ZoneInfo(candidate)
        except (KeyError, ValueError, OSError):
            continue
    return None


def moments(text: str, now: float, local: tzinfo = UTC) -> Iterator[Moment]:
    """Yield the points in time that a text names, most precise first. `local` is the time zone for dates that do not
    name one. Never raises.
    """
    try:
        here = datetime.fromtimestamp(now, UTC)
    except (ValueError, OverflowError, OSError):
        return
    text = fold(text)
    text = text if text.isascii() else text.translate(_DASHES)
    said = _FoldedText(text, frozenset(_WORD.findall(text)))
    dated = False
    for reader in (_epochs, _dates, _weekdays, _named_days, _times, _words):
        try:
            for moment in reader(said, here, local):
                dated = True
                yield moment
        except (ValueError, OverflowError, OSError):
            # not a calendar date (for example, 31 February or a date in the year 0): texts may contain arbitrary
            # numbers
            continue
        if dated:
            return  # a time of day next to a date was already read as part of that date


def _epochs(said: _FoldedText, _here: datetime, _local: tzinfo) -> Iterator[Moment]:
    matches = islice(_EPOCH().finditer(said.text), MATCHES) if _LONG_NUMBER.search(said.text) else ()
    for match in matches:
        value = float(match["epoch"])
        yield Moment(value / 1000 if value > 1e11 else value, "epoch", estimated=False)


# ---- dates


def _dates(said: _FoldedText, here: datetime, local: tzinfo) -> Iterator[Moment]:
    for date in _dates_in(said, here):
        moment = _moment(said.text, here, local, date)
        if moment:
            yield moment


def _dates_in(said: _FoldedText, here: datetime) -> Iterator[_Date]:
    text = said.text
    for match in islice(_YEAR_FIRST.finditer(text), MATCHES):
        yield _Date(int(match["year"]), int(match["month"]), int(match["day"]), match.start(), match.end())
    if not said.words.isdisjoint(MONTHS):
        for pattern in (_DAY_FIRST(), _MONTH_FIRST()):
            yield from _named_months(pattern, text)
    for numbered in (_MONTH_DAY, _THANG):
        for match in islice(numbered.finditer(text), MATCHES):
            yield _with_year(text, int(match["month"]), int(match["day"]), match)
    if "20" in text or "25" in text:
        for match in islice(_NUMERIC().finditer(text), MATCHES):
            month, day = _numeric(match, text, here)
            yield _Date(_gregorian(match["year"]), month, day, match.start(), match.end())
    if "." in text:
        for match in islice(_NUMERIC_SHORT().finditer(text), MATCHES):
            yield _Date(None, int(match["month"]), int(match["day"]), match.start(), match.end())


def _named_months(pattern: re.Pattern[str], text: str) -> Iterator[_Date]:
    at = found = 0
    for _ in range(MATCHES * 4):
        match = pattern.search(text, at)
        if not match:
            return
        at = match.start("day") + 1 if pattern is _DAY_FIRST() else match.start("day")
        name, marked = match["name"], bool(match["stop"] or match.groupdict().get("of"))
        month = MONTHS.get(name)
        if month is None or (name in ALSO_WORDS and not marked) or (name == "may" and _MAY().match(text, match.end())):
            continue
        found += 1
        yield _with_year(text, month, int(match["day"]), match)
        if found == MATCHES:
            return


def _with_year(text: str, month: int, day: int, match: re.Match[str]) -> _Date:
    year = _YEAR_AT().match(text, match.end())
    return _Date(_gregorian(year["year"]) if year else None, month, day, match.start(), (year or match).end())


def _gregorian(year: str) -> int:
    value = int(year)
    return value - _BUDDHIST if value >= 2500 else value


def _numeric(match: re.Match[str], text: str, here: datetime) -> tuple[int, int]:
    """Return the month and day of a numeric date such as `23.11.2026` or `11/24/2026`. A number above 12 is the day.
    Otherwise, the month comes first in American English and the day in other texts, unless only the opposite order
    gives a date in the future.
    """
    first, second, year = int(match["first"]), int(match["second"]), _gregorian(match["year"])
    if first > 12 or second > 12:
        return (second, first) if first > 12 else (first, second)
    american = match["by"] == "/" and text.isascii() and _AMERICAN().search(text) is not None
    month, day = (first, second) if american else (second, first)
    likely = datetime(year, month, day, tzinfo=UTC) >= here - timedelta(days=1)
    return (month, day) if likely or datetime(year, day, month, tzinfo=UTC) < here else (day, month)


def _moment(text: str, here: datetime, local: tzinfo, date: _Date) -> Moment | None:
    if not 1 <= date.month <= 12:
        return None
    time = _time(_TIME_AT().match(text, date.end), text) or _time_before(text, date.start)
    clock = time.clock if time else (0, 0, 0)
    zone = (time.zone if time else None) or _zone_at(text, date.end)
    naive = datetime(date.year or here.year, date.month, date.day)
    naive += timedelta(hours=clock[0], minutes=clock[1], seconds=clock[2])
    if date.year is None and naive.replace(tzinfo=UTC) < here - timedelta(days=1):
        naive = naive.replace(year=naive.year + 1)
    return _placed(naive, zone, text, here, local, dated=time is not None)


def _placed(naive: datetime, zone: str | None, text: str, here: datetime, local: tzinfo, *, dated: bool) -> Moment:
    known = _known(zone, text) if zone else None
    if known is None:
        in_text = _ZONE_IN().search(text)
        zone = in_text.group() if in_text else None
        known = _known(zone, text) if zone else None
    if known is not None:
        return Moment(naive.replace(tzinfo=known).timestamp(), f"date {zone}", estimated=not dated)
    return _guessed(naive, text, here, local, dated=dated)


def _known(zone: str, text: str) -> tzinfo | None:
    """Return the time zone with this name, or None. `CST` means China Standard Time if Chinese words or `+0800` occur
    in the text; otherwise, it means Chicago's time.
    """
    return BEIJING if zone == "cst" and (_CHINESE.search(text) or "+0800" in text) else zone_of(zone)


def _guessed(naive: datetime, text: str, here: datetime, local: tzinfo, *, dated: bool) -> Moment:
    """Return the time that a date without a time zone denotes.

    Times in Chinese texts and in Z.ai's messages are read as Beijing time, dates with a time in Japanese and Korean
    texts as Tokyo and Seoul time, and all others as `local`. If the result is impossible, the next zone is tried. Z.ai
    uses Beijing time: it wrote "Usage limit reached for 5 hour … will reset at 22:14:08" at 09:48 UTC. That is 4.5
    hours ahead in Beijing time, but would be 12 hours ahead in UTC.
    """
    home = _home(text)
    zones = [BEIJING, local] if home is BEIJING or _BEIJING_WORDS().search(text) else [local, BEIJING]
    if home is TOKYO_SEOUL and dated:
        zones = [TOKYO_SEOUL, local]
    hours = _HOURS().search(text)
    longest = (float(hours[1] or hours[2]) * 3600 + 120) if hours else 32 * 86400.0
    values = [naive.replace(tzinfo=zone).timestamp() for zone in zones]
    fits = [value for value in values if -5 <= value - here.timestamp() <= longest]
    return Moment((fits or values)[0], "date without a zone", estimated=True)


def _home(text: str) -> tzinfo | None:
    """Return the usual time zone of a text that contains no zone, or None. Chinese, Japanese and Korean services use
    their own country's time.
    """
    if text.isascii():
        return None
    if _KANA_HANGUL.search(text):
        return TOKYO_SEOUL
    return BEIJING if _CHINESE.search(text) else None


# ---- times of day


def _time(match: re.Match[str] | None, text: str) -> _Time | None:
    """Return the time of a match, or None if the match is only a number or is impossible on a twelve-hour clock."""
    if not match:
        return None
    lead, hour = match["lead"], int(match["hour"])
    minute = match["minute"] or match["minute_cjk"] or match["minute_h"] or match["minute_dot"] or 0
    minute = 30 if match["half"] else int(minute)
    after, before = match["evening"] or match["late"], match["morning"] or match["early"]
    by_dot = match["minute_dot"] is not None
    # a number that has only an hour word, such as "5 horas", is a duration
    unit = match["unit"] if lead or match["unit"] in ("uhr", "uur") else None
    clear = match["minute"] or match["sign"] or unit or after or before
    if by_dot:
        clear = unit or lead in _EXACT_LEAD - {"at"}
    elif not clear:
        by_h = text[match.end("hour") : match.end()].lstrip()[:1] == "h"
        clear = lead in _EXACT_LEAD or (by_h and lead is not None)
    if not clear:
        return None
    if (match["morning"] or match["evening"]) and not 1 <= hour <= 12 and (match["morning"] or after)[:1] in "ap":
        return None  # such times do not exist on a twelve-hour clock: `17 pm`, `0 am`
    if (after or before) and hour <= 12:
        hour = hour % 12 + (12 if after else 0)
    clock = (hour, minute, int(match["second"] or match["second_cjk"] or 0))
    return _Time(clock, _zone_at(text, match.end()), match.start(), match.end())


def _time_before(text: str, at: int) -> _Time | None:
    """Return the time of day before a date or a word: `10:00 on Nov 24`, `9:00 demain`."""
    matches = islice(_TIME_IN().finditer(text, max(0, at - _NEAR), at), 4)
    times = [time for match in matches if (time := _time(match, text))]
    near = times and at - times[-1].end <= _LEAD_LENGTH and not _BREAK.search(text, times[-1].end, at)
    return times[-1] if near else None


def _zone_at(text: str, at: int) -> str | None:
    match = _ZONE_AT().match(text, at)
    if not match:
        return None
    zone = match["zone"].strip()
    if zone in SHORT_ZONES and text[match.end() :].lstrip()[:1].isalpha():
        return None  # here, "ist" is a word and not a time zone: "um 15:00 ist das Limit …"
    return zone


def _zone_in(text: str, time: _Time | None, local: tzinfo) -> tuple[tzinfo, bool]:
    """Return the zone of a time of day, and whether the text names that zone. If it does not, return the usual zone of
    the text's language, or `local`.
    """
    zone = _known(time.zone, text) if time and time.zone else None
    if zone is None:
        in_text = _ZONE_IN().search(text)
        zone = _known(in_text.group(), text) if in_text else None
    return (zone, True) if zone is not None else (_home(text) or local, False)


def _times(said: _FoldedText, here: datetime, local: tzinfo) -> Iterator[Moment]:
    text = said.text
    found = [time for match in islice(_CUED_TIME.finditer(text), MATCHES) if (time := _time(match, text))]
    if not found and _CLOCKLIKE.search(text):
        times = [(match, _time(match, text)) for match in islice(_TIME_IN().finditer(text), MATCHES * 2)]
        named = _RESETS().search(text) is not None
        found = [time for match, time in times if time and (named or (match["lead"] in _EXACT_LEAD and time.zone))]
    found += [
        _Time(clock, _zone_at(text, match.end()), match.start(), match.end())
        for pattern, clock in ((_MIDNIGHT, (0, 0, 0)), (_NOON, (12, 0, 0)))
        for match in islice(pattern.finditer(text), MATCHES)
    ]
    for time in found:
        zone, explicit = _zone_in(text, time, local)
        yield _next(here, zone, time.clock, estimated=not explicit)


def _next(here: datetime, zone: tzinfo, clock: Clock, *, estimated: bool, weekday: int | None = None) -> Moment:
    """Return the next time at which clocks in the zone show `clock`, on `weekday` (0 is Monday) if it is given."""
    there = here.astimezone(zone)
    day = datetime(there.year, there.month, there.day)
    for ahead in range(9):
        wall = day + timedelta(days=ahead, hours=clock[0], minutes=clock[1], seconds=clock[2])
        moment = wall.replace(tzinfo=zone)
        if moment.timestamp() > here.timestamp() and weekday in (None, (day + timedelta(days=ahead)).weekday()):
            return Moment(moment.timestamp(), "time of day" if weekday is None else "weekday", estimated)
    raise ValueError("no such day")


def _beside(text: str, start: int, end: int) -> _Time | None:
    """Return the time of day that belongs to a word such as "tomorrow". The time is in the same sentence, either after
    or before the word.
    """
    for match in islice(_TIME_IN().finditer(text, end, end + _NEAR), 3):
        time = _time(match, text)
        if time and not _BREAK.search(text, end, time.start):
            return time
    return _time_before(text, start)


def _weekdays(said: _FoldedText, here: datetime, local: tzinfo) -> Iterator[Moment]:
    text = said.text
    found = [(match, _WEEK[match["weekday"]]) for match in islice(_WEEKDAY.finditer(text), MATCHES)]
    if not found and said.may_name(_WEEKDAY_STARTS):
        matches = islice(_FOREIGN_WEEKDAY().finditer(text), MATCHES)
        found = [(match, WEEKDAYS[match["weekday"]] - 1) for match in matches]
    for match, weekday in found:
        time = _beside(text, match.start(), match.end())
        zone, explicit = _zone_in(text, time, local)
        clock = time.clock if time else (0, 0, 0)
        yield _next(here, zone, clock, estimated=not explicit or time is None, weekday=weekday)


def _named_days(said: _FoldedText, here: datetime, local: tzinfo) -> Iterator[Moment]:
    """Yield each time that is given as today, tomorrow or the day after tomorrow with a time of day: `明日 00:00
    (UTC+8)`, `morgen um 9 Uhr`.
    """
    text = said.text
    if not said.may_name(_DAY_STARTS):
        return
    for match in islice(_DAY_WORD().finditer(text), MATCHES):
        time = _beside(text, match.start(), match.end())
        midnight = None if time else next(_MIDNIGHT.finditer(text[match.end() : match.end() + _NEAR]), None)
        if not time and not midnight:
            continue
        clock = time.clock if time else (0, 0, 0)
        zone, explicit = _zone_in(text, time, local)
        there = here.astimezone(zone)
        day = datetime(there.year, there.month, there.day) + timedelta(days=DAYS[match["word"]])
        until = (day + timedelta(hours=clock[0], minutes=clock[1], seconds=clock[2])).replace(tzinfo=zone).timestamp()
        if until > here.timestamp():  # "today's limit is used up, resets at midnight" refers to the next midnight
            yield Moment(until, match["word"], estimated=not explicit)


_WORDS = (
    (
        late(
            rf"(?<![a-zа-яіїє])(?<!la )(?:{_any_of(word for word, ahead in DAYS.items() if ahead == 1)})(?![a-zа-яіїє])"
        ),
        "day",
    ),
    (
        late(rf"(?<![a-zа-яіїє])(?:{_any_of(word for word, ahead in DAYS.items() if ahead == 2)})(?![a-zа-яіїє])"),
        "second day",
    ),
    (late(r"(?:每天|每日|毎日|次日)?(?:凌晨|零点|(?<!\d)0点|(?<!\d)0时)"), "day"),
    (
        late(
            r"\bnext week\b|下周(?!\w)|来周|다음 ?주(?!\w)|\bnachste woche\b|\bsemaine prochaine\b|\bproxima semana\b"
            r"|\bsemana que v(?:iene|em)\b|\b(?:prossima settimana|settimana prossima)\b|следующей неделе"
            r"|\bprzyszlym tygodniu\b|\bvolgende week\b|\bgelecek hafta\b|\bminggu depan\b|\btuan (?:toi|sau)\b"
            r"|\bnasta vecka\b|\bneste uke\b|\bnaeste uge\b"
        ),
        "week",
    ),
    (
        late(
            r"\bnext (?:calendar )?month\b"
            r"|\b(?:first|1st|start|beginning) (?:day )?of (?:the |each |every |next )?(?:next )?month\b"
            r"|\bend of (?:the |this )?month\b|下个?月|次月|月初|来月|다음 ?달"
            r"|\bnachsten monat|\bmois prochain\b|\bproximo mes\b|\bmes que v(?:iene|em)\b"
            r"|\b(?:prossimo mese|mese prossimo)\b|следующ(?:ем|его) месяц|наступного місяця|\bprzyszlym miesiacu\b"
            r"|\bvolgende maand\b|\bgelecek ay\b|\bbulan depan\b|\bthang (?:toi|sau)\b"
            r"|\bnasta manad\b|\bneste maned\b|\bnaeste maned\b"
        ),
        "month",
    ),
)


_DAY_STARTS = frozenset(words for word in DAYS for words in _WORD.findall(word))
_WEEKDAY_STARTS = frozenset(words for word in WEEKDAYS for words in _WORD.findall(word))
_WORD_STARTS = _DAY_STARTS | frozenset(
    "next week month woche semaine semana settimana tygodniu hafta minggu tuan vecka uke uge monat monats prochain mes"
    " mese first 1st start beginning end miesiacu maand ay bulan thang manad maned".split()
)  # fmt: skip
"""The words in the expressions of `_WORDS`. A text without any of them cannot match, and searching for words is cheaper
than matching the expressions.
"""


def _words(said: _FoldedText, here: datetime, local: tzinfo) -> Iterator[Moment]:
    if not said.may_name(_WORD_STARTS):
        return
    zone = BEIJING if _home(said.text) is BEIJING else local
    for pattern, step in _WORDS:
        match = pattern().search(said.text)
        if match:
            yield Moment(_start_of_next(step, here.astimezone(zone)), match.group()[:20], estimated=True)


def _start_of_next(step: str, there: datetime) -> float:
    midnight = there.replace(hour=0, minute=0, second=0, microsecond=0)
    if step == "month":
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
    ahead = {"day": 1, "second day": 2}.get(step, 7 - there.weekday())
    return (midnight + timedelta(days=ahead)).timestamp()
