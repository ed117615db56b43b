"""Putting a streamed answer together again."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

import akto_guardrails.streaming as streaming_module
from akto_guardrails.json_text import json_text
from akto_guardrails.streaming import StreamedAnswer
from unit.samples import memory_of, nested, seconds_of


def chunk(*choices: SimpleNamespace, **fields: object) -> SimpleNamespace:
    """One chunk of a chat stream."""
    head = {"id": "chatcmpl-1", "created": 1, "model": "gpt-4o-mini", "object": "chat.completion.chunk"}
    return SimpleNamespace(**(head | fields), choices=list(choices))


def choice(index: int = 0, finish_reason: str | None = None, **delta: object) -> SimpleNamespace:
    """One choice of a chunk."""
    return SimpleNamespace(index=index, finish_reason=finish_reason, delta=SimpleNamespace(**delta))


def call(index: int, id: str | None = None, name: str | None = None, arguments: str | None = None) -> SimpleNamespace:
    """One piece of a tool call."""
    kind = None if id is None else "function"
    return SimpleNamespace(index=index, id=id, type=kind, function=SimpleNamespace(name=name, arguments=arguments))


def body_of(*items: object) -> Any:
    """The answer that a stream of `items` amounts to."""
    answer = StreamedAnswer()
    for item in items:
        answer.add(item)
    return answer.body()


def test_the_pieces_of_a_chat_answer_become_one_message() -> None:
    assert body_of(
        chunk(choice(role="assistant", content="")),
        chunk(choice(content="Hel")),
        chunk(choice(content="lo")),
        chunk(choice(content=None)),
        chunk(choice(finish_reason="stop", content=None)),
    ) == {
        "id": "chatcmpl-1",
        "created": 1,
        "model": "gpt-4o-mini",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello"}},
        ],
    }


def test_choices_are_kept_apart_and_in_order() -> None:
    body = body_of(
        chunk(choice(1, content="b")),
        chunk(choice(0, content="a"), choice(1, content="B")),
        chunk(choice(0, "length", content="A"), choice(1, "stop")),
    )
    assert [(each["index"], each["message"]["content"], each["finish_reason"]) for each in body["choices"]] == [
        (0, "aA", "length"),
        (1, "bB", "stop"),
    ]


@pytest.mark.parametrize("name", ["reasoning_content", "refusal"])
def test_reasoning_and_refusals_are_kept(name: str) -> None:
    body = body_of(chunk(choice(**{name: "I "})), chunk(choice(**{name: "think"})))
    assert body["choices"][0]["message"] == {"role": "assistant", name: "I think"}


def test_the_pieces_of_tool_calls_are_joined_by_their_index() -> None:
    body = body_of(
        chunk(choice(tool_calls=[call(0, "call_a", "weather", "")])),
        chunk(choice(tool_calls=[call(0, arguments='{"city":')])),
        chunk(choice(tool_calls=[call(1, "call_b", "time", '{"zone":')])),
        chunk(choice(tool_calls=[call(0, arguments='"Rome"}'), call(1, arguments='"CET"}')])),
        chunk(choice(finish_reason="tool_calls", tool_calls=None)),
    )
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}},
        {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": '{"zone":"CET"}'}},
    ]


def test_a_name_that_comes_with_every_piece_is_the_name_once() -> None:
    def call(name: str, arguments: str) -> SimpleNamespace:
        function = SimpleNamespace(name=name, arguments=arguments)
        return chunk(choice(tool_calls=[SimpleNamespace(index=0, function=function)]))

    body = body_of(call("weather", "{"), call("weather", "}"))
    assert body["choices"][0]["message"]["tool_calls"] == [{"function": {"name": "weather", "arguments": "{}"}}]
    in_pieces = body_of(call("wea", ""), call("ther", "{}"))
    assert in_pieces["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_the_pieces_of_a_function_call_of_the_older_kind_are_joined() -> None:
    body = body_of(
        chunk(choice(function_call=SimpleNamespace(name="weather", arguments=""))),
        chunk(choice(function_call=SimpleNamespace(name=None, arguments='{"city":'))),
        chunk(choice(function_call=SimpleNamespace(name=None, arguments='"Rome"}'))),
        chunk(choice(finish_reason="function_call", function_call=None)),
    )
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "function_call": {"name": "weather", "arguments": '{"city":"Rome"}'},
    }


def test_usage_comes_from_the_last_chunk_that_has_any() -> None:
    body = body_of(chunk(choice(content="a"), usage=None), chunk(usage={"total_tokens": 3}))
    assert body["usage"] == {"total_tokens": 3}
    assert body["choices"][0]["message"]["content"] == "a"


def test_a_text_completion_keeps_its_own_shape() -> None:
    body = body_of(
        chunk(SimpleNamespace(index=0, text="one ", finish_reason=None), object="text_completion"),
        chunk(SimpleNamespace(index=0, text="two", finish_reason="stop"), object="text_completion"),
    )
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "finish_reason": "stop", "text": "one two"}]


def test_a_stream_that_ended_early_gives_what_came() -> None:
    body = body_of(chunk(choice(content="half")))
    assert body["choices"] == [{"index": 0, "message": {"role": "assistant", "content": "half"}}]


def test_a_stream_in_which_nothing_came_has_no_body() -> None:
    assert StreamedAnswer().body() is None


def test_items_of_an_unknown_kind_are_passed_over() -> None:
    assert body_of(None, 7, object(), chunk(choice(content="a")))["choices"][0]["message"]["content"] == "a"


class _EventType(str, Enum):  # noqa: UP042 - a StrEnum has another str()
    """Event types as LiteLLM has them: strings that are enum members as well."""

    DELTA = "response.output_text.delta"
    COMPLETED = "response.completed"


@pytest.mark.parametrize("kind", ["response.completed", "response.failed", "response.incomplete", _EventType.COMPLETED])
def test_the_final_event_of_a_responses_stream_is_the_answer(kind: str) -> None:
    body = body_of(
        SimpleNamespace(type="response.created", response={"id": "early"}),
        SimpleNamespace(type=_EventType.DELTA, delta="Hel"),
        SimpleNamespace(type=kind, response={"id": "resp_1", "output": [{"text": "Hello"}]}),
    )
    assert body == {"id": "resp_1", "output": [{"text": "Hello"}]}


MESSAGE = {"type": "message", "content": [{"type": "output_text", "text": "second"}]}


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({}, ["first second"]),
        ({"output": []}, ["first second"]),
        ({"output": [MESSAGE]}, ["second", "first second"]),
        ({"output": [{**MESSAGE, "content": [{"text": "first second"}]}]}, ["first second"]),
    ],
)
def test_what_was_streamed_and_is_not_in_the_final_event_is_kept(told: dict[str, Any], kept: list[str]) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "rm"}
    body = body_of(
        {"type": "response.output_text.delta", "output_index": 0, "delta": "first "},
        {"type": "response.output_text.delta", "output_index": 0, "delta": "second"},
        {"type": "response.output_item.added", "output_index": 1, "item": {**call, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", "output_index": 1, "delta": '{"all": true}'},
        {"type": "response.output_item.done", "output_index": 1, "item": {**call, "arguments": '{"all": true}'}},
        {"type": "response.unknown", "note": "a note"},
        {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", **told}},
    )
    assert (body["id"], body["status"], body["events"]) == ("resp_1", "completed", ["a note"])
    assert [item["content"][0]["text"] for item in body["output"] if "content" in item] == kept
    assert body["output"][-1] == {**call, "arguments": '{"all": true}'}


def test_a_responses_stream_without_its_final_event_gives_the_text_so_far() -> None:
    body = body_of(
        SimpleNamespace(type=_EventType.DELTA, output_index=1, content_index=0, delta="Hel"),
        SimpleNamespace(type="response.reasoning_summary_text.delta", output_index=0, summary_index=0, delta="hm"),
        SimpleNamespace(type="response.output_text.delta", output_index=1, content_index=0, delta="lo"),
    )
    assert body == {"output": [{"summary": [{"text": "hm"}]}, {"content": [{"text": "Hello"}]}]}


ANTHROPIC = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [],
            "stop_reason": None,
            "usage": {"input_tokens": 9, "output_tokens": 1},
        },
    },
    {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_stop", "index": 0},
    {"type": "ping"},
    {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Gr\u00fc\u00df "}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "Gott \U0001f600"}},
    {"type": "content_block_stop", "index": 1},
    {
        "type": "content_block_start",
        "index": 2,
        "content_block": {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {}},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ""}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": '{"city":'}},
    {"type": "content_block_delta", "index": 2, "delta": {"type": "input_json_delta", "partial_json": ' "Rome"}'}},
    {"type": "content_block_stop", "index": 2},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 20}},
    {"type": "message_stop"},
]


def sse(events: list[dict[str, Any]], line_end: str = "\n") -> bytes:
    """`events` as a server sends them."""
    return "".join(
        f"event: {event['type']}{line_end}data: {json.dumps(event, ensure_ascii=False)}{line_end}{line_end}"
        for event in events
    ).encode()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 100_000])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_raw_bytes_split_anywhere_make_the_same_message(size: int, line_end: str) -> None:
    raw = sse(ANTHROPIC, line_end)
    body = body_of(*(raw[start : start + size] for start in range(0, len(raw), size)))
    assert (body["id"], body["role"], body["model"], body["stop_reason"]) == (
        "msg_1",
        "assistant",
        "claude",
        "tool_use",
    )
    assert body["usage"] == {"input_tokens": 9, "output_tokens": 20}
    assert body["content"][:2] == [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "Gr\u00fc\u00df Gott \U0001f600"},
    ]
    assert (body["content"][2]["id"], body["content"][2]["name"]) == ("toolu_1", "weather")


def test_the_input_of_a_streamed_tool_use_is_the_object_it_is_unstreamed() -> None:
    assert body_of(sse(ANTHROPIC))["content"][2]["input"] == {"city": "Rome"}


def test_an_input_cut_short_is_kept_as_its_text() -> None:
    body = body_of(sse(ANTHROPIC[:12]))
    assert body["content"][2]["input"] == '{"city":'


def test_text_items_are_taken_like_bytes() -> None:
    raw = sse(ANTHROPIC).decode()
    assert body_of(raw[:50], raw[50:].encode()) == body_of(raw.encode())


_ARGS = {"q": "x", "page": 2, "exact": True}


def test_the_pieces_of_a_gemini_answer_are_joined() -> None:
    raw = b"".join(
        b"data: " + json.dumps(chunk).encode() + b"\r\n\r\n"
        for chunk in (
            {"candidates": [{"content": {"role": "model", "parts": [{"text": "hm", "thought": True}]}}]},
            {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hel"}]}}], "modelVersion": "gemini"},
            {"candidates": [{"content": {"parts": [{"text": "lo"}, {"functionCall": {"name": "f", "args": _ARGS}}]}}]},
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "g"}}]}, "finishReason": "STOP"}]},
        )
    )
    assert body_of(raw) == {
        "modelVersion": "gemini",
        "candidates": [
            {
                "finishReason": "STOP",
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"text": "Hello"},
                        {"functionCall": {"name": "f", "args": {"q": "x", "page": 2, "exact": True}}},
                        {"functionCall": {"name": "g"}},
                    ],
                },
            }
        ],
    }


def test_thoughts_in_the_place_of_encrypted_ones_are_in_the_body_once() -> None:
    thoughts = json.dumps([{"type": "thinking", "thinking": "Es w\u00e4re so"}])
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": thoughts}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    response = {"id": "r", "output": [item]}
    assert body_of(done, {"type": "response.completed", "response": response}) == response


def test_a_call_whose_arguments_come_in_parts_is_whole_in_the_body() -> None:
    def chunk(call: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [{"functionCall": call, **more}]}}]}

    def part(path: str, **value: Any) -> dict[str, Any]:
        return {"partialArgs": [{"jsonPath": path, **value}], "willContinue": True}

    calls = [
        chunk({"name": "f", "willContinue": True}, thoughtSignature="s"),
        chunk(part("$.city", stringValue="Par", willContinue=True)),
        chunk(part("$.city", stringValue="is")),
        chunk(part("$.days[0]", numberValue=3)),
        chunk({}),
        chunk({"name": "g", "args": {}}),
        chunk({"name": "h", "willContinue": True}),
        chunk({"name": "i", "args": {"a": 1}, "willContinue": True}),
        chunk({"name": "i", **part("$.b", boolValue=True)}),
        chunk({}),
        chunk({"name": "j", "partialArgs": [{"jsonPath": "$.c", "stringValue": "d"}]}),
        chunk({"partialArgs": [{"jsonPath": "$.c", "stringValue": "e"}]}),
    ]
    body = body_of(*calls)
    assert body["candidates"][0]["content"]["parts"] == [
        {"functionCall": {"name": "f", "args": {"city": "Paris", "days[0]": 3}}, "thoughtSignature": "s"},
        {"functionCall": {"name": "g", "args": {}}},
        {"functionCall": {"name": "h", "args": {}}},
        {"functionCall": {"name": "i", "args": {"a": 1, "b": True}}},
        {"functionCall": {"name": "j", "args": {"c": "d"}}},
        {"functionCall": {"args": {"c": "e"}}},
    ]


@pytest.mark.parametrize(
    "parts",
    [
        ["x", {"functionCall": {}}, None, 7],
        [{"text": "a", "functionCall": {"name": "f", "willContinue": True}}, {"text": "b"}],
        [{"is_open": True, "texts": 3, "arguments": 4}],
        [{"functionCall": "f"}, {"functionCall": {"willContinue": True, "partialArgs": {"a": "b"}, "args": "c"}}],
        [{"functionCall": {"willContinue": 1, "partialArgs": ["a", {}, {"jsonPath": ["b"], "stringValue": {}}]}}],
    ],
)
def test_odd_parts_of_a_gemini_answer_are_put_together_somehow(parts: list[Any]) -> None:
    body = body_of({"candidates": [{"content": {"parts": [*parts, {"text": "end"}]}}]})
    assert "end" in json.dumps(body["candidates"][0]["content"]["parts"][-1])


def test_an_error_after_the_text_of_a_gemini_answer_is_kept() -> None:
    text = {"candidates": [{"content": {"parts": [{"text": "Hel"}]}}]}
    body = body_of(text, {"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})
    assert body["candidates"] == text["candidates"]
    assert body["events"] == ["overloaded"]


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "overloaded"}}, 500),
        ({"type": "error", "code": "429", "message": "slow down"}, 429),
        ({"type": "response.failed", "response": {"id": "r", "error": {"code": "server_error"}}}, 500),
        ({"error": {"code": 503, "message": "overloaded"}}, 503),
        ({"error": {"code": "rate_limit_exceeded", "message": "slow down"}}, 500),
        ({"error": {"code": 200}}, 500),
        ({"error": "out of order"}, 500),
        ({"error": None}, None),
        ({"error": False}, None),
        ({"choices": [], "error": None}, None),
        ({"choices": [{"index": 0, "delta": {"content": "error"}}]}, None),
        ({"type": "response.incomplete", "response": {"id": "r", "error": None}}, None),
        ({"candidates": [{"content": {"parts": [{"text": "error"}]}}]}, None),
        ({"choices": [], "error": {"code": 503}}, None),
        ({"candidates": [], "error": {"code": 503}}, None),
        ({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "error"}}, None),
    ],
)
@pytest.mark.parametrize("raw", [True, False])
def test_an_error_that_a_stream_tells_of_has_a_status(event: dict[str, Any], status: int | None, raw: bool) -> None:
    answer = StreamedAnswer()
    answer.add(f"data: {json.dumps(event)}\n\n".encode() if raw else event)
    answer.add(b'data: {"type": "ping"}\n\n')
    assert answer.error_status == status


def test_the_status_of_an_error_whose_event_has_no_end_is_known_in_the_end() -> None:
    answer = StreamedAnswer()
    answer.add(b'data: {"error": {"code": 503}}')
    answer.body()
    assert answer.error_status == 503


def test_strings_of_unknown_events_are_listed_once() -> None:
    raw = b'event: x\ndata: {"a": {"b": "one"}}\n\ndata: {"c": ["one", "two"]}\n\ndata: [DONE]\n\n: ping\n\n'
    assert body_of(raw) == {"events": ["one", "two"]}


def test_what_is_no_json_is_taken_as_text() -> None:
    assert body_of(b'data: {"cut":\n\ndata: 7\n\n', b"Bad ", b"gateway") == {"events": ['{"cut":', "7", "Bad gateway"]}


@pytest.mark.parametrize(
    "broken",
    [
        {"type": "content_block_start"},
        {"type": "content_block_start", "index": 1, "content_block": None},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "delta": {"text": "x"}},
        {"type": "message_delta", "delta": "text", "usage": 7},
    ],
)
def test_a_malformed_event_does_not_lose_the_rest_of_the_answer(broken: dict[str, Any]) -> None:
    text = [
        {"type": "message_start", "message": {"id": "msg_1"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
    ]
    assert "Hello" in json.dumps(body_of(sse([*text, broken])))


def responses_items(count: int, words: str = "does") -> list[dict[str, Any]]:
    """So many output items, whose texts are of one length."""
    return [{"type": "function_call", "name": f"f{i:06}", "arguments": f"{words} {i:06}"} for i in range(count)]


def done(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events that such items come with when nothing of them is streamed."""
    kind = "response.output_item.done"
    return [{"type": kind, "output_index": index, "item": item} for index, item in enumerate(items)]


