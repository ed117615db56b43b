"""Numbers about what the guard did in this worker."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

# Upper bounds in seconds of what a check may take; the last one is the default TIMEOUT's double.
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Watcher(Protocol):
    """Is told of every count, as it happens."""

    def counted(self, name: str, amount: int) -> None:
        """`amount` more of `name`."""

    def judged(self, what: str, decision: str, call_type: str, seconds: float | None) -> None:
        """A check, of a request (`checks`) or of an answer (`answers`), came to `decision` after `seconds`.

        None: Akto was not asked.
        """


class Counters:
    """Named counts that only grow. Names come from the code, never from a request, so their number is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._durations = [0] * (len(DURATIONS) + 1)
        self._seconds = 0.0
        self._watcher: Watcher | None = None
        self._levels: dict[str, Callable[[], int]] = {}

    def watch(self, watcher: Watcher) -> None:
        """Tells `watcher` of every count from now on."""
        self._watcher = watcher

    def add_level(self, name: str, level: Callable[[], int]) -> None:
        """A number that goes up and down: `level` gives it."""
        self._levels[name] = level

    def add(self, name: str, amount: int = 1) -> None:
        """Adds `amount` to the count called `name`."""
        self._counts[name] += amount
        if self._watcher is not None:
            self._watcher.counted(name, amount)

    def judged(self, what: str, decision: str, call_type: str, seconds: float | None) -> None:
        """Counts a check, of a request (`checks`) or of an answer (`answers`), and its `seconds`, if it has any."""
        self._counts[f"{what}_{decision}"] += 1
        if seconds is not None:
            self._durations[bisect_left(DURATIONS, seconds)] += 1
            self._seconds += seconds
        if self._watcher is not None:
            self._watcher.judged(what, decision, call_type, seconds)

    def levels(self) -> dict[str, int]:
        """All numbers that go up and down."""
        return {name: level() for name, level in self._levels.items()}

    def snapshot(self) -> dict[str, int]:
        """All counts by name, sorted."""
        return dict(sorted(self._counts.items()))

    def report(self) -> dict[str, object]:
        """Counts, levels, and how long checks took: how many up to each bound, and above the last one."""
        names = [*(f"le_{bound:g}" for bound in DURATIONS), "more"]
        durations = {name: count for name, count in zip(names, self._durations, strict=True) if count}
        return {
            **self.snapshot(),
            **self.levels(),
            "check_seconds": {"sum": round(self._seconds, 3), **durations},
        }
