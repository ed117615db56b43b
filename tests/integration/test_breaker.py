"""While Akto is down nobody pays the time-out again and again, and the guard is back within seconds by itself."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm
from integration.test_outages import stop

HANGS = {"status": 200, "body": {}, "delay_ms": 60_000}
SLOW_BLOCK = {
    "status": 200,
    "body": {"success": True, "data": {"guardrailsResult": {"Allowed": False, "behaviour": "block", "Reason": "no"}}},
    "delay_ms": 4_000,
}


def wait_until_enforced(proxy: GuardedProxy, seconds: float = 10) -> None:
    """Returns once a forbidden request is blocked again."""
    deadline = time.monotonic() + seconds
    while proxy.chat("zebra-block").status_code != 403:
        assert time.monotonic() < deadline, "the guard did not recover"
        time.sleep(0.1)


@pytest.mark.parametrize(("fallback", "status"), [("fail_open", 200), ("fail_closed", 503)])
def test_a_hanging_akto_is_asked_once_a_second_and_trusted_again_when_it_answers(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, fallback: str, status: int
) -> None:
    env = {"TIMEOUT": "2", "UNREACHABLE_FALLBACK": fallback, "MAX_CHECKS_AT_ONCE": "20"}
    proxy: GuardedProxy = start_proxy(env=env)
    wait_until_enforced(proxy)
    asked = len(akto.calls("check"))
    akto.answer("check", HANGS)
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        assert set(pool.map(lambda _: proxy.chat("zebra-block").status_code, range(5))) == {status}
    began = time.monotonic()
    delays = []
    while time.monotonic() - began < 6:
        sent = time.monotonic()
        assert proxy.chat("zebra-block").status_code == status
        delays.append(time.monotonic() - sent)
    probes = len(akto.calls("check")) - asked - 5
    assert 1 <= probes <= 6
    # Only the probes, of which each may have waited for its time-out, were delayed.
    assert sum(delay > 1.5 for delay in delays) <= probes
    assert len(delays) > probes
    akto.answer_normally("check")
    wait_until_enforced(proxy)

    # Overload is a matter of its own: it opens nothing.
    akto.answer("check", SLOW_BLOCK | {"delay_ms": 1_500})
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        statuses = list(pool.map(lambda _: proxy.chat("hello").status_code, range(40)))
    refused = statuses.count(status)
    assert statuses.count(403) == 40 - refused
    assert 0 < refused <= 20
    akto.answer_normally("check")
    assert proxy.chat("zebra-block").status_code == 403

    log = proxy.guard_log()
    assert log.count("failed 5 times in a row") == log.count("answers again") == 1
    _, counters = stop(proxy)
    assert counters["breaker_opened"] == counters["breaker_closed"] == 1
    assert counters["unavailable_breaker_open"] >= len(delays) - probes
    assert counters["unavailable_overload"] == refused
    assert "no verdict from Akto | breaker_open" in log
    assert f"no verdict from Akto | overload | too many checks at once (MAX_CHECKS_AT_ONCE) | {fallback}" in log


def test_payloads_that_akto_refuses_one_by_one_do_not_stop_it_from_being_asked(
    proxy: GuardedProxy, akto: MockAkto
) -> None:
    for answer in ({"status": 422, "body": {"success": False}}, {"status": 500, "raw_body": "oops"}):
        akto.answer("check", answer)
        for _ in range(7):
            assert proxy.chat("hello").status_code == 200
        akto.answer_normally("check")
        assert proxy.chat("zebra-block").status_code == 403
    assert len(akto.calls("check")) == 16
    akto.wait_for("record", 16)
