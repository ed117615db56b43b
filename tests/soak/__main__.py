"""`python -m soak`: 15 minutes (SOAK_SECONDS) at the machine's capacity while Akto comes and goes, and what it shows.

A guarded proxy (fail_closed) and an unguarded one get the same load side by side. Fails when a request was answered
that Akto had not judged, when a request has no record, or when the guarded proxy's memory grew and the other's did not.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import docker
import requests
from testcontainers.core.config import testcontainers_config
from testcontainers.core.network import Network

from bench.prompts import MODEL
from bench.usage import memory_mib
from integration.containers import (
    IMAGE,
    MASTER_KEY,
    READY_SECONDS,
    TEST_LABEL,
    GuardedProxy,
    Mock,
    base_image,
)

_SECONDS = float(os.environ.get("SOAK_SECONDS", "900"))
_CONNECTIONS = 16
_SESSIONS = 50
_FAULTS = ("resetting", "hanging", "failing open", "throttling", "failing", "refusing")
_PADDING = "The quick brown fox jumps over the lazy dog. " * 40
# What a worker may grow by between the first and the last third of a run beyond what LiteLLM alone grows by.
_GROWTH_MIB = 10.0


@dataclass
class Proxy:
    """A proxy under load, and what it answered: statuses by the number of the request."""

    service: GuardedProxy
    pids: list[int]
    statuses: dict[int, int] = field(default_factory=dict)
    memory: list[float] = field(default_factory=list)

    def growth_mib(self) -> float:
        """The median of the last third of the samples less that of the first third after the warm-up."""
        samples = self.memory[len(self.memory) // 10 :]
        third = max(1, len(samples) // 3)
        return statistics.median(samples[-third:]) - statistics.median(samples[:third])


@contextmanager
def stage(directory: Path) -> Iterator[tuple[Mock, Proxy, Proxy]]:
    """Akto, the guarded and the unguarded proxy, ready for load."""
    remove_containers()
    try:
        with Network() as network:
            akto = Mock("soak.flapping_akto", "akto", 8080, network, {})
            model = Mock("bench.lean_model", "lean-model", 8081, network, {})
            for mock, path in ((akto, "/_soak"), (model, "/_bench")):
                mock.container.start()
                mock.wait_until_ready(path)
            guarded = _started(network, directory / "guarded", IMAGE)
            unguarded = _started(network, directory / "unguarded", base_image())
            yield akto, guarded, unguarded
            remove_containers()
    finally:
        remove_containers()


def _started(network: Network, directory: Path, image: str) -> Proxy:
    directory.mkdir()
    params = {"model": f"openai/{MODEL}", "api_base": "http://lean-model:8081/v1", "api_key": "k"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    env = {
        "DATA_INGESTION_SERVICE_URL": "http://akto:8080",
        "UNREACHABLE_FALLBACK": "fail_closed",
        # This Akto knows checks and records alone.
        "STARTUP_PROBE": "off",
        "TIMEOUT": "2",
        "SHUTDOWN_FLUSH_SECONDS": "60",
    }
    service = GuardedProxy(network, directory, config=config, env=env, image=image)
    service.container.start()
    service.wait_until_ready("/health/readiness", READY_SECONDS)
    top = service.container.get_wrapped_container().top(ps_args="-eo pid")
    return Proxy(service, [int(row[0]) for row in top["Processes"]])


async def load(proxy: Proxy, end: float, numbers: Iterator[int]) -> None:
    """Sends requests over all connections, each as soon as the last is answered, until `end`."""

    async def connection(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < end:
            number = next(numbers)
            text = f"soak number {number:09d} {_PADDING}"
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
            headers = {"Authorization": f"Bearer {MASTER_KEY}", "x-session-id": f"session-{number % _SESSIONS}"}
            async with session.post(f"{proxy.service.url}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                proxy.statuses[number] = answer.status

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_CONNECTIONS)) as session:
        await asyncio.gather(*(connection(session) for _ in range(_CONNECTIONS)))


async def flap(akto: Mock, end: float) -> None:
    """Makes Akto come and go: well for some seconds, then one of the faults."""
    chance = random.Random(11)
    while (left := end - time.monotonic()) > 0:
        await asyncio.to_thread(_set, akto, "well")
        await asyncio.sleep(min(left, chance.uniform(5, 15)))
        if end - time.monotonic() > 20:
            await asyncio.to_thread(_set, akto, chance.choice(_FAULTS))
            await asyncio.sleep(chance.uniform(3, 12))
    await asyncio.to_thread(_set, akto, "well")


async def watch(proxies: tuple[Proxy, ...], end: float) -> None:
    """Samples the proxies' memory."""
    while time.monotonic() < end:
        for proxy in proxies:
            proxy.memory.append(memory_mib(proxy.pids)["rss"])
        await asyncio.sleep(min(5, _SECONDS / 60))


