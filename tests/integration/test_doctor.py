"""Akto and its token, asked once at the start; and `doctor`, which looks at everything and starts nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from testcontainers.core.network import Network

from integration.containers import TOKEN, GuardedProxy, MockAkto, MockLlm, proxy_config, proxy_environment, run_once

Run = Callable[..., tuple[int, str, str]]
CLOSED = {"UNREACHABLE_FALLBACK": "fail_closed"}
NOBODY = "http://nobody.invalid:8080"
# What answers at the address of Akto, and what is said about it.
STRANGE_ANSWERS: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"status": 200, "raw_body": "<html>"}, "not an answer of Akto's Data Ingestion Service"),
    "JSON of another": ({"status": 200, "body": {"ok": 1}}, "not an answer of Akto's Data Ingestion Service"),
    "redirect": ({"status": 302, "headers": {"Location": "https://login.example.com"}, "body": ""}, "HTTP 302"),
    "down": ({"status": 503, "body": ""}, "HTTP 503"),
    "hanging": ({"delay_ms": 20_000, "body": ""}, "no answer within 1 s"),
    "dripping": ({"drip_ms": 400, "body": {"success": True}}, "no answer within 1 s"),
    "resetting": ({"connection": "reset in headers", "body": ""}, "cannot be reached"),
}


@pytest.fixture
def run(network: Network, akto: MockAkto) -> Run:
    """Runs the image to its end beside the mock Akto."""

    def run(command: list[str], **env: str) -> tuple[int, str, str]:
        return run_once(command, proxy_environment() | env, network=network.name)

    return run


def test_a_refused_token_stops_the_start(run: Run, akto: MockAkto) -> None:
    akto.accept_token("another-token")
    status, out, err = run([])
    assert (status, out) == (78, "")
    assert "1 problem with the configuration" in err
    assert "Akto at mock-akto:8080 refuses AKTO_API_TOKEN (HTTP 401)" in err
    assert TOKEN not in err


@pytest.mark.parametrize("strange", STRANGE_ANSWERS)
def test_an_akto_that_is_not_there_stops_the_start_where_every_request_would_be_refused(
    run: Run, akto: MockAkto, strange: str
) -> None:
    answer, part = STRANGE_ANSWERS[strange]
    akto.answer("auth", answer)
    status, out, err = run([], TIMEOUT="1", **CLOSED)
    assert (status, out) == (1, "")
    assert err.startswith("guarded-litellm: not started: Akto at mock-akto:8080 cannot be reached: ")
    assert part in err
    assert "STARTUP_PROBE=off" in err


@pytest.mark.parametrize(
    ("env", "line"),
    [
        ({"DATA_INGESTION_SERVICE_URL": NOBODY}, "warning | Akto at nobody.invalid:8080 cannot be reached"),
        ({"DATA_INGESTION_SERVICE_URL": NOBODY, "SYNC_MODE": "false", **CLOSED}, "warning | Akto at nobody.invalid"),
        ({"DATA_INGESTION_SERVICE_URL": NOBODY, "STARTUP_PROBE": "off", **CLOSED}, ""),
        ({"AKTO_API_TOKEN": "wrong", "STARTUP_PROBE": "off"}, ""),
    ],
    ids=["fail_open", "watching only", "probe off, fail_closed", "probe off, wrong token"],
)
def test_otherwise_it_starts_and_warns(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, env: dict[str, str], line: str
) -> None:
    proxy: GuardedProxy = start_proxy(env=env)
    assert ("warning |" in proxy.logs()) == bool(line)
    assert line in proxy.logs()


def test_a_gateway_that_does_not_know_the_question_is_a_warning(start_proxy: Any, akto: MockAkto, llm: MockLlm) -> None:
    akto.answer("auth", {"status": 404, "body": ""})
    proxy: GuardedProxy = start_proxy(env=CLOSED)
    assert "answers /api/auth-check with HTTP 404, so AKTO_API_TOKEN could not be tried" in proxy.logs()
    assert proxy.chat("hello").status_code == 200
    assert proxy.chat("zebra-block").status_code == 403


def test_what_is_hardly_meant_in_a_config_is_said_and_has_no_effect(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    """Settings of the guard that only LiteLLM takes from its config, and LiteLLM's own guardrail for Akto."""
    built_in = {"guardrail": "akto", "mode": "pre_call", "akto_base_url": "http://mock-akto:8080", "akto_api_key": "k"}
    config = proxy_config(
        environment_variables={"SYNC_MODE": "false", "AKTO_API_TOKEN": "another", "UNRELATED": "x"},
        guardrails=[{"guardrail_name": "akto-twice", "litellm_params": built_in}],
    )
    proxy: GuardedProxy = start_proxy(config=config)
    logs = proxy.logs()
    assert "warning | environment_variables in /etc/litellm/config.yaml sets AKTO_API_TOKEN, SYNC_MODE" in logs
    assert "warning | The guardrail akto-twice in /etc/litellm/config.yaml is LiteLLM's own for Akto" in logs
    assert "UNRELATED" not in logs
    assert proxy.chat("zebra-block").status_code == 403
    assert akto.calls("check")[0]["authorization"] == TOKEN


