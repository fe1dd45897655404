"""Words for days, months, a.m. and p.m., and time zones, in the languages that the rules cover. Pure data.

All words are in the folded form of `normalize.fold`: lower case, no accents, simplified Chinese characters.
"""

from __future__ import annotations

from datetime import UTC, timedelta, timezone, tzinfo


def _numbered(*rows: str) -> dict[str, int]:
    """Return each word with its position in its row, counted from 1. In a row, `-` stands for a position without a
    word.
    """
    return {word: place for row in rows for place, word in enumerate(row.split(), 1) if word != "-"}


MONTHS = _numbered(
    "jan feb mar apr may jun jul aug sep oct nov dec",
    "january february march april - june july august september october november december",
    "januar februar marz - mai juni juli - - oktober - dezember",
    "janner feber mrz - - - - - sept okt - dez",
    "janvier fevrier mars avril mai juin juillet aout septembre octobre novembre decembre",
    "janv fevr - avr - - juil - sept - - -",
    "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "ene - - abr - - - ago setiembre - - dic",
    "janeiro fevereiro marco - maio junho julho - setembro outubro novembro dezembro",
    "- fev - - mai - - - set out - -",
    "gennaio febbraio - aprile maggio giugno luglio - settembre ottobre - dicembre",
    "gen - - - mag giu lug - - ott - -",
    "januari februari maart - mei - - augustus - - - -",
    "- - mrt - - - - - - - - -",
    "stycznia lutego marca kwietnia maja czerwca lipca sierpnia wrzesnia pazdziernika listopada grudnia",
    "styczen luty marzec kwiecien maj czerwiec lipiec sierpien wrzesien pazdziernik - grudzien",
    "sty lut - kwi - cze lip sie wrz paz lis gru",
    "ledna unora brezna dubna kvetna cervna cervence srpna zari rijna listopadu prosince",
    "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "январь февраль март апрель май июнь июль август сентябрь октябрь ноябрь декабрь",
    "янв фев мар апр - июн июл авг сен окт ноя дек",
    "- февр - - - - - - сент - нояб -",
    "січня лютого березня квітня травня червня липня серпня вересня жовтня листопада грудня",
    "ocak subat mart nisan mayis haziran temmuz agustos eylul ekim kasim aralik",
    "- - marts - - - - augusti - - - desember",
    "- - maret - - - - agustus - - - -",
    "- - - - - - - agt - - - des",
    "يناير فبراير مارس أبريل مايو يونيو يوليو أغسطس سبتمبر أكتوبر نوفمبر ديسمبر",
    "جانفي فيفري - ابريل - جوان جويلية اغسطس - اكتوبر - -",
    "जनवरी फरवरी मार्च अप्रैल मई जून जुलाई अगस्त सितंबर अक्टूबर नवंबर दिसंबर",
    "มกราคม กุมภาพันธ์ มีนาคม เมษายน พฤษภาคม มิถุนายน กรกฎาคม สิงหาคม กันยายน ตุลาคม พฤศจิกายน ธันวาคม",
)
"""Names and abbreviations of the months."""

ALSO_WORDS = frozenset("set out ago des gen lis paz sie mag lip".split())
"""Abbreviations of months that are also everyday words in some language. They are recognized only next to a period or
"de".
"""

WEEKDAYS = _numbered(
    "montag dienstag mittwoch donnerstag freitag samstag sonntag",
    "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "lunes martes miercoles jueves viernes sabado domingo",
    "segunda-feira terca-feira quarta-feira quinta-feira sexta-feira - -",
    "lunedi martedi mercoledi giovedi venerdi sabato domenica",
    "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag",
    "poniedzialek wtorek sroda czwartek piatek sobota niedziela",
    "- - srode - - sobote niedziele",
    "pondeli utery streda ctvrtek patek - nedele",
    "понедельник вторник среда четверг пятница суббота воскресенье",
    "- - среду - пятницу субботу -",
    "понеділок вівторок середа четвер - - неділя",
    "- - середу - - - неділю",
    "pazartesi sali carsamba persembe cuma cumartesi pazar",
    "senin selasa rabu kamis jumat sabtu minggu",
    "mandag tisdag onsdag torsdag fredag lordag sondag",
    "月曜 火曜 水曜 木曜 金曜 土曜 日曜",
    "周一 周二 周三 周四 周五 周六 周日",
    "星期一 星期二 星期三 星期四 星期五 星期六 星期日",
    "- - - - - - 星期天",
    "월요일 화요일 수요일 목요일 금요일 토요일 일요일",
    "الاثنين الثلاثاء الأربعاء الخميس الجمعة السبت الأحد",
)
"""Names of the days of the week in languages other than English; Monday is 1. Abbreviations are omitted, because some
of them ("mar", "sex") are also other words.
"""

DAYS = {
    word: ahead
    for ahead, words in (
        (0, "today|tonight|heute|aujourd'hui|hoy|hoje|oggi|сегодня|сьогодні|dzisiaj|dzis|vandaag|bugun|hom nay"),
        (0, "hari ini|dnes|idag|今天|今日|本日|今晚|오늘|วันนี้|اليوم|आज"),
        (1, "tomorrow|morgen|demain|manana|amanha|domani|завтра|jutro|zitra|yarin|ngay mai|besok|imorgon|i morgen"),
        (1, "明天|明日|次日|翌日|明早|明晚|내일|다음 날|พรุ่งนี้|غدا|कल"),
        (2, "day after tomorrow|ubermorgen|apres-demain|pasado manana|depois de amanha|dopodomani|послезавтра"),
        (2, "післязавтра|pojutrze|pozitri|overmorgen|lusa|后天|明后日|모레"),
    )
    for word in words.split("|")
}  # fmt: skip
"""Words for days relative to today, each with the number of days ahead."""

