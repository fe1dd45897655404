"""Record a real move as an animated SVG for the README: `python -m scripts.record_move docs/move.svg`.

A real OpenCode runs in tmux, in a private HOME, against a provider on loopback that limits the primary model for an
hour. Its screen is read ten times a second, and each screen that differs from the last one becomes a frame.
"""

from __future__ import annotations

import html
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.daemon import ocwatch
from tests.support.opencode import NEWEST, Home
from tests.support.provider import Provider, limited, ok
from tests.support.tui import Tui

COLUMNS, ROWS = 92, 24
CHARACTER, LINE = 7.8, 17
"""Width of a character and height of a line, in units of the picture."""
POLL = 0.1
LAST = 4.0
"""Time, in seconds, for which the last frame stays before the animation starts again."""
MAX_FRAMES = 24
PROMPT = "Why does the login form lose its focus?"
ANSWER = "The effect runs after each key, so the input is mounted anew. Give it a stable key."


def record() -> list[tuple[float, list[str]]]:
    """Return the frames: seconds since the first one, and the lines of the screen."""
    frames: list[tuple[float, list[str]]] = []
    with tempfile.TemporaryDirectory(prefix="ocw-record-") as scratch, Provider() as provider:
        home = Home(Path(scratch) / "home", provider.url)
        provider.script("mock/primary", limited(3600))
        provider.script("mock2/fallback", ok(ANSWER))
        chain = {"rateLimit": {"fallbackChain": {"mock/primary": ["mock2/fallback"]}}}
        (home.config_dir / "rate-limit-config.json").write_text(json.dumps(chain))
        assert ocwatch(home, "up", "--detach").returncode == 0
        try:
            with Tui(NEWEST, home, size=(COLUMNS, ROWS)) as tui:
                begun = time.monotonic()
                tui.say(PROMPT)
                deadline = begun + 60
                while time.monotonic() < deadline:
                    lines = [_without(line, str(home.root)) for line in tui.screen().splitlines()]
                    if not frames or lines != frames[-1][1]:
                        frames.append((time.monotonic() - begun, lines))
                    if any("stable key" in line for line in lines):
                        break
                    time.sleep(POLL)
                else:
                    raise SystemExit("the session was not moved within 60 s")
        finally:
            ocwatch(home, "down")
    return thinned(frames)


def _without(line: str, root: str) -> str:
    """Return the line with the private HOME replaced by `~` and padded to the same width."""
    return re.sub(re.escape(root) + r"(\S*)", lambda found: f"~{found[1]}{' ' * (len(root) - 1)}", line)


def thinned(frames: Sequence[tuple[float, list[str]]]) -> list[tuple[float, list[str]]]:
    """Return at most MAX_FRAMES frames, including the first and the last."""
    if len(frames) <= MAX_FRAMES:
        return list(frames)
    step = (len(frames) - 1) / (MAX_FRAMES - 1)
    return [frames[round(index * step)] for index in range(MAX_FRAMES)]


def svg(frames: Sequence[tuple[float, list[str]]]) -> str:
    """Return the SVG: each frame is a group that is visible for its time, in a loop."""
    length = frames[-1][0] - frames[0][0] + LAST
    width, height = round(COLUMNS * CHARACTER + 24), ROWS * LINE + 24
    rules, groups = [], []
    for index, (at, lines) in enumerate(frames):
        begin = (at - frames[0][0]) / length * 100
        end = (frames[index + 1][0] - frames[0][0]) / length * 100 if index + 1 < len(frames) else 100
        hidden = "" if index == 0 else f"0%,{begin - 0.01:.2f}%{{opacity:0}}"
        after = "" if end == 100 else f"{end:.2f}%,100%{{opacity:0}}"
        rules.append(f"@keyframes f{index}{{{hidden}{begin:.2f}%,{end - 0.01:.2f}%{{opacity:1}}{after}}}")
        rules.append(f"#g{index}{{animation:f{index} {length:.1f}s step-end infinite}}")
        text = "".join(
            f'<text y="{(row + 1) * LINE}" xml:space="preserve">{html.escape(line.rstrip())}</text>'
            for row, line in enumerate(lines[:ROWS])
            if line.strip()
        )
        groups.append(f'<g id="g{index}" opacity="{int(index == len(frames) - 1)}">{text}</g>')
    still = "@media (prefers-reduced-motion:reduce){g{animation:none!important}}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        "<title>A model is limited, and the same session continues on the fallback</title>"
        f"<style>text{{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#e6e6e6}}{''.join(rules)}{still}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#16181d"/>'
        f'<g transform="translate(12 6)">{"".join(groups)}</g></svg>\n'
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(record()))
