"""Find the models that OpenCode offers according to files on this machine, and decide whether a model exists.

The files are OpenCode's configuration, its cached list of all models, and the names of logged-in providers. No process
is started, and the network is not used. If a model might exist, the answer is `UNSURE`, never `NO`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ocwatchd.config.known_models import cached_catalogue, catalogue_file, logged_in_providers, recent_models
from ocwatchd.config.opencode_config import global_files, merged, object_in, project_files
from ocwatchd.config.opencode_setup import config_directories, read_setup
from ocwatchd.core.parsing.providers import WELL_KNOWN
from ocwatchd.errors import ConfigError
from ocwatchd.paths import Paths

NEAR = 0.6
"""Minimum similarity, from 0 to 1, between a misspelled name and a name that is suggested in its place."""
MAX_NEAR = 3
"""Maximum number of names that are suggested for a misspelled name."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The models that OpenCode offers on this machine, by provider and source."""

    by_endpoints: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The models reported by running OpenCode processes. Each list is complete for the project of its process."""
    configured: Mapping[str, frozenset[str]] = field(default_factory=dict)
    catalogue: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """OpenCode's cached list of models, by provider. If a configured provider is also in this list, OpenCode offers
    both its configured models and its models from the list.
    """
    catalogue_age: float | None = None
    """Age of the cached list in seconds; None if there is none."""
    signed_in: frozenset[str] = frozenset()
    enabled: frozenset[str] | None = None
    """The providers that OpenCode may use; None means all providers that are not disabled."""
    disabled: frozenset[str] = frozenset()


CATALOGUE_FRESH = 7 * 86400.0
"""Maximum age, in seconds, at which OpenCode's cached list of models is considered complete. A model missing from such
a list does not exist.

OpenCode renews the list at every start.
"""


class Answer(StrEnum):
    """Whether a model or provider exists."""

    YES = "yes"
    NO = "no"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a model or provider exists, with the reason as a clause, such as `zai offers no model of that name`."""

    answer: Answer
    why: str = ""


def judge(model: str, offered: Offered) -> Judgement:
    """Return whether OpenCode can use this `provider/model`. If it cannot, the result contains the reason."""
    provider, _, name = model.partition("/")
    if offered.enabled is not None and provider not in offered.enabled:
        return Judgement(Answer.NO, f"{provider} is not among the enabled_providers in opencode.json")
    if provider in offered.disabled:
        return Judgement(Answer.NO, f"{provider} is among the disabled_providers in opencode.json")
    lists = (offered.by_endpoints, offered.configured, offered.catalogue)
    if any(name in known.get(provider, ()) for known in lists):
        return Judgement(Answer.YES)
    missing = f"{provider} offers no model of that name"
    if provider in offered.by_endpoints:
        return Judgement(Answer.NO, f"{missing}, according to a running OpenCode process")
    if provider in offered.catalogue:
        return _by_catalogue(missing, offered.catalogue_age)
    if provider in WELL_KNOWN:  # the catalog with this provider's models is not available here
        return Judgement(Answer.UNSURE, f"no model list for {provider} is available")
    if offered.configured.get(provider):
        return Judgement(Answer.NO, f"{missing} in opencode.json")
    if provider in offered.configured or provider in offered.signed_in:
        return Judgement(Answer.UNSURE, f"no model list for {provider} is available")
    if not any(lists):
        return Judgement(Answer.UNSURE, "no list of models is available")
    return Judgement(Answer.NO, f"there is no provider {provider}")


def judge_provider(provider: str, offered: Offered) -> Judgement:
    """Return whether OpenCode has this provider. If it does not, the result contains the reason."""
    lists = (offered.by_endpoints, offered.configured, offered.catalogue)
    if any(provider in known for known in lists) or provider in offered.signed_in or provider in WELL_KNOWN:
        return Judgement(Answer.YES)
    if not any(lists):
        return Judgement(Answer.UNSURE, "no list of models is available")
    return Judgement(Answer.NO, f"there is no provider {provider}")


def _by_catalogue(missing: str, age: float | None) -> Judgement:
    if age is not None and age > CATALOGUE_FRESH:
        return Judgement(Answer.UNSURE, f"{missing} in OpenCode's cached list, which is {age / 86400:.0f} days old")
    return Judgement(Answer.NO, f"{missing} in OpenCode's cached list")


