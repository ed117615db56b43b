"""VALIDATE_LAST_USER_MESSAGE_ONLY: only the newest user turn with its tool results is checked, all is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm
from integration.test_chat import CARD, MASKED, sent_body

BAD = "please zebra-block this"
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.fixture
def guarded(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return shared_proxy(VALIDATE_LAST_USER_MESSAGE_ONLY="true")


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": list(messages), **more}


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


TOOL = {"type": "function", "function": {"name": "f", "description": BAD, "parameters": {}}}


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", chat({"role": "system", "content": BAD}, user("hello"))),
        ("/v1/chat/completions", chat(user(BAD), assistant("no"), user("hello"))),
        ("/v1/chat/completions", chat(user("hello"), tools=[TOOL])),
        ("/v1/messages", {"model": "claude", "max_tokens": 9, "system": BAD, "messages": [user("hello")]}),
        ("/v1/responses", {"model": "gpt-4o-mini", "instructions": BAD, "input": [user("hello")]}),
    ],
)
def test_what_stands_before_the_newest_turn_is_not_checked_but_recorded(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, route: str, body: dict[str, Any]
) -> None:
    assert guarded.post(route, body).status_code == 200
    (check,) = akto.calls("check")
    assert "zebra" not in check["body"]["requestPayload"]
    assert "hello" in check["body"]["requestPayload"]
    (record,) = akto.wait_for("record", 1)
    assert "zebra-block" in record["body"]["requestPayload"]
    assert len(llm.requests()) == 1


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("/v1/chat/completions", chat(user("hi"), assistant("yes?"), user(BAD))),
        ("/v1/chat/completions", chat(user(BAD), user("hello"))),
        (
            "/v1/chat/completions",
            chat(
                user("go"),
                assistant(None, tool_calls=[CALL]),
                {"role": "tool", "tool_call_id": "c", "content": BAD},
            ),
        ),
        (
            "/v1/messages",
            {
                "model": "claude",
                "max_tokens": 9,
                "messages": [
                    user("go"),
                    assistant([{"type": "tool_use", "id": "t", "name": "f", "input": {}}]),
                    user([{"type": "tool_result", "tool_use_id": "t", "content": BAD}]),
                ],
            },
        ),
        (
            "/v1/responses",
            {
                "model": "gpt-4o-mini",
                "input": [
                    user("go"),
                    {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                    {"type": "function_call_output", "call_id": "c", "output": BAD},
                ],
            },
        ),
        # Without turns there is no newest one: everything is checked.
        ("/v1/embeddings", {"model": "embed", "input": [BAD, "hello"]}),
        ("/v1/completions", {"model": "instruct", "prompt": BAD}),
        # What replaces the conversation is checked like it.
        ("/v1/chat/completions", chat(user("hello"), fallbacks=[{"model": "claude", "messages": [user(BAD)]}])),
    ],
)
def test_the_newest_turn_and_its_tool_results_are_checked(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, route: str, body: dict[str, Any]
) -> None:
    assert guarded.post(route, body).status_code == 403
    assert llm.requests() == []


def test_a_mask_finds_its_place_in_the_whole_conversation(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    messages = [user("hi"), assistant("yes?"), user(CARD)]
    assert guarded.post("/v1/chat/completions", chat(*messages)).status_code == 200
    assert llm.requests()[0]["body"]["messages"] == [*messages[:2], user(MASKED)]
    (record,) = akto.wait_for("record", 1)
    assert sent_body(record)["messages"] == [*messages[:2], user(MASKED)]
