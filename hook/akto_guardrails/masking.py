"""Puts Akto's masks back into the original request, string by string.

The service returns the whole payload it was sent, re-serialised, with some text replaced. Only changed strings are
taken over, each to the place it came from: everything Akto was not sent (sampling parameters, metadata, ids) and
everything that only names things stays as the client wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from akto_guardrails.content import Path, is_naming, newest_user_text, string_leaves


class UnmappableMask(Exception):
    """The service masked something, but where that belongs in the request cannot be told. Never carries content."""


def masked_strings(content: Mapping[str, object], returned: str) -> dict[Path, str]:
    """The strings of `content` that the payload text `returned` changes, by their place; empty when none is.

    `content` is what was sent as `body`. Raises `UnmappableMask`.
    """
    body = _body_of(returned)
    sent = string_leaves(content)
    if _is_extracted_text(body):
        # Any other string of the request may be a decoy that reads like the masked form of the one that was masked.
        if body["text"] == newest_user_text(content):
            return {}
        raise UnmappableMask("the service returned extracted text in place of the request")
    masked = string_leaves(body)
    if masked.keys() != sent.keys():
        raise UnmappableMask("the masked request has other fields than the one sent")
    changes = {path: text for path, text in masked.items() if text != sent[path]}
    if any(is_naming(path) for path in changes):
        raise UnmappableMask("the mask changes a name or an id")
    return changes


def apply_mask(data: dict[str, Any], content: Mapping[str, object], changes: Mapping[Path, str]) -> None:
    """Writes `changes` into `data`, all of them or, when one has no place there, none.

    `content` is the part of `data` that was sent. Raises `UnmappableMask`.
    """
    sent = string_leaves(content)
    places = [(_container(data, path, sent[path]), path[-1], text) for path, text in changes.items()]
    for container, key, text in places:
        container[key] = text


def _container(data: dict[str, Any], path: Path, sent: str) -> Any:
    """The object or array in `data` that holds the string at `path`, which must still be the one that was sent."""
    container: Any = None
    value: Any = data
    try:
        for key in path:
            container, value = value, value[key]
    except (KeyError, IndexError, TypeError):
        value = None
    # Differs where base64 media was left out of what was sent, or where something else changed the request since.
    if value != sent or not isinstance(container, (dict, list)):
        raise UnmappableMask("the mask does not belong to text of this request")
    return container


def _body_of(returned: str) -> Mapping[str, Any]:
    """The body in a returned payload, which comes as `{"body": {...}}`, `{"body": "<json>"}` or bare."""
    payload = _parsed(returned)
    body = payload["body"] if isinstance(payload, dict) and "body" in payload else payload
    if isinstance(body, str):
        body = _parsed(body)
    if not isinstance(body, dict):
        raise UnmappableMask("the masked request is not a JSON object")
    return body


def _parsed(text: str) -> object:
    try:
        parsed: object = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise UnmappableMask("the masked request is not JSON") from error
    return parsed


def _is_extracted_text(body: Mapping[str, Any]) -> bool:
    """The form for endpoints with a guardrail schema or field mapping (protocol reference, 2.3)."""
    return body.keys() == {"text"} and isinstance(body["text"], str)
