"""Items that go on with the text of the one before them are not read, and give what they would give if they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from akto_guardrails.stream_pattern import Pattern
from akto_guardrails.stream_pieces import Unit, Units, entry, replaced
from akto_guardrails.streaming import StreamedAnswer
from unit.json_values import KEYS, KINDS, SCALARS, TEXT, VALUES

Make = Callable[[str], Any]


def chat(text: str, **fields: object) -> dict[str, Any]:
    delta = {"content": text, "role": None, "tool_calls": None}
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": None}], **fields}


def chat_object(text: str) -> SimpleNamespace:
    delta = SimpleNamespace(content=text, role=None)
    return SimpleNamespace(id="c", choices=[SimpleNamespace(index=0, delta=delta, finish_reason=None)])


def tool(text: str) -> dict[str, Any]:
    call = {"index": 0, "id": None, "function": {"name": None, "arguments": text}}
    return {"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}


def anthropic(text: str) -> bytes:
    data = {"type": "content_block_delta", "index": 1, "delta": {"type": "text_delta", "text": text}}
    return f"event: content_block_delta\ndata: {json.dumps(data)}\n\n".encode()


def responses(text: str) -> dict[str, Any]:
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    padding = {"sequence_number": len(text), "obfuscation": text * 2, "logprobs": []}
    return {"type": "response.output_text.delta", "delta": text, **place, **padding}


def units_of(*items: Any) -> list[Unit]:
    units = Units()
    return [unit for item in items for unit in units.of(item)]


@pytest.mark.parametrize("make", [chat, chat_object, tool, anthropic, responses])
def test_text_that_goes_on_is_recognised(make: Make) -> None:
    units = units_of(make("a"), make("bc"), make(""), make("d"))
    assert [unit.goes_on for unit in units] == [False, True, True, True]
    assert [piece.text for unit in units for piece in unit.pieces] == ["a", "bc", "d"]
    assert units[3].pieces == Unit(make("d"), 4).pieces


def test_items_of_litellm_are_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    utils = pytest.importorskip("litellm.types.utils")
    openai = pytest.importorskip("litellm.types.llms.openai")

    def chunk(**delta: object) -> Any:
        choices = [utils.StreamingChoices(index=0, delta=utils.Delta(**delta))]
        return utils.ModelResponseStream(id="x", created=1, model="m", choices=choices)

    def call(text: str) -> Any:
        return chunk(tool_calls=[{"index": 0, "type": "function", "function": {"arguments": text}}])

    def event(text: str, number: int) -> Any:
        return openai.OutputTextDeltaEvent(
            type=openai.ResponsesAPIStreamEvents.OUTPUT_TEXT_DELTA,
            item_id="i",
            output_index=0,
            content_index=0,
            delta=text,
            sequence_number=number,
        )

    for first, second in (
        (chunk(content="a"), chunk(content="b")),
        (chunk(reasoning_content="a"), chunk(reasoning_content="b")),
        (call("a"), call("b")),
        (event("a", 1), event("b", 2)),
    ):
        units = units_of(first, second)
        assert units[1].goes_on
        assert units[1].pieces == Unit(second, 2).pieces != []
        assert not units_of(first, chunk(content="b", refusal="c"))[1].goes_on


@pytest.mark.parametrize(
    "other",
    [
        chat("b", id="d"),
        chat("b", citations=["http://x"]),
        chat("b", choices=[{"index": 1, "delta": {"content": "b", "role": None, "tool_calls": None}}]),
        chat("b", choices=[*chat("b")["choices"], {"index": 1, "delta": {"content": "more"}}]),
        chat("b", choices=[{**chat("b")["choices"][0], "finish_reason": "stop"}]),
        chat("b", usage={"total_tokens": 7}),
        chat("b", choices=({"index": 0, "delta": {"content": "b"}},)),
        {name: value for name, value in chat("b").items() if name != "id"},
        chat_object("b"),
        responses("b"),
        "b",
        None,
    ],
)
def test_an_item_with_anything_else_in_it_is_read(other: Any) -> None:
    assert not units_of(chat("a"), other)[-1].goes_on


@pytest.mark.parametrize("name", ["obfuscation", "sequence_number"])
@pytest.mark.parametrize("value", [{"hidden": "text"}, ["text"], 1.5, True])
def test_nothing_is_hidden_under_what_varies(name: str, value: object) -> None:
    assert not units_of(responses("a"), {**responses("b"), name: value})[1].goes_on


def test_an_item_with_more_than_one_text_says_nothing_of_the_next() -> None:
    assert not units_of(chat("a", notes=["x"]), chat("b", notes=["x"]))[1].goes_on


def test_text_that_nobody_can_read_stays_left_out() -> None:
    def audio(data: str) -> dict[str, Any]:
        return {"id": "c", "choices": [{"index": 0, "delta": {"audio": {"data": data}}}]}

    units = units_of(audio("spoken"), audio("A" * 300), audio("again"))
    assert [[piece.text for piece in unit.pieces] for unit in units] == [["spoken"], [], ["again"]]


def test_a_change_of_an_item_that_was_read_changes_no_pattern() -> None:
    first = chat("a", notes=[])
    pattern = Pattern.of(first, ("choices", 0, "delta", "content"))
    first["notes"].append("never read")
    assert pattern is not None
    assert pattern.text_in(chat("b", notes=[])) == "b"
    assert pattern.text_in(chat("b", notes=["never read"])) is None


def test_an_event_that_was_begun_comes_before_what_follows_it() -> None:
    answer = StreamedAnswer()
    for item in (chat("a"), b'data: {"choices":[{"index":0,"delta":{"content":"b"}}]}', chat("c")):
        answer.add(item)
    assert str(answer.texts["choices", 0, "message", "content"]) == "abc"


def test_parts_of_a_gemini_answer_stay_apart() -> None:
    def code(text: str) -> dict[str, Any]:
        return {"candidates": [{"content": {"parts": [{"executableCode": {"code": text}}]}}]}

    answer = StreamedAnswer()
    answer.add(code("a"))
    answer.add(code("b"))
    assert len(answer.texts) == 2


BASES = st.one_of(
    st.builds(chat, TEXT),
    st.builds(tool, TEXT),
    st.builds(responses, TEXT),
    st.builds(
        lambda kind, fields: {"type": kind, **fields}, KINDS, st.dictionaries(KEYS, SCALARS | VALUES, max_size=4)
    ),
    st.builds(lambda delta: {"choices": [{"index": 0, "delta": delta}]}, st.dictionaries(KEYS, SCALARS, max_size=3)),
    st.builds(
        lambda part: {"candidates": [{"content": {"parts": [part]}}]}, st.dictionaries(KEYS, SCALARS, max_size=2)
    ),
)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, child in children for inner in places_in(child, (*place, key)))]


@st.composite
def alike(draw: st.DrawFn) -> list[Any]:
    """Items each of which is the one before it with one thing changed, most often a text."""
    items = [draw(BASES)]
    for _ in range(draw(st.integers(1, 5))):
        pieces = Unit(items[-1], 1).pieces if isinstance(items[-1], dict) else []
        if pieces and draw(st.integers(0, 3)):
            place, change = draw(st.sampled_from(pieces)).place, draw(TEXT)
        else:
            place, change = draw(st.sampled_from(places_in(items[-1]))), draw(VALUES)
        items.append(replaced(items[-1], {place: change}))
    return items


def without_numbers(value: Any) -> Any:
    """`value` without numbers that equal an integer and are none: they count as one in a pattern."""
    if isinstance(value, dict):
        return {key: without_numbers(child) for key, child in value.items()}
    if isinstance(value, list):
        return [without_numbers(child) for child in value]
    return str(value) if isinstance(value, (bool, float)) else value


@given(alike(), st.booleans())
def test_what_is_recognised_gives_what_it_gives_when_it_is_read(items: list[Any], are_events: bool) -> None:
    items = [without_numbers(item) for item in items]
    if are_events:
        items = [b"data: %s\n\n" % json.dumps(item).encode() for item in items]
    answer, guarded, read = StreamedAnswer(), StreamedAnswer(), StreamedAnswer()
    for item in items:
        answer.add(item)
    for unit in units_of(*items):
        guarded.note(unit)
    with mock.patch.object(Unit, "continued", lambda _: None):
        expected = units_of(*items)
        for item in items:
            read.add(item)
    assert [unit.pieces for unit in units_of(*items)] == [unit.pieces for unit in expected]
    for other in (answer, guarded):
        assert {target: str(text) for target, text in other.texts.items()} == {
            target: str(text) for target, text in read.texts.items()
        }
        assert (other.facts, other.alone) == (read.facts, read.alone)
    assert answer.body() == read.body()
    assert all(entry(unit.data, "candidates") is None for unit in units_of(*items) if unit.goes_on)
