"""Encrypted thoughts and summaries of the Responses API, which are not always encrypted.

LiteLLM puts a head before them, and where it makes an answer of the Responses API of another one, it writes them down
as they are, as JSON with escapes (1.110.2; thoughts on 1.106.2, too).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from akto_guardrails.content import Path
from akto_guardrails.json_text import json_text, parsed_json

ENCRYPTED: Final = "encrypted_content"
_HEAD: Final = re.compile(r"litellm_enc:[^;]*;")


def head_of(text: str) -> str:
    """What LiteLLM has put before the content; mostly nothing."""
    head = _HEAD.match(text)
    return "" if head is None else head[0]


def not_encrypted(text: str) -> str | None:
    """What stands there in the place of encrypted content, as JSON without escapes; None when it is encrypted."""
    written = text[len(head_of(text)) :]
    if not written.lstrip().startswith(("{", "[")):
        return None
    try:
        return json_text(parsed_json(written))
    except (ValueError, RecursionError):
        return written


def readable_items(body: dict[str, Any]) -> dict[str, Any]:
    """An answer, with what is not encrypted in the items of its output as plain JSON text; shares all else with it."""
    output = body.get("output")
    if not isinstance(output, list):
        return body
    texts = {
        index: text
        for index, item in enumerate(output)
        if isinstance(item, dict)
        and isinstance(item.get(ENCRYPTED), str)
        and (text := not_encrypted(item[ENCRYPTED])) is not None
    }
    if not texts:
        return body
    items = [{**item, ENCRYPTED: texts[index]} if index in texts else item for index, item in enumerate(output)]
    return {**body, "output": items}


def with_heads(body: Mapping[str, Any], changes: Mapping[Path, str]) -> dict[Path, str]:
    """`changes` to an answer in that form as changes to `body`, the answer as it was."""
    return {path: _lost_head(body, path) + text for path, text in changes.items()}


def _lost_head(body: Mapping[str, Any], path: Path) -> str:
    """The head of the text at `path`, where that was put in the other form."""
    if len(path) != 3 or path[0] != "output" or path[2] != ENCRYPTED or not isinstance(path[1], int):
        return ""
    text: str = body["output"][path[1]][ENCRYPTED]
    return "" if not_encrypted(text) is None else head_of(text)
