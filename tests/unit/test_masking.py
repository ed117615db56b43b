"""Putting Akto's masks back into the request."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from akto_guardrails.content import content_of
from akto_guardrails.masking import UnmappableMask, apply_mask, masked_strings
from unit.samples import CARD, MASKED_CARD

SYSTEM = "You are a shop assistant."
PLACE = ("messages", 1, "content")


def request(**entries: Any) -> dict[str, Any]:
    """A chat request with a card number in it."""
    return {
        "model": "gpt-4o-mini",
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": CARD}],
        "stream": False,
        **entries,
    }


def masked(**entries: Any) -> dict[str, Any]:
    """The same content with the card number masked."""
    return request(**entries) | {
        "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": MASKED_CARD}]
    }


@pytest.mark.parametrize(
    "returned",
    [
        json.dumps({"body": masked()}),
        json.dumps({"body": json.dumps(masked())}),
        json.dumps(masked()),
        json.dumps({"body": masked()}, sort_keys=True, indent=2),
        json.dumps({"body": masked()}).replace("<", "\\u003c").replace(">", "\\u003e"),
    ],
)
def test_the_changed_string_is_found_in_every_form_a_payload_comes_in(returned: str) -> None:
    assert masked_strings(request(), returned) == {PLACE: MASKED_CARD}


@pytest.mark.parametrize("returned", [json.dumps({"body": request()}), json.dumps(request(), sort_keys=True)])
def test_a_payload_that_only_echoes_the_request_changes_nothing(returned: str) -> None:
    assert masked_strings(request(), returned) == {}


def test_numbers_that_went_through_a_float_do_no_harm() -> None:
    content = request(response_format={"maximum": 1, "minimum": 2**60 + 1})
    returned = json.dumps({"body": masked(response_format={"maximum": 1.0, "minimum": float(2**60)})})
    assert masked_strings(content, returned) == {PLACE: MASKED_CARD}


@pytest.mark.parametrize(
    "body",
    [
        masked() | {"messages": []},
        {"messages": masked()["messages"]},
        masked(user="someone"),
        masked() | {"messages": [*masked()["messages"], {"role": "user", "content": "more"}]},
        masked() | {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": [MASKED_CARD]}]},
        masked() | {"messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": None}]},
    ],
)
def test_a_payload_with_other_fields_than_were_sent_cannot_be_mapped(body: dict[str, Any]) -> None:
    with pytest.raises(UnmappableMask):
        masked_strings(request(), json.dumps({"body": body}))


@pytest.mark.parametrize(
    ("entry", "changed"),
    [
        ({"model": "gpt-4o-mini"}, {"model": "<MODEL>"}),
        ({"tools": [{"type": "function"}]}, {"tools": [{"type": "<TYPE>"}]}),
        ({"input": [{"call_id": "123-45-6789"}]}, {"input": [{"call_id": "<SSN>"}]}),
    ],
)
def test_a_mask_never_touches_what_only_names_something(entry: dict[str, Any], changed: dict[str, Any]) -> None:
    with pytest.raises(UnmappableMask):
        masked_strings(request(**entry), json.dumps({"body": masked(**changed)}))


@pytest.mark.parametrize(
    "returned",
    ["", MASKED_CARD, "null", "[]", "7", '{"body": 7}', '{"body": "text"}', '{"body": null}', '{"body": []}'],
)
def test_what_is_no_request_at_all_cannot_be_mapped(returned: str) -> None:
    with pytest.raises(UnmappableMask):
        masked_strings(request(), returned)


@pytest.mark.parametrize("returned", [MASKED_CARD, json.dumps({"body": {"text": "Another card"}}), '{"body": "4111"}'])
def test_the_error_carries_no_content(returned: str) -> None:
    with pytest.raises(UnmappableMask) as caught:
        masked_strings(request(), returned)
    assert "card" not in str(caught.value).lower()
    assert "4111" not in str(caught.value)


class TestExtractedText:
    """Endpoints with a guardrail schema, for which the service returns text in place of the request."""

    CONTENT = {  # noqa: RUF012 - never changed
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "an earlier turn"},
            {"role": "user", "content": [{"type": "text", "text": "line one"}, {"type": "text", "text": "line two"}]},
            {"role": "assistant", "content": "an answer"},
        ]
    }

    def test_the_newest_user_turn_as_it_was_sent_masks_nothing(self) -> None:
        assert masked_strings(self.CONTENT, json.dumps({"text": "line one\nline two"})) == {}
        assert masked_strings({"messages": [{"role": "user", "content": "a\nb"}]}, json.dumps({"text": "a\nb"})) == {}

    @pytest.mark.parametrize("text", ["", "line one\n<MASKED>", "line one", "line one\nline two\n", "<MASKED>"])
    def test_a_text_that_was_masked_cannot_be_mapped(self, text: str) -> None:
        with pytest.raises(UnmappableMask):
            masked_strings(self.CONTENT, json.dumps({"text": text}))

    @pytest.mark.parametrize("decoy", [SYSTEM, "an earlier turn", "an answer", "user"])
    def test_another_string_of_the_request_is_no_proof_that_nothing_was_masked(self, decoy: str) -> None:
        with pytest.raises(UnmappableMask):
            masked_strings(self.CONTENT, json.dumps({"text": decoy}))

    def test_without_a_user_turn_no_text_is_that_of_one(self) -> None:
        with pytest.raises(UnmappableMask):
            masked_strings({"messages": [{"role": "system", "content": SYSTEM}]}, json.dumps({"text": SYSTEM}))


def test_a_mask_changes_its_string_and_nothing_else() -> None:
    data = request(temperature=0.2, metadata={"user": CARD}, tool_choice="auto", max_tokens=5)
    expected = copy.deepcopy(data)
    expected["messages"][1]["content"] = MASKED_CARD
    messages = data["messages"]
    content = content_of(data)
    assert content is not None
    apply_mask(data, content, {PLACE: MASKED_CARD})
    assert data == expected
    assert data["messages"] is messages


def test_masks_reach_every_depth() -> None:
    data = {
        "prompt": ["a", "b"],
        "messages": [{"content": [{"text": "c"}], "tool_calls": [{"function": {"arguments": '{"card":"4111"}'}}]}],
    }
    content = content_of(data)
    assert content is not None
    changes = {
        ("prompt", 1): "B",
        ("messages", 0, "content", 0, "text"): "C",
        ("messages", 0, "tool_calls", 0, "function", "arguments"): '{"card":"<CARD>"}',
    }
    apply_mask(data, content, changes)
    assert data == {
        "prompt": ["a", "B"],
        "messages": [{"content": [{"text": "C"}], "tool_calls": [{"function": {"arguments": '{"card":"<CARD>"}'}}]}],
    }


def test_text_beside_media_that_was_left_out_can_be_masked() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
    data = {"messages": [{"role": "user", "content": [image, {"type": "text", "text": CARD}]}]}
    content = content_of(data)
    assert content is not None
    apply_mask(data, content, {("messages", 0, "content", 1, "text"): MASKED_CARD})
    assert data["messages"][0]["content"] == [image, {"type": "text", "text": MASKED_CARD}]


def test_media_that_was_left_out_is_never_replaced() -> None:
    data = {"messages": [{"content": [{"type": "image", "source": {"media_type": "image/png", "data": "A" * 400}}]}]}
    before = copy.deepcopy(data)
    content = content_of(data)
    assert content is not None
    with pytest.raises(UnmappableMask):
        apply_mask(data, content, {("messages", 0, "content", 0, "source", "data"): "<MASKED>"})
    assert data == before


@pytest.mark.parametrize(
    "now",
    [
        {"messages": [{"content": "a"}, {"content": "changed since"}]},
        {"messages": [{"content": "a"}]},
        {"messages": [{"content": "a"}, {"content": {"text": "b"}}]},
        {"messages": "b"},
        {},
    ],
)
def test_either_all_masks_are_applied_or_none(now: dict[str, Any]) -> None:
    sent = {"messages": [{"content": "a"}, {"content": "b"}]}
    before = copy.deepcopy(now)
    with pytest.raises(UnmappableMask):
        apply_mask(now, sent, {("messages", 0, "content"): "A", ("messages", 1, "content"): "B"})
    assert now == before


def test_text_in_something_that_cannot_be_written_to_is_not_masked() -> None:
    data = {"messages": [{"content": ("a", "b")}]}
    with pytest.raises(UnmappableMask):
        apply_mask(data, copy.deepcopy(data), {("messages", 0, "content", 0): "A"})
