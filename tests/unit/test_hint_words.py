"""Tests that these words, at this time, give this wait or this moment."""

from collections import Counter
from datetime import UTC, datetime

import pytest

from ocwatchd.core.classify import calendar_words
from ocwatchd.core.classify.dates import moments, zone_of
from ocwatchd.core.classify.reset_times import LONGEST, from_text
from ocwatchd.core.text.normalize import fold

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()  # a Sunday


def moments_in(text):
    hint = from_text(text, NOW)
    return [hint] if hint else []


def utc(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("Please try again in 7.66s. Visit https://x.y/rate-limits", 7.66),
        ("Please try again in 2m59.56s.", 179.56),
        ("Try again in 1h30m", 5400),
        ("Please try again in 4 hours 12 minutes.", 15120),
        ("retry after 1 minute and 3 seconds", 63),
        ("Please retry after 6 seconds.", 6),
        ("Please retry in 34.074824224s.", 34.07),
        ("resets in 2d 4h", 187200),
        ("Resets in 143h57m55s.", 518275),
        ("retrying in ~5 days attempt #1", 432000),
        ("Try again in 1,200 seconds", 1200),
        ("retry after 500ms", 0.5),
        ("Limit resets in 00:04:30", 270),
        ("retry after PT1H30M", 5400),
        ("try again in an hour", 3600),
        ("try again in half an hour", 1800),
        ("try again in two minutes", 120),
        ("try again in one minute", 60),
        ("try again in three minutes", 180),
        ("try again in four minutes", 240),
        ("try again in five minutes", 300),
        ("try again in six minutes", 360),
        ("try again in seven minutes", 420),
        ("try again in eight minutes", 480),
        ("try again in nine minutes", 540),
        ("try again in ten minutes", 600),
        ("try again in fifteen minutes", 900),
        ("try again in twenty minutes", 1200),
        ("try again in thirty minutes", 1800),
        ("try again in half a minute", 30),
        ("Retry-After: 12", 12),
        ("(retry_after=17)", 17),
        ("Please wait 82645 seconds before retrying.", 82645),
        ("Rate limit of 50 per 86400s exceeded for UserByModelByDay. Please wait 82645 seconds.", 82645),
        ("5 hour usage limit reached. It will reset in 2 hours 5 minutes.", 7500),
        ("请在30秒后重试", 30),
        ("5小时后重置", 18000),
        ("请一分钟后再试", 60),
        ("半小时后恢复", 1800),
        ("将在两小时后重置", 7200),
        ("请等待 2 小时 30 分钟", 9000),
        ("請於 10 分鐘後再試", 600),
        ("30秒後に再試行してください", 30),
        ("5時間後にリセットされます", 18000),
        ("1시간 30분 후에 다시 시도하세요", 5400),
        ("Versuchen Sie es in 30 Sekunden erneut", 30),
        ("Réessayez dans 2 heures", 7200),
        ("Inténtalo de nuevo en 5 minutos", 300),
        ("Tente novamente em 30 segundos", 30),
        ("Повторите попытку через 2 часа", 7200),
        ("30 saniye sonra tekrar deneyin", 30),
        ("Vui lòng thử lại sau 1 phút", 60),
        ("Coba lagi dalam 2 menit", 120),
        ("Försök igen om 30 sekunder", 30),
        ("The token bucket is empty, refill in 12.5s", 12.5),
        ("backoff 120000ms", 120),
        ("You can send another request in 14 seconds", 14),
        ("next window opens in 2h 11m", 7860),
        ("limit ends in 12m", 720),
        ("hold off for 20s", 20),
        ("in 3 minutes you may try again", 180),
        ("30 seconds remaining", 30),
        ("Time remaining: 00:02:00", 120),
        ("noch 30 Sekunden warten", 30),
        ("disponible dans 2 jours", 172800),
        ("disponibile tra 2 giorni", 172800),
        ("доступно через 2 дня", 172800),
        ("będzie dostępny za 2 dni", 172800),
        ("try again in less than a minute", 60),
        ("wait for 5 more minutes", 300),
        ("retry_after_seconds: 33", 33),
        ("retryAfter=33", 33),
        ("Backing off for 1m30s", 90),
        ("sleep 12 seconds and retry", 12),
        ("resets in P1DT2H", 93600),
        ("Quota will be replenished in 12.10:04:11.", 1073051),
        ("try again in 1 day, 2:03:04", 93784),
        ("retry_delay {\n  seconds: 17\n}", 17),
        ("Bitte warten Sie 2 Stunden und 5 Minuten", 7500),
        ("Veuillez patienter 90 secondes", 90),
        ("se restablecerá en 6 horas", 21600),
        ("será renovado em 3 dias", 259200),
        ("attendi 30 secondi", 30),
        ("si azzera tra 2 ore", 7200),
        ("лимит обновится через 3 дня", 259200),
        ("зачекайте 30 секунд", 30),
        ("odczekaj 45 sekund", 45),
        ("odnowi się za 2 godziny", 7200),
        ("počkejte 30 sekund", 30),
        ("wordt over 2 uur gereset", 7200),
        ("5 dakika bekleyin", 300),
        ("đặt lại sau 3 giờ", 10800),
        ("silakan tunggu 30 detik", 30),
        ("กรุณารอ 30 วินาที", 30),
        ("حاول مرة أخرى خلال 5 دقائق", 300),
        ("कृपया 60 सेकंड प्रतीक्षा करें", 60),
        ("1時間30分お待ちください", 5400),
        ("あと45秒で再試行できます", 45),
        ("45초 기다려 주세요", 45),
        ("réessayez dans 20 min", 1200),
        ("dans 5 h, réessayez", 18000),
        ("riprova tra 5 min", 300),
        ("Повторите через 5 мин", 300),
        ("in 2 Std. erneut versuchen", 7200),
        ("in 20 Min. erneut versuchen", 1200),
        ("budget consumed; next one in 21 s", 21),
    ],
)
def test_waits_in_words(text, after):
    hint = from_text(text, NOW)
    assert hint is not None
    assert abs(hint.after - after) < 0.01
    assert not hint.estimated


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Please try again later.",
        "Rate limit of 50 requests per 86400s exceeded",
        "5 hour usage limit reached",
        "The limit resets every 5 hours",
        "You may send 10 requests per 1 minute",
        "已达到 5 小时的使用上限",
        "每5小时重置",
        "used 140429 tokens",
        "timed out after 5000 things",
        "Limit 30000, Used 29500, Requested 1200.",
        "请十五分钟后再试",  # a number of several characters is not read at all, instead of half of it
        "每一小时重置",
        "máximo 10 solicitudes en 60 segundos, intente más tarde",
        "maximal 10 Anfragen in 60 Sekunden, bitte erneut versuchen",
        "10 requêtes en 60 secondes, réessayez plus tard",
        "10 requisições em 60 segundos, tente novamente mais tarde",
        "0 requests per 60s remaining",
        "не более 60 запросов за 30 секунд, повторите позже",
        "O limite de 5 horas foi atingido, tente novamente mais tarde",
        "La ventana de 5 horas está agotada, intente más tarde",
        "3 out of 5 requests used, try again later",
        "The quota may 5 be used again",
        "60 คำขอใน 1 นาที ลองใหม่ภายหลัง",
        "60 طلبا خلال 30 ثانية، حاول لاحقا",
        "wait no more than 60 requests per 30 seconds",
        "The model reached its end of life on 2020-07-27T00:00:00Z",
    ],
)
def test_windows_and_other_numbers_are_no_waits(text):
    assert from_text(text, NOW) is None


