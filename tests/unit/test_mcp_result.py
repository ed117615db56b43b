"""The result of an MCP tool in LiteLLM's hands."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from akto_guardrails.masking import UnmappableMask
from akto_guardrails.mcp_result import body_of_result, mask_result, refuse_result
from unit.samples import CARD, MASKED_CARD


class Content(SimpleNamespace):
    """A piece of content as the MCP library has it."""

    def model_dump(self, *, exclude_none: bool) -> dict[str, object]:
        return {name: value for name, value in vars(self).items() if not (exclude_none and value is None)}


def result(*texts: str) -> Any:
    """What LiteLLM hands to its hook."""
    return SimpleNamespace(mcp_tool_call_response=[Content(type="text", text=text, annotations=None) for text in texts])


def test_a_result_is_its_content_as_plain_data() -> None:
    body = body_of_result(result("one", "two"), {})
    assert body == {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}


@pytest.mark.parametrize("name", ["structured_content", "structuredContent"])
def test_structured_content_is_found_in_the_details_of_the_call(name: str) -> None:
    details = {"original_response": SimpleNamespace(**{name: {"card": CARD}})}
    assert body_of_result(result(), details) == {"content": [], "structuredContent": {"card": CARD}}


@pytest.mark.parametrize("original", [None, "text", SimpleNamespace(), SimpleNamespace(structured_content=None)])
def test_without_structured_content_there_is_none(original: object) -> None:
    assert body_of_result(result(), {"original_response": original}) == {"content": []}


def test_masked_text_is_written_into_the_content() -> None:
    answer = result("one", CARD)
    mask_result(answer, {("content", 1, "text"): MASKED_CARD})
    assert [each.text for each in answer.mcp_tool_call_response] == ["one", MASKED_CARD]


def test_a_mask_of_both_forms_is_written_into_the_content() -> None:
    """LiteLLM drops structured content when the content changed."""
    answer = result(CARD)
    mask_result(answer, {("content", 0, "text"): MASKED_CARD, ("structuredContent", "card"): "<CREDIT_CARD>"})
    assert answer.mcp_tool_call_response[0].text == MASKED_CARD


def test_a_mask_of_structured_content_alone_has_no_place() -> None:
    with pytest.raises(UnmappableMask):
        mask_result(result("one"), {("structuredContent", "card"): "<CREDIT_CARD>"})


def test_a_mask_of_what_is_not_there_has_no_place() -> None:
    with pytest.raises(UnmappableMask):
        mask_result(result("one"), {("content", 1, "text"): MASKED_CARD})


def test_no_mask_changes_nothing() -> None:
    answer = result(CARD)
    mask_result(answer, {})
    assert answer.mcp_tool_call_response[0].text == CARD


def test_a_refused_result_is_replaced_by_the_message_in_the_very_list(monkeypatch: pytest.MonkeyPatch) -> None:
    types = ModuleType("mcp.types")
    types.TextContent = Content  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcp", ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.types", types)
    answer = result("one", CARD)
    content = answer.mcp_tool_call_response
    refuse_result(answer, "Blocked by Akto Guardrails")
    assert answer.mcp_tool_call_response is content
    assert content == [Content(type="text", text="Blocked by Akto Guardrails")]
