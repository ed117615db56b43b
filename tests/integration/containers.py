"""The containers of the integration tests: mock Akto, mock model provider, and the guarded proxy between them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import docker
import requests
import yaml
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

# Runs with labels of their own do not remove each other's containers, nor do the processes of one run.
TEST_LABEL = "-".join(
    filter(None, (os.environ.get("GUARDED_TEST_LABEL", "guarded-litellm-test"), os.environ.get("PYTEST_XDIST_WORKER")))
)
IMAGE = os.environ.get("GUARDED_IMAGE", "guarded-litellm:latest")
BASE_IMAGE_LABEL = "org.opencontainers.image.base.name"
TESTS = Path(__file__).resolve().parents[1]

TOKEN = "akto-token-d41d8cd98f00b204"
MASTER_KEY = "sk-master-5f4dcc3b5aa765d6"
LITELLM_URL = "https://llm.example.com"

# Keys are `sk.<key alias>.<team alias>`: without a database, aliases come from a custom_auth module.
AUTH_MODULE = """
from litellm.proxy._types import UserAPIKeyAuth

async def auth(request, api_key):
    _, alias, team = ((api_key or "").split(".") + ["", ""])[:3]
    return UserAPIKeyAuth(
        api_key=api_key,
        key_alias=alias or None,
        team_alias=team or None,
        user_id="u-1",
        metadata={"source": "ENDPOINT", "mcp-server": "MCP Server", "cost_center": "key-metadata-4711"},
    )
