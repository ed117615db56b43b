"""One record for each request, whatever becomes of it, and nothing a caller sends prevents it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import (
    AUTH_MODULE,
    READY_SECONDS,
    GuardedProxy,
    MockAkto,
    MockLlm,
    chat_body,
    proxy_config,
)
from integration.test_chat import answer_body, sent_body

EMBED = {"model": "embed", "input": ["alpha", "beta"]}
CLAUDE = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "hello"}]}
RESPONSES = {"model": "gpt-4o-mini", "input": "hello"}
COMPLETION = {"model": "instruct", "prompt": "hello"}
MODERATION = {"model": "moderate", "input": "hello"}


@pytest.mark.parametrize(
    ("route", "body", "part"),
    [
        ("/v1/chat/completions", chat_body("hello"), "Hello from the mock model."),
        ("/v1/chat/completions", chat_body("hello", stream=True), "Hello from the mock model."),
        ("/v1/completions", COMPLETION, "Hello from the mock model."),
        ("/v1/completions", COMPLETION | {"stream": True}, "Hello from the mock model."),
        ("/v1/messages", CLAUDE, "Hello from the mock model."),
        ("/v1/messages", CLAUDE | {"stream": True}, "Hello from the mock model."),
        ("/v1/responses", RESPONSES, "Hello from the mock model."),
        ("/v1/responses", RESPONSES | {"stream": True}, "Hello from the mock model."),
        ("/v1/embeddings", EMBED, "embedding"),
        ("/v1/moderations", MODERATION, "flagged"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
)
def test_every_kind_of_answer_is_recorded_once_and_whole(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: str, body: dict[str, Any], part: str
) -> None:
    response = proxy.post(route, body)
    assert response.status_code == 200, response.text
    (record,) = akto.wait_for("record", 1)
    assert len(akto.calls("check")) == 1
    assert len(llm.requests()) == 1
    assert part in json.dumps(answer_body(record))
    assert "_hidden_params" not in json.dumps(answer_body(record))
    assert record["body"]["statusCode"] == "200"
    assert sent_body(record) == {name: value for name, value in body.items() if name != "max_tokens"}


def test_an_answer_whose_last_event_leaves_it_out_is_recorded(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    response = proxy.post("/v1/responses", RESPONSES | {"input": "an end without output", "stream": True})
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    assert (events[-1]["type"], events[-1]["response"]["output"]) == ("response.completed", [])
    (record,) = akto.wait_for("record", 1)
    (item,) = answer_body(record)["output"]
    assert item["content"][0]["text"] == "Hello from the mock model."


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "status"), [("please fail", "500"), ("rate limit", "429")])
def test_a_failed_model_call_is_recorded_with_its_status(
    proxy: GuardedProxy, akto: MockAkto, text: str, status: str, stream: bool
) -> None:
    assert proxy.chat(text, stream=stream).status_code == int(status)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == record["body"]["status"] == status
    assert answer_body(record)["error"]["message"]


def test_a_call_that_fails_first_and_then_succeeds_is_one_record(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    config = proxy_config()
    broken = {"model": "openai/gpt-4o-mini", "api_base": "http://mock-llm:8081/v1/nowhere", "api_key": "k"}
    config["model_list"].append({"model_name": "flaky", "litellm_params": broken})
    config["router_settings"] = {"num_retries": 1, "fallbacks": [{"flaky": ["gpt-4o-mini"]}]}
    proxy = start_proxy(config=config)
    assert proxy.chat("hello", model="flaky").status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "200"
    assert len(akto.calls("check")) == 1


def test_a_stream_that_breaks_off_is_recorded_with_what_came(proxy: GuardedProxy, akto: MockAkto) -> None:
    with contextlib.suppress(requests.RequestException):
        proxy.chat("slowly break off", stream=True)
    (record,) = akto.wait_for("record", 1)
    assert int(record["body"]["statusCode"]) >= 400
    assert "Hello" in json.dumps(answer_body(record))


def test_a_client_that_leaves_in_the_middle_is_recorded_with_what_it_got(proxy: GuardedProxy, akto: MockAkto) -> None:
    response = proxy.post("/v1/chat/completions", chat_body("slowly", stream=True), stream=True)
    chunks = response.iter_content(None)
    assert [b"Hello" in next(chunks) for _ in range(2)] == [False, True]
    response.close()
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "499"
    content = answer_body(record)["choices"][0]["message"]["content"]
    assert "Hello from the mock model.".startswith(content) and content


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({}, {"no-log": True}),
        ({"x-litellm-enable-message-redaction": "true"}, {}),
        ({"litellm-enable-message-redaction": "true"}, {}),
        ({"x-litellm-disable-callbacks": "GuardrailsHandler"}, {}),
        ({}, {"metadata": {"no-log": True, "disable_global_guardrails": True, "guardrails": []}}),
    ],
    ids=["no-log", "redaction", "redaction, older name", "disable callbacks", "metadata"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_cannot_switch_checks_or_records_off(
    proxy: GuardedProxy, akto: MockAkto, headers: dict[str, str], body: dict[str, Any], stream: bool
) -> None:
    assert proxy.chat("hello", headers=headers, stream=stream, **body).status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert sent_body(record)["messages"] == chat_body("hello")["messages"]
    assert "Hello from the mock model." in json.dumps(answer_body(record))
    assert proxy.chat("zebra-block", headers=headers, stream=stream, **body).status_code == 403


def test_requests_that_share_a_call_id_are_told_apart(proxy: GuardedProxy, akto: MockAkto) -> None:
    headers = {"x-litellm-call-id": "the-same-id"}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        texts = [f"slowly, number {number}" for number in range(4)]
        answers = list(pool.map(lambda text: proxy.chat(text, headers=headers, stream=True).status_code, texts))
    assert answers == [200] * 4
    records = akto.wait_for("record", 4)
    assert sorted(sent_body(record)["messages"][0]["content"] for record in records) == texts


def test_a_blocked_request_does_not_take_the_record_of_another_with_its_call_id(
    proxy: GuardedProxy, akto: MockAkto
) -> None:
    headers = {"x-litellm-call-id": "the-same-id"}
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        running = pool.submit(proxy.chat, "slowly", headers=headers, stream=True)
        time.sleep(1)
        assert proxy.chat("zebra-block", headers=headers).status_code == 403
        assert running.result().status_code == 200
    records = akto.wait_for("record", 2)
    assert [record["body"]["statusCode"] for record in records] == ["403", "200"]
    assert "Hello from the mock model." in json.dumps(answer_body(records[1]))


def test_a_request_that_litellm_moves_to_another_model_is_checked_and_recorded_once(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    config = proxy_config()
    config["model_list"].append({**config["model_list"][0], "model_name": "limited"})
    config["router_settings"] = {"num_retries": 0, "fallbacks": [{"limited": ["gpt-4o-mini"]}]}
    limits = AUTH_MODULE.replace("metadata={", 'metadata={"model_rpm_limit": {"limited": 1}, ')
    proxy = start_proxy(config=config, files={"team_auth.py": limits})
    answers = [proxy.chat("My card is 4111-1111-1111-1111", model="limited") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 200], answers[-1].text
    assert len(akto.wait_for("record", 3)) == len(akto.calls("check")) == 3
    assert "4111-1111" not in json.dumps(llm.requests())
    assert len(llm.requests()) == 3


def test_an_answer_from_litellms_cache_is_checked_and_recorded_like_any_other(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    settings = {"cache": True, "cache_params": {"type": "local"}}
    proxy = start_proxy(config=proxy_config(litellm_settings=settings))
    for _ in range(2):
        assert proxy.chat("hello").status_code == 200
    assert len(llm.requests()) == 1
    assert len(akto.wait_for("record", 2)) == len(akto.calls("check")) == 2


def test_what_the_operator_switched_off_in_litellm_is_recorded_all_the_same(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy = start_proxy(config=proxy_config(litellm_settings={"turn_off_message_logging": True}))
    assert proxy.chat("hello").status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert sent_body(record) == chat_body("hello")
    assert answer_body(record)["choices"][0]["message"]["content"] == "Hello from the mock model."


def test_keepalive_pings_of_litellm_do_not_lose_a_record(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    settings = {"sse_keepalive_ping_interval_seconds": 1}
    proxy = start_proxy(config=proxy_config(litellm_settings=settings))
    assert proxy.chat("slowly", stream=True).status_code == 200
    assert proxy.chat("please fail", stream=True).status_code >= 200
    records = akto.wait_for("record", 2)
    assert [record["body"]["statusCode"] for record in records] == ["200", "500"]


def test_recording_never_delays_the_answer(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("record", {"status": 200, "body": {}, "delay_ms": 6000})
    for text, status in (("hello", 200), ("zebra-block", 403)):
        began = time.monotonic()
        assert proxy.chat(text).status_code == status
        assert time.monotonic() - began < 5
    akto.wait_for("record", 2)


def test_records_that_akto_cannot_take_now_arrive_later(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("record", {"status": 503, "body": {}, "times": 2})
    assert proxy.chat("hello").status_code == 200
    records = akto.wait_for("record", 3)
    assert [record["status"] for record in records] == [503, 503, 200]
    assert len({record["body"]["requestPayload"] for record in records}) == 1


def test_a_refused_record_is_not_sent_again(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("record", {"status": 404, "raw_body": "no such place"})
    assert proxy.chat("hello").status_code == 200
    akto.wait_for("record", 1)
    time.sleep(2)
    assert len(akto.calls("record")) == 1


def test_queued_records_are_delivered_when_the_container_is_stopped(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy = start_proxy()
    akto.answer("record", {"status": 200, "body": {}, "delay_ms": 1000})
    for _ in range(3):
        assert proxy.chat("hello").status_code == 200
    proxy.container.get_wrapped_container().stop(timeout=30)
    assert len(akto.calls("record")) == 3
    assert '"records_delivered":3' in proxy.guard_log()


# A callback of the operator's that takes its time.
SLOW = """
import asyncio
from litellm.integrations.custom_logger import CustomLogger