def checks_of(output: str) -> dict[str, str]:
    """Names and outcomes in the JSON that doctor prints; the worst where there are more of one name."""
    order = ["ok", "skipped", "warning", "failed"]
    found: dict[str, str] = {}
    for check in json.loads(output)["checks"]:
        found[check["check"]] = max(found.get(check["check"], "ok"), check["status"], key=order.index)
        assert bool(check["fix"]) == (check["status"] in ("failed", "warning"))
    return found


ALL_WELL = dict.fromkeys(
    ("variables", "config", "temporary files", "records", "callback", "akto", "token", "clock", "proxy"), "ok"
)


def test_doctor_finds_nothing_where_nothing_is_wrong(run: Run, akto: MockAkto) -> None:
    status, out, err = run(["doctor", "--json"])
    assert (status, err) == (0, "")
    assert checks_of(out) == ALL_WELL
    assert json.loads(out)["exit_status"] == 0
    assert akto.calls() == []


@pytest.mark.parametrize(
    ("date", "status", "what"),
    [
        ("Sat, 01 Jan 2000 00:00:00 GMT", "warning", "records are filed under the wrong time"),
        ("no date", "skipped", "no answer with a time in it"),
    ],
)
def test_doctor_compares_the_clocks(run: Run, akto: MockAkto, date: str, status: str, what: str) -> None:
    akto.answer("auth", {"status": 200, "headers": {"Date": date}, "body": {"success": True}})
    exit_status, out, _ = run(["doctor", "--json"])
    assert exit_status == 0
    assert checks_of(out) == ALL_WELL | {"clock": status}
    assert what in out


def test_doctor_shows_what_would_be_injected_and_no_secret(network: Network, akto: MockAkto, tmp_path: Path) -> None:
    config = proxy_config(litellm_settings={"callbacks": "otel", "cache_params": {"password": "p4ssw0rd"}})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    tmp_path.chmod(0o755)
    status, out, _ = run_once(
        ["doctor", "--config", "/etc/litellm/config.yaml", "--num_workers", "4"],
        proxy_environment(),
        network=network.name,
        volumes=[f"{tmp_path}:/etc/litellm:ro"],
    )
    assert status == 0
    changes = [" ".join(line.split()) for line in out.splitlines() if line.strip().startswith(("+ ", "- "))]
    assert changes == ["- callbacks: otel", "+ callbacks:", "+ - akto_guardrails.proxy_handler_instance", "+ - otel"]
    assert "p4ssw0rd" not in out
    assert TOKEN not in out


@pytest.mark.parametrize(
    ("env", "command", "status", "outcomes"),
    [
        ({"AKTO_API_TOKEN": "wrong"}, [], 1, {"token": "failed"}),
        (
            {"DATA_INGESTION_SERVICE_URL": NOBODY},
            [],
            1,
            {"akto": "failed", "token": "skipped", "clock": "skipped"},
        ),
        ({"DATA_INGESTION_SERVICE_URL": "https://mock-akto:8080"}, [], 1, {"akto": "failed"}),
        ({}, ["--config", "/no.yaml"], 78, {"config": "failed"}),
        (
            {"TIMEOUT": "soon"},
            [],
            78,
            {
                "variables": "failed",
                **dict.fromkeys(("records", "callback", "akto", "token", "clock", "proxy"), "skipped"),
            },
        ),
        ({"HTTP_PROXY": "http://u:p4ss@proxy.invalid:3128"}, [], 1, {"akto": "failed", "token": "skipped"}),
    ],
    ids=["token", "unreachable", "not TLS", "config", "variables", "proxy"],
)
def test_doctor_tells_what_is_wrong_and_how_to_mend_it(
    run: Run, env: dict[str, str], command: list[str], status: int, outcomes: dict[str, str]
) -> None:
    code, out, _ = run(["doctor", "--json", *command], **env)
    found = checks_of(out)
    assert code == status
    assert {name: found[name] for name in outcomes} == outcomes
    assert {name for name, outcome in found.items() if outcome == "failed"} <= set(outcomes)
    assert "p4ss" not in out


def test_doctor_in_a_running_container(proxy: GuardedProxy) -> None:
    container = proxy.container.get_wrapped_container()
    result = container.exec_run(["/opt/akto/entrypoint.sh", "doctor", "--config", "/etc/litellm/config.yaml"])
    assert result.exit_code == 0, result.output
    assert b"0 failed" in result.output
    assert proxy.chat("zebra-block").status_code == 403
