"""The HTTP surface. Every answer says something back; all requests are kept under `/_mock/requests`.

Paths are matched without their version (`/v1`, `/v1beta`). Words in a request steer the answer: `please fail` gives
HTTP 500, `rate limit` 429, `call a tool` a tool call, `a long answer` 440,000 characters, `after a while` a pause of
two seconds before anything is answered, `slowly` one of a second before each part of a stream, `break off` a connection
cut in mid-stream, `go wrong` an error event there, `go wrong at once` nothing but that. Of a stream, the number of
`parts` sent so far is kept with its request.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aiohttp import web

from mock_llm import agents, media, retrieval, shapes, sockets
from mock_llm.said import SAID

REQUESTS = web.AppKey("requests", list[dict[str, Any]])

_VERSION = re.compile(r"^(?:/v1beta|/v1)+(?=/)")
_ANSWERS = shapes.ANSWERS | media.ANSWERS | retrieval.ANSWERS | agents.ANSWERS


def application() -> web.Application:
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app[REQUESTS] = []
    app.router.add_get("/_mock/requests", _requests)
    app.router.add_delete("/_mock/requests", _reset)
    app.router.add_put("/_mock/told", _set_told)
    app.router.add_post("/mcp", _mcp)
    app.router.add_route("*", "/{path:.*}", _any)
    return app


async def _requests(request: web.Request) -> web.Response:
    return web.json_response({"requests": request.app[REQUESTS]})


async def _reset(request: web.Request) -> web.Response:
    request.app[REQUESTS].clear()
    SAID.tell()
    return web.json_response({})


async def _set_told(request: web.Request) -> web.Response:
    """Sets what models and the MCP tool `tell` say, and `quote` is described with: `text`, `tool`, `arguments`."""
    SAID.tell(**await request.json())
    return web.json_response({})


async def _any(request: web.Request) -> web.StreamResponse:
    path = _VERSION.sub("", request.path).lstrip("/")
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await sockets.converse(request, path, request.app[REQUESTS])
    body = await _body(request)
    kept = _keep(request, body)
    asked = json.dumps(body)
    if "after a while" in asked:
        await asyncio.sleep(2)
    if "please fail" in asked:
        return _error(500, "the model is out of order")
    if "rate limit" in asked:
        return _error(429, "slow down")
    if request.query.get("stream") == "true":
        after = int(request.query.get("starting_after", -1))
        return await _streamed(request, islice(shapes.responses_stream({}), after + 1, None), asked, kept)
    if isinstance(body, dict) and body.get("method") == "message/stream":
        return await _streamed(request, agents.a2a_stream(body), asked, kept)
    if path.endswith(":streamGenerateContent") or (isinstance(body, dict) and body.get("stream") in (True, "true")):
        stream = _find(shapes.STREAMS, path)
        if stream is not None:
            return await _streamed(request, stream(body), asked, kept)
    answer = _find(_ANSWERS, path)
    if answer is None:
        return _error(404, f"no such route: {path}")
    said = answer(body)
    return web.Response(body=said) if isinstance(said, bytes) else web.json_response(said)


async def _mcp(request: web.Request) -> web.Response:
    message = await request.json()
    _keep(request, message)
    if "after a while" in json.dumps(message):
        await asyncio.sleep(2)
    answer = agents.mcp(message, SAID.text)
    return web.Response(status=202) if answer is None else web.json_response(answer)


def _find(table: dict[str, Any], path: str) -> Any:
    return next((value for pattern, value in table.items() if re.fullmatch(pattern, path)), None)


def _keep(request: web.Request, body: Any) -> dict[str, Any]:
    kept = {"method": request.method, "path": request.path, "body": body, "headers": dict(request.headers)}
    request.app[REQUESTS].append(kept)
    return kept


async def _body(request: web.Request) -> Any:
    """JSON parsed, forms as an object of their fields, everything else as text."""
    if request.content_type.startswith(("multipart/", "application/x-www-form-urlencoded")):
        return {name: _field(value) for name, value in (await request.post()).items()}
    text = await request.text()
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


def _field(value: str | bytes | bytearray | web.FileField) -> str:
    if isinstance(value, web.FileField):
        value = value.file.read()
    return value if isinstance(value, str) else bytes(value).decode(errors="replace")


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "type": "server_error", "code": None}}, status=status)


async def _streamed(
    request: web.Request, events: Iterator[bytes], asked: str, kept: dict[str, Any]
) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for number, event in enumerate(events):
        if "slowly" in asked:
            await asyncio.sleep(1)
        if "break off" in asked and number == 3:
            assert request.transport is not None
            request.transport.abort()
            return response
        if "go wrong" in asked and number == (0 if "go wrong at once" in asked else 3):
            await response.write(shapes.error_event(request.path))
            break
        await response.write(event)
        kept["parts"] = number + 1
    await response.write_eof()
    return response
