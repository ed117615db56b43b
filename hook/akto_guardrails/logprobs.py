"""Log probabilities of an answer's tokens: its text once more, one token after the other, beside what else it could be.

Nothing in them can be masked, since a card number is spread over several, and they can be fifty times the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from akto_guardrails.content import Path, children_of

LOGPROBS: Final = frozenset({"logprobs", "logprobsResult"})
# What a model calls a tool with, in objects: names in there are the model's own.
_OF_THE_MODEL: Final = frozenset({"args", "arguments", "input"})


def without_logprobs(value: Any) -> Any:
    """A copy of plain data that has none; other entries keep their places."""
    if isinstance(value, dict):
        return {
            key: child if key in _OF_THE_MODEL else without_logprobs(child)
            for key, child in value.items()
            if key not in LOGPROBS
        }
    return [without_logprobs(child) for child in value] if isinstance(value, list) else value


def unsaid_logprobs(value: Any, place: Path = ()) -> Iterator[tuple[Path, object]]:
    """Where `value`, LiteLLM's object or plain data, has some, with what is to stand there in their place."""
    for key, child in children_of(value):
        if key in _OF_THE_MODEL:
            continue
        if key not in LOGPROBS:
            yield from unsaid_logprobs(child, (*place, key))
        elif child is not None:
            yield (*place, key), [] if isinstance(child, list) else None
