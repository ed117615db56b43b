"""Two thousand checks at once that take long: what there is room for is judged, the rest gets the fallback."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import aiohttp

from bench.usage import memory_mib
from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body
from integration.test_outages import stop

REQUESTS = 2_000
ROOM = 1_500
BLOCK = {"data": {"guardrailsResult": {"Allowed": False, "behaviour": "block", "Reason": "Prompt injection detected"}}}
# What the worker may grow by: a request and its answer in LiteLLM, the check and the record in the guard.
MOST_KIB_A_REQUEST = 150


async def ask_all(url: str) -> Counter[int]:
    """Sends all requests at once; gives how often each status came."""
    headers = {"Authorization": "Bearer sk.checkout-agent"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=aiohttp.ClientTimeout(total=300)
    ) as session:

        async def ask(number: int) -> int:
            async with session.post(f"{url}/v1/chat/completions", json=chat_body(f"number {number}")) as answer:
                await answer.read()
                return answer.status

        return Counter(await asyncio.gather(*map(ask, range(REQUESTS))))


def test_a_crowd_of_slow_checks(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    env = {"MAX_CHECKS_AT_ONCE": str(ROOM), "TIMEOUT": "300", "UNREACHABLE_FALLBACK": "fail_closed"}
    proxy: GuardedProxy = start_proxy(env=env)
    assert proxy.chat("hello").status_code == 200
    top = proxy.container.get_wrapped_container().top(ps_args="-eo pid")
    pids = [int(row[0]) for row in top["Processes"]]
    before = memory_mib(pids)["rss"]
    # No answer before all that there is room for are waiting, so that the rest comes while there is none.
    akto.answer("check", {"status": 200, "body": BLOCK, "together": ROOM, "delay_ms": 15_000})
    statuses = asyncio.run(ask_all(proxy.url))
    grown_kib = (memory_mib(pids)["rss"] - before) * 1024 / REQUESTS
    assert statuses == {403: ROOM, 503: REQUESTS - ROOM}
    assert akto.most_in_flight() <= ROOM + 16
    assert grown_kib < MOST_KIB_A_REQUEST, f"{grown_kib:.0f} KiB for each request"
    records = akto.wait_for("record", REQUESTS + 1, seconds=60)
    recorded = Counter(record["body"]["statusCode"] for record in records)
    assert recorded == {"200": 1, "403": ROOM, "503": REQUESTS - ROOM}
    assert len({json.loads(record["body"]["requestHeaders"])["x-akto-record-id"] for record in records}) == REQUESTS + 1
    _, counters = stop(proxy)
    assert counters["unavailable_overload"] == REQUESTS - ROOM
    assert counters["checks_block"] == ROOM
