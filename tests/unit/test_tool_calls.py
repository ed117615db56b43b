"""Tool calls in answers of every API, and their payloads."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from akto_guardrails.streaming import StreamedAnswer
from akto_guardrails.tool_calls import ToolCall, mcp_host, payloads_of, tool_calls_of, tool_path

ARGUMENTS = {"city": "Paris"}
TEXT = json.dumps(ARGUMENTS)
WEATHER = ToolCall("weather", ARGUMENTS)
RESPONSES_CALL = {"type": "function_call", "call_id": "c", "name": "weather", "arguments": TEXT}


def chat(**message: Any) -> dict[str, Any]:
    """A chat completion."""
    return {"object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant", **message}}]}


def function(name: str = "weather", arguments: object = TEXT) -> dict[str, Any]:
    """One tool call of a chat completion."""
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def gemini(*parts: Any) -> dict[str, Any]:
    """An answer of Gemini's own API."""
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}}]}


class TestSources:
    """Where calls stand."""

    @pytest.mark.parametrize(
        "answer",
        [
            chat(tool_calls=[function()]),
            chat(function_call={"name": "weather", "arguments": TEXT}),
            {
                "type": "message",
                "content": [{"type": "tool_use", "id": "toolu_1", "name": "weather", "input": ARGUMENTS}],
            },
            {"output": [RESPONSES_CALL]},
            gemini({"text": "Let me see"}, {"functionCall": {"name": "weather", "args": ARGUMENTS}}),
            gemini({"function_call": {"name": "weather", "args": ARGUMENTS}}),
            [chat(content="hi"), chat(tool_calls=[function()])],
        ],
    )
    def test_a_call_is_found(self, answer: object) -> None:
        assert tool_calls_of(answer) == [WEATHER]

    def test_all_calls_of_an_answer_in_their_order(self) -> None:
        answer = chat(tool_calls=[function("a"), function("b")])
        answer["choices"].append({"message": {"tool_calls": [function("c")]}})
        assert [call.name for call in tool_calls_of(answer)] == ["a", "b", "c"]

    def test_free_text_stays_text(self) -> None:
        custom = {"type": "custom", "custom": {"name": "shell", "input": "rm -rf /"}}
        assert tool_calls_of(chat(tool_calls=[custom])) == [ToolCall("shell", "rm -rf /")]
        item = {"type": "custom_tool_call", "name": "shell", "input": "rm -rf /"}
        assert tool_calls_of({"output": [item]}) == [ToolCall("shell", "rm -rf /")]
        assert tool_calls_of(chat(tool_calls=[function(arguments='{"cut": ')])) == [ToolCall("weather", '{"cut": ')]

    def test_an_anthropic_result_belongs_to_its_call(self) -> None:
        found = [{"type": "web_search_result", "url": "https://example.com"}]
        answer = {
            "content": [
                {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "q"}},
                {"type": "web_search_tool_result", "tool_use_id": "1", "content": found},
                {"type": "mcp_tool_use", "id": "2", "name": "echo", "server_name": "files", "input": {"a": 1}},
                {"type": "mcp_tool_result", "tool_use_id": "2", "is_error": False, "content": [{"type": "text"}]},
                {"type": "tool_use", "id": "3", "name": "echo", "input": {}},
            ]
        }
        assert tool_calls_of(answer) == [
            ToolCall("web_search", {"query": "q"}, result=found),
            ToolCall("echo", {"a": 1}, "files", [{"type": "text"}]),
            ToolCall("echo", {}),
        ]

    def test_calls_of_the_responses_api(self) -> None:
        answer = {
            "output": [
                {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
                {"type": "mcp_call", "server_label": "files", "name": "read", "arguments": TEXT, "output": "text"},
                {"type": "mcp_call", "name": "read", "arguments": "{}", "error": "no"},
                {"type": "code_interpreter_call", "code": "print(1)", "outputs": [{"logs": "1"}]},
                {"type": "local_shell_call", "action": {"command": ["ls"]}},
                {"type": "image_generation_call", "result": "AAAA"},
                {"type": "mcp_list_tools", "tools": []},
            ]
        }
        assert tool_calls_of(answer) == [
            ToolCall("read", ARGUMENTS, "files", "text"),
            ToolCall("read", {}, "mcp"),
            ToolCall("code_interpreter", "print(1)", result=[{"logs": "1"}]),
            ToolCall("local_shell", {"command": ["ls"]}),
        ]

    @pytest.mark.parametrize(
        "events",
        [
            [
                {"type": "message_start", "message": {"type": "message", "role": "assistant", "content": []}},
                {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "weather"}},
                {
                    "type": "content_block_delta",
                    "index": 0,
                    "delta": {"type": "input_json_delta", "partial_json": TEXT},
                },
            ],
            [
                {"type": "response.created", "response": {"output": []}},
                {"type": "response.completed", "response": {"output": [RESPONSES_CALL]}},
            ],
            [gemini({"text": "Let me see"}), gemini({"functionCall": {"name": "weather", "args": ARGUMENTS}})],
        ],
    )
    def test_a_call_in_a_stream_is_found(self, events: list[Any]) -> None:
        streamed = StreamedAnswer()
        for event in events:
            streamed.add(b"data: " + json.dumps(event).encode() + b"\n\n")
        assert tool_calls_of(streamed.body()) == [WEATHER]

    def test_a_call_without_arguments_has_none(self) -> None:
        assert tool_calls_of(gemini({"functionCall": {"name": "now"}})) == [ToolCall("now", {})]

    @pytest.mark.parametrize(
        ("name", "server", "tool"),
        [
            ("mcp__files__read", "files", "read"),
            ("mcp__my_files__read__all", "my_files", "read__all"),
            ("mcp__files__", "", "mcp__files__"),
            ("mcp____read", "", "mcp____read"),
            ("my_mcp__files__read", "", "my_mcp__files__read"),
        ],
    )
    def test_the_name_of_a_function_may_be_that_of_an_mcp_tool(self, name: str, server: str, tool: str) -> None:
        assert tool_calls_of(chat(tool_calls=[function(name)])) == [ToolCall(tool, ARGUMENTS, server)]
        block = {"type": "tool_use", "name": name, "input": ARGUMENTS}
        assert tool_calls_of({"content": [block]}) == [ToolCall(tool, ARGUMENTS, server)]

    def test_calls_are_bounded(self) -> None:
        assert len(tool_calls_of(chat(tool_calls=[function()] * 1_000))) == 128
        assert len(tool_calls_of([chat(tool_calls=[function()] * 100)] * 10)) == 128

    @pytest.mark.parametrize("kind", ["custom_tool_call", "function_call", "mcp_call"])
    def test_what_has_lost_its_name_is_none(self, kind: str) -> None:
        assert tool_calls_of({"output": [{"type": kind, "arguments": TEXT}]}) == []

    @pytest.mark.parametrize(
        "answer", [None, 7, "text", [], {}, [None, 7, []], chat(content="hi"), chat(tool_calls=None)]
    )
    def test_an_answer_without_calls_has_none(self, answer: object) -> None:
        assert tool_calls_of(answer) == []

    def test_no_json_raises(self) -> None:
        source = random.Random(1)
        full = [
            chat(tool_calls=[function()], function_call={"name": "a", "arguments": "b"}),
            {"content": [{"type": "mcp_tool_use", "id": "1", "name": "a", "server_name": "b", "input": {}}]},
            {
                "content": [
                    {"type": "tool_use", "id": "1"},
                    {"type": "mcp_tool_result", "tool_use_id": "1", "content": []},
                ]
            },
            {"output": [{"type": "mcp_call", "server_label": "a", "name": "b", "arguments": "{}", "output": "c"}]},
            gemini({"functionCall": {"name": "weather", "args": {}}}),
        ]
        values: list[Any] = [None, 0, True, "", "text", "\ud83d", [], [[]], {}, {"a": []}, [None], "[" * 5_000]

        def spoiled(value: Any) -> Any:
            if source.random() < 0.1:
                return source.choice(values)
            if isinstance(value, dict):
                return {key: spoiled(child) for key, child in value.items()}
            return [spoiled(child) for child in value] if isinstance(value, list) else value

        for _ in range(3_000):
            for call in tool_calls_of(spoiled(source.choice(full))):
                assert isinstance(call.name, str)
                assert isinstance(call.server, str)
                assert all(json.loads(payload) for payload in payloads_of(call) if payload is not None)


