"""The guard's counts as Prometheus metrics."""

from __future__ import annotations

import re
from pathlib import Path

import prometheus_client
import pytest

from akto_guardrails import metrics, unchecked
from akto_guardrails.counters import DURATIONS, Counters
from akto_guardrails.metrics import COUNTS, Metrics, metrics_of_worker
from akto_guardrails.verdict import Decision

HOOK = Path(metrics.__file__).parent


class Seen:
    """Metrics in a registry of their own."""

    def __init__(self) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.counters = Counters()
        self.metrics = Metrics(prometheus_client, "blocking", self.registry)
        self.counters.watch(self.metrics)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"akto_guardrails_{name}", labels)


@pytest.mark.parametrize(
    ("name", "metric", "labels"),
    [
        ("unavailable_timeout", "unavailable_total", {"cause": "timeout"}),
        ("records_dropped", "records_total", {"outcome": "dropped"}),
        ("unchecked_token_counting", "unchecked_requests_total", {"family": "token_counting"}),
        ("masks_unmappable", "masks_total", {"outcome": "unmappable"}),
        ("breaker_opened", "breaker_changes_total", {"change": "opened"}),
        ("checks_split", "events_total", {"event": "checks_split"}),
    ],
)
def test_every_count_is_a_metric(name: str, metric: str, labels: dict[str, str]) -> None:
    seen = Seen()
    seen.counters.add(name)
    seen.counters.add(name, 2)
    assert seen.value(metric, **labels) == 3
    assert seen.counters.snapshot() == {name: 3}


def test_what_is_counted_for_the_first_time_was_there_at_zero_before() -> None:
    """Prometheus sees no increase in a series that begins with its first value."""
    seen = Seen()
    assert seen.value("records_total", outcome="dropped") == 0
    assert seen.value("unavailable_total", cause="credentials") == 0
    assert seen.value("unchecked_requests_total", family="token_counting") == 0
    assert seen.value("masks_total", outcome="unmappable") == 0
    assert seen.value("breaker_changes_total", change="opened") == 0
    assert seen.value("check_duration_seconds_count", of="answer") == 0
    assert seen.value("checks_total", of="request", decision="block", call_type="acompletion", mode="blocking") == 0


def test_with_the_first_check_of_a_call_type_all_its_decisions_are_there() -> None:
    seen = Seen()
    seen.counters.judged("answers", "allow", "aresponses", 0.1)
    of_answer = {"of": "answer", "call_type": "aresponses", "mode": "blocking"}
    values = {each.value: seen.value("checks_total", decision=each.value, **of_answer) for each in Decision}
    assert values == {"allow": 1, "flag": 0, "block": 0, "unavailable": 0}


def test_every_count_of_the_code_is_there_from_the_start() -> None:
    counted = re.compile(r"ounters\.add\(\"(\w+)\"")
    named = {name for file in HOOK.glob("*.py") for name in counted.findall(file.read_text(encoding="utf-8"))}
    assert len(named) > 10
    assert named <= set(COUNTS)
    constants = {value for name, value in vars(unchecked).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(unchecked.FAMILIES)


def test_a_check_is_counted_with_what_it_came_to_and_how_long_it_took() -> None:
    seen = Seen()
    for seconds in (0.004, 0.005, 0.02, 99):
        seen.counters.judged("checks", "allow", "acompletion", seconds)
    seen.counters.judged("answers", "block", "aresponses", 0.3)
    of_request = {"of": "request", "decision": "allow", "call_type": "acompletion", "mode": "blocking"}
    assert seen.value("checks_total", **of_request) == 4
    assert seen.value("checks_total", of="answer", decision="block", call_type="aresponses", mode="blocking") == 1
    assert seen.value("check_duration_seconds_bucket", of="request", le="0.005") == 2
    seen.counters.judged("checks", "unavailable", "acompletion", None)
    assert seen.value("check_duration_seconds_count", of="request") == 4, "Akto was not asked in the last"
    report = seen.counters.report()
    assert (report["checks_allow"], report["answers_block"]) == (4, 1)
    assert report["check_seconds"] == {"sum": 99.329, "le_0.005": 2, "le_0.025": 1, "le_0.5": 1, "more": 1}


def test_levels_are_taken_over_when_they_are_asked_for() -> None:
    seen, waiting = Seen(), [7]
    seen.counters.add_level("record_queue_bytes", lambda: waiting[0])
    seen.metrics.set_levels(seen.counters)
    waiting[0] = 3
    assert seen.value("record_queue_bytes") == 7
    seen.metrics.set_levels(seen.counters)
    assert seen.value("record_queue_bytes") == 3


def test_there_are_metrics_only_where_somebody_serves_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    assert metrics_of_worker("blocking", is_served=False) is None
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    assert metrics_of_worker("blocking", is_served=True) is None


def test_the_bounds_of_durations_go_up() -> None:
    assert list(DURATIONS) == sorted(set(DURATIONS))
