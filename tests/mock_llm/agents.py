"""Answers of agents (A2A), an MCP server, OpenAI's assistants, and a service of somebody's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from mock_llm.said import SAID
from mock_llm.shapes import Body

_CREATED = 1767225600


def agent_card(_: Body) -> Body:
    skill = {"id": "chat", "name": "Chat", "description": "Talks", "tags": ["chat"]}
    return {
        "protocolVersion": "0.3.0",
        "name": "fake-agent",
        "description": "Talks",
        "version": "1.0",
        "url": "http://mock-llm:8081/agent",
        "preferredTransport": "JSONRPC",
        "capabilities": {"streaming": True},
        "defaultInputModes": ["text"],
        "defaultOutputModes": ["text"],
        "skills": [skill],
    }


def a2a(body: Body) -> Body:
    message = {"kind": "message", "messageId": "m-2", "role": "agent", "parts": [{"kind": "text", "text": SAID.text}]}
    return {"jsonrpc": "2.0", "id": body["id"], "result": message}


def a2a_stream(body: Body) -> Iterator[bytes]:
    for part in SAID.words():
        artifact = {"artifactId": "a-1", "parts": [{"kind": "text", "text": part}]}
        yield _update(body, kind="artifact-update", append=True, artifact=artifact)
    yield _update(body, kind="status-update", final=True, status={"state": "completed"})


def _update(body: Body, **update: Any) -> bytes:
    result = {"taskId": "t-1", "contextId": "c-1", **update}
    return f"data: {json.dumps({'jsonrpc': '2.0', 'id': body['id'], 'result': result})}\n\n".encode()


def mcp(message: Body, told: str) -> Body | None:
    """The MCP server's answer to one JSON-RPC message; None to a notification."""
    if "id" not in message:
        return None
    answer = {"jsonrpc": "2.0", "id": message["id"]}
    result = _MCP_RESULTS.get(message["method"])
    if result is None:
        return answer | {"error": {"code": -32601, "message": f"no such method: {message['method']}"}}
    return answer | {"result": result(message.get("params") or {}, told)}


def _initialized(params: Body, _: str) -> Body:
    capabilities: Body = {"tools": {}, "prompts": {}, "resources": {}}
    server = {"name": "mock-mcp", "version": "1.0"}
    return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": server}


def _tools(_: Body, __: str) -> Body:
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    described = {"echo": "Says its text again", "tell": "Says what it was told", "quote": f"Says: {SAID.text}"}
    return {"tools": [{"name": name, "description": text, "inputSchema": schema} for name, text in described.items()]}


def _called(params: Body, told: str) -> Body:
    text = str(params["arguments"].get("text")) if params["name"] == "echo" else told
    return {"content": [{"type": "text", "text": text, "_meta": {"by": params["name"]}}], "isError": False}


def _prompts(_: Body, __: str) -> Body:
    argument = {"name": "text", "required": False}
    return {"prompts": [{"name": "ask", "description": "A prompt", "arguments": [argument]}]}


def _prompt(params: Body, _: str) -> Body:
    text = str((params.get("arguments") or {}).get("text"))
    return {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}


def _resources(_: Body, __: str) -> Body:
    return {"resources": [{"uri": "mock://note", "name": "note", "mimeType": "text/plain"}]}


def _resource(params: Body, told: str) -> Body:
    return {"contents": [{"uri": params["uri"], "mimeType": "text/plain", "text": told}]}


_MCP_RESULTS: dict[str, Callable[[Body, str], Body]] = {
    "initialize": _initialized,
    "ping": lambda _, __: {},
    "tools/list": _tools,
    "tools/call": _called,
    "prompts/list": _prompts,
    "prompts/get": _prompt,
    "resources/list": _resources,
    "resources/templates/list": lambda _, __: {"resourceTemplates": []},
    "resources/read": _resource,
}


def assistant(body: Body) -> Body:
    head = {"id": "asst_mock", "object": "assistant", "created_at": _CREATED, "model": body["model"]}
    return {**head, "name": None, "description": None, "instructions": None, "tools": [], "metadata": {}}


def thread(_: Body) -> Body:
    return {"id": "thread_mock", "object": "thread", "created_at": _CREATED, "metadata": {}}


def thread_message(body: Body) -> Body:
    text = {"type": "text", "text": {"value": body["content"], "annotations": []}}
    head = {"id": "msg_mock", "object": "thread.message", "created_at": _CREATED, "thread_id": "thread_mock"}
    return {**head, "status": "completed", "role": "user", "content": [text], "attachments": [], "metadata": {}}


def own_service(_: Body) -> Body:
    return {"reply": SAID.text}


ANSWERS: dict[str, Callable[[Body], Any]] = {
    "(?:agent/)?\\.well-known/agent(?:-card)?\\.json": agent_card,
    "agent/?": a2a,
    "assistants": assistant,
    "threads": thread,
    "threads/[^/]+/messages": thread_message,
    "support/.+": own_service,
}
