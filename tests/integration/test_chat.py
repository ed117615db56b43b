"""One check before the model call, on chat completions, as clients of all kinds see it."""

from __future__ import annotations

import json

import anthropic
import litellm
import openai
import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body

BLOCK = "please zebra-block this"
BLOCK_MESSAGE = "Blocked by Akto Guardrails: Prompt injection detected"
CARD = "My card is 4111-1111-1111-1111, refund me"
MASKED = "My card is <CREDIT_CARD>, refund me"


def sent_body(call: dict) -> dict:
    """The request body that a call to Akto carries."""
    return json.loads(call["body"]["requestPayload"])["body"]


def answer_body(call: dict) -> dict:
    """The answer that a record carries."""
    return json.loads(call["body"]["responsePayload"])["body"]


def test_an_allowed_request_is_checked_once_answered_and_recorded_once(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    response = proxy.chat("hello", temperature=0.3)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "Hello from the mock model."

    (record,) = akto.wait_for("record", 1)
    (check,) = akto.calls("check")
    assert check["query"] == {"akto_connector": "litellm", "guardrails": "true"}
    assert record["query"] == {"akto_connector": "litellm", "ingest_data": "true"}
    assert akto.calls().index(check) < akto.calls().index(record)
    assert sent_body(check) == sent_body(record) == chat_body("hello")
    assert check["body"]["responsePayload"] is None
    assert answer_body(record)["choices"][0]["message"]["content"] == "Hello from the mock model."
    assert record["body"]["statusCode"] == record["body"]["status"] == "200"
    assert len(llm.requests()) == 1
    assert llm.requests()[0]["body"]["temperature"] == 0.3


def test_a_blocked_request_gets_403_and_never_reaches_the_model(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    response = proxy.chat(BLOCK)
    assert response.status_code == 403
    assert response.json() == {
        "error": {"message": BLOCK_MESSAGE, "type": "permission_error", "param": None, "code": "403"}
    }
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == record["body"]["status"] == "403"
    assert answer_body(record) == {"x-blocked-by": "Akto Proxy", "reason": "Prompt injection detected"}
    assert sent_body(record) == chat_body(BLOCK)
    assert len(akto.calls("check")) == 1
    assert llm.requests() == []


def test_a_blocked_stream_is_a_plain_403_before_anything_is_streamed(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    response = proxy.chat(BLOCK, stream=True)
    assert response.status_code == 403
    assert response.headers["content-type"].startswith("application/json")
    akto.wait_for("record", 1)
    assert llm.requests() == []


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": BLOCK}]}],
        [{"role": "system", "content": BLOCK}, {"role": "user", "content": "hi"}],
        [{"role": "developer", "content": BLOCK}, {"role": "user", "content": "hi"}],
        [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "c", "content": BLOCK},
        ],
        [
            {"role": "user", "content": "weather?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": BLOCK})}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "sunny"},
        ],
    ],
    ids=["list content", "system", "developer", "tool result", "tool call arguments"],
)
def test_text_in_every_kind_of_message_is_checked(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, messages: list
) -> None:
    response = proxy.post("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": messages})
    assert response.status_code == 403, response.text
    assert llm.requests() == []


@pytest.mark.parametrize(
    "more",
    [
        {"fallbacks": [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": BLOCK}]}]},
        {"extra_body": {"messages": [{"role": "user", "content": BLOCK}]}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "description": BLOCK, "schema": {}}}},
        {"functions": [{"name": "f", "description": BLOCK, "parameters": {}}]},
        {"prediction": {"type": "content", "content": BLOCK}},
        {"litellm_system_prompt": BLOCK},
        {"user_continue_message": {"role": "user", "content": BLOCK}, "ensure_alternating_roles": True},
        {"context_window_fallbacks": [{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": BLOCK}]}]},
        {"chat_template_kwargs": {"note": BLOCK}},
        {"a_key_nobody_knows": BLOCK},
        {"bos_token": BLOCK},
        {"eos_token": BLOCK},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"api_key": {"description": BLOCK}}}}]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_text_in_further_parameters_is_checked(proxy: GuardedProxy, llm: MockLlm, more: dict) -> None:
    assert proxy.chat("hi", **more).status_code == 403
    assert llm.requests() == []


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "zebra-block-" * 40}},
        {"type": "image_url", "image_url": {"url": "zebra-block-" * 40}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,zebra-block-" + "not-base64 " * 40}},
    ],
    ids=["text document", "url", "not base64"],
)
def test_text_that_looks_like_media_is_checked(proxy: GuardedProxy, llm: MockLlm, part: dict) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [part]}]}
    assert proxy.post("/v1/chat/completions", body).status_code == 403
    assert llm.requests() == []


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({"metadata": {"session_id": "s" * 262_200}}, {}),
        ({"metadata": {"agent_name": "a" * 262_200}}, {}),
        ({"user": "u" * 262_200}, {}),
        # The server itself refuses headers above 16 kB when they come in several pieces.
        ({}, {"x-session-id": "s" * 8_000, "user-agent": "u" * 4_000}),
    ],
    ids=["session", "agent", "user", "headers"],
)
def test_padding_around_a_prompt_does_not_get_it_past_the_check(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, body: dict, headers: dict
) -> None:
    assert proxy.chat(BLOCK, headers=headers, **body).status_code == 403
    assert [call["status"] for call in akto.wait_for("record", 1)] == [200]
    assert llm.requests() == []


