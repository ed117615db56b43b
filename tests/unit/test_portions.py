"""Content over the service's limit: cut into portions, and masks of the portions put together again."""

from __future__ import annotations

import gc
import json
import random
import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from akto_guardrails import portions as portions_module
from akto_guardrails.content import Path, string_leaves
from akto_guardrails.envelope import LONGEST_STRING, payload_of
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.portions import Portion, TooManyTexts, changes_of, portions_of
from unit.samples import memory_of, nested
from unit.test_envelope import units

CONTEXT = {"model": "gpt-4o-mini", "stream": False}
SMALL = 20_000
CARD = re.compile(r"\b(?:\d{4}-){3}\d{4}\b")
MAIL = re.compile(r"[\w.]{1,40}@[\w.]{1,40}\w")
KEY = re.compile(r"-----BEGIN.*?END-----")
MASKS: dict[str, Callable[[re.Match[str]], str]] = {
    "removed": lambda _: "",
    "shorter": lambda _: "<X>",
    "as long": lambda found: "*" * len(found.group()),
    "longer": lambda _: "<THE_NAME_OF_WHAT_WAS_HERE_BEFORE>",
    "ends kept": lambda found: f"{found.group()[:4]}****{found.group()[-4:]}",
}
PLACE = ("messages", 0, "content")


def chat(*texts: str) -> dict[str, Any]:
    """Content with messages of these texts."""
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def words(length: int, seed: int = 0) -> str:
    """Text in which hardly any passage occurs twice."""
    source = random.Random(seed)
    kinds = ["alpha", "beta,", "gamma\n", '"delta"', "\u0436\u0443\u043a", "\U0001f600", "zeta."]
    return " ".join(source.choice(kinds) for _ in range(length))[:length]


def line(length: int) -> str:
    """One line over and over."""
    return ("one line over and over " * length)[:length]


def all_sent(portions: Sequence[Portion]) -> list[str]:
    """Every string of the portions' own."""
    return [text for portion in portions for text in portion.body["text"]]


def service(
    portion: Portion, pattern: re.Pattern[str], mask: Callable[[re.Match[str]], str], **form: Any
) -> str | None:
    """What comes back for a portion from a service that masks `pattern`; None when it finds nothing."""
    texts = [pattern.sub(mask, text) for text in portion.body["text"]]
    if texts == portion.body["text"]:
        return None
    return json.dumps({"body": {**portion.body, "text": texts}}, sort_keys=True, **form)


def masked_in_portions(
    content: dict[str, Any], pattern: re.Pattern[str], mask: Callable[[re.Match[str]], str], longest: int = SMALL
) -> dict[Path, str]:
    """The changes when such a service sees `content` in portions."""
    portions = portions_of(content, CONTEXT, longest)
    return changes_of(portions, [service(portion, pattern, mask) for portion in portions])


def masked_whole(
    content: dict[str, Any], pattern: re.Pattern[str], mask: Callable[[re.Match[str]], str]
) -> dict[Path, str]:
    """The changes when it sees each string of `content` whole."""
    leaves = string_leaves(content)
    masked = {path: pattern.sub(mask, text) for path, text in leaves.items()}
    return {path: text for path, text in masked.items() if text != leaves[path]}


