"""What an operator sees of the guard: headers, LiteLLM's logging payload, log lines, metrics, and what doctor tells."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import requests

from integration.containers import MASTER_KEY, GuardedProxy, MockAkto, MockLlm, proxy_config
from integration.test_faults import eventually

# Prints what LiteLLM tells its logging callbacks about guardrails.
LISTENER = """
import json
from litellm.integrations.custom_logger import CustomLogger

class Listener(CustomLogger):
    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self.tell("success", kwargs)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self.tell("failure", kwargs)

    async def async_post_call_failure_hook(self, request_data, original_exception, user_api_key_dict, *_, **__):
        metadata = request_data.get("litellm_metadata") or request_data.get("metadata") or {}
        found = metadata.get("standard_logging_guardrail_information")
        print("LISTENER", json.dumps(["refused", found], default=str), flush=True)

    def tell(self, event, kwargs):
        payload = kwargs.get("standard_logging_object") or {}
        print("LISTENER", json.dumps([event, payload.get("guardrail_information")], default=str), flush=True)

listener = Listener()
"""
ROUTES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "{}"}]}),
    "messages": (
        "/v1/messages",
        {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "{}"}]},
    ),
    "responses": ("/v1/responses", {"model": "gpt-4o-mini", "input": "{}"}),
    "embeddings": ("/v1/embeddings", {"model": "embed", "input": "{}"}),
}

SPOKEN = [ROUTES[name] for name in ("chat", "messages", "responses")]


def body_with(body: dict[str, Any], text: str) -> dict[str, Any]:
    return json.loads(json.dumps(body).replace('"{}"', json.dumps(text)))


def heard(proxy: GuardedProxy, event: str, count: int) -> list[dict[str, Any]]:
    """The guard's entries in what LiteLLM told about requests that ended as `event`; waits for `count`."""
    deadline = time.monotonic() + 15
    while True:
        lines = [json.loads(line.removeprefix("LISTENER ")) for line in proxy.logs().splitlines() if "LISTENER" in line]
        found = [entry for kind, entries in lines if kind == event for entry in entries or ()]
        if len(found) >= count or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("text", "status", "outcome"),
    [
        ("hello", 200, "allowed"),
        ("card 4111-1111-1111-1111", 200, "masked"),
        ("zebra-alert", 200, "flagged"),
        ("zebra-block", 403, "blocked"),
    ],
)
@pytest.mark.parametrize(
    ("route", "stream"),
    [*((route, False) for route in ROUTES), *((route, True) for route in ROUTES if route != "embeddings")],
)
def test_the_client_is_told_what_became_of_its_request(
    proxy: GuardedProxy, route: str, text: str, status: int, outcome: str, stream: bool
) -> None:
    path, body = ROUTES[route]
    answer = proxy.post(path, {**body_with(body, text), **({"stream": True} if stream else {})})
    assert answer.status_code == status
    assert answer.headers["x-akto-guardrails"] == outcome
    assert answer.headers["x-litellm-call-id"]
    if status == 200:
        assert "akto" in answer.headers["x-litellm-applied-guardrails"].split(",")


def test_nothing_is_told_where_there_is_nothing_to_check(proxy: GuardedProxy) -> None:
    assert "x-akto-guardrails" not in requests.get(f"{proxy.url}/health/liveliness", timeout=10).headers


