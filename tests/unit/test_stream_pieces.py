"""The text in the items of a stream, and items with other text in its place."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from akto_guardrails.masking import UnmappableMask
from akto_guardrails.stream_pieces import Unit, Units, replaced
from unit.samples import nested


def event(data: object, end: str = "\n") -> bytes:
    """A server-sent event that carries `data`."""
    name = data.get("type") if isinstance(data, dict) else None
    head = f"event: {name}{end}" if name else ""
    return f"{head}data: {json.dumps(data, ensure_ascii=False)}{end}{end}".encode()


def pieces(item: object) -> list[tuple[Any, ...]]:
    """Kind, target and text of each piece of an item."""
    return [(piece.kind, piece.target, piece.text) for piece in Unit(item, 3).pieces]


def test_the_texts_of_a_chat_chunk() -> None:
    delta = SimpleNamespace(
        content="c",
        role="assistant",
        reasoning_content="r",
        refusal="no",
        tool_calls=[SimpleNamespace(index=2, id="call_1", function=SimpleNamespace(name="f", arguments="{"))],
        function_call=SimpleNamespace(name="g", arguments="}"),
        thinking_blocks=[{"type": "thinking", "thinking": "t", "signature": "xyz"}],
    )
    choice = SimpleNamespace(index=1, finish_reason="stop", delta=delta, logprobs={"content": [{"token": "c"}]})
    message = ("choices", 1, "message")
    assert pieces(SimpleNamespace(id="x", model="m", choices=[choice], citations=["http://a"])) == [
        ("delta", (*message, "content"), "c"),
        ("delta", (*message, "reasoning_content"), "r"),
        ("delta", (*message, "refusal"), "no"),
        ("delta", (*message, "tool_calls", 2, "function", "name"), "f"),
        ("delta", (*message, "tool_calls", 2, "function", "arguments"), "{"),
        ("delta", (*message, "function_call", "name"), "g"),
        ("delta", (*message, "function_call", "arguments"), "}"),
        ("delta", (*message, "thinking_blocks", 0, "thinking"), "t"),
        ("alone", ("citations", 0), "http://a"),
    ]


CONTENT = ("output", 1, "content", 2, "text")
IN_PARTS = ("candidates", 0, "content", "parts", 3002, "functionCall", "partialArgs")


def in_parts(*arguments: dict[str, Any]) -> dict[str, Any]:
    """A chunk of Gemini's with a call whose arguments come in parts."""
    return {"candidates": [{"content": {"parts": [{"functionCall": {"partialArgs": list(arguments)}}]}}]}