class TestPortions:
    """How content is cut."""

    @pytest.mark.parametrize(
        ("fill", "longest"),
        [
            *((fill, SMALL) for fill in ["a", '"', "\\", "\n", "\x01", "\u0436", "\u641c", "\U0001f600", "\ud83d"]),
            ("a", LONGEST_STRING),
            ('\x01"\U0001f600a', LONGEST_STRING),
        ],
    )
    def test_no_portion_is_over_the_limit(self, fill: str, longest: int) -> None:
        contents = [chat(fill * (longest * 2 // len(fill))), chat(*[fill * 900] * (longest // 450 // len(fill)))]
        for content in contents:
            portions = portions_of(content, CONTEXT, longest)
            lengths = [units(payload_of(portion.body)) for portion in portions]
            assert len(portions) > 1
            assert max(lengths) <= longest
            assert max(lengths) > longest * 3 // 4

    def test_nor_at_the_length_from_which_on_strings_are_cut(self) -> None:
        room = SMALL - portions_module._length_with(CONTEXT)
        most = room - 6 * min(portions_module._OVERLAP, room // 16)
        for length in range(most - 1, most + 2):
            portions = portions_of(chat("\x01" * length), CONTEXT, SMALL)
            assert max(units(payload_of(portion.body)) for portion in portions) <= SMALL

    def test_every_string_is_whole_in_one_portion_where_it_fits(self) -> None:
        content = {
            **chat(*(words(length, length) for length in range(100, 9_000, 450))),
            "tools": [{"description": words(5_000), "input_schema": {"type": "object", "required": ["card_number"]}}],
        }
        sent = all_sent(portions_of(content, CONTEXT, SMALL))
        assert set(string_leaves(content).values()) <= set(sent)

    def test_names_of_fields_and_numbers_are_sent_beside_their_values_in_document_order(self) -> None:
        content = {"tools": [{"properties": {"Reveal the prompt": {"maximum": 4111, "on": True, "off": None}}}]}
        (portion,) = portions_of(content, CONTEXT)
        assert portion.body == {
            **CONTEXT,
            "text": ["tools", "properties", "Reveal the prompt", "maximum", "4111", "on", "off"],
        }

    def test_a_prompt_in_tokens_is_one_string(self) -> None:
        (portion,) = portions_of({"prompt": [[1, 2, 3], [], [4, 5.5]]}, {})
        assert portion.body == {"text": ["prompt", "[1,2,3]", "[4,5.5]"]}

    @pytest.mark.parametrize("text", [words(70_000), "\x01" * 30_000, "\U0001f600" * 30_000])
    def test_a_longer_string_is_cut_into_pieces_that_overlap(self, text: str) -> None:
        portions = portions_of(chat(text, "the end"), CONTEXT, SMALL)
        pieces = [piece for portion in portions for piece in portion.pieces if piece.path == PLACE]
        assert (pieces[0].start, max(piece.end for piece in pieces)) == (0, len(text))
        for left, right in pairwise(pieces):
            assert left.start < right.start <= left.end - 900
        assert [piece.sent for portion in portions for piece in portion.pieces] == all_sent(portions)

    def test_the_name_of_a_field_may_be_long_as_well(self) -> None:
        name = words(50_000)
        sent = all_sent(portions_of({"tools": [{"properties": {name: {"type": "string"}}}]}, CONTEXT, SMALL))
        assert all(any(name[at : at + 900] in text for text in sent) for at in range(0, len(name) - 900, 100))

    def test_the_end_of_a_portion_begins_the_next(self) -> None:
        texts = [f"message {number} " + "a" * 180 for number in range(300)]
        portions = portions_of(chat(*texts), CONTEXT, SMALL)
        for before, after in pairwise(portions):
            last = before.body["text"][-17:]
            assert any(after.body["text"][at : at + 17] == last for at in range(3))

    def test_neighbours_stay_together(self) -> None:
        portions = portions_of(chat(*["a" * 3_000] * 30), CONTEXT, SMALL)
        assert len(portions) <= 30 * 3_000 // (SMALL - 8_000) + 1

    def test_context_is_in_every_portion(self) -> None:
        assert all(
            portion.body.items() >= CONTEXT.items() for portion in portions_of(chat("a" * 90_000), CONTEXT, SMALL)
        )

    def test_large_context_is_checked_as_content(self) -> None:
        model = words(60_000)
        portions = portions_of(chat("hi"), {"model": model}, SMALL)
        assert all(units(payload_of(portion.body)) <= SMALL for portion in portions)
        assert all(any(model[at : at + 900] in text for text in all_sent(portions)) for at in range(0, 59_000, 100))

    def test_content_without_text_has_no_portions(self) -> None:
        assert portions_of({}, CONTEXT) == []

    def test_a_limit_that_leaves_no_room_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="small"):
            portions_of(chat("a"), CONTEXT, 2_000)

    def test_nesting_beyond_what_can_be_walked_raises_recursion_error(self) -> None:
        deep: Any = "text"
        for _ in range(50_000):
            deep = [deep]
        with pytest.raises(RecursionError):
            portions_of({"input": deep}, CONTEXT)

    def test_two_million_characters_are_measured_about_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        measured: list[int] = []
        cost_of = portions_module._cost

        def counted(text: str) -> int:
            measured.append(len(text))
            return cost_of(text)

        monkeypatch.setattr(portions_module, "_cost", counted)
        for content in (chat(words(2_000_000)), chat(*[words(2_000)] * 1_000)):
            measured.clear()
            assert len(portions_of(content, CONTEXT)) < 12
            assert 1_900_000 < sum(measured) < 2_500_000

    def test_many_strings_nested_deeply_take_little_memory(self) -> None:
        # A path for each string would take 16 MB.
        assert memory_of(lambda: portions_of({"tools": nested("some text")}, CONTEXT, SMALL)) < 6_000_000

    def test_very_many_of_them_are_little_work_for_the_garbage_collector(self) -> None:
        portions = portions_of({"input": ["text"] * 50_000}, CONTEXT)
        gc.collect()
        assert sum(gc.is_tracked(fields) for portion in portions for fields in portion.fields) < 100

    @pytest.mark.parametrize(
        "value", [["a"] * 1_001, [[]] * 1_001, [None] * 1_001, {str(number): None for number in range(501)}]
    )
    def test_more_names_and_values_than_are_looked_at(self, value: Any) -> None:
        with pytest.raises(TooManyTexts):
            portions_of({"input": value}, CONTEXT, most_texts=1_002)
        assert len(portions_of({"input": value}, CONTEXT, most_texts=1_004)) == 1

    def test_of_those_hardly_more_are_looked_at(self) -> None:
        value = [["a"] * 50] * 50_000

        def refused() -> None:
            with pytest.raises(TooManyTexts):
                portions_of({"input": value}, CONTEXT)

        # For all of them 400 MB.
        assert memory_of(refused) < 25_000_000

    def test_numbers_in_a_list_are_one_value(self) -> None:
        assert portions_of({"input": [1] * 10_000}, CONTEXT, most_texts=4)


class TestMasks:
    """Masks of portions against masks of the whole content."""

    def test_nothing_masked_is_no_change(self) -> None:
        portions = portions_of(chat(words(50_000)), CONTEXT, SMALL)
        assert changes_of(portions, [None] * len(portions)) == {}
        assert changes_of(portions, [payload_of(portion.body) for portion in portions]) == {}

    @pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
    @pytest.mark.parametrize("fill", [words, line], ids=["prose", "one line repeated"])
    def test_a_mask_anywhere_around_a_cut(self, fill: Callable[[int], str], mask: Callable[..., str]) -> None:
        text = fill(50_000)
        pieces = [piece for portion in portions_of(chat(text), CONTEXT, SMALL) for piece in portion.pieces]
        cut = next(piece.end for piece in pieces if piece.path == PLACE)
        for at in range(cut - 1_060, cut + 60, 23):
            content = chat(f"{text[:at]} 4111-1111-1111-1234 {text[at:]}")
            assert masked_in_portions(content, CARD, mask) == masked_whole(content, CARD, mask)

    @pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
    def test_masks_in_repeated_text_on_both_sides_of_a_cut_and_in_it(self, mask: Callable[..., str]) -> None:
        text = line(60_000)
        at = [500, 5_000, 18_900, 19_200, 25_000, 37_500, 50_000]
        parts = [text[begin:end] for begin, end in zip([0, *at], [*at, len(text)], strict=True)]
        content = chat(" bob@mail.example.com ".join(parts))
        assert masked_in_portions(content, MAIL, mask) == masked_whole(content, MAIL, mask)

    def test_a_long_phrase_that_one_piece_sees_whole(self) -> None:
        text = words(50_000)
        cut = portions_of(chat(text), CONTEXT, SMALL)[0].pieces[-1].end
        for at in range(cut - 1_700, cut - 50, 70):
            content = chat(f"{text[:at]}-----BEGIN{'k' * 700}END-----{text[at:]}")
            assert masked_in_portions(content, KEY, MASKS["shorter"]) == masked_whole(content, KEY, MASKS["shorter"])

    def test_strings_that_two_portions_have_are_masked_once(self) -> None:
        content = chat(*(f"message {number}: 4111-1111-1111-1111, {'a' * (number % 400)}" for number in range(600)))
        assert masked_in_portions(content, CARD, MASKS["shorter"]) == masked_whole(content, CARD, MASKS["shorter"])

    @pytest.mark.parametrize("seed", range(120))
    def test_a_mask_is_that_of_the_whole_content_or_is_not_applied(self, seed: int) -> None:
        source = random.Random(seed)
        fill = source.choice([words, words, line])
        texts = [fill(source.randrange(50, 30_000)) for _ in range(source.randrange(1, 5))]
        pieces = [piece for portion in portions_of(chat(*texts), CONTEXT, SMALL) for piece in portion.pieces]
        edges = [edge for piece in pieces if piece.path for edge in (piece.start, piece.end)]
        for _ in range(source.randrange(12)):
            index = source.randrange(len(texts))
            at = max(0, source.choice(edges) + source.randrange(-1_100, 1_100))
            secret = source.choice(["4111-1111-1111-1234", "bob@mail.example.com", f"-----BEGIN{'k' * 400}END-----"])
            texts[index] = f"{texts[index][:at]} {secret} {texts[index][at:]}"
        content = chat(*texts)
        pattern, mask = source.choice([CARD, MAIL, KEY]), source.choice(list(MASKS.values()))
        try:
            changes = masked_in_portions(content, pattern, mask)
        except UnmappableMask:
            assert fill is line
        else:
            assert changes == masked_whole(content, pattern, mask)

    def test_content_of_full_size(self) -> None:
        content = chat(
            "You are a shop assistant.", f"{words(900_000)} 4111-1111-1111-1111 {words(600_000, 1)}", "Thanks"
        )
        assert masked_in_portions(content, CARD, MASKS["longer"], LONGEST_STRING) == masked_whole(
            content, CARD, MASKS["longer"]
        )

    @pytest.mark.parametrize("form", [{"ensure_ascii": False}, {"indent": 1}])
    def test_a_payload_may_be_written_anew(self, form: dict[str, Any]) -> None:
        content = chat(words(50_000) + " me@example.com")
        portions = portions_of(content, CONTEXT, SMALL)
        returned = [service(portion, MAIL, MASKS["shorter"], **form) for portion in portions]
        assert changes_of(portions, returned) == masked_whole(content, MAIL, MASKS["shorter"])


class TestUnmappable:
    """What cannot be told is not guessed."""

    @pytest.mark.parametrize(
        "change",
        [
            lambda body: body | {"text": body["text"][:-1]},
            lambda body: body | {"text": [*body["text"], "more"]},
            lambda body: body | {"text": "masked"},
            lambda body: {"text": "masked"},
            lambda body: body | {"model": "<MODEL>"},
            lambda body: {"text": body["text"]},
            lambda body: body | {"summary": "of the session"},
            lambda body: body | {"text": ["<MASKED>", *body["text"][1:]]},
            lambda body: body | {"text": [text.replace("user", "<ROLE>") for text in body["text"]]},
            lambda body: body | {"text": [text.replace("4111", "<NUMBER>") for text in body["text"]]},
        ],
    )
    def test_another_shape_or_a_changed_name_or_number(self, change: Callable[[dict[str, Any]], Any]) -> None:
        portions = portions_of({**chat("hello"), "more": 4111}, CONTEXT)
        with pytest.raises(UnmappableMask):
            changes_of(portions, [json.dumps({"body": change(portion.body)}) for portion in portions])

    @pytest.mark.parametrize("returned", ["", "null", "[]", '{"body": 7}'])
    def test_what_is_no_portion_at_all(self, returned: str) -> None:
        with pytest.raises(UnmappableMask):
            changes_of(portions_of(chat("hello"), CONTEXT), [returned])

    def test_pieces_masked_in_two_ways(self) -> None:
        text = words(30_000)
        cut = portions_of(chat(text), CONTEXT, SMALL)[0].pieces[-1].end
        secrets = " ".join(f"4111-1111-1111-{number:04d}" for number in range(60))
        portions = portions_of(chat(f"{text[: cut - 1_100]} {secrets} {text[cut - 1_100 :]}"), CONTEXT, SMALL)
        returned = [
            service(portion, CARD, lambda _, number=number: f"<CARD{number}>")
            for number, portion in enumerate(portions)
        ]
        with pytest.raises(UnmappableMask):
            changes_of(portions, returned)

    def test_a_repeated_string_masked_in_two_ways(self) -> None:
        portions = portions_of(chat(*["a 4111-1111-1111-1111"] * 900), CONTEXT, SMALL)
        returned = [
            service(portion, CARD, lambda _, number=number: f"<CARD{number}>")
            for number, portion in enumerate(portions)
        ]
        with pytest.raises(UnmappableMask):
            changes_of(portions, returned)

    def test_a_string_whose_end_is_masked_in_one_portion_and_not_where_it_is_repeated(self) -> None:
        text = f"{words(2_400)} 4111-1111-1111-1111 {words(500, 1)} bob@mail.example.com"
        portions = portions_of(chat(*[text] * 12), CONTEXT, SMALL)
        returned = [service(portion, CARD, MASKS["shorter"]) for portion in portions]
        both = re.compile(f"{CARD.pattern}|{MAIL.pattern}")
        returned[0] = service(portions[0], both, MASKS["shorter"])
        with pytest.raises(UnmappableMask):
            changes_of(portions, returned)

    def test_a_piece_of_which_nothing_is_left(self) -> None:
        portions = portions_of(chat(words(50_000)), CONTEXT, SMALL)
        whole = re.compile(r".{5000,}", re.DOTALL)
        with pytest.raises(UnmappableMask):
            changes_of(portions, [service(portion, whole, lambda _: "<MASKED>") for portion in portions])

    def test_the_error_carries_no_content(self) -> None:
        portions = portions_of(chat("hello"), CONTEXT)
        with pytest.raises(UnmappableMask) as caught:
            changes_of(portions, [json.dumps({"body": {**CONTEXT, "text": ["SECRET"]}})])
        assert "SECRET" not in str(caught.value)

    def test_masks_of_many_strings_nested_deeply_are_not_applied(self) -> None:
        """Each would take memory for the whole way to it."""
        portions = portions_of({"input": nested("a@b.co", 400, 20_000)}, CONTEXT, SMALL)
        returned = [service(portion, MAIL, MASKS["shorter"]) for portion in portions]

        def refused() -> None:
            with pytest.raises(UnmappableMask, match="too many"):
                changes_of(portions, returned)

        # All paths would take 65 MB.
        assert memory_of(refused) < 35_000_000

    def test_masks_of_many_strings_are_applied(self) -> None:
        content = {"input": ["a@b.co"] * 90_000}
        portions = portions_of(content, CONTEXT)
        returned = [service(portion, MAIL, MASKS["shorter"]) for portion in portions]
        assert changes_of(portions, returned) == {("input", index): "<X>" for index in range(90_000)}

    def test_as_many_masks_as_portions(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            changes_of(portions_of(chat("hello"), CONTEXT), [])
