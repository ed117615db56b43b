"""The values for LiteLLM's two charts: the containers that the charts make of them are guarded.

The charts are not part of this project. `litellm_helm` and `litellm` say what they render of these values, and Docker
runs that. Where helm is installed and HELM_CHARTS names a directory with the charts, what is said here is compared with
what they do render.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from testcontainers.core.network import Network

from integration.containers import MASTER_KEY, READY_SECONDS, MockAkto, MockLlm, run_once
from integration.pods import MOCK_ADDRESSES, SECRET, Manifest, Pod, docker_options, write_config_map
from integration.test_kubernetes import VALUES

SECRETS = {"guarded-litellm": SECRET, "guarded-litellm-master-key": {"master-key": MASTER_KEY}}
HARDENED, COMPONENTS = VALUES["helm-values.example.yml"], VALUES["helm-values.litellm.example.yml"]
PLAIN = HARDENED | {"securityContext": {}, "podSecurityContext": {}}
MONOLITH = COMPONENTS | {"monolith": {"enabled": True}}

# The entrypoint of the newest base, which knows the words of the chart `litellm`. There the gateway is a program of its
# own that is not part of LiteLLM's package; it too takes its config from CONFIG_FILE_PATH alone.
UNIFIED_ENTRYPOINT = """#!/bin/sh
shift
exec litellm "$@"
"""


def litellm_helm(values: Manifest) -> dict[str, Any]:
    """The pod that the chart `litellm-helm` makes of `values`, as far as the container's start depends on it."""
    scratch = {"tmp": "/tmp", "cache": "/.cache", "npm": "/.npm"}
    if not values["securityContext"].get("readOnlyRootFilesystem"):
        scratch = {}
    master_key = {"name": values["masterkeySecretName"], "key": values["masterkeySecretKey"]}
    container = {
        "args": ["--config", "/etc/litellm/config.yaml"],
        "env": [
            {"name": "HOST", "value": "0.0.0.0"},
            {"name": "PORT", "value": "4000"},
            {"name": "PROXY_MASTER_KEY", "valueFrom": {"secretKeyRef": master_key}},
            {"name": "LITELLM_LOG", "value": "INFO"},
            *({"name": name, "value": value} for name, value in values["envVars"].items()),
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in values["environmentSecrets"]],
        "volumeMounts": [
            {"name": "litellm-config", "mountPath": "/etc/litellm/config.yaml", "subPath": "config.yaml"},
            *({"name": name, "mountPath": path} for name, path in scratch.items()),
        ],
        "securityContext": values["securityContext"],
        "resources": values["resources"],
    }
    config = {"name": "litellm-config", "configMap": {"name": "guarded-litellm-config"}}
    return {
        "containers": [container],
        "volumes": [config, *({"name": name, "emptyDir": {}} for name in scratch)],
        "securityContext": values["podSecurityContext"],
        "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
    }


def litellm(values: Manifest) -> dict[str, Any]:
    """The pod that the chart `litellm` makes of `values` for its gateway or its monolith, but for the database."""
    gateway, master_key = values["gateway"], values["masterKey"]
    path = "/app/config/config.yaml"
    is_monolith = values["monolith"]["enabled"]
    key = {"name": master_key["secretName"], "key": master_key["secretKey"]}
    container = {
        "args": ["proxy", "--port", "4000", "--config", path]
        if is_monolith
        else ["gateway", "--host", "0.0.0.0", "--port", "4000"],
        "env": [
            *({"name": f"{who}_MASTER_KEY", "valueFrom": {"secretKeyRef": key}} for who in ("LITELLM", "PROXY")),
            {"name": "LITELLM_LOG", "value": "INFO"},
            *gateway["extraEnv"],
            {"name": "CONFIG_FILE_PATH", "value": path},
            {"name": "NUM_WORKERS", "value": "1"},
        ],
        "envFrom": [{"secretRef": {"name": name}} for name in gateway["envSecrets"]],
        "volumeMounts": [
            {"name": "gateway-config", "mountPath": path, "subPath": "config.yaml"},
            *gateway["volumeMounts"],
        ],
        "securityContext": gateway["securityContext"],
    }
    name = "guarded-litellm-config" if is_monolith else "guarded-litellm-gateway-config"
    return {
        "containers": [container],
        "volumes": [{"name": "gateway-config", "configMap": {"name": name}}, *gateway["volumes"]],
        "securityContext": gateway["podSecurityContext"],
        "terminationGracePeriodSeconds": gateway["terminationGracePeriodSeconds"],
    }


def proxy_config(values: Manifest) -> dict[str, Any]:
    """The config in the values, with the mock in place of the provider."""
    config = values["gateway"]["config"]["proxy_config"] if "gateway" in values else values["proxy_config"]
    model = config["model_list"][0]
    params = model["litellm_params"] | {"api_base": "http://mock-llm:8081/v1"}
    return config | {"model_list": [model | {"litellm_params": params}]}