class TestPayloads:
    """What Akto gets of a call."""

    def test_of_an_ordinary_tool(self) -> None:
        request, answer = payloads_of(WEATHER)
        assert json.loads(request) == {"body": ARGUMENTS, "toolName": "weather"}
        assert answer is None

    def test_of_an_ordinary_tool_with_a_result(self) -> None:
        assert payloads_of(ToolCall("a", {}, result=["b"]))[1] == '{"body":["b"]}'

    def test_of_an_mcp_tool(self) -> None:
        request, answer = payloads_of(ToolCall("read", ARGUMENTS, "files"))
        params = {"name": "read", "arguments": ARGUMENTS}
        assert json.loads(request) == {"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": 1}
        assert answer is None

    @pytest.mark.parametrize(
        ("result", "wrapped"),
        [
            ("text", {"content": [{"type": "text", "text": "text"}]}),
            ("", {"content": [{"type": "text", "text": ""}]}),
            (7, {"content": [{"type": "text", "text": "7"}]}),
            ([{"type": "text", "text": "a"}], {"content": [{"type": "text", "text": "a"}]}),
            ({"content": [], "isError": True, "is_error": True, "error": "no"}, {"content": []}),
        ],
    )
    def test_a_result_of_an_mcp_tool_is_an_object_without_error_marks(self, result: object, wrapped: object) -> None:
        answer = payloads_of(ToolCall("read", {}, "files", result))[1]
        assert answer is not None
        assert json.loads(answer) == {"jsonrpc": "2.0", "id": 1, "result": wrapped}

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("get_weather-2.0", "/tool/get_weather-2.0"),
            ("a/../b?c#d e", "/tool/a-..-b-c-d-e"),
            ("\u0436", "/tool/-"),
            ("", "/tool/unnamed"),
            ("..", "/tool/unnamed"),
            ("a" * 500, "/tool/" + "a" * 128),
        ],
    )
    def test_the_path_of_a_tool_is_safe_and_short(self, name: str, path: str) -> None:
        assert tool_path("/tool", name) == path

    @pytest.mark.parametrize(
        ("collection", "server", "host"),
        [
            ("checkout-agent", "files", "checkout-agent.litellm.files"),
            ("llm.example.com:4000", "Files", "llm.example.com-4000.litellm.files"),
            ("Agent_1", "", "agent-1.litellm.mcp"),
        ],
    )
    def test_the_host_of_a_server(self, collection: str, server: str, host: str) -> None:
        assert mcp_host(collection, server) == host

    def test_the_server_is_one_label(self) -> None:
        label = mcp_host("a", "files.example.com/mcp").removeprefix("a.litellm.")
        assert label.startswith("files-example-com-mcp-")
        assert "." not in label
