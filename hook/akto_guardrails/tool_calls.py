"""The tool calls in a model's answer, and the payloads under which Akto gets them.

Shapes and paths: protocol reference, 3.4. The answer is plain data of whatever API it was asked through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import orjson

from akto_guardrails.collection import collection_of_name
from akto_guardrails.envelope import payload_of
from akto_guardrails.json_text import json_text, parsed_json

_MOST_CALLS: Final = 128
_LONGEST_NAME: Final = 128
_OUTSIDE_OF_PATHS: Final = re.compile(r"[^A-Za-z0-9._-]")
_OUTSIDE_OF_HOSTS: Final = re.compile(r"[^a-z0-9.-]")
# How LiteLLM, like several agents, calls the tools of an MCP server among other functions.
_MCP_NAME: Final = re.compile(r"mcp__(.+?)__(.+)", re.DOTALL)
_UNKNOWN_SERVER: Final = "mcp"
# How LiteLLM calls the server of MCP tools that it ran itself, in streams of the Responses API (1.110.2). Each that ran
# had a hook, and has a record under its server's own name.
LITELLMS_LABEL: Final = "litellm"
# What the address of an MCP server begins with where a client asks for that.
_HERE: Final = "litellm_proxy"

# Calls of the Responses API that have a name; the others are called by their type.
_NAMED: Final = frozenset({"custom_tool_call", "function_call", "mcp_call"})
_ANTHROPIC_CALLS: Final = frozenset({"tool_use", "server_tool_use", "mcp_tool_use"})
# Where the calls of the Responses API keep what the tool is asked to do, and what a server-run tool gave.
_ARGUMENTS: Final = ("arguments", "input", "action", "code", "queries", "operation")
_RESULTS: Final = ("output", "outputs", "results")
# The service discards a record whose result says that it is an error.
_ERROR_MARKS: Final = frozenset({"error", "isError", "is_error"})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool. `server`: the MCP server it belongs to, empty for an ordinary tool.

    `arguments` are parsed where they are JSON text. `result`: what a tool run on the server's side gave, else None.
    """

    name: str
    arguments: object
    server: str = ""
    result: object = None


def tool_calls_of(answer: object) -> list[ToolCall]:
    """The first calls in `answer`, 128 at most. `answer`: any JSON, also a list of answers; the rest is skipped."""
    bodies = _objects(answer if isinstance(answer, list) else [answer])
    return list(islice((call for body in bodies for call in _calls(body)), _MOST_CALLS))


def payloads_of(call: ToolCall) -> tuple[str, str | None]:
    """The payload texts of the call and of its result, which is None when there is none.

    Raises `RecursionError` when the arguments or the result are nested too deeply.
    """
    has_result = call.result is not None
    if not call.server:
        request = json_text({"body": call.arguments, "toolName": call.name})
        return request, payload_of(call.result) if has_result else None
    params = {"name": call.name, "arguments": call.arguments}
    request = json_text({"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": 1})
    result = {"jsonrpc": "2.0", "id": 1, "result": _mcp_result(call.result)}
    return request, json_text(result) if has_result else None


def tool_path(prefix: str, name: str) -> str:
    """The path of an ordinary tool's calls, with a name that is safe there."""
    safe = _OUTSIDE_OF_PATHS.sub("-", name[:_LONGEST_NAME])
    return f"{prefix}/{safe if safe.strip('.') else 'unnamed'}"


def runs_mcp_tools_here(request: str) -> bool:
    """Whether the payload of a request asks LiteLLM itself for tools of MCP servers, and calls no other server so."""
    payload = parsed_json(request)
    body = _object(_object(payload).get("body", payload))
    servers = [tool for tool in _objects(body.get("tools")) if tool.get("type") == "mcp"]
    others = [server for server in servers if not _text(server.get("server_url")).startswith(_HERE)]
    return len(others) < len(servers) and all(server.get("server_label") != LITELLMS_LABEL for server in others)


def mcp_host(collection: str, server: str) -> str:
    """The host of an MCP server's records: `<owner>.<client>.<server>` (protocol reference, 5.3)."""
    owner = _OUTSIDE_OF_HOSTS.sub("-", collection.lower())
    return f"{owner}.litellm.{collection_of_name(server) or _UNKNOWN_SERVER}"


def _calls(body: dict[str, Any]) -> Iterator[ToolCall]:
    for choice in _objects(body.get("choices")):
        yield from _of_message(_object(choice.get("message")))
    blocks = list(_objects(body.get("content")))
    results = _anthropic_results(blocks)
    for block in blocks:
        if _text(block.get("type")) in _ANTHROPIC_CALLS:
            result = results.get(_text(block.get("id")))
            yield _call(block.get("name"), block.get("input"), block.get("server_name"), result, mcp=_is_mcp(block))
    for item in _objects(body.get("output")):
        yield from _of_responses_item(item)
    for candidate in _objects(body.get("candidates")):
        for part in _objects(_object(candidate.get("content")).get("parts")):
            function = _object(part.get("functionCall", part.get("function_call")))
            if function:
                yield _call(function.get("name"), function.get("args"))


def _of_message(message: dict[str, Any]) -> Iterator[ToolCall]:
    for call in _objects(message.get("tool_calls")):
        tool = _object(call.get("function")) or _object(call.get("custom"))
        if tool:
            yield _call(tool.get("name"), tool.get("arguments", tool.get("input")))
    function = _object(message.get("function_call"))
    if function:
        yield _call(function.get("name"), function.get("arguments"))


def _anthropic_results(blocks: list[dict[str, Any]]) -> dict[str, object]:
    results = (block for block in blocks if _text(block.get("type")).endswith("tool_result"))
    return {_text(block.get("tool_use_id")): block.get("content") for block in results}


def _of_responses_item(item: dict[str, Any]) -> Iterator[ToolCall]:
    kind = _text(item.get("type"))
    arguments = _first(item, _ARGUMENTS)
    if kind.endswith("_call") and arguments is not None:
        name = _text(item.get("name")) or ("" if kind in _NAMED else kind.removesuffix("_call"))
        if not name:
            # A rest of a call: LiteLLM numbers the items of its further rounds as if they were those of the first.
            return
        yield _call(name, arguments, item.get("server_label"), _first(item, _RESULTS), mcp=_is_mcp(item))


def _call(
    name: object, arguments: object, server: object = None, result: object = None, *, mcp: bool = False
) -> ToolCall:
    own_name, own_server = _text(name), _text(server) or _UNKNOWN_SERVER if mcp else ""
    by_name = None if mcp else _MCP_NAME.fullmatch(own_name)
    if by_name:
        own_server, own_name = by_name.groups()
    return ToolCall(own_name, {} if arguments is None else _parsed(arguments), own_server, result)


def _is_mcp(holder: Mapping[str, Any]) -> bool:
    return holder.get("type") in ("mcp_call", "mcp_tool_use")


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed: object = orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
    return parsed


def _mcp_result(result: object) -> dict[str, Any]:
    if isinstance(result, dict):
        return {key: value for key, value in result.items() if key not in _ERROR_MARKS}
    if isinstance(result, list):
        return {"content": result}
    return {"content": [{"type": "text", "text": result if isinstance(result, str) else json_text(result)}]}


def _first(holder: Mapping[str, Any], names: tuple[str, ...]) -> object:
    return next((holder[name] for name in names if holder.get(name) is not None), None)


def _objects(value: object) -> Iterator[dict[str, Any]]:
    return (each for each in value if isinstance(each, dict)) if isinstance(value, list) else iter(())


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