@pytest.fixture
def start(network: Network, akto: MockAkto, llm: MockLlm, tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Starts a pod with the config of `values`, on the older base or on one with the newest entrypoint."""
    pods: list[Pod] = []
    (tmp_path / "entrypoint").write_text(UNIFIED_ENTRYPOINT)
    (tmp_path / "entrypoint").chmod(0o755)
    (tmp_path / "config").mkdir()

    def run(pod: Manifest, values: Manifest) -> Pod:
        directory = write_config_map(tmp_path / "config", {"config.yaml": yaml.safe_dump(proxy_config(values))})
        names = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
        options = docker_options(pod, SECRETS, dict.fromkeys(names, directory))
        options["env"] |= MOCK_ADDRESSES
        if "gateway" in values:
            options["volumes"].append((str(tmp_path / "entrypoint"), "/app/docker-entrypoint.sh", "ro"))
        pods.append(Pod(network, options))
        pods[-1].container.start()
        return pods[-1].wait_until_ready("/health/readiness", READY_SECONDS)

    yield run
    for pod in pods:
        pod.stop()


SHAPES = {
    "litellm-helm": (litellm_helm, PLAIN),
    "litellm-helm, hardened": (litellm_helm, HARDENED),
    "litellm, gateway": (litellm, COMPONENTS),
    "litellm, monolith": (litellm, MONOLITH),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pod_of_a_chart_is_guarded(start: Callable[..., Pod], akto: MockAkto, llm: MockLlm, shape: str) -> None:
    chart, values = SHAPES[shape]
    pod = start(chart(values), values)
    assert pod.chat("hello", key=MASTER_KEY).status_code == 200
    assert len(akto.calls("check")) == 1
    assert pod.chat("please zebra-block this", key=MASTER_KEY).status_code == 403
    assert len(akto.calls("check")) == 2
    assert len(llm.requests()) == 1


def test_the_migrations_of_litellm_helm_need_no_settings_of_the_guard(tmp_path: Path) -> None:
    """The chart runs LiteLLM's own script past the entrypoint; for those of `litellm` see test_start.py."""
    script = tmp_path / "prisma_migration.py"
    script.write_text("import litellm\nprint('migrated')\n")
    script.chmod(0o644)
    volumes = [f"{script}:/app/litellm/proxy/prisma_migration.py:ro"]
    command, env = ["litellm/proxy/prisma_migration.py"], {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    result = run_once(command, env, entrypoint=["python"], working_dir="/app", volumes=volumes)
    assert result == (0, "migrated\n", "")


def charts() -> Path:
    """The directory with the charts; without it or without helm the test is skipped."""
    directory = os.environ.get("HELM_CHARTS")
    if not directory or shutil.which("helm") is None:
        pytest.skip("needs helm, and HELM_CHARTS, a directory with LiteLLM's charts litellm-helm and litellm")
    return Path(directory)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_charts_render_what_is_replayed(shape: str, tmp_path: Path) -> None:
    describe, values = SHAPES[shape]
    chart = charts() / shape.partition(",")[0]
    assert list(unknown(values, yaml.safe_load((chart / "values.yaml").read_text()))) == []
    (tmp_path / "values.yml").write_text(yaml.safe_dump(values))
    command = ["helm", "template", "guarded", str(chart), "--values", str(tmp_path / "values.yml")]
    rendered = [found for found in yaml.safe_load_all(subprocess.check_output(command, text=True)) if found]
    for document in rendered:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    (pod,) = [found["spec"]["template"]["spec"] for found in rendered if is_proxy(found)]
    expected = describe(values)
    assert essence(pod) == essence(expected)
    further = {entry["name"] for entry in pod["containers"][0]["env"]} - {
        entry["name"] for entry in expected["containers"][0]["env"]
    }
    assert all(name.startswith("DATABASE_") or name == "DISABLE_SCHEMA_UPDATE" for name in further)


def is_proxy(document: Manifest) -> bool:
    labels = document["metadata"].get("labels", {})
    return document["kind"] == "Deployment" and labels.get("app.kubernetes.io/component") in (None, "gateway", "proxy")


def essence(pod: Manifest) -> dict[str, Any]:
    """What Docker is told of a pod, but for the database's variables, and how long it may take to stop."""
    secrets = {**SECRETS, "litellm-writer-secret": {"username": "u", "password": "p"}}
    names = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    options = docker_options(pod, secrets, dict.fromkeys(names, Path("config")))
    env = {name: text for name, text in options["env"].items() if not name.startswith(("DATABASE_", "DISABLE_"))}
    options.pop("mem_limit", None)
    return options | {"env": env, "grace": pod["terminationGracePeriodSeconds"]}


def unknown(values: Mapping[str, Any], defaults: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys that a chart does not have, which helm would pass over in silence; what is empty there takes any key."""
    for name, value in values.items():
        if name not in defaults:
            yield path + name
        elif isinstance(value, Mapping) and defaults[name]:
            yield from unknown(value, defaults[name], f"{path}{name}.")
