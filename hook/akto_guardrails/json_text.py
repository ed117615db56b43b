"""JSON text the way Akto's service measures it."""

from __future__ import annotations

import json

import orjson


def json_text(value: object) -> str:
    """`value` as compact JSON with non-ASCII characters as they are: the service counts characters, not escapes.

    Objects JSON has no form for become their `str()`. Lone surrogates and integers above 64 bits, which orjson
    refuses, are written by the standard library. Raises `RecursionError` when `value` is nested too deeply.
    """
    try:
        return orjson.dumps(value, default=str).decode()
    except orjson.JSONEncodeError:
        return json.dumps(value, default=str, separators=(",", ":"))


def json_length(text: str) -> int:
    """Length of `text` in UTF-16 units, the unit of the service's limits."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2
