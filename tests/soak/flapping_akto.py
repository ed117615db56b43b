"""`python -m soak.flapping_akto PORT`: an Akto that allows everything, or is out of order in the way it is told.

Control: `PUT /_soak?mode=...` (see `_MODES`), `GET /_soak` with what it judged and took so far. Only numbers are kept.
"""

from __future__ import annotations

import asyncio
import re
import sys

from aiohttp import web

_NUMBER = re.compile(rb"soak number (\d{9})")
_RECORD_ID = re.compile(rb"x-akto-record-id[^0-9a-f]+([0-9a-f]{32})")
_VERDICT = b'{"success":true,"data":{"guardrailsResult":{"Allowed":true,"Modified":false,"ModifiedPayload":""}}}'
_FAIL_OPEN = b'{"success":true,"data":{"guardrailsResult":{"Allowed":true,"failOpen":true,"error":"timeout"}}}'
_STATUSES = {"throttling": 429, "failing": 502, "refusing": 500}
_MODES = ("well", "resetting", "hanging", "failing open", *_STATUSES)


class FlappingAkto:
    """`judged` and `recorded`: numbers of the requests whose check or record it answered as it should."""

    def __init__(self) -> None:
        self.mode = "well"
        self.judged: set[int] = set()
        self.recorded: set[int] = set()
        self.record_ids: set[bytes] = set()
        self.records = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/_soak":
            return self._control(request)
        body = await request.read()
        mode = self.mode
        if mode == "hanging":
            await asyncio.sleep(60)
        if mode in ("resetting", "hanging"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if mode in _STATUSES:
            return web.Response(status=_STATUSES[mode])
        is_record = request.query.get("ingest_data") == "true"
        if mode == "failing open" and not is_record:
            return web.Response(body=_FAIL_OPEN, content_type="application/json")
        self._note(body, is_record)
        return web.Response(body=_VERDICT, content_type="application/json")

    def _note(self, body: bytes, is_record: bool) -> None:
        found = _NUMBER.search(body)
        assert found is not None
        (self.recorded if is_record else self.judged).add(int(found[1]))
        if is_record:
            record_id = _RECORD_ID.search(body)
            assert record_id is not None
            self.record_ids.add(record_id[1])
            self.records += 1

    def _control(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT":
            assert request.query["mode"] in _MODES
            self.mode = request.query["mode"]
            return web.json_response({})
        return web.json_response(
            {
                "judged": sorted(self.judged),
                "recorded": sorted(self.recorded),
                "records": self.records,
                "record_ids": len(self.record_ids),
            }
        )


async def _serve(port: int) -> None:
    server = web.Server(FlappingAkto().handle, access_log=None)
    await asyncio.get_running_loop().create_server(server, "0.0.0.0", port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
