"""Puts Akto's masks back into the original request, string by string.

The service returns the whole payload it was sent, re-serialised, with some text replaced. Only changed strings are
taken over, each to the place it came from: everything Akto was not sent (sampling parameters, metadata, ids) and
everything that only names things stays as the client wrote it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from akto_guardrails.content import (
    CONVERSATION_KEYS,
    MOST_STEPS,
    Path,
    is_naming,
    newest_user_string,
    path_of,
    placed_strings,
    spoken_text,
)
from akto_guardrails.json_text import parsed_json
from akto_guardrails.logprobs import logprobs_of

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
    changes: dict[Path, str] = {}
    try:
        if not _note_changes(content, body, [], changes):
            if _is_extracted_text(body):
                return _masked_extract(content, body["text"])
            raise UnmappableMask("the masked request has other fields than the one sent")
    except RecursionError:
        raise UnmappableMask("the request is nested too deeply") from None
    if any(is_naming(path) for path in changes):
        raise UnmappableMask("the mask changes a name or an id")
    return changes


def _note_changes(sent: object, got: object, way: list[str | int], changes: dict[Path, str]) -> bool:
    """Notes what `got` has in place of strings of `sent`, to which `way` leads.

    False unless both have strings in the same places; what is no string, nor holds one, does not count.
    """
    if isinstance(sent, str):
        if isinstance(got, str) and got != sent:
            if len(changes) * len(way) > MOST_STEPS:
                raise UnmappableMask("the mask changes too many strings that are nested too deeply")
            changes[tuple(way)] = got
        return isinstance(got, str)
    if isinstance(sent, (dict, Mapping)) and isinstance(got, dict):
        further = [child for key, child in got.items() if key not in sent]
        pairs: Iterable[tuple[Any, Any, Any]] = ((key, child, got.get(key)) for key, child in sent.items())
    elif isinstance(sent, (list, tuple)) and isinstance(got, list):
        further = got[len(sent) :]
        pairs = ((index, child, got[index] if index < len(got) else None) for index, child in enumerate(sent))
    else:
        return not _has_strings([sent, got])
    for key, child, other in pairs:
        way.append(key)
        if not _note_changes(child, other, way, changes):
            return False
        way.pop()
    return not _has_strings(further)


def _has_strings(value: object) -> bool:
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            return True
        if isinstance(each, (list, tuple)):
            rest.extend(each)
        elif isinstance(each, (dict, Mapping)):
            rest.extend(each.values())
    return False


def _masked_extract(content: Mapping[str, object], text: str) -> dict[Path, str]:
    """The change that a returned extract means: none when it reads like the text it was taken from.

    Applied only when it is the masked form of the newest user text. Which field the service extracted is not said, so
    no other string may be one that it could be the masked form of: what reads like it may be a decoy.
    """
    literals = _MASK_TOKEN.split(text)
    says_something = len(literals) > 1 and any(literal.strip() for literal in literals)
    fitting = (
        place
        for place, each in placed_strings(content)
        if place is not None and not is_naming(place[1:]) and says_something and _is_masked_form(literals, each)
    )
    # Two are as bad as any number.
    found = [path_of(place) for place in islice(fitting, 2)]
    newest = newest_user_string(content)
    if sum(key in content for key in CONVERSATION_KEYS) <= 1:
        if not found and text == spoken_text(content):
            return {}
        if newest is not None and found == [newest] and all(each != text for _, each in placed_strings(content)):
            return {newest: text}
    raise UnmappableMask("the service returned extracted text in place of the request")


def _is_masked_form(literals: Sequence[str], text: str) -> bool:
    """Whether `text`, with parts of it replaced by tokens such as `<EMAIL>` or `****`, has `literals` around those."""
    first, last = literals[0], literals[-1]
    if not text.startswith(first) or not text.endswith(last):
        return False
    position, end = len(first), len(text) - len(last)
    for literal in islice(literals, 1, len(literals) - 1):
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
    places = [(_container(data, path, _at(content, path)), path[-1], text) for path, text in changes.items()]
    for container, key, text in places:
        container[key] = text


def without_summary(content: Mapping[str, Any], changes: Mapping[Path, str]) -> dict[Path, str]:
    """`changes` without the summary of the session that the service puts in front of the newest user text.

    It does so for bare payloads, followed by an empty line (protocol reference, 2.3 and 3.5).
    """
    place = newest_user_string(content)
    if place is None or place not in changes:
        return dict(changes)
    sent = _at(content, place)
    paragraphs = sent.count("\n\n") + 1
    text = "\n\n".join(changes[place].split("\n\n")[-paragraphs:])
    return {path: text if path == place else other for path, other in changes.items() if path != place or text != sent}


def apply_to_answer(answer: Any, changes: Mapping[Path, str]) -> None:
    """Writes `changes` into a model's answer, LiteLLM's object or plain data. Raises `UnmappableMask`."""
    _write(answer, changes)


def unsay_logprobs(answer: Any) -> None:
    """Takes log probabilities out of an answer with masked text, which they would say. Raises `UnmappableMask`."""
    _write(answer, {path: [] if isinstance(value, list) else None for path, value in logprobs_of(answer)})


def _write(answer: Any, changes: Mapping[Path, object]) -> None:
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
    container = _at(data, path[:-1])
    # Differs where base64 media was left out of what was sent, or where something else changed the request since.
    if not isinstance(container, (dict, list)) or _at(container, path[-1:]) != sent:
        raise UnmappableMask("the mask does not belong to text of this request")
    return container


def _at(value: Any, path: Path) -> Any:
    """What stands at `path` in `value`."""
    try:
        for key in path:
            value = value[key]
    except (KeyError, IndexError, TypeError):
        raise UnmappableMask("the mask does not belong to text of this request") from None
    return value


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
        return parsed_json(text)
    except ValueError:
        raise UnmappableMask("the masked request is not JSON") from None


def _is_extracted_text(body: Mapping[str, Any]) -> bool:
    """The form for endpoints with a guardrail schema or field mapping (protocol reference, 2.3)."""
    return body.keys() == {"text"} and isinstance(body["text"], str)