@pytest.mark.parametrize(
    ("text", "until", "estimated"),
    [
        ("resets 3pm (Europe/Berlin)", "2026-11-22 14:00", False),
        ("resets 1pm (Europe/Berlin)", "2026-11-23 12:00", False),
        ("resets 10:30pm (europe/berlin)", "2026-11-22 21:30", False),
        ("resets 12am (America/Argentina/Buenos_Aires)", "2026-11-23 03:00", False),
        ("resets 10pm", "2026-11-22 22:00", True),
        ("Resets at 10:00 UTC.", "2026-11-23 10:00", False),
        ("resets at 8:00 AM UTC+8", "2026-11-23 00:00", False),
        ("resets at 8:00 PM PST", "2026-11-23 04:00", False),
        ("resets Nov 24, 9am (UTC)", "2026-11-24 09:00", False),
        ("resets Jan 2 at 9:30 am (UTC)", "2027-01-02 09:30", None),
        ("Try again at Nov 24th, 2026 9:13 AM.", "2026-11-24 09:13", True),
        ("until Mon, 23 Nov 2026 10:56:07 GMT", "2026-11-23 10:56:07", False),
        ("You will regain access on 2026-12-01 at 00:00 UTC.", "2026-12-01 00:00", False),
        ("You will regain access on 2026-12-01.", "2026-12-01 00:00", True),
        ("resets at 2026-11-22T15:00:00Z (2056)", "2026-11-22 15:00", False),
        ("reset at 2026-11-22T15:00:00.123+02:00", "2026-11-22 13:00", False),
        ("It will reset at 2026-11-22 23:59:59 +0800 CST.", "2026-11-22 15:59:59", False),
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 22:14:08", "2026-11-22 14:14:08", True),
        ("您的限额将在 2026-11-22 22:41:44 重置。", "2026-11-22 14:41:44", True),
        ("将于 2026年11月23日 08:00 恢复", "2026-11-23 00:00", True),
        ("将于北京时间 2026-11-22 22:00:00 重置", "2026-11-22 14:00", False),
        ("usage limit reached|1795356000", "2026-11-22 14:00", False),
        ("usage limit reached|1795356000000", "2026-11-22 14:00", False),
        ("resets_at=1795356000", "2026-11-22 14:00", False),
        ("resetTime 1795356000", "2026-11-22 14:00", False),
        ("limit expires at 15:00 UTC", "2026-11-22 15:00", False),
        ("Quota resets at midnight UTC.", "2026-11-23 00:00", False),
        ("Quota resets at midnight Pacific Time", "2026-11-23 08:00", False),
        ("Resets daily at 00:00 UTC", "2026-11-23 00:00", False),
        ("resets Monday 9am (UTC)", "2026-11-23 09:00", False),
        ("Try again next Monday", "2026-11-23 00:00", True),
        ("Please try again tomorrow", "2026-11-23 00:00", True),
        ("resets on the first of next month", "2026-12-01 00:00", True),
        ("明天再试", "2026-11-22 16:00", True),
        ("每天0点重置", "2026-11-22 16:00", True),
        ("次月恢复", "2026-11-30 16:00", True),
        ("来週リセットされます", "2026-11-23 00:00", True),
        ("Se restablece mañana", "2026-11-23 00:00", True),
        ("Your next request is allowed at 14:30 UTC", "2026-11-22 14:30", False),
        ("将于下午3点重置", "2026-11-23 07:00", True),
        ("午後5時30分にリセットされます", "2026-11-23 08:30", True),
        ("오전 9시에 초기화됩니다", "2026-11-23 00:00", True),
    ],
)
def test_moments_in_words(text, until, estimated):
    hint = from_text(text, NOW)
    if estimated is None:  # more than 31 days ahead
        assert hint.after == LONGEST
        return
    assert hint is not None
    assert abs(hint.until - utc(until)) < 1
    assert hint.estimated is estimated


