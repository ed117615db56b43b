"""What long requests took of a worker's memory is given back after them."""

from __future__ import annotations

import concurrent.futures
from typing import Any

from bench.usage import memory_mib
from integration.containers import GuardedProxy, MockAkto, MockLlm
from integration.test_faults import eventually

AT_ONCE = 16
LONG = "a long prompt " * 15_000
# The mock's own work for small requests moves it by less than 5.
MOST_KEPT_MIB = 20


def test_a_worker_shrinks_again_after_long_requests(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy()
    top = proxy.container.get_wrapped_container().top(ps_args="-eo pid")
    pids = [int(row[0]) for row in top["Processes"]]

    def used() -> float:
        return memory_mib(pids)["rss"]

    def ask(text: str, times: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            assert set(pool.map(lambda _: proxy.chat(text).status_code, range(times))) == {200}

    ask("hello", 300)
    before = used()
    ask(LONG, 200)
    assert eventually(lambda: used() < before + MOST_KEPT_MIB, 20), f"{before:.0f} MiB before, {used():.0f} after"
