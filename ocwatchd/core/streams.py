"""The requests that are under way, as far as one process's log tells: begun, and not yet known to have ended.

Never fewer than there really are (once the log is read from its beginning), sometimes more: so if only one of them can
have failed, it is the one, and if several can, nobody can say, until there are as many failures as candidates.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace

_KEPT = 1024
"""Requests remembered; titles are never told to have ended and pile up."""

_UNCLEAR_KEPT = 16

Key = tuple[str | None, str | None, bool | None]
Tags = tuple[str | None, str | None, str | None, str | None, bool | None]


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """A request that was begun: its tags, which are right. Two requests are never equal."""

    session: str | None
    provider: str | None
    model: str | None
    agent: str | None
    small: bool | None
    key: Key = field(init=False, repr=False)
    """A session asks one thing at a time of each agent: the next request means that the last has ended."""
    tags: Tags = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Made once: they are asked for with every start that is read."""
        object.__setattr__(self, "key", (self.session, self.agent, self.small))
        object.__setattr__(self, "tags", (self.provider, self.model, self.session, self.agent, self.small))

    @property
    def name(self) -> tuple[str | None, str | None]:
        """Provider and model."""
        return (self.provider, self.model)


class Streams:
    """Requests under way. Bounded: the oldest are forgotten first."""

    def __init__(self) -> None:
        """Nothing is under way."""
        self._open: OrderedDict[Key, Stream] = OrderedDict()
        self._of_session: dict[str | None, dict[Key, None]] = {}
        self._unclear: list[set[Stream]] = []

    def begin(self, stream: Stream) -> None:
        """A request begins; the one before it of the same session and agent has ended."""
        self._forget(stream.key)
        self._open[stream.key] = stream
        self._of_session.setdefault(stream.session, {})[stream.key] = None
        while len(self._open) > _KEPT:
            self._forget(next(iter(self._open)))

    def begin_again(self, stream: Stream, unclear: Collection[Stream]) -> Stream:
        """A request with the very tags of this one begins. Returns it: the same object, unless one has to be told from
        the other because that one may have failed, as any of `unclear`.
        """
        if stream in unclear:
            stream = replace(stream)
        elif self._open.get(stream.key) is stream:
            self._open.move_to_end(stream.key)
            return stream
        self.begin(stream)
        return stream

    def unclear(self) -> set[Stream]:
        """Those of which it is not known whether they have failed."""
        return set().union(*self._unclear)

    def suspects(self) -> list[Stream]:
        """Those of them that are under way, oldest first: in the order in which a follower would see them end."""
        unclear = self.unclear()
        return self.under_way(lambda stream: stream in unclear) if unclear else []

    def answered(self, stream: Stream) -> None:
        """This very request has ended, and well."""
        self.end(stream)
        self._did_not_fail(stream)

    def _forget(self, key: Key) -> None:
        if self._open.pop(key, None) is not None:
            keys = self._of_session[key[0]]
            del keys[key]
            if not keys:
                del self._of_session[key[0]]

    def end(self, stream: Stream) -> None:
        """This very request has ended."""
        if self._open.get(stream.key) is stream:
            self._forget(stream.key)

    def end_session(self, session: str, *, well: bool) -> None:
        """What the session asked before is over; `well`: it was answered. Titles run beside it and are not touched."""
        for stream in [self._open[key] for key in self._of_session.get(session, ())]:
            if stream.small:
                continue
            if well:
                self.answered(stream)
            else:
                self.end(stream)

    def one_failed_of(self, candidates: Iterable[Stream]) -> None:
        """One of these has failed, nobody knows which."""
        self._unclear.append(set(candidates))
        del self._unclear[:-_UNCLEAR_KEPT]
        self._conclude(self._unclear[-1:])

    def under_way(self, test: Callable[[Stream], bool] = lambda _stream: True) -> list[Stream]:
        """Those for which `test` holds, oldest first."""
        return [stream for stream in self._open.values() if test(stream)]

    def _did_not_fail(self, stream: Stream) -> None:
        changed = [suspects for suspects in self._unclear if stream in suspects]
        for suspects in changed:
            suspects.discard(stream)
        self._unclear = [suspects for suspects in self._unclear if suspects]
        self._conclude(changed)

    def _conclude(self, changed: list[set[Stream]]) -> None:
        """As many failures as there are requests that can have failed: then all of these have."""
        for union in [a | b for a in changed for b in self._unclear]:
            inside = [suspects for suspects in self._unclear if suspects <= union]
            if union and len(inside) >= len(union):
                self._unclear = [suspects for suspects in self._unclear if suspects not in inside]
                for stream in union:
                    self.end(stream)
                return
