"""What is left out of the text that Akto gets: base64 media, which nobody can read, and credentials.

Decided by structure, not by how a string looks: text must not pass for media, nor a tool's parameter called
`api_key` for a credential.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import orjson

# In one line, or in lines longer than any word.
_BASE64: Final = re.compile(r"(?:[A-Za-z0-9+/]{60,}+\r?\n)*+[A-Za-z0-9+/]*+={0,2}(?:\r?\n)?")
_SHORTEST_MEDIA: Final = 256
_MEDIA_TYPES: Final = ("image/", "audio/", "video/", "application/pdf")
_MEDIA_PARTS: Final = frozenset(
    {"document", "file", "image", "image_url", "input_audio", "input_file", "input_image", "video_url"}
)
_GEMINI_MEDIA: Final = frozenset({"inlineData", "inline_data"})
_GEMINI_TOOL_USE: Final = frozenset({"functionCall", "functionResponse", "function_call", "function_response"})
# Where neither is in the JSON, as orjson writes it, nothing is media: they stand for the two kinds of places that
# `_is_media` knows. Inside of a string the quotes of the second would be escaped.
_MEDIA_MARKS: Final = (b";base64,", b'"data":')
# LiteLLM and providers read the type under one or the other of these, some before that in a `data:` address.
_TYPE_NAMES: Final = ("media_type", "mime_type", "mimeType", "content_type", "contentType", "format")
# The format of OpenAI's input_audio is a short name, and clients write such names elsewhere too.
_SHORT_TYPES: Final = frozenset(
    [
        *("aac", "avi", "bmp", "flac", "flv", "gif", "heic", "heif", "jpeg", "jpg", "m4a", "mkv", "mov", "mp3", "mp4"),
        *("mpeg", "mpg", "ogg", "opus", "pcm16", "pdf", "png", "tiff", "wav", "webm", "webp", "wmv", "3gp", "three_gp"),
    ]
)
_URL_NAMES: Final = frozenset({"url", "file_data", "image_url"})

_CREDENTIAL_NAME: Final = re.compile(
    r"(?:.*_)?(?:api_?key|token|secret|password|credentials?|authorization)|aws_.*|headers|extra_headers", re.IGNORECASE
)
# One word of ASCII, after one for its scheme.
_CREDENTIAL: Final = re.compile(r"(?:[A-Za-z]+ )?[!-~]*")
# Possessive: with spaces that could belong to two of its parts it would take minutes to see that something is no key.
_PEM: Final = re.compile(
    r"\s*+-----BEGIN [A-Z ]++-----\s(?:[A-Za-z0-9+/=]{16,}+\s++)*+[A-Za-z0-9+/=]*+\s*+-----END [A-Z ]++-----\s*+"
)
# What holds credentials where it is an object, whatever else is in there: headers, and keys with text around them.
_HOLDER_NAME: Final = re.compile(r"(?:extra_)?headers|(?:.*_)?credentials?", re.IGNORECASE)
# Parts of prompt templates, though they are called like credentials.
TEMPLATE_PARTS: Final = ("bos_token", "eos_token")
LEFT_OUT: Final = "[left out]"


def is_credential_name(name: object) -> bool:
    """Whether a parameter of LiteLLM called `name` holds a credential, or headers that may."""
    return isinstance(name, str) and _CREDENTIAL_NAME.fullmatch(name) is not None


def is_credential(name: object, value: object, *, passed_through: bool = False) -> bool:
    """Whether a parameter is a credential by its name and not by its name alone: no credential is a sentence.

    Nor is an object or a list with a sentence in it, but for those that are made to hold credentials. Those are
    LiteLLM's own; in a body that is `passed_through` anything may be called so, and reaches the provider.
    """
    if not is_credential_name(name) or name in TEMPLATE_PARTS:
        return False
    is_holder = isinstance(value, dict) and not passed_through and _HOLDER_NAME.fullmatch(str(name)) is not None
    return is_holder or _holds_no_sentence(value)


def _holds_no_sentence(value: object) -> bool:
    if isinstance(value, str):
        return _CREDENTIAL.fullmatch(value) is not None
    if isinstance(value, dict):
        return all(map(_holds_no_sentence, (*value, *value.values())))
    return all(map(_holds_no_sentence, value)) if isinstance(value, list) else True


def without_credentials(key: object, value: Any, *, passed_through: bool = False) -> Any:
    """The value of a request's top-level `key` without credentials; the same object when there are none.

    They stand in MCP tools (`headers`, `authorization`), in each of the client's `fallbacks`, in `extra_body`, and in a
    body that is `passed_through` beside the sentences in what is called like one.
    """
    if passed_through and is_credential_name(key):
        return _sentences(value)
    if key == "tools":
        return _mapped(value, lambda tool: _blanked(tool) if _is_mcp(tool) else tool)
    if isinstance(key, str) and key.endswith("fallbacks"):
        return _mapped(value, _blanked)
    return _blanked(value) if key == "extra_body" else value


def note_on_bytes(value: bytes | bytearray) -> str:
    """What stands in the checked text for bytes that are no text."""
    return f"[binary: {len(value)} bytes left out]"


def note_on_body(headers: Mapping[str, str]) -> str:
    """What stands in a record for an HTTP answer with these headers that is no text."""
    kind, length = headers.get("content-type", "binary"), headers.get("content-length")
    return f"[{kind}: left out]" if length is None else f"[{kind}: {length} bytes left out]"


def may_hold_media(value: object) -> bool:
    """Whether `without_media` may find something in `value`. Written as JSON it is looked through much faster."""
    try:
        written = orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return any(mark in written for mark in _MEDIA_MARKS)


def without_media(value: Any, *, in_media: bool = False) -> Any:
    """`value` with base64 media replaced by a note of its length; the same object when there is none.

    `in_media`: `value` stands inside a part that a provider reads as media.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        items = [without_media(item, in_media=in_media) for item in value]
        return items if _differ(items, value) else value
    if isinstance(value, (bytes, bytearray)):
        return note_on_bytes(value)
    if hasattr(value, "read"):
        # An uploaded file; on routes with pictures or sound LiteLLM opens them for the call.
        return "[file left out]"
    if not isinstance(value, dict):
        return value
    kind = value.get("type")
    # The client may have sent anything as the type.
    named = kind if isinstance(kind, str) else ""
    if named.endswith("tool_use"):
        # A tool's input is text whatever it looks like.
        return value
    inside = in_media or named in _MEDIA_PARTS
    changed = {}
    for name, child in value.items():
        if name in _GEMINI_TOOL_USE:
            continue
        if inside and _is_media(name, child, value):
            changed[name] = _media_note(child)
            continue
        cleaned = without_media(child, in_media=inside or name in _GEMINI_MEDIA)
        if cleaned is not child:
            changed[name] = cleaned
    return {**value, **changed} if changed else value