def completed(output: list[dict[str, Any]]) -> dict[str, Any]:
    """The last event of such an answer."""
    return {"type": "response.completed", "response": {"id": "r", "status": "completed", "output": output}}


def tool_list(count: int) -> dict[str, Any]:
    """The item in which an MCP server says what tools it has."""
    tools = [{"name": f"tool {i:06}", "description": f"does {i:06}"} for i in range(count)]
    return {"type": "mcp_list_tools", "server_label": "s", "tools": tools}


MANY_TEXTS: list[Callable[[int], list[dict[str, Any]]]] = [
    lambda count: done(responses_items(count)),
    # Said again at another place.
    lambda count: [*done([{}, tool_list(count)]), completed([tool_list(count)])],
    # Said in other words.
    lambda count: [*done(responses_items(count)), completed(responses_items(count, "said"))],
]


@pytest.mark.parametrize("stream_of", MANY_TEXTS)
def test_the_time_for_many_texts_grows_no_faster_than_their_number(
    stream_of: Callable[[int], list[dict[str, Any]]],
) -> None:
    few, many = stream_of(400), stream_of(3_200)
    assert seconds_of(lambda: body_of(*many)) < 40 * seconds_of(lambda: body_of(*few))


def test_a_text_that_comes_again_at_another_place_once_it_has_grown_is_known() -> None:
    delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0}
    again = {"type": "response.output_text.done", "output_index": 7, "content_index": 0}
    body = body_of(
        {**delta, "delta": "Hel"},
        {**again, "text": "Hel"},
        {**delta, "delta": "lo"},
        {**again, "text": "Hello"},
        {**delta, "delta": " \ud83d"},
        {**delta, "delta": "\ude00"},
        {**again, "text": "Hello \ud83d\ude00"},
        {**again, "text": "Hel"},
    )
    assert body == {
        "output": [{"content": [{"text": "Hello \ud83d\ude00"}]}, {"content": [{"text": "Hel"}]}],
    }


