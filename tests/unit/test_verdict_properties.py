"""What holds for every answer of the service, however odd."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from akto_guardrails.verdict import Cause, Decision, Verdict, verdict_of_answer
from unit.json_values import ANYTHING, SCALARS, TEXT, VALUES

YES = st.sampled_from([True, "true", "True", " TRUE\n"])
NO = st.sampled_from([False, "false", "FALSE", "\tFalse "])
FLAGS = YES | NO | SCALARS
LETTING_PASS = st.sampled_from(["alert", "warn", " Alert ", "WARN"])
HARD = st.sampled_from(["block", "", "approval", "Block", "alerting", "warn alert", "a l e r t"])
BEHAVIOURS = LETTING_PASS | HARD | SCALARS

ENTRIES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(["Allowed", "allowed"], FLAGS),
    **dict.fromkeys(["Modified", "modified"], FLAGS),
    **dict.fromkeys(["ModifiedPayload", "modifiedPayload"], TEXT | ANYTHING),
    **dict.fromkeys(["Reason", "reason"], TEXT | VALUES),
    **dict.fromkeys(["behaviour", "Behaviour"], BEHAVIOURS),
    **dict.fromkeys(["Metadata", "metadata"], st.dictionaries(st.sampled_from(["policy_name", "policyName"]), VALUES)),
    "failOpen": FLAGS,
    "error": VALUES,
}
RESULTS = st.fixed_dictionaries({}, optional=ENTRIES)
SIDES = RESULTS | VALUES
MERGED = st.fixed_dictionaries({}, optional={**ENTRIES, "requestResult": SIDES, "responseResult": SIDES})


def enveloped(results: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The service's answers around `results`, and the bare ones of the guardrails service."""
    data = st.fixed_dictionaries({}, optional={"guardrailsResult": results, "success": FLAGS, "message": VALUES})
    return st.fixed_dictionaries({"data": data}, optional={"success": FLAGS, "message": VALUES}) | results


ERRORS = st.fixed_dictionaries({}, optional={"message": VALUES, "data": RESULTS | VALUES}) | VALUES
ANSWERS = (
    enveloped(MERGED)
    | st.fixed_dictionaries({}, optional={"error": ERRORS, "data": VALUES | MERGED, "success": FLAGS})
    | ANYTHING
)


def verdict_on(answer: Any, *, of_answer: bool = False, status: int = 200) -> Verdict:
    """The verdict in an HTTP answer with this JSON."""
    return verdict_of_answer(status, json.dumps(answer).encode(), of_answer=of_answer)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in `value` that may have a say: not those in a payload that comes as an object."""
    if isinstance(value, list):
        for each in value:
            yield from objects_in(each)
    if isinstance(value, dict):
        yield value
        for name, each in value.items():
            if name.lower() != "modifiedpayload":
                yield from objects_in(each)


def says(value: object, word: str) -> bool:
    """Whether `value` is the boolean `word`, or a string that says it."""
    return str(value).strip().lower() == word and isinstance(value, (bool, str))


def allowed_in(result: Any) -> bool:
    """Whether a result is an object that allows, and is the service's own."""
    if not isinstance(result, dict) or says(result.get("failOpen"), "true"):
        return False
    return says(result.get("Allowed", result.get("allowed")), "true")


@given(st.integers(), st.binary(), st.booleans())
def test_any_bytes_with_any_status_are_a_verdict(status: int, body: bytes, of_answer: bool) -> None:
    verdict = verdict_of_answer(status, body, of_answer=of_answer)
    assert verdict.is_usable is (verdict.cause is None)
    assert status == 200 or not verdict.is_usable


@given(ANSWERS, st.booleans(), st.integers())
def test_no_status_but_200_is_a_verdict_whatever_is_said(answer: Any, of_answer: bool, status: int) -> None:
    assert verdict_on(answer, of_answer=of_answer, status=status).is_usable <= (status == 200)