DAY = "2026-11-22"
NEXT = "2026-11-23"


@pytest.mark.parametrize(
    ("text", "until", "estimated"),
    [
        # The zone is beside the time, elsewhere in the text, or missing.
        ("利用制限に達しました。15:00 (JST) にリセットされます", f"{NEXT} 06:00", False),
        ("利用上限：日本時間 15:00 にリセットされます", f"{NEXT} 06:00", False),
        ("利用上限に達しました。18時30分にリセットされます", f"{NEXT} 09:30", True),
        ("已达到使用上限，明日 00:00（UTC+8）重置", f"{DAY} 16:00", False),
        ("5小时额度已用完，18:20（UTC+8）后可继续使用", f"{NEXT} 10:20", False),
        ("額度將於明天上午8點恢復（台北時間）", f"{NEXT} 00:00", False),
        ("限额将于 18:30 刷新", f"{NEXT} 10:30", True),
        ("将于今晚 23:00 重置", f"{DAY} 15:00", True),
        ("오늘 23:00에 초기화됩니다", f"{DAY} 14:00", True),
        ("사용량 한도 초과. 내일 오전 9시에 다시 시도하세요 (KST)", f"{NEXT} 00:00", False),
        ("um 15:00 ist das Limit wieder frei, versuchen Sie es erneut", f"{DAY} 15:00", True),
        ("resets at 14:00 GMT+9", f"{NEXT} 05:00", False),
        ("You spent your tokens. More at 13:00 UTC.", f"{DAY} 13:00", False),
        # Today, tomorrow, the day after.
        ("resets tomorrow at 9am (UTC)", f"{NEXT} 09:00", False),
        ("resets 10 PM JST tomorrow", f"{NEXT} 13:00", False),
        ("Nächster Versuch morgen um 9 Uhr möglich (MEZ)", f"{NEXT} 08:00", False),
        ("se restablece mañana a las 7:00 a. m.", f"{NEXT} 07:00", True),
        ("réessayez demain à 8h00", f"{NEXT} 08:00", True),
        ("9:00 demain, réessayez", f"{NEXT} 09:00", True),
        ("попробуйте завтра в 09:00 по московскому времени", f"{NEXT} 06:00", False),
        ("odnowi się jutro o 8:00", f"{NEXT} 08:00", True),
        ("obnoví se zítra v 8:00", f"{NEXT} 08:00", True),
        ("wordt morgen om 8:00 gereset", f"{NEXT} 08:00", True),
        ("återställs i morgon kl. 08:00", f"{NEXT} 08:00", True),
        ("yarın saat 10:00'da tekrar deneyin", f"{NEXT} 10:00", True),
        ("akan diatur ulang besok pukul 08.00 WIB", f"{NEXT} 01:00", False),
        ("Vui lòng thử lại lúc 10:00 ngày mai", f"{NEXT} 10:00", True),
        ("حاول مرة أخرى غدا الساعة 10:00", f"{NEXT} 10:00", True),
        ("後天 10:00 重置", "2026-11-24 02:00", True),
        ("übermorgen wieder verfügbar", "2026-11-24 00:00", True),
        # Dates with the months of each language.
        ("try again at 10 de dez. de 2026, 11:52", "2026-12-10 11:52", True),
        ("Vuelve a intentarlo el 24 de noviembre de 2026 a las 9", "2026-11-24 09:00", True),
        ("Réinitialisation le 24 novembre 2026 à 10 h 30", "2026-11-24 10:30", True),
        ("am 23.11.2026 um 08:00 Uhr MEZ zurückgesetzt", f"{NEXT} 07:00", False),
        ("um 8:00 Uhr am 23.11.2026 wieder verfügbar", f"{NEXT} 08:00", True),
        ("bis 23.11. um 08:00 Uhr gesperrt", f"{NEXT} 08:00", True),
        ("Si reimposta il 24 novembre alle ore 10:30 (CET)", "2026-11-24 09:30", False),
        ("Tente novamente em 1º de dezembro de 2026", "2026-12-01 00:00", True),
        ("Odnowi się 24 listopada 2026 o godz. 10:00", "2026-11-24 10:00", True),
        ("Probeer het opnieuw op 24 november 2026 om 10:00 uur", "2026-11-24 10:00", True),
        ("24 Kasım Salı 10:00'da yenilenir (UTC+3)", "2026-11-24 07:00", False),
        ("Сброс 24 ноября 2026 г. в 10:00 (МСК)", "2026-11-24 07:00", False),
        ("оновлення 24 листопада о 10:00", "2026-11-24 10:00", True),
        ("thử lại vào 10:00 ngày 24 tháng 11 năm 2026", "2026-11-24 10:00", True),
        ("ลองใหม่วันที่ 24 พฤศจิกายน 2569 เวลา 10:00", "2026-11-24 10:00", True),
        ("फिर कोशिश करें 24 नवंबर 2026 को 10:00", "2026-11-24 10:00", True),
        ("24 نوفمبر 2026 الساعة 10:00", "2026-11-24 10:00", True),
        ("11月24日 午前9時30分に解除されます", "2026-11-24 00:30", True),
        ("11月24日(火) 18:00 にリセット（日本時間）", "2026-11-24 09:00", False),
        ("2026년 11월 24일 오후 3시 30분에 재설정", "2026-11-24 06:30", True),
        ("将于11月25日 15:30（北京时间）重置", "2026-11-25 07:30", False),
        ("resets at 9am on Nov 24 (UTC)", "2026-11-24 09:00", False),
        ("resets when your monthly cycle ends on 11/24/2026", "2026-11-24 00:00", True),
        ("resets on 12/01/2026", "2026-12-01 00:00", True),
        ("Сброс 24.11.2026 в 10:00", "2026-11-24 10:00", True),
        ("next reset: Tue Nov 24 09:00:00 UTC 2026", "2026-11-24 09:00", False),
        # Days of the week, and times of day without a day.
        ("Se restablecerá el lunes a las 9", f"{NEXT} 09:00", True),
        ("сбросится в понедельник в 9:00 (МСК)", f"{NEXT} 06:00", False),
        ("下周一 09:00 重置", f"{NEXT} 01:00", True),
        ("월요일 오전 9시에 초기화됩니다", f"{NEXT} 00:00", True),
        ("Redefine às 15h30 (UTC-3)", f"{DAY} 18:30", False),
        ("disponible à partir de 18h00", f"{DAY} 18:00", True),
        ("setzt sich um 18.30 Uhr zurück", f"{DAY} 18:30", True),
        ("setzt sich um Mitternacht zurück", f"{NEXT} 00:00", True),
        ("se reinicia a medianoche (UTC)", f"{NEXT} 00:00", False),
        ("正午にリセットされます", f"{NEXT} 03:00", True),
        ("available again at noon UTC", f"{NEXT} 12:00", False),
        ("today's share is gone; resets tomorrow at 9am (UTC)", f"{NEXT} 09:00", False),
    ],
)
def test_moments_in_the_languages_of_the_rules(text, until, estimated):
    hint = from_text(text, NOW)
    assert hint is not None
    assert abs(hint.until - utc(until)) < 1
    assert hint.estimated is estimated