def test_texts_are_told_apart_whose_checksums_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming_module, "crc32", lambda *_: 0)
    events = [*done(responses_items(3)), completed(responses_items(3))]
    assert body_of(*events[:-1]) == {
        "output": [{"name": f"f00000{i}", "arguments": f"does 00000{i}", "type": "function_call"} for i in range(3)]
    }
    assert body_of(*events) == events[-1]["response"]


def test_what_is_too_much_to_be_looked_for_in_the_last_event_is_listed_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streamed = [{"type": "response.output_text.delta", "output_index": i, "delta": f"part {i}"} for i in range(2)]
    whole = [{"type": "message", "content": [{"text": f"a part {i} and more"}]} for i in range(2)]
    assert body_of(*streamed, completed(whole))["output"] == whole
    monkeypatch.setattr(streaming_module, "_MOST_SEARCHED", 60)
    assert body_of(*streamed, completed(whole))["output"] == [
        *whole,
        {"type": "message", "content": [{"text": "part 1"}]},
    ]


def test_the_name_of_a_tool_that_comes_again_alone_is_not_added_to_it() -> None:
    named = {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": {"name": "search"}}]}}]}
    assert body_of(named, named, named) == body_of(named)


def test_many_strings_nested_deeply_take_little_memory() -> None:
    def memory(depth: int) -> int:
        text = json_text({"q": nested("x", depth)})
        block = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
        tool = [
            {"type": "content_block_start", "index": 0, "content_block": block},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "input_json_delta", "partial_json": text}},
        ]
        field = {"choices": [{"index": 0, "delta": {"field": nested("x", depth)}}]}
        return memory_of(lambda: body_of(*tool)) + memory_of(lambda: body_of(field))

    assert memory(400) < 3 * memory(10)