def read_offered(
    paths: Paths,
    configs: Iterable[Mapping[str, object]] | None = None,
    environ: Mapping[str, str] | None = None,
    projects: Iterable[str] = (),
    catalogue: Mapping[str, frozenset[str]] | None = None,
) -> Offered:
    """Return the models that OpenCode offers. `configs` contains the merged configuration of each project.

    Without `configs`, read the global configuration and the configurations of the working directory and of the
    directories in `projects`. Without `catalogue`, read OpenCode's cached list. An unreadable configuration is skipped.
    """
    if configs is None:
        configs = _configs(paths, os.environ if environ is None else environ, projects)
    if catalogue is None:
        catalogue = {provider: frozenset(models) for provider, models in cached_catalogue(paths).items()}
    merged_configs: list[Mapping[str, object]] = list(configs)
    configured: dict[str, frozenset[str]] = {}
    for config in merged_configs:
        for provider, value in object_in(config, "provider").items():
            models = frozenset(object_in(value, "models")) if isinstance(value, dict) else frozenset()
            configured[provider] = configured.get(provider, frozenset()) | models
    age = None
    with suppress(OSError):
        age = time.time() - catalogue_file(paths).stat().st_mtime
    return Offered(
        configured=configured,
        catalogue=catalogue,
        catalogue_age=age,
        signed_in=frozenset(logged_in_providers(paths)),
        enabled=_enabled(merged_configs),
        disabled=_disabled(merged_configs),
    )


def _configs(paths: Paths, environ: Mapping[str, str], projects: Iterable[str]) -> list[dict[str, object]]:
    files = global_files(map(str, config_directories(paths, environ)), environ)
    found, directories = [], list(projects)
    with suppress(OSError):  # the working directory may have been removed
        directories.insert(0, str(Path.cwd()))
    with suppress(ConfigError):
        found.append(merged(files, environ))
    for directory in dict.fromkeys(directories):
        with suppress(ConfigError, OSError):
            found.append(merged([*files, *project_files(directory)], environ))
    return found


def _enabled(configs: list[Mapping[str, object]]) -> frozenset[str] | None:
    """Return the providers that any of the projects may use, or None if one of the projects does not restrict them."""
    if not configs or not all(isinstance(config.get("enabled_providers"), list) for config in configs):
        return None
    return frozenset[str]().union(*(_listed(config, "enabled_providers") for config in configs))


def _disabled(configs: list[Mapping[str, object]]) -> frozenset[str]:
    """Return the providers that are disabled in all projects."""
    lists = [_listed(config, "disabled_providers") for config in configs]
    return frozenset.intersection(*lists) if lists else frozenset()


def _listed(config: Mapping[str, object], key: str) -> frozenset[str]:
    value = config.get(key)
    return frozenset(str(item) for item in value) if isinstance(value, list) else frozenset()


def named_by_opencode(paths: Paths) -> frozenset[str]:
    """Return the models that OpenCode is configured to use: its default model, the agents' models, and recently used
    models.

    They are considered known, because an OpenCode plugin may add models that are in none of the lists on this machine.
    """
    found = set(recent_models(paths, None))
    with suppress(ConfigError):
        setup = read_setup(paths)
        found.update(filter(None, (setup.model, setup.small_model, *(agent.model for agent in setup.agents))))
    return frozenset(found)


def nearest(model: str, offered: Offered, further: Iterable[str] = ()) -> list[str]:
    """Return up to `MAX_NEAR` known models whose names are most similar to `model`. Models that can be used come first.

    `further` contains names known from other sources, such as the user's own chains.
    """
    from difflib import get_close_matches  # lazy import: needed only for a misspelled name

    lists = (offered.by_endpoints, offered.configured)
    certain = {f"{provider}/{name}" for known in lists for provider, names in known.items() for name in names}
    certain.update(further)
    provider, _, _ = model.partition("/")
    usable = offered.signed_in | offered.configured.keys()
    near = [name for name in (*offered.catalogue, *offered.configured) if name == provider]
    near = near or get_close_matches(provider, [*offered.catalogue, *offered.configured, *offered.signed_in], 3, NEAR)
    for one in {*near, *usable}:
        certain.update(f"{one}/{name}" for name in offered.catalogue.get(one, ()))
    found = get_close_matches(model, certain, MAX_NEAR * 2, NEAR)
    return sorted(found, key=lambda name: name.partition("/")[0] not in usable)[:MAX_NEAR]