@pytest.mark.parametrize(
    ("text", "at", "until"),
    [
        # Which of two numbers is the month.
        ("resets on 11/24/2026", "2026-11-22", "2026-11-24"),
        ("Your limit resets on 24/11/2026", "2026-11-22", "2026-11-24"),
        ("Your limit resets on 12/11/2026", "2026-12-01", "2026-12-11"),
        ("Zurücksetzung am 12/11/2026", "2026-11-01", "2026-11-12"),
        ("Zurücksetzung am 12.11.2026", "2026-11-01", "2026-11-12"),
        ("Zurücksetzung am 12.12.2026", "2026-12-01", "2026-12-12"),
        ("Your limit resets on 13/12/2026", "2026-12-01", "2026-12-13"),
        ("Your limit resets on 12/13/2026", "2026-12-01", "2026-12-13"),
        # Without a year: the next one. With a Buddhist one: 543 years less.
        ("resets Jan 2", "2026-12-30", "2027-01-02"),
        ("รีเซ็ต 2 มกราคม 2570", "2026-12-30", "2027-01-02"),
        ("yesterday, Nov 22, it was reset; resets Nov 24", "2026-11-22", "2026-11-24"),
    ],
)
def test_days_and_years_that_are_not_clear_by_themselves(text, at, until):
    now = utc(at)
    hints = [moment.until for moment in moments(text, now)]
    assert utc(until) in hints
    assert all(hint - now < 366 * 86400 for hint in hints)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        # Z.ai writes Beijing time; if that is past, or later than the window is long, it cannot be meant.
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 22:14:08", f"{DAY} 14:14:08"),
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-22 14:14:08", f"{DAY} 14:14:08"),
        ("Usage limit reached for 5 hour. Your limit will reset at 2026-11-23 00:59:00", f"{DAY} 16:59"),
        ("Usage limit reached for 9 hour. Your limit will reset at 2026-11-22 20:30:00", f"{DAY} 12:30"),
        ("Your plan resets at 2026-11-22 14:14:08", f"{DAY} 14:14:08"),
        ("5 hour limit of your plan: resets at 2026-11-22 22:14:08", f"{DAY} 14:14:08"),
        ("リセット日時：2026-11-22 23:30", f"{DAY} 14:30"),
        ("リセット日時：2026-11-22 14:30", f"{DAY} 14:30"),
    ],
)
def test_a_date_without_a_zone_is_read_where_it_can_be(text, until):
    hint = from_text(text, NOW)
    assert hint is not None
    assert abs(hint.until - utc(until)) < 1
    assert hint.estimated


