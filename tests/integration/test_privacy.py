"""Nothing private in the container's output: prompts, answers, tool arguments, tokens, header values."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.containers import MASTER_KEY, TOKEN, GuardedProxy, MockAkto, MockLlm, chat_body

PROMPT = "private-prompt-text"
ARGUMENTS = "private-tool-arguments"
HEADER = "private-header-value"
ANSWER = "Hello from the mock model"


def exercise(proxy: GuardedProxy, akto: MockAkto) -> None:
    """One request of every outcome, with private text in all its parts."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps({"q": ARGUMENTS})}}
    history = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    history.append({"role": "tool", "tool_call_id": "c", "content": ARGUMENTS})
    headers = {"user-agent": HEADER, "x-tenant": HEADER}
    for text in ("hello", "zebra-block", "zebra-alert", "4111-1111-1111-1111"):
        body = chat_body(f"{PROMPT} {text}")
        body["messages"] = history + body["messages"]
        for stream in (False, True):
            # A session of its own, since one that is blocked once stays blocked.
            session = {"x-session-id": f"{HEADER}-{text}"}
            proxy.post("/v1/chat/completions", body | {"stream": stream}, headers=headers | session)
    proxy.chat(f"{PROMPT} please fail", headers=headers)
    for answer in (
        {"status": 200, "raw_body": f"{PROMPT} is not JSON"},
        {"status": 422, "body": {"message": PROMPT}},
        {"status": 200, "body": masked(f"{PROMPT} as text")},
        {"connection": "reset"},
    ):
        akto.answer("check", answer)
        proxy.chat(PROMPT, headers=headers)
    akto.answer("record", {"status": 422, "body": {"message": PROMPT}})
    proxy.chat(PROMPT, headers=headers)


def masked(text: str) -> dict[str, Any]:
    payload = json.dumps({"text": text})
    return {"data": {"guardrailsResult": {"Allowed": True, "Modified": True, "ModifiedPayload": payload}}}


@pytest.mark.parametrize("env", [{}, {"SYNC_MODE": "false"}], ids=["blocking", "watching only"])
def test_nothing_private_at_the_default_level(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, env: dict[str, str]
) -> None:
    proxy: GuardedProxy = start_proxy(env={"FORWARD_HEADERS": "x-tenant", **env})
    exercise(proxy, akto)
    log = proxy.logs()
    for private in (PROMPT, ARGUMENTS, HEADER, ANSWER, TOKEN, MASTER_KEY, "4111-1111"):
        assert private not in log


def test_nothing_private_in_the_guards_lines_at_debug_level(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    """LiteLLM itself prints prompts then; the guard does not, and Akto's token is nowhere."""
    proxy: GuardedProxy = start_proxy(env={"FORWARD_HEADERS": "x-tenant", "LITELLM_LOG": "DEBUG"})
    exercise(proxy, akto)
    log = proxy.guard_log()
    assert "blocked" in log and "flagged" in log and "masked" in log and "no verdict" in log
    for private in (PROMPT, ARGUMENTS, HEADER, ANSWER, "4111-1111"):
        assert private not in log
    assert TOKEN not in proxy.logs()
