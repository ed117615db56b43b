"""Collections, sessions, request ids, client addresses, mirrored headers and tags."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body


def headers_of(call: dict[str, Any]) -> dict[str, str]:
    return json.loads(call["body"]["requestHeaders"])


def tags_of(call: dict[str, Any]) -> dict[str, str]:
    return json.loads(call["body"]["tag"])


def check_and_record(akto: MockAkto) -> tuple[dict[str, Any], dict[str, Any]]:
    (record,) = akto.wait_for("record", 1)
    (check,) = akto.calls("check")
    return check, record


@pytest.mark.parametrize(
    ("key", "agent", "collection"),
    [
        ("sk.checkout-agent.payments", "planner", "planner"),
        ("sk.checkout-agent.payments", None, "checkout-agent"),
        ("sk..payments", None, "payments"),
        ("sk", None, "llm.example.com"),
        ("sk.checkout-agent", "", "checkout-agent"),
        ("sk.checkout-agent", ["not", "a", "name"], "checkout-agent"),
    ],
    ids=["agent name", "key alias", "team alias", "host of LITELLM_URL", "blank agent name", "agent name of odd type"],
)
def test_the_collection_is_the_same_for_check_and_record(
    proxy: GuardedProxy, akto: MockAkto, key: str, agent: Any, collection: str
) -> None:
    metadata = {} if agent is None else {"metadata": {"agent_name": agent}}
    assert proxy.chat("hello", key=key, **metadata).status_code == 200
    check, record = check_and_record(akto)
    assert headers_of(check)["host"] == headers_of(record)["host"] == collection


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
@pytest.mark.parametrize("agent", [None, "planner"])
def test_the_collection_does_not_depend_on_the_route(
    proxy: GuardedProxy, akto: MockAkto, route: str, agent: str | None
) -> None:
    bodies = {
        "/v1/chat/completions": chat_body("hello"),
        "/v1/messages": {**chat_body("hello"), "model": "claude", "max_tokens": 9},
        "/v1/responses": {"model": "gpt-4o-mini", "input": "hello"},
        "/v1/embeddings": {"model": "embed", "input": "hello"},
    }
    metadata = {} if agent is None else {"metadata": {"agent_name": agent}}
    response = proxy.post(route, bodies[route] | metadata)
    assert response.status_code == 200, response.text
    check, record = check_and_record(akto)
    assert headers_of(check)["host"] == headers_of(record)["host"] == (agent or "checkout-agent")
    assert check["body"]["path"] == record["body"]["path"] == route


def test_names_arrive_in_a_form_the_service_neither_merges_nor_loses(proxy: GuardedProxy, akto: MockAkto) -> None:
    names = [
        "search-agent",
        "search_agent",
        "search agent",
        "search.agent",
        "search@agent",
        "поиск",
        "搜索",
        "12345",
        "a" * 300,
    ]
    for name in names:
        proxy.chat("hello", metadata={"agent_name": name})
    akto.wait_for("record", len(names))
    hosts = [headers_of(check)["host"] for check in akto.calls("check")]
    assert len(set(hosts)) == len(names), "two names became one collection"
    for host in hosts:
        # What the service lets stand: nothing replaced, no common pot, a letter in it, one dot-label.
        assert re.fullmatch(r"[a-z0-9-]{1,100}", host)
        assert re.search(r"[a-z]", host)
    assert hosts[0] == "search-agent"


def test_the_caller_names_no_collection_where_that_is_not_trusted(shared_proxy: Any, akto: MockAkto) -> None:
    proxy = shared_proxy(TRUST_CLIENT_AGENT_NAME="false")
    assert proxy.chat("hello", metadata={"agent_name": "planner"}).status_code == 200
    check, record = check_and_record(akto)
    assert headers_of(check)["host"] == headers_of(record)["host"] == "checkout-agent"


def test_user_and_password_in_the_proxys_address_stay_at_home(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy = start_proxy(env={"LITELLM_URL": "https://admin:hunter2@LLM.example.com:8443/path"})
    assert proxy.chat("hello", key="sk").status_code == 200
    check, record = check_and_record(akto)
    assert headers_of(check)["host"] == "llm.example.com:8443"
    assert "hunter2" not in json.dumps([check, record])
    assert "hunter2" not in proxy.logs()


def test_session_and_request_id_of_the_client_are_forwarded(proxy: GuardedProxy, akto: MockAkto) -> None:
    proxy.chat("hello", headers={"x-session-id": "sess-42", "x-request-id": "req-7"})
    for call in check_and_record(akto):
        assert headers_of(call)["x-session-id"] == "sess-42"
        assert headers_of(call)["x-request-id"] == "req-7"


def test_a_session_always_comes_with_a_request_id(proxy: GuardedProxy, akto: MockAkto) -> None:
    response = proxy.chat("hello", headers={"x-session-id": "sess-42"})
    for call in check_and_record(akto):
        assert headers_of(call)["x-request-id"] == response.headers["x-litellm-call-id"]


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-litellm-session-id": "session-0815"}, {}),
        ({"x-litellm-trace-id": "session-0815"}, {}),
        ({}, {"metadata": {"session_id": "session-0815"}}),
    ],
)
def test_litellms_own_session_ids_count_too(
    proxy: GuardedProxy, akto: MockAkto, headers: dict[str, str], body: dict[str, Any]
) -> None:
    proxy.chat("hello", headers=headers, **body)
    for call in check_and_record(akto):
        assert headers_of(call)["x-session-id"] == "session-0815"


def test_a_session_that_did_harm_is_blocked_from_then_on(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    session = {"x-session-id": "sess-evil"}
    assert proxy.chat("hello", headers=session).status_code == 200
    assert proxy.chat("zebra-block", headers=session).status_code == 403
    blocked = proxy.chat("hello again", headers=session)
    assert blocked.status_code == 403
    assert "Session blocked due to previous malicious activity" in blocked.text
    assert proxy.chat("hello", headers={"x-session-id": "sess-good"}).status_code == 200
    assert proxy.chat("hello").status_code == 200


PRIVATE_HEADERS = {
    "cookie": "session=private-cookie",
    "x-auth-token": "private-1",
    "x-access-token": "private-2",
    "cf-access-jwt-assertion": "private-3",
    "x-amz-security-token": "private-4",
    "x-vault-token": "private-5",
    "langfuse_secret_key": "private-6",
    "x-user-id": "private-7",
    "x-conversation-id": "private-8",
    "x-kong-request-id": "private-9",
    "x-akto-installer-akto_session_id": "private-10",
}


def test_headers_are_mirrored_by_allow_list(proxy: GuardedProxy, akto: MockAkto) -> None:
    proxy.chat("hello", headers={**PRIVATE_HEADERS, "User-Agent": "shop/1.0", "Host": "evil.example.com"})
    for call in check_and_record(akto):
        assert "private-" not in json.dumps(call)
        assert "sk.checkout-agent" not in json.dumps(call)
        assert headers_of(call)["user-agent"] == "shop/1.0"
        assert headers_of(call)["host"] == "checkout-agent"


def test_further_headers_can_be_allowed(shared_proxy: Any, akto: MockAkto) -> None:
    proxy = shared_proxy(FORWARD_HEADERS=" X-User-Id , x-tenant,host")
    proxy.chat("hello", headers={**PRIVATE_HEADERS, "x-tenant": "acme"})
    for call in check_and_record(akto):
        assert headers_of(call)["x-user-id"] == "private-7"
        assert headers_of(call)["x-tenant"] == "acme"
        assert headers_of(call)["host"] == "checkout-agent"
        assert "private-1" not in headers_of(call).values()


def test_tags_are_a_fixed_set_that_a_keys_metadata_cannot_extend(proxy: GuardedProxy, akto: MockAkto) -> None:
    response = proxy.chat("hello", metadata={"source": "ENDPOINT", "skill": "x", "mode": "observe"})
    for call in check_and_record(akto):
        assert tags_of(call) == {
            "gen-ai": "Gen AI",
            "litellm": "LiteLLM",
            "call_type": "acompletion",
            "model": "gpt-4o-mini",
            "litellm_call_id": response.headers["x-litellm-call-id"],
            "key_alias": "checkout-agent",
            "user_id": "u-1",
        }
        assert "key-metadata-4711" not in json.dumps(call)


def test_the_address_of_the_client_cannot_be_made_up(proxy: GuardedProxy, akto: MockAkto) -> None:
    proxy.chat("hello", headers={"x-forwarded-for": "203.0.113.7", "x-real-ip": "203.0.113.7"})
    for call in check_and_record(akto):
        assert call["body"]["ip"] != "203.0.113.7"
        assert re.fullmatch(r"\d+\.\d+\.\d+\.\d+", call["body"]["ip"])


def test_record_fields_can_be_set(shared_proxy: Any, akto: MockAkto) -> None:
    proxy = shared_proxy(AKTO_ACCOUNT_ID="1234567", AKTO_VXLAN_ID="42", AKTO_CONTEXT_SOURCE="endpoint")
    proxy.chat("hello")
    for call in check_and_record(akto):
        body = call["body"]
        assert (body["akto_account_id"], body["akto_vxlan_id"]) == ("1234567", "42")
        assert body["contextSource"] == "ENDPOINT"


def test_the_token_goes_raw_into_the_authorization_header_also_from_a_file(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    akto.accept_token("token-from-a-file")
    proxy = start_proxy(
        files={"secrets/token": "token-from-a-file\n"},
        env={"AKTO_API_TOKEN": "", "AKTO_API_TOKEN_FILE": "/etc/litellm/secrets/token"},
    )
    assert proxy.chat("zebra-block").status_code == 403
    for call in check_and_record(akto):
        assert call["authorization"] == "token-from-a-file"
        assert call["content_type"] == "application/json"


def test_empty_variables_give_the_defaults(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    names = ("SYNC_MODE", "TIMEOUT", "UNREACHABLE_FALLBACK", "RESPONSE_GUARDRAILS", "VALIDATE_LAST_USER_MESSAGE_ONLY")
    names += ("TRUST_CLIENT_AGENT_NAME", "FORWARD_HEADERS", "UNCHECKED_ROUTES", "AKTO_ACCOUNT_ID", "AKTO_VXLAN_ID")
    names += ("AKTO_CONTEXT_SOURCE", "MCP_INGEST_PATH", "NON_MCP_TOOL_PATH_PREFIX")
    proxy = start_proxy(env=dict.fromkeys(names, " ") | {"DATA_INGESTION_SERVICE_URL": "http://mock-akto:8080/ "})
    assert "GuardrailsHandler initialized | sync_mode=True" in proxy.logs()
    assert proxy.chat("zebra-block").status_code == 403
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["akto_account_id"] == "1000000"
