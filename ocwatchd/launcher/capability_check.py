"""Which models could not go on with a session, told before it is started: from the message store and the register.

The store tells how full the context is; of attachments only those count that are added now.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from mimetypes import guess_type

from ocwatchd.core.capability import CHARS_PER_TOKEN, Needs, unfit
from ocwatchd.launcher.arguments import Arguments
from ocwatchd.opencode.look import needs_of
from ocwatchd.opencode.records import Message, medium
from ocwatchd.state.entries import read_entries
from ocwatchd.state.stand_ins import takes_in


def misfits(
    register: Mapping[str, object], messages: Iterable[Message], prompt: str = "", files: Iterable[str] = ()
) -> dict[str, str]:
    """By model why it could not. `register` is blacklist.json as read, `messages` are the session's last ones, `prompt`
    and `files` (paths) are what is added to it.
    """
    so_far = needs_of(list(messages))
    kinds = frozenset(kind for file in files if (kind := medium(guess_type(file)[0] or "")))
    needs = Needs(so_far.tokens + len(prompt) // CHARS_PER_TOKEN, so_far.inputs | kinds, so_far.tools)
    found = ((model, unfit(needs, capacity)) for model, capacity in takes_in(register).items())
    return {model: why for model, why in found if why}


def misfits_of(arguments: Arguments, messages: Sequence[Message], path: str) -> dict[str, str]:
    """Models that could not take what is launched: the session that goes on (`messages`) and what is added to it.

    `path` is that of blacklist.json.
    """
    files, prompt = arguments.values("-f", "--file"), " ".join(arguments.prompt)
    return misfits(read_entries(path).raw, messages, prompt, files) if messages or files else {}
