"""Read the user's OpenCode configuration in the same way as OpenCode: later files take precedence, and `{env:X}` is
replaced.

OpenCode 2 renames some keys but still reads the old names, even mixed in one file. Here each file is converted to the
format of OpenCode 1, which the rest of this package uses.

API keys and headers are never copied, and a `{file:…}` is never opened, because it usually contains an API key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from ocwatchd.config.reader import parse, read_text
from ocwatchd.errors import ConfigError

FILE_NAMES = ("config.json", "opencode.json", "opencode.jsonc")
"""The configuration files in the global directory. Later files take precedence (according to the source code of
1.18.33).
"""

PROJECT_NAMES = (".opencode/opencode.jsonc", ".opencode/opencode.json", "opencode.jsonc", "opencode.json")
"""The configuration files in a project's directories, in descending precedence."""

DEFAULT_AGENT = "build"

_STRING = r'"(?:\\.|[^"\\])*"'
_BARE = _STRING + r"|\{(env|file):([^{}\n]*)\}"
_REFERENCE = r"\{(env|file):([^{}]*)\}"


def global_files(directories: Iterable[str], environ: Mapping[str, str]) -> list[str]:
    """Return the configuration files that apply to every project, in ascending order of precedence."""
    files = [os.path.join(directory, name) for directory in directories for name in FILE_NAMES]
    extra = environ.get("OPENCODE_CONFIG", "")
    return [*files, extra] if extra else files


def project_files(directory: str) -> list[str]:
    """Return the configuration files of the project that contains `directory`, up to the top of its repository,
    outermost first.
    """
    found: list[str] = []
    while True:
        found += [os.path.join(directory, name) for name in PROJECT_NAMES]
        parent = os.path.dirname(directory)
        if parent == directory or os.path.exists(os.path.join(directory, ".git")):
            return found[::-1]
        directory = parent


def merged(files: Iterable[str], environ: Mapping[str, str]) -> dict[str, object]:
    """Return the configuration merged from all files that exist, and from OPENCODE_CONFIG_CONTENT.

    Raises:
        ConfigError: A file, or OPENCODE_CONFIG_CONTENT, cannot be read.
    """
    whole: dict[str, object] = {}
    for name in files:
        text = read_text(name)
        if text is not None:
            _merge(whole, _object(text, name, environ))
    inline = environ.get("OPENCODE_CONFIG_CONTENT", "")
    if inline.strip():
        _merge(whole, _object(inline, "OPENCODE_CONFIG_CONTENT", environ))
    return whole


def default_model(config: Mapping[str, object], environ: Mapping[str, str]) -> str | None:
    """Return the model that a new session uses, or None if none is configured. It is the default agent's model or, if
    that agent has none, the global model.
    """
    agent = text_of(config, "default_agent", environ) or DEFAULT_AGENT
    own = text_of(object_in(object_in(config, "agent"), agent), "model", environ)
    return own or text_of(config, "model", environ)


def defined_agents(config: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object], bool]]:
    """Yield the name and definition of each enabled agent, and whether it can be more than a subagent.

    An agent may be yielded twice, because `mode` is the older name of `agent`. Entries in `agent` come last and replace
    those in `mode`.
    """
    for section in ("mode", "agent"):
        for name, value in object_in(config, section).items():
            if isinstance(value, dict) and value.get("disable") is not True:
                yield name, value, value.get("mode") != "subagent"


def object_in(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    """Return the object under `key`, or an empty object if there is none."""
    inner = value.get(key)
    return inner if isinstance(inner, dict) else {}


def text_of(value: Mapping[str, object], key: str, environ: Mapping[str, str]) -> str | None:
    """Return the text under `key` with references replaced, or None if it is missing or empty."""
    text = value.get(key)
    if not isinstance(text, str):
        return None
    filled = re.sub(_REFERENCE, lambda found: _value(found, environ), text) if "{" in text else text
    return filled.strip() or None


def _object(text: str, name: str, environ: Mapping[str, str]) -> dict[str, object]:
    if not text.strip():
        return {}
    try:
        value = parse(text, name)
    except ConfigError:
        # OpenCode replaces references before it parses the file, so they may occur outside quotes, as in {"port":
        # {env:PORT}}.
        filled = re.sub(_BARE, lambda found: _bare(found, environ), text, flags=re.DOTALL)
        if filled == text:
            raise
        value = parse(filled, name)
    return in_older_shape(value) if isinstance(value, dict) else {}


def in_older_shape(config: Mapping[str, object]) -> dict[str, object]:
    """Return one file's content with OpenCode 2's keys copied to the corresponding keys of OpenCode 1.

    `providers` is copied to `provider`, `agents` to `agent`, the model of the agent `title` to `small_model`, and a
    provider's `settings` and `package` to `options` and `npm`. Policies on `provider.use` become the lists of enabled
    or disabled providers (0.0.0-next-16350).
    """
    found = dict(config)
    providers = {name: _provider(value) for name, value in object_in(config, "providers").items()}
    agents = dict(object_in(config, "agents"))
    # No session uses this agent. In OpenCode 1, `small_model` serves the same purpose.
    title = agents.pop("title", None)
    if isinstance(title, dict) and "model" in title:
        found.setdefault("small_model", title["model"])
    for key, newer in (("provider", providers), ("agent", agents)):
        if newer:
            whole: dict[str, object] = {}
            _merge(whole, object_in(config, key))
            _merge(whole, newer)
            found[key] = whole
    return found | _used_providers(config)


def _provider(value: object) -> object:
    if not isinstance(value, dict):
        return value
    package = value.get("package")
    npm = {"npm": package.removeprefix("aisdk:")} if isinstance(package, str) else {}
    models = {name: _model(model) for name, model in object_in(value, "models").items()}
    return {**value, **npm, "options": object_in(value, "settings") or object_in(value, "options"), "models": models}


def _model(value: object) -> object:
    tools = object_in(value, "capabilities").get("tools") if isinstance(value, dict) else None
    return {**value, "tool_call": tools} if isinstance(value, dict) and isinstance(tools, bool) else value


def _used_providers(config: Mapping[str, object]) -> dict[str, object]:
    """Return OpenCode's provider policies as `enabled_providers` or `disabled_providers`. The last policy for a
    provider applies."""
    policies = object_in(config, "experimental").get("policies")
    allowed: list[str] = []
    denied: list[str] = []
    others = True
    for policy in policies if isinstance(policies, list) else []:
        if not isinstance(policy, dict) or policy.get("action") != "provider.use":
            continue
        name, allows = policy.get("resource"), policy.get("effect") == "allow"
        if name == "*":
            allowed, denied, others = [], [], allows
        elif isinstance(name, str):
            allowed, denied = ([each for each in names if each != name] for names in (allowed, denied))
            (allowed if allows else denied).append(name)
    if not others:
        return {"enabled_providers": allowed}
    older = config.get("disabled_providers")
    return {"disabled_providers": [*(older if isinstance(older, list) else []), *denied]} if denied else {}


def _bare(found: re.Match[str], environ: Mapping[str, str]) -> str:
    if found.group().startswith('"'):
        return found.group()
    value = _value(found, environ)
    return value if re.fullmatch(r"-?\d{1,15}(\.\d{1,15})?|true|false|null|" + _STRING, value) else "null"


def _value(found: re.Match[str], environ: Mapping[str, str]) -> str:
    return environ.get(found.group(2).strip(), "") if found.group(1) == "env" else ""


def _merge(into: dict[str, object], other: Mapping[str, object]) -> None:
    for key, value in other.items():
        old = into.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value)
        else:
            into[key] = value
