"""Answers of language models in the providers' own shapes, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from mock_llm.said import SAID

Body = dict[str, Any]

_CREATED = 1767225600
_CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def _asks_for_tool(body: Body) -> bool:
    asked = json.dumps(body)
    # Once it has the result, a model of the Responses API says what comes of it.
    return "call a tool" in asked and "function_call_output" not in asked


def chat(body: Body) -> Body:
    message: Body = {"role": "assistant", "content": SAID.text}
    if "a long answer" in json.dumps(body):
        message["content"] = SAID.text + " And so on." * 40_000
    if _asks_for_tool(body):
        message = {"role": "assistant", "content": None, "tool_calls": [_chat_tool_call()]}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls" if "tool_calls" in message else "stop",
                "message": message,
                **({"logprobs": {"content": [_token(word) for word in SAID.words()]}} if body.get("logprobs") else {}),
            }
        ],
        "usage": _CHAT_USAGE,
    }


def _token(text: str) -> Body:
    return {"token": text, "logprob": -0.1, "bytes": list(text.encode()), "top_logprobs": []}


def _chat_tool_call() -> Body:
    return {"id": "call_1", "type": "function", "function": {"name": SAID.tool, "arguments": SAID.arguments}}


def chat_stream(body: Body) -> Iterator[bytes]:
    def chunk(delta: Body, finish_reason: str | None = None) -> bytes:
        return _data(
            {
                "id": "chatcmpl-mock",
                "object": "chat.completion.chunk",
                "created": _CREATED,
                "model": body["model"],
                "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}],
            }
        )

    yield chunk({"role": "assistant", "content": ""})
    if _asks_for_tool(body):
        name, arguments = SAID.tool, SAID.arguments
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [start]})
        for part in (arguments[:9], arguments[9:]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk({}, "tool_calls")
    else:
        for text in SAID.words():
            yield chunk({"content": text})
        yield chunk({}, "stop")
    yield b"data: [DONE]\n\n"


def completion(body: Body) -> Body:
    choice = {"index": 0, "text": SAID.text, "finish_reason": "stop", "logprobs": None}
    head = {"id": "cmpl-mock", "object": "text_completion", "created": _CREATED, "model": body["model"]}
    return {**head, "choices": [choice], "usage": _CHAT_USAGE}


def completion_stream(body: Body) -> Iterator[bytes]:
    head = {"id": "cmpl-mock", "object": "text_completion", "created": _CREATED, "model": body["model"]}
    for text in SAID.words():
        yield _data({**head, "choices": [{"index": 0, "text": text, "finish_reason": None, "logprobs": None}]})
    yield _data({**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop", "logprobs": None}]})
    yield b"data: [DONE]\n\n"


def embedding(body: Body) -> Body:
    vector = {"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    return {"object": "list", "model": body["model"], "data": [vector], "usage": usage}


def moderation(body: Body) -> Body:
    result = {"flagged": False, "categories": {}, "category_scores": {}}
    return {"id": "modr-mock", "model": body.get("model", "mock"), "results": [result]}


def responses(body: Body) -> Body:
    part = {"type": "output_text", "text": SAID.text, "annotations": []}
    item: Body = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    if _asks_for_tool(body):
        call = {"call_id": "call_1", "name": SAID.tool, "arguments": SAID.arguments}
        item = {"type": "function_call", "id": "fc_1", "status": "completed", **call}
    return {
        "id": "resp_mock",
        "object": "response",
        "created_at": _CREATED,
        "status": "queued" if body.get("background") else "completed",
        "model": body.get("model", "gpt-4o-mini"),
        "output": [] if body.get("background") else [item],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
    }


def responses_stream(body: Body) -> Iterator[bytes]:
    whole = responses(body)
    yield _event("response.created", {"response": {**whole, "status": "in_progress", "output": []}})
    (item,) = whole["output"]
    place = {"item_id": item["id"], "output_index": 0}
    if _asks_for_tool(body):
        start = {**item, "status": "in_progress", "arguments": ""}
        yield _event("response.output_item.added", {"output_index": 0, "item": start})
        for part in (SAID.arguments[:9], SAID.arguments[9:]):
            yield _event("response.function_call_arguments.delta", {**place, "delta": part})
        yield _event("response.function_call_arguments.done", {**place, "arguments": SAID.arguments})
    else:
        place["content_index"] = 0
        for text in SAID.words():
            yield _event("response.output_text.delta", {**place, "delta": text})
        yield _event("response.output_text.done", {**place, "text": SAID.text})
    yield _event("response.output_item.done", {"output_index": 0, "item": item})
    # As some providers end.
    whole["output"] = [] if "an end without output" in json.dumps(body) else whole["output"]
    yield _event("response.completed", {"response": whole})


def messages(body: Body) -> Body:
    block: Body = {"type": "text", "text": SAID.text}
    if _asks_for_tool(body):
        block = {"type": "tool_use", "id": "toolu_1", "name": SAID.tool, "input": json.loads(SAID.arguments)}
    thoughts = {"type": "thinking", "thinking": SAID.text, "signature": "c2lnbmF0dXJl"}
    return {
        "id": "msg_mock",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [thoughts, block] if "think aloud" in json.dumps(body) else [block],
        "stop_reason": "tool_use" if block["type"] == "tool_use" else "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }


def messages_stream(body: Body) -> Iterator[bytes]:
    whole = messages(body)
    block = whole["content"][-1]
    is_call = block["type"] == "tool_use"
    yield _event("message_start", {"message": {**whole, "content": [], "stop_reason": None}})
    index = 0
    if "think aloud" in json.dumps(body):
        yield from _thoughts()
        index = 1
    empty = {**block, "input": {}} if is_call else {**block, "text": ""}
    yield _event("content_block_start", {"index": index, "content_block": empty})
    parts = (SAID.arguments[:9], SAID.arguments[9:]) if is_call else SAID.words()
    for part in parts:
        delta = {"type": "input_json_delta", "partial_json": part} if is_call else {"type": "text_delta", "text": part}
        yield _event("content_block_delta", {"index": index, "delta": delta})
    yield _event("content_block_stop", {"index": index})
    end = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", {"delta": end, "usage": {"output_tokens": 3}})
    yield _event("message_stop", {})


def _thoughts() -> Iterator[bytes]:
    block = {"type": "thinking", "thinking": "", "signature": ""}
    yield _event("content_block_start", {"index": 0, "content_block": block})
    deltas: list[Body] = [{"type": "thinking_delta", "thinking": part} for part in SAID.words()]
    for delta in [*deltas, {"type": "signature_delta", "signature": "c2lnbmF0dXJl"}]:
        yield _event("content_block_delta", {"index": 0, "delta": delta})
    yield _event("content_block_stop", {"index": 0})


def compacted(body: Body) -> Body:
    """The answer of `/responses/compact`."""
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAAA"}
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    return {
        "id": "resp_mock",
        "object": "response.compaction",
        "created_at": _CREATED,
        "output": [item],
        "usage": usage,
    }


def token_count(_: Body) -> Body:
    return {"input_tokens": 9, "object": "response.input_tokens", "totalTokens": 9}


def generated(body: Body) -> Body:
    """Gemini's generateContent."""
    part: Body = {"text": SAID.text}
    if _asks_for_tool(body):
        part = {"functionCall": {"name": SAID.tool, "args": json.loads(SAID.arguments)}}
    content = {"role": "model", "parts": [part]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
    return {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage}


def generated_stream(body: Body) -> Iterator[bytes]:
    whole = generated(body)
    if "arguments in parts" in json.dumps(body):
        yield from _call_in_parts()
        return
    if _asks_for_tool(body):
        yield _data(whole)
        return
    for text in SAID.words():
        yield _data({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]})
    end = {"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}
    yield _data({**whole, "candidates": [end]})


def _call_in_parts() -> Iterator[bytes]:
    """A call whose arguments are streamed, as Vertex AI does it; the first argument is the text."""
    place = {"jsonPath": "$.note"}
    calls: list[Body] = [
        {"name": SAID.tool, "willContinue": True},
        *(
            {"partialArgs": [{**place, "stringValue": text, "willContinue": True}], "willContinue": True}
            for text in SAID.words()
        ),
        {"partialArgs": [{**place, "stringValue": ""}], "willContinue": True},
        {},
    ]
    for call in calls:
        yield _data({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"functionCall": call}]}}]})


