"""The result of an MCP tool as LiteLLM hands it to its hook, and what takes its place when it is refused.

Read on LiteLLM 1.106.2: the hook gets the content alone, as a copy whose change is taken over; structured content that
says the same otherwise is only in the call's details, and is dropped when the content changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from akto_guardrails.content import Path, answer_body
from akto_guardrails.masking import UnmappableMask, apply_to_answer


class McpResult(Protocol):
    """LiteLLM's `MCPPostCallResponseObject`."""

    mcp_tool_call_response: list[Any]


def body_of_result(result: McpResult, details: Mapping[str, object]) -> dict[str, Any]:
    """The result as JSON-RPC has it. `details`: LiteLLM's details of the call."""
    body: dict[str, Any] = {"content": answer_body(result.mcp_tool_call_response)}
    original = details.get("original_response")
    structured = getattr(original, "structured_content", None) or getattr(original, "structuredContent", None)
    return body | {"structuredContent": structured} if structured else body


def mask_result(result: McpResult, changes: Mapping[Path, str]) -> None:
    """Writes masked text into the content. Raises `UnmappableMask`."""
    in_content = {path[1:]: text for path, text in changes.items() if path[0] == "content"}
    if changes and not in_content:
        raise UnmappableMask("the mask belongs to structured content alone")
    apply_to_answer(result.mcp_tool_call_response, in_content)


def refuse_result(result: McpResult, message: str) -> None:
    """Puts `message` in place of the content."""
    from mcp.types import TextContent

    result.mcp_tool_call_response[:] = [TextContent(type="text", text=message)]
