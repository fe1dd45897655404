"""What `up` and `down` do, step by step: told as it happens, or first only told, or as one JSON document at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.cli.escape import escape
from ocwatchd.cli.render import iso, say_json, tell, warn

VERBS = {
    "wrote": "write",
    "installed": "install",
    "updated": "update",
    "removed": "remove",
    "started": "start",
    "ended": "end",
}
"""What was done, and how one says that it would be."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing done, kept or found. `did` is a word of the JSON contract.

    `text` is for people: what stands after the verb where `did` is one of VERBS, else a whole sentence.
    """

    what: str
    did: str
    path: Path | None = None
    text: str = ""
    pid: int | None = None

    def sentence(self, dry_run: bool) -> str:
        """What a person is told; "" for nothing."""
        if self.did not in VERBS:
            return self.text
        return f"Would {VERBS[self.did]} {self.text}" if dry_run else f"{self.did.capitalize()} {self.text}"

    def as_json(self) -> dict[str, object]:
        """The step in the JSON contract."""
        return {
            "what": self.what,
            "did": self.did,
            "path": None if self.path is None else str(self.path),
            "pid": self.pid,
        }


class Report:
    """Collects steps. With `dry_run` nothing is done and everything is said as what would be."""

    def __init__(self, *, dry_run: bool, as_json: bool) -> None:
        """Nothing was done yet."""
        self.dry_run, self.as_json = dry_run, as_json
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """A step that has been done, or would be."""
        self._steps.append(step)
        sentence = step.sentence(self.dry_run)
        if step.did == "failed":
            warn(sentence)
        elif sentence and not self.as_json:
            tell(sentence)

    def warn(self, text: str) -> None:
        """A remark on standard error: it disturbs no document."""
        warn(text)

    def end(self, more: Mapping[str, object]) -> None:
        """Everything has been said; the document, if that was asked for."""
        if self.as_json:
            steps = [step.as_json() for step in self._steps]
            say_json({"time": iso(time.time()), "dry_run": self.dry_run, "steps": steps, **more})
        sys.stdout.flush()  # what was said so far comes before what a daemon in the foreground says, also in a file


def shown(path: Path | None) -> str:
    """A path for a terminal."""
    return escape(str(path))
