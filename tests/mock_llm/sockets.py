"""The WebSocket routes of OpenAI: Responses and Realtime."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from mock_llm.said import SAID
from mock_llm.shapes import responses


async def converse(request: web.Request, path: str, log: list[dict[str, Any]]) -> web.WebSocketResponse:
    """Answers every message of one connection. Each is kept in `log` like a request of its own."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    if path == "realtime":
        await socket.send_json({"type": "session.created", "event_id": "e-0", "session": {"id": "sess_mock"}})
    async for message in socket:
        event = json.loads(message.data)
        log.append({"method": "WS", "path": request.path, "body": event, "headers": dict(request.headers)})
        for answer in _realtime(event) if path == "realtime" else _turn(event):
            if "slowly" in message.data:
                await asyncio.sleep(1)
            await socket.send_json(answer)
    return socket


def _turn(event: dict[str, Any]) -> list[dict[str, Any]]:
    """One turn of the Responses API."""
    whole = responses({"model": event.get("model", "mock")})
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return [
        {"type": "response.created", "response": {**whole, "status": "in_progress", "output": []}},
        *({"type": "response.output_text.delta", **place, "delta": word} for word in SAID.words()),
        {"type": "response.completed", "response": whole},
    ]


def _realtime(event: dict[str, Any]) -> list[dict[str, Any]]:
    if event.get("type") != "response.create":
        return [{"type": "conversation.item.created", "event_id": "e-1", "item": event.get("item")}]
    head = {"id": "resp_mock", "object": "realtime.response", "status": "completed"}
    part = {"type": "text", "text": SAID.text}
    item = {"id": "item_1", "type": "message", "role": "assistant", "content": [part]}
    return [{"type": "response.done", "event_id": "e-2", "response": {**head, "output": [item]}}]
