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

    def model_dump(self, *, exclude_none: bool, by_alias: bool) -> dict[str, object]:
        names = {"meta": "_meta", "mime_type": "mimeType"} if by_alias else {}
        return {
            names.get(name, name): value for name, value in vars(self).items() if not (exclude_none and value is None)
        }


def result(*texts: str) -> Any:
    """What LiteLLM hands to its hook."""
    return SimpleNamespace(mcp_tool_call_response=[Content(type="text", text=text, annotations=None) for text in texts])


def test_a_result_is_its_content_as_plain_data() -> None:
    body = body_of_result(result("one", "two"), {})
    assert body == {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}


def test_a_result_has_the_names_of_the_protocol() -> None:
    answer = SimpleNamespace(
        mcp_tool_call_response=[Content(type="audio", data="UklG", mime_type="audio/wav", meta={"k": "text"})]
    )
    (part,) = body_of_result(answer, {})["content"]  # type: ignore[arg-type]
    assert part == {"type": "audio", "data": "UklG", "mimeType": "audio/wav", "_meta": {"k": "text"}}


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


def test_masked_metadata_is_written_where_the_library_keeps_it() -> None:
    part = Content(type="resource", meta={"_meta": CARD}, resource=Content(uri="mock://a", meta={"k": CARD}))
    answer: Any = SimpleNamespace(mcp_tool_call_response=[part])
    places: list[tuple[str | int, ...]] = [("content", 0, "_meta", "_meta"), ("content", 0, "resource", "_meta", "k")]
    mask_result(answer, dict.fromkeys(places, MASKED_CARD))
    assert part.meta == {"_meta": MASKED_CARD}
    assert part.resource.meta == {"k": MASKED_CARD}


def test_no_mask_changes_nothing() -> None:
    answer = result(CARD)
    mask_result(answer, {})
    assert answer.mcp_tool_call_response[0].text == CARD


@pytest.mark.parametrize("name", ["is_error", "isError"])
def test_a_refused_result_is_replaced_by_the_message_in_the_very_list(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    types = ModuleType("mcp.types")
    types.TextContent = Content  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mcp", ModuleType("mcp"))
    monkeypatch.setitem(sys.modules, "mcp.types", types)
    answer = result("one", CARD)
    content = answer.mcp_tool_call_response
    original = SimpleNamespace(**{name: False})
    refuse_result(answer, "Blocked by Akto Guardrails", {"original_response": original})
    assert answer.mcp_tool_call_response is content
    assert content == [Content(type="text", text="Blocked by Akto Guardrails")]
    assert vars(original) == {name: True}, "it is an error now"
