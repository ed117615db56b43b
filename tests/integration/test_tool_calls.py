"""Each tool call that a model makes is recorded on its own, in the background."""

from __future__ import annotations

import json
from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body
from integration.test_chat import sent_body

CHAT = ("/v1/chat/completions", chat_body("call a tool"))
RESPONSES = ("/v1/responses", {"model": "gpt-4o-mini", "input": "call a tool"})
MESSAGES = (
    "/v1/messages",
    {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "call a tool"}]},
)
every_api = pytest.mark.parametrize(
    ("path", "body"), [CHAT, RESPONSES, MESSAGES], ids=["chat", "Responses", "messages"]
)
whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


def records(akto: MockAkto) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record of the exchange and that of the tool call in it."""
    exchange, call = akto.wait_for("record", 2)
    return exchange["body"], call["body"]


@every_api
@whole_and_streamed
def test_a_tool_call_is_recorded_under_its_name(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str, body: dict[str, Any], stream: bool
) -> None:
    assert proxy.post(path, {**body, "stream": stream}).status_code == 200
    exchange, call = records(akto)
    assert exchange["path"] == path
    assert call["path"] == "/tool/get_weather"
    assert json.loads(call["requestPayload"]) == {"body": {"city": "Paris"}, "toolName": "get_weather"}
    assert call["responsePayload"] is None
    assert json.loads(call["requestHeaders"])["host"] == "checkout-agent"
    tags = json.loads(call["tag"])
    assert (tags["call_type"], tags["tool_name"], tags["gen-ai"]) == ("tool_call", "get_weather", "Gen AI")
    assert "mcp-server" not in tags
    assert len(akto.calls("check")) == 1


@every_api
@whole_and_streamed
def test_a_call_of_an_mcp_tool_is_recorded_under_the_server(
    proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str, body: dict[str, Any], stream: bool
) -> None:
    llm.says(tool="mcp__github__search_code", arguments='{"q": "x", "page": 2}')
    assert proxy.post(path, {**body, "stream": stream}).status_code == 200
    exchange, call = records(akto)
    assert call["path"] == "/mcp"
    assert json.loads(call["requestPayload"]) == {
        "jsonrpc": "2.0",
        "method": "tools/call",
        "params": {"name": "search_code", "arguments": {"q": "x", "page": 2}},
        "id": 1,
    }
    # The tag would turn the agent's own collection into an MCP server.
    assert json.loads(call["requestHeaders"])["host"] == "checkout-agent.litellm.github"
    tags = json.loads(call["tag"])
    assert (tags["mcp-server"], tags["mcp-client"], tags["mcp_server_name"]) == ("MCP Server", "litellm", "github")
    assert "gen-ai" not in tags
    assert "mcp-server" not in json.loads(exchange["tag"])
    assert json.loads(exchange["requestHeaders"])["host"] == "checkout-agent"


def test_the_paths_can_be_set(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy = shared_proxy(NON_MCP_TOOL_PATH_PREFIX="/tools/own", MCP_INGEST_PATH="/gateway/mcp")
    assert proxy.chat("call a tool").status_code == 200
    assert records(akto)[1]["path"] == "/tools/own/get_weather"
    akto.reset()
    llm.says(tool="mcp__github__search_code")
    assert proxy.chat("call a tool").status_code == 200
    assert records(akto)[1]["path"] == "/gateway/mcp"


def test_an_answer_without_tool_calls_gives_one_record(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    assert proxy.chat("hello").status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert sent_body(record) == chat_body("hello")


def test_nobody_waits_for_these_records(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    akto.answer("record", {"status": 200, "body": {}, "delay_ms": 3_000})
    assert proxy.chat("call a tool").elapsed.total_seconds() < 2
