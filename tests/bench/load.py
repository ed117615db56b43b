"""`python -m bench.load PORT`: the load generator, which plays one round for each `POST /round`.

Closed loop: every connection sends its next request as soon as it has the answer to the last. It runs as a container
on the proxies' network, because a published port would put one more process between the two.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any, Final

import aiohttp
from aiohttp import web

from bench.lean_server import serve
from bench.prompts import STREAMED, bodies

_REQUEST_SECONDS: Final = 60
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Order:
    """`lead`: seconds at the beginning whose answers are not measured; `seconds`: those that are."""

    url: str
    key: str
    connections: int
    prompt: str
    lead: float
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """`requests`: all that were sent. `answered`: those answered while it was measured, which the rest is about.

    `throughput`: answers a second, as the number of connections over the mean time a request took, which is the same in
    a closed loop and knows no half-finished requests at the edges of the round.
    """

    requests: int
    failures: list[str]
    answered: int
    throughput: float
    p50_ms: float
    p99_ms: float


async def play(order: Order) -> Outcome:
    """One round. Requests under way at its end are waited for, but not measured."""
    answers: list[tuple[float, float]] = []
    failures: list[str] = []
    mark = b"data: [DONE]" if order.prompt == STREAMED else b'"choices"'
    begin = time.perf_counter() + order.lead
    end = begin + order.seconds
    before, after = bodies(order.prompt)

    async def one(session: aiohttp.ClientSession) -> None:
        start = time.perf_counter()
        body = b"%s%09d%s" % (before, next(_numbers), after)
        try:
            async with session.post(order.url, data=body) as response:
                text = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            failures.append(type(error).__name__)
            return
        now = time.perf_counter()
        answers.append((now, now - start))
        if response.status != 200 or mark not in text:
            failures.append(f"HTTP {response.status}: {text[:200].decode(errors='replace')}")

    async def connection(session: aiohttp.ClientSession) -> None:
        while time.perf_counter() < end and len(failures) < 10:
            await one(session)

    headers = {"Authorization": f"Bearer {order.key}", "Content-Type": "application/json"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=order.connections),
        timeout=aiohttp.ClientTimeout(total=_REQUEST_SECONDS),
        headers=headers,
    ) as session:
        await asyncio.gather(*(connection(session) for _ in range(order.connections)))
    measured = sorted(seconds for at, seconds in answers if begin <= at < end)
    return _outcome(len(answers), failures, measured, order.connections)


def _outcome(requests: int, failures: list[str], measured: list[float], connections: int) -> Outcome:
    if len(measured) < 2:
        return Outcome(requests, failures, len(measured), 0, 0, 0)
    cuts = statistics.quantiles(measured, n=100, method="inclusive")
    p50, p99 = round(cuts[49] * 1000, 3), round(cuts[98] * 1000, 3)
    return Outcome(requests, failures, len(measured), connections / statistics.fmean(measured), p50, p99)


async def _handle(request: web.BaseRequest) -> web.StreamResponse:
    if request.method != "POST":
        return web.json_response({})
    order: dict[str, Any] = await request.json()
    return web.json_response(asdict(await play(Order(**order))))


if __name__ == "__main__":
    serve(_handle, int(sys.argv[1]))
