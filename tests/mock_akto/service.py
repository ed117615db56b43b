"""The service's HTTP surface, a log of all it received, and a control surface below `/_mock`.

Control: `GET|DELETE /_mock/calls` (deleting resets everything but the token, with `?only=calls` the log alone);
`PUT|DELETE /_mock/answer/{check|answer|record|auth}` with the `http` part of a fixture (status, headers, body or
raw_body, delay_ms, drip_ms, times, and the `connection` of `wire.break_connection`), with `containing` for those calls
only that have this text in their body, with `together` not before so many calls were waiting at the same time, and
with `then: usual` as ever once `delay_ms` are over;
`PUT /_mock/token` with the one that is accepted;
`PUT /_mock/summary/{session}` with the summary that bare payloads of the session get; `PUT|DELETE /_mock/port/{number}`
to listen on a further port, and to stop that. The `target` of a call is that of its first line, so that a call made
to this service as to a forward proxy can be told by it.

Browsers get a page at `/`, see `page_routes.py`.

The check of a request with `zebra-slow` in it takes three seconds, and so does the check of an answer to one with
`zebra-later`.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from aiohttp import web

from mock_akto.faults import ERROR_PAGE, FAULTS
from mock_akto.limits import Refused, read_envelope
from mock_akto.page_routes import add_page
from mock_akto.policy import Policy, merged, verdict
from mock_akto.shown import collection_of
from mock_akto.state import STATE, State, state_from_environment
from mock_akto.wire import Port, break_connection

LARGEST_CALL = 64 * 1024 * 1024
_SLOW = {"check": "zebra-slow", "answer": "zebra-later"}
_SLOW_SECONDS = 3


def application() -> web.Application:
    app = web.Application(client_max_size=LARGEST_CALL)
    app[STATE] = state_from_environment()
    add_page(app, health=_health)
    app.router.add_get("/healthCheck", _health)
    app.router.add_get("/api/auth-check", _auth_check)
    app.router.add_route("*", "/api/http-proxy", _http_proxy)
    app.router.add_post("/api/ingestData", _ingest_data)
    app.router.add_get("/_mock/calls", _calls)
    app.router.add_delete("/_mock/calls", _reset)
    app.router.add_put("/_mock/answer/{kind}", _set_answer)
    app.router.add_delete("/_mock/answer/{kind}", _unset_answer)
    app.router.add_put("/_mock/token", _set_token)
    app.router.add_put("/_mock/summary/{session}", _set_summary)
    app.router.add_put("/_mock/port/{number}", _open_port)
    app.router.add_delete("/_mock/port/{number}", _close_port)
    return app


async def _health(_: web.Request) -> web.Response:
    return web.json_response({"success": True})


async def _auth_check(request: web.Request) -> web.StreamResponse:
    scripted = _scripted_answer(request.app[STATE], "auth", "")
    if scripted is not None:
        return await _play(request, {}, scripted)
    return web.json_response({"success": True}) if _authorised(request) else _page(401)


async def _ingest_data(request: web.Request) -> web.Response:
    """Recording in bulk; the service never sets `success`, so a 200 carries false."""
    return web.json_response({"success": False}) if _authorised(request) else _page(401)


async def _http_proxy(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    state.in_flight += 1
    state.most_in_flight = max(state.most_in_flight, state.in_flight)
    try:
        return await _handle(request, state)
    finally:
        state.in_flight -= 1


async def _handle(request: web.Request, state: State) -> web.StreamResponse:
    text = await request.text()
    call = {
        "kind": _kind(request),
        "query": dict(request.query),
        "method": request.method,
        "target": request.raw_path,
        "content_type": request.headers.get("Content-Type", ""),
        "authorization": request.headers.get("Authorization", ""),
        "body": _json_or_none(text),
        "verdict": None,
        "milliseconds": None,
    }
    call["collection"] = collection_of(call["body"])
    state.calls.add(call, len(text))
    state.changes += 1
    started = time.monotonic()
    try:
        return await _answered(request, state, call, text)
    finally:
        call["milliseconds"] = round((time.monotonic() - started) * 1000, 1)
        call["left"] = request.transport is None
        state.changes += 1


async def _answered(request: web.Request, state: State, call: dict[str, Any], text: str) -> web.StreamResponse:
    kind = call["kind"]
    if _SLOW.get(kind, text + "?") in text:
        await asyncio.sleep(_SLOW_SECONDS)
    scripted = _scripted_answer(state, kind, text)
    if scripted is not None and scripted.get("then") == "usual":
        await asyncio.sleep(scripted["delay_ms"] / 1000)
    elif scripted is not None:
        return await _play(request, call, scripted)
    return _answer(request, state, call, text)


def _answer(request: web.Request, state: State, call: dict[str, Any], text: str) -> web.Response:
    if not _authorised(request):
        return _noted(call, _page(401))
    if request.content_type != "application/json":
        return _noted(call, _failure("Missing required field: requestPayload", "requestPayload is required"))
    try:
        envelope = read_envelope(text)
    except Refused:
        return _noted(call, _page(500))
    if not envelope.get("requestPayload"):
        return _noted(call, _failure("Missing required field: requestPayload", "requestPayload is required"))
    data: dict[str, Any] = {"success": True, "message": "Request processed successfully"}
    result = _judge(request, state.policy, envelope)
    if result is not None:
        data["guardrailsResult"] = call["verdict"] = result
    return _noted(call, web.json_response({**data, "data": data}))


def _judge(request: web.Request, policy: Policy, envelope: dict[str, str | None]) -> dict[str, Any] | None:
    ask_request, ask_response = _on(request, "guardrails"), _on(request, "response_guardrails")
    on_request = policy.judge(envelope.get("requestPayload"), envelope.get("requestHeaders")) if ask_request else None
    answer = envelope.get("responsePayload")
    if not ask_response:
        return on_request
    on_response = policy.judge(answer, None) if answer else verdict(reason="No response body provided")
    return on_response if on_request is None else merged(on_request, on_response)


async def _play(request: web.Request, call: dict[str, Any], answer: dict[str, Any]) -> web.StreamResponse:
    if answer.get("delay_ms"):
        await asyncio.sleep(answer["delay_ms"] / 1000)
    while request.app[STATE].most_in_flight < answer.get("together", 0):  # noqa: ASYNC110 - it is asked for in one test
        await asyncio.sleep(0.05)
    body = answer.get("raw_body", json.dumps(answer.get("body")))
    if "connection" in answer:
        call["status"] = None
        await break_connection(request, answer["connection"], body.encode())
        return web.Response()
    if answer.get("drip_ms"):
        return await _drip(request, body, answer["drip_ms"] / 1000)
    response = web.Response(status=answer.get("status", 200), body=body.encode())
    response.headers.update(answer.get("headers", {}))
    call["scripted"] = _verdict_in(answer.get("body"))
    return _noted(call, response)


async def _drip(request: web.Request, body: str, pause: float) -> web.StreamResponse:
    """Answers byte by byte, so that no single read takes long."""
    response = web.StreamResponse()
    await response.prepare(request)
    for byte in body.encode():
        await response.write(bytes([byte]))
        await asyncio.sleep(pause)
    return response


def _scripted_answer(state: State, kind: str, text: str) -> dict[str, Any] | None:
    answer = state.answers.get(kind)
    if answer is None and state.fault and kind != "record":
        return FAULTS[state.fault].answer
    if answer is None or answer.get("containing", "") not in text:
        return None
    if "times" in answer:
        answer["times"] -= 1
        if answer["times"] <= 0:
            del state.answers[kind]
    return answer


def _verdict_in(body: Any) -> dict[str, Any] | None:
    data = body.get("data") if isinstance(body, dict) else None
    found = data.get("guardrailsResult") if isinstance(data, dict) else None
    return found if isinstance(found, dict) else None


def _kind(request: web.Request) -> str:
    """What a call asks for: check (of a request), answer (the check of one), record, or more than one with a plus."""
    flags = {"guardrails": "check", "response_guardrails": "answer", "ingest_data": "record"}
    return "+".join(kind for flag, kind in flags.items() if _on(request, flag)) or "record"


def _on(request: web.Request, flag: str) -> bool:
    return request.query.get(flag, "").lower() == "true"


def _authorised(request: web.Request) -> bool:
    token = request.app[STATE].token
    return not token or request.headers.get("Authorization") == token


def _page(status: int) -> web.Response:
    return web.Response(status=status, text=ERROR_PAGE.format(status), content_type="text/html")


def _failure(message: str, error: str) -> web.Response:
    data = {"success": False, "message": message, "error": error}
    return web.json_response({"success": False, "message": message, "data": data}, status=422)


def _noted(call: dict[str, Any], response: web.Response) -> web.Response:
    call["status"] = response.status
    return response


def _json_or_none(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


async def _calls(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return web.json_response({"calls": list(state.calls), "most_in_flight": state.most_in_flight})


async def _reset(request: web.Request) -> web.Response:
    state = request.app[STATE]
    state.calls.clear()
    state.changes += 1
    if "only" in request.query:
        return web.json_response({})
    state.answers.clear()
    state.fault = ""
    state.policy = Policy()
    state.most_in_flight = 0
    return web.json_response({})


async def _set_answer(request: web.Request) -> web.Response:
    request.app[STATE].answers[request.match_info["kind"]] = await request.json()
    return web.json_response({})


async def _unset_answer(request: web.Request) -> web.Response:
    request.app[STATE].answers.pop(request.match_info["kind"], None)
    return web.json_response({})


async def _set_token(request: web.Request) -> web.Response:
    request.app[STATE].token = (await request.json())["token"]
    return web.json_response({})


async def _set_summary(request: web.Request) -> web.Response:
    summary = (await request.json())["summary"]
    request.app[STATE].policy.summaries[request.match_info["session"]] = summary
    return web.json_response({})


async def _open_port(request: web.Request) -> web.Response:
    state, number = request.app[STATE], int(request.match_info["number"])
    if number not in state.ports:
        app = web.Application(client_max_size=LARGEST_CALL)
        app[STATE] = state
        app.router.add_route("*", "/api/http-proxy", _http_proxy)
        state.ports[number] = Port(app, number)
    await state.ports[number].open()
    return web.json_response({})


async def _close_port(request: web.Request) -> web.Response:
    await request.app[STATE].ports[int(request.match_info["number"])].close()
    return web.json_response({})
