"""The rules for valid model names, whatever their source: a log, an endpoint, the configuration or a file that ocwatchd
wrote.

Readers and writers use the same rules, so `blacklist.json` never contains a name that its readers would reject. This
module imports nothing, because commands that scripts call often load it.
"""

from __future__ import annotations

NAME_CAP = 300
"""Maximum length, in characters, of a model name, session id or agent name; the longest ones in real configurations
have about 80 characters.
"""


def is_name(name: str) -> bool:
    """Return whether `name` can name a model or a whole provider: `provider/model` or `provider/*`.

    Control characters are rejected because they would be printed to terminals. Surrounding spaces and very long names
    are rejected because no real model has them.
    """
    provider, slash, model = name.partition("/")
    return bool(provider and slash and model) and len(name) <= NAME_CAP and name == name.strip() and name.isprintable()
