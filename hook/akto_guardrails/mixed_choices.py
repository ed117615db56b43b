"""Streams in which LiteLLM mixes up the choices of an answer.

LiteLLM 1.106.2 gives each piece of a text completion that is streamed the index 0, whichever choice it belongs to
(`handle_openai_text_completion_chunk`). What Akto would be shown is no text that anybody wrote, and a word that is
forbidden would not be found in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_COMPLETIONS: Final = "atext_completion"
# Which LiteLLM calls for chat as well: each message is then a prompt of its own.
_PROVIDERS: Final = frozenset({"azure_text", "text-completion-openai"})
_FINE_TUNED: Final = ("ft:babbage-002", "ft:davinci-002")


def asks_for_several(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of a model wants a stream that a text completion would answer with more than one choice."""
    if not kwargs.get("stream"):
        return False
    further = kwargs.get("extra_body")
    bodies = [kwargs, further] if isinstance(further, dict) else [kwargs]
    if any(body.get("n") not in (None, 1) or _is_several(body.get("prompt")) for body in bodies):
        return True
    messages = kwargs.get("messages")
    contents = [message.get("content") for message in messages or () if isinstance(message, dict)]
    return len(contents) > 1 or any(_is_list_of_lists(content) and _is_several(content) for content in contents)


def mixes_choices(call_type: str, model: str, provider: str) -> bool:
    """Whether the choices of a stream are mixed up in a call of `model` that goes to `provider`.

    On the route of text completions LiteLLM calls many providers so; none of them is taken for another kind there.
    """
    return call_type == _COMPLETIONS or provider in _PROVIDERS or any(name in model for name in _FINE_TUNED)


def _is_several(prompt: object) -> bool:
    """Whether a prompt is a list of prompts, and not one in tokens."""
    return isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(token, int) for token in prompt)


def _is_list_of_lists(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(prompt, list) for prompt in content)
