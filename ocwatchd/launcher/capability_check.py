"""Before OpenCode starts, find the models that could not continue a session. The information comes from the message
store and the blacklist.

The message store shows how full the context is; the prompt and the attachments of this launch are added to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from mimetypes import guess_type

from ocwatchd.core.domain.capability import CHARS_PER_TOKEN, Needs, unfit
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.opencode.sessions.messages import Message, medium
from ocwatchd.opencode.sessions.snapshots import needs_of
from ocwatchd.state.blacklist.fallback_data import capabilities_in
from ocwatchd.state.blacklist.format import read_entries


def misfits(
    blacklist: Mapping[str, object], messages: Iterable[Message], prompt: str = "", files: Iterable[str] = ()
) -> dict[str, str]:
    """Return the models that could not continue the session, each with the reason.

    `blacklist` is the content of blacklist.json. `messages` are the session's last messages, to which `prompt` and
    `files` (paths) are added.
    """
    so_far = needs_of(list(messages))
    kinds = frozenset(kind for file in files if (kind := medium(guess_type(file)[0] or "")))
    needs = Needs(so_far.tokens + len(prompt) // CHARS_PER_TOKEN, so_far.inputs | kinds, so_far.tools)
    return unfit_models(blacklist, needs)


def unfit_models(blacklist: Mapping[str, object], needs: Needs) -> dict[str, str]:
    """Return the models that could not continue a session with these needs, each with the reason.

    `blacklist` is the content of blacklist.json.
    """
    found = ((model, unfit(needs, capacity)) for model, capacity in capabilities_in(blacklist).items())
    return {model: why for model, why in found if why}


def misfits_of(arguments: Arguments, messages: Sequence[Message], path: str) -> dict[str, str]:
    """Return the models that could not continue the session with this launch's prompt and files, each with the reason.

    `messages` are the session's last messages; `path` is the path of blacklist.json.
    """
    files, prompt = arguments.values("-f", "--file"), " ".join(arguments.prompt)
    return misfits(read_entries(path).raw, messages, prompt, files) if messages or files else {}