def test_an_answer_without_a_verdict_is_called_unchecked(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("check", {"status": 422, "body": {}})
    answer = proxy.chat("hello")
    assert (answer.status_code, answer.headers["x-akto-guardrails"]) == (200, "unchecked")


def test_an_unchecked_route_is_called_unchecked(proxy: GuardedProxy) -> None:
    body = {"model": "claude", "messages": [{"role": "user", "content": "hi"}]}
    assert proxy.post("/v1/messages/count_tokens", body).headers["x-akto-guardrails"] == "unchecked"


def test_what_is_only_watched_is_called_observed(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    answer = shared_proxy(SYNC_MODE="false").chat("zebra-block")
    assert (answer.status_code, answer.headers["x-akto-guardrails"]) == (200, "observed")


def test_litellms_logging_callbacks_have_the_decision(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    config = proxy_config(litellm_settings={"callbacks": ["listener.listener"]})
    proxy: GuardedProxy = start_proxy(config=config, files={"listener.py": LISTENER})
    for path, body in ROUTES.values():
        assert proxy.post(path, body_with(body, "zebra-alert")).status_code == 200
        assert proxy.post(path, body_with(body, "card 4111-1111-1111-1111")).status_code == 200
        assert proxy.post(path, body_with(body, "zebra-block")).status_code == 403
    decisions = {"success": {"flagged": "success", "masked": "guardrail_intervened"}}
    decisions["refused"] = {"blocked": "guardrail_intervened"}
    for event, statuses in decisions.items():
        entries = heard(proxy, event, len(ROUTES) * len(statuses))
        shown = Counter(entry["guardrail_response"]["decision"] for entry in entries)
        assert shown == dict.fromkeys(statuses, len(ROUTES)), (event, entries)
        for entry in entries:
            assert (entry["guardrail_name"], entry["guardrail_provider"]) == ("akto", "akto")
            assert entry["guardrail_mode"] == "pre_call"
            assert entry["guardrail_status"] == statuses[entry["guardrail_response"]["decision"]]
            assert 0 < entry["duration"] < 5
    assert "zebra" not in json.dumps(heard(proxy, "success", 0))
    assert all("metadata" not in request["body"] for request in llm.requests())


UNMAPPABLE = {"data": {"guardrailsResult": {"Allowed": True, "Modified": True, "ModifiedPayload": "no"}}}


def test_a_refused_answer_is_shown_too(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    config = proxy_config(litellm_settings={"callbacks": ["listener.listener"]})
    proxy: GuardedProxy = start_proxy(
        config=config, files={"listener.py": LISTENER}, env={"RESPONSE_GUARDRAILS": "true"}
    )
    ways: tuple[dict[str, Any], ...] = ({}, {"stream": True})
    asked = [(path, {**body_with(body, "hello"), **stream}) for path, body in SPOKEN for stream in ways]
    llm.says(text="zebra-block")
    for number in (1, 2):
        for path, body in asked:
            assert proxy.post(path, body).headers["x-akto-guardrails"] == "blocked", path
        entries = heard(proxy, "refused", 2 * number * len(asked))
        told = Counter((entry["guardrail_mode"], entry["guardrail_response"]["decision"]) for entry in entries)
        assert told == dict.fromkeys([("pre_call", "allowed"), ("post_call", "blocked")], number * len(asked))
        llm.says()
        akto.answer("answer", {"status": 200, "body": UNMAPPABLE})


def test_a_request_whose_mask_cannot_be_applied_is_shown_as_blocked(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    config = proxy_config(litellm_settings={"callbacks": ["listener.listener"]})
    proxy: GuardedProxy = start_proxy(config=config, files={"listener.py": LISTENER})
    akto.answer("check", {"status": 200, "body": UNMAPPABLE})
    answer = proxy.chat("hello")
    assert (answer.status_code, answer.headers["x-akto-guardrails"]) == (403, "blocked")
    (entry,) = heard(proxy, "refused", 1)
    assert entry["guardrail_response"] == {"decision": "blocked"}
    akto.answer_normally("check")
    deep = json.dumps(body_with(ROUTES["chat"][1], "hi"))[:-1] + ', "extra_body": ' + '{"a":' * 990 + "1" + "}" * 991
    headers = {"Authorization": "Bearer sk.a", "Content-Type": "application/json"}
    answer = requests.post(f"{proxy.url}/v1/chat/completions", data=deep, headers=headers, timeout=10)
    assert (answer.status_code, answer.headers["x-akto-guardrails"]) == (413, "unchecked")
    assert heard(proxy, "refused", 2)[1]["guardrail_response"] == {"decision": "unchecked", "cause": "too_large"}


def test_the_guards_lines_are_json_where_litellms_are(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy(config=proxy_config(litellm_settings={"json_logs": True}))
    (first,) = [line for line in proxy.logs().splitlines() if "GuardrailsHandler initialized" in line]
    assert json.loads(first)["message"] == "GuardrailsHandler initialized | sync_mode=True"
    answer = proxy.chat("zebra-block")
    lines = [json.loads(line) for line in proxy.logs().splitlines() if '"event": "blocked"' in line]
    assert len(lines) == 1
    assert lines[0]["call_id"] == answer.headers["x-litellm-call-id"]
    assert (lines[0]["collection"], lines[0]["route"]) == ("checkout-agent", "/v1/chat/completions")
    assert lines[0]["behaviour"] == "block"
    assert lines[0]["duration_ms"] > 0
    forged = "{'event': 'masked', 'collection': 'victim', 'behaviour': 'alert'}"
    assert proxy.chat("zebra-block", headers={"x-litellm-call-id": forged}).status_code == 403
    (line,) = [json.loads(line) for line in proxy.logs().splitlines() if "akto_guardrails" in line and "victim" in line]
    assert (line["event"], line["collection"], line["behaviour"]) == ("blocked", "checkout-agent", "block")
    assert line["call_id"] == forged


def test_the_guards_lines_follow_litellms_level(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy(env={"LITELLM_LOG": "ERROR"})
    assert proxy.chat("zebra-block").status_code == 403
    assert proxy.guard_log() == ""


# Pure Python, so that the one the tests run with serves the image, too.
METRICS_LIBRARY = (str(Path(prometheus_client.__file__).parent), "/opt/metrics/prometheus_client", "ro")


def samples(text: str) -> dict[str, float]:
    """The guard's samples in an answer of `/metrics`."""
    lines = re.findall(r"^(akto_guardrails_[^ ]+) (\S+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_numbers_are_on_litellms_metrics(start_proxy: Any, akto: MockAkto, llm: MockLlm, workers: int) -> None:
    several = {"PROMETHEUS_MULTIPROC_DIR": "/tmp/prometheus"} if workers > 1 else {}
    proxy: GuardedProxy = start_proxy(
        config=proxy_config(litellm_settings={"callbacks": ["prometheus"]}),
        command=["--config", "/etc/litellm/config.yaml", "--num_workers", str(workers)],
        env={"PYTHONPATH": "/opt/metrics", **several},
        volumes=[METRICS_LIBRARY],
        tmpfs=["/tmp/prometheus"] if several else [],
    )
    at_first = samples(metrics_of(proxy))
    assert at_first['akto_guardrails_records_total{outcome="dropped"}'] == 0
    assert at_first['akto_guardrails_unavailable_total{cause="credentials"}'] == 0
    for text in ("hello", "hello", "zebra-block", "card 4111-1111-1111-1111", "zebra-alert"):
        proxy.chat(text)
    akto.answer("check", {"status": 500, "body": {}})
    proxy.chat("hello")
    proxy.post("/v1/messages/count_tokens", {"model": "claude", "messages": [{"role": "user", "content": "hi"}]})
    akto.wait_for("record", 6)
    found = samples(metrics_of(proxy))
    label = 'call_type="acompletion",decision="{}",mode="blocking",of="request"'
    assert found["akto_guardrails_checks_total{" + label.format("allow") + "}"] == 3
    assert found["akto_guardrails_checks_total{" + label.format("block") + "}"] == 1
    assert found["akto_guardrails_checks_total{" + label.format("flag") + "}"] == 1
    assert found["akto_guardrails_checks_total{" + label.format("unavailable") + "}"] == 1
    assert found['akto_guardrails_check_duration_seconds_count{of="request"}'] == 6
    assert found['akto_guardrails_unavailable_total{cause="server_error"}'] == 1
    assert found['akto_guardrails_masks_total{outcome="applied"}'] == 1
    assert found['akto_guardrails_records_total{outcome="delivered"}'] == 6
    assert sum(value for name, value in found.items() if "unchecked_requests" in name and "_created" not in name) == 1
    assert found["akto_guardrails_breaker_open"] == 0
    assert found["akto_guardrails_record_queue_bytes"] == 0


def test_what_goes_up_and_down_is_on_litellms_metrics_too(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy(
        config=proxy_config(litellm_settings={"callbacks": ["prometheus"]}),
        env={
            "PYTHONPATH": "/opt/metrics",
            "SHUTDOWN_FLUSH_SECONDS": "1",
            "MAX_QUEUED_RECORDS": "6",
            "SPOOL_DIR": "/spool",
        },
        volumes=[METRICS_LIBRARY],
        tmpfs=["/spool"],
    )
    for kind in ("check", "record"):
        akto.answer(kind, {"status": 503, "raw_body": "down"})
    for _ in range(10):
        assert proxy.chat("hello", headers={"x-session-id": "only"}).status_code == 200
    found = samples(metrics_of(proxy))
    assert found["akto_guardrails_breaker_open"] == 1
    not_asked = found['akto_guardrails_unavailable_total{cause="breaker_open"}']
    assert not_asked > 0
    assert found['akto_guardrails_check_duration_seconds_count{of="request"}'] == 10 - not_asked
    in_memory, on_disk = (found[f"akto_guardrails_{place}_entries"] for place in ("record_queue", "spooled"))
    assert min(in_memory, on_disk) >= 3
    assert in_memory + on_disk in (9, 10), "the oldest may be on its way"
    assert found["akto_guardrails_record_queue_bytes"] > 3_000
    assert found["akto_guardrails_spooled_bytes"] > 3_000


def metrics_of(proxy: GuardedProxy) -> str:
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    # The numbers that go up and down are taken over every five seconds.
    time.sleep(6)
    return requests.get(f"{proxy.url}/metrics/", headers=headers, timeout=10).text


def test_without_metrics_the_log_has_the_numbers_once_a_minute(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy()
    for text in ("hello", "zebra-block"):
        proxy.chat(text)
    assert eventually(lambda: "counters | " in proxy.guard_log(), 75)
    (numbers,) = re.findall(r"counters \| (\{.*\})", proxy.guard_log())
    counted = json.loads(numbers)
    assert counted["checks_allow"] == counted["checks_block"] == 1
    assert counted["records_delivered"] == 2


def test_doctor_tells_what_the_workers_have_counted(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    proxy: GuardedProxy = start_proxy(command=["--config", "/etc/litellm/config.yaml", "--num_workers", "2"])
    for text in ("hello", "zebra-block"):
        proxy.chat(text)
    time.sleep(6)
    container = proxy.container.get_wrapped_container()
    result = container.exec_run(["/opt/akto/entrypoint.sh", "doctor", "--json"], demux=True)
    checks = json.loads(result.output[0])["checks"]
    workers = [check["what"] for check in checks if check["check"].startswith("worker")]
    assert len(workers) == 2
    assert sum("checks_block=1" in what for what in workers) == 1
    assert sum("checks_allow=1" in what for what in workers) == 1


def test_a_blocked_request_can_be_followed_by_its_call_id(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    """From the client's error through LiteLLM's log, the metric and the mock Akto's page to the record."""
    proxy: GuardedProxy = start_proxy(
        config=proxy_config(litellm_settings={"callbacks": ["prometheus"]}),
        env={"PYTHONPATH": "/opt/metrics"},
        volumes=[METRICS_LIBRARY],
    )
    answer = proxy.chat("please zebra-block")
    call_id = answer.headers["x-litellm-call-id"]
    assert answer.status_code == 403
    lines = [line for line in proxy.logs().splitlines() if call_id in line]
    assert any("LiteLLM" in line and "akto-guardrails" not in line for line in lines), lines
    (own,) = [line for line in lines if "akto-guardrails" in line]
    assert re.search(
        r"blocked \| call_id=\S+ collection=checkout-agent route=/v1/chat/completions of=request \| .* \| \d+ ms", own
    )
    found = samples(metrics_of(proxy))
    blocks = {name: count for name, count in found.items() if "checks_total" in name and 'decision="block"' in name}
    assert sum(blocks.values()) == 1
    (check,) = akto.calls("check")
    (record,) = akto.wait_for("record", 1)
    for call in (check, record):
        assert call_id in json.dumps(call["body"])
    assert record["body"]["statusCode"] == "403"
    page = requests.get(f"{akto.url}/", headers={"Accept": "text/html"}, timeout=10).text
    assert page.count(call_id) >= 2, "the check and the record"
    (place,) = re.findall(r'data-envelope="([^"]+)"', next(row for row in page.split("<li") if ">403<" in row))
    envelope = requests.get(akto.url + place, headers={"Accept": "text/html"}, timeout=10).text
    assert call_id in envelope
    assert "Prompt injection detected" in envelope