"""

READY_SECONDS = 120


def base_image() -> str:
    """The base that the image under test was built from; the mocks run from it, so nothing more is pulled."""
    labels = docker.from_env().images.get(IMAGE).labels
    return labels[BASE_IMAGE_LABEL]


def proxy_config(**overrides: Any) -> dict[str, Any]:
    """A LiteLLM config with one model of each kind at the mock provider."""
    openai = {"api_base": "http://mock-llm:8081/v1", "api_key": "os.environ/MODEL_KEY"}
    config: dict[str, Any] = {
        "model_list": [
            {"model_name": "gpt-4o-mini", "litellm_params": {"model": "openai/gpt-4o-mini", **openai}},
            {
                "model_name": "claude",
                "litellm_params": {
                    "model": "anthropic/claude-3-5-haiku-20241022",
                    "api_base": "http://mock-llm:8081",
                    "api_key": "os.environ/MODEL_KEY",
                },
            },
            {
                "model_name": "instruct",
                "litellm_params": {"model": "text-completion-openai/gpt-3.5-turbo-instruct", **openai},
            },
            {"model_name": "embed", "litellm_params": {"model": "openai/text-embedding-3-small", **openai}},
            {"model_name": "moderate", "litellm_params": {"model": "openai/omni-moderation-latest", **openai}},
        ],
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY", "custom_auth": "team_auth.auth"},
    }
    return config | overrides


class Service:
    """A container with an HTTP port that is published on the loopback address only."""

    def __init__(self, container: DockerContainer, port: int) -> None:
        self._port = port
        self.container = container
        # with_bind_ports knows no address to bind to; the Docker client below it does.
        container.ports[f"{port}/tcp"] = ("127.0.0.1", None)  # type: ignore[assignment]
        container.with_kwargs(labels={TEST_LABEL: "1"}, **container._kwargs)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.container.get_exposed_port(self._port)}"

    @property
    def id(self) -> str:
        return self.container.get_wrapped_container().id

    def logs(self) -> str:
        """Everything the container printed."""
        out, err = self.container.get_logs()
        return (out + err).decode(errors="replace")

    def stop(self) -> None:
        self.container.stop()

    def wait_until_ready(self, path: str, seconds: float = 30) -> Self:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if requests.get(self.url + path, timeout=5).ok:
                    return self
            except requests.RequestException:
                pass
            wrapped = self.container.get_wrapped_container()
            wrapped.reload()
            if wrapped.status == "exited":
                break
            time.sleep(0.2)
        raise AssertionError(f"{self.container.image} did not become ready; it printed:\n{self.logs()}")


class Mock(Service):
    """One of the two mocks, run from the base image with the tests directory mounted."""

    def __init__(self, module: str, alias: str, port: int, network: Network, env: Mapping[str, str]) -> None:
        container = DockerContainer(base_image(), entrypoint="python").with_command(["-m", module, str(port)])
        container.with_network(network).with_network_aliases(alias)
        container.with_volume_mapping(str(TESTS), "/tests", "ro").with_envs(PYTHONPATH="/tests", **env)
        super().__init__(container, port)


class MockAkto(Mock):
    def __init__(self, network: Network, alias: str = "mock-akto") -> None:
        super().__init__("mock_akto", alias, 8080, network, {"MOCK_AKTO_TOKEN": TOKEN, "MOCK_AKTO_KEEP": "100000"})

    def start(self) -> Self:
        self.container.start()
        return self.wait_until_ready("/healthCheck")

    def reset(self) -> None:
        # The last test may not have waited for its records, which would come in the next one.
        deadline = time.monotonic() + 1
        while len(self.calls("record")) < len(self.calls("check")) and time.monotonic() < deadline:
            time.sleep(0.05)
        requests.delete(f"{self.url}/_mock/calls", timeout=5)
        self.accept_token(TOKEN)

    def forget_calls(self) -> None:
        """Forgets what was received; what `answer` set stays."""
        requests.delete(f"{self.url}/_mock/calls", params={"only": "calls"}, timeout=5)

    def answer(self, kind: str, http: Mapping[str, Any]) -> None:
        """Answers every call of `kind` (check, answer or record) with the `http` part of a fixture from now on.

        The mock's `service.py` says what more can be in it.
        """
        requests.put(f"{self.url}/_mock/answer/{kind}", json=http, timeout=5)

    def answer_normally(self, kind: str) -> None:
        """Ends what `answer` set."""
        requests.delete(f"{self.url}/_mock/answer/{kind}", timeout=5)

    def open_port(self, number: int) -> None:
        """Listens on a further port, too; for other containers only."""
        requests.put(f"{self.url}/_mock/port/{number}", timeout=5)

    def close_port(self, number: int) -> None:
        """Refuses connections to the further port from now on, and ends idle ones."""
        requests.delete(f"{self.url}/_mock/port/{number}", timeout=5)

    def accept_token(self, token: str) -> None:
        requests.put(f"{self.url}/_mock/token", json={"token": token}, timeout=5)

    def summarise(self, session: str, summary: str) -> None:
        """Sets the summary that the service puts in front of bare payloads of `session`."""
        requests.put(f"{self.url}/_mock/summary/{session}", json={"summary": summary}, timeout=5)

    def calls(self, kind: str | None = None) -> list[dict[str, Any]]:
        calls = requests.get(f"{self.url}/_mock/calls", timeout=5).json()["calls"]
        return [call for call in calls if kind in (None, call["kind"])]

    def most_in_flight(self) -> int:
        return requests.get(f"{self.url}/_mock/calls", timeout=5).json()["most_in_flight"]

    def wait_for(self, kind: str, count: int, seconds: float = 30) -> list[dict[str, Any]]:
        """The calls of `kind` once there are `count`, after a moment in which more would arrive."""
        deadline = time.monotonic() + seconds
        while len(self.calls(kind)) < count and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.2)
        calls = self.calls(kind)
        assert len(calls) == count, f"expected {count} calls of kind {kind}, Akto got {len(calls)}"
        return calls


class MockLlm(Mock):
    def __init__(self, network: Network) -> None:
        super().__init__("mock_llm", "mock-llm", 8081, network, {})

    def start(self) -> Self:
        self.container.start()
        return self.wait_until_ready("/_mock/requests")

    def reset(self) -> None:
        requests.delete(f"{self.url}/_mock/requests", timeout=5)

    def says(self, **told: str | int) -> None:
        """Sets the `text` of answers, its `size` of pieces in streams, and the `tool` and `arguments` of tool calls.

        They count until the next reset.
        """
        requests.put(f"{self.url}/_mock/told", json=told, timeout=5)

    def requests(self) -> list[dict[str, Any]]:
        """What the provider was asked, but for its list of models, which LiteLLM looks up when it starts."""
        asked = requests.get(f"{self.url}/_mock/requests", timeout=5).json()["requests"]
        return [
            request for request in asked if not (request["method"] == "GET" and request["path"].endswith("/models"))
        ]


class GuardedProxy(Service):
    """The image under test, with a config directory mounted read-only at /etc/litellm.

    `mounted_at`: another place for it; where it is the path of a YAML file, the config alone is mounted there.
    """

    def __init__(
        self,
        network: Network,
        directory: Path,
        *,
        config: Mapping[str, Any] | str | None = None,
        files: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] | None = ("--config", "/etc/litellm/config.yaml"),
        image: str = IMAGE,
        tmpfs: Sequence[str] = (),
        mounted_at: str = "/etc/litellm",
        mode: str = "ro",
        **kwargs: Any,
    ) -> None:
        write_config(directory, proxy_config() if config is None else config, files or {})
        container = DockerContainer(image, **kwargs)
        if command is not None:
            container.with_command(list(command))
        for path in tmpfs:
            container.with_tmpfs_mount(path)
        mounted = directory / "config.yaml" if mounted_at.endswith(".yaml") else directory
        container.with_network(network).with_volume_mapping(str(mounted), mounted_at, mode)
        container.with_envs(**(proxy_environment() | dict(env or {})))
        super().__init__(container, 4000)

    def post(
        self,
        path: str,
        body: Any,
        *,
        key: str = "sk.checkout-agent",
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
        stream: bool = False,
    ) -> requests.Response:
        return requests.post(
            self.url + path,
            json=body,
            headers={"Authorization": f"Bearer {key}", **(headers or {})},
            timeout=timeout,
            stream=stream,
        )

    def post_raw(self, path: str, text: str) -> requests.Response:
        """Posts `text` as it is, for bodies that no JSON library would write."""
        headers = {"Authorization": "Bearer sk.checkout-agent", "Content-Type": "application/json"}
        return requests.post(self.url + path, data=text.encode(), headers=headers, timeout=30)

    def chat(self, text: str, *, key: str = "sk.checkout-agent", headers: Any = None, **more: Any) -> requests.Response:
        """One chat completion with `text` as the user's message; `more` goes into the body."""
        return self.post("/v1/chat/completions", chat_body(text, **more), key=key, headers=headers)

    def callbacks(self) -> str:
        """LiteLLM's own list of active callbacks, in their order."""
        answer = requests.get(
            f"{self.url}/active/callbacks", headers={"Authorization": f"Bearer {MASTER_KEY}"}, timeout=30
        )
        return str(answer.json()["litellm.callbacks"])

    def guard_log(self) -> str:
        """The lines of the log that are the guard's."""
        return "\n".join(line for line in self.logs().splitlines() if "akto-guardrails:" in line)


