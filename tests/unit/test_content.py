"""What of a request is checked, and where its text stands."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from akto_guardrails.content import answer_body, content_of, is_naming, spoken_text, string_leaves
from unit.samples import LoggingObject


def with_body(body: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """A request as LiteLLM makes it of a client's body."""
    return {**body, "proxy_server_request": {"body": dict(body), "headers": {}}, **entries}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("messages", [{"role": "user", "content": "secret"}]),
        ("system", [{"type": "text", "text": "secret"}]),
        ("prompt", ["secret"]),
        ("suffix", "secret"),
        ("input", [{"role": "user", "content": "secret"}]),
        ("instructions", "secret"),
        ("contents", [{"parts": [{"text": "secret"}]}]),
        ("systemInstruction", {"parts": [{"text": "secret"}]}),
        ("system_instruction", {"parts": [{"text": "secret"}]}),
        ("query", "secret"),
        ("documents", ["secret", {"text": "secret"}]),
        ("tools", [{"type": "function", "function": {"name": "f", "description": "secret"}}]),
        ("functions", [{"name": "f", "description": "secret"}]),
        ("response_format", {"type": "json_schema", "json_schema": {"description": "secret"}}),
        ("prediction", {"type": "content", "content": "secret"}),
        ("prompt_variables", {"topic": "secret"}),
        ("fallbacks", [{"model": "b", "messages": [{"role": "user", "content": "secret"}]}]),
        ("extra_body", {"messages": [{"role": "user", "content": "secret"}]}),
    ],
)
def test_text_is_found_on_every_route(key: str, value: object) -> None:
    content = content_of({"model": "m", key: value})
    assert content is not None
    assert content[key] is value, "masks are put back into the very object that was sent"
    assert content["model"] == "m"


@pytest.mark.parametrize(
    ("key", "value"),
    [("chat_history", [{"message": "secret"}]), ("preamble", "secret"), ("stop", ["secret"]), ("custom", {"a": "b"})],
)
def test_what_else_the_clients_body_holds_is_checked_as_well(key: str, value: object) -> None:
    content = content_of(with_body({"model": "m", key: value}))
    assert content is not None
    assert content[key] is value


@pytest.mark.parametrize(
    "body",
    [
        {"user": "someone", "metadata": {"agent_name": "a"}, "tags": ["a"], "service_tier": "auto"},
        {"temperature": 0.2, "n": 2, "logprobs": True, "seed": None},
        {"api_key": "sk-secret", "vertex_credentials": "{}", "aws_secret_access_key": "secret", "my_token": "secret"},
        {"headers": {"x-auth-token": "secret"}, "extra_headers": {"authorization": "secret"}},
    ],
)
def test_names_switches_and_credentials_of_the_body_are_not_text(body: dict[str, Any]) -> None:
    assert content_of(with_body({"model": "m", **body})) is None
    content = content_of(with_body({"messages": [], **body}))
    assert content is not None
    assert content.keys() == {"messages"}


@pytest.mark.parametrize(
    "name",
    [
        "encoding_format",
        "litellm_session_id",
        "litellm_trace_id",
        "prompt_cache_key",
        "reasoning_effort",
        "safety_identifier",
        "tool_choice",
        "function_call",
    ],
)
def test_what_only_names_or_switches_something_is_not_text(name: str) -> None:
    assert content_of(with_body({"model": "m", name: "auto"})) is None


def test_what_litellm_took_out_of_the_body_is_not_checked() -> None:
    data = with_body({"custom": "secret"})
    del data["custom"]
    assert content_of(data) is None


@pytest.mark.parametrize("body", [None, "text", []])
def test_a_body_that_is_no_object_does_no_harm(body: object) -> None:
    data = {"messages": [], "proxy_server_request": {"body": body}}
    assert content_of(data) == {"messages": []}


def test_the_whole_body_of_a_request_that_is_passed_through_is_checked() -> None:
    body = {"message": "secret", "stream": False, "litellm_logging_obj": LoggingObject()}
    content = content_of(body, passed_through=True)
    assert content is not None
    assert content["message"] == "secret"


@pytest.mark.parametrize("data", [{}, {"model": "m", "stream": True}, {"model": "m", "messages": None}])
def test_a_request_without_text_has_no_content(data: dict[str, Any]) -> None:
    assert content_of(data) is None


def test_nothing_else_of_the_request_is_shown_to_akto() -> None:
    data = with_body(
        {"model": "m", "stream": False, "messages": [{"role": "user", "content": "hi"}], "temperature": 0.2},
        api_key="sk-secret",
        metadata={"user_api_key": "hash"},
        litellm_metadata={"headers": {}},
        litellm_logging_obj=object(),
        secret_fields={"raw_headers": {}},
    )
    assert content_of(data) == {"model": "m", "stream": False, "messages": data["messages"]}


