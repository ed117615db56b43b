"""The second gate: what reaches a model beyond what was checked is checked too, and nothing twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import MASTER_KEY, READY_SECONDS, GuardedProxy, MockAkto, MockLlm, proxy_config
from integration.test_chat import CARD, MASKED
from integration.test_routes import skip_before, skip_from

BAD = "please zebra-block this"
# The part of the template is the operator's, the variable the caller's.
TEMPLATE = "---\nmodel: gpt-4o-mini\n---\nUser: Greet {{name}} politely"
TOOL = {"type": "object", "properties": {"city": {"type": "string", "description": "where"}}}


def config() -> dict[str, Any]:
    openai = {"api_base": "http://mock-llm:8081/v1", "api_key": "os.environ/MODEL_KEY"}
    wanted = proxy_config()
    wanted["model_list"] += [
        {
            "model_name": "with-extras",
            "litellm_params": {
                "model": "openai/gpt-4o-mini",
                **openai,
                "extra_body": {"guided_choice": ["first choice", "second choice"]},
            },
        },
        {"model_name": "vllm", "litellm_params": {"model": "hosted_vllm/mock", **openai}},
        {
            "model_name": "down",
            "litellm_params": {"model": "openai/down", **openai, "api_base": "http://mock-llm:1/v1"},
        },
    ]
    params = {"prompt_id": "greet", "prompt_integration": "dotprompt", "dotprompt_content": TEMPLATE}
    return wanted | {
        "router_settings": {"num_retries": 2, "fallbacks": [{"down": ["gpt-4o-mini"]}]},
        "prompts": [{"prompt_id": "greet", "litellm_params": params}],
    }


@pytest.fixture(scope="module")
def gated_proxy(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedProxy]:
    proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), config=config())
    proxy.container.start()
    yield proxy.wait_until_ready("/health/readiness", READY_SECONDS)
    proxy.stop()


@pytest.fixture
def gated(gated_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return gated_proxy


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


CHAT = {
    "messages": [
        {"role": "system", "content": "You are a helper.\nBe brief."},
        user([{"type": "text", "text": "What is the weather?"}, {"type": "text", "text": "In Paris."}]),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Paris", "days": ["today", "tomorrow"]}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        user("Thanks. And\n\nin Rome?"),
    ],
    "tools": [{"type": "function", "function": {"name": "weather", "description": "Looks it up", "parameters": TOOL}}],
}
MESSAGES = {
    "max_tokens": 9,
    "system": [{"type": "text", "text": "You are a helper."}, {"type": "text", "text": "Be brief."}],
    "messages": [
        user([{"type": "text", "text": "What is the weather?"}, {"type": "text", "text": "In Paris."}]),
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "Let me look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris", "days": ["today"]}},
            ],
        },
        user([{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sunny"}]}]),
    ],
    "tools": [{"name": "weather", "description": "Looks it up", "input_schema": TOOL}],
}
RESPONSES = {
    "instructions": "You are a helper.",
    "input": [
        user([{"type": "input_text", "text": "What is the weather?"}, {"type": "input_text", "text": "In Paris."}]),
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
    ],
    "tools": [{"type": "function", "name": "weather", "description": "Looks it up", "parameters": TOOL}],
}
GEMINI = {
    "systemInstruction": {"parts": [{"text": "You are a helper."}, {"text": "Be brief."}]},
    "contents": [{"role": "user", "parts": [{"text": "What is the weather?"}, {"text": "In Paris."}]}],
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o-mini", **CHAT}),
        ("/v1/chat/completions", {"model": "claude", **CHAT}),
        ("/v1/chat/completions", {"model": "gpt-4o-mini,claude", **CHAT}),
        ("/v1/chat/completions", {"model": "with-extras", **CHAT}),
        ("/v1/chat/completions", {"model": "down", **CHAT}),
        ("/v1/messages", {"model": "claude", **MESSAGES}),
        ("/v1/messages", {"model": "gpt-4o-mini", **MESSAGES}),
        ("/v1/responses", {"model": "gpt-4o-mini", **RESPONSES}),
        ("/v1/responses", {"model": "claude", **RESPONSES}),
        ("/v1beta/models/claude:generateContent", GEMINI),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("model", "claude"),
)
def test_translations_retries_and_fallbacks_cost_no_further_check(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str, body: dict[str, Any], stream: bool
) -> None:
    # A whole answer is all that Gemini's path and a list of models can give.
    can_stream = "contents" not in body and "," not in body["model"]
    response = gated.post(path, {**body, "stream": True} if stream and can_stream else body)
    assert response.status_code == 200, response.text
    akto.wait_for("record", 1)
    assert len(akto.calls("check")) == 1
    assert llm.requests()


def test_failing_attempts_cost_one_check_and_give_one_record(gated: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    assert gated.chat("please fail").status_code == 500
    assert len(llm.requests()) == 3
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "500"
    assert len(akto.calls("check")) == 1


def greet(name: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [user("hi")], "prompt_id": "greet", "prompt_variables": {"name": name}}


def test_what_a_template_makes_of_variables_is_checked(gated: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    assert gated.post("/v1/chat/completions", greet("Ann")).status_code == 200
    assert "Greet Ann politely" in json.dumps(llm.requests())
    assert len(akto.calls("check")) == 1
    assert "Greet Ann politely" in akto.calls("check")[0]["body"]["requestPayload"]
    llm.reset()
    assert gated.post("/v1/chat/completions", greet(BAD)).status_code == 403
    assert llm.requests() == []
    assert gated.post("/v1/chat/completions", greet(CARD)).status_code == 200
    assert f"Greet {MASKED} politely" in json.dumps(llm.requests())


@pytest.mark.parametrize(
    "body",
    [
        {"fallbacks": [{"model": "claude", "messages": [user(BAD)]}]},
        {"fallbacks": [{"model": "claude", "prompt": BAD}]},
        {"context_window_fallbacks": [{"down": [BAD]}]},
        {"extra_body": {"messages": [user(BAD)]}},
        {"extra_body": {"nested": {"input": BAD}}},
        {"prompt_variables": {"name": BAD}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_no_part_of_the_body_can_replace_what_was_checked(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm, body: dict[str, Any]
) -> None:
    assert gated.chat("hello", **{**body, "model": "down"}).status_code == 403
    assert llm.requests() == []


def test_litellms_own_health_checks_are_neither_checked_nor_recorded(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    health = requests.get(
        f"{gated.url}/health?model=gpt-4o-mini", headers={"Authorization": f"Bearer {MASTER_KEY}"}, timeout=60
    )
    assert health.status_code == 200, health.text
    assert llm.requests(), "the model was called"
    assert akto.calls() == []


def test_without_a_verdict_the_fallback_decides_at_the_second_gate_too(
    start_proxy: Callable[..., GuardedProxy], akto: MockAkto, llm: MockLlm
) -> None:
    proxy = start_proxy(config=config(), env={"UNREACHABLE_FALLBACK": "fail_closed"})
    akto.answer("check", {"status": 500, "body": {}})
    body = {"model": "gpt-4o-mini", "priority": 0, "messages": [user("hello")]}
    assert proxy.post("/queue/chat/completions", body).status_code == 503
    assert llm.requests() == []
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "503"
    assert len(akto.calls("check")) == 1, "LiteLLM's retries cost no further check"


def test_an_outage_of_akto_is_not_held_against_the_models(
    start_proxy: Callable[..., GuardedProxy], akto: MockAkto, llm: MockLlm
) -> None:
    wanted = config() | {"router_settings": {}}
    # LiteLLM keeps away from a deployment that fails more often than not, where there is another one.
    wanted["model_list"] = [model for model in wanted["model_list"] for _ in range(2)]
    proxy = start_proxy(config=wanted, env={"UNREACHABLE_FALLBACK": "fail_closed"})
    akto.answer("check", {"status": 500, "body": {}})
    hello = {"messages": [user("hello")]}
    asked = [("/queue/chat/completions", "gpt-4o-mini", {"priority": 0}), ("/vllm/v1/chat/completions", "vllm", {})]
    for path, model, more in asked:
        statuses = [proxy.post(path, {"model": model, **more, **hello}).status_code for _ in range(14)]
        assert statuses == [503] * 14, path
    akto.answer_normally("check")
    time.sleep(1.5)  # until the breaker lets a request ask again
    for _, model, _ in asked:
        response = proxy.post("/v1/chat/completions", {"model": model, **hello})
        assert response.status_code == 200, response.text


@pytest.mark.parametrize(
    ("path", "more"),
    [
        ("/queue/chat/completions", {"model": "gpt-4o-mini", "priority": 0}),
        ("/vllm/v1/chat/completions", {"model": "vllm"}),
        ("/v1/rag/query", {"model": "gpt-4o-mini", "retrieval_config": {"vector_store_id": "vs_mock"}}),
    ],
)
def test_a_failed_call_on_a_route_without_hooks_is_recorded(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str, more: dict[str, Any]
) -> None:
    assert gated.post(path, {**more, "messages": [user("please fail")]}).status_code >= 400
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "500"
    assert len(akto.calls("check")) == 1


def test_a_call_that_succeeds_at_the_second_attempt_is_recorded_with_its_answer(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    body = {"model": "down", "priority": 0, "messages": [user("hello")]}
    assert gated.post("/queue/chat/completions", body).status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "200"
    assert "Hello from the mock model." in record["body"]["responsePayload"]
    assert len(akto.calls("check")) == 1


def searching_config() -> dict[str, Any]:
    """LiteLLM itself answers a model's calls of its search tool, and asks the model again with what was found."""
    tool = {"search_provider": "tavily", "api_key": "k", "api_base": "http://mock-llm:8081"}
    interception = {"enabled_providers": ["openai", "anthropic"], "search_tool_name": "finder"}
    return proxy_config(
        litellm_settings={"callbacks": ["websearch_interception"], "websearch_interception_params": interception},
        search_tools=[{"search_tool_name": "finder", "litellm_params": tool}],
    )


