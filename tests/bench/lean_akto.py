"""`python -m bench.lean_akto PORT`: an Akto that allows everything, counts, and takes as long as it is told.

Control: `GET /_bench` gives the counts, with `?times` the median milliseconds that a check took (timers are late now
and then); `PUT /_bench?delay_ms=20` sets all of that to zero, and the time each check is to take.
The tests' mock Akto keeps every call in memory, which a load would not leave much of.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from typing import Final

from aiohttp import web

from bench.lean_server import serve
from bench.prompts import MARK

_MARK: Final = MARK.encode()
_VERDICT: Final = (
    b'{"success":true,"message":"Request processed successfully","data":{"success":true,"guardrailsResult":'
    b'{"Allowed":true,"Modified":false,"ModifiedPayload":"","Reason":"","behaviour":""}}}'
)
_TAKEN: Final = b'{"success":true,"message":"Request processed successfully","data":{"success":true}}'
_KIND_OF_FLAG: Final = {"guardrails": "checks", "response_guardrails": "answers", "ingest_data": "records"}


class LeanAkto:
    """A call counts when it has been answered. `strange`: calls without the load's prompt in them."""

    def __init__(self) -> None:
        self.delay = 0.0
        self.seconds: list[float] = []
        self.counts = dict.fromkeys(("checks", "answers", "records", "strange"), 0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_bench":
            return self._control(request)
        began = time.perf_counter()
        body = await request.read()
        kinds = [kind for flag, kind in _KIND_OF_FLAG.items() if request.query.get(flag) == "true"]
        judges = kinds != ["records"]
        if judges and self.delay:
            await asyncio.sleep(self.delay)
        if judges:
            self.seconds.append(time.perf_counter() - began)
        is_known = request.path == "/api/http-proxy" and b'"requestPayload"' in body and _MARK in body
        for kind in kinds if kinds and is_known else ["strange"]:
            self.counts[kind] += 1
        return web.Response(body=_VERDICT if judges else _TAKEN, content_type="application/json")

    def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT":
            self.delay = float(request.query["delay_ms"]) / 1000
            self.counts = dict.fromkeys(self.counts, 0)
            self.seconds.clear()
        if "times" in request.query:
            return web.json_response({"check_ms": statistics.median(self.seconds or [0]) * 1000})
        return web.json_response(self.counts)


if __name__ == "__main__":
    serve(LeanAkto().handle, int(sys.argv[1]))
