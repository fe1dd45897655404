"""The drill's private HOME: OpenCode's configuration, ours, the plugin, and an environment that lets nothing out."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ocwatchd.drill.provider import FALLBACK, PRIMARY, TITLES
from ocwatchd.opencode import plugin_file
from ocwatchd.opencode.program import TEMPORARY, bare_environ
from ocwatchd.paths import Paths

LONGEST_TEMPORARY = 40
"""Characters: the plugin's socket below it has to stay within the 103 that every system takes."""
STUBS = ("notify-send", "osascript", "rg")
"""Desktop notices, because a drill is no news, and ripgrep, which OpenCode downloads where there is none."""


@dataclass(frozen=True, slots=True)
class DrillHome:
    """One private home. `project` is the directory that OpenCode works in."""

    root: Path

    @property
    def paths(self) -> Paths:
        """What `Paths.from_env` gives the drill's daemon."""
        return Paths(
            self.root, self.root / ".config/opencode", self.root / ".local/share/opencode",
            self.root / ".local/state/ocwatchd", self.root / ".cache/ocwatchd",
        )  # fmt: skip

    @property
    def project(self) -> Path:
        """The project directory."""
        return self.root / "project"

    @property
    def bin(self) -> Path:
        """Programs that come first on PATH."""
        return self.root / "bin"

    def output(self, name: str) -> Path:
        """Where a process writes what it says."""
        return self.root / f"{name}.out"

    def prepare(self, provider_url: str) -> None:
        """Make and fill it.

        Raises:
            OSError: it cannot be written.
            PluginFault: the plugin cannot be installed.
        """
        for directory in (self.project, self.bin, self.root / TEMPORARY, self.paths.opencode_config):
            directory.mkdir(parents=True)
        _write(self.paths.opencode_config / "opencode.json", opencode_config(provider_url))
        # At once instead of after 30 s: the drill's limit lasts only seconds.
        _write(self.paths.config_file, {"rateLimit": {"fallbackChain": {PRIMARY: FALLBACK}, "maxDelay": 1000}})
        for name in STUBS:
            (self.bin / name).write_text("#!/bin/sh\nexit 0\n")
            (self.bin / name).chmod(0o755)
        plugin_file.install(self.paths)

    def environ(self, provider_url: str, environ: Mapping[str, str]) -> dict[str, str]:
        """OpenCode's whole environment: its caller's PATH and locale; the one way out is our proxy, which refuses."""
        out = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), provider_url)
        near = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost,::1")
        path = f"{self.bin}{os.pathsep}{environ.get('PATH', os.defpath)}"
        models = {"OPENCODE_MODELS_URL": provider_url}
        return {**bare_environ(self.root, self.project, environ), **out, **near, **models, "PATH": path}

    def daemon_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The same for the daemon, from OpenCode's: it has to find our package wherever it was installed."""
        # With another HOME Python would miss what is installed for this user alone.
        return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}


def opencode_config(provider_url: str) -> dict[str, object]:
    """An `opencode.json` that knows only the drill's provider."""
    names = [model.partition("/")[::2] for model in (PRIMARY, FALLBACK, TITLES)]
    return {
        "autoupdate": False,
        "share": "disabled",
        "model": PRIMARY,
        "small_model": TITLES,
        "enabled_providers": [provider for provider, _ in names],
        "provider": {
            provider: {
                "npm": "@ai-sdk/openai-compatible",
                "name": provider,
                "options": {"baseURL": f"{provider_url}/{provider}/v1", "apiKey": "not-a-key"},
                "models": {model: {"name": model, "tool_call": True, "limit": {"context": 200000, "output": 8000}}},
            }
            for provider, model in names
        },
    }


@contextmanager
def private_home(keep: bool = False) -> Iterator[DrillHome]:
    """A new home in the temporary directory, removed at the end unless it is to be kept.

    Raises:
        OSError: it cannot be made.
    """
    usual = os.path.realpath(tempfile.gettempdir())
    base = usual if len(usual) <= LONGEST_TEMPORARY else os.path.realpath("/tmp")  # noqa: S108 (macOS: 49 characters)
    root = Path(tempfile.mkdtemp(prefix="ocwatch-drill-", dir=base))
    try:
        yield DrillHome(root)
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


def _write(path: Path, document: Mapping[str, object]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
