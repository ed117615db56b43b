"""`python -m bench.lean_model PORT`: a provider that gives the same chat completion every time, and counts.

It answers at once, or after a time between nothing and twice what it is told, at random. A request for a stream gets
the same text word by word, without a pause.
Control: `GET /_bench` gives the count, `PUT /_bench?delay_ms=100` sets it to zero, and that time.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from bench.lean_server import serve
from bench.prompts import MODEL

_TEXT: Final = (
    "Your parcel left our warehouse in Poznań on Monday and is with the carrier. It should reach you by Thursday; "
    "the spare blade is in the same parcel. For the brass fitting you need an adapter from 3/4 to 1/2 inch, which "
    "we have in stock. Shall I add it to your order? "
) * 2
# The chunks with text in a stream.
WORDS: Final = _TEXT.split()
_HEAD: Final[dict[str, Any]] = {"id": "chatcmpl-bench", "created": 1767225600, "model": MODEL}
_ANSWER: Final = json.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _TEXT}}],
        "usage": {"prompt_tokens": 460, "completion_tokens": 120, "total_tokens": 580},
    }
).encode()


def _events() -> Iterator[bytes]:
    deltas = [{"role": "assistant", "content": ""}, *({"content": f"{word} "} for word in WORDS), {}]
    for number, delta in enumerate(deltas, 1):
        end = "stop" if number == len(deltas) else None
        choice = {"index": 0, "delta": delta, "finish_reason": end}
        yield f"data: {json.dumps({**_HEAD, 'object': 'chat.completion.chunk', 'choices': [choice]})}\n\n".encode()
    yield b"data: [DONE]\n\n"


_EVENTS: Final = tuple(_events())


class LeanModel:
    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_bench":
            if request.method == "PUT":
                self.calls = 0
                self.seconds = float(request.query["delay_ms"]) / 1000
            return web.json_response({"calls": self.calls})
        body = await request.read()
        # LiteLLM looks up the list of models when it starts.
        self.calls += request.method == "POST"
        if self.seconds:
            await asyncio.sleep(random.uniform(0, 2 * self.seconds))
        if b'"stream":true' in body.replace(b" ", b""):
            return await _stream(request)
        return web.Response(body=_ANSWER, content_type="application/json")


async def _stream(request: web.BaseRequest) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in _EVENTS:
        await response.write(event)
    await response.write_eof()
    return response


if __name__ == "__main__":
    serve(LeanModel().handle, int(sys.argv[1]))
