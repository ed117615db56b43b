"""Numbers about what the guard did in this worker."""

from __future__ import annotations

from collections import Counter


class Counters:
    """Named counts that only grow. Names come from the code, never from a request, so their number is bounded."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, name: str, amount: int = 1) -> None:
        """Adds `amount` to the count called `name`."""
        self._counts[name] += amount

    def snapshot(self) -> dict[str, int]:
        """All counts by name, sorted."""
        return dict(sorted(self._counts.items()))
