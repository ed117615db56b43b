"""The layer around LiteLLM's application: notes each request for the hooks, and holds the routes no hook sees."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

import orjson

from akto_guardrails.breaker import PROBE_SECONDS
from akto_guardrails.client_request import ClientRequest, note_request
from akto_guardrails.exchange import latest
from akto_guardrails.unchecked import MCP, is_mcp_endpoint, is_unchecked_mcp_method, unchecked_family

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

UNCHECKED_REFUSED: Final = (
    "Blocked by Akto Guardrails: the content of this route cannot be checked (UNCHECKED_ROUTES=deny)"
)
_LONGEST_MCP_BODY: Final = 4 * 1024 * 1024
# So many bytes of a stream are read for the record in one go: some milliseconds when they are small events.
_IN_ONE_GO: Final = 16_384


def guarded_application(inner: Application, admits: Callable[[str], bool], roots: Sequence[str] = ()) -> Application:
    """`inner` behind the layer. `admits` is asked, with the family of an unchecked route, whether it may be served.

    `roots`: prefixes of paths that `inner` itself takes off, the longest first.
    """

    async def application(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await inner(scope, receive, send)
            return
        request = begin(scope, roots)
        family = unchecked_family(request.method, request.path, is_websocket=request.is_websocket)
        if family is None and is_mcp_endpoint(request.method, request.path):
            body, receive = await _read_ahead(receive)
            family = MCP if _has_unchecked_method(body) else None
        if family is not None and not admits(family):
            await _refuse(request, family, receive, send)
            return

        async def noting_in_steps(message: Message) -> None:
            body = message["body"]
            for start in range(0, len(body), _IN_ONE_GO):
                request.sent(body[start : start + _IN_ONE_GO], is_last=False)
                await asyncio.sleep(0)
            request.sent(b"", is_last=not message.get("more_body"))
            await send(message)

        def noting_the_answer(message: Message) -> Awaitable[None]:
            # No coroutine of its own, but for long pieces: it is called for each piece of a stream.
            if message["type"] == "http.response.body":
                if request.stream is not None and len(message.get("body", b"")) > _IN_ONE_GO:
                    return noting_in_steps(message)
                is_last = not message.get("more_body")
                if is_last or request.stream is not None:
                    request.sent(message.get("body", b""), is_last=is_last)
            elif message["type"] == "http.response.start":
                request.began(message["status"], message.get("headers", ()))
                message["headers"] = [*message.get("headers", ()), *_outcome_header(request), *_when_to_return(request)]
            return send(message)

        try:
            await inner(scope, receive, noting_the_answer)
        except Exception:  # not handled here: noted for the record, and passed on
            request.has_failed = True
            raise
        finally:
            request.end()

    return application


def begin(scope: MutableMapping[str, Any], roots: Sequence[str] = ()) -> ClientRequest:
    """Notes the request in an ASGI scope for the hooks; what they know of an earlier one does not count for it."""
    latest.set(None)
    return note_request(scope, roots)


def _outcome_header(request: ClientRequest) -> list[tuple[bytes, bytes]]:
    """What the client is told about the guard; nothing where there was nothing to check."""
    return [] if request.outcome is None else [(b"x-akto-guardrails", request.outcome.encode())]


def _when_to_return(request: ClientRequest) -> list[tuple[bytes, bytes]]:
    """How long to wait before trying again, where the client is refused for want of a verdict.

    The SDKs of OpenAI and Anthropic try again twice by themselves, half a second after the first refusal: mostly too
    early, since a service that fails is asked once a second. LiteLLM, as a client, keeps away for so long.
    """
    is_refused = request.is_unverdicted and request.status == 503
    return [(b"retry-after", str(math.ceil(PROBE_SECONDS)).encode())] if is_refused else []


async def _read_ahead(receive: Receive) -> tuple[bytes | None, Receive]:
    """The body of a request, None when it is too long or the client left, and a `receive` that gives it once more."""
    messages: list[Message] = []
    body = bytearray()
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body") or len(body) > _LONGEST_MCP_BODY:
            break
    messages.reverse()

    async def again() -> Message:
        return messages.pop() if messages else await receive()

    is_whole = messages[0]["type"] == "http.request" and not messages[0].get("more_body")
    return (bytes(body) if is_whole else None), again


def _has_unchecked_method(body: bytes | None) -> bool:
    """Whether an MCP message, or one of a batch, calls for what no hook sees; a body that cannot be read counts."""
    if body is None:
        return True
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return True
    messages = parsed if isinstance(parsed, list) else [parsed]
    return any(isinstance(message, dict) and is_unchecked_mcp_method(message.get("method")) for message in messages)


async def _refuse(request: ClientRequest, family: str, receive: Receive, send: Send) -> None:
    """HTTP 403 in the error format of the API that was called; a WebSocket is not opened."""
    if request.is_websocket:
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": UNCHECKED_REFUSED})
        return
    body: dict[str, object]
    error: dict[str, object] = {"message": UNCHECKED_REFUSED, "type": "permission_error"}
    if family == MCP:
        body = {
            "jsonrpc": "2.0",
            "id": None,
            "error": {"code": -32000, "message": UNCHECKED_REFUSED},
        }
    elif "/messages/count_tokens" in request.path:
        body = {"type": "error", "error": error}
    else:
        body = {"error": {**error, "param": None, "code": "403"}}
    headers = [(b"content-type", b"application/json"), *_outcome_header(request)]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(body)})
