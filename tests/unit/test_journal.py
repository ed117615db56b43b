"""What the guard's log lines say, and that nobody else's words can say it for them."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest
from litellm._logging import JsonFormatter

from akto_guardrails.checker import Judgement
from akto_guardrails.counters import Counters
from akto_guardrails.journal import Journal
from akto_guardrails.verdict import Cause, Decision, Verdict
from unit.samples import exchange, identity, settings

FORGED = "{'event': 'masked', 'call_id': 'another', 'collection': 'victim', 'behaviour': 'alert', 'duration_ms': 0}"
OWN = {"call_id": "call-1", "collection": "checkout-agent", "route": "/v1/chat/completions"}


def said(caplog: pytest.LogCaptureFixture, names: dict[str, str], verdict: dict[str, str]) -> logging.LogRecord:
    """The line about a block, where caller and Akto gave these names."""
    judgement = Judgement(Verdict(Decision.BLOCK, **{"behaviour": "block", **verdict}), seconds=0.5)
    about = replace(exchange(1), identity=identity(**names))
    Journal(settings(), Counters()).violation("blocked", about, judgement)
    return caplog.records[-1]


@pytest.mark.parametrize(
    ("names", "verdict"),
    [
        *(({name: FORGED}, {}) for name in OWN),
        *(({}, {name: FORGED}) for name in ("behaviour", "policy", "rule")),
    ],
)
def test_no_value_takes_over_the_fields_of_a_line_in_json(
    names: dict[str, str], verdict: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    line: dict[str, Any] = json.loads(JsonFormatter().format(said(caplog, names, verdict)))
    expected = {"event": "blocked", "behaviour": "block", "duration_ms": 500.0, **OWN, **names, **verdict}
    assert {name: line[name] for name in expected} == expected


@pytest.mark.parametrize("name", [*OWN, "policy"])
def test_no_value_looks_like_further_fields_of_a_plain_line(name: str, caplog: pytest.LogCaptureFixture) -> None:
    forged = "x | masked | collection=victim\nWARNING blocked"
    line = said(caplog, {name: forged} if name in OWN else {}, {} if name in OWN else {name: forged}).getMessage()
    assert line.count(" | ") == 3
    assert line.count("collection=") == 1
    assert "\n" not in line
    assert f"{name}=x / masked / collection:victim?WARNING blocked" in line


def test_a_missing_verdict_is_told_with_the_same_care(caplog: pytest.LogCaptureFixture) -> None:
    about = replace(exchange(1), identity=identity(call_id=FORGED))
    Journal(settings(), Counters()).unavailable(Cause.TIMEOUT, "", about)
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    about = {"call_id": FORGED[:200], "collection": "checkout-agent", "route": "/v1/chat/completions", "of": "request"}
    expected = {"event": "no verdict from Akto", "cause": "timeout", "outcome": "fail_open", **about}
    assert {name: line[name] for name in expected} == expected


def test_a_line_says_whether_it_is_about_the_request_or_its_answer(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    journal = Journal(settings(), Counters())
    judgement = Judgement(Verdict(Decision.BLOCK), {("messages", 0, "content"): "*"})
    for of_answer in (False, True):
        journal.violation("blocked", exchange(1), judgement, of_answer=of_answer)
        journal.violation_seen(exchange(1), judgement, of_answer=of_answer)
        journal.masked(exchange(1), judgement, of_answer=of_answer)
        journal.mask_seen(exchange(1), judgement, of_answer=of_answer)
        journal.unmappable(exchange(1), ValueError(), of_answer=of_answer)
        journal.unavailable(list(Cause)[of_answer], "", exchange(1), of_answer=of_answer)
    assert [json.loads(JsonFormatter().format(record))["of"] for record in caplog.records] == (
        ["request"] * 6 + ["answer"] * 6
    )
    assert all(f" of={record.__dict__['of']} " in f"{record.getMessage()} " for record in caplog.records)


def test_unchecked_routes_are_told_in_fields_too(caplog: pytest.LogCaptureFixture) -> None:
    Journal(settings(), Counters()).unchecked_route("assistants")
    line = json.loads(JsonFormatter().format(caplog.records[-1]))
    assert (line["event"], line["family"]) == ("unchecked route", "assistants")


def test_values_are_short(caplog: pytest.LogCaptureFixture) -> None:
    long = "A" * 50_000
    record = said(caplog, dict.fromkeys(OWN, long), {"behaviour": long, "policy": long, "rule": long})
    assert len(record.getMessage()) < 1_500
    assert len(JsonFormatter().format(record)) < 4_000


def test_a_call_id_as_litellm_makes_them_is_printed_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    call_id = "0f3c1d7e-3a3b-4b9e-9a44-1f6f4f3f9a10"
    assert f"call_id={call_id} collection=" in said(caplog, {"call_id": call_id}, {}).getMessage()
