"""`python -m bench.lean_model PORT`: a provider that gives the same chat completion at once, and counts.

Control: `GET /_bench` gives the count, `PUT /_bench` sets it to zero.
"""

from __future__ import annotations

import json
import sys
from typing import Final

from aiohttp import web

from bench.lean_server import serve
from bench.prompts import MODEL

_TEXT: Final = (
    "Your parcel left our warehouse in Poznań on Monday and is with the carrier. It should reach you by Thursday; "
    "the spare blade is in the same parcel. For the brass fitting you need an adapter from 3/4 to 1/2 inch, which "
    "we have in stock. Shall I add it to your order? "
)
_ANSWER: Final = json.dumps(
    {
        "id": "chatcmpl-bench",
        "object": "chat.completion",
        "created": 1767225600,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _TEXT * 2}}],
        "usage": {"prompt_tokens": 460, "completion_tokens": 120, "total_tokens": 580},
    }
).encode()


class LeanModel:
    def __init__(self) -> None:
        self.calls = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_bench":
            self.calls = 0 if request.method == "PUT" else self.calls
            return web.json_response({"calls": self.calls})
        await request.read()
        # LiteLLM looks up the list of models when it starts.
        self.calls += request.method == "POST"
        return web.Response(body=_ANSWER, content_type="application/json")


if __name__ == "__main__":
    serve(LeanModel().handle, int(sys.argv[1]))
