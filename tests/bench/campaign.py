"""A whole run, and everything about it as one JSON object.

Each turn has proxies of its own, because two processes of the same image are some per cent apart for as long as they
run, more than what is to be measured.
"""

from __future__ import annotations

import datetime
import os
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import MEMORY_STATES
from bench.plan import ASYNC, DEFAULT, LARGE_PROMPT, STREAM, SYNC, UNGUARDED, Cell, Plan, rotated, runs_of
from bench.prompts import SMALL
from bench.rounds import NotGuarded, Round, play
from bench.stage import Proxy, Stage
from bench.summary import Pair, cell_figures, growth, medians, spread

# MiB by variant and kind.
Memory = dict[str, dict[str, float]]

_WARM_UP_CONNECTIONS: Final = (1, 16, 128)
_FEWEST_ANSWERS: Final = 4
_IDLE_SECONDS: Final = 3
# The proxy that was played last must not be read in another state than the others, which had time to free what they
# held; and the guard gives memory back some seconds after long requests.
_REST_SECONDS: Final = 10


@dataclass(frozen=True)
class _Turn:
    """What one turn found. `memory`: by state; `idle`: hundredths of a core by variant; `starts`: seconds by kind."""

    pairs: list[Pair]
    memory: dict[str, Memory]
    idle: dict[str, float]
    starts: dict[str, list[float]]
    litellm: str
    cpu_source: str


def run(plan: Plan) -> dict[str, Any]:
    """Plays `plan` and gives its figures. Raises `NotGuarded` when the proxies did not do their work."""
    with tempfile.TemporaryDirectory() as directory, Stage(Path(directory)) as stage:
        # Made for its owner alone, and LiteLLM's user in the container may be another one.
        Path(directory).chmod(0o755)
        if stage.cores.others:
            os.sched_setaffinity(0, _numbers(stage.cores.others))
        _say(f"{plan.name} run; {_pinning(stage)}")
        turns = [_turn(stage, plan, number) for number in range(len(plan.turns))]
        pairs = [pair for turn in turns for pair in turn.pairs]
        return {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "litellm": turns[-1].litellm,
            "machine": _machine(stage, turns[-1].cpu_source),
            "plan": {"name": plan.name, "seconds": plan.seconds, "turns": len(plan.turns)},
            "cells": cell_figures(pairs),
            "growth": [growth(pairs, DEFAULT, SYNC), growth(pairs, DEFAULT, ASYNC)],
            "memory_mib": {state: _median_memory([turn.memory[state] for turn in turns]) for state in MEMORY_STATES},
            "idle_cpu_percent": medians([turn.idle for turn in turns]),
            "start_seconds": {
                kind: spread(seconds for turn in turns for seconds in turn.starts[kind]) for kind in turns[-1].starts
            },
        }


def _turn(stage: Stage, plan: Plan, number: int) -> _Turn:
    """One turn with proxies of its own."""
    _say(f"turn {number + 1} of {len(plan.turns)}")
    with stage.proxies() as proxies:
        fresh = _memory(proxies)
        _warm_up(stage, proxies, plan)
        time.sleep(_REST_SECONDS)
        warm = _memory(proxies)
        # Before the rounds, which are not the same for all of them.
        loaded = _memory_after_long_prompts(stage, proxies, plan)
        idle = _idle_cpu(proxies)
        _warm_up_streams(stage, proxies, plan)
        return _Turn(
            _pairs(stage, proxies, plan, number),
            {"fresh": fresh, "warm": warm, "loaded": loaded},
            idle,
            {
                "base": [each.start_seconds for each in proxies.values() if each.variant.base],
                "guarded": [each.start_seconds for each in proxies.values() if not each.variant.base],
            },
            stage.litellm_release(proxies[UNGUARDED]),
            proxies[UNGUARDED].cpu_source,
        )


