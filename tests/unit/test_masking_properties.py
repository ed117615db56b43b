"""What holds for every mask the service may send back, whatever was sent to it."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from akto_guardrails.content import Path, is_naming, newest_user_string, string_leaves
from akto_guardrails.envelope import payload_of
from akto_guardrails.masking import UnmappableMask, apply_mask, apply_to_answer, masked_strings, without_summary
from unit.json_values import ANY_TEXT, ANYTHING, OBJECTS, REQUESTS, TEXT, VALUES, strings_in

CONTENTS = REQUESTS | OBJECTS
CHAT = {"messages": [{"role": "user", "content": "hello"}]}


def as_float(value: Any) -> Any:
    """`value` with numbers as the service's own JSON library may write them."""
    if isinstance(value, dict):
        return {key: as_float(child) for key, child in value.items()}
    if isinstance(value, list):
        return [as_float(child) for child in value]
    is_number = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**300
    return float(value) if is_number else value


def escaped(text: str) -> str:
    """JSON text with the escapes of Go's library."""
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


FORMS = {
    "as it was": lambda payload: json.dumps(payload, ensure_ascii=False),
    "with other spaces and escapes": lambda payload: json.dumps(payload, indent=2),
    "in another order": lambda payload: json.dumps(payload, sort_keys=True),
    "with numbers as floats": lambda payload: json.dumps(as_float(payload)),
    "with Go's escapes": lambda payload: escaped(json.dumps(payload, ensure_ascii=False, separators=(",", ":"))),
}


@st.composite
def written(draw: st.DrawFn, content: Any, *, bare: bool) -> str:
    """A payload around `content` in one of the forms in which the service gives it back."""
    form = FORMS[draw(st.sampled_from(sorted(FORMS)))]
    if bare or ("body" not in content and draw(st.booleans())):
        return form(content)
    return form({"body": form(content) if draw(st.booleans()) else content})


def masked_or_none(content: Any, returned: str, *, bare: bool) -> dict[Path, str] | None:
    """The changes; None when they cannot be mapped."""
    try:
        return masked_strings(content, returned, bare=bare)
    except UnmappableMask:
        return None


@given(CONTENTS, TEXT | ANYTHING.map(json.dumps) | CONTENTS.map(lambda body: json.dumps({"body": body})), st.booleans())
@example({}, "[" * 100_000, False)
@example({}, "[" * 100_000 + "]" * 100_000, True)
@example({}, '{"a":' + "[" * 1_000 + '"text"' + "]" * 1_000 + "}", True)
def test_no_mask_raises_anything_else(content: Any, returned: str, bare: bool) -> None:
    changes = masked_or_none(content, returned, bare=bare)
    if changes:
        assert changes.keys() <= string_leaves(content).keys()


@given(CONTENTS, st.booleans(), st.data())
@example({"\ud800": "\udfff"}, False, None)
@example({"prompt": "hello", "seed": 10**400}, False, None)
def test_what_was_sent_changes_nothing(content: Any, bare: bool, data: st.DataObject | None) -> None:
    payload = payload_of(content, bare=bare)
    assert masked_strings(content, payload, bare=bare) == {}
    if data is not None:
        body = json.loads(payload) if bare else json.loads(payload)["body"]
        assert masked_strings(content, data.draw(written(body, bare=bare)), bare=bare) == {}


def put(value: Any, path: Path, text: str) -> None:
    """Puts `text` at `path`."""
    for key in path[:-1]:
        value = value[key]
    value[path[-1]] = text


@st.composite
def changes_in(draw: st.DrawFn, content: Any) -> dict[Path, str]:
    """Other texts for some strings of `content`."""
    leaves = string_leaves(content)
    assume(leaves)
    paths = draw(st.lists(st.sampled_from(list(leaves)), min_size=1, max_size=4, unique=True))
    changes = {path: draw(TEXT | ANY_TEXT) for path in paths}
    assume(all(changes[path] != leaves[path] for path in paths))
    return changes


@given(CONTENTS, st.booleans(), st.data())
def test_a_mask_changes_the_strings_it_names_and_nothing_else(content: Any, bare: bool, data: st.DataObject) -> None:
    changes = data.draw(changes_in(content))
    expected = copy.deepcopy(content)
    for path, text in changes.items():
        put(expected, path, text)
    returned = data.draw(written(json.loads(payload_of(expected, bare=True)), bare=bare))
    if any(is_naming(path) for path in changes):
        with pytest.raises(UnmappableMask):
            masked_strings(content, returned, bare=bare)
        return
    assert masked_strings(content, returned, bare=bare) == changes
    whole = {**copy.deepcopy(content), "temperature": 0.5}
    sent, objects = copy.deepcopy(content), [id(child) for child in whole.values()]
    for _ in range(2):
        apply_mask(whole, {key: whole[key] for key in content}, changes)
        assert payload_of(whole) == payload_of({**expected, "temperature": 0.5})
    assert [id(whole[key]) for key in whole if not isinstance(whole[key], str)] == [
        each for each, child in zip(objects, whole.values(), strict=True) if not isinstance(child, str)
    ]
    answer = {"answers": copy.deepcopy(content)}
    for _ in range(2):
        apply_to_answer(answer, {("answers", *path): text for path, text in changes.items()})
        assert payload_of(answer["answers"]) == payload_of(expected)
    # Applied to what is not what was sent, it changes nothing at all.
    other = copy.deepcopy(expected)
    with pytest.raises(UnmappableMask):
        apply_mask(other, sent, changes)
    assert payload_of(other) == payload_of(expected)


