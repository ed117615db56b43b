"""UNCHECKED_ROUTES: routes of which LiteLLM shows no callback anything are named, or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import READY_SECONDS, GuardedProxy, MockAkto, MockLlm
from integration.routes import ENVIRONMENT, ROUTES, UNCHECKED, Route, Unchecked, all_routes_config, get

REFUSED = "the content of this route cannot be checked (UNCHECKED_ROUTES=deny)"


@pytest.fixture(scope="module")
def proxies(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, GuardedProxy]]:
    started = {}
    for mode in ("allow", "deny"):
        environment = {**ENVIRONMENT, "UNCHECKED_ROUTES": mode}
        directory = tmp_path_factory.mktemp("config")
        started[mode] = GuardedProxy(network, directory, config=all_routes_config(), env=environment)
        started[mode].container.start()
    yield {mode: proxy.wait_until_ready("/health/readiness", READY_SECONDS) for mode, proxy in started.items()}
    for proxy in started.values():
        proxy.stop()


@pytest.fixture
def denying(proxies: dict[str, GuardedProxy], akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return proxies["deny"]


@pytest.fixture
def allowing(proxies: dict[str, GuardedProxy], akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return proxies["allow"]


every_route = pytest.mark.parametrize("route", UNCHECKED, ids=lambda route: route.name)


@every_route
def test_deny_refuses_it_with_403(denying: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Unchecked) -> None:
    try:
        reply = route.send(denying, route.path, route.request)
    except aiohttp.WSServerHandshakeError as refused:
        assert refused.status == 403
    else:
        assert reply.status == 403
        assert REFUSED in reply.text
    assert "zebra-block" not in json.dumps(llm.requests())


@every_route
def test_allow_serves_it_and_names_it_once(
    allowing: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Unchecked
) -> None:
    for _ in range(2):
        route.send(allowing, route.path, route.request)
    assert "zebra-block" in json.dumps(llm.requests())
    lines = [line for line in allowing.guard_log().splitlines() if "unchecked route" in line]
    families = [line.split("|")[1] for line in lines]
    assert families
    assert len(families) == len(set(families)), "each family is named once"


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.needs], ids=lambda route: route.name)
def test_deny_leaves_checked_routes_alone(denying: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route) -> None:
    place = next(iter(route.places))
    reply = route.send(denying, route.path, route.places[place]("a harmless question"))
    assert route.is_answered(reply), reply
    assert "harmless" in json.dumps(llm.requests())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/threads/thread_mock/messages/",
        "//v1/threads/thread_mock/messages",
        "/v1/%74hreads/thread_mock/messages",
        "/threads/thread_mock/messages",
        "/v1/threads/../threads/thread_mock/messages",
        "/openai/v1/responses/input_tokens",
        "/responses/input_tokens",
        "/models/gemini:countTokens",
    ],
)
def test_no_other_spelling_of_the_path_gets_by(denying: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str) -> None:
    prepared = requests.Request(
        "POST",
        denying.url,
        json={"role": "user", "content": "zebra-block", "model": "gpt-4o-mini", "input": "zebra-block"},
        headers={"Authorization": "Bearer sk.checkout-agent"},
    ).prepare()
    prepared.url = denying.url + path
    with requests.Session() as session:
        response = session.send(prepared, timeout=30)
    assert response.status_code >= 400
    assert "zebra-block" not in json.dumps(llm.requests())


@pytest.mark.parametrize("path", ["/v1/models", "/health/liveliness", "/v1/assistants"])
def test_reading_is_not_refused(denying: GuardedProxy, path: str) -> None:
    assert REFUSED not in get(denying, path, None).text


def test_the_error_of_the_anthropic_route_is_anthropics(denying: GuardedProxy) -> None:
    body: dict[str, Any] = {"model": "claude", "messages": [{"role": "user", "content": "hello"}]}
    error = denying.post("/v1/messages/count_tokens", body).json()
    assert error["type"] == "error"
    assert error["error"]["type"] == "permission_error"
