"""JSON text the way Akto's service measures it, and what two texts have in common."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_ENCODE: Final = json.JSONEncoder(default=str, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_bytes(value: object) -> bytes:
    """`value` as compact JSON with non-ASCII characters as they are: the service counts characters, not escapes.

    Objects JSON has no form for become their `str()`, numbers it has none for null. Lone surrogates and integers above
    64 bits, which orjson refuses, are written by the standard library. Raises `RecursionError` when `value` is nested
    too deeply.
    """
    try:
        return orjson.dumps(value, default=str)
    except orjson.JSONEncodeError:
        pass
    try:
        text = _ENCODE(value)
    except (TypeError, ValueError):
        text = _ENCODE(_plain(value))
    return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text).encode()


def _plain(value: object) -> object:
    """`value` with strings for keys, and null for numbers that are none, which others refuse to read."""
    if isinstance(value, (dict, Mapping)):
        return {key if isinstance(key, str) else str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: object) -> str:
    """The same as text."""
    return json_bytes(value).decode()


def parsed_json(text: str | bytes) -> Any:
    """What `text` says in JSON. Raises `ValueError` when that is nothing, or is nested too deeply."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        pass
    try:
        # Reads halves of surrogate pairs, and numbers of any size.
        return json.loads(text if isinstance(text, str) else text.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def json_length(text: str) -> int:
    """Length of `text` in UTF-16 units, the unit of the service's limits."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


def common_head(one: str, other: str) -> int:
    """How many characters two strings begin with alike; comparing halves is a lot faster than each character."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
