"""When Akto gives no usable verdict, UNREACHABLE_FALLBACK decides, and the cause is named and counted."""

from __future__ import annotations

import json
import time
from typing import Any

import anthropic
import openai
import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body

CLAUDE: Any = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
VERDICT = {"Allowed": True, "Modified": False, "ModifiedPayload": "", "Reason": "", "behaviour": ""}
ALLOW = {"success": True, "message": "", "data": {"success": True, "guardrailsResult": VERDICT}}
BLOCK = {"success": True, "data": {"guardrailsResult": VERDICT | {"Allowed": False, "behaviour": "block"}}}


def test_fail_closed_refuses_with_503_in_the_shape_the_sdks_understand(
    shared_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = shared_proxy(UNREACHABLE_FALLBACK="fail_closed")
    akto.answer("check", {"status": 502, "raw_body": "bad gateway"})
    chat = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk.a", max_retries=0)
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as refused:
            chat.chat.completions.create(**chat_body("hello"), stream=stream)
        assert refused.value.status_code == 503
        assert "could not check this request" in refused.value.message
    messages = anthropic.Anthropic(base_url=proxy.url, api_key="sk.a", max_retries=0)
    with pytest.raises(anthropic.InternalServerError) as unavailable:
        messages.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}])
    assert unavailable.value.status_code == 503
    assert llm.requests() == []
    records = akto.wait_for("record", 3)
    assert {record["body"]["statusCode"] for record in records} == {"503"}
    assert "502" not in refused.value.message, "the client has no business with Akto's inside"


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_the_sdks_try_again_when_akto_is_asked_again(start_proxy: Any, akto: MockAkto, llm: MockLlm, sdk: str) -> None:
    proxy: GuardedProxy = start_proxy(env={"UNREACHABLE_FALLBACK": "fail_closed"})
    akto.answer("check", {"status": 502, "raw_body": "", "times": 5})
    for path, body in [("/v1/chat/completions", chat_body("hello")), ("/v1/messages", CLAUDE)] * 2:
        refused = proxy.post(path, body)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    queued = proxy.post("/queue/chat/completions", chat_body("hello", priority=0))
    assert (queued.status_code, queued.headers["retry-after"]) == (503, "1")
    # Akto is well again, but not asked before a second has passed: at once, or after half of one, it is too early.
    began = time.monotonic()
    if sdk == "openai":
        openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk.a", max_retries=1).chat.completions.create(
            **chat_body("hello")
        )
    else:
        anthropic.Anthropic(base_url=proxy.url, api_key="sk.a", max_retries=1).messages.create(**CLAUDE)
    assert time.monotonic() - began >= 1
    assert len(akto.calls("check")) == 6


def test_only_a_missing_verdict_names_a_time(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = shared_proxy(UNREACHABLE_FALLBACK="fail_closed")
    for text, status in (("hello", 200), ("zebra-block", 403), ("word " * 500_000, 413), ("please fail", 500)):
        response = proxy.chat(text)
        assert response.status_code == status
        assert "retry-after" not in response.headers


def test_a_redirect_is_not_followed(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    location = "http://mock-akto:8080/api/http-proxy?guardrails=true&from=redirect"
    akto.answer("check", {"status": 307, "raw_body": "", "headers": {"Location": location}})
    assert proxy.chat("hello").status_code == 200
    assert len(akto.calls("check")) == 1
    assert "no verdict from Akto | redirect" in proxy.guard_log()


@pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
def test_the_time_out_is_the_total_for_one_check(
    shared_proxy: Any, akto: MockAkto, llm: MockLlm, fallback: str
) -> None:
    proxy = shared_proxy(TIMEOUT="1", UNREACHABLE_FALLBACK=fallback)
    for answer in ({"status": 200, "body": BLOCK, "delay_ms": 15_000}, {"status": 200, "body": BLOCK, "drip_ms": 300}):
        akto.answer("check", answer)
        began = time.monotonic()
        status = proxy.chat("hello").status_code
        assert 0.9 < time.monotonic() - began < 8
        assert status == (200 if fallback == "fail_open" else 503)
    assert "no verdict from Akto | timeout" in proxy.guard_log()


@pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
def test_nobody_listens(start_proxy: Any, akto: MockAkto, llm: MockLlm, fallback: str) -> None:
    env = {
        "DATA_INGESTION_SERVICE_URL": "http://mock-akto:9",
        "UNREACHABLE_FALLBACK": fallback,
        "STARTUP_PROBE": "off",
    }
    proxy: GuardedProxy = start_proxy(env=env)
    began = time.monotonic()
    assert proxy.chat("hello").status_code == (200 if fallback == "fail_open" else 503)
    assert time.monotonic() - began < 10
    assert "no verdict from Akto | connection" in proxy.guard_log()


def test_a_refused_token_is_an_error_about_credentials_named_once_not_for_each_request(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy()
    akto.accept_token("another-token")
    for _ in range(5):
        assert proxy.chat("hello").status_code == 200
    lines = [line for line in proxy.guard_log().splitlines() if "credentials" in line]
    assert len(lines) == 1
    assert " ERROR " in lines[0]
    assert "AKTO_API_TOKEN" in lines[0]


CAUSES = {
    "timeout": {"status": 200, "body": ALLOW, "delay_ms": 2000},
    "connection": {"connection": "reset"},
    "credentials": {"status": 401, "raw_body": "no"},
    "redirect": {"status": 302, "raw_body": "", "headers": {"Location": "/"}},
    "rejected": {"status": 422, "body": {"success": False}},
    "server_error": {"status": 500, "raw_body": "oops"},
    "unreadable": {"status": 200, "raw_body": "<html>"},
    "no_verdict": {"status": 200, "body": {"success": True, "data": {}}},
    "service_fail_open": {"status": 200, "body": {"data": {"guardrailsResult": VERDICT | {"failOpen": True}}}},
}


def test_each_cause_has_its_own_counter(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy(env={"TIMEOUT": "1"})
    for times, answer in enumerate(CAUSES.values(), start=1):
        for _ in range(times):
            akto.answer("check", answer)
            assert proxy.chat("hello").status_code == 200
            # A verdict in between, so that the breaker stays closed.
            akto.answer_normally("check")
            assert proxy.chat("hello").status_code == 200
    assert proxy.chat("word " * 500_000).status_code == 413
    proxy.container.get_wrapped_container().stop(timeout=30)
    (line,) = [line for line in proxy.guard_log().splitlines() if "GuardrailsHandler stopped" in line]
    counters = json.loads(line.split(" | ")[1])
    assert {name: counters[f"unavailable_{name}"] for name in CAUSES} == {
        name: times for times, name in enumerate(CAUSES, start=1)
    }
    assert counters["unavailable_too_large"] == 1


def test_the_guard_recovers_when_akto_does(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("check", {"status": 503, "raw_body": "", "times": 3})
    assert [proxy.chat("zebra-block").status_code for _ in range(4)] == [200, 200, 200, 403]
