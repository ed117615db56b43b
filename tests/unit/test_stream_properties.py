"""Whatever a provider streams, in whatever pieces it comes: no text of it is lost, and none is changed unasked."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from akto_guardrails.content import string_leaves
from akto_guardrails.json_text import json_text
from akto_guardrails.stream_pieces import Unit, Units, parsed, replaced
from akto_guardrails.streaming import StreamedAnswer
from unit.json_values import ANY_TEXT, ANYTHING, KEYS, KINDS, TEXT, VALUES

# Left out on purpose: names, what nobody can read, and what repeats something that is checked.
LEFT_OUT = {
    *("id", "object", "created", "model", "type", "role", "status", "call_id", "item_id", "tool_call_id"),
    *("tool_use_id", "finish_reason", "stop_reason", "system_fingerprint", "service_tier", "finishReason"),
    *("modelVersion", "responseId", "category", "probability", "severity", "logprobs", "logprobsResult"),
    *("signature", "thoughtSignature", "thought_signature", "encrypted_content", "obfuscation"),
    *("b64_json", "partial_image_b64"),
    *("instructions", "tools", "tool_choice", "metadata", "text", "prompt", "input", "reasoning", "user"),
    *("safety_identifier", "prompt_cache_key"),
}

CHUNKS = st.fixed_dictionaries({"choices": st.lists(st.dictionaries(KEYS, VALUES), max_size=3) | VALUES})
ITEMS = st.one_of(
    ANYTHING,
    st.dictionaries(KEYS, VALUES, max_size=5),
    st.builds(
        lambda base, more: {**more, **base},
        st.one_of(
            CHUNKS,
            st.fixed_dictionaries({"type": KINDS}),
            st.fixed_dictionaries({"candidates": st.lists(st.fixed_dictionaries({"content": VALUES})) | VALUES}),
            st.fixed_dictionaries(
                {
                    "candidates": st.lists(
                        st.fixed_dictionaries({"content": st.fixed_dictionaries({"parts": VALUES})}), max_size=2
                    )
                }
            ),
        ),
        st.dictionaries(KEYS, VALUES, max_size=4),
    ),
)


def deep(value: Any) -> Any:
    """An item with `value` far down in it."""
    for _ in range(40):
        value = [value]
    return {"choices": [{"delta": {"field": value}}]}


def at(value: Any, place: tuple[Any, ...]) -> Any:
    """What stands at `place`."""
    for key in place:
        value = value[key]
    return value


@given(ITEMS | ANYTHING.map(deep), st.data())
@example({"candidates": [{"content": {"parts": {"a": "text"}}}]}, None)
@example({"choices": ["text"]}, None)
def test_every_text_of_an_item_is_one_of_its_pieces(item: Any, data: st.DataObject | None) -> None:
    unit = Unit(item, 1)
    if isinstance(item, str):
        return
    for piece in unit.pieces:
        assert as_text(at(item, piece.place)) == piece.text
    assert len({piece.place for piece in unit.pieces}) == len(unit.pieces)
    found = {text for piece in unit.pieces for text in string_leaves(at(item, piece.place)).values()}
    found |= {fact for _, fact in unit.facts if isinstance(fact, str)}
    assert {text for text in texts_outside(item) if text} <= found
    if data is not None and unit.pieces:
        piece = data.draw(st.sampled_from(unit.pieces))
        masked = in_place_of(at(item, piece.place), "<MASKED>")
        changed = unit.with_texts({piece.place: as_text(masked)})
        # Log probabilities go as a whole.
        assert "logprobs" in piece.place or at(changed, piece.place) == masked
        assert as_text(at(item, piece.place)) == piece.text


def in_place_of(value: Any, mask: str) -> Any:
    """`mask`, in an object or a list where one stands."""
    return {"masked": mask} if isinstance(value, dict) else [mask] if isinstance(value, list) else mask


def as_text(value: Any) -> str:
    """A string, or what a tool is called with or stands deep in an item, as a piece has it."""
    return value if isinstance(value, str) else json_text(value)


def texts_outside(value: Any) -> list[str]:
    """The strings under no name that may be left out, that no media are."""
    if isinstance(value, str):
        return [] if value == "A" * 300 else [value]
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [text for name, child in children if name not in LEFT_OUT for text in texts_outside(child)]


ENDS = st.sampled_from(["\n\n", "\r\n\r\n", "\r\r", "\n\r\n"])
EVENTS = st.builds(
    lambda name, data, end: f"{name}data: {data}{end}",
    st.sampled_from(["", "event: delta\n", ": ping\n\n", "id: 7\r\n"]),
    ITEMS.map(json.dumps) | st.just("[DONE]") | st.text(st.characters(exclude_characters="\r\n", codec="utf-8")),
    ENDS,
)


@given(st.lists(EVENTS, max_size=4).map("".join) | ANY_TEXT, st.lists(st.integers(0, 400), max_size=8), st.booleans())
def test_bytes_may_be_cut_anywhere(stream: str, cuts: list[int], is_text: bool) -> None:
    raw: Any = stream if is_text else stream.encode("utf-8", "surrogatepass")
    ends = sorted({0, len(raw), *(cut for cut in cuts if cut < len(raw))})
    whole, cut = Units(), Units()
    expected = [*whole.of(raw), *whole.rest()]
    units = [unit for begin, end in pairwise(ends) for unit in cut.of(raw[begin:end])]
    units += cut.rest()
    empty = b"" if not is_text else ""
    assert empty.join(unit.item for unit in units) == raw  # type: ignore[misc]
    assert [unit.pieces for unit in units] == [unit.pieces for unit in expected if unit.item]


def spoken(value: Any) -> Any:
    """`value` without log probabilities of tokens, which go when a text is masked."""
    if isinstance(value, dict):
        return {name: spoken(child) for name, child in value.items() if not name.startswith("logprobs")}
    if isinstance(value, list):
        return [spoken(child) for child in value]
    return value if isinstance(value, str) else None


@given(EVENTS, st.booleans(), TEXT)
@example("data: plain text\n\n", False, "\ud800")
def test_a_masked_event_is_an_event_that_says_the_rest(event: str, is_text: bool, mask: str) -> None:
    raw: Any = event if is_text else event.encode("utf-8", "surrogatepass")
    units = Units()
    for unit in [*units.of(raw), *units.rest()]:
        for piece in unit.pieces[:2]:
            masked = in_place_of(at(unit.data, piece.place), mask)
            changed = Unit(unit.with_texts({piece.place: as_text(masked)}), 1)
            # Log probabilities go as a whole.
            if piece.place and "logprobs" not in piece.place:
                assert spoken(at(changed.data, piece.place)) == spoken(masked)
                before = at(unit.data, piece.place)
                assert spoken(replaced(changed.data, {piece.place: before})) == spoken(unit.data)


@given(st.lists(ITEMS | EVENTS | st.binary(max_size=9), max_size=5))
@example([{"type": "message_delta", "content_block": "text"}])
@example([{"candidates": [{"index": []}]}])
@example([{"type": "message_delta", "delta": ["text"]}])
def test_any_stream_can_be_put_together(items: list[Any]) -> None:
    answer = StreamedAnswer()
    for item in items:
        answer.add(item)
    answer.body()


@given(st.binary() | TEXT | ANYTHING.map(json.dumps))
@example("[" * 100_000)
def test_what_is_no_json_is_none(payload: Any) -> None:
    parsed(payload)
