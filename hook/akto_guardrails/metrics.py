"""The guard's counts as Prometheus metrics, on LiteLLM's own `/metrics`.

With PROMETHEUS_MULTIPROC_DIR `prometheus_client` keeps them in files, as it does LiteLLM's, and adds workers up. Labels
have few values, none of them from a request but LiteLLM's call type, a word of its code.

Series are there at 0 before there is anything to count: Prometheus sees no increase in one that begins with its first
value, and nobody would be told of records that are dropped all at once.
"""

from __future__ import annotations

import os
from typing import Any, Final

from akto_guardrails.counters import DURATIONS, Counters
from akto_guardrails.unchecked import FAMILIES, count_of
from akto_guardrails.verdict import Cause, Decision

# Counts by the beginning of their names: metric, label for the rest of the name, help.
_BY_PREFIX: Final = (
    ("unavailable_", "akto_guardrails_unavailable_total", "cause", "Checks without a verdict from Akto, by cause."),
    ("records_", "akto_guardrails_records_total", "outcome", "Records by what became of them."),
    ("unchecked_", "akto_guardrails_unchecked_requests_total", "family", "Requests on routes that cannot be checked."),
    ("masks_", "akto_guardrails_masks_total", "outcome", "Masks that were applied, and that could not be."),
    ("breaker_", "akto_guardrails_breaker_changes_total", "change", "How often the breaker opened and closed."),
    ("", "akto_guardrails_events_total", "event", "Everything else that is counted."),
)
# All that is counted but checks.
COUNTS: Final = (
    *(f"unavailable_{cause.value}" for cause in Cause),
    *(f"records_{outcome}" for outcome in ("delivered", "retried", "cut", "spooled", "dropped", "refused")),
    *map(count_of, FAMILIES),
    *(f"masks_{outcome}" for outcome in ("applied", "seen", "unmappable")),
    *("breaker_opened", "breaker_closed"),
    *("answers_missed", "checks_at_the_second_gate", "checks_split", "exchanges_displaced", "exchanges_left_open"),
    "tool_calls_recorded",
)
_LEVELS: Final = {
    "breaker_open": "Workers that do not ask Akto at the moment, because it failed again and again.",
    "record_queue_entries": "Records waiting in memory.",
    "record_queue_bytes": "Bytes of the records waiting in memory.",
    "spooled_entries": "Records on disk, those that wait in memory too among them.",
    "spooled_bytes": "Bytes of the records on disk.",
    "checks_in_flight": "Checks under way.",
}


class Metrics:
    """The metrics of one worker; a `Watcher` of its counters."""

    def __init__(self, client: Any, mode: str, registry: Any = None) -> None:
        """`client`: the module `prometheus_client`. `mode`: of the settings, `blocking` or `watching`."""
        options = {} if registry is None else {"registry": registry}
        self._mode = mode
        self._checks = client.Counter(
            "akto_guardrails_checks_total",
            "Checks of requests and answers by decision.",
            ["of", "decision", "call_type", "mode"],
            **options,
        )
        self._seconds = client.Histogram(
            "akto_guardrails_check_duration_seconds",
            "How long Akto took for a check, or did not answer.",
            ["of"],
            buckets=DURATIONS,
            **options,
        )
        self._by_prefix = [
            (prefix, client.Counter(name, what, [label], **options)) for prefix, name, label, what in _BY_PREFIX
        ]
        self._levels = {
            name: client.Gauge(f"akto_guardrails_{name}", what, multiprocess_mode="livesum", **options)
            for name, what in _LEVELS.items()
        }
        self._known: dict[str, Any] = {name: self._counter(name) for name in COUNTS}
        self._durations = {of: self._seconds.labels(of) for of in ("request", "answer")}
        self._call_types: set[tuple[str, str]] = set()
        for of in ("request", "answer"):
            self._begin_at_zero(of, "acompletion")

    def counted(self, name: str, amount: int) -> None:
        """`amount` more of `name`."""
        counter = self._known.get(name)
        if counter is None:
            counter = self._known[name] = self._counter(name)
        counter.inc(amount)

    def judged(self, what: str, decision: str, call_type: str, seconds: float | None) -> None:
        """One more check; no `seconds` where Akto was not asked."""
        of = "answer" if what == "answers" else "request"
        self._begin_at_zero(of, call_type)
        self._checks.labels(of, decision, call_type, self._mode).inc()
        if seconds is not None:
            self._durations[of].observe(seconds)

    def _counter(self, name: str) -> Any:
        prefix, metric = next(each for each in self._by_prefix if name.startswith(each[0]))
        return metric.labels(name.removeprefix(prefix))

    def _begin_at_zero(self, of: str, call_type: str) -> None:
        """All decisions of a call type that was not seen before: LiteLLM has more types than are ever used."""
        if (of, call_type) not in self._call_types:
            self._call_types.add((of, call_type))
            for decision in Decision:
                self._checks.labels(of, decision.value, call_type, self._mode)

    def set_levels(self, counters: Counters) -> None:
        """Takes over the numbers that go up and down."""
        for name, level in counters.levels().items():
            self._levels[name].set(level)


def metrics_of_worker(mode: str, *, is_served: bool) -> Metrics | None:
    """Metrics where LiteLLM serves some: `is_served`, or by a process beside it that reads the workers' files."""
    if not (is_served or os.environ.get("PROMETHEUS_MULTIPROC_DIR")):
        return None
    try:
        import prometheus_client
    except ImportError:
        return None
    return Metrics(prometheus_client, mode)
