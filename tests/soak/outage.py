"""`python -m soak.outage`: 10 minutes (OUTAGE_SECONDS) without Akto at 20 requests a second, and what arrives after it.

With the default settings. Fails when a request was not answered, or when a record is missing, comes twice, or comes out
of the order of its session.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
from testcontainers.core.config import testcontainers_config
from testcontainers.core.network import Network

from integration.containers import READY_SECONDS, GuardedProxy, MockAkto, MockLlm, chat_body
from soak.__main__ import remove_containers

_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "600"))
_A_SECOND = 20
_SESSIONS = 50
_PADDING = "The quick brown fox jumps over the lazy dog. " * 30
_DOWN: dict[str, Any] = {"status": 503, "raw_body": "down"}
_RECOVERY_SECONDS = 300


async def _ask_for_a_while(url: str) -> list[int]:
    """Sends numbered requests at an even rate; gives their statuses."""
    headers = {"Authorization": "Bearer sk.checkout-agent"}
    begin = time.monotonic()
    async with aiohttp.ClientSession(headers=headers) as session:

        async def ask(number: int) -> int:
            await asyncio.sleep(begin + number / _A_SECOND - time.monotonic())
            own = {"x-session-id": f"session-{number % _SESSIONS}"}
            body = chat_body(f"number {number:06} {_PADDING}")
            async with session.post(f"{url}/v1/chat/completions", json=body, headers=own) as answer:
                await answer.read()
                return answer.status

        return await asyncio.gather(*map(ask, range(int(_SECONDS * _A_SECOND))))


def _wait_for_records(akto: MockAkto, count: int) -> tuple[list[dict[str, Any]], float]:
    began = time.monotonic()
    while True:
        taken = [call for call in akto.calls("record") if call["status"] == 200]
        if len(taken) >= count or time.monotonic() - began > _RECOVERY_SECONDS:
            return taken, time.monotonic() - began
        time.sleep(2)


def _number_of(record: dict[str, Any]) -> int:
    found = re.search(r"number (\d+)", record["body"]["requestPayload"])
    assert found is not None
    return int(found[1])


def main() -> int:
    with tempfile.TemporaryDirectory() as directory, Network() as network:
        Path(directory).chmod(0o755)
        akto = MockAkto(network).start()
        MockLlm(network).start()
        proxy = GuardedProxy(network, Path(directory))
        proxy.container.start()
        proxy.wait_until_ready("/health/readiness", READY_SECONDS)
        for kind in ("check", "record"):
            akto.answer(kind, _DOWN)
        statuses = asyncio.run(_ask_for_a_while(proxy.url))
        # What was refused meanwhile is of no interest, and a lot to ask for.
        akto.forget_calls()
        for kind in ("check", "record"):
            akto.answer_normally(kind)
        records, seconds = _wait_for_records(akto, len(statuses))
        problems = list(_problems(statuses, records))
        print(f"{len(statuses)} requests in {_SECONDS:.0f} s without Akto, {statuses.count(200)} answered")
        print(f"{len(records)} records arrived within {seconds:.0f} s after it")
        proxy.container.get_wrapped_container().stop(timeout=30)
        print(proxy.guard_log().splitlines()[-1])
        remove_containers()
    print("\n".join(problems) or "all there, once, in the order of their sessions")
    return 1 if problems else 0


def _problems(statuses: list[int], records: list[dict[str, Any]]) -> list[str]:
    found = [_number_of(record) for record in records]
    problems: list[str] = []
    if set(statuses) != {200}:
        problems.append(f"answered with {sorted(set(statuses))}")
    if sorted(found) != list(range(len(statuses))):
        problems.append(f"{len(set(range(len(statuses))) - set(found))} missing, {len(found) - len(set(found))} twice")
    for session in range(_SESSIONS):
        own = [number for number in found if number % _SESSIONS == session]
        if own != sorted(own):
            problems.append(f"session {session} is out of order")
    ids = {json.loads(record["body"]["requestHeaders"])["x-akto-record-id"] for record in records}
    if len(ids) != len(records):
        problems.append("ids come twice")
    return problems


if __name__ == "__main__":
    testcontainers_config.ryuk_disabled = True
    remove_containers()
    sys.exit(main())
