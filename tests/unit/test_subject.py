"""What a call of a hook puts before the guard, and where masked text goes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from akto_guardrails.masking import apply_mask
from akto_guardrails.subject import Subject, subject_of
from unit.samples import CARD, MASKED_CARD, chat, memory_of

TOOL_CALL = {
    "mcp_tool_name": "refund",
    "mcp_server_name": "shop",
    "mcp_arguments": {"note": CARD, "amount": 7},
    "messages": [{"role": "user", "content": "Tool: refund"}],
    "incoming_bearer_token": "sk-secret",
}
TOOL = {
    "mcp_tool_name": "refund",
    "mcp_tool_description": CARD,
    "mcp_input_schema": {"properties": {"note": {"description": "why"}}},
    "mcp_arguments": {},
}


def masked(data: dict[str, Any], call_type: str, place: tuple[str | int, ...]) -> dict[str, Any]:
    """What is recorded of `data` after the card number at `place` was masked."""
    subject = subject_of(data, call_type)
    assert subject is not None
    apply_mask(subject.target, subject.content, {place: MASKED_CARD})
    if subject.hand_back is not None:
        subject.hand_back(subject.target)
    return subject.masked_content()


@pytest.mark.parametrize(
    ("name", "call_type"), [("mcp_arguments", "call_mcp_tool"), ("mcp_input_schema", "list_mcp_tools")]
)
def test_a_call_of_a_tool_is_not_copied_before_something_is_masked(name: str, call_type: str) -> None:
    data = {**TOOL, name: {"notes": [[] for _ in range(50_000)], "note": CARD}}
    subjects: list[Subject | None] = []
    # A copy takes 3 MB.
    assert memory_of(lambda: subjects.append(subject_of(data, call_type))) < 100_000
    assert subjects[0] is not None
    assert subjects[0].target == subjects[0].content
    assert subjects[0].target is subjects[0].target
    assert subjects[0].target is not subjects[0].content


def test_a_request_is_its_own_target() -> None:
    data = chat(CARD, temperature=0.2)
    subject = subject_of(data, "acompletion")
    assert subject is not None
    assert subject.content == {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": CARD}]}
    assert (subject.target is data, subject.passed_through, subject.bare) == (True, False, False)


def test_masked_text_of_a_request_is_in_the_request_and_in_its_record() -> None:
    data = chat(CARD)
    assert masked(data, "acompletion", ("messages", 0, "content"))["messages"][0]["content"] == MASKED_CARD
    assert data["messages"][0]["content"] == MASKED_CARD


def test_entries_that_were_not_checked_are_not_recorded_after_a_mask() -> None:
    data = chat(CARD)
    subject = subject_of(data, "acompletion")
    assert subject is not None
    data["instructions"] = "added since"
    assert subject.masked_content().keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("data", "call_type"),
    [
        ({"model": "m"}, "acompletion"),
        ({"json": {"max_tokens": 7}}, "allm_passthrough_route"),
        ({"max_tokens": 7}, "pass_through_endpoint"),
        # The first of two passes on LiteLLM's REST route for tool calls.
        ({"name": "refund", "arguments": {"note": CARD}, "server_id": "s"}, "call_mcp_tool"),
        ({"mcp_tool_name": None, "mcp_arguments": {"note": CARD}}, "call_mcp_tool"),
        ({"mcp_tool_description": CARD}, "list_mcp_tools"),
    ],
)
def test_a_call_without_text_has_no_subject(data: dict[str, Any], call_type: str) -> None:
    assert subject_of(data, call_type) is None


def test_the_whole_body_is_checked_where_it_is_passed_through() -> None:
    subject = subject_of({"message": CARD, "litellm_logging_obj": object()}, "pass_through_endpoint")
    assert subject is not None
    assert subject.content == {"message": CARD}
    assert subject.passed_through is True


def test_the_body_of_a_routed_pass_through_is_an_entry_of_the_call() -> None:
    data = {"model": "m", "method": "POST", "endpoint": "chat", "json": {"message": CARD, "model": "n"}}
    subject = subject_of(data, "allm_passthrough_route")
    assert subject is not None
    assert subject.content == {"message": CARD, "model": "n"}
    assert masked(data, "allm_passthrough_route", ("message",))["message"] == MASKED_CARD
    assert data["json"]["message"] == MASKED_CARD


@pytest.mark.parametrize("body", [None, "text", []])
def test_a_routed_pass_through_without_a_body_is_taken_as_any_other_call(body: object) -> None:
    subject = subject_of({"json": body, "messages": [{"role": "user", "content": CARD}]}, "allm_passthrough_route")
    assert subject is not None
    assert subject.content["messages"][0]["content"] == CARD


def test_a_tool_call_is_json_rpc_and_nothing_else_of_its_dictionary() -> None:
    subject = subject_of(copy.deepcopy(TOOL_CALL), "call_mcp_tool")
    assert subject is not None
    assert subject.bare is True
    assert subject.content == {
        "jsonrpc": "2.0",
        "method": "tools/call",
        "params": {"name": "refund", "arguments": {"note": CARD, "amount": 7}},
        "id": 1,
    }


@pytest.mark.parametrize("arguments", [{}, None])
def test_a_tool_call_without_arguments_is_checked_by_its_name(arguments: object) -> None:
    subject = subject_of({"mcp_tool_name": "refund", "mcp_arguments": arguments}, "call_mcp_tool")
    assert subject is not None
    assert subject.content["params"] == {"name": "refund", "arguments": {}}


def test_masked_arguments_are_handed_back_under_their_own_name() -> None:
    data = copy.deepcopy(TOOL_CALL)
    content = masked(data, "call_mcp_tool", ("params", "arguments", "note"))
    assert data == {**TOOL_CALL, "modified_arguments": {"note": MASKED_CARD, "amount": 7}}
    assert content["params"]["arguments"] == {"note": MASKED_CARD, "amount": 7}
    assert content["method"] == "tools/call"


def test_a_catalogs_tool_is_checked_as_its_definition() -> None:
    subject = subject_of(copy.deepcopy(TOOL), "list_mcp_tools")
    assert subject is not None
    assert subject.bare is True
    assert subject.content == {
        "tools": [{"name": "refund", "description": CARD, "inputSchema": TOOL["mcp_input_schema"]}]
    }


def test_a_masked_definition_is_handed_back_field_by_field() -> None:
    data = copy.deepcopy(TOOL)
    content = masked(data, "list_mcp_tools", ("tools", 0, "description"))
    assert data == {**TOOL, "mcp_tool_description": MASKED_CARD}
    assert content["tools"][0]["description"] == MASKED_CARD


class TestDocument:
    """Documents on their way into a vector store."""

    def test_text_is_checked_with_its_name_and_masked_as_bytes(self) -> None:
        data = {"file_data": ("cards.txt", CARD.encode(), "text/plain"), "ingest_options": {}}
        subject = subject_of(data, "aingest")
        assert subject is not None
        assert subject.content == {"file": {"name": "cards.txt", "text": CARD}}
        assert masked(data, "aingest", ("file", "text")) == {"file": {"name": "cards.txt", "text": MASKED_CARD}}
        assert data["file_data"] == ("cards.txt", MASKED_CARD.encode(), "text/plain")

    def test_other_bytes_are_named_by_their_length(self) -> None:
        subject = subject_of({"file_data": ("a.pdf", b"\xff\xfe\x00", "application/pdf")}, "aingest")
        assert subject is not None
        assert subject.content["file"]["text"] == "[binary: 3 bytes left out]"

    @pytest.mark.parametrize("file", [None, ("a", b"b"), ("a", "text", "text/plain"), ["a", b"b", "c"]])
    def test_without_a_document_there_is_nothing_to_check(self, file: object) -> None:
        assert subject_of({"file_data": file, "ingest_options": {}}, "aingest") is None


def test_every_text_of_a_record_in_a_batch_file_is_checked() -> None:
    """LiteLLM hands over the record's body alone, so there is no client's body to look up further keys in."""
    record = {"model": "m", "input": "hi", "text": {"format": {"schema": {"description": CARD}}}, "metadata": {}}
    subject = subject_of(record, "aresponses", in_batch=True)
    assert subject is not None
    assert CARD in str(subject.content)