def test_media_and_credentials_are_left_out_and_the_request_stays_as_it_is() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
    fallback = {"model": "b", "api_key": "sk-secret"}
    data = with_body({"messages": [{"role": "user", "content": [image]}], "fallbacks": [fallback]})
    content = content_of(data)
    assert content is not None
    assert "AAAA" not in str(content)
    assert "sk-secret" not in str(content)
    assert image["image_url"] == {"url": "data:image/png;base64," + "A" * 400}
    assert fallback["api_key"] == "sk-secret"


@pytest.mark.parametrize("key", ["tools", "functions"])
def test_a_schema_holds_text_only_whatever_its_parameters_are_called(key: str) -> None:
    schema = [{"name": "f", "parameters": {"media_type": "image/png", "data": "A" * 400, "api_key": "the key to use"}}]
    content = content_of({key: schema})
    assert content is not None
    assert content[key] is schema


def test_every_string_is_found_by_its_place() -> None:
    value = {"a": "1", "b": [{"c": "2"}, "3", 4, None, True], "d": ("5",), "e": {}}
    assert string_leaves(value) == {("a",): "1", ("b", 0, "c"): "2", ("b", 1): "3", ("d", 0): "5"}


@pytest.mark.parametrize(
    ("path", "naming"),
    [
        (("model",), True),
        (("messages", 0, "role"), True),
        (("messages", 0, "tool_call_id"), True),
        (("messages", 0, "tool_calls", 0, "id"), True),
        (("messages", 0, "content", 0, "type"), True),
        (("messages", 0, "content", 0, "tool_use_id"), True),
        (("input", 0, "call_id"), True),
        (("messages", 0, "content", 0, "image_url", "url"), True),
        (("messages", 0, "content"), False),
        (("messages", 0, "content", 0), False),
        (("tools", 0, "function", "description"), False),
        ((), False),
    ],
)
def test_names_are_told_from_text(path: tuple[str | int, ...], naming: bool) -> None:
    assert is_naming(path) is naming


USER = {"role": "user", "content": "newest"}
PARTS = [{"type": "text", "text": "one"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "two"}, "x"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"messages": [{"role": "user", "content": "earlier"}, USER]}, "newest"),
        ({"messages": [USER, {"role": "assistant", "content": "answer"}, {"role": "tool", "content": "x"}]}, "newest"),
        ({"messages": [{"role": "user", "content": PARTS}]}, "one\ntwo"),
        ({"input": "newest"}, "newest"),
        ({"input": [USER]}, "newest"),
        ({"contents": [{"role": "user", "parts": [{"text": "one"}, {"text": "two"}]}]}, "one\ntwo"),
        ({"prompt": "newest"}, "newest"),
        ({"messages": [{"role": "system", "content": "rules"}]}, None),
        ({"messages": [{"role": "user", "content": None}]}, None),
        ({"messages": ["text"]}, None),
        ({"instructions": "rules"}, None),
        ({}, None),
    ],
)
def test_the_newest_user_turn_is_found_in_every_shape(content: dict[str, Any], text: str | None) -> None:
    assert spoken_text(content) == text


class _Model:
    """An answer of the kind that pydantic makes."""

    def __init__(self, **values: object) -> None:
        self._values = values

    def model_dump(self, *, exclude_none: bool) -> dict[str, object]:
        return {name: value for name, value in self._values.items() if not (exclude_none and value is None)}


def test_an_answer_becomes_plain_data_without_its_nulls() -> None:
    assert answer_body(_Model(id="1", usage=None)) == {"id": "1"}
    assert answer_body([_Model(id="1"), _Model(id="2")]) == [{"id": "1"}, {"id": "2"}]


def test_an_answer_that_is_a_dictionary_loses_the_entries_litellm_hides_in_it() -> None:
    assert answer_body({"id": "1", "_hidden_params": {"api_key": "sk-secret"}}) == {"id": "1"}


@pytest.mark.parametrize("answer", [None, "text", 7])
def test_an_answer_of_another_kind_is_taken_as_it_is(answer: object) -> None:
    assert answer_body(answer) == answer


def test_an_answer_with_an_attribute_of_that_name_that_is_no_method_is_taken_as_it_is() -> None:
    answer = SimpleNamespace(model_dump="text")
    assert answer_body(answer) is answer


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_a_prompt_templates_tokens_are_text_and_no_credentials(name: str) -> None:
    content = content_of(with_body({name: "hidden text"}))
    assert content is not None
    assert content[name] == "hidden text"
