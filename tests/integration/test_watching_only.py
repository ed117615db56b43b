"""SYNC_MODE=false: requests go on at once, the check runs beside them, violations are logged and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm


@pytest.fixture
def watching(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return shared_proxy(SYNC_MODE="false")


def test_the_mode_is_said_at_start(watching: GuardedProxy) -> None:
    assert "GuardrailsHandler initialized | sync_mode=False" in watching.logs()
    assert "watching only (SYNC_MODE=false)" in watching.logs()


@pytest.mark.parametrize("text", ["zebra-block", "zebra-alert"])
def test_a_violation_is_let_through_logged_and_recorded(
    watching: GuardedProxy, akto: MockAkto, llm: MockLlm, text: str
) -> None:
    response = watching.chat(text)
    assert response.status_code == 200
    assert len(llm.requests()) == 1
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "200"
    assert len(akto.calls("check")) == 1
    (line,) = [line for line in watching.guard_log().splitlines() if response.headers["x-litellm-call-id"] in line]
    assert "violation seen, not enforced" in line


def test_a_slow_check_delays_nobody(watching: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("check", {"status": 200, "body": {}, "delay_ms": 6000})
    began = time.monotonic()
    assert watching.chat("hello").status_code == 200
    assert time.monotonic() - began < 5
    akto.wait_for("check", 1)


def test_a_request_whose_model_call_fails_is_checked_and_recorded_too(watching: GuardedProxy, akto: MockAkto) -> None:
    assert watching.chat("zebra-block, please fail").status_code == 500
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "500"
    (check,) = akto.calls("check")
    assert not check["verdict"]["Allowed"]


def test_nothing_is_masked_and_the_traffic_is_labelled_as_observed(
    watching: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    response = watching.chat("My card is 4111-1111-1111-1111")
    assert response.status_code == 200
    assert "4111-1111-1111-1111" in json.dumps(llm.requests())
    akto.wait_for("record", 1)
    for call in akto.calls():
        assert json.loads(call["body"]["tag"])["mode"] == "observe"
    (line,) = [line for line in watching.guard_log().splitlines() if response.headers["x-litellm-call-id"] in line]
    assert "mask seen, not enforced (SYNC_MODE=false)" in line


def test_a_mask_that_could_not_be_applied_is_not_said_to_refuse(watching: GuardedProxy, akto: MockAkto) -> None:
    masked = {"Allowed": True, "Modified": True, "ModifiedPayload": "not JSON"}
    akto.answer("check", {"status": 200, "body": {"data": {"guardrailsResult": masked}}})
    response = watching.chat("hello")
    assert response.status_code == 200
    akto.wait_for("record", 1)
    (line,) = [line for line in watching.guard_log().splitlines() if response.headers["x-litellm-call-id"] in line]
    assert "mask not applicable, not enforced (SYNC_MODE=false)" in line


@pytest.mark.parametrize("answer", [{"status": 500, "raw_body": ""}, {"connection": "reset"}])
def test_an_akto_in_trouble_is_nobodys_trouble_whatever_the_fallback(
    shared_proxy: Any, akto: MockAkto, llm: MockLlm, answer: dict[str, Any]
) -> None:
    proxy = shared_proxy(SYNC_MODE="off", UNREACHABLE_FALLBACK="fail_closed")
    akto.answer("check", answer)
    assert proxy.chat("hello").status_code == 200
    assert proxy.chat("word " * 60_000).status_code == 200
    akto.wait_for("record", 2)


def test_checks_under_way_are_finished_when_the_container_is_stopped(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy(env={"SYNC_MODE": "false"})
    blocked = {"Allowed": False, "behaviour": "block", "Reason": "r", "Modified": False, "ModifiedPayload": ""}
    akto.answer("check", {"status": 200, "body": {"data": {"guardrailsResult": blocked}}, "delay_ms": 1500})
    assert proxy.chat("hello").status_code == 200
    proxy.container.get_wrapped_container().stop(timeout=30)
    assert "violation seen, not enforced" in proxy.guard_log()