SEARCH = {"name": "litellm_web_search", "description": "d", "parameters": {"type": "object", "properties": {}}}
SEARCHING = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o-mini", "tools": [{"type": "function", "function": SEARCH}]}),
    "messages": (
        "/v1/messages",
        {"model": "claude", "max_tokens": 99, "tools": [{"type": "web_search_20250305", "name": "web_search"}]},
    ),
}
QUESTION = {"messages": [user("call a tool")]}


@pytest.fixture(scope="module")
def searching_proxies(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[bool, GuardedProxy]]:
    """By whether answers are checked."""
    started = {}
    for checks_answers in (False, True):
        env = {"RESPONSE_GUARDRAILS": str(checks_answers)}
        started[checks_answers] = GuardedProxy(
            network, tmp_path_factory.mktemp("config"), config=searching_config(), env=env
        )
        started[checks_answers].container.start()
    yield {key: proxy.wait_until_ready("/health/readiness", READY_SECONDS) for key, proxy in started.items()}
    for proxy in started.values():
        proxy.stop()


# The release in which a chat request was first seen to end with what became of a search that its model had asked for.
PASSED_ON = "1.110.2"


@pytest.mark.parametrize("checks_answers", [False, True], ids=["answers unchecked", "answers checked"])
@pytest.mark.parametrize(
    ("api", "stream"), [("chat", False), ("messages", False), ("messages", True)], ids=["chat", "whole", "streamed"]
)
def test_an_answer_after_a_refused_search_of_the_models_is_checked_and_recorded(
    searching_proxies: dict[bool, GuardedProxy],
    akto: MockAkto,
    llm: MockLlm,
    checks_answers: bool,
    api: str,
    stream: bool,
) -> None:
    if api == "chat":
        skip_from(searching_proxies[checks_answers], PASSED_ON)
    llm.says(tool="litellm_web_search", arguments=json.dumps({"query": BAD}))
    path, body = SEARCHING[api]
    status = 403 if checks_answers else 200
    assert searching_proxies[checks_answers].post(path, {**body, **QUESTION, "stream": stream}).status_code == status
    assert len(llm.requests()) == 1, "neither the search nor a second call of the model"
    records = akto.wait_for("record", 2 if checks_answers else 3)
    calls = [record for record in records if record["body"]["path"].startswith("/tool/")]
    assert len(calls) == (not checks_answers)
    refused, own = (record for record in records if record not in calls)
    assert (refused["body"]["statusCode"], own["body"]["statusCode"]) == ("403", str(status))
    assert json.loads(refused["body"]["requestPayload"]) == {"body": {"query": BAD}}
    assert json.loads(own["body"]["requestPayload"])["body"]["messages"] == QUESTION["messages"]
    # The tool call that the model made is all that it said.
    assert BAD in own["body"]["responsePayload"]
    assert len(akto.calls("answer")) == checks_answers


