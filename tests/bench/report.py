"""The figures of a run as text for a terminal."""

from __future__ import annotations

from typing import Any, Final

from bench.figures import MEMORY_STATES, Figures
from bench.goals import Goal, goals
from bench.plan import VARIANTS

_HEAD: Final = (
    "connections",
    "prompt",
    "Akto",
    "model",
    "variant",
    "rounds",
    "requests/s",
    "of unguarded",
    "CPU unguarded",
    "CPU added",
    "p50",
    "p50 added",
    "p99 added",
)


def report(results: dict[str, Any]) -> str:
    """Everything that was measured."""
    figures = Figures(results)
    machine = results["machine"]
    pinned = (
        "proxies on a core of their own, mocks and load on the rest"
        if machine["pinned"]
        else "nothing pinned: there is one core"
    )
    return "\n".join(
        [
            "",
            f"{results['date']}, LiteLLM {results['litellm']}, {figures.machine}; {pinned}",
            f"Medians (least to most) of rounds beside the unguarded rounds next to them; milliseconds; CPU for each "
            f"request, from {machine['cpu_time_from']}",
            "",
            *_aligned([_HEAD, *map(_row, results["cells"])]),
            "",
            *_about_processes(figures),
            "",
            *_aligned([("goal", "at most/least", "seen", ""), *map(_goal_row, goals(figures))]),
        ]
    )


def _row(cell: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(cell["connections"]),
        str(cell["prompt"]),
        str(cell["akto_ms"]),
        str(cell["model_ms"]),
        str(cell["variant"]),
        str(cell["rounds"]),
        f"{cell['throughput']['median']:.1f}",
        _spread(cell["throughput_ratio"], "{:.2f}"),
        _spread(cell.get("unguarded_cpu_ms"), "{:.2f}"),
        _spread(cell.get("added_cpu_ms"), "{:+.2f}"),
        f"{cell['p50_ms']['median']:.1f}",
        _spread(cell["added_p50_ms"], "{:+.1f}"),
        _spread(cell["added_p99_ms"], "{:+.1f}"),
    )


def _spread(values: dict[str, float] | None, shape: str) -> str:
    if values is None:
        return "-"
    middle, least, most = (shape.format(values[name]) for name in ("median", "min", "max"))
    return f"{middle} ({least} to {most})"


def _about_processes(figures: Figures) -> list[str]:
    results = figures.results
    lines = [
        f"{each['variant']}: CPU for each request {each['first_cpu_ms']:.2f} ms in a proxy's first round "
        f"({each['first_added_cpu_ms']:+.2f} beside unguarded), {each['last_cpu_ms']:.2f} ms in the last "
        f"({each['last_added_cpu_ms']:+.2f}), {each['requests_between']:.0f} requests later"
        for each in results["growth"]
    ]
    for state in MEMORY_STATES:
        used = results["memory_mib"][state]
        each = (f"{variant.name} {_memory(used[variant.name])}" for variant in VARIANTS)
        lines.append(f"memory, {state}, MiB (Pss): {', '.join(each)}")
    idle = (f"{name} {percent:.1f} %" for name, percent in results["idle_cpu_percent"].items())
    starts = (f"{kind} {_spread(results['start_seconds'][kind], '{:.2f}')} s" for kind in ("base", "guarded"))
    return [*lines, f"of a core, with nothing to do: {', '.join(idle)}", f"from start to ready: {', '.join(starts)}"]


def _memory(used: dict[str, float]) -> str:
    return f"{used['rss']:.0f}" + (f" ({used['pss']:.0f})" if "pss" in used else "")


def _goal_row(goal: Goal) -> tuple[str, ...]:
    seen = "not measured" if goal.seen is None else f"{goal.seen:.2f}{goal.unit}"
    return (goal.what, f"{goal.target}{goal.unit}", seen, {True: "met", False: "missed", None: ""}[goal.is_met])


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
