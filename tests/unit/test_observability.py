"""The dashboard and the alerts ask for metrics that there are, and for all of them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import prometheus_client
import pytest
import yaml

from akto_guardrails.metrics import Metrics

PLACE = Path(__file__).resolve().parents[2] / "image/observability"
DASHBOARD = json.loads((PLACE / "grafana-dashboard.json").read_text(encoding="utf-8"))
ALERTS = yaml.safe_load((PLACE / "alerts.yml").read_text(encoding="utf-8"))
PROMTOOL = shutil.which("promtool")
README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def exported() -> dict[str, set[str]]:
    """The names under which metrics can be asked for, with their labels."""
    registry = prometheus_client.CollectorRegistry()
    metrics = Metrics(prometheus_client, "blocking", registry)
    metrics.judged("checks", "allow", "acompletion", 0.1)
    for name in ("unavailable_x", "records_x", "unchecked_x", "masks_x", "breaker_x", "x"):
        metrics.counted(name, 1)
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def asked_for(expressions: list[str]) -> dict[str, set[str]]:
    """Metrics in expressions, with the labels that are selected."""
    found: dict[str, set[str]] = {}
    for name, selector in re.findall(r"(akto_guardrails_\w+)(?:\{([^}]*)\})?", " ".join(expressions)):
        found.setdefault(name, set()).update(re.findall(r"(\w+)=", selector))
    return found


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    expressions = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    asked, there = asked_for(expressions), exported()
    assert asked.keys() <= there.keys()
    assert all(labels <= there[name] for name, labels in asked.items())
    shown = {name.removesuffix("_bucket") for name in asked}
    assert shown == {re.sub(r"_(bucket|count|sum)$", "", name) for name in there}


def test_legends_and_groups_of_the_dashboard_are_labels() -> None:
    labels = {"le", *(label for each in exported().values() for label in each)}
    for panel in DASHBOARD["panels"]:
        assert panel["description"], panel["title"]
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels
            grouped = ", ".join(re.findall(r"by \(([^)]*)\)", target["expr"]))
            assert {word for word in grouped.split(", ") if word} <= labels


def test_panels_do_not_lie_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    asked, there = asked_for([rule["expr"] for rule in rules]), exported()
    assert asked.keys() <= there.keys()
    assert all(labels <= there[name] for name, labels in asked.items())
    assert len({rule["alert"] for rule in rules}) == len(rules)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")
def test_the_alerts_fire_when_somebody_should_be_told_and_not_else() -> None:
    rules = Path(__file__).with_name("alerts_test.yml")
    result = subprocess.run([str(PROMTOOL), "test", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_alert_about_a_state_asks_whether_requests_suffer_from_it() -> None:
    """What promtool shows with numbers: single checks are no outage, and an idle worker's breaker says nothing."""
    rules = {rule["alert"]: rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]}
    assert "/ sum(rate(akto_guardrails_checks_total[5m]))" in rules["AktoGuardrailsWithoutVerdict"]
    assert 'akto_guardrails_checks_total{decision="unavailable"}' in rules["AktoBreakerOpen"]


def test_the_readme_names_every_metric() -> None:
    for name in exported():
        assert re.sub(r"_(bucket|count|sum)$", "", name).removeprefix("akto_guardrails_") in README, name