def chat_body(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], **more}


def proxy_environment() -> dict[str, str]:
    return {
        "DATA_INGESTION_SERVICE_URL": "http://mock-akto:8080",
        "AKTO_API_TOKEN": TOKEN,
        "LITELLM_URL": LITELLM_URL,
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "MODEL_KEY": "model-key-098f6bcd4621",
    }


def write_config(directory: Path, config: Mapping[str, Any] | str, files: Mapping[str, str]) -> None:
    text = config if isinstance(config, str) else yaml.safe_dump(dict(config), sort_keys=False)
    for name, content in {"config.yaml": text, "team_auth.py": AUTH_MODULE, **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o644)
    directory.chmod(0o755)


def run_once(
    command: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    seconds: float = 60,
    image: str = IMAGE,
    **kwargs: Any,
) -> tuple[int, str, str]:
    """Runs the image to its end; gives exit status, stdout and stderr. Fails when it is still running by then."""
    container = docker.from_env().containers.create(
        image, list(command), environment=dict(env or {}), labels={TEST_LABEL: "1"}, **kwargs
    )
    try:
        container.start()
        status = container.wait(timeout=seconds)["StatusCode"]
        out = container.logs(stdout=True, stderr=False).decode()
        return status, out, container.logs(stdout=False, stderr=True).decode()
    finally:
        container.remove(force=True)
