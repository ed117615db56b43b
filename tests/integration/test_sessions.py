"""Akto's policies on sessions: blocked ones stay blocked, and summaries of bare payloads stay with Akto."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm
from integration.test_chat import CARD, MASKED, sent_body

SUMMARY = "Before, the user asked for a refund.\n\nThe agent agreed."


@pytest.fixture
def session() -> dict[str, str]:
    return {"x-session-id": f"s-{uuid.uuid4()}"}


@pytest.fixture
def bare(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return shared_proxy(PAYLOAD_SHAPE="bare")


@pytest.mark.parametrize("shape", ["body", "bare"])
def test_after_a_block_every_request_of_the_session_is_blocked(
    shared_proxy: Any, akto: MockAkto, llm: MockLlm, session: dict[str, str], shape: str
) -> None:
    proxy = shared_proxy(PAYLOAD_SHAPE=shape) if shape == "bare" else shared_proxy()
    assert proxy.chat("hello", headers=session).status_code == 200
    assert proxy.chat("please zebra-block this", headers=session).status_code == 403
    refused = proxy.chat("hello again", headers=session)
    assert refused.status_code == 403
    assert "Session blocked due to previous malicious activity" in refused.json()["error"]["message"]
    assert proxy.chat("hello", headers={"x-session-id": str(uuid.uuid4())}).status_code == 200
    assert len(llm.requests()) == 2


def test_bare_payloads_carry_the_request_alone(bare: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    assert bare.chat("hello").status_code == 200
    (record,) = akto.wait_for("record", 1)
    (check,) = akto.calls("check")
    expected = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    assert json.loads(check["body"]["requestPayload"]) == expected
    assert json.loads(record["body"]["requestPayload"]) == expected
    assert "choices" in json.loads(record["body"]["responsePayload"])


@pytest.mark.parametrize(
    "text", ["hello", "two\n\nparagraphs", "\n\n", "Before, the user asked for a refund.\n\nhello"]
)
@pytest.mark.parametrize(
    ("route", "body", "place"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o-mini"}, "messages"),
        ("/v1/messages", {"model": "claude", "max_tokens": 9}, "messages"),
        ("/v1/completions", {"model": "instruct"}, "prompt"),
    ],
)
def test_the_summary_of_a_session_never_reaches_the_model(
    bare: GuardedProxy,
    akto: MockAkto,
    llm: MockLlm,
    session: dict[str, str],
    text: str,
    route: str,
    body: dict[str, Any],
    place: str,
) -> None:
    akto.summarise(session["x-session-id"], SUMMARY)
    value = text if place == "prompt" else [{"role": "user", "content": text}]
    assert bare.post(route, {**body, place: value}, headers=session).status_code == 200
    asked = json.dumps(llm.requests()[0]["body"])
    assert "The agent agreed" not in asked
    assert json.dumps(text)[1:-1] in asked
    (check,) = akto.calls("check")
    assert check["verdict"]["Modified"] is True, "the service did put the summary in front"
    (record,) = akto.wait_for("record", 1)
    assert "The agent agreed" not in json.dumps(record["body"])


def test_a_mask_behind_a_summary_is_applied_without_it(
    bare: GuardedProxy, akto: MockAkto, llm: MockLlm, session: dict[str, str]
) -> None:
    akto.summarise(session["x-session-id"], SUMMARY)
    assert bare.chat(CARD, headers=session).status_code == 200
    assert llm.requests()[0]["body"]["messages"] == [{"role": "user", "content": MASKED}]


def test_wrapped_payloads_get_no_summary(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, session: dict[str, str]
) -> None:
    akto.summarise(session["x-session-id"], SUMMARY)
    assert proxy.chat("hello", headers=session).status_code == 200
    (check,) = akto.calls("check")
    assert check["verdict"]["Modified"] is False
    assert sent_body(check)["messages"] == [{"role": "user", "content": "hello"}]
