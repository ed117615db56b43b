"""What a call of a hook puts before the guard: the content to be checked, and where masked text goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from akto_guardrails.content import content_of, copy_of
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.omissions import note_on_bytes

# LiteLLM's call types (1.106.2) whose dictionary is not the client's body plus LiteLLM's own entries.
PASS_THROUGH: Final = "pass_through_endpoint"  # noqa: S105 - the client's body and nothing else
ROUTED_PASS_THROUGH: Final = "allm_passthrough_route"  # noqa: S105 - the client's body under `json`
MCP_CALL: Final = "call_mcp_tool"
MCP_LIST: Final = "list_mcp_tools"  # one tool of a catalog at a time
RAG_INGEST: Final = "aingest"  # a document under `file_data`


_OTHERS: Final = frozenset({PASS_THROUGH, ROUTED_PASS_THROUGH, MCP_CALL, MCP_LIST, RAG_INGEST})


def is_plain(call_type: str) -> bool:
    """Whether what is checked stands in the hook's dictionary itself."""
    return call_type not in _OTHERS


@dataclass(frozen=True)
class Subject:
    """`content` is checked; the places of its strings lead into `target` too.

    `own_target`: the target, None where it is a copy of the content. `passed_through`: the target is the client's body.
    `bare`: sent without `{"body": ...}`. `hand_back` gives a masked target to LiteLLM, where writing into it is not
    enough; raises `UnmappableMask` for what LiteLLM does not take back.
    """

    content: dict[str, Any]
    own_target: dict[str, Any] | None
    passed_through: bool = False
    bare: bool = False
    hand_back: Callable[[dict[str, Any]], None] | None = None

    @cached_property
    def target(self) -> dict[str, Any]:
        """What masks are written into. Copied late: not for what is refused."""
        if self.own_target is not None:
            return self.own_target
        copied: dict[str, Any] = copy_of(self.content)
        return copied

    def masked_content(self) -> dict[str, Any]:
        """`content` once more, after masks were applied to the target."""
        again = self.target if self.hand_back else content_of(self.target, passed_through=self.passed_through) or {}
        return {key: value for key, value in again.items() if key in self.content}


def subject_of(data: dict[str, Any], call_type: str, *, in_batch: bool = False) -> Subject | None:
    """The subject in a hook's dictionary, that of a record in a batch file if `in_batch`; None without any content."""
    if call_type in (MCP_CALL, MCP_LIST):
        return _mcp_call(data) if call_type == MCP_CALL else _mcp_tool(data)
    if call_type == RAG_INGEST:
        return _document(data)
    if call_type == ROUTED_PASS_THROUGH and isinstance(data.get("json"), dict):
        return body_subject(data["json"])
    if call_type == PASS_THROUGH or in_batch:
        return body_subject(data)
    content = content_of(data)
    return None if content is None else Subject(content, data)


def body_subject(body: dict[str, Any]) -> Subject | None:
    """The subject in a client's body itself."""
    content = content_of(body, passed_through=True)
    return None if content is None else Subject(content, body, passed_through=True)


def _mcp_call(data: dict[str, Any]) -> Subject | None:
    """A tool call in the form Akto knows, JSON-RPC (protocol reference, 3.4).

    LiteLLM's REST route for tool calls runs the hooks twice, first without `mcp_tool_name`: nothing to check then.
    Masked arguments are taken from `modified_arguments` alone.
    """
    if not isinstance(data.get("mcp_tool_name"), str):
        return None
    params = {"name": data["mcp_tool_name"], "arguments": data.get("mcp_arguments") or {}}
    content = {"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": 1}

    def hand_back(masked: dict[str, Any]) -> None:
        _must_be_same(masked["params"]["name"], params["name"])
        data["modified_arguments"] = masked["params"]["arguments"]

    return Subject(content, None, bare=True, hand_back=hand_back)


def _mcp_tool(data: dict[str, Any]) -> Subject | None:
    """The definition of a catalog's tool, which LiteLLM takes back field by field."""
    if not isinstance(data.get("mcp_tool_name"), str):
        return None
    fields = {"description": "mcp_tool_description", "inputSchema": "mcp_input_schema"}
    tool = {"name": data["mcp_tool_name"]} | {field: data.get(name) for field, name in fields.items()}

    def hand_back(masked: dict[str, Any]) -> None:
        _must_be_same(masked["tools"][0]["name"], tool["name"])
        data.update({name: masked["tools"][0][field] for field, name in fields.items()})

    content = {"tools": [tool]}
    return Subject(content, None, bare=True, hand_back=hand_back)


def _document(data: dict[str, Any]) -> Subject | None:
    """A document on its way into a vector store: its text, if it is text."""
    file = data.get("file_data")
    if not isinstance(file, tuple) or len(file) != 3 or not isinstance(file[1], bytes):
        return None
    name, raw, media_type = file
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = note_on_bytes(raw)
    content = {"file": {"name": name, "text": text}}

    def hand_back(masked: dict[str, Any]) -> None:
        _must_be_same(masked["file"]["name"], name)
        data["file_data"] = (name, masked["file"]["text"].encode(), media_type)

    return Subject(content, None, hand_back=hand_back)


def _must_be_same(masked: object, name: object) -> None:
    if masked != name:
        raise UnmappableMask("the mask changes the name of a tool or a file")
