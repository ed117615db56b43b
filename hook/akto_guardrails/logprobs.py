"""Log probabilities of an answer's tokens: its text once more, one token after the other, beside what else it could be.

Nothing in them can be masked, since a card number is spread over several, and they can be fifty times the text.
They are known by their places and not by their names, which a tool or a search may give to text of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from akto_guardrails.content import Path, copy_of


def without_logprobs(body: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of an answer in plain data that has none; everything else keeps its place."""
    copied: dict[str, Any] = copy_of(body)
    for (*way, last), _ in list(logprobs_of(copied)):
        holder: Any = copied
        for key in way:
            holder = holder[key]
        del holder[last]
    return copied


def logprobs_of(answer: Any) -> Iterator[tuple[Path, object]]:
    """The places of those in an answer, LiteLLM's object or plain data, with what they are.

    Chat and text completions, Gemini, and the Responses API (LiteLLM 1.106.2).
    """
    for number, choice in enumerate(_list_in(answer, "choices")):
        yield from _entry(choice, "logprobs", ("choices", number))
    for number, candidate in enumerate(_list_in(answer, "candidates")):
        yield from _entry(candidate, "logprobsResult", ("candidates", number))
    for number, item in enumerate(_list_in(answer, "output")):
        if _member(item, "type") == "message":
            for part_number, part in enumerate(_list_in(item, "content")):
                yield from _entry(part, "logprobs", ("output", number, "content", part_number))


def _entry(holder: Any, name: str, place: Path) -> Iterator[tuple[Path, object]]:
    value = _member(holder, name)
    if value is not None:
        yield (*place, name), value


def _list_in(holder: Any, name: str) -> list[Any]:
    value = _member(holder, name)
    return value if isinstance(value, list) else []


def _member(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)
