"""The result of an MCP tool as LiteLLM hands it to its hook, and what takes its place when it is refused.

Read on LiteLLM 1.106.2: the hook gets the content alone, as a copy whose change is taken over; structured content that
says the same otherwise is only in the call's details, and is dropped when the content changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from akto_guardrails.content import Path
from akto_guardrails.masking import UnmappableMask, apply_to_answer

# By release of the MCP library.
_IS_ERROR: Final = ("is_error", "isError")


class McpResult(Protocol):
    """LiteLLM's `MCPPostCallResponseObject`."""

    mcp_tool_call_response: list[Any]


def body_of_result(result: McpResult, details: Mapping[str, object]) -> dict[str, Any]:
    """The result as JSON-RPC has it. `details`: LiteLLM's details of the call."""
    content = [part.model_dump(exclude_none=True, by_alias=True) for part in result.mcp_tool_call_response]
    body: dict[str, Any] = {"content": content}
    original = details.get("original_response")
    structured = getattr(original, "structured_content", None) or getattr(original, "structuredContent", None)
    return body | {"structuredContent": structured} if structured else body


def mask_result(result: McpResult, changes: Mapping[Path, str]) -> None:
    """Writes masked text into the content. Raises `UnmappableMask`."""
    in_content = {_by_attribute(path[1:]): text for path, text in changes.items() if path[0] == "content"}
    if changes and not in_content:
        raise UnmappableMask("the mask belongs to structured content alone")
    apply_to_answer(result.mcp_tool_call_response, in_content)


def refuse_result(result: McpResult, message: str, details: Mapping[str, object]) -> None:
    """Puts `message` in place of the content, as an error. `details`: LiteLLM's, with the result itself among them."""
    from mcp.types import TextContent

    result.mcp_tool_call_response[:] = [TextContent(type="text", text=message)]
    original = details.get("original_response")
    for name in _IS_ERROR:
        if hasattr(original, name):
            setattr(original, name, True)


def _by_attribute(path: Path) -> Path:
    """`path` in the objects of the MCP library, whose fields for `_meta` have another name than in JSON."""
    place = 2 if path[1:2] == ("resource",) else 1
    return (*path[:place], "meta", *path[place + 1 :]) if path[place : place + 1] == ("_meta",) else path
