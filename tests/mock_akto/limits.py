"""What the service refuses before it looks at a call: the limits of its JSON reader, and wrong value types."""

from __future__ import annotations

import json
from typing import Any

LONGEST_STRING = 262_144
LONGEST_BODY = 2_097_152
# Fields that the built-in guardrail of LiteLLM sends and this version of the service does not read.
UNREAD = ("files", "akto_metadata")


class Refused(Exception):
    """The reader throws: HTTP 500 with the container's error page."""


def read_envelope(text: str) -> dict[str, str | None]:
    """The flat object in `text` as the service sees it: strings and nulls, numbers turned into strings."""
    if utf16_length(text) > LONGEST_BODY:
        raise Refused("body too long")
    try:
        body = json.loads(text)
    except ValueError as error:
        raise Refused("not JSON") from error
    if not isinstance(body, dict):
        raise Refused("not an object")
    return {name: _string(name, value) for name, value in body.items() if name not in UNREAD}


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _string(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise Refused(f"{name} is neither a string nor null")
    if utf16_length(str(value)) > LONGEST_STRING:
        raise Refused(f"{name} is too long")
    return str(value)