PLACE = {"output_index": 1, "content_index": 2, "item_id": "i"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"type": "response.output_text.delta", "delta": "a", **PLACE}, [("delta", CONTENT, "a")]),
        ({"type": "response.output_text.done", "text": "ab", **PLACE}, [("repeat", CONTENT, "ab")]),
        (
            {"type": "response.refusal.delta", "delta": "a", **PLACE},
            [("delta", ("output", 1, "content", 2, "refusal"), "a")],
        ),
        (
            {"type": "response.refusal.done", "refusal": "a", **PLACE},
            [("repeat", ("output", 1, "content", 2, "refusal"), "a")],
        ),
        (
            {"type": "response.function_call_arguments.delta", "delta": "{", **PLACE},
            [("delta", ("output", 1, "arguments"), "{")],
        ),
        (
            {"type": "response.mcp_call_arguments.done", "arguments": "{}", **PLACE},
            [("repeat", ("output", 1, "arguments"), "{}")],
        ),
        (
            {"type": "response.custom_tool_call_input.delta", "delta": "x", **PLACE},
            [("delta", ("output", 1, "input"), "x")],
        ),
        (
            {"type": "response.reasoning_summary_text.delta", "delta": "x", "output_index": 1, "summary_index": 4},
            [("delta", ("output", 1, "summary", 4, "text"), "x")],
        ),
        (
            {"type": "response.reasoning_summary_part.done", "summary_index": 4, "part": {"type": "t", "text": "x"}},
            [("repeat", ("output", 0, "summary", 4, "text"), "x")],
        ),
        (
            {"type": "response.content_part.done", "part": {"type": "output_text", "text": "ab"}, **PLACE},
            [("repeat", CONTENT, "ab")],
        ),
        (
            {
                "type": "response.output_item.done",
                "output_index": 1,
                "item": {"id": "i", "type": "message", "content": [{"text": "a", "annotations": [{"title": "t"}]}]},
            },
            [
                ("repeat", ("output", 1, "content", 0, "text"), "a"),
                ("repeat", ("output", 1, "content", 0, "annotations", 0, "title"), "t"),
            ],
        ),
        (
            {
                "type": "response.failed",
                "response": {
                    "id": "r",
                    "instructions": "the client's",
                    "tools": [{"name": "f"}],
                    "output": [{"arguments": "{}"}],
                    "error": {"message": "went wrong"},
                },
            },
            [("repeat", ("output", 0, "arguments"), "{}"), ("alone", ("error", "message"), "went wrong")],
        ),
        ({"type": "response.audio.delta", "delta": "AAAA"}, []),
        (
            {"type": "response.audio.transcript.delta", "delta": "hi"},
            [("delta", ("output", 0, "content", 0, "text"), "hi")],
        ),
        ({"type": "response.new_thing", "note": "hi", "item_id": "i"}, [("alone", ("note",), "hi")]),
    ],
)
def test_the_texts_of_responses_events(data: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    for item in (data, SimpleNamespace(**data), event(data)):
        assert pieces(item) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "usage": {"a": 1}}}, []),
        (
            {"type": "content_block_start", "index": 1, "content_block": {"type": "text", "text": "a"}},
            [("delta", ("content", 1, "text"), "a")],
        ),
        (
            {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f"}},
            [("delta", ("content", 1, "name"), "f")],
        ),
        (
            {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": "a"}},
            [("delta", ("content", 1, "text"), "a")],
        ),
        (
            {"type": "content_block_delta", "index": 1, "delta": {"type": "thinking_delta", "thinking": "a"}},
            [("delta", ("content", 1, "thinking"), "a")],
        ),
        (
            {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{"}},
            [("delta", ("content", 1, "partial_json"), "{")],
        ),
        ({"type": "content_block_delta", "index": 1, "delta": {"type": "signature_delta", "signature": "a"}}, []),
        (
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "citations_delta", "citation": {"type": "char_location", "cited_text": "a"}},
            },
            [("alone", ("content", 1, "citation", "cited_text"), "a")],
        ),
        ({"type": "content_block_stop", "index": 1}, []),
        (
            {"type": "message_delta", "delta": {"stop_reason": "stop_sequence", "stop_sequence": "END"}},
            [("delta", ("stop_sequence",), "END")],
        ),
        ({"type": "message_stop"}, []),
        ({"type": "ping"}, []),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "a"}},
            [("alone", ("error", "message"), "a")],
        ),
        (
            {"candidates": [{"index": 1, "content": {"role": "model", "parts": [{"text": "a"}]}}], "responseId": "x"},
            [("delta", ("candidates", 1, "content", "parts", 1, "text"), "a")],
        ),
        (
            {"candidates": [{"content": {"parts": [{"text": "a", "thought": True, "thoughtSignature": "x"}]}}]},
            [("delta", ("candidates", 0, "content", "parts", 0, "text"), "a")],
        ),
        (
            {"candidates": [{"content": {"parts": [{"functionCall": {"name": "f", "args": {"type": "a"}}}]}}]},
            [
                ("delta", ("candidates", 0, "content", "parts", 3002, "functionCall", "name"), "f"),
                ("delta", ("candidates", 0, "content", "parts", 3002, "functionCall", "partial_args"), '{"type":"a"}'),
            ],
        ),
        (
            in_parts({"jsonPath": "$.city", "stringValue": "Pa"}, {"jsonPath": "$.days", "numberValue": 3}),
            [
                ("delta", (*IN_PARTS, "$.city", "stringValue"), "Pa"),
                ("delta", (*IN_PARTS, "$.days", "numberValue"), "3"),
            ],
        ),
        (
            {"candidates": [{"groundingMetadata": {"webSearchQueries": ["a"]}, "finishReason": "STOP"}]},
            [("alone", ("candidates", 0, "groundingMetadata", "webSearchQueries", 0), "a")],
        ),
        ({"candidates": [{"content": {"parts": [{"inlineData": {"mimeType": "i", "data": "A" * 256}}]}}]}, []),
    ],
)
def test_the_texts_of_raw_events(data: dict[str, Any], expected: list[tuple[Any, ...]]) -> None:
    assert [piece for piece in pieces(event(data)) if piece[2] != "i"] == expected


