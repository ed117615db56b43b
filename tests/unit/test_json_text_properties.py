"""Whatever there is to be said in JSON is said in JSON that everybody reads, and measured as the service does."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from akto_guardrails.json_text import common_head, json_bytes, json_length, json_text
from mock_akto.limits import utf16_length
from unit.json_values import ANY_TEXT, ANYTHING, KEYS, SCALARS, VALUES


def strict(text: str | bytes) -> Any:
    """The JSON in `text`; names of numbers that JSON has not, which others refuse, are none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(text, parse_constant=refuse)


def expected(value: Any) -> Any:
    """`value` as JSON can say it."""
    if isinstance(value, dict):
        return {key: expected(child) for key, child in value.items()}
    if isinstance(value, list):
        return [expected(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(ANYTHING)
@example([math.nan, "\ud800"])
@example([math.inf, 2**64])
@example([[-math.inf, 10**400]])
def test_it_reads_as_what_was_said(value: Any) -> None:
    assert strict(json_bytes(value)) == expected(value) == strict(json_text(value))


class Unknown:
    """An object JSON has no form for."""

    def __str__(self) -> str:
        return "an unknown object"


OBJECTS_OF_PYTHON = st.binary(max_size=5) | st.tuples(VALUES, VALUES) | st.builds(Unknown) | st.just({"a", "b"})
NAMES_OF_PYTHON = KEYS | st.integers() | st.tuples(ANY_TEXT) | st.binary(max_size=3) | st.none() | st.booleans()


@given(
    st.recursive(
        SCALARS | OBJECTS_OF_PYTHON,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES_OF_PYTHON, inner, max_size=3),
        max_leaves=10,
    )
)
@example({("a", "tuple"): "text"})
@example({b"bytes": "text", 1: math.nan})
def test_objects_of_python_are_said_somehow(value: Any) -> None:
    strict(json_bytes(value))


@given(ANY_TEXT)
def test_length_is_in_utf_16_units(text: str) -> None:
    assert json_length(text) == utf16_length(text)


@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_the_common_head_is_as_long_as_can_be(head: str, one: str, other: str) -> None:
    length = common_head(head + one, head + other)
    assert (head + one)[:length] == (head + other)[:length]
    assert length >= len(head)
    assert length in (len(head + one), len(head + other)) or (head + one)[length] != (head + other)[length]
