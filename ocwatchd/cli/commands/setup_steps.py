"""Print the steps of `up` and `down`: line by line, as a plan (dry run), or as one JSON document after the last
step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.cli.output.escape import escape
from ocwatchd.cli.output.render import iso, say, say_json, tell, warn

VERBS = {
    "wrote": "write",
    "installed": "install",
    "updated": "update",
    "removed": "remove",
    "started": "start",
    "ended": "end",
}
"""Maps the past tense of each verb to its infinitive, which a dry run prints."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step: a change, or something that needed no change. `did` is one of the words that the JSON contract defines.

    If `did` is in VERBS, `text` is printed after that verb; otherwise, `text` is a whole sentence.
    """

    what: str
    did: str
    path: Path | None = None
    text: str = ""
    pid: int | None = None
    verbatim: str = ""
    """Lines printed after the sentence. They are not wrapped, so that the user can copy them."""

    def sentence(self, dry_run: bool) -> str:
        """Return the sentence to print, or an empty string if there is nothing to print."""
        if self.did not in VERBS:
            return self.text
        return f"Would {VERBS[self.did]} {self.text}" if dry_run else f"{self.did.capitalize()} {self.text}"

    def as_json(self) -> dict[str, object]:
        """Return the step as an object of the JSON contract."""
        return {
            "what": self.what,
            "did": self.did,
            "path": None if self.path is None else str(self.path),
            "pid": self.pid,
        }


class Report:
    """A collection of steps. Each step is printed when it is added. In a `dry_run`, it is printed as a planned
    change.
    """

    def __init__(self, *, dry_run: bool, as_json: bool) -> None:
        """Initialize the report without any steps."""
        self.dry_run, self.as_json = dry_run, as_json
        self._steps: list[Step] = []

    def add(self, step: Step) -> None:
        """Add and print a step that was done, or would be done."""
        self._steps.append(step)
        sentence = step.sentence(self.dry_run)
        if step.did == "failed":
            warn(sentence)
        elif sentence and not self.as_json:
            tell(sentence)
            if step.verbatim:
                say("\n" + "\n".join(map(escape, step.verbatim.rstrip("\n").split("\n"))) + "\n")

    def warn(self, text: str) -> None:
        """Print a warning on standard error; it is not part of the JSON document."""
        warn(text)

    def end(self, more: Mapping[str, object]) -> None:
        """Finish the report. If JSON output was requested, print the document, including the additional fields in
        `more`.
        """
        if self.as_json:
            steps = [step.as_json() for step in self._steps]
            say_json({"time": iso(time.time()), "dry_run": self.dry_run, "steps": steps, **more})
        sys.stdout.flush()  # flush now, because a foreground daemon is about to write to the same file


def shown(path: Path | None) -> str:
    """Return a path, escaped for a terminal."""
    return escape(str(path))
