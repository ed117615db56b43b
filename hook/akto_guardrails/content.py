"""What of a request is checked: its text, and where that text stands.

`data` is the dictionary LiteLLM hands to a pre-call hook: the client's body plus LiteLLM's own entries, some of
which hold credentials. Content is therefore taken by name, never by leaving things out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

Path = tuple[str | int, ...]

# Everything that carries text to a model on the routes of LiteLLM 1.106.2 whose body names it at the top level.
TEXT_KEYS: Final = (
    "messages",
    "system",
    "prompt",
    "suffix",
    "input",
    "instructions",
    "contents",
    "systemInstruction",
    "system_instruction",
    "query",
    "documents",
    "tools",
    "functions",
    "response_format",
    "prediction",
    "prompt_variables",
    "fallbacks",
    "extra_body",
)
# Sent along because Akto's policies and its dashboard use them; never text of the caller.
CONTEXT_KEYS: Final = ("model", "stream")

# Strings under these keys name things; a mask must not touch them.
_NAMING_KEYS: Final = frozenset({"model", "role", "type", "id", "tool_call_id", "tool_use_id", "call_id", "url"})

_MEDIA_KEYS: Final = frozenset({"url", "data", "file_data", "image_url"})
_MEDIA: Final = re.compile(r"(?:data:(?:image|audio|video|application)/[\w.+-]+;base64,)?[A-Za-z0-9+/_-]{256,}={0,2}")


def content_of(data: Mapping[str, object]) -> dict[str, object] | None:
    """The part of a request that is checked and recorded; None when the request has no text at all.

    Values are the very objects of `data`, except where base64 media was left out.
    """
    content: dict[str, object] = {key: data[key] for key in CONTEXT_KEYS if data.get(key) is not None}
    text = {key: _without_media(data[key]) for key in TEXT_KEYS if data.get(key) is not None}
    if not text:
        return None
    content.update(text)
    return content


def answer_body(answer: object) -> object:
    """A model's answer as plain data, without fields that are null and LiteLLM's `_hidden_params`."""
    if isinstance(answer, list):
        return [answer_body(item) for item in answer]
    if isinstance(answer, dict):
        return {key: value for key, value in answer.items() if not str(key).startswith("_")}
    dump = getattr(answer, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else answer


def string_leaves(value: object) -> dict[Path, str]:
    """Every string in `value` by the keys and indices that lead to it."""
    return dict(_walk(value, ()))


def is_naming(path: Path) -> bool:
    """Whether the string at `path` names a thing (a model, a role, an id) and is not text."""
    return bool(path) and path[-1] in _NAMING_KEYS


def _walk(value: object, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _walk(child, (*path, key))
    elif isinstance(value, (list, tuple)):
        for index, child in enumerate(value):
            yield from _walk(child, (*path, index))


def _without_media(value: object) -> object:
    """`value` with base64 media replaced by a note of its length; the same object when there is none."""
    if isinstance(value, list):
        items = [_without_media(item) for item in value]
        return items if _differs(items, value) else value
    if isinstance(value, dict):
        entries = {key: _without_media_entry(key, child) for key, child in value.items()}
        return entries if _differs(entries.values(), value.values()) else value
    return value


def _without_media_entry(key: object, value: object) -> object:
    if isinstance(value, str):
        return _media_note(value) if key in _MEDIA_KEYS and _MEDIA.fullmatch(value) else value
    return _without_media(value)


def _differs(new: Iterable[object], old: Iterable[object]) -> bool:
    return any(a is not b for a, b in zip(new, old, strict=True))


def _media_note(value: str) -> str:
    kind = value[: value.index(",")] if value.startswith("data:") else "base64"
    return f"[{kind}: {len(value)} characters left out]"
