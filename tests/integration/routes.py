"""Every route LiteLLM serves that carries text: how to send a text there, and where it must turn up.

LiteLLM serves some of them only with an entry in its config; `all_routes_config` has them all.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
import requests

from integration.containers import GuardedProxy, proxy_config

KEY: Final = "sk.checkout-agent"
COLLECTION: Final = "checkout-agent"
BLOCK_MESSAGE: Final = "Blocked by Akto Guardrails: Prompt injection detected"
SECONDS: Final = 30

_PROVIDER: Final = {"api_base": "http://mock-llm:8081/v1", "api_key": "os.environ/MODEL_KEY"}
_OWN_BASE: Final = {"api_base": "http://mock-llm:8081", "api_key": "os.environ/MODEL_KEY"}
_MODELS: Final = {
    "gemini": {**_PROVIDER, "model": "gemini/gemini-2.5-flash", "api_base": "http://mock-llm:8081/v1beta"},
    "image": {**_PROVIDER, "model": "openai/gpt-image-1"},
    "speech": {**_PROVIDER, "model": "openai/gpt-4o-mini-tts"},
    "transcribe": {**_PROVIDER, "model": "openai/gpt-4o-mini-transcribe"},
    "rerank": {**_OWN_BASE, "model": "cohere/rerank-v3.5"},
    "video": {**_PROVIDER, "model": "openai/sora-2"},
    "ocr": {**_PROVIDER, "model": "mistral/mistral-ocr-latest"},
    "vllm": {**_PROVIDER, "model": "hosted_vllm/mock"},
    # LiteLLM opens a WebSocket to a provider only with TLS.
    "secure": {**_PROVIDER, "model": "openai/gpt-4o-mini", "api_base": "https://mock-llm:8443/v1"},
    "realtime": {**_PROVIDER, "model": "openai/gpt-4o-realtime-preview"},
}

# What routes read from the environment alone.
ENVIRONMENT: Final = {
    "OPENAI_API_BASE": "http://mock-llm:8081/v1",
    "OPENAI_API_KEY": "model-key-098f6bcd4621",
    "ANTHROPIC_API_BASE": "http://mock-llm:8081",
    "ANTHROPIC_API_KEY": "model-key-098f6bcd4621",
}


def all_routes_config() -> dict[str, Any]:
    """The standard config, and everything without which a route of `ROUTES` is not served."""
    config = proxy_config()
    config["model_list"] += [{"model_name": name, "litellm_params": params} for name, params in _MODELS.items()]
    config["general_settings"]["pass_through_endpoints"] = [
        {"path": "/support", "target": "http://mock-llm:8081/support/tickets", "include_subpath": True}
    ]
    store = {"vector_store_id": "vs_mock", "custom_llm_provider": "openai", **_PROVIDER}
    return config | {
        "litellm_settings": {"ssl_verify": False},
        "files_settings": [{"custom_llm_provider": "openai", **_PROVIDER}],
        "assistant_settings": {"custom_llm_provider": "openai", "litellm_params": dict(_PROVIDER)},
        "search_tools": [{"search_tool_name": "web", "litellm_params": {"search_provider": "tavily", **_OWN_BASE}}],
        "vector_store_registry": [{"vector_store_name": "mock", "litellm_params": store}],
        "mcp_servers": {
            "github": {
                "url": "http://mock-llm:8081/mcp",
                "transport": "http",
                "server_id": "github",
                "allow_all_keys": True,
            }
        },
        "agent_list": [{"agent_name": "helper", "agent_card_params": _AGENT_CARD}],
    }


_AGENT_CARD: Final = {
    "protocolVersion": "0.3.0",
    "name": "helper",
    "description": "Talks",
    "version": "1.0",
    "url": "http://mock-llm:8081/agent",
    "capabilities": {"streaming": True},
    "defaultInputModes": ["text"],
    "defaultOutputModes": ["text"],
    "skills": [],
}


@dataclass(frozen=True, slots=True)
class Form:
    """A multipart request: plain fields, and files as name, content and type."""

    fields: Mapping[str, str]
    files: Mapping[str, tuple[str, bytes, str]] = field(default_factory=dict)


class Turns(list[dict[str, Any]]):
    """Messages over one WebSocket; each is an exchange of its own."""


class Records(list[dict[str, Any]]):
    """The lines of a batch file; each is an exchange of its own."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the client gets. `status` of a WebSocket is 101."""

    status: int
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def exchanges(request: Any) -> int:
    """How many checks and how many records `request` must give."""
    return len(request) if isinstance(request, (Turns, Records)) else 1


