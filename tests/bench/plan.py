"""What is measured: the proxies, the cells of load, and how long each is played."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from bench.prompts import AGENT, LARGE, SMALL, STREAMED

UNGUARDED: Final = "unguarded"
CONTROL: Final = "control"
SYNC: Final = "sync"
ASYNC: Final = "async"
ANSWERS: Final = "answers"
BUILT_IN: Final = "built-in"
BARE: Final = "bare-calls"
WAIT: Final = "bare-wait"
_DEFAULT_AKTO_MS: Final = 20


@dataclass(frozen=True)
class Variant:
    """A proxy. `base`: the image without the guard; counts: Akto's calls a request.

    `env`: the guard's settings, or the callback's, whose file is named.
    """

    name: str
    base: bool = False
    checks: int = 0
    answers: int = 0
    records: int = 0
    env: tuple[tuple[str, str], ...] = ()
    callback: str = ""


# In the order in which they are started: with and without the guard by turns, because the starts are timed.
VARIANTS: Final = (
    Variant(UNGUARDED, base=True),
    Variant(SYNC, checks=1, records=1),
    # The same as the first, to show how far two proxies of one image are apart.
    Variant(CONTROL, base=True),
    Variant(ASYNC, checks=1, records=1, env=(("SYNC_MODE", "false"),)),
    Variant(BUILT_IN, base=True, checks=1, records=1),
    Variant(BARE, base=True, checks=1, records=1, callback="bare_calls"),
    Variant(WAIT, base=True, env=(("BENCH_WAIT_MS", str(_DEFAULT_AKTO_MS)),), callback="bare_wait"),
    Variant(ANSWERS, checks=1, answers=1, records=1, env=(("RESPONSE_GUARDRAILS", "true"),)),
)
GUARDED: Final = (SYNC, ASYNC, ANSWERS)


@dataclass(frozen=True)
class Cell:
    """One kind of load. `model_ms`: how long the model takes on average; each time is another one (`lean_model.py`)."""

    connections: int
    akto_ms: int
    prompt: str = SMALL
    model_ms: int = 0

    @property
    def unguarded(self) -> Cell:
        """The same without Akto's latency, which makes no difference to a proxy that does not ask it."""
        return replace(self, akto_ms=0)

    def variants(self) -> tuple[str, ...]:
        """The proxies that play this cell, besides the unguarded one."""
        if self in (DEFAULT, OUT_OF_STEP):
            return (*GUARDED, CONTROL, BUILT_IN, BARE, WAIT)
        if self == STREAM:
            # How many checks a streamed answer takes depends on time; the others record no streams.
            return (SYNC, ASYNC, CONTROL, WAIT)
        if self == Cell(1, _DEFAULT_AKTO_MS):
            return (*GUARDED, BARE, WAIT)
        return (*GUARDED, BARE) if self.connections <= DEFAULT.connections else GUARDED


DEFAULT: Final = Cell(16, _DEFAULT_AKTO_MS)
WITHOUT_A_WAIT: Final = DEFAULT.unguarded
LARGE_PROMPT: Final = Cell(16, 0, LARGE)
AGENT_PROMPT: Final = Cell(16, _DEFAULT_AKTO_MS, AGENT)
STREAM: Final = Cell(16, _DEFAULT_AKTO_MS, STREAMED)
# A model that takes the same time for every request has them served in step, one after the other at each stage, which
# makes each of them cheaper, and any wait before the model call disturbs that. No model in use is like that.
OUT_OF_STEP: Final = Cell(64, _DEFAULT_AKTO_MS, model_ms=100)


@dataclass(frozen=True)
class Plan:
    """`turns`: the cells of each turn, in their order. A round has a lead to get going and `seconds` that are measured.

    `warm_up`: seconds for each proxy of a turn.
    """

    name: str
    turns: tuple[tuple[Cell, ...], ...]
    lead: float
    seconds: float
    warm_up: float

    def lead_of(self, cell: Cell) -> float:
        """Long enough for each connection to be answered once, at the hundred requests a second of a slow core."""
        return self.lead + cell.connections / 100 + cell.model_ms / 1000

    def seconds_of(self, cell: Cell) -> float:
        """Longer where rounds differ a lot: a full garbage collection, half a second, comes after a hundred streams, or
        as many requests of a coding agent.
        """
        return self.seconds * {OUT_OF_STEP: 2, AGENT_PROMPT: 4, STREAM: 4}.get(cell, 1)


def _cells(connections: int) -> tuple[Cell, ...]:
    return tuple(Cell(connections, akto_ms) for akto_ms in (0, 20, 200))


# Each turn begins and ends with the default cell. Rounds with 128 connections take long, and are left out every second
# time.
_TURN: Final = (DEFAULT, OUT_OF_STEP, *_cells(1), WITHOUT_A_WAIT, Cell(16, 200), LARGE_PROMPT, AGENT_PROMPT, STREAM)
FULL: Final = Plan(
    "full",
    turns=((*_TURN, *_cells(128), OUT_OF_STEP, DEFAULT), (*_TURN, OUT_OF_STEP, DEFAULT)) * 2,
    lead=0.3,
    seconds=2.0,
    warm_up=6,
)
QUICK: Final = Plan(
    "quick",
    turns=((DEFAULT, Cell(1, 0), Cell(1, 20), LARGE_PROMPT, AGENT_PROMPT, STREAM, DEFAULT),),
    lead=0.2,
    seconds=1.0,
    warm_up=3,
)


def runs_of(cells: tuple[Cell, ...]) -> list[tuple[Cell, ...]]:
    """`cells` in runs for which the unguarded proxy gets the same load, so that neighbours share its rounds."""
    return [tuple(run) for _, run in groupby(cells, key=lambda cell: cell.unguarded)]


def rotated(names: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """`names` beginning with another one each turn."""
    start = turn % len(names)
    return names[start:] + names[:start]
