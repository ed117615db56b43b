"""Fixtures: one mock Akto and one mock provider for the whole run, and proxies by their settings."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

# The reaper needs an image of its own; where that cannot be pulled, the fixtures below clean up alone.
_RYUK = "testcontainers/ryuk:0.8.1"
if subprocess.run(["docker", "pull", "--quiet", _RYUK], capture_output=True, check=False).returncode != 0:
    os.environ["TESTCONTAINERS_RYUK_DISABLED"] = "true"

import docker  # noqa: E402
from testcontainers.core.network import Network  # noqa: E402

from integration.containers import READY_SECONDS, TEST_LABEL, GuardedProxy, MockAkto, MockLlm  # noqa: E402

StartProxy = Callable[..., GuardedProxy]

_used: list[Any] = []


@pytest.fixture(scope="session", autouse=True)
def no_leftovers() -> Iterator[None]:
    """Removes containers that an earlier, interrupted run left behind, and those of this run."""
    _remove_test_containers()
    yield
    _remove_test_containers()


def _remove_test_containers() -> None:
    for container in docker.from_env().containers.list(all=True, filters={"label": TEST_LABEL}):
        container.remove(force=True)


@pytest.fixture(scope="session")
def network(no_leftovers: None) -> Iterator[Network]:
    with Network() as network:
        yield network
        _remove_test_containers()


@pytest.fixture(scope="session")
def session_akto(network: Network) -> MockAkto:
    return MockAkto(network).start()


@pytest.fixture(scope="session")
def session_llm(network: Network) -> MockLlm:
    return MockLlm(network).start()


@pytest.fixture
def akto(session_akto: MockAkto) -> MockAkto:
    """The mock Akto, with nothing received yet and its standard policy."""
    session_akto.reset()
    return session_akto


@pytest.fixture
def llm(session_llm: MockLlm) -> MockLlm:
    """The mock provider, with nothing received yet."""
    session_llm.reset()
    return session_llm


@pytest.fixture(scope="session")
def shared_proxy(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., GuardedProxy]:
    """A proxy with the given environment, started once for all tests that ask for the same."""
    started: dict[tuple[tuple[str, str], ...], GuardedProxy] = {}

    def get(**env: str) -> GuardedProxy:
        settings = tuple(sorted(env.items()))
        if settings not in started:
            proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), env=env)
            proxy.container.start()
            _used.append(proxy)
            started[settings] = proxy.wait_until_ready("/health/readiness", READY_SECONDS)
            # Records of an earlier test may have come in the meantime.
            session_akto.forget_calls()
        elif started[settings] not in _used:
            _used.append(started[settings])
        return started[settings]

    return get


@pytest.fixture
def proxy(shared_proxy: StartProxy, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    """The guarded proxy with the three required variables and nothing else."""
    return shared_proxy()


@pytest.fixture
def start_proxy(
    network: Network, akto: MockAkto, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartProxy]:
    """Starts a proxy for one test alone."""
    own: list[GuardedProxy] = []

    def start(*, wait: bool = True, **options: Any) -> GuardedProxy:
        proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), **options)
        proxy.container.start()
        own.append(proxy)
        _used.append(proxy)
        return proxy.wait_until_ready("/health/readiness", READY_SECONDS) if wait else proxy

    yield start
    for proxy in own:
        proxy.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failing test shows the last lines of the containers it used."""
    report = yield
    if report.when == "call" and report.failed:
        for proxy in _used:
            report.sections.append((f"log of {proxy.id[:12]}", "\n".join(proxy.logs().splitlines()[-60:])))
    if report.when == "teardown":
        _used.clear()
    return report
