"""What Akto's answers to a check mean: the protocol's own examples, and what they leave open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from akto_guardrails.masking import UnmappableMask, masked_strings
from akto_guardrails.verdict import Cause, Decision, Verdict, verdict_of_answer
from unit.samples import MASKED_CARD

FIXTURES = Path(__file__).parents[1] / "fixtures"

# Examples that are not the answer to a request check in time, each with the reason.
NOT_A_CHECK = {
    "response-auth-check.json": "answers GET /api/auth-check",
    "response-health-check.json": "answers GET /healthCheck",
    "response-ingest-batch-ok.json": "answers a record in bulk",
    "response-ingest-ok.json": "answers a record: the same body on a check means that no verdict was made",
    "response-modify-response.json": "masks a model's answer, so its mask belongs to no request",
    "response-connection-refused.json": "there is no answer; the client's own tests have the case",
    "response-connection-reset.json": "there is no answer; the client's own tests have the case",
    "response-slow-allow.json": "comes after the time-out; the client's own tests have the case",
    "response-slow-block.json": "comes after the time-out; the client's own tests have the case",
}

DECISIONS = {
    "allow": Decision.ALLOW,
    "allow_flagged": Decision.FLAG,
    "block": Decision.BLOCK,
    "modify": Decision.ALLOW,
    "modify_unmappable": Decision.ALLOW,
    "unreachable": Decision.UNAVAILABLE,
}


def load(name: str) -> dict[str, Any]:
    """One protocol example."""
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


RESPONSES = sorted(path.name for path in FIXTURES.glob("response-*.json"))
CHECKS = [name for name in RESPONSES if name not in NOT_A_CHECK]


def judged(fixture: dict[str, Any]) -> Verdict:
    """The verdict on the answer in `fixture`."""
    http = fixture["http"]
    body = http["raw_body"].encode() if "raw_body" in http else json.dumps(http["body"]).encode()
    return verdict_of_answer(http["status"], body)


def sent_content(fixture: dict[str, Any]) -> dict[str, Any]:
    """The content that the request answered by `fixture` carried."""
    payload = json.loads(load(fixture["answers"])["http"]["body"]["requestPayload"])
    return payload.get("body", payload)


def verdict_on(result: object, **envelope: object) -> Verdict:
    """The verdict when `result` comes as `guardrailsResult`."""
    answer = {"success": True, "data": {"success": True, "guardrailsResult": result}, **envelope}
    return verdict_of_answer(200, json.dumps(answer).encode())


@pytest.mark.parametrize("name", CHECKS)
def test_every_example_of_the_protocol_is_decided_as_recommended(name: str) -> None:
    fixture = load(name)
    expected = fixture["expect"]["decision"]
    verdict = judged(fixture)
    assert verdict.decision is DECISIONS[expected]
    assert verdict.is_usable is (expected != "unreachable")
    assert (verdict.cause is not None) is (expected == "unreachable")
    assert (verdict.mask is not None) is expected.startswith("modify")


@pytest.mark.parametrize("name", [name for name in CHECKS if load(name)["expect"]["decision"] == "modify"])
def test_the_masks_of_the_examples_can_be_put_into_the_request(name: str) -> None:
    fixture = load(name)
    mask = judged(fixture).mask
    assert mask is not None
    content = sent_content(fixture)
    changes = masked_strings(content, mask)
    assert changes == {("messages", 1, "content"): "My card is <CREDIT_CARD>, refund me"}


@pytest.mark.parametrize("name", [name for name in CHECKS if load(name)["expect"]["decision"] == "modify_unmappable"])
def test_the_masks_that_belong_nowhere_are_told_apart(name: str) -> None:
    fixture = load(name)
    mask = judged(fixture).mask
    assert mask is not None
    if name == "response-modify-schema-text.json":
        # Its note leaves the choice: the text is the masked form of the newest user message and of nothing else.
        assert masked_strings(sent_content(fixture), mask) == {("messages", 1, "content"): MASKED_CARD}
        return
    with pytest.raises(UnmappableMask):
        masked_strings(sent_content(fixture), mask)


@pytest.mark.parametrize(
    "name", [name for name in CHECKS if not load(name)["expect"].get("reason", "<").startswith("<")]
)
def test_the_reason_of_the_examples_is_kept(name: str) -> None:
    fixture = load(name)
    assert judged(fixture).reason == fixture["expect"]["reason"]


def test_every_exception_from_the_examples_is_still_there() -> None:
    assert set(NOT_A_CHECK) <= set(RESPONSES)
    assert len(CHECKS) >= 40


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (204, Cause.UNREADABLE),
        (300, Cause.REDIRECT),
        (302, Cause.REDIRECT),
        (399, Cause.REDIRECT),
        (400, Cause.REJECTED),
        (401, Cause.CREDENTIALS),
        (404, Cause.REJECTED),
        (422, Cause.REJECTED),
        (499, Cause.REJECTED),
        (500, Cause.SERVER_ERROR),
        (503, Cause.SERVER_ERROR),
    ],
)
def test_another_status_than_200_is_no_verdict_whatever_the_body_says(status: int, cause: Cause) -> None:
    for allowed in (True, False):
        body = json.dumps({"data": {"guardrailsResult": {"Allowed": allowed}}}).encode()
        verdict = verdict_of_answer(status, body)
        assert verdict.decision is Decision.UNAVAILABLE
        assert verdict.cause is cause


@pytest.mark.parametrize("status", [201, 202, 204])
def test_a_success_that_is_not_200_is_no_verdict_either(status: int) -> None:
    body = b'{"data": {"guardrailsResult": {"Allowed": true}}}'
    assert verdict_of_answer(status, body).decision is Decision.UNAVAILABLE


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"yes"', b"<html>", b"\xff\xfe", b'{"data":', b"[" * 5000 + b"]" * 5000]
)
def test_a_body_that_is_not_a_json_object_is_unreadable(body: bytes) -> None:
    assert verdict_of_answer(200, body).cause is Cause.UNREADABLE


@pytest.mark.parametrize("result", [None, [], "text", {}, {"Allowed": None}, {"Allowed": "perhaps"}, {"Allowed": 1}])
def test_a_result_that_does_not_say_allowed_or_not_is_no_verdict(result: object) -> None:
    assert verdict_on(result).cause is Cause.NO_VERDICT


@pytest.mark.parametrize(
    ("behaviour", "decision"),
    [
        ("block", Decision.BLOCK),
        ("", Decision.BLOCK),
        (None, Decision.BLOCK),
        ("approval", Decision.BLOCK),
        ("something-new", Decision.BLOCK),
        ("alert", Decision.FLAG),
        ("warn", Decision.FLAG),
        (" Alert ", Decision.FLAG),
        ("WARN", Decision.FLAG),
    ],
)
def test_only_alert_and_warn_let_a_violation_pass(behaviour: str | None, decision: Decision) -> None:
    assert verdict_on({"Allowed": False, "behaviour": behaviour}).decision is decision
    assert verdict_on({"Allowed": False, "Behaviour": behaviour}).decision is decision


@pytest.mark.parametrize("behaviour", ["", "block", "alert"])
def test_allowed_is_allowed_whatever_the_behaviour(behaviour: str) -> None:
    assert verdict_on({"Allowed": True, "behaviour": behaviour}).decision is Decision.ALLOW


@pytest.mark.parametrize(
    "denied",
    [
        {"Allowed": "false"},
        {"Allowed": " False "},
        {"allowed": False},
        {"Allowed": None, "allowed": False},
        {"Allowed": True, "allowed": False},
    ],
)
def test_a_denial_is_seen_in_every_spelling(denied: dict[str, object]) -> None:
    assert verdict_on(denied).decision is Decision.BLOCK


@pytest.mark.parametrize("allowed", [{"Allowed": "true"}, {"allowed": True}])
def test_a_permission_is_seen_in_every_spelling(allowed: dict[str, object]) -> None:
    assert verdict_on(allowed).decision is Decision.ALLOW


@pytest.mark.parametrize(
    "result",
    [
        {
            "Allowed": False,
            "Reason": "PII",
            "behaviour": "alert",
            "Metadata": {"policy_name": "Data", "rule_violated": "Pii"},
        },
        {
            "allowed": False,
            "reason": "PII",
            "Behaviour": "alert",
            "metadata": {"policyName": "Data", "ruleViolated": "Pii"},
        },
    ],
)
def test_reason_policy_and_rule_are_read_in_both_spellings(result: dict[str, object]) -> None:
    verdict = verdict_on(result)
    assert (verdict.reason, verdict.behaviour, verdict.policy, verdict.rule) == ("PII", "alert", "Data", "Pii")


@pytest.mark.parametrize("metadata", [None, "text", [], {"policy_name": 7}])
def test_metadata_of_another_shape_does_no_harm(metadata: object) -> None:
    verdict = verdict_on({"Allowed": False, "Metadata": metadata})
    assert verdict.decision is Decision.BLOCK
    assert verdict.policy == ""


@pytest.mark.parametrize("mark", [True, "true"])
def test_an_answer_the_service_made_up_itself_is_no_verdict(mark: object) -> None:
    assert verdict_on({"Allowed": True, "failOpen": mark}).cause is Cause.SERVICE_FAIL_OPEN
    assert verdict_on({"Allowed": True, "failOpen": False}).decision is Decision.ALLOW


def test_without_success_an_allow_is_no_verdict_but_a_block_still_blocks() -> None:
    assert verdict_on({"Allowed": True}, success=False).cause is Cause.NO_VERDICT
    assert verdict_on({"Allowed": False, "behaviour": "block"}, success=False).decision is Decision.BLOCK


def test_the_bare_verdict_of_the_guardrails_service_itself_is_understood() -> None:
    assert verdict_of_answer(200, b'{"allowed": false, "reason": "no"}') == Verdict(Decision.BLOCK, reason="no")


@pytest.mark.parametrize(("behaviour", "decision"), [("block", Decision.BLOCK), ("alert", Decision.FLAG)])
def test_a_verdict_in_an_error_object_is_understood(behaviour: str, decision: Decision) -> None:
    answer = {"error": {"message": "from the message", "data": {"behaviour": behaviour}}}
    verdict = verdict_of_answer(200, json.dumps(answer).encode())
    assert verdict.decision is decision
    assert verdict.reason == "from the message"


@pytest.mark.parametrize("name", ["reason", "Reason"])
def test_the_reason_in_an_error_object_comes_before_its_message(name: str) -> None:
    answer = {"error": {"message": "from the message", "data": {"behaviour": "block", name: "from the data"}}}
    assert verdict_of_answer(200, json.dumps(answer).encode()).reason == "from the data"


@pytest.mark.parametrize("error", ["text", {"message": "broken"}, {"data": "text"}, []])
def test_another_error_object_is_no_verdict(error: object) -> None:
    assert verdict_of_answer(200, json.dumps({"error": error}).encode()).cause is Cause.NO_VERDICT


class TestMask:
    """Which text a mask is taken from."""

    def test_a_payload_is_ignored_unless_the_service_says_it_modified_something(self) -> None:
        for modified in (False, "false", None):
            assert verdict_on({"Allowed": True, "Modified": modified, "ModifiedPayload": "{}"}).mask is None

    @pytest.mark.parametrize("payload", ["", None, 7])
    def test_modified_without_a_payload_is_an_empty_mask_and_not_none(self, payload: object) -> None:
        assert verdict_on({"Allowed": True, "Modified": True, "ModifiedPayload": payload}).mask == ""

    def test_both_spellings_are_read(self) -> None:
        assert verdict_on({"allowed": True, "modified": "true", "modifiedPayload": "{}"}).mask == "{}"

    def test_a_payload_sent_as_an_object_is_read_as_its_text(self) -> None:
        mask = verdict_on({"Allowed": True, "Modified": True, "ModifiedPayload": {"body": {"a": "\u00e9"}}}).mask
        assert mask is not None
        assert json.loads(mask) == {"body": {"a": "\u00e9"}}

    def test_a_deeply_nested_payload_object_does_not_raise_and_is_never_a_clean_allow(self) -> None:
        deep = b"[" * 300 + b"]" * 300
        body = b'{"data":{"guardrailsResult":{"Allowed":true,"Modified":true,"ModifiedPayload":' + deep + b"}}}"
        verdict = verdict_of_answer(200, body)
        assert verdict.decision is Decision.UNAVAILABLE or verdict.mask is not None

    def test_an_alert_keeps_its_mask_and_a_block_has_none(self) -> None:
        denied = {"Allowed": False, "Modified": True, "ModifiedPayload": "{}"}
        assert verdict_on({**denied, "behaviour": "alert"}).mask == "{}"
        assert verdict_on({**denied, "behaviour": "block"}).mask is None


class TestBothSides:
    """Answers in the merged shape, which some accounts get to every check."""

    ALLOWED = {"Allowed": True}  # noqa: RUF012 - never changed
    NO_ANSWER = {"Allowed": True, "Reason": "No response body provided"}  # noqa: RUF012

    @pytest.mark.parametrize("side", ["requestResult", "responseResult"])
    @pytest.mark.parametrize("blocking", [{"Allowed": False}, {"Allowed": False, "behaviour": "block"}, {}])
    def test_one_blocking_side_blocks(self, side: str, blocking: dict[str, object]) -> None:
        result = {"Allowed": False, "requestResult": self.ALLOWED, "responseResult": self.ALLOWED}
        assert verdict_on({**result, side: {**blocking, "Reason": "no"}}).decision is Decision.BLOCK
        assert verdict_on({**result, side: {**blocking, "Reason": "no"}}).reason == "no"

    @pytest.mark.parametrize("side", ["requestResult", "responseResult"])
    def test_an_alert_on_one_side_flags_though_the_top_level_denies(self, side: str) -> None:
        alert = {"Allowed": False, "behaviour": "alert", "Reason": "PII"}
        result = {"Allowed": False, "requestResult": self.ALLOWED, "responseResult": self.ALLOWED, side: alert}
        verdict = verdict_on(result)
        assert verdict.decision is Decision.FLAG
        assert verdict.reason == "PII"

    def test_a_block_on_the_answer_beats_an_alert_on_the_request(self) -> None:
        result = {
            "Allowed": False,
            "requestResult": {"Allowed": False, "behaviour": "alert"},
            "responseResult": {"Allowed": False, "behaviour": "block"},
        }
        assert verdict_on(result).decision is Decision.BLOCK

    def test_the_mask_is_that_of_the_request_side(self) -> None:
        masked = {"Allowed": True, "Modified": True, "ModifiedPayload": "request"}
        answer = {"Allowed": False, "behaviour": "alert", "Modified": True, "ModifiedPayload": "answer"}
        assert verdict_on({"Allowed": False, "requestResult": masked, "responseResult": answer}).mask == "request"
        assert verdict_on({"Allowed": True, "requestResult": self.ALLOWED, "responseResult": answer}).mask is None

    def test_no_verdict_on_the_request_is_none_although_the_answer_side_has_one(self) -> None:
        made_up = {"Allowed": True, "failOpen": True}
        result = {"Allowed": True, "requestResult": made_up, "responseResult": self.NO_ANSWER}
        assert verdict_on(result).cause is Cause.SERVICE_FAIL_OPEN
        assert verdict_on({"Allowed": True, "requestResult": None, "responseResult": self.ALLOWED}).cause is (
            Cause.NO_VERDICT
        )

    @pytest.mark.parametrize("missing", ["requestResult", "responseResult"])
    @pytest.mark.parametrize("of_answer", [False, True])
    def test_a_block_of_the_top_level_is_one_where_the_side_is_missing(self, missing: str, of_answer: bool) -> None:
        sides = {"requestResult": self.ALLOWED, "responseResult": self.ALLOWED, missing: None}
        result = {"Allowed": False, "behaviour": "block", **sides}
        body = json.dumps({"success": True, "data": {"guardrailsResult": result}}).encode()
        verdict = verdict_of_answer(200, body, of_answer=of_answer)
        is_asked = (missing == "responseResult") == of_answer
        assert verdict.decision is (Decision.BLOCK if is_asked else Decision.ALLOW)

    def test_no_verdict_on_an_answer_that_is_not_there_yet_changes_nothing(self) -> None:
        made_up = {"Allowed": True, "failOpen": True}
        result = {"Allowed": True, "requestResult": self.ALLOWED, "responseResult": made_up}
        assert verdict_on(result).decision is Decision.ALLOW


class TestOfAnswer:
    """Merged verdicts, when the check was about an answer."""

    OK = {"Allowed": True, "Modified": False, "ModifiedPayload": "", "Reason": "", "behaviour": ""}  # noqa: RUF012
    NO = {"Allowed": False, "behaviour": "block", "Reason": "no"}  # noqa: RUF012
    ALERT = {"Allowed": False, "behaviour": "alert", "Reason": "hm"}  # noqa: RUF012
    MASK = {**OK, "Modified": True, "ModifiedPayload": "{}"}  # noqa: RUF012
    OUT = {"Allowed": True, "failOpen": True, "error": "timeout"}  # noqa: RUF012

    @staticmethod
    def verdict(request: object, response: object, *, of_answer: bool = True) -> Verdict:
        merged = {"Allowed": True, "Reason": "", "requestResult": request, "responseResult": response}
        answer = {"success": True, "data": {"success": True, "guardrailsResult": merged}}
        return verdict_of_answer(200, json.dumps(answer).encode(), of_answer=of_answer)

    @pytest.mark.parametrize(
        ("request_side", "response_side", "decision"),
        [
            (OK, OK, Decision.ALLOW),
            (OK, NO, Decision.BLOCK),
            (NO, OK, Decision.BLOCK),
            (ALERT, NO, Decision.BLOCK),
            (OUT, NO, Decision.BLOCK),
            (NO, None, Decision.BLOCK),
            (OK, ALERT, Decision.FLAG),
            (ALERT, OK, Decision.FLAG),
            # The side that was not asked about decides nothing but a block.
            (OUT, OK, Decision.ALLOW),
            (None, OK, Decision.ALLOW),
            (OK, OUT, Decision.UNAVAILABLE),
            (ALERT, OUT, Decision.UNAVAILABLE),
            (OK, None, Decision.UNAVAILABLE),
            (OK, "text", Decision.UNAVAILABLE),
        ],
    )
    def test_either_side_can_block_and_the_answers_side_decides_the_rest(
        self, request_side: object, response_side: object, decision: Decision
    ) -> None:
        assert self.verdict(request_side, response_side).decision is decision
        assert self.verdict(response_side, request_side, of_answer=False).decision is decision

    @pytest.mark.parametrize(
        ("request_side", "response_side", "mask"),
        [(OK, MASK, "{}"), (MASK, OK, None), (ALERT, MASK, "{}"), (MASK, ALERT, None), (OUT, MASK, "{}")],
    )
    def test_only_the_answers_own_mask_is_one_of_the_answer(
        self, request_side: object, response_side: object, mask: str | None
    ) -> None:
        assert self.verdict(request_side, response_side).mask == mask
        assert self.verdict(response_side, request_side, of_answer=False).mask == mask

    def test_a_verdict_that_is_not_merged_is_the_answers(self) -> None:
        answer = {"success": True, "data": {"success": True, "guardrailsResult": self.MASK}}
        verdict = verdict_of_answer(200, json.dumps(answer).encode(), of_answer=True)
        assert (verdict.decision, verdict.mask) == (Decision.ALLOW, "{}")
