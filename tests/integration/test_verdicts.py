"""Every protocol example in tests/fixtures, played by the mock Akto to a running container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import requests

from integration.containers import TOKEN, GuardedProxy, MockAkto, MockLlm

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
RESPONSES = sorted(FIXTURES.glob("response-*.json"))

# Examples that do not answer a request check; each is shown where it belongs.
ANSWERS_TO_A_RECORD = {"response-ingest-ok.json", "response-ingest-batch-ok.json"}
ANSWERS_TO_A_PROBE = {"response-health-check.json", "response-auth-check.json"}
# The mask of a model's answer; answers are not checked by this version (RESPONSE_GUARDRAILS is refused at start).
ANSWERS_TO_AN_ANSWER_CHECK = {"response-modify-response.json"}
NOT_A_CHECK = ANSWERS_TO_A_RECORD | ANSWERS_TO_A_PROBE | ANSWERS_TO_AN_ANSWER_CHECK

CARD = "My card is 4111-1111-1111-1111, refund me"


def chat_of_the_fixtures() -> dict[str, Any]:
    """The chat request that the examples answer, as a client sends it."""
    fixture = json.loads((FIXTURES / "request-validate-chat.json").read_text())
    return json.loads(fixture["http"]["body"]["requestPayload"])["body"]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


CHECK_ANSWERS = [path for path in RESPONSES if path.name not in NOT_A_CHECK]


@pytest.fixture(params=["fail_open", "fail_closed"])
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def guarded(shared_proxy: Any, akto: MockAkto, llm: MockLlm, mode: str) -> GuardedProxy:
    return shared_proxy() if mode == "fail_open" else shared_proxy(UNREACHABLE_FALLBACK="fail_closed")


@pytest.mark.parametrize("path", CHECK_ANSWERS, ids=lambda path: path.stem.removeprefix("response-"))
def test_the_decision_on_a_check(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, mode: str, path: Path) -> None:
    fixture = load(path)
    akto.answer("check", fixture["http"])
    body = chat_of_the_fixtures()
    response = guarded.post("/v1/chat/completions", body, key="sk.checkout-agent")
    (record,) = akto.wait_for("record", 1)
    reached_model = [request["body"]["messages"] for request in llm.requests()]

    decision = fixture["expect"]["decision"]
    if path.name == "response-modify-schema-text.json":
        # Its note leaves the choice: the text is the masked form of the newest user message and of nothing else.
        decision = "modify"
    if decision == "unreachable":
        decision = "allow" if mode == "fail_open" else "refuse"
    match decision:
        case "allow" | "allow_flagged":
            assert response.status_code == 200, response.text
            assert reached_model == [body["messages"]]
        case "modify":
            assert response.status_code == 200, response.text
            (messages,) = reached_model
            (_, masked) = fixture["expect"].get("text_changes", [[CARD, "My card is <CREDIT_CARD>, refund me"]])[0]
            assert messages == [body["messages"][0], {"role": "user", "content": masked}]
        case "block" | "modify_unmappable":
            assert response.status_code == 403, response.text
            assert reached_model == []
            assert response.json()["error"]["message"] == expected_message(fixture)
        case "refuse":
            assert response.status_code == 503, response.text
            assert reached_model == []
    assert record["body"]["statusCode"] == str(response.status_code)
    if path.name == "response-401.json":
        assert "credentials refused" in guarded.guard_log()


def expected_message(fixture: dict[str, Any]) -> str:
    reason = fixture["expect"].get("reason")
    if fixture["expect"]["decision"] == "modify_unmappable":
        reason = "content has to be masked, but the mask could not be applied"
    elif reason == "<client default>":
        reason = None
    elif reason is None:
        reason = reason_in(fixture["http"]["body"])
    return "Blocked by Akto Guardrails" + (f": {reason}" if reason else "")


def reason_in(body: dict[str, Any]) -> str:
    if "error" in body:
        return body["error"]["data"]["reason"]
    result = body["data"]["guardrailsResult"] if "data" in body else body
    return result.get("Reason") or result.get("reason")


@pytest.mark.parametrize("name", sorted(ANSWERS_TO_A_RECORD))
def test_a_record_counts_as_delivered_by_its_status_alone(
    shared_proxy: Any, akto: MockAkto, llm: MockLlm, name: str
) -> None:
    akto.answer("record", load(FIXTURES / name)["http"])
    assert shared_proxy().chat("hello").status_code == 200
    akto.wait_for("record", 1)
    assert len(llm.requests()) == 1


@pytest.mark.parametrize("name", sorted(ANSWERS_TO_A_PROBE))
def test_the_mock_answers_probes_like_the_service(akto: MockAkto, name: str) -> None:
    path = "/healthCheck" if "health" in name else "/api/auth-check"
    answer = requests.get(akto.url + path, headers={"Authorization": TOKEN}, timeout=5)
    expected = load(FIXTURES / name)["http"]
    assert answer.status_code == expected["status"]
    assert answer.json()["success"] == expected["body"]["success"]


REQUEST_KEYS = {
    name: load(FIXTURES / f"request-{name}.json")["http"]["body"]
    for name in ("validate-chat", "ingest-success", "ingest-blocked")
}


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("validate-chat", "check", CARD),
        ("ingest-success", "record", "hello"),
        ("ingest-blocked", "record", "zebra-block"),
    ],
)
def test_envelopes_have_the_shape_of_the_examples(
    shared_proxy: Any, akto: MockAkto, name: str, kind: str, text: str
) -> None:
    headers = {"x-session-id": "sess-42", "x-request-id": "req-7", "x-forwarded-for": "203.0.113.7, 10.0.0.1"}
    shared_proxy().chat(text, headers=headers, stream=False)
    akto.wait_for("record", 1)
    (call,) = akto.calls(kind)
    body, example = call["body"], REQUEST_KEYS[name]
    assert body.keys() == example.keys()
    assert {key: type(value) for key, value in body.items()} == {key: type(value) for key, value in example.items()}
    own = {"requestPayload", "responsePayload", "requestHeaders", "responseHeaders", "tag", "metadata", "time", "ip"}
    assert {k: v for k, v in body.items() if k not in own} == {k: v for k, v in example.items() if k not in own}
    assert len(body["time"]) == len(example["time"])
    sent, expected = json.loads(body["requestHeaders"]), json.loads(example["requestHeaders"])
    assert expected.items() <= sent.items()
    assert json.loads(body["requestPayload"])["body"].keys() <= json.loads(example["requestPayload"])["body"].keys()
    assert body["tag"] == body["metadata"]
    assert all(isinstance(value, str) for value in json.loads(body["tag"]).values())


SAME_ROUTE_EXAMPLES = {
    "validate-anthropic-messages": "/v1/messages",
    "validate-responses-api": "/v1/responses",
    "validate-embeddings": "/v1/embeddings",
    "validate-completions": "/v1/completions",
}


@pytest.mark.parametrize("name", SAME_ROUTE_EXAMPLES)
def test_requests_of_the_other_examples_are_checked_with_the_same_payload(
    shared_proxy: Any, akto: MockAkto, name: str
) -> None:
    example = load(FIXTURES / f"request-{name}.json")["http"]["body"]
    content = json.loads(example["requestPayload"])["body"]
    models = {
        "validate-anthropic-messages": "claude",
        "validate-embeddings": "embed",
        "validate-completions": "instruct",
    }
    content["model"] = models.get(name, "gpt-4o-mini")
    shared_proxy().post(SAME_ROUTE_EXAMPLES[name], content)
    # A number, which the guard has no reason to send.
    content.pop("max_tokens", None)
    (check,) = akto.wait_for("check", 1)
    assert check["body"]["path"] == example["path"] == SAME_ROUTE_EXAMPLES[name]
    assert json.loads(check["body"]["requestPayload"])["body"] == content
