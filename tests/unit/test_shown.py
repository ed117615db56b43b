"""What LiteLLM is told about the guard's work."""

from __future__ import annotations

from typing import Any

import pytest
from litellm.integrations.shadow_eval_logger import GuardrailRequestSnapshot

from akto_guardrails.checker import Judgement
from akto_guardrails.client_request import Outcome
from akto_guardrails.shown import ShownByLiteLLM
from akto_guardrails.verdict import Decision, Verdict

INFORMATION = "standard_logging_guardrail_information"
SHOWN = ShownByLiteLLM("akto")


def told(outcome: Outcome, bucket: str = "metadata") -> dict[str, Any]:
    """LiteLLM's dictionary of a request after it was told of this outcome."""
    data: dict[str, Any] = {"proxy_server_request": {}, bucket: {}}
    SHOWN.judged(data, Judgement(Verdict(Decision.ALLOW), seconds=0.25), outcome)
    return data


def entry_of(data: dict[str, Any], bucket: str = "metadata") -> dict[str, Any]:
    (entry,) = data[bucket][INFORMATION]
    return dict(entry)


@pytest.mark.parametrize(
    ("outcome", "is_copied"),
    [("allowed", False), ("flagged", False), ("unchecked", False), ("masked", True), ("blocked", True)],
)
def test_litellm_copies_the_request_only_where_the_guard_changed_it(outcome: Outcome, is_copied: bool) -> None:
    """Its rule is its own: after the pre-call hooks it takes a copy for what may be compared with the request later."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    taken = GuardrailRequestSnapshot.capture(body, told(outcome)["metadata"])
    assert (taken is not None) is is_copied


@pytest.mark.parametrize("bucket", ["metadata", "litellm_metadata"])
@pytest.mark.parametrize("outcome", ["allowed", "flagged", "unchecked", "masked", "blocked"])
def test_once_the_model_is_called_the_entry_says_when_the_guard_worked(outcome: Outcome, bucket: str) -> None:
    data = told(outcome, bucket)
    for _ in range(2):
        SHOWN.is_under_way(data)
    entry = entry_of(data, bucket)
    assert entry["guardrail_mode"] == "pre_call"
    assert entry["guardrail_response"] == {"decision": outcome}
    assert (entry["guardrail_name"], entry["duration"]) == ("akto", 0.25)


def test_what_was_said_of_an_answer_is_told_beside_what_was_said_of_its_request() -> None:
    data = told("allowed")
    SHOWN.judged(data, Judgement(Verdict(Decision.BLOCK, policy="PII"), seconds=0.5), "blocked", of_answer=True)
    SHOWN.is_under_way(data)
    entries = data["metadata"][INFORMATION]
    said = [(entry["guardrail_mode"], entry["guardrail_response"]["decision"]) for entry in entries]
    assert said == [("pre_call", "allowed"), ("post_call", "blocked")]
    assert entries[1]["guardrail_response"]["policy"] == "PII"


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {},
        {INFORMATION: None},
        {INFORMATION: "text"},
        {INFORMATION: [None, "text", {}, {"guardrail_name": "other", "guardrail_mode": []}]},
        {INFORMATION: [{"guardrail_name": "akto", "guardrail_mode": "post_call"}]},
    ],
)
def test_what_others_wrote_is_left_alone(metadata: Any) -> None:
    data = {"proxy_server_request": {}, "metadata": metadata}
    before = repr(data)
    SHOWN.is_under_way(data)
    assert repr(data) == before


def test_without_litellms_own_metadata_nothing_is_said() -> None:
    data: dict[str, Any] = {"metadata": {}}
    SHOWN.judged(data, Judgement(Verdict(Decision.ALLOW)), "allowed")
    SHOWN.is_under_way(data)
    assert data == {"metadata": {}}