@pytest.mark.parametrize(
    ("frame", "texts", "expected"),
    [
        (
            b'event: x\ndata: {"a": "b", "n": 1}\n\n',
            {("a",): "\u00e9"},
            'event: x\ndata: {"a":"\u00e9","n":1}\n\n'.encode(),
        ),
        (b'id: 1\r\ndata:{"a":\r\ndata: "b"}\r\n\r\n', {("a",): "c"}, b'id: 1\r\ndata: {"a":"c"}\r\n\r\n'),
        (b': note\ndata: {"a": "b"}', {("a",): "c"}, b': note\ndata: {"a":"c"}'),
        (b"data: plain\n\n", {(): "one\ntwo"}, b"data: one\ndata: two\n\n"),
        (b'{"error": {"message": "a"}}', {("error", "message"): "b"}, b'{"error":{"message":"b"}}'),
        (b'data: {"a": "\\ud83d"}\n\n', {}, b'data: {"a":"\\ud83d"}\n\n'),
    ],
)
def test_an_event_with_other_text(frame: bytes, texts: dict[Any, str], expected: bytes) -> None:
    assert Unit(frame, 1).with_texts(texts) == expected
    assert Unit(frame.decode(), 1).with_texts(texts) == expected.decode()


def test_an_item_is_never_changed() -> None:
    item = SimpleNamespace(
        choices=[SimpleNamespace(index=0, delta=SimpleNamespace(content="a"), logprobs={"content": [{"token": "a"}]})],
        extra={"list": [1, "x"]},
    )
    before = copy.deepcopy(item)
    other: Any = Unit(item, 1).with_texts({("choices", 0, "delta", "content"): "b"})
    assert item == before
    assert other.choices[0].delta.content == "b"
    assert other.choices[0].logprobs is None
    assert other.extra is item.extra


def test_log_probabilities_of_masked_text_are_left_out_wherever_they_are() -> None:
    data = {
        "type": "response.output_item.done",
        "item": {"content": [{"text": "a", "logprobs": [{"token": "a"}]}]},
    }
    assert Unit(data, 1).with_texts({("item", "content", 0, "text"): "b"}) == {
        "type": "response.output_item.done",
        "item": {"content": [{"text": "b", "logprobs": []}]},
    }


def test_replacing_the_whole() -> None:
    assert replaced({"a": ("x", "y")}, {("a", 1): "z"}) == {"a": ["x", "z"]}
    assert replaced("a", {(): "b"}) == "b"


STREAM = b"".join(
    (
        event({"type": "message_start", "message": {"id": "m"}}),
        b": ping\n\n",
        event({"type": "content_block_delta", "delta": {"text": "Gr\u00fc\u00df \U0001f600 Gott"}}, "\r\n"),
        b'event: a\ndata: {"a":\ndata: "b"}\n\n',
        b"data: [DONE]\r\r",
        event({"type": "content_block_delta", "delta": {"text": "more\\n\\n"}}),
        b'data: {"type": "cut',
    )
)


