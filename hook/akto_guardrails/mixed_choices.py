"""Streams in which LiteLLM mixes up the choices of an answer.

LiteLLM 1.106.2 gives each piece of a text completion that is streamed the index 0, whichever choice it belongs to
(`handle_openai_text_completion_chunk`). What Akto would be shown is no text that anybody wrote, and a word that is
forbidden would not be found in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_COMPLETIONS: Final = "atext_completion"
_OPENAI: Final = "text-completion-openai"
_AZURE: Final = "azure_text"
# LiteLLM calls these as the first of the two, whatever their provider.
_FINE_TUNED: Final = ("ft:babbage-002", "ft:davinci-002")


def mixes_choices(kwargs: Mapping[str, Any], call_type: str, provider: Callable[[], str]) -> bool:
    """Whether LiteLLM would mix up the choices in the answer to a call of a model.

    `provider` gives LiteLLM's word for where the call goes. On the route of text completions any provider may be
    called so, and is taken for one that is.
    """
    if not kwargs.get("stream"):
        return False
    asks_for_several = _asks_for_several(kwargs)
    if call_type == _COMPLETIONS:
        return asks_for_several
    if not asks_for_several and not _has_several_messages(kwargs):
        return False
    if any(name in str(kwargs.get("model")) for name in _FINE_TUNED):
        return True
    name = provider()
    return name == _OPENAI or (name == _AZURE and asks_for_several)


def _asks_for_several(kwargs: Mapping[str, Any]) -> bool:
    further = kwargs.get("extra_body")
    bodies = [kwargs, further] if isinstance(further, dict) else [kwargs]
    return any(body.get("n") not in (None, 1) or _is_several(body.get("prompt")) for body in bodies)


def _has_several_messages(kwargs: Mapping[str, Any]) -> bool:
    """Whether a chat is more than one prompt where it is sent as a text completion: each message is one of its own."""
    messages = kwargs.get("messages")
    if not isinstance(messages, list):
        return False
    contents = [message.get("content") for message in messages if isinstance(message, dict)]
    return len(contents) > 1 or any(_is_list_of_lists(content) and _is_several(content) for content in contents)


def _is_several(prompt: object) -> bool:
    """Whether a prompt is a list of prompts, and not one in tokens."""
    return isinstance(prompt, list) and len(prompt) > 1 and not all(isinstance(token, int) for token in prompt)


def _is_list_of_lists(content: object) -> bool:
    return isinstance(content, list) and all(isinstance(prompt, list) for prompt in content)
