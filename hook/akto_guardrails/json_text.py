"""JSON text the way Akto's service measures it, and what two texts have in common."""

from __future__ import annotations

import json
import re
from typing import Final

import orjson

_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def json_bytes(value: object) -> bytes:
    """`value` as compact JSON with non-ASCII characters as they are: the service counts characters, not escapes.

    Objects JSON has no form for become their `str()`. Lone surrogates and integers above 64 bits, which orjson
    refuses, are written by the standard library. Raises `RecursionError` when `value` is nested too deeply.
    """
    try:
        return orjson.dumps(value, default=str)
    except orjson.JSONEncodeError:
        text = json.dumps(value, default=str, ensure_ascii=False, separators=(",", ":"))
        return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text).encode()


def json_text(value: object) -> str:
    """The same as text."""
    return json_bytes(value).decode()


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
