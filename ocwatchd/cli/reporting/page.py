"""`ocwatch report`: one self-contained page. No script, no address of anything outside, light and dark."""

from __future__ import annotations

import time
from importlib import resources
from statistics import median

from ocwatchd import __version__
from ocwatchd.cli.reporting import charts
from ocwatchd.cli.reporting.markup import lasting, text
from ocwatchd.core.figures import Cost, Fallback, Figures, ModelFigures
from ocwatchd.core.money import dollars
from ocwatchd.core.spending import Spending

ENDED = {
    "moved": "moved to another model",
    "answered": "went on with the same model after a wait",
    "went_on": "went on with the same model after a wait",
    "already": "went on by themselves",
    "stopped": "stopped by their user",
    "user_took_over": "taken over by their user",
    "freed": "stopped for the session that waited for them",
    "open": "not over, or without a known end",
}


def page(found: Figures, money: Spending) -> str:
    """The whole document."""
    style = resources.files("ocwatchd").joinpath("cli/reporting/page.css").read_text("utf-8")
    body = "".join(
        [_head(found), _tiles(found), *(_charts(found, money) if found.limits or found.rests else [_empty()])]
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>ocwatchd: {text(_window(found))}</title><style>{style}</style></head>"
        f"<body><main>{body}{_method(found)}</main></body></html>\n"
    )


def _head(found: Figures) -> str:
    late = ""
    if found.begins is not None:
        begins = text(_moment(found.begins))
        late = f'<p class="note">The journal begins on {begins}: of the time before, nothing is known.</p>'
    made = f"made {_moment(found.now)} by ocwatchd {__version__}, times are local ({time.strftime('%Z')})"
    return f"<header><h1>Rate limits, {text(_window(found))}</h1><p>{text(made)}</p>{late}</header>"


def _empty() -> str:
    hope = "Nothing to see, which is what one hopes for."
    return f'<section class="calm"><h2>No model was limited.</h2><p>{hope}</p></section>'


def _tiles(found: Figures) -> str:
    cost, moved = found.cost, sum(one.moved for one in found.fallbacks)
    tried = sum(one.tried for one in found.fallbacks)
    times = sorted(seconds for one in found.fallbacks for seconds in one.recovery)
    to_come = f"and {lasting(cost.to_come)} to come" if cost.to_come >= 1 else "of waiting that was told"
    middle = median(times) if times else None
    tiles = [
        ("saved", _some(cost.saved), "saved", to_come),
        ("lost", _some(cost.lost), "lost", f"over {_many(found.turns, 'limited turn')}"),
        (
            "",
            str(found.limits),
            "limit" if found.limits == 1 else "limits",
            f"of {_many(len([m for m in found.models if m.limits]), 'model')}",
        ),
        (
            "",
            str(moved),
            "move" if moved == 1 else "moves",
            f"{moved / tried:.0%} of {tried} tried" if tried else "none was made",
        ),
        ("", lasting(middle), "to recover", f"median; worst {lasting(times[-1])}" if times else "no move yet"),
    ]
    return '<section class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</section>"


def _tile(kind: str, value: str, label: str, aside: str) -> str:
    return f'<div class="tile {kind}"><b>{text(value)}</b><span>{text(label)}</span><small>{text(aside)}</small></div>'


def _charts(found: Figures, money: Spending) -> list[str]:
    return [
        _section("Limits over time", "Every refused request, by model.", charts.over_time(found)),
        _section("When models rested", "A bar is a cooldown: the model was left alone.", charts.timelines(found)),
        _section("Limits by hour of the day", "When to expect them.", charts.by_hour(found)),
        _section(
            "Fallbacks", "How each target fared. Recovery: first refusal to going on.", _fallbacks(found.fallbacks)
        ),
        _section("Models", "What each limited model cost.", _models(found.models)),
        _section("Money", "What moved turns cost, by OpenCode's own prices, in US dollars.", _money(money)),
        _section("How limited turns ended", "", _outcomes(found)),
    ]


def _section(title: str, about: str, content: str) -> str:
    return f"<section><h2>{text(title)}</h2><p>{text(about)}</p>{content}</section>"


def _fallbacks(found: tuple[Fallback, ...]) -> str:
    if not found:
        return '<p class="note">No turn was moved.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(one.model)}</th><td data-of="success"><span class="meter">'
        f"{charts.share(one.rate or 0.0)}</span>{one.rate or 0.0:.0%}</td>"
        + _cells(
            ("moved", f"{one.moved} of {one.tried}"),
            ("limited too", str(one.limited or "–")),
            ("failed", str(one.failed or "–")),
            ("median recovery", lasting(one.median)),
            ("worst", lasting(one.worst)),
            ("first token", lasting(one.median_first_token)),
        )
        + "</tr>"
        for one in found
    )
    return _table(
        ("target", "success", "moved", "limited too", "failed", "median recovery", "worst", "first token"), rows
    )


