"""Putting Akto's masks back into the request."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from akto_guardrails import masking as masking_module
from akto_guardrails.content import Path, content_of
from akto_guardrails.masking import (
    UnmappableMask,
    apply_mask,
    apply_to_answer,
    masked_strings,
    unsay_logprobs,
    without_summary,
)
from unit.samples import CARD, MASKED_CARD, memory_of, nested

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

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            ({"messages": [{"role": "user", "content": CARD}]}, ("messages", 0, "content")),
            ({"messages": [{"role": "user", "content": "before"}, {"role": "user", "content": CARD}]}, PLACE),
            (
                {"messages": [{"role": "user", "content": CARD}, {"role": "assistant", "content": "answer"}]},
                ("messages", 0, "content"),
            ),
            ({"prompt": CARD}, ("prompt",)),
        ],
    )
    @pytest.mark.parametrize("returned", [{"text": MASKED_CARD}, {"body": {"text": MASKED_CARD}}])
    def test_the_masked_form_of_the_newest_user_text_is_put_in_its_place(
        self, content: dict[str, Any], place: Path, returned: dict[str, Any]
    ) -> None:
        assert masked_strings(content, json.dumps(returned)) == {place: MASKED_CARD}

    @pytest.mark.parametrize(
        ("sent", "masked"),
        [
            ("call 555-1234 now", "call **** now"),
            ("call 555-1234 now", "call XXX-XXXX now"),
            ("call 555-1234 now", "call [PHONE NUMBER] now"),
            ("call 555-1234 now", "call {{PHONE}} now"),
            ("call 555-1234 now", "call {PHONE} now"),
            ("call 555-1234 now", "call ### now"),
            ("555-1234 or 555-9876", "<PHONE> or <PHONE>"),
            ("call 555-1234", "call <PHONE>"),
            ("555-1234 is it", "<PHONE> is it"),
            ("5 or 6 now", "<PHONE> or <PHONE> now"),
        ],
    )
    def test_masks_come_as_tokens_of_many_kinds(self, sent: str, masked: str) -> None:
        content = {"messages": [{"role": "user", "content": sent}]}
        assert masked_strings(content, json.dumps({"text": masked})) == {("messages", 0, "content"): masked}

    @pytest.mark.parametrize(
        "text",
        [
            "My card is 4111-1111-1111-1111, keep it",
            "my card is <CREDIT_CARD>, refund me",
            "My card is <CREDIT_CARD>, refund me now",
            "My card is <credit card>, refund me",
            "My card is 4111-1111-1111-1111<TOKEN>, refund me",
            "<EVERYTHING>",
            "****",
            "refund me, My card is <CREDIT_CARD>",
            "My card is <A>, refund<B> me",
            "My <A> was <B>, refund me",
        ],
    )
    def test_other_text_is_no_masked_form_of_it(self, text: str) -> None:
        with pytest.raises(UnmappableMask):
            masked_strings({"messages": [{"role": "user", "content": CARD}]}, json.dumps({"text": text}))

    @pytest.mark.parametrize(
        "twin",
        [
            {"system": CARD},
            {"messages": [{"role": "user", "content": CARD}, {"role": "user", "content": CARD}]},
            {
                "messages": [
                    {"role": "user", "content": CARD.replace("4111", "4222")},
                    {"role": "user", "content": CARD},
                ]
            },
            {"input": CARD},
            {"documents": [{"text": CARD}]},
            {"prompt": CARD},
        ],
    )
    def test_text_that_could_be_the_masked_form_of_two_strings_belongs_to_none(self, twin: dict[str, Any]) -> None:
        content = {"messages": [{"role": "user", "content": CARD}], **twin}
        with pytest.raises(UnmappableMask):
            masked_strings(content, json.dumps({"text": MASKED_CARD}))

    @pytest.mark.parametrize(
        "content",
        [
            {"messages": [{"role": "user", "content": CARD}, {"role": "user", "content": "hi"}]},
            {"messages": [{"role": "user", "content": [{"type": "text", "text": CARD}]}]},
            {"messages": [{"role": "user", "content": "hi"}], "system": CARD},
            {"input": CARD},
        ],
    )
    def test_the_masked_form_of_another_string_alone_cannot_be_mapped(self, content: dict[str, Any]) -> None:
        with pytest.raises(UnmappableMask):
            masked_strings(content, json.dumps({"text": MASKED_CARD}))

    def test_the_name_of_a_thing_is_no_second_place(self) -> None:
        content = {"messages": [{"role": "user", "content": CARD, "id": CARD}]}
        assert masked_strings(content, json.dumps({"text": MASKED_CARD})) == {("messages", 0, "content"): MASKED_CARD}

    @pytest.mark.parametrize(
        "answer",
        [
            {"choices": [{"message": {"role": "assistant", "content": "line one"}}]},
            {"choices": [{"text": "line one"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "line one"}]},
        ],
    )
    def test_an_answer_as_it_was_sent_masks_nothing(self, answer: dict[str, Any]) -> None:
        assert masked_strings(answer, json.dumps({"text": "line one"})) == {}
        with pytest.raises(UnmappableMask):
            masked_strings(answer, json.dumps({"text": "line <MASKED>"}))

    @pytest.mark.parametrize("real", [{"input": CARD}, {"prompt": CARD}, {"contents": [{"parts": [{"text": CARD}]}]}])
    def test_a_decoy_that_reads_like_the_masked_form_does_not_hide_that_something_was_masked(
        self, real: dict[str, Any]
    ) -> None:
        content = {"messages": [{"role": "user", "content": MASKED_CARD}], **real}
        with pytest.raises(UnmappableMask):
            masked_strings(content, json.dumps({"text": MASKED_CARD}))

    def test_nor_does_one_in_the_newest_turn_of_the_same_conversation(self) -> None:
        content = {"messages": [{"role": "user", "content": CARD}, {"role": "user", "content": MASKED_CARD}]}
        with pytest.raises(UnmappableMask):
            masked_strings(content, json.dumps({"text": MASKED_CARD}))

    @pytest.mark.parametrize(
        ("real", "decoy"),
        [("input", "messages"), ("messages", "prompt"), ("contents", "prompt"), ("contents", "messages")],
    )
    def test_a_decoy_that_reads_like_the_parts_joined_is_not_masked_in_their_place(self, real: str, decoy: str) -> None:
        parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": CARD}]
        joined = f"hello\n{CARD}"
        content = {
            real: [{"role": "user", "parts" if real == "contents" else "content": parts}],
            decoy: joined if decoy == "prompt" else [{"role": "user", "content": joined}],
        }
        with pytest.raises(UnmappableMask):
            masked_strings(content, json.dumps({"text": f"hello\n{MASKED_CARD}"}))

    def test_a_text_that_could_be_of_many_strings_nested_deeply_takes_little_memory(self) -> None:
        content = {"messages": [{"role": "user", "content": "hi"}], "documents": nested("ab")}

        def refused() -> None:
            with pytest.raises(UnmappableMask, match="extracted text"):
                masked_strings(content, json.dumps({"text": "a**"}))

        # A path for each string would take 16 MB.
        assert memory_of(refused) < 1_000_000

    def test_a_request_that_consists_of_a_text_is_masked_as_any_other(self) -> None:
        assert masked_strings({"text": CARD}, json.dumps({"body": {"text": MASKED_CARD}})) == {("text",): MASKED_CARD}

    def test_an_entry_called_body_does_not_stand_for_a_bare_payload(self) -> None:
        sent = {
            "messages": [{"role": "user", "content": CARD}, {"role": "user", "content": "hi"}],
            "body": {"text": "hi"},
        }
        returned = json.dumps(sent).replace(CARD, MASKED_CARD)
        assert masked_strings(sent, returned, bare=True) == {("messages", 0, "content"): MASKED_CARD}


class TestWithoutSummary:
    """Bare payloads, into which the service puts a summary of the session."""

    @pytest.mark.parametrize(
        ("sent", "returned", "expected"),
        [
            ("hello", "Summary\n\nhello", None),
            ("hello", "Summary one\n\nSummary two\n\nhello", None),
            ("a\n\nb", "Summary\n\na\n\nb", None),
            (CARD, f"Summary\n\n{MASKED_CARD}", MASKED_CARD),
            (CARD, MASKED_CARD, MASKED_CARD),
            (f"a\n\n{CARD}", f"Summary\n\na\n\n{MASKED_CARD}", f"a\n\n{MASKED_CARD}"),
            (f"{CARD}\n\nb", f"{MASKED_CARD}\n\nb", f"{MASKED_CARD}\n\nb"),
            (f"{CARD}\n\nb", "<CREDIT_CARD>", "<CREDIT_CARD>"),
        ],
    )
    @pytest.mark.parametrize(
        ("content", "place"),
        [
            (lambda text: {"prompt": text}, ("prompt",)),
            (lambda text: {"messages": [{"role": "user", "content": text}]}, ("messages", 0, "content")),
        ],
    )
    def test_what_stands_before_the_newest_user_text_is_no_mask(
        self, content: Any, place: Path, sent: str, returned: str, expected: str | None
    ) -> None:
        changes = without_summary(content(sent), {place: returned})
        assert changes == ({} if expected is None else {place: expected})

    def test_masks_of_other_text_stay(self) -> None:
        content = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "system": CARD}
        changes: dict[Path, str] = {("system",): f"x\n\n{MASKED_CARD}", ("messages", 0, "content"): "x\n\n<A>"}
        assert without_summary(content, changes | {("messages", 1, "content"): "Summary\n\nb"}) == changes

    @pytest.mark.parametrize("content", [{"input": "a"}, {"messages": [{"role": "user", "content": [{"text": "a"}]}]}])
    def test_where_the_service_puts_no_summary_everything_stays(self, content: dict[str, Any]) -> None:
        changes: dict[Path, str] = {("input",): "x\n\na"}
        assert without_summary(content, changes) == changes


class TestAnswer:
    """Masks in an answer, which is LiteLLM's object or plain data."""

    def test_they_reach_plain_data_and_objects_alike(self) -> None:
        message = SimpleNamespace(content=CARD, role="assistant")
        answer = SimpleNamespace(choices=[SimpleNamespace(message=message)], usage={"note": [CARD]})
        apply_to_answer(answer, {("choices", 0, "message", "content"): MASKED_CARD, ("usage", "note", 0): MASKED_CARD})
        assert message == SimpleNamespace(content=MASKED_CARD, role="assistant")
        assert answer.usage == {"note": [MASKED_CARD]}

    def test_log_probabilities_do_not_say_what_was_masked(self) -> None:
        tokens = {"content": [{"token": "4111", "logprob": -0.1, "top_logprobs": []}]}
        call = {"type": "tool_use", "input": {"logprobs": "of the tool"}}
        parts = [{"type": "output_text", "text": CARD, "logprobs": [{"token": "4111"}]}, call]
        choice = SimpleNamespace(message=SimpleNamespace(content=CARD), logprobs=tokens)
        found = [{"attributes": {"logprobs": "of a search"}}]
        message = {"type": "message", "content": parts}
        answer = SimpleNamespace(choices=[choice], output=[message, {"type": "mcp_call", "content": parts}], data=found)
        unsay_logprobs(answer)
        assert (answer.choices[0].logprobs, parts[0]["logprobs"]) == (None, [])
        assert call["input"] == {"logprobs": "of the tool"}
        assert (answer.choices[0].message.content, parts[0]["text"]) == (CARD, CARD)
        assert found == [{"attributes": {"logprobs": "of a search"}}]

    def test_they_reach_a_list_of_answers(self) -> None:
        answers = [{"text": "one"}, {"text": CARD}]
        apply_to_answer(answers, {(1, "text"): MASKED_CARD})
        assert answers == [{"text": "one"}, {"text": MASKED_CARD}]

    @pytest.mark.parametrize(
        ("answer", "path"),
        [
            ({"choices": []}, ("choices", 0, "text")),
            ({"choices": [{}]}, ("choices", 0, "text")),
            (SimpleNamespace(choices=[]), ("answers", 0)),
            (SimpleNamespace(text="a"), ("other",)),
            ({"choices": "text"}, ("choices", "text")),
            ([], ("choices",)),
            ({}, ()),
            (None, ("text",)),
            ((CARD,), (0,)),
        ],
    )
    def test_a_mask_without_a_place_is_reported_and_adds_nothing(self, answer: Any, path: Path) -> None:
        before = copy.deepcopy(answer)
        with pytest.raises(UnmappableMask):
            apply_to_answer(answer, {path: MASKED_CARD})
        assert answer == before

    def test_an_answer_that_does_not_take_the_text_is_reported(self) -> None:
        class Strict:
            text = CARD

            def __setattr__(self, name: str, value: object) -> None:
                raise ValueError("secret-answer")

        with pytest.raises(UnmappableMask) as caught:
            apply_to_answer(Strict(), {("text",): MASKED_CARD})
        assert "secret" not in str(caught.value)


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


