"""The providers' HTTP surfaces. Every answer says something back; all requests are kept under `/_mock/requests`.

Words in a request steer the answer: `please fail` gives HTTP 500, `rate limit` 429, `call a tool` a tool call, `a long
answer` 440,000 characters, `slowly` a pause of a second before each part of a stream, `break off` a connection cut in
mid-stream.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from aiohttp import web

from mock_llm import shapes

REQUESTS = web.AppKey("requests", list[dict[str, Any]])


def application() -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app[REQUESTS] = []
    app.router.add_get("/_mock/requests", _requests)
    app.router.add_delete("/_mock/requests", _reset)
    app.router.add_post("/v1/{route:.+}", _model_call)
    return app


async def _requests(request: web.Request) -> web.Response:
    return web.json_response({"requests": request.app[REQUESTS]})


async def _reset(request: web.Request) -> web.Response:
    request.app[REQUESTS].clear()
    return web.json_response({})


async def _model_call(request: web.Request) -> web.StreamResponse:
    route = request.match_info["route"]
    body = await request.json()
    request.app[REQUESTS].append({"route": route, "body": body, "headers": dict(request.headers)})
    asked = json.dumps(body)
    if "please fail" in asked:
        return _error(500, "the model is out of order")
    if "rate limit" in asked:
        return _error(429, "slow down")
    if route not in shapes.ANSWERS:
        return _error(404, f"no such route: {route}")
    if not body.get("stream"):
        return web.json_response(shapes.ANSWERS[route](body))
    return await _streamed(request, shapes.STREAMS[route](body), asked)


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "server_error", "code": None}}, status=status)


async def _streamed(request: web.Request, events: Iterator[bytes], asked: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number, event in enumerate(events):
        if "slowly" in asked:
            await asyncio.sleep(1)
        if "break off" in asked and number == 3:
            assert request.transport is not None
            request.transport.abort()
            return response
        await response.write(event)
    await response.write_eof()
    return response
