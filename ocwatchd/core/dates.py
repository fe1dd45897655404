"""Points in time in texts: ISO dates, `resets 3pm (Europe/Berlin)`, `Nov 24, 9am (UTC)`, `tomorrow`. Pure.

A date without a zone, and words like "tomorrow", give an estimate and say so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from itertools import islice

from ocwatchd.core.late import LateExpression
from ocwatchd.core.words import fold

MATCHES = 8
"""Dates of one form that are looked at: a message names one or two, and a hostile one thousands."""

BEIJING = timezone(timedelta(hours=8), "Beijing")
_TOKYO_SEOUL = timezone(timedelta(hours=9), "Tokyo")

MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6}
_NAMED = {
    "pst": "America/Los_Angeles", "pdt": "America/Los_Angeles", "pt": "America/Los_Angeles",
    "pacific": "America/Los_Angeles",
    "mst": "America/Denver", "mdt": "America/Denver", "mt": "America/Denver", "mountain": "America/Denver",
    "cst": "America/Chicago", "cdt": "America/Chicago", "ct": "America/Chicago", "central": "America/Chicago",
    "est": "America/New_York", "edt": "America/New_York", "et": "America/New_York", "eastern": "America/New_York",
    "cet": "Europe/Paris", "cest": "Europe/Paris", "bst": "Europe/London", "ist": "Asia/Kolkata", "jst": "Asia/Tokyo",
    "kst": "Asia/Seoul", "sgt": "Asia/Singapore", "hkt": "Asia/Hong_Kong", "msk": "Europe/Moscow",
    "aest": "Australia/Sydney", "aedt": "Australia/Sydney", "brt": "America/Sao_Paulo",
}  # fmt: skip

_ZONE = (
    r"(?:\s{0,2}\(?\s?(?P<zone>z\b|(?:utc|gmt)\s?[+-]\s?\d{1,2}(?::?\d\d)?|[+-]\d\d:?\d\d|(?:utc|gmt)\b"
    r"|[a-z][a-z_]{2,20}(?:/[a-z0-9_+-]{1,30}){1,2}|北京时间"
    r"|(?:beijing|pacific|eastern|central|mountain)(?: (?:standard |daylight )?time)?"
    r"|[pmce][sd]?t\b|ces?t\b|[bijkm]st\b|msk\b|sgt\b|hkt\b|brt\b|ae[sd]t\b)\)?)?"
)
_CLOCK = (
    r"(?P<hour>2[0-4]|[01]?\d)(?!\d)(?:[:时点](?P<minute>[0-5]\d))?(?:[:分](?P<second>[0-5]\d)(?:\.\d{1,9})?)?秒?"
    r"\s{0,2}(?P<half>[ap]\.?m\b\.?)?"
)
_MONTH = r"(?P<month>jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_DAY = r"(?P<day>\d{1,2})"
_NTH = rf"{_DAY}(?:st|nd|rd|th)?"
_AT = rf"(?:,?\s(?:at )?{_CLOCK})?{_ZONE}"
_DATES = (
    LateExpression(
        rf"(?P<year>20\d\d)[-/.年]\s?(?P<nmonth>\d{{1,2}})[-/.月]\s?{_DAY}日?"
        rf"(?:(?:t|\s{{0,2}},?\s?(?:at |@ )?|\s?的?){_CLOCK})?{_ZONE}",
        "20",
    ),
    LateExpression(rf"\b{_NTH}[ -]{_MONTH}(?:,?[ -](?P<year>20\d\d))?{_AT}", *MONTHS),
    LateExpression(rf"\b{_MONTH}\s{_NTH}(?:,?\s(?P<year>20\d\d))?{_AT}", *MONTHS),
    LateExpression(rf"(?<!\d)(?P<nmonth>\d{{1,2}})月{_DAY}日\s?(?:{_CLOCK})?{_ZONE}", "月"),
)
_CUES = (
    "resets?|resetting|again|until|till|available|back|renews?|refresh(?:es|ed)?|resumes?|after|restored|regain|allowed"
    "|lifted|expires?"
)
_CUE = rf"\b(?:{_CUES})\b"
_CUE_NEEDS = (
    "reset", "again", "until", "till", "available", "back", "renew", "refresh", "resume", "after", "restored", "regain",
    "allowed", "lifted", "expire",
)  # fmt: skip
_TIME = LateExpression(rf"{_CUE}(?:[^.!?;\n\d]{{0,25}}?){_CLOCK}{_ZONE}", *_CUE_NEEDS)
_WEEKDAY = LateExpression(
    rf"\b(?:{_CUES}|next|on)\b[^.!?;\n\d]{{0,12}}?\b(?P<weekday>mon|tue|wed|thu|fri|sat|sun)"
    rf"(?:day|sday|nesday|rsday|urday)?\b{_AT}",
    *_DAYS,
)
_MIDNIGHT = LateExpression(rf"(?<![\dt:])(?:\bmidnight|\b0?0:00(?::00)?(?![\d:])){_ZONE}", "midnight", "0:00")
_NOON = LateExpression(rf"{_CUE}[^.!?;\n\d]{{0,25}}?\bnoon{_ZONE}", "noon")
_HALF_FIRST = LateExpression(
    r"(?P<half>上午|早上|下午|晚上|午前|午後|오전|오후)\s?(?P<hour>1[0-2]|0?\d)\s?(?:[点點时時시]|(?=:\d))"
    r"(?:[\s:]?(?P<minute>[0-5]?\d)[分분]?)?",
    "上午", "早上", "下午", "晚上", "午前", "午後", "오전", "오후",
)  # fmt: skip
_AFTER_NOON = {"下午", "晚上", "午後", "오후"}
_EPOCH = re.compile(
    r"(?:\||\b(?:resets?|until|reset_at|resets_at|after|at|on|(?:reset)?time)\b\W{0,4})(?P<epoch>1\d{9}(?:\d{3})?)(?!\d)",
    re.IGNORECASE,
)
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_KANA_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
_BEIJING_WORDS = re.compile(r"your limit will reset at|limit exhausted|usage limit reached for \d", re.IGNORECASE)
_HOURS = re.compile(r"\b(\d{1,2})[- ]?(?:hours?|h)\b|(\d{1,2})\s?小时", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Moment:
    """A point in time that a text names (epoch seconds), and how it was read."""

    until: float
    source: str
    estimated: bool


def zone_of(name: str) -> tzinfo | None:
    """The zone of a name, an abbreviation or an offset; None if nobody knows it. Never raises."""
    name = name.strip().strip("()").strip().lower()
    offset = re.fullmatch(r"(?:utc|gmt)?\s?([+-])\s?(\d{1,2}):?(\d\d)?", name)
    if offset and offset[2]:
        minutes = int(offset[2]) * 60 + int(offset[3] or 0)
        return timezone(timedelta(minutes=min(minutes, 1439) * (-1 if offset[1] == "-" else 1)))
    if name in {"z", "utc", "gmt"}:
        return UTC
    if name.startswith(("beijing", "北京")):
        return BEIJING
    return _iana(_NAMED.get(name.split()[0] if name else "", name))


def _iana(name: str) -> tzinfo | None:
    """An IANA zone, in whatever case it is written: `europe/berlin`, `America/Argentina/Buenos_Aires`."""
    from zoneinfo import ZoneInfo  # late: 1.2 MiB of an idle daemon, for the few texts that name a zone

    proper = "/".join("_".join(piece[:1].upper() + piece[1:] for piece in part.split("_")) for part in name.split("/"))
    for candidate in (name, proper, proper.replace("_Of_", "_of_").replace("_Es_", "_es_")):
        try:
            return ZoneInfo(candidate)
        except (KeyError, ValueError, OSError):
            continue
    return None


def moments(text: str, now: float, local: tzinfo = UTC) -> Iterator[Moment]:
    """The moments that a text names, most precise first; `local` is the zone of dates without one. Never raises."""
    try:
        here = datetime.fromtimestamp(now, UTC)
    except (ValueError, OverflowError, OSError):
        return
    dated = False
    for reader in (_epochs, _dates, _weekdays, _times, _words):
        try:
            for moment in reader(text, here, local):
                dated = True
                yield moment
        except (ValueError, OverflowError, OSError):
            continue  # the 31st of February, the year 0: strangers write anything
        if dated:
            return  # a time of day beside a date is that date's


def _epochs(text: str, _here: datetime, _local: tzinfo) -> Iterator[Moment]:
    for match in islice(_EPOCH.finditer(text), MATCHES):
        value = float(match["epoch"])
        yield Moment(value / 1000 if value > 1e11 else value, "epoch", estimated=False)


def _dates(text: str, here: datetime, local: tzinfo) -> Iterator[Moment]:
    for pattern in _DATES:
        for match in islice(pattern.finditer(text), MATCHES):
            moment = _date(match, text, here, local)
            if moment:
                yield moment


def _date(match: re.Match[str], text: str, here: datetime, local: tzinfo) -> Moment | None:
    groups = match.groupdict()
    month = int(groups["nmonth"]) if groups.get("nmonth") else MONTHS[groups["month"].lower()]
    clock = _clock(groups)
    bare_hour = groups["hour"] is not None and groups["minute"] is None and groups["half"] is None
    if not 1 <= month <= 12 or (bare_hour and groups.get("nmonth")) or clock is None:
        clock = (0, 0, 0)
    if not 1 <= month <= 12:
        return None
    year = int(groups["year"]) if groups.get("year") else here.year
    naive = datetime(year, month, int(groups["day"])) + timedelta(hours=clock[0], minutes=clock[1], seconds=clock[2])
    if not groups.get("year") and naive.replace(tzinfo=UTC) < here - timedelta(days=1):
        naive = naive.replace(year=year + 1)
    return _placed(naive, groups["zone"], text, here, local, dated=groups["hour"] is not None)


def _clock(groups: dict[str, str | None]) -> tuple[int, int, int] | None:
    """Hour, minute, second of a match; None if there is no hour or it is none of a twelve-hour clock."""
    if groups["hour"] is None:
        return None
    hour, half = int(groups["hour"]), (groups["half"] or "").lower()[:1]
    if half:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if half == "p" else 0)
    return hour, int(groups["minute"] or 0), int(groups["second"] or 0)


def _placed(
    naive: datetime, zone: str | None, text: str, here: datetime, local: tzinfo, *, dated: bool = True
) -> Moment | None:
    if zone:
        known = zone_of(zone)
        if known is not None:
            if zone.strip("() ").lower() == "cst" and (_CHINESE.search(text) or "+0800" in text):
                known = BEIJING
            return Moment(naive.replace(tzinfo=known).timestamp(), f"date {zone.strip('() ')}", estimated=not dated)
    return _guessed(naive, text, here, local)


def _guessed(naive: datetime, text: str, here: datetime, local: tzinfo) -> Moment:
    """A date without a zone: Beijing for Chinese wording and Z.ai's, else local; another one if that cannot be.

    Z.ai names Beijing time: "Usage limit reached for 5 hour … will reset at 22:14:08", written at 09:48 UTC, is
    12 hours off as UTC and 4.5 hours as Beijing time.
    """
    chinese = _CHINESE.search(text) and not _KANA_HANGUL.search(text)
    zones = [BEIJING, local] if chinese or _BEIJING_WORDS.search(text) else [local, BEIJING]
    hours = _HOURS.search(text)
    longest = (float(hours[1] or hours[2]) * 3600 + 120) if hours else 32 * 86400.0
    values = [naive.replace(tzinfo=zone).timestamp() for zone in zones]
    fits = [value for value in values if -5 <= value - here.timestamp() <= longest]
    return Moment((fits or values)[0], "date without a zone", estimated=True)


def _times(text: str, here: datetime, local: tzinfo) -> Iterator[Moment]:
    for pattern, fixed in ((_TIME, None), (_MIDNIGHT, (0, 0, 0)), (_NOON, (12, 0, 0))):
        for match in islice(pattern.finditer(text), MATCHES):
            groups = match.groupdict()
            clock = fixed or (_clock(groups) if groups["minute"] or groups["half"] else None)
            if clock:
                zone = zone_of(groups["zone"]) if groups["zone"] else None
                yield _next(here, zone or local, clock, estimated=zone is None)
    for match in islice(_HALF_FIRST.finditer(text), MATCHES):
        hour, half = int(match["hour"]) % 12, match["half"]
        zone = BEIJING if half in ("上午", "早上", "下午", "晚上") else _TOKYO_SEOUL
        yield _next(here, zone, (hour + 12 * (half in _AFTER_NOON), int(match["minute"] or 0), 0), estimated=True)


def _next(
    here: datetime, zone: tzinfo, clock: tuple[int, int, int], *, estimated: bool, weekday: int | None = None
) -> Moment:
    """The next time the clock of a zone shows this."""
    there = here.astimezone(zone)
    day = datetime(there.year, there.month, there.day)
    for ahead in range(9):
        wall = day + timedelta(days=ahead, hours=clock[0], minutes=clock[1], seconds=clock[2])
        moment = wall.replace(tzinfo=zone)
        if moment.timestamp() > here.timestamp() and weekday in (None, wall.weekday()):
            return Moment(moment.timestamp(), "time of day" if weekday is None else "weekday", estimated)
    raise ValueError("no such day")


def _weekdays(text: str, here: datetime, local: tzinfo) -> Iterator[Moment]:
    for match in islice(_WEEKDAY.finditer(text), MATCHES):
        groups = match.groupdict()
        clock = _clock(groups) if groups["minute"] or groups["half"] else None
        zone = zone_of(groups["zone"]) if groups["zone"] else None
        weekday = _DAYS[groups["weekday"].lower()]
        yield _next(here, zone or local, clock or (0, 0, 0), estimated=zone is None or clock is None, weekday=weekday)


_WORDS = (
    (
        re.compile(
            r"\btomorrow\b|明天|明日|次日|翌日|내일|\bmorgen\b|\bdemain\b|\bmanana\b|\bamanha\b|\bdomani\b|завтра",
            re.IGNORECASE,
        ),
        "day",
    ),
    (re.compile(r"(?:每天|每日|毎日|次日)?(?:凌晨|零点|(?<!\d)0点|(?<!\d)0时)", re.IGNORECASE), "day"),
    (
        re.compile(r"\bnext week\b|下周(?!\w)|来周|다음 주|\bnachste woche\b|\bsemaine prochaine\b", re.IGNORECASE),
        "week",
    ),
    (
        re.compile(
            r"\bnext (?:calendar )?month\b"
            r"|\b(?:first|1st|start|beginning) (?:day )?of (?:the |each |every |next )?(?:next )?month\b"
            r"|\bend of (?:the |this )?month\b|下个?月|次月|月初|来月|다음 ?달"
            r"|\bnachsten monat\b|\bmois prochain\b|\bproximo m[eê]s\b",
            re.IGNORECASE,
        ),
        "month",
    ),
)


def _words(text: str, here: datetime, local: tzinfo) -> Iterator[Moment]:
    zone = BEIJING if _CHINESE.search(text) and not _KANA_HANGUL.search(text) else local
    folded = fold(text)
    for pattern, step in _WORDS:
        match = pattern.search(folded)
        if match:
            yield Moment(_start_of_next(step, here.astimezone(zone)), match.group()[:20], estimated=True)


def _start_of_next(step: str, there: datetime) -> float:
    midnight = there.replace(hour=0, minute=0, second=0, microsecond=0)
    if step == "month":
        return (midnight.replace(day=1) + timedelta(days=32)).replace(day=1).timestamp()
    ahead = 1 if step == "day" else 7 - there.weekday()
    return (midnight + timedelta(days=ahead)).timestamp()