class Slow(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        await asyncio.sleep(60)

slow = Slow()
"""


def test_a_stop_within_docker_runs_ten_seconds_is_enough_whatever_others_still_have_to_do(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    config = proxy_config(litellm_settings={"callbacks": ["slow.slow"]})
    proxy = start_proxy(config=config, files={"slow.py": SLOW}, env={"SHUTDOWN_FLUSH_SECONDS": "3"})
    akto.answer("record", {"status": 503, "body": {}})
    assert proxy.chat("hello").status_code == 200
    akto.wait_for("record", 1)
    proxy.container.get_wrapped_container().stop(timeout=10)
    assert "1 record(s) dropped" in proxy.guard_log()


def test_an_answer_too_long_for_one_record_is_cut_and_says_so(proxy: GuardedProxy, akto: MockAkto) -> None:
    assert proxy.chat("a long answer please").status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert record["status"] == 200
    assert answer_body(record)["x-akto-truncated"]
    assert "Hello from the mock model." in answer_body(record)["beginning"]


def test_settings_of_a_key_or_a_team_switch_nothing_off(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    """What an administrator can set on them to have LiteLLM's own guardrails and callbacks left out."""
    off = '{"disable_global_guardrails": True, "opted_out_global_guardrails": ["akto"], "guardrails": []}'
    disabled = '{"litellm_disabled_callbacks": ["akto_guardrails", "GuardrailsHandler"]}'
    module = AUTH_MODULE.replace(
        "metadata={", f"team_metadata={off} | {disabled},\n        metadata={off} | {disabled} | {{"
    )
    assert module != AUTH_MODULE
    proxy: GuardedProxy = start_proxy(files={"team_auth.py": module})
    assert proxy.chat("zebra-block").status_code == 403
    assert proxy.chat("hello").status_code == 200
    assert len(akto.calls("check")) == 2
    akto.wait_for("record", 2)


# A callback of the operator's, which LiteLLM calls after the guard.
LATER = """
from fastapi import HTTPException
from litellm.integrations.custom_logger import CustomLogger

class Later(CustomLogger):
    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        asked = str(data.get("messages") or data.get("input"))
        if "refuse it" in asked:
            raise HTTPException(400, "an answer the operator does not want")
        if "put names in" in asked:
            parts = response["content"] if isinstance(response, dict) else [response.choices[0].message]
            for part in parts:
                name = "text" if isinstance(part, dict) else "content"
                part[name] = part[name].replace("mock model", "Alice Smith")
        return response

    async def async_post_call_streaming_iterator_hook(self, user_api_key_dict, response, request_data):
        asked, number = str(request_data.get("messages") or request_data.get("input")), 0
        async for item in response:
            number += 1
            if number == 5 and "refuse it" in asked:
                raise HTTPException(400, "an answer the operator does not want")
            if number == 5 and "enough of it" in asked:
                return
            yield item

later = Later()
"""
APIS = {
    "chat": ("/v1/chat/completions", "messages", {"model": "gpt-4o-mini"}),
    "messages": ("/v1/messages", "messages", {"model": "claude", "max_tokens": 9}),
    "responses": ("/v1/responses", "input", {"model": "gpt-4o-mini"}),
}
WORDS = "Hello word0 word1 word2 word3 word4"
# Items of Anthropic's API are what came on the wire at a time.
PACE = {"chat": "", "messages": ", slowly", "responses": ""}


@pytest.fixture(scope="module")
def later_proxies(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[bool, GuardedProxy]]:
    """With the operator's callback, by whether answers are checked."""
    config = proxy_config(litellm_settings={"callbacks": ["later.later"]})
    started = {}
    for checks_answers in (False, True):
        env = {"RESPONSE_GUARDRAILS": str(checks_answers)}
        started[checks_answers] = GuardedProxy(
            network, tmp_path_factory.mktemp("config"), config=config, files={"later.py": LATER}, env=env
        )
        started[checks_answers].container.start()
    yield {key: proxy.wait_until_ready("/health/readiness", READY_SECONDS) for key, proxy in started.items()}
    for proxy in started.values():
        proxy.stop()


@pytest.fixture(params=[False, True], ids=["answers unchecked", "answers checked"])
def later(
    later_proxies: dict[bool, GuardedProxy], akto: MockAkto, llm: MockLlm, request: pytest.FixtureRequest
) -> GuardedProxy:
    return later_proxies[request.param]


def ask(proxy: GuardedProxy, api: str, text: str, **more: Any) -> requests.Response:
    path, place, body = APIS[api]
    return proxy.post(path, {**body, place: [{"role": "user", "content": text}], **more})


@pytest.mark.parametrize("api", APIS)
def test_an_answer_that_a_later_callback_refuses_is_recorded_as_the_error_the_client_got(
    later: GuardedProxy, akto: MockAkto, api: str
) -> None:
    response = ask(later, api, "refuse it")
    assert response.status_code == 400, response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "400"
    assert "an answer the operator does not want" in record["body"]["responsePayload"]
    assert "mock model" not in record["body"]["responsePayload"]


@pytest.mark.parametrize("api", ["chat", "messages"])
def test_what_a_later_callback_writes_into_an_answer_is_for_the_client_alone(
    later: GuardedProxy, akto: MockAkto, api: str
) -> None:
    response = ask(later, api, "put names in")
    assert "Alice Smith" in response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "200"
    assert "Hello from the mock model." in record["body"]["responsePayload"]


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_a_later_callback_ends_is_no_client_that_left(
    later: GuardedProxy, akto: MockAkto, llm: MockLlm, api: str
) -> None:
    llm.says(text=WORDS)
    response = ask(later, api, f"enough of it{PACE[api]}", stream=True)
    assert response.status_code == 200
    assert "word4" not in response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "200"
    assert "Hello" in record["body"]["responsePayload"]


@pytest.mark.parametrize("api", APIS)
def test_a_stream_that_a_later_callback_breaks_is_recorded_with_its_error(
    later: GuardedProxy, akto: MockAkto, llm: MockLlm, api: str
) -> None:
    llm.says(text=WORDS)
    with contextlib.suppress(requests.RequestException):
        ask(later, api, f"refuse it{PACE[api]}", stream=True)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "400"
    assert "an answer the operator does not want" in record["body"]["responsePayload"]
    assert "Hello" in record["body"]["responsePayload"]
