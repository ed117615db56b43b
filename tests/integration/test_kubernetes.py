"""k8s.example.yml is valid, and its pods, run by Docker as their spec says, are guarded and one with each other."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml
from testcontainers.core.network import Network

from akto_guardrails.settings import load_settings
from integration.containers import MASTER_KEY, READY_SECONDS, MockAkto, MockLlm
from integration.pods import MOCK_ADDRESSES, SECRET, Manifest, Pod, docker_options, variables, write_config_map

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "k8s.example.yml"
DOCUMENTS: dict[str, Manifest] = {found["kind"]: found for found in yaml.safe_load_all(EXAMPLE.read_text())}
POD: Manifest = DOCUMENTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER: Manifest = POD["containers"][0]
VALUES = {path.name: yaml.safe_load(path.read_text()) for path in sorted(ROOT.glob("helm-values*.yml"))}
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_kubernetes_knows_every_field_of_the_example(kind: str) -> None:
    kubernetes_validate.validate(DOCUMENTS[kind], kubernetes_validate.latest_version(), strict=True)


def test_the_parts_of_the_example_mean_each_other() -> None:
    template = DOCUMENTS["Deployment"]["spec"]["template"]
    selectors = [
        DOCUMENTS["Deployment"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        DOCUMENTS["Service"]["spec"]["selector"],
    ]
    assert all(selector.items() <= template["metadata"]["labels"].items() for selector in selectors)
    (port,) = CONTAINER["ports"]
    assert (port["name"], port["containerPort"]) == ("http", 4000)
    assert DOCUMENTS["Service"]["spec"]["ports"][0]["targetPort"] == "http"
    assert {CONTAINER[probe]["httpGet"]["port"] for probe in PROBES} == {"http"}
    assert DOCUMENTS["Secret"]["stringData"].keys() == SECRET.keys()


@pytest.fixture(scope="module")
def replicas(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Pod]]:
    """As many containers as the Deployment has replicas, with the mocks in place of the addresses."""
    data = DOCUMENTS["ConfigMap"]["data"]
    config = yaml.safe_load(data["config.yaml"])
    for model in config["model_list"]:
        model["litellm_params"]["api_base"] = "http://mock-llm:8081/v1"
    files = {**data, "config.yaml": yaml.safe_dump(config)}
    directory = write_config_map(tmp_path_factory.mktemp("config-map"), files)
    options = docker_options(POD, {"guarded-litellm": SECRET}, {"guarded-litellm": directory})
    options["env"] |= MOCK_ADDRESSES
    pods = [Pod(network, options) for _ in range(DOCUMENTS["Deployment"]["spec"]["replicas"])]
    for pod in pods:
        pod.container.start()
    yield [pod.wait_until_ready(CONTAINER["startupProbe"]["httpGet"]["path"], READY_SECONDS) for pod in pods]
    for pod in pods:
        pod.stop()


def test_each_replica_is_guarded(replicas: list[Pod], akto: MockAkto, llm: MockLlm) -> None:
    assert len(replicas) == 2
    for pod in replicas:
        akto.reset()
        llm.reset()
        assert pod.chat("hello", key=MASTER_KEY).status_code == 200
        assert len(akto.calls("check")) == 1
        assert pod.chat("please zebra-block this", key=MASTER_KEY).status_code == 403
        assert len(akto.calls("check")) == 2
        assert len(llm.requests()) == 1
        assert sorted(record["body"]["statusCode"] for record in akto.wait_for("record", 2)) == ["200", "403"]


def test_the_container_is_as_confined_as_the_spec_says(replicas: list[Pod]) -> None:
    container = replicas[0].container.get_wrapped_container()
    status = dict(
        line.split(":\t", 1) for line in container.exec_run(["cat", "/proc/1/status"]).output.decode().splitlines()
    )
    assert status["Uid"].split() == ["65534"] * 4
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    for path, is_writable in (("/app", False), ("/etc/litellm", False), ("/tmp", True)):
        assert (container.exec_run(["touch", f"{path}/probe"]).exit_code == 0) is is_writable


@pytest.mark.parametrize("probe", PROBES)
def test_the_probes_are_answered(replicas: list[Pod], probe: str) -> None:
    path = CONTAINER[probe]["httpGet"]["path"]
    answer = requests.get(replicas[0].url + path, timeout=CONTAINER[probe]["timeoutSeconds"])
    assert answer.status_code == 200


def test_the_image_can_run_the_sleep_before_the_stop(replicas: list[Pod]) -> None:
    began = time.monotonic()
    result = replicas[0].container.exec(CONTAINER["lifecycle"]["preStop"]["exec"]["command"])
    assert result.exit_code == 0, result.output
    assert time.monotonic() - began >= seconds_before_the_stop(CONTAINER)


def test_a_session_is_the_same_at_every_replica(replicas: list[Pod], akto: MockAkto, llm: MockLlm) -> None:
    first, second = replicas
    session = {"x-session-id": "spread-over-replicas"}
    for pod in replicas:
        assert pod.chat("hello", key=MASTER_KEY, headers=session).status_code == 200
    sent = [json.loads(call["body"]["requestHeaders"])["x-session-id"] for call in akto.calls("check")]
    assert sent == ["spread-over-replicas"] * 2
    assert first.chat("please zebra-block this", key=MASTER_KEY, headers=session).status_code == 403
    refused = second.chat("hello again", key=MASTER_KEY, headers=session)
    assert refused.status_code == 403
    assert "Session blocked" in refused.json()["error"]["message"]
    assert second.chat("hello", key=MASTER_KEY, headers={"x-session-id": "another"}).status_code == 200


def seconds_before_the_stop(container: Manifest) -> int:
    found = re.search(r"time\.sleep\((\d+)\)", container["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert found is not None
    return int(found[1])


# What test_outages.py shows of a container that is stopped needs the time for it.
@pytest.mark.parametrize(
    ("pod", "container"),
    [
        pytest.param(POD, CONTAINER, id="k8s"),
        pytest.param(*[VALUES["helm-values.example.yml"]] * 2, id="litellm-helm"),
        pytest.param(*[VALUES["helm-values.litellm.example.yml"]["gateway"]] * 2, id="litellm"),
    ],
)
def test_the_grace_period_covers_the_sleep_a_request_and_the_records(pod: Manifest, container: Manifest) -> None:
    required = {"DATA_INGESTION_SERVICE_URL": "https://akto.test", "AKTO_API_TOKEN": "raw-token"}
    flush = load_settings(required).shutdown_flush_seconds
    assert pod["terminationGracePeriodSeconds"] >= seconds_before_the_stop(container) + flush + 30


@pytest.mark.parametrize("path", sorted(ROOT.glob("*example*.yml")), ids=lambda path: path.name)
def test_no_example_has_a_secret_as_a_value(path: Path) -> None:
    documents = [found for found in yaml.safe_load_all(path.read_text()) if found.get("kind") != "Secret"]
    configs = [yaml.safe_load(found["data"]["config.yaml"]) for found in documents if found.get("kind") == "ConfigMap"]
    secret = re.compile(r"[A-Z0-9_]*(KEY|TOKEN|PASSWORD|SECRET)|api_key|master_key")
    given: list[Any] = [value for name, value in variables([documents, configs]) if secret.fullmatch(name)]
    assert given, "the example has at least the key of a model"
    assert all(value.startswith(("os.environ/", "${")) for value in given), given


def test_the_secret_of_the_example_has_placeholders_alone() -> None:
    assert set(DOCUMENTS["Secret"]["stringData"].values()) == {"replace-me"}
