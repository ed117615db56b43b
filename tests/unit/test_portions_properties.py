"""Content in portions: nothing of it is lost, and a mask means the same as for the whole."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from akto_guardrails.content import Path, string_leaves
from akto_guardrails.envelope import payload_of
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.portions import Portion, changes_of, portions_of
from mock_akto.limits import utf16_length
from unit.json_values import ANYTHING, REQUESTS, TEXT

# Little more than the least, so that little text makes many portions.
SMALL = 9_200
CONTEXTS = st.fixed_dictionaries({}, optional={"model": TEXT, "stream": st.booleans()})
# The same passage again and again, hardly any passage twice, or text that JSON writes in six characters each.
FILLS = st.sampled_from(["a", "ab ", "one line over and over ", "\x01", '"', "\u0436", "\U0001f600", "4111-", "*", ""])


@st.composite
def long_texts(draw: st.DrawFn, most: int = 14_000) -> str:
    """Text that may be longer than a portion."""
    fill = draw(FILLS)
    length = draw(st.integers(0, most))
    if not fill:
        return " ".join(f"w{number * 7919 % 10_007}" for number in range(length // 6))
    return (fill * (length // len(fill) + 1))[:length]


CONTENTS = st.lists(long_texts() | TEXT | ANYTHING, max_size=5).map(lambda texts: {"messages": texts}) | REQUESTS


@given(CONTENTS, CONTEXTS)
@example({"input": ["a" * 9_000], "\ud800" * 5_000: 10**400}, {})
@example({"input": [[float("nan")]], "a": {"b": True, "c": None}}, {"model": "m" * 9_000})
def test_every_string_name_and_number_is_in_some_portion(content: Any, context: Any) -> None:
    portions = portions_of(content, context, SMALL)
    for portion in portions:
        assert utf16_length(payload_of(portion.body)) <= SMALL
        assert [piece.sent for piece in portion.pieces] == portion.body["text"]
    pieces = [piece for portion in portions for piece in portion.pieces]
    for path, text in string_leaves(content).items():
        own = [(piece.start, piece.end) for piece in pieces if piece.path == path]
        assert all(piece.whole == text for piece in pieces if piece.path == path)
        assert own[0][0] == 0
        assert max(end for _, end in own) == len(text)
        assert all(right[0] <= left[1] for left, right in pairwise(own))
    unmaskable = {piece.whole for piece in pieces if piece.place is None}
    assert {str(name) for name in names_in(content)} <= unmaskable


def names_in(value: Any) -> list[Any]:
    """The names of all fields in a JSON value, and its numbers that do not stand in a list of numbers alone."""
    if isinstance(value, dict):
        return [each for name, child in value.items() for each in (name, *names_in(child))]
    if isinstance(value, list):
        is_of_numbers = {type(child) for child in value} <= {int, float}
        return [] if is_of_numbers else [name for child in value for name in names_in(child)]
    return [] if value is None or isinstance(value, (bool, str)) else [value]


CARD = re.compile(r"<\d{4}-\d{4}>")
SECRET = "<4111-1234>"
MASKS = st.sampled_from(["", "*", "<X>", "*" * len(SECRET), "<A_LONG_NAME_FOR_IT>", "one line over and over "])


def sent_back(portion: Portion, mask: str) -> str | None:
    """What comes back from a service that masks the card numbers in a portion."""
    texts = [CARD.sub(mask, text) for text in portion.body["text"]]
    return None if texts == portion.body["text"] else json.dumps({"body": {**portion.body, "text": texts}})


@st.composite
def secrets_within(draw: st.DrawFn) -> Any:
    """Content in which card numbers stand in some of the texts, at the ends of portions too."""
    texts = draw(st.lists(long_texts(20_000), min_size=1, max_size=4))
    pieces = [piece for portion in portions_of({"messages": texts}, {}, SMALL) for piece in portion.pieces]
    edges = [edge for piece in pieces if piece.path for edge in (piece.start, piece.end)] or [0]
    for _ in range(draw(st.integers(1, 6))):
        index = draw(st.integers(0, len(texts) - 1))
        at = max(0, draw(st.sampled_from(edges)) + draw(st.integers(-1_100, 1_100)))
        texts[index] = texts[index][:at] + SECRET + texts[index][at:]
    return {"messages": texts}


@given(secrets_within(), MASKS)
# Where masked text is gone, other text may read like what stood around it.
@example({"messages": ['"' * 2_039, SECRET + '"' * 2_016 + SECRET + '"' + SECRET + '"' * 837]}, "")
def test_a_mask_is_that_of_the_whole_or_is_not_applied(content: Any, mask: str) -> None:
    portions = portions_of(content, {}, SMALL)
    leaves = string_leaves(content)
    whole: dict[Path, str] = {path: CARD.sub(mask, text) for path, text in leaves.items() if CARD.search(text)}
    try:
        changes = changes_of(portions, [sent_back(portion, mask) for portion in portions])
    except UnmappableMask:
        assert any(piece.sent != piece.whole for portion in portions for piece in portion.pieces)
    else:
        assert changes == whole


@given(CONTENTS, CONTEXTS, st.booleans())
def test_what_was_sent_changes_nothing(content: Any, context: Any, is_masked: bool) -> None:
    portions = portions_of(content, context, SMALL)
    returned = [payload_of(portion.body) if is_masked else None for portion in portions]
    assert changes_of(portions, returned) == {}


@given(CONTENTS, st.lists(TEXT | ANYTHING.map(json.dumps), min_size=1, max_size=3))
def test_no_mask_raises_anything_else(content: Any, returned: list[str]) -> None:
    portions = portions_of(content, {}, SMALL)
    masks = [returned[index % len(returned)] for index in range(len(portions))]
    try:
        assert changes_of(portions, masks).keys() <= string_leaves(content).keys()
    except UnmappableMask:
        assert portions