def _pairs(stage: Stage, proxies: dict[str, Proxy], plan: Plan, turn: int) -> list[Pair]:
    """All rounds of a turn. The unguarded ones between two cells count for both."""
    pairs: list[Pair] = []
    for run_of_cells in runs_of(plan.turns[turn]):
        base = run_of_cells[0].unguarded
        before = _round(stage, proxies[UNGUARDED], base, plan)
        for number, cell in enumerate(run_of_cells):
            names = rotated(cell.variants(), turn + number)
            rounds = [_round(stage, proxies[name], cell, plan) for name in names]
            after = _round(stage, proxies[UNGUARDED], base, plan)
            pairs += [Pair(cell, turn, each, before, after) for each in rounds]
            before = after
    return pairs


def _round(stage: Stage, proxy: Proxy, cell: Cell, plan: Plan) -> Round:
    found = play(stage, proxy, cell, plan.lead_of(cell), plan.seconds_of(cell))
    if found.answered < _FEWEST_ANSWERS:
        raise NotGuarded(f"{found.variant}: only {found.answered} answers in a round; this machine is too slow for it")
    _say(
        f"  {cell.connections:3} connections, {cell.prompt:>6}, Akto {cell.akto_ms:3} ms, model {cell.model_ms:3} ms: "
        f"{found.variant:9} "
        f"{found.throughput:6.1f}/s {found.cpu_ms:6.2f} ms CPU, p50 {found.p50_ms:7.1f} ms, p99 {found.p99_ms:7.1f} ms"
    )
    return found


def _warm_up(stage: Stage, proxies: dict[str, Proxy], plan: Plan) -> None:
    """LiteLLM's first requests are slow, and its connections are still to be opened."""
    for connections in _WARM_UP_CONNECTIONS:
        for proxy in proxies.values():
            play(stage, proxy, Cell(connections, 0, SMALL), 0, plan.warm_up / len(_WARM_UP_CONNECTIONS))


def _warm_up_streams(stage: Stage, proxies: dict[str, Proxy], plan: Plan) -> None:
    for name in (UNGUARDED, *STREAM.variants()):
        play(stage, proxies[name], STREAM, 0, plan.warm_up / len(_WARM_UP_CONNECTIONS))


def _memory(proxies: dict[str, Proxy]) -> Memory:
    return {name: {kind: round(mib, 1) for kind, mib in proxy.memory_mib().items()} for name, proxy in proxies.items()}


def _median_memory(readings: list[Memory]) -> Memory:
    return {name: medians([each[name] for each in readings]) for name in readings[0]}


def _memory_after_long_prompts(stage: Stage, proxies: dict[str, Proxy], plan: Plan) -> Memory:
    for proxy in proxies.values():
        play(stage, proxy, LARGE_PROMPT, 0, plan.seconds)
    time.sleep(_REST_SECONDS)
    return _memory(proxies)


def _idle_cpu(proxies: dict[str, Proxy]) -> dict[str, float]:
    """Hundredths of a core that each proxy uses when nobody asks it anything."""
    before = {name: proxy.cpu() for name, proxy in proxies.items()}
    time.sleep(_IDLE_SECONDS)
    return {name: round((proxy.cpu() - before[name]) / _IDLE_SECONDS * 100, 2) for name, proxy in proxies.items()}


def _machine(stage: Stage, cpu_source: str) -> dict[str, Any]:
    model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1].strip() if model else "unknown",
        "cores": os.cpu_count(),
        "pinned": bool(stage.cores.others),
        "cpu_time_from": cpu_source,
    }


def _pinning(stage: Stage) -> str:
    if not stage.cores.others:
        return "one core for everything: nothing is pinned, and throughput is that of proxy, mocks and load together"
    return f"proxies pinned to core {stage.cores.proxies}, mocks and load to {stage.cores.others}"


def _numbers(cores: str) -> set[int]:
    first, _, last = cores.partition("-")
    return set(range(int(first), int(last or first) + 1))


def _say(text: str) -> None:
    print(text, flush=True)