def test_many_strings_nested_deeply_take_little_memory() -> None:
    content = {"tools": nested("text"), "prompt": CARD}
    masked = {"tools": nested("text"), "prompt": MASKED_CARD}
    # A path for each string would take 16 MB.
    assert memory_of(lambda: masked_strings(content, json.dumps(masked))) < 4_000_000
    assert memory_of(lambda: apply_mask(content, content, {("prompt",): MASKED_CARD})) < 1_000_000
    assert content == masked


def test_masks_of_many_strings_nested_deeply_are_not_applied() -> None:
    """Each would take memory for the whole way to it."""
    deep, changed = ({"messages": nested(text, 300, 20_000)} for text in ("a@b.co", "<EMAIL>"))
    with pytest.raises(UnmappableMask, match="too many"):
        masked_strings(deep, json.dumps({"body": changed}))
    flat = masked_strings({"input": ["a@b.co"] * 200_000}, json.dumps({"body": {"input": ["<EMAIL>"] * 200_000}}))
    assert len(flat) == 200_000


class Literals(list[str]):
    """Counts what is looked at."""

    looked_at = 0

    def __getitem__(self, index: Any) -> Any:
        self.looked_at += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[str]:
        for each in super().__iter__():
            self.looked_at += 1
            yield each


def test_of_a_string_that_is_none_of_its_masked_forms_little_is_looked_at() -> None:
    literals = Literals(["a", *"b" * 50_000, "c"])
    assert not masking_module._is_masked_form(literals, "no")
    assert literals.looked_at < 9


def test_content_nested_too_deeply_for_a_mask_cannot_be_mapped() -> None:
    with pytest.raises(UnmappableMask):
        masked_strings({"tools": nested("text", 5_000, 1)}, json.dumps({"tools": nested("text", 900, 1)}))


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\U0001f600"])
def test_strings_that_not_every_reader_of_json_takes_are_no_change(text: str) -> None:
    content = request(documents=[{text: text}], seed=10**400)
    assert masked_strings(content, json.dumps({"body": content})) == {}
    assert masked_strings(content, json.dumps({"body": masked(documents=[{text: text}])})) == {PLACE: MASKED_CARD}