async def run(akto: Mock, guarded: Proxy, unguarded: Proxy) -> None:
    """The load on both proxies, with Akto flapping, to its end."""
    end = time.monotonic() + _SECONDS
    numbers = itertools.count()
    await asyncio.gather(
        load(guarded, end, numbers),
        load(unguarded, end, itertools.count()),
        flap(akto, end),
        watch((guarded, unguarded), end),
    )


def _set(akto: Mock, mode: str) -> None:
    requests.put(f"{akto.url}/_soak", params={"mode": mode}, timeout=10).raise_for_status()


def taken(akto: Mock) -> dict[str, Any]:
    """What Akto judged and took."""
    found: dict[str, Any] = requests.get(f"{akto.url}/_soak", timeout=30).json()
    return found


def problems(akto: dict[str, Any], guarded: Proxy, unguarded: Proxy) -> list[str]:
    """What a reader of the figures must not overlook."""
    judged, recorded = set(akto["judged"]), set(akto["recorded"])
    answered = {number for number, status in guarded.statuses.items() if status == 200}
    found = []
    if unjudged := answered - judged:
        found.append(f"{len(unjudged)} requests were answered that Akto had not judged")
    if strange := Counter(guarded.statuses.values()).keys() - {200, 503}:
        found.append(f"answers with status {sorted(strange)}")
    if missing := guarded.statuses.keys() - recorded:
        found.append(f"{len(missing)} requests have no record")
    if akto["record_ids"] != len(guarded.statuses):
        found.append(f"{akto['record_ids']} different records of {len(guarded.statuses)} requests")
    if guarded.growth_mib() > max(0.0, unguarded.growth_mib()) + _GROWTH_MIB:
        found.append("the guarded proxy's memory grew")
    return found


def main() -> int:
    # The reaper's image need not be pulled: this run removes its containers itself.
    testcontainers_config.ryuk_disabled = True
    with tempfile.TemporaryDirectory() as directory, stage(Path(directory)) as (akto, guarded, unguarded):
        asyncio.run(run(akto, guarded, unguarded))
        deadline = time.monotonic() + 120
        while len(taken(akto)["recorded"]) < len(guarded.statuses) and time.monotonic() < deadline:
            time.sleep(1)
        guarded.service.container.get_wrapped_container().stop(timeout=90)
        figures = taken(akto)
        (line,) = [each for each in guarded.service.guard_log().splitlines() if "GuardrailsHandler stopped" in each]
        found = problems(figures, guarded, unguarded)
        statuses = Counter(guarded.statuses.values())
        print(f"{_SECONDS:.0f} s, {_CONNECTIONS} connections, Akto well about two thirds of the time")
        print(f"guarded: {len(guarded.statuses)} requests, {dict(statuses)}")
        print(f"unguarded: {len(unguarded.statuses)} requests, {dict(Counter(unguarded.statuses.values()))}")
        print(f"records: {figures['records']} received, {figures['record_ids']} different")
        print(
            f"memory, MiB: guarded {guarded.memory[0]:.0f} at first, {guarded.memory[-1]:.0f} at last, "
            f"growth {guarded.growth_mib():+.1f}; unguarded {unguarded.memory[0]:.0f}, {unguarded.memory[-1]:.0f}, "
            f"{unguarded.growth_mib():+.1f}"
        )
        print(json.dumps(json.loads(line.split(" | ")[1]), indent=1))
    for problem in found:
        print(f"PROBLEM: {problem}")
    return 1 if found else 0


def remove_containers() -> None:
    for container in docker.from_env().containers.list(all=True, filters={"label": TEST_LABEL}):
        container.remove(force=True)


if __name__ == "__main__":
    sys.exit(main())