BEFORE_NOON = "上午|早上|早晨|清晨|凌晨|午前|明早|오전|새벽|아침"
AFTER_NOON = "下午|晚上|傍晚|午后|今晚|明晚|夜|오후|저녁|밤"
"""Words that mean "p.m." and precede the hour."""

MORNING = (
    r"a\.?\s?m\b\.?|vormittags|morgens|fruh|du matin|de la manana|da manha|del mattino|di mattina|утра|ранку|rano|sabah"
)
EVENING = (
    r"p\.?\s?m\b\.?|nachmittags|abends|de l'apres-midi|du soir|de la tarde|de la noche|da tarde|da noite"
    r"|del pomeriggio|di sera|вечера|дня|вечора|po poludniu|wieczorem|ogleden sonra|aksam"
)
"""Expressions for words that mean "p.m." and follow the hour."""

BEIJING = timezone(timedelta(hours=8), "Beijing")
TOKYO_SEOUL = timezone(timedelta(hours=9), "Tokyo")

_PLACES = {
    "America/Los_Angeles": "pst|pdt|pt|pacific|pacific time|pacific standard time|pacific daylight time",
    "America/Denver": "mst|mdt|mt|mountain|mountain time|mountain standard time|mountain daylight time",
    "America/Chicago": "cst|cdt|ct|central|central time|central standard time|central daylight time",
    "America/New_York": "est|edt|et|eastern|eastern time|eastern standard time|eastern daylight time",
    "America/Sao_Paulo": "brt|horario de brasilia|hora de brasilia",
    "America/Argentina/Buenos_Aires": "hora argentina|hora de argentina",
    "America/Mexico_City": "hora de mexico|hora del centro de mexico",
    "Europe/Paris": "cet|cest|heure de paris|heure d'europe centrale|hec",
    "Europe/Berlin": "mez|mesz|mitteleuropaischer zeit|mitteleuropaische zeit|deutscher zeit|berliner zeit",
    "Europe/Madrid": "hora peninsular|hora de madrid|hora peninsular espanola",
    "Europe/Rome": "ora italiana|ora di roma",
    "Europe/Warsaw": "czasu polskiego|czasu warszawskiego",
    "Europe/London": "bst",
    "Europe/Kyiv": "eet|eest|за києвом|за київським часом|київського часу",
    "Europe/Istanbul": "trt|turkiye saati|turkiye saatiyle",
    "Europe/Moscow": "msk|мск|по московскому времени|московского времени|по москве",
    "Asia/Kolkata": "ist|भारतीय समय",
    "Asia/Tokyo": "jst|日本时间|日本标准时|东京时间",
    "Asia/Seoul": "kst|한국 시간|한국시간|한국 표준시|서울 시간",
    "Asia/Singapore": "sgt|新加坡时间",
    "Asia/Hong_Kong": "hkt|香港时间",
    "Asia/Taipei": "台北时间|台湾时间",
    "Asia/Jakarta": "wib",
    "Asia/Ho_Chi_Minh": "gio viet nam|gio ha noi",
    "Asia/Bangkok": "เวลาประเทศไทย|เวลาไทย",
    "Australia/Sydney": "aest|aedt",
}
PLACES = {name: place for place, names in _PLACES.items() for name in names.split("|")}
"""Names of time zones, each with its IANA name."""

FIXED: dict[str, tzinfo] = {
    "z": UTC, "utc": UTC, "gmt": UTC, "协调世界时": UTC, "世界标准时间": UTC, "协定世界时": UTC,
    "北京时间": BEIJING, "beijing": BEIJING, "beijing time": BEIJING, "中国标准时间": BEIJING, "东八区": BEIJING,
}  # fmt: skip

SHORT_ZONES = frozenset("pt mt ct et est ist cst pst mst bst".split())
"""Abbreviations of time zones that are words in other languages or name several zones. They are recognized only
directly after a time.
"""

RESETS = (
    r"(?<![a-z])(?:zuruckgesetzt|zurucksetz|setzt sich|erneut|wieder|verfugbar|nachster versuch|freigegeben"
    r"|reinitialis|renouvel|reessay|a nouveau|disponible|restable|reinici|renuev|renova|vuelve|vuelva|intenta|redefin"
    r"|tente|novamente|disponivel|si reimposta|azzer|rinnov|riprov|disponibil|odnow|zresetow|ponow|sprobuj|dostepn"
    r"|obnov|znovu|zkuste|dostupn|opnieuw|gereset|vernieuw|beschikbaar|sifirlan|yenilen|tekrar|nollstall|aterstall"
    r"|forsok|nulstil|dat lai|lam moi|thu lai|diatur ulang|direset|lagi)"
    r"|сброс|сброш|обнов|восстанов|повтор|попроб|доступ|скин|онов|віднов|спроб|รีเซ็ต|ลอง|إعادة|تجديد|حاول|रीसेट|पुनः|फिर"
    r"|重置|恢复|继续|可用|再试|重试|解封|解除|刷新|更新|リセット|再开|利用可能|利用できる|復旧|回復"
    r"|재설정|초기화|다시|해제|갱신|복구|이후"
)
"""Word stems that announce the end of a limit, in languages other than English."""
