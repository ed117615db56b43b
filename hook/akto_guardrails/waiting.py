"""Records that wait for delivery: the oldest first, and one at a time within a session, so that it keeps its order."""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


def _rising_times() -> Iterator[int]:
    """The time in nanoseconds, but always later than the time before: clocks are set back now and then."""
    last = 0
    while True:
        now = time.time_ns()
        last = now if now > last else last + 1
        yield last


_numbers: Final = itertools.count(1)
_times: Final = _rising_times()


@dataclass(slots=True, eq=False)
class Entry:
    """One record. `born`: when it was made, in nanoseconds. `file`: where it is stored, if it is.

    `failures`: how often Akto took others, but not this one; `failing_since`: when it did so first, by the clock of the
    recorder; `delivered_before`: how many it had taken the last time.
    """

    body: bytes
    session: str | None = None
    born: int = field(default_factory=_times.__next__)
    file: Path | None = None
    is_cut: bool = False
    failures: int = 0
    failing_since: float = 0.0
    delivered_before: int = 0
    number: int = field(default_factory=_numbers.__next__)


class Waiting:
    """Entries in the order of their age. What `take` gives out is no longer in here, but holds its session up."""

    def __init__(self) -> None:
        # Ordered dicts give their first entry at once; a dict looks for it past all those that were removed.
        self._by_age: OrderedDict[int, Entry] = OrderedDict()
        self._ready: OrderedDict[int, Entry] = OrderedDict()
        # Of each session that has an entry ready or taken: those behind it, None as long as there has been none.
        self._behind: dict[str, deque[Entry] | None] = {}
        self._taken: dict[int, Entry] = {}
        self.bytes = 0

    def __len__(self) -> int:
        """Entries in here, without those that are taken."""
        return len(self._by_age)

    def __contains__(self, entry: Entry) -> bool:
        """Whether `entry` is in here, or taken."""
        return entry.number in self._by_age or entry.number in self._taken

    @property
    def ready(self) -> int:
        """Entries that could be taken now."""
        return len(self._ready)

    def add(self, entry: Entry) -> None:
        """Adds the newest entry."""
        self._by_age[entry.number] = entry
        self.bytes += len(entry.body)
        if entry.session is None:
            self._ready[entry.number] = entry
        elif entry.session not in self._behind:
            self._behind[entry.session] = None
            self._ready[entry.number] = entry
        elif (behind := self._behind[entry.session]) is not None:
            behind.append(entry)
        else:
            self._behind[entry.session] = deque((entry,))

    def take(self) -> Entry | None:
        """An entry to be sent, None when there is none whose session is free. `done` or `put_back` has to follow."""
        if not self._ready:
            return None
        number, entry = self._ready.popitem(last=False)
        self._remove(entry)
        self._taken[number] = entry
        return entry

    def done(self, entry: Entry) -> None:
        """The taken `entry` is delivered, or given up."""
        del self._taken[entry.number]
        self._free_session(entry)

    def put_back(self, entry: Entry) -> None:
        """The taken `entry` is the oldest again; others get their turn before it is taken once more."""
        del self._taken[entry.number]
        self._ready[entry.number] = entry
        self._by_age[entry.number] = entry
        self._by_age.move_to_end(entry.number, last=False)
        self.bytes += len(entry.body)

    def all(self) -> list[Entry]:
        """All entries, those taken included, the oldest first."""
        return sorted((*self._by_age.values(), *self._taken.values()), key=lambda entry: entry.number)

    def remove_oldest(self) -> Entry:
        """Removes and gives the oldest entry; there has to be one."""
        entry = next(iter(self._by_age.values()))
        self._remove(entry)
        if self._ready.pop(entry.number, None) is not None:
            self._free_session(entry)
        elif entry.session is not None and (behind := self._behind[entry.session]):
            # The oldest of all is the oldest of its session too: the first of those behind the one that is taken.
            behind.popleft()
        return entry

    def _remove(self, entry: Entry) -> None:
        del self._by_age[entry.number]
        self.bytes -= len(entry.body)

    def _free_session(self, entry: Entry) -> None:
        if entry.session is None:
            return
        if behind := self._behind[entry.session]:
            following = behind.popleft()
            self._ready[following.number] = following
        else:
            del self._behind[entry.session]
