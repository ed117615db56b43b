"""What a call of a hook puts before the guard: the content to be checked, and where masked text goes."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from akto_guardrails.content import content_of

# LiteLLM's call types (1.106.2) whose dictionary is not the client's body plus LiteLLM's own entries.
PASS_THROUGH: Final = "pass_through_endpoint"  # noqa: S105 - the client's body and nothing else
ROUTED_PASS_THROUGH: Final = "allm_passthrough_route"  # noqa: S105 - the client's body under `json`
MCP_CALL: Final = "call_mcp_tool"
MCP_LIST: Final = "list_mcp_tools"  # one tool of a catalog at a time


@dataclass(frozen=True, slots=True)
class Subject:
    """`content` is checked; the places of its strings lead into `target` too.

    `passed_through`: the target is the client's body. `bare`: sent without `{"body": ...}`.
    """

    content: dict[str, Any]
    target: dict[str, Any]
    passed_through: bool = False
    bare: bool = False

    def masked_content(self) -> dict[str, Any]:
        """`content` once more, after masks were applied to the target."""
        again = self.target if self.bare else content_of(self.target, passed_through=self.passed_through) or {}
        return {key: value for key, value in again.items() if key in self.content}


def subject_of(data: dict[str, Any], call_type: str) -> Subject | None:
    """The subject in a hook's dictionary; None when there is nothing in it to check."""
    if call_type in (MCP_CALL, MCP_LIST):
        return _mcp_subject(data, call_type)
    body = data.get("json") if call_type == ROUTED_PASS_THROUGH else None
    target = body if isinstance(body, dict) else data
    passed_through = call_type == PASS_THROUGH or target is body
    content = content_of(target, passed_through=passed_through)
    return None if content is None else Subject(content, target, passed_through)


def _mcp_subject(data: Mapping[str, Any], call_type: str) -> Subject | None:
    """A tool call as JSON-RPC, a catalog's tool as its definition: the forms Akto knows (protocol reference, 3.4).

    LiteLLM's REST route for tool calls runs the hooks twice, first without `mcp_tool_name`: nothing to check then.
    """
    name = data.get("mcp_tool_name")
    if not isinstance(name, str):
        return None
    if call_type == MCP_LIST:
        description, schema = data.get("mcp_tool_description"), data.get("mcp_input_schema")
        content: dict[str, Any] = {"tools": [{"name": name, "description": description, "inputSchema": schema}]}
    else:
        params = {"name": name, "arguments": data.get("mcp_arguments") or {}}
        content = {"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": 1}
    return Subject(content, copy.deepcopy(content), bare=True)


def masked_call(subject: Subject, data: dict[str, Any], call_type: str) -> dict[str, Any] | None:
    """Hands a masked MCP subject back to LiteLLM, which takes arguments of a call only as the hook's result."""
    if call_type == MCP_CALL:
        return {"modified_arguments": subject.target["params"]["arguments"]}
    if call_type == MCP_LIST:
        (tool,) = subject.target["tools"]
        data.update(mcp_tool_description=tool["description"], mcp_input_schema=tool["inputSchema"])
    return None