def error_event(path: str) -> bytes:
    """What a stream ends with when a provider cannot go on."""
    if path.endswith("/messages"):
        return _event("error", {"error": {"type": "overloaded_error", "message": "overloaded"}})
    if path.endswith("/responses"):
        return _event("response.failed", {"response": {"id": "resp_mock", "status": "failed", "output": []}})
    return _data({"error": {"code": 503, "message": "overloaded", "status": "UNAVAILABLE"}})


def _data(body: Body) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def _event(kind: str, body: Body) -> bytes:
    return f"event: {kind}\n".encode() + _data({"type": kind, **body})


# By the path of the request, as a regular expression.
ANSWERS: dict[str, Callable[[Body], Body]] = {
    "chat/completions": chat,
    "completions": completion,
    "embeddings": embedding,
    "moderations": moderation,
    "responses": responses,
    "responses/compact": compacted,
    "responses/input_tokens": token_count,
    "responses/resp_[^/]+": responses,
    "messages": messages,
    "messages/count_tokens": token_count,
    "models/[^/]+:generateContent": generated,
    "models/[^/]+:countTokens": token_count,
}
STREAMS: dict[str, Callable[[Body], Iterator[bytes]]] = {
    "chat/completions": chat_stream,
    "completions": completion_stream,
    "responses": responses_stream,
    "messages": messages_stream,
    "models/[^/]+:streamGenerateContent": generated_stream,
}