@given(CONTENTS, st.booleans(), st.data())
def test_a_mask_with_a_string_more_or_less_belongs_nowhere(content: Any, bare: bool, data: st.DataObject) -> None:
    other = json.loads(payload_of(content, bare=True))
    kind = data.draw(st.sampled_from(["more", "less", "moved"]))
    if kind == "more":
        holders = [other, *(child for child in other.values() if isinstance(child, (dict, list)))]
        holder = data.draw(st.sampled_from(holders))
        if isinstance(holder, dict):
            holder["x-more"] = data.draw(TEXT | st.just(["text"]))
        else:
            holder.append(data.draw(TEXT | st.just({"a": "text"})))
    else:
        leaves = string_leaves(other)
        assume(leaves)
        path = data.draw(st.sampled_from(list(leaves)))
        put(other, path, data.draw(st.sampled_from([None, 7, [], [leaves[path]], {"": leaves[path]}])))
    assume(not (other.keys() == {"text"} and isinstance(other["text"], str)))
    with pytest.raises(UnmappableMask):
        masked_strings(content, data.draw(written(other, bare=bare)), bare=bare)


@given(st.dictionaries(st.sampled_from(["messages", "prompt", "system", "text"]), VALUES), CONTENTS, VALUES)
def test_numbers_and_empty_things_are_no_part_of_a_mask(content: Any, more: Any, other: Any) -> None:
    assume(not strings_in(other))
    sent = {"more": other, "content": [content, None], **{key: value for key, value in more.items() if key != "body"}}
    returned = {**json.loads(payload_of(sent, bare=True)), "more": 7, "further": [other]}
    assert masked_strings(sent, json.dumps(returned)) == {}


@given(CONTENTS, TEXT | ANY_TEXT)
def test_extracted_text_changes_the_newest_user_text_or_nothing(content: Any, text: str) -> None:
    returned = json.dumps({"text": text})
    assume(string_leaves(content).keys() != {("text",)})
    changes = masked_or_none(content, returned, bare=True)
    assert not changes or changes == {newest_user_string(content): text}


WORDS = st.sampled_from(["call", "me", "at", "555-1234", "a\n\nb", ",", "now", "\u0436"])


@given(st.lists(WORDS, min_size=1), st.sampled_from(["<PHONE>", "****", "[PHONE NUMBER]", "{{PHONE}}"]))
def test_the_masked_form_of_the_only_text_is_understood(words: list[str], token: str) -> None:
    assume(set(words) - {"555-1234"})
    masked = " ".join(token if word == "555-1234" else word for word in words)
    content = {"messages": [{"role": "user", "content": " ".join(words)}]}
    changes = {("messages", 0, "content"): masked} if "555-1234" in words else {}
    assert masked_strings(content, json.dumps({"text": masked})) == changes


@given(CONTENTS, TEXT, st.data())
@example(CHAT, "summary", None)
def test_a_summary_is_no_change(content: Any, summary: str, data: st.DataObject | None) -> None:
    place = newest_user_string(content)
    changes: dict[Path, str] = {}
    if data is not None and string_leaves(content):
        changes = data.draw(changes_in(content))
        changes.pop(place or (), None)
    assert without_summary(content, changes) == changes
    if place is not None:
        text = string_leaves(content)[place]
        assert without_summary(content, {**changes, place: f"{summary}\n\n{text}"}) == changes


@given(CONTENTS, st.lists(TEXT | ANY_TEXT, min_size=1).map("\n\n".join), st.booleans(), st.integers(0, 9))
def test_a_mask_under_a_summary_is_kept(content: Any, text: str, is_prompt: bool, at: int) -> None:
    place: Path = ("prompt",) if is_prompt else ("messages", 0, "content")
    content = {name: value for name, value in content.items() if name != "prompt"}
    content |= {"prompt": text} if is_prompt else {"messages": [{"role": "user", "content": text}]}
    paragraphs = text.split("\n\n")
    paragraphs[at % len(paragraphs)] = "<MASKED>"
    masked = "\n\n".join(paragraphs)
    assert without_summary(content, {place: f"A summary.\n\n{masked}"}) == {place: masked}
    assert without_summary(content, {place: masked}) == {place: masked}


@given(ANYTHING, st.dictionaries(st.lists(st.integers(-1, 3) | TEXT, max_size=4).map(tuple), TEXT, max_size=3))
def test_a_mask_for_an_answer_without_its_place_raises_nothing_else(answer: Any, changes: dict[Path, str]) -> None:
    try:
        apply_to_answer(answer, changes)
    except UnmappableMask:
        pass
    else:
        for path, text in changes.items():
            holder: Any = answer
            for key in path:
                holder = holder[key]
            assert holder == text
