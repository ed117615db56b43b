"""Puts Akto's masks back into the original request, string by string.

The service returns the whole payload it was sent, re-serialised, with some text replaced. Only changed strings are
taken over, each to the place it came from: everything Akto was not sent (sampling parameters, metadata, ids) and
everything that only names things stays as the client wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import orjson

from akto_guardrails.content import CONVERSATION_KEYS, Path, is_naming, newest_user_string, spoken_text, string_leaves

_MASK_TOKEN: Final = re.compile(
    r"<[A-Z][A-Z0-9_ -]*>|\[[A-Z][A-Z0-9_ -]*\]|\{\{?[A-Z][A-Z0-9_ -]*\}\}?|\*{2,}|#{2,}|X{3,}"
)


class UnmappableMask(Exception):
    """The service masked something, but where that belongs in the request cannot be told. Never carries content."""


def masked_strings(content: Mapping[str, object], returned: str, *, bare: bool = False) -> dict[Path, str]:
    """The strings of `content` that the payload text `returned` changes, by their place; empty when none is.

    `content` is what was sent as `body`, or alone when `bare`. Raises `UnmappableMask`.
    """
    body = _body_of(returned, bare)
    sent = string_leaves(content)
    masked = string_leaves(body)
    if masked.keys() != sent.keys():
        if _is_extracted_text(body):
            return _masked_extract(content, sent, body["text"])
        raise UnmappableMask("the masked request has other fields than the one sent")
    changes = {path: text for path, text in masked.items() if text != sent[path]}
    if any(is_naming(path) for path in changes):
        raise UnmappableMask("the mask changes a name or an id")
    return changes


def _masked_extract(content: Mapping[str, object], sent: Mapping[Path, str], text: str) -> dict[Path, str]:
    """The change that a returned extract means: none when it reads like the text it was taken from.

    Applied only when it is the masked form of the newest user text. Which field the service extracted is not said, so
    no other string may be one that it could be the masked form of: what reads like it may be a decoy.
    """
    fitting = [path for path, each in sent.items() if not is_naming(path) and _is_masked_form(text, each)]
    place = newest_user_string(content)
    if sum(key in content for key in CONVERSATION_KEYS) <= 1:
        if not fitting and text == spoken_text(content):
            return {}
        if place is not None and fitting == [place] and text not in sent.values():
            return {place: text}
    raise UnmappableMask("the service returned extracted text in place of the request")


def _is_masked_form(masked: str, text: str) -> bool:
    """Whether `masked` is `text` with parts of it replaced by tokens such as `<EMAIL>` or `****`."""
    first, *others = _MASK_TOKEN.split(masked)
    if not others or not "".join((first, *others)).strip():
        return False
    if not text.startswith(first) or not text.endswith(others[-1]):
        return False
    position, end = len(first), len(text) - len(others[-1])
    for literal in others[:-1]:
        # Every token stands for at least one character.
        position = text.find(literal, position + 1, end)
        if position < 0:
            return False
        position += len(literal)
    return position < end


def apply_mask(data: dict[str, Any], content: Mapping[str, object], changes: Mapping[Path, str]) -> None:
    """Writes `changes` into `data`, all of them or, when one has no place there, none.

    `content` is the part of `data` that was sent. Raises `UnmappableMask`.
    """
    sent = string_leaves(content)
    places = [(_container(data, path, sent[path]), path[-1], text) for path, text in changes.items()]
    for container, key, text in places:
        container[key] = text


def without_summary(content: Mapping[str, Any], changes: Mapping[Path, str]) -> dict[Path, str]:
    """`changes` without the summary of the session that the service puts in front of the newest user text.

    It does so for bare payloads, followed by an empty line (protocol reference, 2.3 and 3.5).
    """
    place = newest_user_string(content)
    if place is None or place not in changes:
        return dict(changes)
    sent = string_leaves(content)[place]
    paragraphs = sent.count("\n\n") + 1
    text = "\n\n".join(changes[place].split("\n\n")[-paragraphs:])
    return {path: text if path == place else other for path, other in changes.items() if path != place or text != sent}


def apply_to_answer(answer: Any, changes: Mapping[Path, str]) -> None:
    """Writes `changes` into a model's answer, LiteLLM's object or plain data. Raises `UnmappableMask`."""
    for path, text in changes.items():
        try:
            *way, last = path
            holder: Any = answer
            for key in way:
                holder = _member(holder, key)
            _member(holder, last)
            if isinstance(holder, (dict, list)):
                holder[last] = text  # type: ignore[index]
            else:
                setattr(holder, str(last), text)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UnmappableMask("the mask does not belong to text of this answer") from error


def _member(holder: Any, key: Any) -> Any:
    return holder[key] if isinstance(holder, (dict, list)) else getattr(holder, str(key))


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


def _body_of(returned: str, bare: bool) -> Mapping[str, Any]:
    """The body in a returned payload, which comes as `{"body": {...}}`, `{"body": "<json>"}` or bare."""
    payload = _parsed(returned)
    body = payload["body"] if isinstance(payload, dict) and "body" in payload and not bare else payload
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
