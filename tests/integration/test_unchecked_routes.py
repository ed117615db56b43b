"""UNCHECKED_ROUTES: routes of which LiteLLM shows no callback anything are named, or refused."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import aiohttp
import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import MASTER_KEY, READY_SECONDS, GuardedProxy, MockAkto, MockLlm, proxy_config
from integration.routes import (
    ENVIRONMENT,
    ROUTES,
    SERVED_UNCHECKED,
    UNCHECKED,
    Route,
    Unchecked,
    all_routes_config,
    get,
)
from integration.test_chat import CARD

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


@pytest.mark.parametrize("route", UNCHECKED, ids=lambda route: route.name)
def test_deny_refuses_it_with_403(denying: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Unchecked) -> None:
    try:
        reply = route.send(denying, route.path, route.request)
    except aiohttp.WSServerHandshakeError as refused:
        assert refused.status == 403
    else:
        assert reply.status == 403
        assert REFUSED in reply.text
    assert "zebra-block" not in json.dumps(llm.requests())


@pytest.mark.parametrize("route", SERVED_UNCHECKED, ids=lambda route: route.name)
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
        "/v1/responses/input_tokens%0A",
        "/v1/threads%0A",
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


def raw_post(path: str, body: str, *headers: str) -> bytes:
    """A request as bytes, for what no HTTP library would send."""
    lines = [f"POST {path} HTTP/1.1", "Host: proxy", "Authorization: Bearer sk.checkout-agent", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


def answers(proxy: GuardedProxy, sent: bytes, count: int) -> bytes:
    """What comes back on one connection, until `count` answers have begun and a moment has passed."""
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        with contextlib.suppress(TimeoutError):
            while received.count(b"HTTP/1.1 ") < count:
                received += connection.recv(65536)
            connection.settimeout(1)
            while part := connection.recv(65536):
                received += part
    return received


def test_a_form_announced_as_json_as_well_is_refused(denying: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    form = "\r\n".join(["--x", 'Content-Disposition: form-data; name="note"', "", "zebra-block", "--x--", ""])
    types = ("Content-Type: multipart/form-data; boundary=x", "Content-Type: application/json")
    received = answers(denying, raw_post("/support", form, *types), 1)
    assert b" 403 " in received.partition(b"\r\n")[0]
    assert "zebra-block" not in json.dumps(llm.requests())


def test_a_pipelined_request_does_not_pass_for_the_one_before_it(
    allowing: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    """A server starts it in the context of the one before; LiteLLM calls no hook but the second gate for it."""
    chat = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}], "priority": 0})
    paths = ("/v1/chat/completions", "/queue/chat/completions")
    sent = b"".join(raw_post(path, chat, "Content-Type: application/json") for path in paths)
    assert answers(allowing, sent, 2).count(b"HTTP/1.1 200") == 2
    akto.wait_for("record", 2)
    assert len(akto.calls("check")) == 2
    assert len(llm.requests()) == 2


MASTER_KEY_ALONE = proxy_config(general_settings={"master_key": "os.environ/LITELLM_MASTER_KEY"})
SPEECH = {
    "AZURE_SPEECH_API_BASE": "http://mock-llm:8081",
    "AZURE_SPEECH_API_KEY": "k",
    "AZURE_SPEECH_REGION": "x",
}
PREFIXES = ["", "/llm", "/tenant-a", "/tenant-a/inner"]


@pytest.fixture(scope="module")
def prefixed_proxy(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedProxy]:
    """Served below several prefixes at once."""
    prefixes = {"SERVER_ROOT_PATH": "/llm", "SERVER_ROOT_PATHS": "/tenant-a/, /tenant-a/inner"}
    environment = {**prefixes, "UNCHECKED_ROUTES": "deny"}
    proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), config=MASTER_KEY_ALONE, env=environment)
    proxy.container.start()
    yield proxy.wait_until_ready("/health/readiness", READY_SECONDS)
    proxy.stop()


@pytest.fixture
def prefixed(prefixed_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return prefixed_proxy


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("path", ["/v1/messages/count_tokens", "/utils/token_counter", "/v1/threads"])
def test_no_prefix_gets_by(prefixed: GuardedProxy, llm: MockLlm, path: str, prefix: str) -> None:
    body = {"model": "claude", "messages": [{"role": "user", "content": "zebra-block"}]}
    response = prefixed.post(prefix + path, body, key=MASTER_KEY)
    assert response.status_code == 403, response.text
    assert REFUSED in response.text
    assert "zebra-block" not in json.dumps(llm.requests())


@pytest.mark.parametrize("prefix", PREFIXES)
def test_checked_routes_are_served_below_every_prefix(prefixed: GuardedProxy, akto: MockAkto, prefix: str) -> None:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    assert prefixed.post(f"{prefix}/v1/chat/completions", body, key=MASTER_KEY).status_code == 200
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["path"] == "/v1/chat/completions"


@pytest.mark.parametrize("path", ["/tenant-a/tenant-a/v1/threads", "/TENANT-A/v1/threads", "/tenant-a//v1/threads"])
def test_what_only_looks_like_a_prefix_leads_nowhere(prefixed: GuardedProxy, llm: MockLlm, path: str) -> None:
    response = prefixed.post(path, {"messages": [{"role": "user", "content": "zebra-block"}]}, key=MASTER_KEY)
    assert response.status_code >= 400
    assert "zebra-block" not in json.dumps(llm.requests())


def test_a_body_that_is_sent_as_it_was_read_is_not_called_masked(
    start_proxy: Callable[..., GuardedProxy], llm: MockLlm
) -> None:
    # LiteLLM 1.106.2 does not find this route where SERVER_ROOT_PATH is set as well.
    proxy = start_proxy(config=MASTER_KEY_ALONE, env={"SERVER_ROOT_PATHS": "/tenant-a", **SPEECH})
    for prefix in ("", "/tenant-a"):
        path = f"{prefix}/azure_speech/speechtotext/v3.2/transcriptions"
        response = proxy.post(path, {"displayName": f"card {CARD}", "contentUrls": []}, key=MASTER_KEY)
        assert response.status_code == 403, response.text
    assert CARD not in json.dumps(llm.requests())