def test_a_request_that_fails_after_a_refused_search_is_recorded_with_its_own_text(
    searching_proxies: dict[bool, GuardedProxy], akto: MockAkto, llm: MockLlm
) -> None:
    skip_from(searching_proxies[False], PASSED_ON)
    llm.says(tool="litellm_web_search", arguments=json.dumps({"query": BAD}))
    path, body = SEARCHING["chat"]
    # LiteLLM 1.106.2 asks for the whole answer because of its tool, and then takes it for a stream.
    assert searching_proxies[False].post(path, {**body, **QUESTION, "stream": True}).status_code == 500
    refused, own = akto.wait_for("record", 2)
    assert (refused["body"]["statusCode"], own["body"]["statusCode"]) == ("403", "500")
    assert json.loads(own["body"]["requestPayload"])["body"]["messages"] == QUESTION["messages"]


@pytest.mark.parametrize("checks_answers", [False, True], ids=["answers unchecked", "answers checked"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_where_litellm_passes_on_that_a_search_was_refused_the_request_is(
    searching_proxies: dict[bool, GuardedProxy], akto: MockAkto, llm: MockLlm, checks_answers: bool, stream: bool
) -> None:
    skip_before(searching_proxies[checks_answers], PASSED_ON)
    llm.says(tool="litellm_web_search", arguments=json.dumps({"query": BAD}))
    path, body = SEARCHING["chat"]
    response = searching_proxies[checks_answers].post(path, {**body, **QUESTION, "stream": stream})
    assert response.status_code == 403, response.text
    assert len(llm.requests()) == 1, "neither the search nor a second call of the model"
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"
    assert json.loads(record["body"]["requestPayload"]) == {"body": {"query": BAD}}


@pytest.mark.parametrize("models", ["gpt-4o-mini", "gpt-4o-mini,claude"])
def test_text_of_the_clients_own_that_is_refused_at_the_second_gate_gives_one_refusal(
    gated: GuardedProxy, akto: MockAkto, llm: MockLlm, models: str
) -> None:
    response = gated.post("/v1/chat/completions", {**greet(BAD), "model": models})
    assert response.status_code == 403, response.text
    assert llm.requests() == []
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"
