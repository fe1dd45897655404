"""Store this release's state files as test data for later releases: `python -m scripts.keep_state`.

Run it once for each release. The result is `tests/integration/data/state/VERSION`, and a test reads all of them.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path

from ocwatchd import __version__
from tests.integration.logtext import refusal
from tests.support.daemon import Daemon
from tests.support.fakeopencode import FakeOpenCode
from tests.support.homes import Home
from tests.support.processes import wait_until

KEPT = Path(__file__).resolve().parent.parent / "tests" / "integration" / "data" / "state"
FILES = ("blacklist.json", "cursors.json", "journal.jsonl", "daemon.json", "moved.json")
WORDS = {
    "mock/primary": "Too Many Requests, try again in 9000s",
    "plan/*": "You have exhausted your capacity on this model. Your quota will reset after 2h41m0s",
    "broke/*": "Insufficient credits. Add more at the provider's site",
    "busy/model": "Overloaded",
}
"""Provider messages, by the blacklist key that each leads to."""


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="state-") as name, FakeOpenCode(name) as opencode:
        home = Home(Path(name), opencode.url)
        home.log_dir.mkdir(parents=True)
        log = home.log_dir / "opencode.log"
        log.touch()
        with Daemon(home, chain={"*": "mock2/fallback"}, endpoints=[opencode.url]) as daemon:
            opencode.limited("ses_0")
            for number, (entry, words) in enumerate(WORDS.items()):
                provider, model = entry.replace("*", "model").split("/")
                line = refusal(number, time.time()).replace(b"Too Many Requests", words.encode())
                named = f"providerID={provider} modelID={model}".encode()
                with log.open("ab") as file:
                    file.write(line.replace(b"providerID=mock modelID=primary", named))
                daemon.wait_cooldown(entry)
            daemon.wait_journal("moved")
            assert daemon.ocwatch("block", "other/model", "--for", "1h").returncode == 0
            wait_until(lambda: (daemon.state / "cursors.json").exists())
            seen = daemon.heartbeat()["beat"]
            wait_until(lambda: daemon.heartbeat()["beat"] != seen)
            _keep(daemon.state, name)


def _keep(state: Path, home: str) -> None:
    place = KEPT / __version__
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for name in FILES:
        text = (state / name).read_text().replace(home, "/home/dev")
        assert all(json.loads(line) for line in text.splitlines()) if name.endswith("l") else json.loads(text)
        (place / name).write_text(text)
    print(f"{place}: {', '.join(FILES)}")


if __name__ == "__main__":
    main()
