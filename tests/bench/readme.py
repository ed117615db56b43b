"""The README's table of what the guard costs, made from results.json."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.figures import Figures
from bench.lean_model import WORDS
from bench.plan import (
    AGENT_PROMPT,
    ANSWERS,
    ASYNC,
    BARE,
    BUILT_IN,
    CONTROL,
    DEFAULT,
    GUARDED,
    LARGE_PROMPT,
    OUT_OF_STEP,
    STREAM,
    SYNC,
    UNGUARDED,
    WAIT,
    WITHOUT_A_WAIT,
    Cell,
)

RESULTS: Final = Path(__file__).with_name("results.json")
README: Final = Path(__file__).resolve().parents[2] / "README.md"
BEGIN: Final = "<!-- bench:begin -->"
END: Final = "<!-- bench:end -->"

_COLUMNS: Final = {
    SYNC: "guarded",
    ASYNC: "`SYNC_MODE=false`",
    ANSWERS: "`RESPONSE_GUARDRAILS=true`",
    WAIT: "a wait",
    BARE: "two calls with aiohttp",
    BUILT_IN: "LiteLLM's `guardrail: akto`",
}
_NOTHING: Final = "-"
_OUT_OF_STEP: Final = f"{OUT_OF_STEP.connections} connections, model takes 0 to {2 * OUT_OF_STEP.model_ms} ms"
_AGENT: Final = "coding agent: 104 messages, 30 tools"
_STREAMED: Final = f"answer streamed in {len(WORDS)} pieces"

Column = Callable[[str], str]


def section(results: dict[str, Any]) -> str:
    """What stands between the markers."""
    figures = Figures(results)
    rows = [
        ["", "unguarded", *_COLUMNS.values()],
        ["---"] * (len(_COLUMNS) + 2),
        _row("requests a second on one core", *_throughput(figures, DEFAULT)),
        _row(f"the same, Akto takes {_akto_ms(figures, WITHOUT_A_WAIT)}", *_throughput(figures, WITHOUT_A_WAIT)),
        _row(f"the same, {_OUT_OF_STEP}", *_throughput(figures, OUT_OF_STEP)),
        _row(f"the same, {_AGENT}", *_throughput(figures, AGENT_PROMPT)),
        _row(f"the same, {_STREAMED}", *_throughput(figures, STREAM)),
        _row("CPU for each request", *_measure(figures, DEFAULT, "cpu_ms", 2)),
        _row(f"the same, {_OUT_OF_STEP}", *_measure(figures, OUT_OF_STEP, "cpu_ms", 2)),
        _row(f"the same, {_STREAMED}", *_measure(figures, STREAM, "cpu_ms", 2)),
        _row("the same, prompt of 200 kB", *_measure(figures, LARGE_PROMPT, "cpu_ms", 2)),
        _row(f"the same, {_AGENT}", *_measure(figures, AGENT_PROMPT, "cpu_ms", 2)),
        *(
            _row(_taking(figures, Cell(1, akto_ms)), *_measure(figures, Cell(1, akto_ms), "p50_ms", 1))
            for akto_ms in (0, 20, 200)
        ),
        _row("memory of a worker, fresh", *_memory(figures, "fresh")),
        _row("memory of a worker, warm", *_memory(figures, "warm")),
        _row("the same, after prompts of 200 kB", *_memory(figures, "loaded")),
        _row("start until ready", f"{figures.start_seconds('base'):.1f} s", lambda each: _start(figures, each)),
    ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{table}\n\n{_conditions(figures)}"


def with_section(readme: str, results: dict[str, Any]) -> str:
    """`readme` with the section of `results` between its markers."""
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{BEGIN} and {END} are not in the README")
    return f"{head}{BEGIN}\n{section(results)}\n{END}{tail}"


def write_section(results: dict[str, Any]) -> None:
    README.write_text(with_section(README.read_text(encoding="utf-8"), results), encoding="utf-8")


def _row(name: str, unguarded: str, column: Column) -> list[str]:
    return [name, unguarded, *map(column, _COLUMNS)]


def _throughput(figures: Figures, cell: Cell) -> tuple[str, Column]:
    def beside(variant: str) -> str:
        ratio = figures.median(cell, variant, "throughput_ratio")
        return _NOTHING if ratio is None else f"{ratio * 100:.0f} %"

    alone = figures.median(cell, SYNC, "unguarded_throughput")
    return _NOTHING if alone is None else f"{alone:.0f}", beside


def _measure(figures: Figures, cell: Cell, name: str, digits: int) -> tuple[str, Column]:
    def added(variant: str) -> str:
        value = figures.median(cell, variant, f"added_{name}")
        return _NOTHING if value is None else f"{value:+.{digits}f} ms"

    alone = figures.median(cell, SYNC, f"unguarded_{name}")
    return _NOTHING if alone is None else f"{alone:.{digits}f} ms", added


def _taking(figures: Figures, cell: Cell) -> str:
    return f"median time, one client, Akto takes {_akto_ms(figures, cell)}"


def _akto_ms(figures: Figures, cell: Cell) -> str:
    return f"{figures.median(cell, SYNC, 'akto_seen_ms') or 0.0:.1f} ms"


def _memory(figures: Figures, state: str) -> tuple[str, Column]:
    alone = f"{figures.memory(UNGUARDED, state):.0f} MiB"
    return alone, lambda variant: f"{figures.added_memory(variant, state):+.0f} MiB"


def _start(figures: Figures, variant: str) -> str:
    if variant not in GUARDED:
        return _NOTHING
    return f"{figures.start_seconds('guarded') - figures.start_seconds('base'):+.1f} s"


def _conditions(figures: Figures) -> str:
    results = figures.results
    control = (figures.of(DEFAULT, CONTROL) or {})["throughput_ratio"]
    least, middle, most = (f"{control[name] * 100:.0f}" for name in ("min", "median", "max"))
    cores = "one core for the proxy" if results["machine"]["pinned"] else "one core for everything"
    return (
        f"Measured on {results['date']} with LiteLLM {results['litellm']} on {figures.machine}, {cores}, one worker.\n"
        f"Where nothing else is said: {DEFAULT.connections} connections, prompts of 2 kB, Akto takes "
        f"{DEFAULT.akto_ms} ms, the model no time. Each figure is\nthe median of rounds beside the unguarded rounds "
        f"next to them, with {results['plan']['turns']} proxies of each kind one after the other; every request was "
        "seen to be\nchecked and recorded. What differences mean: of two unguarded proxies the second had "
        f"{middle} % of the first's throughput (rounds from {least} to {most} %).\n"
        f"`a wait` is a callback that lets each request wait {DEFAULT.akto_ms} ms and does nothing else, `two calls "
        "with aiohttp` one that makes a check and a\nrecord with it and does nothing else."
    )