ENGLISH_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]


def test_every_name_of_a_day_of_the_week_is_read():
    names = {**{name: day for day, name in enumerate(ENGLISH_DAYS, 1)}, **calendar_words.WEEKDAYS}
    for name, day in names.items():
        hint = from_text(f"resets on {name} 18:00 (UTC)", NOW)  # a Sunday noon
        assert hint is not None, name
        assert (hint.until, hint.estimated) == (utc(DAY) + day % 7 * 86400 + 18 * 3600, False), name


def test_every_word_for_a_day_is_read():
    for name, ahead in calendar_words.DAYS.items():
        hint = from_text(f"{name} 18:00 (UTC)", NOW)
        assert hint is not None, name
        assert (hint.until, hint.estimated) == (utc(DAY) + ahead * 86400 + 18 * 3600, False), name


@pytest.mark.parametrize(
    "text",
    [
        "réessayez vers 9 requêtes",
        "limite atteinte après 9 requêtes, réessayez",
        "resets at 17 pm",
        "resets at 0 am",
        "24 Nov limit, 2026 requests, no date but one",
        "set 24 properties, out 5, ago 3",
        "resets on 31 Feb 2026",
        "resets on 2026-13-45",
        "重置 ID 1234:56:78",
    ],
)
def test_numbers_that_are_no_times_of_day(text):
    assert all(hint.source != "text:time of day" for hint in moments_in(text))


