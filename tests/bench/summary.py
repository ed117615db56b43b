"""From rounds to figures: medians of what each guarded round was beside the unguarded ones next to it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from bench.plan import Cell
from bench.rounds import Round

# Below this many requests in a round, what the proxy does without any request shows in the CPU for each.
_FEWEST_FOR_CPU: Final = 40


@dataclass(frozen=True)
class Pair:
    """A round and the unguarded rounds of the same load before and after it, in one `turn` of the run."""

    cell: Cell
    turn: int
    round: Round
    before: Round
    after: Round

    def beside(self, figure: str) -> float:
        """The unguarded figure."""
        return (float(getattr(self.before, figure)) + float(getattr(self.after, figure))) / 2

    def ratio(self, figure: str) -> float:
        return float(getattr(self.round, figure) / self.beside(figure))

    def added(self, figure: str) -> float:
        return float(getattr(self.round, figure) - self.beside(figure))


def spread(values: Iterable[float]) -> dict[str, float]:
    """Median, least and most."""
    found = list(values)
    return {
        "median": round(statistics.median(found), 3),
        "min": round(min(found), 3),
        "max": round(max(found), 3),
    }


def medians(readings: list[dict[str, float]]) -> dict[str, float]:
    """The median of each figure that was read several times."""
    return {name: round(statistics.median(each[name] for each in readings), 3) for name in readings[0]}


def cell_figures(pairs: list[Pair]) -> list[dict[str, Any]]:
    """The figures of each cell and variant, in the order in which they were first played."""
    groups: dict[tuple[Cell, str], list[Pair]] = {}
    for pair in pairs:
        groups.setdefault((pair.cell, pair.round.variant), []).append(pair)
    return [_figures(cell, variant, group) for (cell, variant), group in groups.items()]


def _figures(cell: Cell, variant: str, pairs: list[Pair]) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "connections": cell.connections,
        "akto_ms": cell.akto_ms,
        "model_ms": cell.model_ms,
        "prompt": cell.prompt,
        "variant": variant,
        "rounds": len(pairs),
        "requests": sum(pair.round.requests for pair in pairs),
        "throughput": spread(pair.round.throughput for pair in pairs),
        "unguarded_throughput": spread(pair.beside("throughput") for pair in pairs),
        "throughput_ratio": spread(pair.ratio("throughput") for pair in pairs),
    }
    figures["akto_seen_ms"] = spread(pair.round.akto_ms for pair in pairs)
    for name in ("p50_ms", "p99_ms"):
        figures[name] = spread(getattr(pair.round, name) for pair in pairs)
        figures[f"unguarded_{name}"] = spread(pair.beside(name) for pair in pairs)
        figures[f"added_{name}"] = spread(pair.added(name) for pair in pairs)
    if min(pair.round.requests for pair in pairs) >= _FEWEST_FOR_CPU:
        figures["unguarded_cpu_ms"] = spread(pair.beside("cpu_ms") for pair in pairs)
        figures["added_cpu_ms"] = spread(pair.added("cpu_ms") for pair in pairs)
    return figures


def growth(pairs: list[Pair], cell: Cell, variant: str) -> dict[str, Any]:
    """CPU for each request in a proxy's first and in its last round of `cell`, and how many requests came between.

    Medians of the turns, each of which has a proxy of its own.
    """
    own = [pair for pair in pairs if pair.round.variant == variant]
    turns = [_grown([pair for pair in own if pair.turn == turn], cell) for turn in sorted({pair.turn for pair in own})]
    return {"variant": variant, **medians(turns)}


def _grown(pairs: list[Pair], cell: Cell) -> dict[str, float]:
    same = [pair for pair in pairs if pair.cell == cell]
    first, last = same[0], same[-1]
    between = pairs[pairs.index(first) + 1 : pairs.index(last)]
    return {
        "requests_between": sum(pair.round.requests for pair in between),
        "first_cpu_ms": first.round.cpu_ms,
        "last_cpu_ms": last.round.cpu_ms,
        "first_added_cpu_ms": first.added("cpu_ms"),
        "last_added_cpu_ms": last.added("cpu_ms"),
    }
