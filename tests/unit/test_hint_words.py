"""Given these words, at this time, then this wait or this moment."""

from datetime import UTC, datetime

import pytest

from ocwatchd.core.dates import zone_of
from ocwatchd.core.hints import LONGEST, from_text

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC).timestamp()  # a Sunday


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
        "请十五分钟后再试",  # a number of several signs is not read, rather than read as its half
        "每一小时重置",
        "máximo 10 solicitudes en 60 segundos, intente más tarde",
        "maximal 10 Anfragen in 60 Sekunden, bitte erneut versuchen",
        "10 requêtes en 60 secondes, réessayez plus tard",
        "10 requisições em 60 segundos, tente novamente mais tarde",
        "0 requests per 60s remaining",
        "не более 60 запросов за 30 секунд, повторите позже",
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
        ("将于北京时间 2026-11-22 22:00:00 重置", "2026-11-22 14:00", True),
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