WORDS = tuple(getattr(calendar_words, name) for name in ("MONTHS", "WEEKDAYS", "DAYS", "PLACES", "FIXED"))


def test_the_words_of_the_calendar_stand_in_the_form_in_which_texts_are_read():
    assert [word for words in WORDS for word in words if fold(word) != word] == []
    assert [place for place in set(calendar_words.PLACES.values()) if zone_of(place) is None] == []


def test_every_name_of_a_month_is_read():
    assert Counter(calendar_words.MONTHS.values()).keys() == set(range(1, 13))
    for name, month in calendar_words.MONTHS.items():
        hint = from_text(f"resets on 2 {name}. 2027", datetime(2027, month, 1, tzinfo=UTC).timestamp())
        assert hint is not None and hint.after == 86400, name


def test_a_hint_names_the_words_that_it_was_read_from():
    assert from_text("Réessayez dans 30 secondes, merci", NOW).source == "text:30 secondes, merci"
    assert from_text("Please try again in 7.66s.", NOW).source == "text:try again in 7.66s"
    assert from_text("resets tomorrow at 9am (UTC)", NOW).source == "text:tomorrow"
    assert from_text("Usage resets 2026-11-24 09:00 UTC", NOW).source == "text:date utc"


def test_times_count_from_the_records_own_time():
    later = NOW + 3600 * 3
    assert from_text("resets 3pm (Europe/Berlin)", later).until == utc("2026-11-23 14:00")
    assert from_text("try again in 10s", later).until == later + 10


def test_a_date_without_a_zone_is_read_in_the_zone_of_the_machine_if_it_is_known():
    berlin = zone_of("Europe/Berlin")
    assert from_text("resets 10pm", NOW, local=berlin).until == utc("2026-11-22 21:00")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("UTC", True),
        ("utc+5:30", True),
        ("(Europe/Berlin)", True),
        ("pst", True),
        ("../../etc/passwd", False),
        ("Nowhere/City", False),
        ("Europe", False),
        ("", False),
        ("x" * 5000, False),
    ],
)
def test_zones(name, known):
    assert (zone_of(name) is not None) is known