def test_credentials_inside_a_request_stay_out_of_what_akto_gets(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    mcp = {"type": "mcp", "server_url": "https://m", "server_label": "m", "headers": {"Authorization": "private-1"}}
    fallbacks = [{"model": "gpt-4o-mini", "api_key": "private-2"}]
    body = {"model": "gpt-4o-mini", "input": "hi", "tools": [mcp], "fallbacks": fallbacks}
    proxy.post("/v1/responses", body | {"extra_body": {"api_key": "private-3"}})
    akto.wait_for("record", 1)
    assert len(akto.calls("check")) == 1
    assert "private-" not in json.dumps(akto.calls())


def test_text_in_a_tool_definition_is_checked(proxy: GuardedProxy, llm: MockLlm) -> None:
    tool = {"type": "function", "function": {"name": "f", "description": BLOCK, "parameters": {"type": "object"}}}
    assert proxy.chat("hi", tools=[tool]).status_code == 403
    assert llm.requests() == []


def test_a_mask_reaches_the_model_and_nothing_else_of_the_request_changes(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    parameters = {"temperature": 0.1, "max_tokens": 17, "seed": 7, "stop": ["END"], "user": "u-77", "top_p": 0.9}
    tool = {"type": "function", "function": {"name": "refund", "parameters": {"type": "object", "properties": {}}}}
    body = chat_body(CARD, tools=[tool], tool_choice="auto", **parameters)
    body["messages"].insert(0, {"role": "system", "content": 'Keep <tags> & "quotes" as they are. Größe: 日本'})
    response = proxy.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text

    (request,) = llm.requests()
    expected = json.loads(json.dumps(body))
    expected["messages"][1]["content"] = MASKED
    assert request["body"] == expected
    (record,) = akto.wait_for("record", 1)
    assert "4111-1111" not in record["body"]["requestPayload"]
    assert sent_body(record)["messages"][1]["content"] == MASKED
    headers = json.loads(record["body"]["requestHeaders"])
    assert headers.pop("x-akto-record-id")
    assert headers == json.loads(akto.calls("check")[0]["body"]["requestHeaders"])


def test_a_mask_in_list_content_leaves_the_other_parts(proxy: GuardedProxy, llm: MockLlm) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBORw0KGgo" * 200}}
    parts = [{"type": "text", "text": CARD}, image, {"type": "text", "text": "thanks"}]
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": parts}]}
    assert proxy.post("/v1/chat/completions", body).status_code == 200
    assert llm.requests()[0]["body"]["messages"][0]["content"] == [{"type": "text", "text": MASKED}, image, parts[2]]


def test_base64_media_is_left_out_of_what_akto_gets_but_not_of_what_the_model_gets(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    url = "data:image/png;base64," + "A" * 400_000
    part = {"type": "image_url", "image_url": {"url": url}}
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": [part]}]}
    assert proxy.post("/v1/chat/completions", body).status_code == 200
    assert llm.requests()[0]["body"]["messages"][0]["content"][0]["image_url"]["url"] == url
    (check,) = akto.calls("check")
    assert sent_body(check)["messages"][0]["content"][0]["image_url"]["url"] == (
        f"[data:image/png;base64: {len(url)} characters left out]"
    )


@pytest.mark.parametrize("word", ["zebra-alert", "zebra-warn"])
def test_alert_and_warn_pass_and_are_logged(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, word: str) -> None:
    response = proxy.chat(f"this is a {word}")
    assert response.status_code == 200
    assert len(llm.requests()) == 1
    akto.wait_for("record", 1)
    call_id = response.headers["x-litellm-call-id"]
    (line,) = [line for line in proxy.guard_log().splitlines() if call_id in line]
    assert "flagged" in line and f"behaviour={word.removeprefix('zebra-')}" in line


@pytest.mark.parametrize("word", ["zebra-approval", "zebra-silent", "zebra-unknown"])
def test_approval_empty_and_unknown_behaviour_block(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, word: str
) -> None:
    assert proxy.chat(f"this is a {word}").status_code == 403
    assert llm.requests() == []


def test_a_streamed_answer_arrives_whole_and_is_recorded_assembled(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk.checkout-agent", max_retries=0)
    stream = client.chat.completions.create(**chat_body("hello"), stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == "Hello from the mock model."
    (record,) = akto.wait_for("record", 1)
    (choice,) = answer_body(record)["choices"]
    assert choice["message"]["content"] == text
    assert choice["finish_reason"] == "stop"
    assert len(akto.calls("check")) == 1


def test_streamed_tool_calls_are_recorded_assembled(proxy: GuardedProxy, akto: MockAkto) -> None:
    assert proxy.chat("call a tool", stream=True).status_code == 200
    record = akto.wait_for("record", 2)[0]
    (call,) = answer_body(record)["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}


def test_non_latin_text_counts_as_characters(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    assert proxy.chat("слово " * 40_000).status_code == 200
    (check,) = akto.calls("check")
    assert check["status"] == 200
    assert len(llm.requests()) == 1


@pytest.mark.parametrize("depth", [60, 300, 900])
def test_text_hidden_by_deep_nesting_is_refused(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, depth: int) -> None:
    nested = '{"a":' * depth + f'"{BLOCK}"' + "}" * depth
    raw = json.dumps(chat_body("hi"))[:-1] + f', "extra_body": {nested}}}'
    response = proxy.post_raw("/v1/chat/completions", raw)
    # The deepest one is at the limit of what can be walked at all.
    assert response.status_code in ({403} if depth < 900 else {403, 413}), response.text
    assert llm.requests() == []
    akto.wait_for("record", 1)


def test_lone_surrogates_do_not_break_the_check(proxy: GuardedProxy, llm: MockLlm) -> None:
    raw = '{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "\\ud800 zebra-block"}]}'
    response = proxy.post_raw("/v1/chat/completions", raw)
    assert response.status_code in (400, 403), response.text
    assert llm.requests() == []


def test_the_openai_sdk_raises_its_permission_error(proxy: GuardedProxy) -> None:
    client = openai.OpenAI(base_url=f"{proxy.url}/v1", api_key="sk.checkout-agent", max_retries=0)
    for stream in (False, True):
        with pytest.raises(openai.PermissionDeniedError) as caught:
            client.chat.completions.create(**chat_body(BLOCK), stream=stream)
        assert caught.value.status_code == 403
        assert caught.value.body["message"] == BLOCK_MESSAGE


def test_the_anthropic_sdk_raises_its_permission_error(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    client = anthropic.Anthropic(base_url=proxy.url, api_key="sk.checkout-agent", max_retries=0)
    messages = [{"role": "user", "content": "hi"}]
    with pytest.raises(anthropic.PermissionDeniedError) as caught:
        client.messages.create(model="claude", max_tokens=9, system=BLOCK, messages=messages)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "permission_error", "message": BLOCK_MESSAGE},
    }
    with (
        pytest.raises(anthropic.PermissionDeniedError),
        client.messages.stream(model="claude", max_tokens=9, system=BLOCK, messages=messages) as stream,
    ):
        stream.get_final_message()
    assert llm.requests() == []


def test_the_anthropic_sdk_streams_an_allowed_message(proxy: GuardedProxy, akto: MockAkto) -> None:
    client = anthropic.Anthropic(base_url=proxy.url, api_key="sk.checkout-agent", max_retries=0)
    with client.messages.stream(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hi"}]) as stream:
        text = stream.get_final_text()
    assert text == "Hello from the mock model."
    (record,) = akto.wait_for("record", 1)
    assert answer_body(record)["content"] == [{"type": "text", "text": text}]
    assert record["body"]["path"] == "/v1/messages"


def test_the_litellm_sdk_gets_answers_and_the_block(proxy: GuardedProxy) -> None:
    ask = {"model": "litellm_proxy/gpt-4o-mini", "api_base": f"{proxy.url}/v1", "api_key": "sk.checkout-agent"}
    answer = litellm.completion(**ask, messages=[{"role": "user", "content": "hi"}], num_retries=0)
    assert answer.choices[0].message.content == "Hello from the mock model."
    with pytest.raises(Exception, match="Prompt injection detected") as caught:
        litellm.completion(**ask, messages=[{"role": "user", "content": BLOCK}], num_retries=0)
    assert caught.value.status_code == 403
