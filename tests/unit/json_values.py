"""Strategies for JSON of any kind, and for JSON that looks like what comes in."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

# Lone surrogates, control characters and NUL among them: JSON can say them all.
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
TEXT = ANY_TEXT | st.sampled_from(
    ["", "hello", "a\n\nb", "\x00", "\ud800", '{"a": "b"}', "[", "<EMAIL>", "****", "\U0001f600", "A" * 300]
)
INTEGERS = st.integers() | st.sampled_from([2**53 + 1, 2**64, -(2**70), 10**400])
NUMBERS = INTEGERS | st.floats()
# Names that mean something to one of the walkers, so that they meet values nobody expects there.
KEYS = (
    st.sampled_from(
        [
            *("type", "role", "content", "text", "parts", "id", "name", "input", "arguments", "body", "data", "url"),
            *("source", "media_type", "format", "image_url", "inlineData", "functionCall", "functionResponse"),
            *("tool_calls", "function", "function_call", "custom", "index", "delta", "message", "choices", "output"),
            *("candidates", "content_block", "item", "part", "response", "server_label", "model", "args", "logprobs"),
            *("api_key", "headers", "metadata", "usage", "thought", "result", "status", "created"),
        ]
    )
    | ANY_TEXT
)
KINDS = st.sampled_from(
    [
        *("text", "image", "image_url", "tool_use", "server_tool_use", "mcp_tool_use", "tool_result", "mcp"),
        *("function_call", "mcp_call", "web_search_call", "message_start", "message_delta", "content_block_start"),
        *("content_block_delta", "response.output_text.delta", "response.output_text.done", "response.completed"),
        *("response.output_item.done", "response.function_call_arguments.delta", "response.audio.delta", "response."),
        *("user", "assistant", "system", "tool", "input_audio", "file", "base64", "wav"),
    ]
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXT | KINDS


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists and objects of what `inner` gives."""
    return st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)


VALUES = st.recursive(SCALARS, containers, max_leaves=10)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=4)


@st.composite
def nested(draw: st.DrawFn, most: int = 150) -> Any:
    """A value far down in lists or objects."""
    value = draw(VALUES)
    wrap = draw(st.sampled_from([lambda inner: [inner], lambda inner: {"content": inner}, lambda inner: {"": inner}]))
    for _ in range(draw(st.integers(0, most))):
        value = wrap(value)
    return value


ANYTHING = VALUES | nested()

ROLES = st.sampled_from(["user", "assistant", "system", "tool"]) | SCALARS
PARTS = st.fixed_dictionaries({"type": KINDS | VALUES}, optional={"text": TEXT | VALUES, "content": VALUES}) | VALUES
MESSAGES = (
    st.fixed_dictionaries(
        {"role": ROLES},
        optional={"content": TEXT | st.lists(PARTS, max_size=3) | VALUES, "parts": st.lists(PARTS, max_size=3)},
    )
    | VALUES
)
CONVERSATIONS = st.lists(MESSAGES, max_size=3) | TEXT | ANYTHING

REQUEST_KEYS = st.sampled_from(
    [
        *("messages", "system", "prompt", "suffix", "input", "instructions", "contents", "systemInstruction", "query"),
        *("documents", "tools", "functions", "response_format", "prediction", "fallbacks", "extra_body", "bos_token"),
        *("context_window_fallbacks", "stop", "thinking", "metadata", "user", "model", "stream", "api_key"),
        *("text", "body", "litellm_metadata", "proxy_server_request", "litellm_call_id"),
    ]
)
REQUESTS = st.dictionaries(REQUEST_KEYS | ANY_TEXT, CONVERSATIONS, max_size=4)


def strings_in(value: Any) -> list[str]:
    """Every string in a JSON value, names of fields not among them."""
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in strings_in(child)]