Send = Callable[[GuardedProxy, str, Any], Reply]
Requests = Mapping[str, Callable[[str], Any]]


def post(proxy: GuardedProxy, path: str, request: Any, headers: Mapping[str, str] | None = None) -> Reply:
    headers = {**_authorization(), **(headers or {})}
    response = requests.post(proxy.url + path, headers=headers, timeout=SECONDS, **_content(request))
    return Reply(response.status_code, response.content.decode(errors="replace"))


def get(proxy: GuardedProxy, path: str, _: Any) -> Reply:
    response = requests.get(proxy.url + path, headers=_authorization(), timeout=SECONDS)
    return Reply(response.status_code, response.text)


def post_message(proxy: GuardedProxy, path: str, request: Any) -> Reply:
    """One JSON-RPC message to LiteLLM's MCP server, which answers with an event stream."""
    headers = {**_authorization(), "Accept": "application/json, text/event-stream"}
    message = {"jsonrpc": "2.0", "id": 1, **request}
    response = requests.post(proxy.url + path, json=message, headers=headers, timeout=SECONDS)
    data = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    return Reply(response.status_code, data[-1] if data else response.text)


def converse(proxy: GuardedProxy, path: str, turns: Turns) -> Reply:
    """Sends one turn after the other, each after the end of the last, and gives the last event."""
    return Reply(101, asyncio.run(_last_event(proxy.url + path, turns)))


async def _last_event(url: str, turns: Turns) -> str:
    text = ""
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=_authorization()) as socket:
        for turn in turns:
            await socket.send_json(turn)
            while True:
                message = await socket.receive(timeout=SECONDS)
                # LiteLLM 1.83 passes a provider's events on as binary ones.
                text = message.data.decode() if message.type is aiohttp.WSMsgType.BINARY else message.data
                if json.loads(text)["type"] in _LAST_EVENTS:
                    break
    return text


_LAST_EVENTS: Final = ("response.completed", "response.failed", "response.done", "conversation.item.created", "error")


def _authorization() -> dict[str, str]:
    return {"Authorization": f"Bearer {KEY}"}


def _content(request: Any) -> dict[str, Any]:
    if isinstance(request, Form):
        return {"data": request.fields, "files": request.files}
    if isinstance(request, Records):
        lines = "".join(json.dumps(record) + "\n" for record in request)
        return {"data": {"purpose": "batch"}, "files": {"file": ("batch.jsonl", lines, "application/jsonl")}}
    return {"json": request}


def is_refused(reply: Reply) -> bool:
    return reply.status == 403 and BLOCK_MESSAGE in reply.text


def is_tool_error(reply: Reply) -> bool:
    result = reply.json["result"]
    return reply.status == 200 and result["isError"] is True and BLOCK_MESSAGE in result["content"][0]["text"]


def is_error_event(reply: Reply) -> bool:
    return reply.json["type"] in ("error", "response.failed") and BLOCK_MESSAGE in reply.text


def is_without_a_record(reply: Reply) -> bool:
    return reply.status == 200 and len(reply.json["litellm_batch_guardrail"]["modified_records"]) == 1


def is_answered(reply: Reply) -> bool:
    return reply.status in (200, 202)


def is_completed(reply: Reply) -> bool:
    return reply.json["type"] == "response.completed"


