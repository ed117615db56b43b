"""Reads the figures of a run back from their JSON object."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from bench.plan import CONTROL, UNGUARDED, Cell

# When a worker's memory was read: before its first request, after the warm-up, and some seconds after long prompts.
MEMORY_STATES: Final = ("fresh", "warm", "loaded")


@dataclass(frozen=True)
class Figures:
    """The figures of one run."""

    results: dict[str, Any]

    def of(self, cell: Cell, variant: str) -> dict[str, Any] | None:
        """The figures of one variant under one kind of load; None when that was not played."""
        wanted = {**asdict(cell), "variant": variant}
        return next((each for each in self.results["cells"] if wanted.items() <= each.items()), None)

    def median(self, cell: Cell, variant: str, name: str) -> float | None:
        """One median of those; None when there is none."""
        spread = (self.of(cell, variant) or {}).get(name)
        return None if spread is None else float(spread["median"])

    def memory(self, variant: str, state: str) -> float:
        """MiB of a worker in one of the states; of the two without a guard the mean counts as `UNGUARDED`."""
        used = self.results["memory_mib"][state]
        names = (UNGUARDED, CONTROL) if variant == UNGUARDED else (variant,)
        return sum(float(used[name]["rss"]) for name in names) / len(names)

    def added_memory(self, variant: str, state: str) -> float:
        return self.memory(variant, state) - self.memory(UNGUARDED, state)

    def start_seconds(self, kind: str) -> float:
        """Median of the starts, `base` or `guarded`."""
        return float(self.results["start_seconds"][kind]["median"])

    @property
    def machine(self) -> str:
        """The machine in a few words."""
        machine = self.results["machine"]
        return f"{machine['cpu']}, {machine['cores']} cores"
