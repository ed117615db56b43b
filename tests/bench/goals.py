"""What the guard may cost, beside what it did cost. Nobody fails for missing them: a shared machine misses any."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.figures import MEMORY_STATES, Figures
from bench.plan import (
    AGENT_PROMPT,
    ANSWERS,
    ASYNC,
    DEFAULT,
    GUARDED,
    LARGE_PROMPT,
    OUT_OF_STEP,
    STREAM,
    SYNC,
    Cell,
)

_AKTO_CALLS_AWAITED: Final = {SYNC: 1, ASYNC: 0, ANSWERS: 2}
_LEAST_THROUGHPUT: Final = {SYNC: 0.96, ASYNC: 0.97, ANSWERS: 0.92}
_LOADS: Final = {DEFAULT: "", OUT_OF_STEP: ", out of step", AGENT_PROMPT: ", coding agent", STREAM: ", streamed"}


@dataclass(frozen=True)
class Goal:
    """`seen`: None when the run did not measure it. `at_least`: more is better."""

    what: str
    target: float
    seen: float | None
    unit: str
    at_least: bool = False

    @property
    def is_met(self) -> bool | None:
        if self.seen is None:
            return None
        return self.seen >= self.target if self.at_least else self.seen <= self.target


def goals(figures: Figures) -> list[Goal]:
    """Every goal with what was seen."""
    return [*_throughput(figures), *_cpu(figures), *_latency(figures), *_memory(figures), _start(figures)]


def _throughput(figures: Figures) -> Iterator[Goal]:
    for cell, load in _LOADS.items():
        for variant in (each for each in GUARDED if each in cell.variants()):
            seen = figures.median(cell, variant, "throughput_ratio")
            what = f"throughput beside unguarded, {variant}{load}"
            yield Goal(what, _LEAST_THROUGHPUT[variant], seen, "", at_least=True)


def _cpu(figures: Figures) -> Iterator[Goal]:
    for cell, load in _LOADS.items():
        yield Goal(f"CPU added, sync{load}", 0.6, figures.median(cell, SYNC, "added_cpu_ms"), " ms")
    yield Goal("CPU added, sync, 200 kB prompt", 3.0, figures.median(LARGE_PROMPT, SYNC, "added_cpu_ms"), " ms")


def _latency(figures: Figures) -> Iterator[Goal]:
    for variant in GUARDED:
        for akto_ms in (0, 20, 200):
            akto = figures.median(Cell(1, akto_ms), variant, "akto_seen_ms") or 0.0
            target = round(akto * _AKTO_CALLS_AWAITED[variant] + 1, 2)
            seen = figures.median(Cell(1, akto_ms), variant, "added_p50_ms")
            yield Goal(f"p50 added at 1 connection, Akto {akto_ms} ms, {variant}", target, seen, " ms")


def _memory(figures: Figures) -> Iterator[Goal]:
    for state in MEMORY_STATES:
        worst = max(figures.added_memory(variant, state) for variant in GUARDED)
        yield Goal(f"memory added to a worker, {state}, the worst", 10, worst, " MiB")


def _start(figures: Figures) -> Goal:
    return Goal("start later by", 0.7, figures.start_seconds("guarded") - figures.start_seconds("base"), " s")
