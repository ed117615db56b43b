"""What stands in the place of encrypted thoughts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from akto_guardrails.encrypted_content import not_encrypted, readable_items, with_heads

HEAD = "litellm_enc:bW9kZWw=;"
THOUGHTS = [{"type": "thinking", "thinking": "M\u00fcller has called"}]
WRITTEN = json.dumps(THOUGHTS)
# Deep enough to be read, and too deep to be written.
DEEP = "[" * 1_000 + "]" * 1_000
READABLE = json.dumps(THOUGHTS, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gAAAAABo", None),
        (f"{HEAD}gAAAAABo", None),
        ("", None),
        (WRITTEN, READABLE),
        (HEAD + WRITTEN, READABLE),
        ('{"a": "\\u00e9"}', '{"a":"\u00e9"}'),
        (f" {WRITTEN}", READABLE),
        ("[broken", "[broken"),
        (f"{HEAD}{'[' * 5_000}", "[" * 5_000),
        (DEEP, DEEP),
    ],
)
def test_text_is_told_from_what_is_encrypted(text: str, expected: str | None) -> None:
    assert not_encrypted(text) == expected


def answer(*contents: object) -> dict[str, Any]:
    return {"id": "resp_1", "output": [{"type": "reasoning", "encrypted_content": each} for each in contents]}


def test_only_what_can_be_read_is_put_in_another_form() -> None:
    body = answer("gAAAAABo", HEAD + WRITTEN, None, 1)
    before = json.dumps(body)
    assert readable_items(body) == answer("gAAAAABo", READABLE, None, 1)
    assert json.dumps(body) == before


@pytest.mark.parametrize("body", [answer("gAAAAABo"), {}, {"output": "text"}, {"output": [None, "text", {}]}])
def test_an_answer_without_any_is_left_as_it_is(body: dict[str, Any]) -> None:
    assert readable_items(body) is body


def test_a_masked_text_keeps_the_head_that_litellm_put_before_it() -> None:
    body = answer(HEAD + WRITTEN, WRITTEN, f"{HEAD}gAAAAABo")
    places = [("output", index, "encrypted_content") for index in range(3)]
    changes = {places[0]: "a", places[1]: "b", places[2]: f"{HEAD}c", ("id",): "d"}
    assert with_heads(body, changes) == {**changes, places[0]: f"{HEAD}a"}


def test_what_only_looks_like_an_item_keeps_its_mask_as_it_is() -> None:
    body = {"output": {"reasoning": {"encrypted_content": HEAD + WRITTEN}}}
    assert readable_items(body) is body
    changes = {("output", "reasoning", "encrypted_content"): "a"}
    assert with_heads(body, changes) == changes