@given(ANSWERS, st.booleans())
def test_only_what_is_said_to_be_allowed_is(answer: Any, of_answer: bool) -> None:
    verdict = verdict_on(answer, of_answer=of_answer)
    assert verdict.is_usable is (verdict.cause is None)
    if verdict.decision is not Decision.ALLOW:
        return
    assert answer.get("success") is not False
    data = answer.get("data")
    result = data["guardrailsResult"] if isinstance(data, dict) else answer
    sides = [result.get("requestResult"), result.get("responseResult")]
    judged = sides[of_answer] if any(isinstance(side, dict) for side in sides) else result
    assert allowed_in(judged)


@given(ANSWERS, st.booleans())
def test_a_mask_is_taken_only_from_what_may_pass_and_is_said_to_be_modified(answer: Any, of_answer: bool) -> None:
    verdict = verdict_on(answer, of_answer=of_answer)
    if verdict.mask is None:
        return
    assert verdict.decision in (Decision.ALLOW, Decision.FLAG)
    assert any(says(each.get("Modified", each.get("modified")), "true") for each in objects_in(answer))


@given(ANSWERS, st.booleans())
def test_a_violation_passes_only_where_a_behaviour_says_so(answer: Any, of_answer: bool) -> None:
    verdict = verdict_on(answer, of_answer=of_answer)
    if verdict.decision is Decision.FLAG:
        assert verdict.behaviour in ("alert", "warn")
        names = ("behaviour", "Behaviour")
        assert any(says(each.get(name), verdict.behaviour) for each in objects_in(answer) for name in names)


@given(ANSWERS, st.booleans(), VALUES)
def test_entries_nobody_knows_change_nothing(answer: Any, of_answer: bool, value: Any) -> None:
    more = copy.deepcopy(answer)
    for each in list(objects_in(more)):
        each["x-unknown"] = value
    assert verdict_on(more, of_answer=of_answer) == verdict_on(answer, of_answer=of_answer)


@st.composite
def denials(draw: st.DrawFn) -> dict[str, Any]:
    """Results that deny, with a behaviour that does not let that pass, or with none."""
    result = draw(RESULTS)
    for name in ("behaviour", "Behaviour", "failOpen", "Allowed"):
        result.pop(name, None)
    result[draw(st.sampled_from(["behaviour", "Behaviour"]))] = draw(HARD | st.none() | st.integers() | st.booleans())
    if draw(st.booleans()):
        result["Allowed"] = draw(NO)
    else:
        result["allowed"] = draw(NO)
    return result


@given(enveloped(denials()), st.booleans())
def test_a_denial_blocks_unless_it_is_an_alert_or_a_warning(answer: Any, of_answer: bool) -> None:
    verdict = verdict_on(answer, of_answer=of_answer)
    has_result = "data" not in answer or "guardrailsResult" in answer["data"]
    assert verdict.decision is (Decision.BLOCK if has_result else Decision.UNAVAILABLE)


@given(denials(), SIDES, st.booleans(), st.booleans(), FLAGS)
def test_a_denial_on_either_side_blocks(
    denial: Any, other: Any, of_answer: bool, is_request: bool, allowed: object
) -> None:
    names = ("requestResult", "responseResult") if is_request else ("responseResult", "requestResult")
    merged = {"Allowed": allowed, **dict(zip(names, (denial, other), strict=True))}
    verdict = verdict_on({"success": True, "data": {"guardrailsResult": merged}}, of_answer=of_answer)
    assert verdict.decision is Decision.BLOCK


@given(st.fixed_dictionaries({}, optional={name: of for name, of in ENTRIES.items() if name[0].isupper()}))
def test_names_in_lower_case_say_the_same(result: dict[str, Any]) -> None:
    lowered = {"modifiedPayload" if name == "ModifiedPayload" else name.lower(): each for name, each in result.items()}
    assert verdict_on(lowered) == verdict_on(result)


@given(RESULTS, st.booleans())
def test_an_answer_that_the_service_made_up_is_never_one(result: dict[str, Any], of_answer: bool) -> None:
    verdict = verdict_on({"data": {"guardrailsResult": {**result, "failOpen": True}}}, of_answer=of_answer)
    assert verdict.cause is Cause.SERVICE_FAIL_OPEN
