"""What of a request is checked: its text, and where that text stands.

`data` is the dictionary LiteLLM hands to a pre-call hook: the client's body plus LiteLLM's own entries, some of
which hold credentials.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Final

import orjson

from akto_guardrails.omissions import (
    TEMPLATE_PARTS,
    is_credential,
    may_hold_media,
    note_on_body,
    without_credentials,
    without_media,
)

Path = tuple[str | int, ...]
# Where a string stands: the place of what holds it, None for the content itself, and its key or index there. A path
# for each string would take memory without bounds where many are nested deeply.
Place = tuple["Place | None", str | int]

# Of all the paths to strings together, each step of which takes memory: 8 bytes, several times over.
MOST_STEPS: Final = 2_000_000

# What carries text to a model on the routes of LiteLLM 1.106.2, wherever it comes from.
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
    *TEMPLATE_PARTS,
)
# What a conversation, or the text in place of one, stands under.
CONVERSATION_KEYS: Final = ("messages", "input", "contents", "prompt")
# Sent along because Akto's policies and its dashboard use them; never text of the caller.
CONTEXT_KEYS: Final = ("model", "stream")

# Entries of a client's body that no model reads: names and switches, and what LiteLLM keeps for itself. Every other
# string, list or object of the body is checked, since providers and prompt templates read more than anybody lists.
_NOT_TEXT: Final = frozenset(
    {
        "cache",
        "encoding_format",
        "function_call",
        "guardrails",
        "incoming_bearer_token",
        "litellm_call_id",
        "litellm_logging_obj",
        "litellm_metadata",
        "litellm_session_id",
        "litellm_trace_id",
        "logit_bias",
        "metadata",
        "modalities",
        "model",
        "prompt_cache_key",
        "proxy_server_request",
        "reasoning_effort",
        "safety_identifier",
        "secret_fields",
        "service_tier",
        "standard_logging_object",
        "stream_options",
        "tags",
        "tool_choice",
        "user",
    }
)

# The same for a body that is passed on to a provider as it is.
_NOT_TEXT_IN_A_BODY: Final = frozenset(
    {"litellm_metadata", "litellm_server_streaming_classification", "metadata", "tags"}
)

_KNOWN: Final = _NOT_TEXT.union(TEXT_KEYS, CONTEXT_KEYS)
_KNOWN_IN_A_BODY: Final = _NOT_TEXT_IN_A_BODY.union(TEXT_KEYS, CONTEXT_KEYS)

# What frames a conversation on every request alike.
_SCAFFOLDING: Final = frozenset(
    {
        "functions",
        "instructions",
        "response_format",
        "system",
        "systemInstruction",
        "system_instruction",
        "tools",
    }
)

# Strings under these keys name things; a mask must not touch them.
_NAMING_KEYS: Final = frozenset({"model", "role", "type", "id", "tool_call_id", "tool_use_id", "call_id", "url"})


def content_of(data: Mapping[str, Any], *, passed_through: bool = False) -> dict[str, Any] | None:
    """The part of a request that is checked and recorded; None when the request has no text at all.

    Values are the very objects of `data`, except where media or credentials were left out. `passed_through`: `data` is
    the client's body itself, as on LiteLLM's pass-through routes.
    """
    content: dict[str, Any] = {key: data[key] for key in CONTEXT_KEYS if data.get(key) is not None}
    further = _further_keys(data, data if passed_through else _client_body(data), passed_through=passed_through)
    keys = (*TEXT_KEYS, *further)
    found = {key: data[key] for key in keys if data.get(key) is not None}
    text = {key: without_credentials(key, value, passed_through=passed_through) for key, value in found.items()}
    if not text:
        return None
    content.update(_without_media(text))
    return content


def _further_keys(data: Mapping[str, Any], body: Mapping[str, Any], *, passed_through: bool) -> Iterator[str]:
    known = _KNOWN_IN_A_BODY if passed_through else _KNOWN
    unknown = (key for key in body if key not in known and isinstance(data.get(key), (str, list, dict)))
    return (key for key in unknown if not is_credential(key, data[key], passed_through=passed_through))


def _client_body(data: Mapping[str, Any]) -> Mapping[str, Any]:
    request = data.get("proxy_server_request")
    body = request.get("body") if isinstance(request, (dict, Mapping)) else None
    return body if isinstance(body, (dict, Mapping)) else {}


def _without_media(text: Mapping[str, Any]) -> Mapping[str, Any]:
    # A tool's schema holds text only, whatever its parameters are called.
    others = {key: value for key, value in text.items() if key not in ("tools", "functions")}
    if not may_hold_media(others):
        return text
    return {key: without_media(value) if key in others else value for key, value in text.items()}


def answer_body(answer: object) -> object:
    """A model's answer as plain data, without fields that are null and LiteLLM's `_hidden_params`."""
    if isinstance(answer, list):
        return [answer_body(item) for item in answer]
    if isinstance(answer, dict):
        return {key: value for key, value in answer.items() if not str(key).startswith("_")}
    dump = getattr(answer, "model_dump", None)
    return dump(exclude_none=True) if callable(dump) else _plain(answer)


def _plain(answer: object) -> object:
    """The body of an HTTP answer, which is what LiteLLM gives out on routes that it passes on to a provider."""
    content = getattr(answer, "text", None) if hasattr(answer, "status_code") else None
    if not isinstance(content, str):
        # Speech: an HTTP answer in an object of its own, whose bytes may not have been read yet.
        headers = getattr(getattr(answer, "response", None), "headers", None)
        return answer if headers is None else note_on_body(headers)
    try:
        parsed: object = orjson.loads(content)
    except orjson.JSONDecodeError:
        return content
    return parsed


def copy_of(value: Any) -> Any:
    """`value` with objects and lists of its own; `deepcopy` takes five times as long."""
    if isinstance(value, dict):
        return {key: copy_of(child) for key, child in value.items()}
    return [copy_of(child) for child in value] if isinstance(value, list) else value


def string_leaves(value: object) -> dict[Path, str]:
    """Every string in `value` by the keys and indices that lead to it."""
    return {path_of(place): text for place, text in placed_strings(value)}


def placed_strings(value: object) -> Iterator[tuple[Place | None, str]]:
    """Every string in `value` with its place, in memory that does not grow with how deeply they are nested."""
    if isinstance(value, str):
        yield None, value
        return
    # What was begun: the place of each object or list, and what is left in it.
    way: list[tuple[Place | None, Iterator[tuple[Any, Any]]]] = [(None, iter(entries_of(value)))]
    while way:
        place, rest = way[-1]
        for key, child in rest:
            if isinstance(child, str):
                yield (place, key), child
            elif isinstance(child, (dict, list, tuple, Mapping)):
                way.append(((place, key), iter(entries_of(child))))
                break
        else:
            way.pop()


def path_of(place: Place | None) -> Path:
    """The keys and indices that lead to `place`."""
    keys: list[str | int] = []
    while place is not None:
        place, key = place
        keys.append(key)
    return tuple(reversed(keys))


def paths_to(places: Iterable[Place | None]) -> list[Path] | None:
    """The paths to `places`; None when they would take too much memory."""
    paths: list[Path] = []
    steps = 0
    for place in places:
        paths.append(path_of(place))
        steps += len(paths[-1])
        if steps > MOST_STEPS:
            return None
    return paths


def is_naming(path: Path) -> bool:
    """Whether the string at `path` names a thing (a model, a role, an id) and is not text."""
    return bool(path) and path[-1] in _NAMING_KEYS


def spoken_text(content: Mapping[str, Any]) -> str | None:
    """The text of the newest user turn, or of an answer, as Akto's field extraction reads it.

    Text parts are joined by newlines (protocol reference, 3.3).
    """
    for key in CONVERSATION_KEYS:
        turns = content.get(key)
        if isinstance(turns, str):
            return turns
        if isinstance(turns, list):
            return next((_turn_text(turn) for turn in reversed(turns) if _is_users(turn)), None)
    return _answer_text(content)


def _answer_text(answer: Mapping[str, Any]) -> str | None:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else answer
    if not isinstance(first, dict):
        return None
    message = first.get("message")
    text = first.get("text")
    return text if isinstance(text, str) else _turn_text(message if isinstance(message, dict) else first)


def newest_user_string(content: Mapping[str, Any]) -> Path | None:
    """The place of a string prompt, or of the newest user message whose content is one string."""
    if isinstance(content.get("prompt"), str):
        return ("prompt",)
    turns = content.get("messages")
    if isinstance(turns, list):
        for index in range(len(turns) - 1, -1, -1):
            if _is_users(turns[index]) and isinstance(turns[index].get("content"), str):
                return ("messages", index, "content")
    return None


def newest_turn_of(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], dict[str, int]]:
    """`content` with the newest user turn and what follows it (tool calls, tool results) in place of the conversation.

    System prompts and tool definitions go as well; whatever else there is stays. With it, how many turns were
    skipped under which key. Content without user turns is given as it is.
    """
    for key in ("messages", "input", "contents"):
        turns = content.get(key)
        if not isinstance(turns, list):
            continue
        start = _start_of_newest_turn(turns)
        if start is not None:
            part = {name: value for name, value in content.items() if name not in _SCAFFOLDING}
            return part | {key: turns[start:]}, {key: start}
    return content, {}


def _start_of_newest_turn(turns: list[Any]) -> int | None:
    newest = next((index for index in range(len(turns) - 1, -1, -1) if _has_users_words(turns[index])), None)
    while newest and _has_users_words(turns[newest - 1]):
        newest -= 1
    return newest


def _has_users_words(turn: object) -> bool:
    """Whether a turn is the user's and more than tool results, which some APIs send in the user's name."""
    if not isinstance(turn, dict) or turn.get("role") != "user":
        return False
    parts = turn.get("content", turn.get("parts"))
    return not isinstance(parts, list) or not parts or any(not _is_tool_result(part) for part in parts)


def _is_tool_result(part: object) -> bool:
    return isinstance(part, dict) and (
        part.get("type") == "tool_result" or "functionResponse" in part or "function_response" in part
    )


def _is_users(turn: object) -> bool:
    return isinstance(turn, dict) and turn.get("role") == "user"


def _turn_text(turn: Mapping[str, Any]) -> str | None:
    content = turn.get("content", turn.get("parts"))
    if isinstance(content, list):
        return "\n".join(
            part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str)
        )
    return content if isinstance(content, str) else None


def entries_of(value: object) -> Iterable[tuple[Any, Any]]:
    """What an object or a list holds, under its key or index; nothing for any other value."""
    if isinstance(value, (dict, Mapping)):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def children_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """The same for plain data and for the objects of libraries."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, (list, tuple)):
        return enumerate(value)
    if hasattr(value, "model_dump"):
        # How a pydantic object yields its fields, those it was not declared with included.
        fields: Iterable[tuple[Any, Any]] = value
        return fields
    if hasattr(value, "__dict__") and not isinstance(value, Enum):
        return ((name, child) for name, child in vars(value).items() if not name.startswith("_"))
    return ()
