"""Create the drill's private HOME, with configurations and the plugin, and an environment without network access."""

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
from ocwatchd.opencode.plugin import install as plugin_file
from ocwatchd.opencode.process.program import TEMPORARY, bare_environ
from ocwatchd.paths import Paths

LONGEST_TEMPORARY = 40
"""Maximum length of the temporary directory's path. The plugin's socket is below that directory, and the path of the
socket may have at most 103 characters.
"""
SDK = "@ai-sdk/openai-compatible"
STUBS = ("notify-send", "osascript", "rg")
"""Programs replaced by empty scripts: those that send notifications, and ripgrep, which OpenCode would otherwise
download.
"""


@dataclass(frozen=True, slots=True)
class DrillHome:
    """The private home of one drill."""

    root: Path

    @property
    def paths(self) -> Paths:
        """The paths that the drill's daemon uses."""
        return Paths(
            self.root, self.root / ".config/opencode", self.root / ".local/share/opencode",
            self.root / ".local/state/ocwatchd", self.root / ".cache/ocwatchd",
        )  # fmt: skip

    @property
    def project(self) -> Path:
        """The directory in which OpenCode works."""
        return self.root / "project"

    @property
    def bin(self) -> Path:
        """The directory that comes first on PATH."""
        return self.root / "bin"

    def output(self, name: str) -> Path:
        """Return the file for the output of the process `name`."""
        return self.root / f"{name}.out"

    def prepare(self, provider_url: str, generation: int) -> None:
        """Create and fill the home for OpenCode 1 or 2.

        Raises:
            OSError: A file cannot be written.
            PluginFault: The plugin cannot be installed.
        """
        for directory in (self.project, self.bin, self.root / TEMPORARY, self.paths.opencode_config):
            directory.mkdir(parents=True)
        _write(self.paths.opencode_config / "opencode.json", opencode_config(provider_url, generation))
        # The daemon moves the session if the wait is longer than 1 s (default: 30 s), because the drill's limit lasts
        # only seconds.
        _write(self.paths.config_file, {"rateLimit": {"fallbackChain": {PRIMARY: FALLBACK}, "maxDelay": 1000}})
        for name in STUBS:
            (self.bin / name).write_text("#!/bin/sh\nexit 0\n")
            (self.bin / name).chmod(0o755)
        plugin_file.install(self.paths)

    def environ(self, provider_url: str, environ: Mapping[str, str]) -> dict[str, str]:
        """Return OpenCode's whole environment: the caller's PATH and locale, with the drill as the only proxy."""
        out = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), provider_url)
        near = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost,::1")
        path = f"{self.bin}{os.pathsep}{environ.get('PATH', os.defpath)}"
        models = {"OPENCODE_MODELS_URL": provider_url}
        return {**bare_environ(self.root, self.project, environ), **out, **near, **models, "PATH": path}

    def daemon_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the daemon's environment: OpenCode's, plus a PYTHONPATH that contains our package."""
        # With another HOME, Python would not find packages installed for this user only.
        return {**environ, "PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}


def opencode_config(provider_url: str, generation: int) -> dict[str, object]:
    """Return the content of an `opencode.json` that contains only the drill's provider, in the format of OpenCode 1 or
    2.
    """
    models = [tuple(model.split("/", 1)) for model in (PRIMARY, FALLBACK, TITLES)]
    urls = {provider: {"baseURL": f"{provider_url}/{provider}/v1", "apiKey": "not-a-key"} for provider, _ in models}
    limit = {"context": 200000, "output": 8000}
    common: dict[str, object] = {"autoupdate": False, "share": "disabled", "model": PRIMARY}
    if generation == 1:
        return common | {
            "small_model": TITLES,
            "enabled_providers": list(urls),
            "provider": {
                provider: {
                    "npm": SDK,
                    "name": provider,
                    "options": urls[provider],
                    "models": {model: {"name": model, "tool_call": True, "limit": limit}},
                }
                for provider, model in models
            },
        }
    allowed = [{"action": "provider.use", "resource": name, "effect": "allow"} for name in urls]
    denied = {"action": "provider.use", "resource": "*", "effect": "deny"}
    return common | {
        "agents": {"title": {"model": TITLES}},
        "experimental": {"policies": [denied, *allowed]},
        "providers": {
            provider: {
                "name": provider,
                "package": f"aisdk:{SDK}",
                "settings": urls[provider],
                "models": {model: {"name": model, "limit": limit}},
            }
            for provider, model in models
        },
    }


@contextmanager
def private_home(keep: bool = False) -> Iterator[DrillHome]:
    """Create a home in the temporary directory. It is removed when the context ends, unless `keep` is set.

    Raises:
        OSError: The home cannot be created.
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
