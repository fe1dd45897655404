"""Private homes for OpenCode: a configuration with only the fake provider, and an environment without the user's
variables.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OPENAI_COMPATIBLE = "@ai-sdk/openai-compatible"
ANTHROPIC = "@ai-sdk/anthropic"
OPENAI = "@ai-sdk/openai"
GOOGLE = "@ai-sdk/google"


@dataclass(frozen=True, slots=True)
class ProviderSpec:
    """One provider of an `opencode.json`. `url` is set if it is not the fake provider; `about` contains more fields for
    its models.
    """

    models: Sequence[str]
    npm: str = OPENAI_COMPATIBLE
    url: str | None = None
    about: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


DEFAULT_PROVIDERS: Mapping[str, ProviderSpec] = {
    "mock": ProviderSpec(("primary", "second")),
    "mock2": ProviderSpec(("fallback",)),
    "mock3": ProviderSpec(("third",)),
    "smallco": ProviderSpec(("titles",)),
}
DEFAULT_AGENTS: Mapping[str, Mapping[str, Any]] = {
    "claude-primary": {"model": "mock/primary", "mode": "primary"},
    "claude-fallback": {"model": "mock2/fallback", "mode": "primary", "description": "the fallback"},
}


@dataclass(slots=True)
class Home:
    """A private HOME with an `opencode.json` that contains only the fake provider at `provider_url`.

    Use one home for each OpenCode version: a newer version migrates the database, and an older one then fails on it.
    Titles are requested from `smallco/titles`, so that title requests can be recognised by their model.
    """

    root: Path
    provider_url: str
    providers: Mapping[str, ProviderSpec] = field(default_factory=lambda: DEFAULT_PROVIDERS)
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: DEFAULT_AGENTS)
    model: str = "mock/primary"
    small_model: str = "smallco/titles"
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Create the directories and write the configuration."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.write_config()
        self._stub_ripgrep()

    @property
    def config_dir(self) -> Path:
        """Return OpenCode's configuration directory in this home."""
        return self.root / ".config" / "opencode"

    @property
    def data_dir(self) -> Path:
        """Return OpenCode's data directory: logs, storage, database."""
        return self.root / ".local" / "share" / "opencode"

    @property
    def log_dir(self) -> Path:
        """Return the directory in which OpenCode writes its logs."""
        return self.data_dir / "log"

    @property
    def database(self) -> Path:
        """Return the path of the message store of 1.2 and later."""
        return self.data_dir / "opencode.db"

    def config(self) -> dict[str, Any]:
        """Return the content of `opencode.json`; a setting of None removes the key."""
        whole = {
            "$schema": "https://opencode.ai/config.json",
            "autoupdate": False,
            "share": "disabled",
            "model": self.model,
            "small_model": self.small_model,
            "enabled_providers": list(self.providers),
            # 1.0.185 does not start if this is a plain string.
            "permission": {"edit": "allow", "bash": "allow", "webfetch": "allow"},
            "provider": {name: self._provider(name, spec) for name, spec in self.providers.items()},
            "agent": {name: dict(agent) for name, agent in self.agents.items()},
            **self.settings,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def _provider(self, name: str, spec: ProviderSpec) -> dict[str, Any]:
        version = "v1beta" if spec.npm == GOOGLE else "v1"
        limit = {"context": 200000, "output": 8000}
        return {
            "npm": spec.npm,
            "name": name,
            "options": {"baseURL": spec.url or f"{self.provider_url}/p/{name}/{version}", "apiKey": "not-a-key"},
            "models": {m: {"name": m, "tool_call": True, "limit": limit, **spec.about.get(m, {})} for m in spec.models},
        }

    def write_config(self) -> None:
        """(Re)write `opencode.json`."""
        self.config_dir.mkdir(parents=True, exist_ok=True)
        (self.config_dir / "opencode.json").write_text(json.dumps(self.config(), indent=2, ensure_ascii=False))

    def _stub_ripgrep(self) -> None:
        """Install a stub for ripgrep, with which 1.0 lists a git project. Otherwise, the prompt would wait for its
        download.
        """
        stub = self.data_dir / "bin" / "rg"
        stub.parent.mkdir(parents=True, exist_ok=True)
        stub.write_text("#!/bin/sh\nexit 0\n")
        stub.chmod(0o755)

    def project(self, name: str = "project", *, git: bool = False) -> Path:
        """Return a project directory in this home, created if missing; with `git`, a repository with one commit."""
        path = self.root / "projects" / name
        if path.exists():
            return path
        path.mkdir(parents=True)
        (path / "README.md").write_text("A project for tests.\n")
        if git:
            author = ("-c", "user.name=Test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
            for args in (("init", "-q", "-b", "main"), ("add", "."), (*author, "commit", "-q", "-m", "First")):
                subprocess.run(["git", *args], cwd=path, env=self.env(), check=True, capture_output=True)
        return path

    def env(self, cwd: Path | None = None) -> dict[str, str]:
        """Return the whole environment of a process in this home, without the caller's XDG, proxy or key variables."""
        kept = {k: os.environ[k] for k in ("PATH", "LANG", "LC_ALL", "TERM", "TMPDIR", "SHELL") if k in os.environ}
        env = {
            **kept,
            "HOME": str(self.root),
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
            # 1.18 installs its plugin library in the background. Without these two variables, the first request hangs
            # for 20 s.
            "npm_config_registry": "http://127.0.0.1:9",
            "npm_config_fetch_retries": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            **self.environment,
        }
        # OpenCode takes the project directory from PWD, not from the real working directory.
        return {**env, "PWD": str(cwd)} if cwd else env