def is_tool_result(reply: Reply) -> bool:
    return reply.status == 200 and not reply.json["result"]["isError"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route. `places`: the places of a text, each with the request that carries a given text there.

    `retrieves`: LiteLLM adds text that it looks up, which is checked as well, before the model is called.
    `upstream`: which requests at the mock provider are made for it, as a regular expression for method and path, with
    the method of a JSON-RPC message after them. `path_for_akto`: under which path it is filed, if not under its own.
    `since`: of the releases tested, the first that serves the route and shows it to callbacks. `recorded_since`: the
    first that shows them the answer and the caller too; before it, requests are checked and refused all the same.
    """

    name: str
    path: str
    call_type: str
    upstream: str
    places: Requests
    path_for_akto: str = ""
    server: str = ""
    send: Send = post
    is_answered: Callable[[Reply], bool] = is_answered
    is_blocked: Callable[[Reply], bool] = is_refused
    needs: str = ""
    since: str = ""
    recorded_since: str = ""
    retrieves: bool = False
    # For the table in the README.
    streams: bool = False
    answer_checked: bool = True
    answer_checked_later: str = ""
    masked: bool = True

    @property
    def akto_path(self) -> str:
        return self.path_for_akto or self.path

    @property
    def collection(self) -> str:
        """The host under which Akto must file it: MCP servers have collections of their own."""
        return f"{COLLECTION}.litellm.{self.server}" if self.server else COLLECTION

    def reached(self, log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """The requests in `log`, the mock provider's, that were made for this route."""
        return [entry for entry in log if re.fullmatch(self.upstream, _title(entry))]


def bodies(entries: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The bodies of requests at the mock provider, without what differs from one to the next by chance."""
    return [_comparable(entry["body"]) for entry in entries]


def _comparable(body: Any) -> Any:
    if not isinstance(body, dict):
        return body
    if body.get("purpose") == "batch":
        # Lines that were changed are written anew, with other white space.
        return {**body, "file": [json.loads(line) for line in body["file"].splitlines()]}
    return {name: value for name, value in body.items() if name != "id"} if "jsonrpc" in body else body


def _title(entry: Mapping[str, Any]) -> str:
    body = entry["body"]
    message = f" {body['method']}" if isinstance(body, dict) and "jsonrpc" in body and "method" in body else ""
    return f"{entry['method']} {entry['path']}{message}"


def _chat(*messages: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}, *messages], **more}


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _function(text: str) -> dict[str, Any]:
    return {"name": "f", "description": text, "parameters": {"type": "object", "properties": {}}}


def _called(arguments: Mapping[str, str], result: str) -> list[dict[str, Any]]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": json.dumps(arguments)}}
    asked = {"role": "assistant", "content": None, "tool_calls": [call]}
    return [asked, {"role": "tool", "tool_call_id": "c", "content": result}]


def _schema(text: str) -> dict[str, Any]:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    return {"type": "json_schema", "json_schema": {"name": "n", "description": text, "schema": schema}}


def _claude(*messages: Mapping[str, Any], model: str = "claude", **more: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 9, "messages": [_user("hi"), *messages], **more}


def _tool_use(arguments: Mapping[str, str], result: Any) -> list[dict[str, Any]]:
    use = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": arguments}
    return [
        {"role": "assistant", "content": [use]},
        _user([{"type": "tool_result", "tool_use_id": "toolu_1", "content": result}]),
    ]


def _messages_places(model: str) -> Requests:
    tool = {"name": "f", "input_schema": {"type": "object", "properties": {}}}
    return {
        "user message": lambda text: {**_claude(model=model), "messages": [_user(text)]},
        "content block": lambda text: {**_claude(model=model), "messages": [_user([{"type": "text", "text": text}])]},
        "system string": lambda text: _claude(model=model, system=text),
        "system block": lambda text: _claude(model=model, system=[{"type": "text", "text": text}]),
        "tool description": lambda text: _claude(model=model, tools=[{**tool, "description": text}]),
        "tool_use input": lambda text: _claude(*_tool_use({"q": text}, "ok"), model=model, tools=[tool]),
        "tool_result": lambda text: _claude(*_tool_use({"q": "x"}, text), model=model, tools=[tool]),
    }


def _input(content: Any, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "input": content, **more}


def _turns(model: str) -> Requests:
    def turn(text: str) -> dict[str, Any]:
        return {"type": "response.create", "model": model, "input": [_user(text)]}

    return {
        "first turn": lambda text: Turns([turn(text)]),
        "second turn": lambda text: Turns([turn("hi"), turn(text)]),
    }


_RESPONSES_PLACES: Final[Requests] = {
    "input string": _input,
    "input item": lambda text: _input([_user([{"type": "input_text", "text": text}])]),
    "instructions": lambda text: _input("hi", instructions=text),
    "tool description": lambda text: _input("hi", tools=[{"type": "function", **_function(text)}]),
    "tool output": lambda text: _input([{"type": "function_call_output", "call_id": "c", "output": text}]),
}


def _contents(text: str, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [{"text": text}]}], **more}


def _tool_call(text: str) -> dict[str, Any]:
    return {"method": "tools/call", "params": {"name": "github-echo", "arguments": {"text": text}}}


def _record(number: int, text: str) -> dict[str, Any]:
    return {"custom_id": f"r-{number}", "method": "POST", "url": "/v1/chat/completions", "body": _chat(_user(text))}


def _to_agent(text: str) -> dict[str, Any]:
    message = {"kind": "message", "messageId": "m-1", "role": "user", "parts": [{"kind": "text", "text": text}]}
    return {"jsonrpc": "2.0", "id": "1", "method": "message/send", "params": {"message": message}}


_PICTURE: Final = {"image": ("a.png", b"\x89PNG\r\n\x1a\n", "image/png")}
_SOUND: Final = {"file": ("a.wav", b"RIFF....WAVEfmt ", "audio/wav")}

_RETRIEVAL: Final = {"vector_store_id": "vs_mock", "custom_llm_provider": "openai"}
_INGEST: Final = {"ingest_options": {"vector_store": {"custom_llm_provider": "openai", "vector_store_id": "vs_mock"}}}

ROUTES: Final = [
    Route(
        name="chat completions",
        path="/v1/chat/completions",
        call_type="acompletion",
        upstream="POST /v1/chat/completions",
        places={
            "user message": lambda text: _chat(_user(text)),
            "content part": lambda text: _chat(_user([{"type": "text", "text": text}])),
            "system message": lambda text: _chat({"role": "system", "content": text}),
            "tool description": lambda text: _chat(tools=[{"type": "function", "function": _function(text)}]),
            "tool-call arguments": lambda text: _chat(*_called({"q": text}, "ok")),
            "tool result": lambda text: _chat(*_called({"q": "x"}, text)),
            "functions": lambda text: _chat(functions=[_function(text)]),
            "response_format": lambda text: _chat(response_format=_schema(text)),
            "prediction": lambda text: _chat(prediction={"type": "content", "content": text}),
        },
    ),
    Route(
        name="chat completions, streamed",
        path="/v1/chat/completions",
        call_type="acompletion",
        upstream="POST /v1/chat/completions",
        places={"user message": lambda text: _chat(_user(text), stream=True)},
        streams=True,
    ),
    Route(
        name="completions",
        path="/v1/completions",
        call_type="atext_completion",
        upstream="POST /v1/completions",
        places={
            "prompt": lambda text: {"model": "instruct", "prompt": text},
            "prompt list": lambda text: {"model": "instruct", "prompt": ["hi", text]},
            "suffix": lambda text: {"model": "instruct", "prompt": "hi", "suffix": text},
        },
    ),
    Route(
        name="completions, streamed",
        path="/v1/completions",
        call_type="atext_completion",
        upstream="POST /v1/completions",
        places={"prompt": lambda text: {"model": "instruct", "prompt": text, "stream": True}},
        streams=True,
    ),
    Route(
        name="embeddings",
        path="/v1/embeddings",
        call_type="aembedding",
        upstream="POST /v1/embeddings",
        places={
            "input": lambda text: {"model": "embed", "input": text},
            "input list": lambda text: {"model": "embed", "input": ["hi", text]},
        },
        answer_checked=False,
    ),
    Route(
        name="Responses",
        path="/v1/responses",
        call_type="aresponses",
        upstream="POST /v1/responses",
        places=_RESPONSES_PLACES,
    ),
    Route(
        name="Responses, streamed",
        path="/v1/responses",
        call_type="aresponses",
        upstream="POST /v1/responses",
        places={"input string": lambda text: _input(text, stream=True)},
        streams=True,
    ),
    Route(
        name="Responses, in the background",
        path="/v1/responses",
        call_type="aresponses",
        upstream="POST /v1/responses",
        places={"input string": lambda text: _input(text, background=True)},
        answer_checked=False,
        answer_checked_later="when it is fetched",
    ),
    Route(
        name="Responses, compacted",
        path="/v1/responses/compact",
        call_type="acompact_responses",
        upstream="POST /v1/responses/compact",
        places={
            "input item": lambda text: _input([_user(text)]),
            "instructions": lambda text: _input("hi", instructions=text),
        },
    ),
    Route(
        name="Responses over a WebSocket",
        path="/v1/responses",
        call_type="_aresponses_websocket",
        upstream="WS /v1/responses",
        places=_turns("secure"),
        send=converse,
        is_answered=is_completed,
        is_blocked=is_error_event,
        streams=True,
        answer_checked=False,
        since="1.96.2",
    ),
    Route(
        name="Responses over a WebSocket, passed on by HTTP",
        path="/v1/responses",
        call_type="_aresponses_websocket",
        upstream="POST /v1/(responses|chat/completions)",
        places=_turns("vllm"),
        send=converse,
        is_answered=is_completed,
        is_blocked=is_error_event,
        streams=True,
        answer_checked=False,
        since="1.96.2",
    ),
    Route(
        name="Anthropic messages",
        path="/v1/messages",
        call_type="anthropic_messages",
        upstream="POST /v1/messages",
        places=_messages_places("claude"),
    ),
    Route(
        name="Anthropic messages, streamed",
        path="/v1/messages",
        call_type="anthropic_messages",
        upstream="POST /v1/messages",
        places={"user message": lambda text: _claude(_user(text), stream=True)},
        streams=True,
    ),
    Route(
        name="Anthropic messages with an OpenAI model",
        path="/v1/messages",
        call_type="anthropic_messages",
        upstream="POST /v1/(responses|chat/completions)",
        places=_messages_places("gpt-4o-mini"),
    ),
    Route(
        name="Anthropic messages with an OpenAI model, streamed",
        path="/v1/messages",
        call_type="anthropic_messages",
        upstream="POST /v1/(responses|chat/completions)",
        places={"user message": lambda text: _claude(_user(text), model="gpt-4o-mini", stream=True)},
        streams=True,
    ),
    Route(
        name="Gemini generateContent",
        path="/v1beta/models/gemini:generateContent",
        call_type="agenerate_content",
        upstream="POST /v1beta/models/.+:generateContent",
        places={
            "contents": _contents,
            "systemInstruction": lambda text: _contents("hi", systemInstruction={"parts": [{"text": text}]}),
            "tool description": lambda text: _contents("hi", tools=[{"functionDeclarations": [_function(text)]}]),
        },
    ),
    Route(
        name="Gemini streamGenerateContent",
        path="/v1beta/models/gemini:streamGenerateContent",
        call_type="agenerate_content_stream",
        upstream="POST /v1beta/models/.+:streamGenerateContent",
        places={"contents": _contents},
        streams=True,
    ),
    Route(
        name="image generation",
        path="/v1/images/generations",
        call_type="image_generation",
        upstream="POST /v1/images/generations",
        places={"prompt": lambda text: {"model": "image", "prompt": text}},
        answer_checked=False,
    ),
    Route(
        name="image edits",
        path="/v1/images/edits",
        call_type="aimage_edit",
        upstream="POST /v1/images/edits",
        places={"prompt": lambda text: Form({"model": "image", "prompt": text}, _PICTURE)},
        answer_checked=False,
    ),
    Route(
        name="speech",
        path="/v1/audio/speech",
        call_type="aspeech",
        upstream="POST /v1/audio/speech",
        places={
            "input": lambda text: {"model": "speech", "input": text, "voice": "alloy"},
            "instructions": lambda text: {"model": "speech", "input": "hi", "voice": "alloy", "instructions": text},
        },
        answer_checked=False,
    ),
    Route(
        name="transcription",
        path="/v1/audio/transcriptions",
        call_type="transcription",
        upstream="POST /v1/audio/transcriptions",
        places={"prompt": lambda text: Form({"model": "transcribe", "prompt": text}, _SOUND)},
        answer_checked=False,
    ),
    Route(
        name="moderations",
        path="/v1/moderations",
        call_type="moderation",
        upstream="POST /v1/moderations",
        places={
            "input": lambda text: {"model": "moderate", "input": text},
            "input list": lambda text: {"model": "moderate", "input": ["hi", text]},
        },
        answer_checked=False,
    ),
    Route(
        name="rerank",
        path="/v1/rerank",
        call_type="rerank",
        upstream="POST /v2/rerank",
        places={
            "query": lambda text: {"model": "rerank", "query": text, "documents": ["a", "b"]},
            "document": lambda text: {"model": "rerank", "query": "hi", "documents": ["a", text]},
        },
        answer_checked=False,
    ),
    Route(
        name="vector store search",
        path="/v1/vector_stores/vs_mock/search",
        call_type="avector_store_search",
        upstream="POST /v1/vector_stores/vs_mock/search",
        places={"query": lambda text: {"query": text}},
    ),
    Route(
        name="web search",
        path="/v1/search",
        call_type="asearch",
        upstream="POST /search",
        places={"query": lambda text: {"search_tool_name": "web", "query": text}},
    ),
    Route(
        name="video generation",
        path="/v1/videos",
        call_type="avideo_generation",
        upstream="POST /v1/videos",
        places={"prompt": lambda text: {"model": "video", "prompt": text}},
        answer_checked=False,
    ),
    Route(
        name="OCR",
        path="/v1/ocr",
        call_type="aocr",
        upstream="POST /v1/ocr",
        places={
            "document": lambda text: {
                "model": "ocr",
                "document": {"type": "document_url", "document_url": f"https://example.com/a.pdf?title={text}"},
            },
        },
        answer_checked=False,
    ),
    Route(
        name="MCP tool call",
        path="/mcp/",
        path_for_akto="/mcp",
        server="github",
        call_type="call_mcp_tool",
        upstream="POST /mcp tools/call",
        places={"arguments": _tool_call},
        send=post_message,
        is_answered=is_tool_result,
        is_blocked=is_tool_error,
        recorded_since="1.106.2",
    ),
    Route(
        name="MCP tool call over REST",
        path="/mcp-rest/tools/call",
        path_for_akto="/mcp",
        server="github",
        call_type="call_mcp_tool",
        upstream="POST /mcp tools/call",
        places={"arguments": lambda text: {"server_id": "github", "name": "echo", "arguments": {"text": text}}},
        since="1.96.2",
        recorded_since="1.106.2",
    ),
    Route(
        name="batch file",
        path="/v1/files",
        call_type="acreate_file",
        upstream="POST /v1/files",
        places={"record": lambda text: Records([_record(1, "hi"), _record(2, text)])},
        is_blocked=is_without_a_record,
        answer_checked=False,
        since="1.106.2",
    ),
    Route(
        name="A2A agent",
        path="/a2a/helper",
        call_type="asend_message",
        upstream="POST /agent message/send",
        places={"message": _to_agent},
        needs="a2a",
        since="1.96.2",
    ),
    Route(
        name="queued chat completions",
        path="/queue/chat/completions",
        call_type="acompletion",
        upstream="POST /v1/chat/completions",
        places={"user message": lambda text: _chat(_user(text), priority=0)},
        answer_checked=False,
    ),
    Route(
        name="RAG query",
        path="/v1/rag/query",
        call_type="aquery",
        upstream="POST /v1/(vector_stores/vs_mock/search|chat/completions)",
        places={"user message": lambda text: {**_chat(_user(text)), "retrieval_config": _RETRIEVAL}},
        retrieves=True,
        answer_checked=False,
        recorded_since="1.96.2",
    ),
    Route(
        name="RAG ingest",
        path="/v1/rag/ingest",
        call_type="aingest",
        upstream="POST /v1/files",
        places={
            "document": lambda text: Form(
                {"request": json.dumps(_INGEST)}, {"file": ("a.txt", text.encode(), "text/plain")}
            )
        },
        answer_checked=False,
        since="1.96.2",
    ),
    Route(
        name="pass-through endpoint",
        path="/support",
        call_type="pass_through_endpoint",
        upstream="POST /support/tickets",
        places={"body": lambda text: {"ticket": {"note": text}}},
        answer_checked=False,
    ),
    Route(
        name="pass-through to OpenAI",
        path="/openai_passthrough/v1/chat/completions",
        call_type="pass_through_endpoint",
        upstream="POST (/v1)+/chat/completions",
        places={"user message": lambda text: _chat(_user(text))},
        answer_checked=False,
    ),
    Route(
        name="pass-through to OpenAI, streamed",
        path="/openai_passthrough/v1/chat/completions",
        call_type="pass_through_endpoint",
        upstream="POST (/v1)+/chat/completions",
        places={"user message": lambda text: _chat(_user(text), stream=True)},
        streams=True,
        answer_checked=False,
    ),
    Route(
        name="pass-through to Anthropic",
        path="/anthropic/v1/messages",
        call_type="pass_through_endpoint",
        upstream="POST /v1/messages",
        places={"user message": lambda text: _claude(_user(text)), "system string": lambda text: _claude(system=text)},
        answer_checked=False,
    ),
    Route(
        name="pass-through to vLLM with a router model",
        path="/vllm/v1/chat/completions",
        call_type="allm_passthrough_route",
        upstream="POST (/v1)+/chat/completions",
        places={"user message": lambda text: {**_chat(_user(text)), "model": "vllm"}},
        answer_checked=False,
        recorded_since="1.106.2",
    ),
    Route(
        name="pass-through to vLLM with a router model, streamed",
        path="/vllm/v1/chat/completions",
        call_type="allm_passthrough_route",
        upstream="POST (/v1)+/chat/completions",
        places={"user message": lambda text: {**_chat(_user(text), stream=True), "model": "vllm"}},
        streams=True,
        answer_checked=False,
        recorded_since="1.106.2",
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchecked:
    """Routes that LiteLLM serves without calling any callback before the text leaves, with an example.

    `upstream` is empty where the mock provider cannot be reached by it: then only its refusal is tested.
    """

    name: str
    paths: Sequence[str]
    path: str
    request: Any
    send: Send = post
    upstream: str = ""
    since: str = ""


_BLOCK: Final = "please zebra-block this"
_EVENT: Final = {"type": "conversation.item.create", "item": {"type": "message", "content": _BLOCK}}
_NOTES: Final = {"file": ("a.txt", _BLOCK.encode(), "text/plain")}

UNCHECKED: Final = [
    Unchecked(
        name="assistants",
        paths=["/v1/assistants"],
        path="/v1/assistants",
        request={"model": "gpt-4o-mini", "instructions": _BLOCK},
        upstream="POST /v1/assistants",
    ),
    Unchecked(
        name="threads, their messages and runs",
        paths=["/v1/threads", "/v1/threads/{id}/messages", "/v1/threads/{id}/runs"],
        path="/v1/threads/thread_mock/messages",
        request=_user(_BLOCK),
        upstream="POST /v1/threads/.+",
    ),
    Unchecked(
        name="token counting",
        paths=[
            "/v1/messages/count_tokens",
            "/claude_code_gateway/v1/messages/count_tokens",
            "/v1beta/models/{model}:countTokens",
            "/utils/token_counter",
        ],
        path="/v1/messages/count_tokens",
        request={"model": "claude", "messages": [_user(_BLOCK)]},
        upstream="POST /v1/messages/count_tokens",
        since="1.106.2",
    ),
    Unchecked(
        name="token counting for Responses",
        paths=["/v1/responses/input_tokens"],
        path="/v1/responses/input_tokens",
        request=_input(_BLOCK),
        upstream="POST /v1/responses/input_tokens",
        since="1.106.2",
    ),
    Unchecked(
        name="realtime",
        paths=["/v1/realtime", "/v1/realtime/translations", "/v1/live/sessions"],
        path="/v1/realtime?model=realtime",
        request=Turns([_EVENT]),
        send=converse,
        upstream="WS /v1/realtime",
    ),
    Unchecked(
        name="sessions and calls of realtime",
        paths=["/v1/realtime/client_secrets", "/v1/realtime/calls"],
        path="/v1/realtime/client_secrets",
        request={"model": "realtime", "session": {"type": "realtime", "model": "realtime", "instructions": _BLOCK}},
    ),
    Unchecked(
        name="WebSockets on pass-through",
        paths=["/openai_passthrough/{path}", "/vertex_ai/live", "/deepgram/v1/listen", "/deepgram/v1/speak"],
        path="/openai_passthrough/v1/responses?model=gpt-4o-mini",
        request=Turns([_EVENT]),
        send=converse,
    ),
    Unchecked(
        name="bodies that are not JSON (multipart, for example) on pass-through",
        paths=["a path of yours"],
        path="/support",
        request=Form({"note": _BLOCK}, _NOTES),
        upstream="POST /support/tickets",
    ),
    Unchecked(
        name="MCP prompts, resources and completions",
        paths=["/mcp", "/{server}/mcp"],
        path="/mcp/",
        request={"method": "prompts/get", "params": {"name": "github-ask", "arguments": {"text": _BLOCK}}},
        send=post_message,
        upstream="POST /mcp prompts/get",
    ),
    Unchecked(
        name="files other than batches",
        paths=["/v1/files"],
        path="/v1/files",
        request=Form({"purpose": "user_data"}, _NOTES),
        upstream="POST /v1/files",
    ),
    Unchecked(
        name="files of containers",
        paths=["/v1/containers/{id}/files"],
        path="/v1/containers/cntr_mock/files",
        request=Form({}, _NOTES),
    ),
    Unchecked(
        name="skills",
        paths=["/v1/skills", "/v1/skills/{id}/versions"],
        path="/v1/skills",
        request=Form({"display_title": _BLOCK}, {"files[]": ("notes/SKILL.md", _BLOCK.encode(), "text/markdown")}),
    ),
]
SERVED_UNCHECKED: Final = [route for route in UNCHECKED if route.upstream]


def readme_table() -> str:
    """The table of routes in the README. Streamed and whole answers of a route share a row."""
    rows = ["| route | request checked, masked, recorded | answer checked |", "| --- | --- | --- |"]
    rows += [
        f"| {route.name}: `{_readable(route.path)}` | yes | {_answer_checked(route)} |"
        for route in ROUTES
        if not route.name.endswith(", streamed")
    ]
    for unchecked in UNCHECKED:
        paths = ", ".join(f"`{path}`" for path in unchecked.paths)
        rows += [f"| {unchecked.name}: {paths} | **no** | no |"]
    return "\n".join(rows) + "\n"


def _readable(path: str) -> str:
    named = {
        "/models/gemini:": "/models/{model}:",
        "vs_mock": "{id}",
        "helper": "{agent}",
        "/support": "a path of yours",
    }
    for example, name in named.items():
        path = path.replace(example, name)
    return path


def _answer_checked(route: Route) -> str:
    return "yes" if route.answer_checked else route.answer_checked_later or "no"
