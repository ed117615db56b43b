"""compose.example.yml comes up as it is, with a .env beside it, and hardened."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import requests
import yaml

from integration.containers import IMAGE, MASTER_KEY, TOKEN, MockAkto, MockLlm, chat_body, proxy_config

EXAMPLE = Path(__file__).resolve().parents[2] / "compose.example.yml"
PROJECT = "guarded-litellm-compose-test"


def compose_command() -> list[str]:
    """Compose as a plugin or, as Debian 12 has it, a program of its own; installed when there is neither."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if shutil.which("docker-compose") is None:
        subprocess.run([EXAMPLE.parent / "image/install.sh", "docker-compose"], check=True)
    return ["docker-compose"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Path]:
    """A directory as an operator has it: the example, a .env and a config."""
    tmp_path.chmod(0o755)
    shutil.copy(EXAMPLE, tmp_path / "docker-compose.yml")
    config = proxy_config(general_settings={"master_key": "os.environ/LITELLM_MASTER_KEY"})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "config.yaml").chmod(0o644)
    (tmp_path / ".env").write_text(
        f"GUARDED_LITELLM_IMAGE={IMAGE}\n"
        "DATA_INGESTION_SERVICE_URL=http://mock-akto:8080\n"
        f"AKTO_API_TOKEN={TOKEN}\n"
        "LITELLM_URL=https://llm.example.com\n"
        f"LITELLM_MASTER_KEY={MASTER_KEY}\n"
        f"LITELLM_PORT=127.0.0.1:{free_port()}\n"
        "LITELLM_LOCAL_MODEL_COST_MAP=True\n"
        "MODEL_KEY=k\n"
    )
    yield tmp_path
    compose(tmp_path, "down", "--timeout", "20")


def compose(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*compose_command(), "-p", PROJECT, *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def harden(directory: Path) -> None:
    """Takes the comment signs off the hardened lines of the example."""
    path = directory / "docker-compose.yml"
    head, mark, tail = path.read_text().partition("    # Hardened:")
    assert mark, "the example lost its hardened part"
    note, _, block = tail.partition("\n")
    path.write_text(head + mark + note + "\n" + block.replace("    # ", "    "))


@pytest.mark.parametrize("hardened", [False, True], ids=["as it is", "hardened"])
def test_the_example_comes_up_guarded(deployment: Path, akto: MockAkto, llm: MockLlm, hardened: bool) -> None:
    if hardened:
        harden(deployment)
    result = compose(deployment, "up", "-d")
    assert result.returncode == 0, result.stderr
    client: Any = docker.from_env()
    (container,) = client.containers.list(filters={"label": f"com.docker.compose.project={PROJECT}"})
    if hardened:
        host = container.attrs["HostConfig"]
        assert (
            host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and container.attrs["Config"]["User"] == "65534:65534"
        )
    # The mocks join the deployment's network under the names that its .env and its config use.
    network = client.networks.get(f"{PROJECT}_default")
    for mock, alias in ((akto, "mock-akto"), (llm, "mock-llm")):
        network.connect(mock.id, aliases=[alias])
    try:
        port = container.attrs["NetworkSettings"]["Ports"]["4000/tcp"][0]["HostPort"]
        proxy = f"http://127.0.0.1:{port}"
        wait_until_ready(proxy, container)
        answers = [ask(proxy, text) for text in ("hello", "zebra-block")]
        assert [answer.status_code for answer in answers] == [200, 403], answers[0].text
        assert len(akto.calls("check")) == 2
        status = container.exec_run(container.attrs["Config"]["Healthcheck"]["Test"][1:])
        assert status.exit_code == 0, status.output
    finally:
        for mock in (akto, llm):
            network.disconnect(mock.id)


def wait_until_ready(proxy: str, container: Any) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{proxy}/health/readiness", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    pytest.fail(container.logs().decode())


def ask(proxy: str, text: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {MASTER_KEY}"}
    return requests.post(f"{proxy}/v1/chat/completions", json=chat_body(text), headers=headers, timeout=30)


def test_a_missing_variable_is_named_by_compose(deployment: Path) -> None:
    env = deployment / ".env"
    env.write_text("\n".join(line for line in env.read_text().splitlines() if not line.startswith("AKTO_API_TOKEN")))
    result = compose(deployment, "config")
    assert result.returncode != 0
    assert "AKTO_API_TOKEN" in result.stderr
