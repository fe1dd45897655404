"""Find durations and waits: `7.66s`, `2m59.56s`, `4 hours 12 minutes`, `30秒后`, `in 30 Sekunden`. Pure functions that
take linear time.

A number alone is never a duration, and a duration alone is never a wait: "50 requests per 60s" and "5 hour usage limit"
name windows (periods to which a limit applies). A duration is a wait only if a word before it ("try again in") or after
it ("后") marks it as a wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

from ocwatchd.core.text.safe_regex import late

MATCHES = 24
"""Maximum number of durations that are read in one text."""

_SECOND, _MINUTE, _HOUR, _DAY, _WEEK, _MONTH = 1.0, 60.0, 3600.0, 86400.0, 604800.0, 2592000.0

_ENGLISH_UNITS = (
    ("ms msec msecs millis millisecond milliseconds", 0.001),
    ("s sec secs second seconds", _SECOND),
    ("m min mins minute minutes", _MINUTE),
    ("h hr hrs hour hours", _HOUR),
    ("d day days", _DAY),
    ("w wk week weeks", _WEEK),
    ("month months", _MONTH),
)
_OTHER_UNITS = (
    ("毫秒", 0.001),
    ("秒 秒钟 초 sekunde sekunden seconde secondes segundo segundos secondo secondi saniye sekund seconden", _SECOND),
    ("секунд секунду секунды секунди giay detik sekunder sekundu sekundy ثانية ثواني ثوان सेकंड सेकेंड วินาที", _SECOND),
    ("分 分钟 분 minuten minuto minutos minuti минут минуту минуты minut minuty minuut dakika", _MINUTE),
    ("phut menit minuter minutter minutu хвилин хвилину хвилини دقيقة دقائق मिनट นาที", _MINUTE),
    ("小时 个小时 时间 시간 stunde stunden heure heures hora horas ora ore час часа часов godzin uur saat", _HOUR),
    ("gio jam timmar timer godzine godziny hodin hodinu hodiny годин годину години ساعة ساعات घंटे घंटा घंटों ชั่วโมง", _HOUR),
    ("天 日 일 tag tage tagen jour jours dia dias giorno giorni день дня дней dni dagen gun ngay hari dagar", _DAY),
    ("dzien den dny dnu дні днів يوم أيام दिन วัน", _DAY),
    ("周 星期 주 woche wochen semaine semaines semana semanas settimana settimane неделя недели недель", _WEEK),
    ("tydzien tygodnie tygodni weken hafta tuan minggu veckor тиждень тижні тижнів", _WEEK),
    ("sek", _SECOND),
    ("сек с sn seg", _SECOND),
    ("мин хв dk", _MINUTE),
    ("std ч год godz sa", _HOUR),
    ("д дн", _DAY),
    ("个月 monat monate monaten mois mes meses mese mesi месяц месяца месяцев", _MONTH),
)
_ENGLISH = {word: seconds for words, seconds in _ENGLISH_UNITS for word in words.split()}
_UNITS = _ENGLISH | {word: seconds for words, seconds in _OTHER_UNITS for word in words.split()}
_COUNTS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "fifteen": 15, "twenty": 20, "thirty": 30, "half an": 0.5, "half a": 0.5,
}  # fmt: skip

_HAN_COUNTS = dict(zip("一二两三四五六七八九十半", "1 2 2 3 4 5 6 7 8 9 10 0.5".split(), strict=True))
_HAN_COUNT = late("(?<![第一二两三四五六七八九十百])([一二两三四五六七八九十半])(?=个?(?:小时|时间|分钟?|秒|天|周))")
"""A Chinese number of one character before a unit: `一分钟后`, `半小时后`. A part of a longer number (`十五分钟`) is
not matched.
"""

_UNIT = "|".join(sorted(map(re.escape, _UNITS), key=len, reverse=True))
_PART = re.compile(
    rf"(\d{{1,3}}(?:,\d{{3}}){{1,3}}|\d{{1,12}}(?:[.,]\d{{1,12}})?)\s{{0,2}}(?:more\s)?({_UNIT})(?:(?![^\W\d_])|(?=[^\x00-\x7f]))"
)
_JOIN = re.compile(r"[\s,]{0,3}(?:(?:and|und|et|y|e|i|a|en|ve|и|і|dan|va|또는)\s)?\s{0,2}")
_ABOUT = re.compile(
    r"(?:~|≈|about|approximately|approx\.?|around|roughly|another|at least|less than|up to|ca\.?)?\s{0,2}"
)
_CLOCK = re.compile(r"(?:(\d{1,3})(?:\.| days?, ))?(\d{1,3}):([0-5]\d):([0-5]\d)(?!\d)")
"""A duration in clock form, including the forms of .NET and Python with days: `12.10:04:11`, `1 day, 2:03:04`."""

_ISO = re.compile(r"p(?:(\d{1,4})d)?(?:t(?:(\d{1,5})h)?(?:(\d{1,5})m)?(?:(\d{1,6}(?:\.\d{1,9})?)s)?)?(?![a-z])")
_SPELT = re.compile(rf"({'|'.join(sorted(_COUNTS, key=len, reverse=True))})\s({'|'.join(_ENGLISH)})(?![^\W\d_])")
_BARE = re.compile(r"(\d{1,10}(?:\.\d{1,6})?)(?![\d:/-]|\s{0,2}[^\W\d_]|[.,]\d)")

_CUE = re.compile(
    r"\b(?:retry(?:ing)?|try(?:ing)?|again|wait(?:ing)?|resets?|resetting|renews?|renewed|refresh(?:es|ed)?|available"
    r"|recovers?|resumes?|restored|replenish(?:es|ed)?|expires?|unlocks?|unlocked|lifted|opens?|ends?"
    r"|another request|next(?: [a-z]{1,12}){0,2}(?= in )|(?:time|wait) (?:remaining|left)|cool(?:ing|s)?|cooldown|delay"
    r"|back(?:ing)?(?: ?off)?|hold(?:ing)? off|sleep(?:ing)?|refills?|refilled|allowed|regain|clears?|reset[ _]after"
    r"|retry[ _-]after)(?![a-z])"
    r"([^.!?;\n\d。；]{0,40}?)"
    r"(?=~?\d|≈|\bp(?:t|\d{1,4}d)|\b(?:an?|one|two|three|four|five|six|seven|eight|nine|ten|fifteen|twenty|thirty|half)\s)"
)
_WINDOW = re.compile(
    r"\b(?:every|per|each|last|past|previous|of|limit|max|maximum|(?<!less )than|at)\b\W{0,3}$"
    r"|\b(?:limit|limited|at|on)\W{1,3}$"
)
_BARE_CUE = re.compile(r"(?:retry|try)(?:ing)?[ _-]?(?:again )?(?:after|in)(?:[ _-]?sec(?:ond)?s?)?\W{0,4}$")
_BEHIND = late(
    r"\s{0,2}(?:之后|以后|后|再试|重试|で(?:再|解除|リセット)|お?待ち|待って|후|뒤|기다|대기|sonra\b|bekle"
    r"|icinde tekrar|(?:के )?बाद|में पुन|(?:तक )?प्रतीक्षा|before (?:re)?try|before making"
    r"|remaining\b|,? you (?:may|can) (?:re)?(?:try|send)|until (?:re)?set"
    r"|until (?:your|the) (?:limit|quota))"
)
_AHEAD_CJK = late(r"(?:等待|等候|剩余|还需|还剩|仍需|冷却|重置时间|重试时间|待って|あと|残り|기다|남은)\D{0,8}$")
_WINDOW_CJK = late(r"(?:每|近|过去|最近|达到|已|매|\b(?:per|every|each)|/)\s{0,2}$")
_FOREIGN_CUE = late(
    r"versuch|erneut|wiederhol|wieder|warten|zuruckgesetzt|reessay|essayez|nouveau|patient|attend|reinitialis|renouvel"
    r"|intent|nuevo|espera|espere|aguarda|reinici|restabl|renov|tente|novamente|aguarde|redefin|riprov|rinnov|azzer|aspett"
    r"|повтор|подожд|попроб|снова|сброс|обнов|восстанов|ждите|спробу|чекай|онов|скин|ponow|probuj|czeka|zresetow|odnow"
    r"|znovu|zkuste|pocke|vycke|obnov|opnieuw|wacht|gereset|vernieuw|tekrar|sifirla|yenile|forsok"
    r"|disponi|доступ|dostepn|dostupn|verfugbar|moglich|beschikb|tersedia"
    r"|thu lai|dat lai|vui long|lam moi|lagi|tunggu|diatur ulang|ลอง|รอ|รีเซ็ต|حاول|انتظ|محاولة|تجديد|إعادة"
)
_FOREIGN_AHEAD = late(
    r"(?:^|[^\w])(?:in|nach|dans|apres|en|em|tra|fra|dopo|через|de|apos|a|po|za|over|sau|dalam|selama|om"
    r"|(?:aguard|esper|attend|patient|wart|wacht|aspett|(?:od|po|za)?czeka|pocke|vycke|подожд|жд|(?:за|по)?чека)\w{0,5}"
    r"|warten sie|noch|encore|ancora|jeszcze|ещё|еще|nog|tunggu|doi|long cho|hay cho)"
    r"\s{1,3}(?:etwa |ca\.? |environ |encore |bitte |noch |aproximadamente |circa |около |ещё |еще )?$"
    r"|(?:(?:อีกครั้ง|ใหม่|รีเซ็ต|ภาย)ใน|อีก|รอ|بعد|(?:أخرى|المحاولة|حاول) خلال|انتظار|انتظر|الانتظار لمدة)\s{0,3}$"
)

_ABBREVIATED = late(
    r"(?:^|[^\w])(?:dans|apres|en|em|tra|fra|dopo|через|после|nach|durante|sau|dalam|selama|za|om)\s{1,3}$"
)
"""Prepositions that mark a duration as a wait in another language, even if the duration's unit is also an English one:
`dans 20 min`, `tra 5 h`.
"""

_GERMAN = late(r"erneut|versuch|wiederhol|zuruckgesetzt|verfugbar")
_FOREIGN_WINDOW = late(
    r"\d\s\w{2,20}\s(?:in|en|em|dans|po|za|a)\s{1,3}$"
    r"|(?:limit\w{0,3}|quota|cuota|cota|ventana|janela|fenetre|finestra|plafond|kontingent|fenster|лимит\w{0,2}|окн\w{1,2})"
    r"\s(?:de|di|des|du|von|da|do|van|av|af|в|на|na|za)\s{1,3}$"
)
"""Words that mark the duration after them as a window, regardless of the rest of the sentence: `10 requêtes en 60
secondes`, `limite de 5 horas`.
"""


def parse_at(text: str, at: int = 0) -> tuple[float, int, bool] | None:
    """Return the duration that starts at this position of a folded text, or None. The result contains its length in
    seconds, the position at which it ends, and whether its units are English.
    """
    about = _ABOUT.match(text, at)
    at = about.end() if about else at
    clock = _CLOCK.match(text, at)
    if clock:
        days, hours, minutes, seconds = (float(part or 0) for part in clock.groups())
        return days * _DAY + hours * _HOUR + minutes * _MINUTE + seconds, clock.end(), True
    spelt = _SPELT.match(text, at)
    if spelt:
        return _COUNTS[spelt[1]] * _UNITS[spelt[2]], spelt.end(), True
    iso = _ISO.match(text, at)
    if iso and any(iso.groups()):
        days, hours, minutes, seconds = (float(part or 0) for part in iso.groups())
        return days * _DAY + hours * _HOUR + minutes * _MINUTE + seconds, iso.end(), True
    return _parts_at(text, at)


def _parts_at(text: str, at: int) -> tuple[float, int, bool] | None:
    total, end, english = 0.0, at, True
    for _ in range(6):
        part = _PART.match(text, at)
        if not part:
            break
        unit = part[2]
        total += _number(part[1]) * _UNITS[unit]
        english = english and unit in _ENGLISH
        end = part.end()
        join = _JOIN.match(text, end)
        at = join.end() if join else end
    return (total, end, english) if total or end != at else None


def _number(text: str) -> float:
    if re.fullmatch(r"\d{1,3}(?:,\d{3})+", text):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def waits(text: str) -> Iterator[tuple[float, str]]:
    """Yield the waits in a folded text, in order: the length in seconds, and the words that mark the duration as a
    wait.
    """
    if not text.isascii():
        text = _HAN_COUNT().sub(lambda match: _HAN_COUNTS[match[1]], text)
    for cue in islice(_CUE.finditer(text), MATCHES):
        if _WINDOW.search(cue[1]):
            continue
        found = parse_at(text, cue.end())
        if found:
            yield found[0], text[cue.start() : found[1]][:60]
        elif _BARE_CUE.search(cue.group()):
            bare = _BARE.match(text, cue.end())
            if bare:
                yield float(bare[1]), cue.group()[:40] + bare[1]
    yield from _waits_by_neighbours(text)


def _waits_by_neighbours(text: str) -> Iterator[tuple[float, str]]:
    foreign: bool | None = None  # computed only when a preposition precedes a duration, which is rare
    at = 0
    for part in islice(_PART.finditer(text), MATCHES):
        if part.start() < at:
            continue
        found = _parts_at(text, part.start())
        if not found:
            continue
        seconds, at, english = found
        before = text[max(0, part.start() - 24) : part.start()]
        if _WINDOW_CJK().search(before) or _FOREIGN_WINDOW().search(before):
            continue
        if english:
            ahead = _ABBREVIATED().search(before) is not None or (before.endswith("in ") and _GERMAN().search(text))
        else:
            ahead = _FOREIGN_AHEAD().search(before) is not None
        if ahead and foreign is None:
            foreign = _FOREIGN_CUE().search(text) is not None
        if _BEHIND().match(text, at) or _AHEAD_CJK().search(before) or (ahead and foreign):
            yield seconds, text[part.start() : at + 12][:60]