def _is_media(name: object, child: object, holder: dict[str, Any]) -> bool:
    if not isinstance(child, str) or len(child) < _SHORTEST_MEDIA:
        return False
    # All of them: which one counts is the reader's choice.
    declared = [holder[each] for each in _TYPE_NAMES if holder.get(each) is not None]
    if not all(map(_is_media_type, declared)):
        return False
    if name in _URL_NAMES:
        head, base64, body = child.partition(";base64,")
        return bool(base64) and head.startswith("data:") and _is_media_type(head[5:]) and _is_base64(body)
    is_media = name == "data" and bool(declared) and holder.get("type") in (None, "base64")
    return is_media and _is_base64(child)


def _is_media_type(declared: object) -> bool:
    if not isinstance(declared, str):
        return False
    is_media = declared.startswith(_MEDIA_TYPES) or declared in _SHORT_TYPES
    return is_media and not declared.startswith("image/svg")


def _is_base64(text: str) -> bool:
    return _BASE64.fullmatch(text) is not None


def _media_note(value: str) -> str:
    kind = value.partition(",")[0] if value.startswith("data:") else "base64"
    return f"[{kind}: {len(value)} characters left out]"


def _sentences(value: Any) -> Any:
    """`value` with each string blanked that may be a credential."""
    if isinstance(value, str):
        return LEFT_OUT if _CREDENTIAL.fullmatch(value) or _PEM.fullmatch(value) else value
    if isinstance(value, dict):
        return {name: _sentences(child) for name, child in value.items()}
    return [_sentences(child) for child in value] if isinstance(value, list) else value


def _is_mcp(tool: object) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "mcp"


def _blanked(holder: Any) -> Any:
    """`holder` with what its credential names hold blanked."""
    if not isinstance(holder, dict) or not any(is_credential(name, child) for name, child in holder.items()):
        return holder
    return {name: LEFT_OUT if is_credential(name, child) else child for name, child in holder.items()}


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if not isinstance(value, list):
        return change(value)
    items = [change(item) for item in value]
    return items if _differ(items, value) else value


def _differ(new: Iterable[object], old: Iterable[object]) -> bool:
    return any(a is not b for a, b in zip(new, old, strict=True))