def _models(found: tuple[ModelFigures, ...]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{text(one.model)}</th>'
        + _cells(
            ("limits", str(one.limits)),
            ("kinds", ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in one.kinds) or "–"),
            ("cooling", lasting(one.cooling)),
            ("lost", _some(one.cost.lost)),
            ("saved", _some(one.cost.saved)),
        )
        + "</tr>"
        for one in found
    )
    return _table(("model", "limits", "kinds", "cooling", "lost", "saved"), rows)


def _money(money: Spending) -> str:
    if not money.moved:
        return f'<p class="note">No moved turn has cost anything. In all {dollars(money.total)} were spent.</p>'
    rows = "".join(
        f'<tr><th scope="row">{text(one.target)}</th>'
        + _cells(
            ("turns", str(one.turns)),
            ("cost", dollars(one.dollars)),
            ("instead (estimate)", "–" if one.saved is None else dollars(one.instead)),
            ("saved (estimate)", "–" if one.saved is None else dollars(one.saved)),
        )
        + "</tr>"
        for one in money.moved
    )
    whole = f'<p class="note">In all {dollars(money.total)} were spent.</p>'
    return _table(("target", "turns", "cost", "instead (estimate)", "saved (estimate)"), rows) + whole


def _outcomes(found: Figures) -> str:
    count: dict[str, int] = {}
    for outcome, number in found.outcomes:
        name = ENDED.get(outcome, outcome)
        count[name] = count.get(name, 0) + number
    rows = "".join(
        f'<tr><th scope="row">{text(name)}</th><td data-of="share"><span class="meter">'
        f"{charts.share(number / found.turns)}</span>{number / found.turns:.0%}</td>"
        f"{_cells(('turns', str(number)))}</tr>"
        for name, number in count.items()
    )
    return _table(("end", "share", "turns"), rows) if rows else '<p class="note">No turn was limited.</p>'


def _cells(*cells: tuple[str, str]) -> str:
    return "".join(f'<td data-of="{text(name)}">{text(value)}</td>' for name, value in cells)


def _table(titles: tuple[str, ...], rows: str) -> str:
    head = "".join(f'<th scope="col">{text(title)}</th>' for title in titles)
    return f'<table class="list"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


METHOD = """
<section class="method"><h2>How this is counted</h2><ul>
<li><b>Lost</b> is what limited turns waited: from a turn's first refusal until it went on (on another model or on its
own), was stopped, or now. Waits of one session never count twice; two sessions that wait at once count both. Of a turn
that is not over, only a wait whose end was told counts.</li>
<li><b>Saved</b> is, for each turn that was moved, the wait that was told minus what the move took: from the moment at
which it went on until OpenCode's own next attempt or the end that the provider named, the later one. It ends sooner
where the model was seen to answer, or was cleared, before that. What lies ahead is not counted yet. It assumes that you
would have waited, and that the provider would have kept its word.</li>
<li>@UNCOUNTED@</li>
<li><b>Success</b> counts moves that the target answered, of those it answered, refused or failed. Moves that a guard or
a person prevented say nothing of the target.</li>
<li>New prompts that the companion plugin sent elsewhere before any request was made are not in the journal: what that
saved is not counted.</li>
<li><b>Money</b> is what OpenCode noted with each answer of a moved turn. <b>Instead</b> is an estimate: the same
tokens at the prices of the model that refused, where OpenCode's provider list has them. Plans show as free there.</li>
<li>A title or summary request that was refused counts as a limit, not as a turn.</li></ul>
<p>The same figures: <code>ocwatch report --json</code>; one decision in full: <code>ocwatch explain ID</code>, with the
id that a cooldown shows when you point at it.</p></section>
"""


def _method(found: Figures) -> str:
    return METHOD.replace("@UNCOUNTED@", _uncounted(found.cost))


def _uncounted(cost: Cost) -> str:
    if not cost.uncounted:
        return "Every moved turn had a wait whose end was told."
    return f"{_many(cost.uncounted, 'moved turn')} had a wait whose end nobody told: there, nothing counts as saved."


def _some(seconds: float) -> str:
    return lasting(seconds or None)


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _window(found: Figures) -> str:
    return f"{_moment(found.since)} to {_moment(found.now)}"


def _moment(at: float) -> str:
    return time.strftime("%a %d %b %Y %H:%M", time.localtime(at))
