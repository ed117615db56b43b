"""What an attempt to call a model carries beyond what the request's check has seen.

LiteLLM puts text into a call after the request was checked: templates of prompts, search results, the messages of a
fallback. It also repeats checked text in other shapes: a request translated for another API, blocks of text joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import orjson

from akto_guardrails.content import entries_of, is_naming
from akto_guardrails.exchange import Exchange
from akto_guardrails.json_text import parsed_json

# Where LiteLLM puts text of its own making. What it adds elsewhere is the operator's: entries of a deployment's config.
_ADDED_TO: Final = (
    "messages",
    "system",
    "prompt",
    "input",
    "instructions",
    "contents",
    "systemInstruction",
    "system_instruction",
    "query",
    "documents",
)


def strings_of(value: object) -> frozenset[str]:
    """Every string in `value`, the names of entries among them, and every number as text."""
    found: set[str] = set()
    rest = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, str):
            found.add(each)
        elif isinstance(each, (dict, Mapping)):
            found.update(map(str, each))
            rest.extend(each.values())
        elif isinstance(each, (list, tuple)):
            rest.extend(each)
        elif isinstance(each, (int, float)) and not isinstance(each, bool):
            found.add(str(each))
    return frozenset(found)


def strings_seen(exchange: Exchange) -> frozenset[str]:
    """Every string, name and number that was checked for `exchange`; of masked text the masked form."""
    return strings_of(parsed_json(exchange.request_payload)) | exchange.further


def is_repeated(data: Mapping[str, Any], exchange: Exchange) -> bool:
    """Whether what makes up the prompt in `data` stands in the checked payload as it is, which is so most of the time.

    Told from the JSON of both, much faster than string by string. No text can pose as an entry of the payload: quotes
    inside of a string are escaped.
    """
    return all(_has_entry(exchange.request_payload, key, data[key]) for key in _ADDED_TO if data.get(key) is not None)


def _has_entry(payload: str, key: str, value: object) -> bool:
    try:
        written = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return False
    name = f'"{key}":'
    place = payload.find(name)
    while place >= 0 and not payload.startswith(written, place + len(name)):
        place = payload.find(name, place + 1)
    return place >= 0


def unseen_part(content: Mapping[str, Any], seen: frozenset[str]) -> dict[str, Any]:
    """The entries of `content` that make up a prompt and have a string in them that is not among those `seen`."""
    changed = {key: content[key] for key in _ADDED_TO if key in content and not strings_of(content[key]) <= seen}
    strings = _Seen(seen)
    return {key: value for key, value in changed.items() if any(not strings.has(text) for text in _texts(value, key))}


def _texts(value: object, key: str | int) -> Iterator[str]:
    """The strings in what stands under `key` that are more than a name."""
    rest = [(key, value)]
    while rest:
        name, each = rest.pop()
        if not isinstance(each, str):
            rest.extend(entries_of(each))
        elif each and not is_naming((name,)):
            yield each


class _Seen:
    def __init__(self, strings: frozenset[str]) -> None:
        self._strings = strings
        self._lines: frozenset[str] | None = None

    def has(self, text: str) -> bool:
        """Whether `text` is one of the strings, JSON of nothing but them, or made of their lines."""
        return text in self._strings or self._has_all_of_json(text) or self._has_all_lines(text)

    def _has_all_of_json(self, text: str) -> bool:
        if not text.startswith(("{", "[")):
            return False
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return strings_of(parsed) <= self._strings

    def _has_all_lines(self, text: str) -> bool:
        if self._lines is None:
            self._lines = frozenset(line for string in self._strings for line in string.split("\n"))
        return all(not line or line in self._lines for line in text.split("\n"))
