"""The containers of a run: mocks and load generator on their cores, the proxies side by side on theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import docker
import requests
from testcontainers.core.network import Network

from bench.load import Order, Outcome
from bench.plan import BUILT_IN, VARIANTS, Variant
from bench.prompts import MODEL
from bench.usage import cpu_clock, memory_mib
from integration.containers import (
    IMAGE,
    MASTER_KEY,
    READY_SECONDS,
    TEST_LABEL,
    TOKEN,
    GuardedProxy,
    Mock,
    Service,
    base_image,
)

_AKTO: Final = "http://lean-akto:8080"
_MODEL: Final = "http://lean-model:8081"
_POLL_SECONDS: Final = 0.02
_CALLBACKS: Final = Path(__file__).parent


@dataclass(frozen=True)
class Cores:
    """Sets of cores as Docker takes them; empty where there is only one."""

    proxies: str
    others: str

    @classmethod
    def of_engine(cls) -> Cores:
        count = int(docker.from_env().info()["NCPU"])
        return cls("0", "1" if count == 2 else f"1-{count - 1}") if count > 1 else cls("", "")


@dataclass(frozen=True)
class Proxy:
    """A proxy that is ready. `cpu` gives the seconds of CPU that its processes have used."""

    variant: Variant
    service: GuardedProxy
    pids: list[int]
    cpu: Callable[[], float]
    cpu_source: str
    start_seconds: float

    def memory_mib(self) -> dict[str, float]:
        return memory_mib(self.pids)


class Helper(Mock):
    """One of the mocks, or the load generator."""

    def __init__(self, name: str, port: int, network: Network, cores: Cores) -> None:
        super().__init__(f"bench.{name.replace('-', '_')}", name, port, network, {})
        _pin(self, cores.others)
        self.container.start()
        self.wait_until_ready("/_bench")

    def counts(self) -> dict[str, int]:
        return dict(requests.get(f"{self.url}/_bench", timeout=10).json())

    def check_ms(self) -> float:
        """Milliseconds that a check took Akto by its own clock, the median since the last reset; 0 without any."""
        return float(requests.get(f"{self.url}/_bench", params={"times": ""}, timeout=10).json()["check_ms"])

    def reset(self, delay_ms: int = 0) -> None:
        """Sets the counts to zero, and the time that Akto takes for a check, or the model on average."""
        requests.put(f"{self.url}/_bench", params={"delay_ms": delay_ms}, timeout=10).raise_for_status()

    def play(self, order: Order) -> Outcome:
        answer = requests.post(f"{self.url}/round", json=asdict(order), timeout=300)
        answer.raise_for_status()
        return Outcome(**answer.json())


class Stage:
    """Everything a run needs; a context manager that removes its containers and what an interrupted run left."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._exit = ExitStack()
        self.cores = Cores.of_engine()

    def __enter__(self) -> Stage:
        _remove_containers()
        self._network = self._exit.enter_context(Network())
        self._exit.callback(_remove_containers)
        self.akto = Helper("lean-akto", 8080, self._network, self.cores)
        self.model = Helper("lean-model", 8081, self._network, self.cores)
        self.load = Helper("load", 8082, self._network, self.cores)
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    def _start(self, variant: Variant) -> Proxy:
        directory = self._directory / variant.name
        directory.mkdir(exist_ok=True)
        service = GuardedProxy(
            self._network,
            directory,
            config=_config(variant),
            files=_files(variant),
            env={"DATA_INGESTION_SERVICE_URL": _AKTO, **dict(variant.env)},
            image=base_image() if variant.base else IMAGE,
        )
        service.container.with_network_aliases(variant.name)
        _pin(service, self.cores.proxies)
        seconds = _timed_start(service)
        pids = _pids_of(service)
        return Proxy(variant, service, pids, *cpu_clock(pids), seconds)

    @contextmanager
    def proxies(self) -> Iterator[dict[str, Proxy]]:
        """One of each variant, by name, gone afterwards."""
        started: dict[str, Proxy] = {}
        try:
            for variant in VARIANTS:
                started[variant.name] = self._start(variant)
            yield started
        finally:
            for proxy in started.values():
                proxy.service.container.stop()

    def litellm_release(self, proxy: Proxy) -> str:
        """The release of LiteLLM in the image."""
        command = ["python", "-c", "import importlib.metadata as m; print(m.version('litellm'))"]
        return str(proxy.service.container.exec(command).output.decode().strip())

    def order(self, proxy: Proxy, connections: int, prompt: str, lead: float, seconds: float) -> Order:
        url = f"http://{proxy.variant.name}:4000/v1/chat/completions"
        return Order(url, MASTER_KEY, connections, prompt, lead, seconds)


def _config(variant: Variant) -> dict[str, Any]:
    params = {"model": f"openai/{MODEL}", "api_base": f"{_MODEL}/v1", "api_key": "os.environ/MODEL_KEY"}
    config: dict[str, Any] = {
        "model_list": [{"model_name": MODEL, "litellm_params": params}],
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
    }
    if variant.name == BUILT_IN:
        guardrail = {"guardrail": "akto", "mode": "pre_call", "default_on": True}
        access = {"akto_base_url": _AKTO, "akto_api_key": TOKEN}
        config["guardrails"] = [{"guardrail_name": "akto", "litellm_params": guardrail | access}]
    if variant.callback:
        config["litellm_settings"] = {"callbacks": [f"{variant.callback}.handler"]}
    return config


def _files(variant: Variant) -> dict[str, str]:
    name = f"{variant.callback}.py"
    return {name: (_CALLBACKS / name).read_text(encoding="utf-8")} if variant.callback else {}


def _pin(service: Service, cores: str) -> None:
    if cores:
        service.container.with_kwargs(**service.container._kwargs, cpuset_cpus=cores)


def _timed_start(service: GuardedProxy) -> float:
    """Starts a container; gives the seconds until it said that it is ready."""
    begin = time.perf_counter()
    service.container.start()
    while time.perf_counter() < begin + READY_SECONDS:
        try:
            if requests.get(f"{service.url}/health/readiness", timeout=5).ok:
                return time.perf_counter() - begin
        except requests.RequestException:
            pass
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"{service.container.image} did not become ready; it printed:\n{service.logs()}")


def _pids_of(service: GuardedProxy) -> list[int]:
    top = service.container.get_wrapped_container().top(ps_args="-eo pid")
    return [int(row[0]) for row in top["Processes"]]


def _remove_containers() -> None:
    for container in docker.from_env().containers.list(all=True, filters={"label": TEST_LABEL}):
        container.remove(force=True)
