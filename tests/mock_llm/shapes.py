"""Answers of language models in the providers' own shapes, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

Body = dict[str, Any]

_CREATED = 1767225600
_CHAT_USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}
_TOOL_CALL = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
ANSWER = "Hello from the mock model."


def _asks_for_tool(body: Body) -> bool:
    return "call a tool" in json.dumps(body)


def chat(body: Body) -> Body:
    message: Body = {"role": "assistant", "content": ANSWER}
    if "a long answer" in json.dumps(body):
        message["content"] = ANSWER + " And so on." * 40_000
    if _asks_for_tool(body):
        message = {"role": "assistant", "content": None, "tool_calls": [_chat_tool_call()]}
    return {
        "id": "chatcmpl-mock",
        "object": "chat.completion",
        "created": _CREATED,
        "model": body["model"],
        "choices": [
            {"index": 0, "finish_reason": "tool_calls" if "tool_calls" in message else "stop", "message": message}
        ],
        "usage": _CHAT_USAGE,
    }


def _chat_tool_call() -> Body:
    return {"id": "call_1", "type": "function", "function": _TOOL_CALL}


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
        name, arguments = _TOOL_CALL["name"], _TOOL_CALL["arguments"]
        start = {"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": ""}}
        yield chunk({"tool_calls": [start]})
        for part in (arguments[:9], arguments[9:]):
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk({}, "tool_calls")
    else:
        for word in ANSWER.split(" "):
            yield chunk({"content": word if word == "Hello" else f" {word}"})
        yield chunk({}, "stop")
    yield b"data: [DONE]\n\n"


def completion(body: Body) -> Body:
    choice = {"index": 0, "text": ANSWER, "finish_reason": "stop", "logprobs": None}
    head = {"id": "cmpl-mock", "object": "text_completion", "created": _CREATED, "model": body["model"]}
    return {**head, "choices": [choice], "usage": _CHAT_USAGE}


def completion_stream(body: Body) -> Iterator[bytes]:
    head = {"id": "cmpl-mock", "object": "text_completion", "created": _CREATED, "model": body["model"]}
    for word in ANSWER.split(" "):
        text = word if word == "Hello" else f" {word}"
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
    part = {"type": "output_text", "text": ANSWER, "annotations": []}
    message = {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part]}
    return {
        "id": "resp_mock",
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "model": body["model"],
        "output": [message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12},
    }


def responses_stream(body: Body) -> Iterator[bytes]:
    whole = responses(body)
    yield _event("response.created", {"response": {**whole, "status": "in_progress", "output": []}})
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    for word in ANSWER.split(" "):
        text = word if word == "Hello" else f" {word}"
        yield _event("response.output_text.delta", {**place, "delta": text})
    yield _event("response.output_text.done", {**place, "text": ANSWER})
    yield _event("response.completed", {"response": whole})


def messages(body: Body) -> Body:
    return {
        "id": "msg_mock",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [{"type": "text", "text": ANSWER}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 9, "output_tokens": 3},
    }


def messages_stream(body: Body) -> Iterator[bytes]:
    start = {**messages(body), "content": [], "stop_reason": None}
    yield _event("message_start", {"message": start})
    yield _event("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}})
    for word in ANSWER.split(" "):
        text = word if word == "Hello" else f" {word}"
        yield _event("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}})
    yield _event("content_block_stop", {"index": 0})
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield _event("message_delta", {"delta": delta, "usage": {"output_tokens": 3}})
    yield _event("message_stop", {})


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


def generated(_: Body) -> Body:
    """Gemini's generateContent."""
    content = {"role": "model", "parts": [{"text": ANSWER}]}
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
    return {"candidates": [{"index": 0, "content": content, "finishReason": "STOP"}], "usageMetadata": usage}


def generated_stream(body: Body) -> Iterator[bytes]:
    whole = generated(body)
    for word in ANSWER.split(" "):
        text = word if word == "Hello" else f" {word}"
        yield _data({"candidates": [{"index": 0, "content": {"role": "model", "parts": [{"text": text}]}}]})
    end = {"index": 0, "content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}
    yield _data({**whole, "candidates": [end]})


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
