"""The two calls to Akto with aiohttp and nothing else: what a check and a record for each request cost with a library.

A callback for LiteLLM that reads no verdict, knows no agent and loses records. It is mounted next to the config of its
proxy, so it imports nothing of the benchmark.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import aiohttp
import orjson
from litellm.integrations.custom_logger import CustomLogger


class BareCalls(CustomLogger):
    """One POST before the model is called, one after it has answered."""

    def __init__(self) -> None:
        super().__init__()
        self._url = f"{os.environ['DATA_INGESTION_SERVICE_URL']}/api/http-proxy?akto_connector=litellm&"
        self._headers = {"Authorization": os.environ["AKTO_API_TOKEN"], "Content-Type": "application/json"}
        self._session: aiohttp.ClientSession | None = None
        self._records: set[asyncio.Task[None]] = set()

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        await self._post("guardrails=true", _envelope(data, None))

    async def async_post_call_success_hook(self, data: dict[str, Any], user_api_key_dict: Any, response: Any) -> None:
        record = asyncio.create_task(self._post("ingest_data=true", _envelope(data, response.model_dump())))
        self._records.add(record)
        record.add_done_callback(self._records.discard)

    async def _post(self, flag: str, body: bytes) -> None:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0)
            self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        async with self._session.post(self._url + flag, data=body, headers=self._headers) as answer:
            await answer.read()


def _envelope(data: dict[str, Any], answer: object) -> bytes:
    request = {"body": {"model": data["model"], "messages": data["messages"]}}
    payloads = {"requestPayload": request, "responsePayload": {"body": answer}}
    envelope = {name: orjson.dumps(payload).decode() for name, payload in payloads.items()}
    return orjson.dumps({"path": "/v1/chat/completions", "method": "POST", **envelope})


handler = BareCalls()