def split(raw: bytes, sizes: random.Random, most: int) -> list[bytes]:
    """`raw` in parts of random sizes, empty ones among them."""
    parts, start = [], 0
    while start < len(raw):
        size = sizes.randint(0, most)
        parts.append(raw[start : start + size])
        start += size
    return parts


@pytest.mark.parametrize("seed", range(60))
def test_bytes_cut_anywhere_are_the_same_events(seed: int) -> None:
    sizes = random.Random(seed)
    whole = Units()
    expected = [unit.item for unit in (*whole.of(STREAM), *whole.rest())]
    units = Units()
    found = [unit.item for part in split(STREAM, sizes, sizes.choice((1, 2, 5, 40, 400))) for unit in units.of(part)]
    found += [unit.item for unit in units.rest()]
    assert found == expected
    assert b"".join(expected) == STREAM  # type: ignore[arg-type]
    assert len(expected) == 7


def test_what_was_not_ended_comes_before_an_item_of_another_kind() -> None:
    units = Units()
    assert [unit.item for unit in (*units.of(b"data: 1"), *units.of({"a": 1}))] == [b"data: 1", {"a": 1}]


def test_a_long_event_in_many_parts_takes_no_longer_than_its_length() -> None:
    units = Units()
    started = time.perf_counter()
    for _ in range(100_000):
        assert not list(units.of(b"abcdefghij"))
    assert len(list(units.of(b"\n\n"))) == 1
    assert time.perf_counter() - started < 5


def test_what_cannot_be_read_does_not_come_again_with_the_next_part(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Units._frame

    def failing(units: Units, raw: bytes) -> Unit:
        if b"broken" in raw:
            raise RecursionError
        return frame(units, raw)

    monkeypatch.setattr(Units, "_frame", failing)
    units = Units()
    with pytest.raises(RecursionError):
        list(units.of(b"data: broken\n\ndata: 1\n\ndata"))
    assert [unit.item for unit in units.of(b": 2\n\n")] == [b"data: 2\n\n"]


def in_field(value: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"field": value}}]}


def test_what_is_nested_deeply_is_read_as_json_text() -> None:
    (piece,) = Unit(in_field(nested({"a": "x", "logprobs": "y"}, times=1)), 1).pieces
    assert (piece.kind, piece.target[:4]) == ("delta", ("choices", 0, "message", "field"))
    assert len(piece.place) == len(piece.target) == 32
    assert json.loads(piece.text) == nested({"a": "x", "logprobs": "y"}, depth=404 - 32, times=1)
    assert Unit(in_field(nested(7)), 1).pieces == []
    assert Unit(in_field(nested({}, times=1)), 1).pieces == []


@pytest.mark.parametrize("holder", [lambda value: [value], lambda value: {"a": value}])
def test_what_is_nested_deeply_is_masked_and_stays_what_it_is(holder: Callable[[object], object]) -> None:
    def item(text: str) -> object:
        value: object = text
        for _ in range(40):
            value = holder(value)
        return in_field(value)

    unit = Unit(item("secret"), 1)
    (piece,) = unit.pieces
    assert unit.with_texts({piece.place: piece.text.replace("secret", "***")}) == item("***")
    for broken in ("", "***", '"***"', "7", '{"b": 1}' if piece.text.startswith("[") else "[1]"):
        with pytest.raises(UnmappableMask):
            unit.with_texts({piece.place: broken})
    assert "secret" not in str(unit.emptied())
    assert unit.item == item("secret")


def test_what_a_model_calls_a_tool_with_is_read_whatever_its_names() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": {"logprobs": {"t": "said"}}}}
    found = Unit({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "logprobs": {"t": "token"}}]}, 1)
    assert [piece.text for piece in found.pieces] == ["f", "said"]
