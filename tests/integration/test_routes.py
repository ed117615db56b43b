"""Every route LiteLLM serves: each request is checked, enforced and recorded, once, under its path and its agent."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import READY_SECONDS, GuardedProxy, MockAkto, MockLlm
from integration.routes import (
    ENVIRONMENT,
    ROUTES,
    SERVED_UNCHECKED,
    Form,
    Records,
    Route,
    Unchecked,
    all_routes_config,
    bodies,
    exchanges,
    post,
    post_message,
)

HARMLESS = "a harmless question"
BLOCK = "please zebra-block this"
CARD = "My card is 4111-1111-1111-1111, refund me"
MASKED = "My card is <CREDIT_CARD>, refund me"

Call = dict[str, Any]

every_place = pytest.mark.parametrize(
    ("route", "place"),
    [pytest.param(route, place, id=f"{route.name}: {place}") for route in ROUTES for place in route.places],
)


@pytest.fixture(scope="module")
def routes_proxy(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedProxy]:
    directory = tmp_path_factory.mktemp("config")
    proxy = GuardedProxy(network, directory, config=all_routes_config(), env=ENVIRONMENT)
    proxy.container.start()
    yield proxy.wait_until_ready("/health/readiness", READY_SECONDS)
    proxy.stop()


@every_place
def test_an_allowed_request_is_checked_answered_and_recorded_once(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route, place: str
) -> None:
    skip_what_is_missing(routes_proxy, route)
    skip_before(routes_proxy, route.recorded_since)
    request = route.places[place](HARMLESS)
    reply = route.send(routes_proxy, route.path, request)
    assert route.is_answered(reply), reply
    assert HARMLESS in readable(route.reached(llm.requests()))
    records = akto.wait_for("record", exchanges(request))
    checks = checks_of_requests(akto)
    assert len(checks) == exchanges(request) + route.retrieves
    for call in checks + records:
        assert_filed_under(route, call)
        assert call["body"]["ip"] != "0.0.0.0"
    assert HARMLESS in payloads(checks)
    assert HARMLESS in payloads(records)
    assert {record["body"]["statusCode"] for record in records} == {"200"}
    assert " object at 0x" not in readable(records), "an answer is recorded by the name of Python's object"
    if route.streams:
        assert "Hello from the mock model." in readable(records), records[0]["body"]["responsePayload"]


def test_a_request_that_is_passed_through_is_filed_under_its_method(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    headers = {"Authorization": "Bearer sk.checkout-agent"}
    body = {"ticket": {"note": HARMLESS}}
    answer = requests.put(f"{routes_proxy.url}/support", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    akto.wait_for("record", 1)
    assert [call["body"]["method"] for call in akto.calls()] == ["PUT", "PUT"]


@every_place
def test_a_blocked_request_goes_no_further(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route, place: str
) -> None:
    skip_before(routes_proxy, route.since)
    request = route.places[place](BLOCK)
    reply = route.send(routes_proxy, route.path, request)
    assert route.is_blocked(reply), reply
    assert BLOCK not in readable(llm.requests())
    # Of a file or a conversation the rest still goes out.
    if exchanges(request) == 1:
        assert route.reached(llm.requests()) == []
    skip_before(routes_proxy, route.recorded_since)
    records = akto.wait_for("record", exchanges(request))
    checks = checks_of_requests(akto)
    assert len(checks) == exchanges(request)
    for call in checks + records:
        assert_filed_under(route, call)
    (blocked,) = [record for record in records if BLOCK in payloads([record])]
    assert blocked["body"]["statusCode"] == blocked["body"]["status"] == "403"


@every_place
def test_a_mask_changes_that_text_and_nothing_else(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route, place: str
) -> None:
    skip_what_is_missing(routes_proxy, route)
    skip_before(routes_proxy, route.recorded_since)
    reply = route.send(routes_proxy, route.path, route.places[place](MASKED))
    assert route.is_answered(reply), reply
    expected = bodies(route.reached(llm.requests()))
    akto.wait_for("record", exchanges(route.places[place](MASKED)))
    akto.reset()
    llm.reset()

    request = route.places[place](CARD)
    reply = route.send(routes_proxy, route.path, request)
    assert route.is_answered(reply), reply
    sent = bodies(route.reached(llm.requests()))
    assert MASKED in readable(sent)
    assert sent == expected
    records = akto.wait_for("record", exchanges(request))
    assert len(checks_of_requests(akto)) == exchanges(request) + route.retrieves
    assert MASKED in payloads(records)
    assert "4111-1111" not in json.dumps(records)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.send is post], ids=lambda route: route.name)
def test_nothing_a_caller_sends_switches_records_off_or_blanks_them(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route
) -> None:
    skip_what_is_missing(routes_proxy, route)
    skip_before(routes_proxy, route.recorded_since)
    request = next(iter(route.places.values()))(HARMLESS)
    if not isinstance(request, (Form, Records)):
        request |= {"no-log": True}
    headers = {"x-litellm-enable-message-redaction": "true", "litellm-enable-message-redaction": "true"}
    reply = post(routes_proxy, route.path, request, headers)
    assert route.is_answered(reply), reply
    records = akto.wait_for("record", exchanges(request))
    assert HARMLESS in payloads(records)
    assert "redacted-by-litellm" not in readable(records)


@pytest.mark.parametrize(
    ("said", "described"),
    [(HARMLESS, f"Says: {HARMLESS}"), (BLOCK, None), (CARD, f"Says: {MASKED}")],
    ids=["allowed", "blocked", "masked"],
)
def test_the_tools_of_a_catalog_are_checked_when_they_are_listed(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, said: str, described: str | None
) -> None:
    skip_before(routes_proxy, "1.106.2")
    llm.says(text=said)
    reply = post_message(routes_proxy, "/mcp/", {"method": "tools/list", "params": {}})
    tools = {tool["name"]: tool["description"] for tool in reply.json["result"]["tools"]}
    assert "github-echo" in tools
    assert tools.get("github-quote") == described
    # The definitions of the other tools may have been allowed less than a minute ago.
    checks = akto.calls("check")
    assert {json.loads(call["body"]["requestHeaders"])["host"] for call in checks} == {"checkout-agent.litellm.github"}
    assert [call for call in checks if said in readable(call["body"]["requestPayload"])]
    # Only a refused one is recorded.
    akto.wait_for("record", 1 if described is None else 0)


def test_a_catalog_that_was_allowed_is_not_checked_again_at_once(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    skip_before(routes_proxy, "1.106.2")
    llm.says(text="a tool that nobody has listed yet")
    listing = {"method": "tools/list", "params": {}}
    first = post_message(routes_proxy, "/mcp/", listing)
    assert post_message(routes_proxy, "/mcp/", listing).json["result"] == first.json["result"]
    # The definitions of the other tools may have been allowed a minute ago.
    assert payloads(akto.calls("check")).count("nobody has listed yet") == 1


@pytest.mark.parametrize("route", SERVED_UNCHECKED, ids=lambda route: route.name)
def test_what_the_readme_calls_unchecked_is_just_that(
    routes_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Unchecked
) -> None:
    """A route that gets a callback with a newer LiteLLM is to be moved to the checked ones."""
    skip_before(routes_proxy, route.since)
    route.send(routes_proxy, route.path, route.request)
    assert BLOCK in readable(llm.requests())
    assert BLOCK not in readable(akto.calls())


def assert_filed_under(route: Route, call: Call) -> None:
    body = call["body"]
    assert call["status"] == 200
    assert body["path"] == route.akto_path
    assert json.loads(body["requestHeaders"])["host"] == route.collection
    tags = json.loads(body["tag"])
    if not route.server:
        # Of a batch file, what is checked are the calls in it.
        assert tags["call_type"] == ("acompletion" if route.name == "batch file" else route.call_type)
        assert "mcp-server" not in tags
        return
    assert "mcp-server" in tags
    message = json.loads(body["requestPayload"])
    assert message.keys() == {"jsonrpc", "method", "params", "id"}
    assert (message["jsonrpc"], message["method"], message["id"]) == ("2.0", "tools/call", 1)
    assert message["params"]["name"] == "echo"
    assert message["params"].keys() == {"name", "arguments"}
    if body["responsePayload"] is not None:
        # Akto drops a tool call whose answer is anything else.
        answer = json.loads(body["responsePayload"])
        assert answer["jsonrpc"] == "2.0"
        assert "result" in answer or "error" in answer


def checks_of_requests(akto: MockAkto) -> list[Call]:
    """Without those of the definitions of MCP tools, which newer releases of LiteLLM show before calls of them, too."""
    return [call for call in akto.calls("check") if json.loads(call["body"]["requestPayload"]).keys() != {"tools"}]


def payloads(calls: Sequence[Call]) -> str:
    return readable([call["body"]["requestPayload"] for call in calls])


def readable(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def skip_before(proxy: GuardedProxy, since: str) -> None:
    if since and numbers(release_of(proxy)) < numbers(since):
        pytest.skip(f"LiteLLM does this in {since}, not yet in this image's {release_of(proxy)}")


def skip_from(proxy: GuardedProxy, release: str) -> None:
    if numbers(release_of(proxy)) >= numbers(release):
        pytest.skip(f"LiteLLM does something else in {release}, which another test is about")


@functools.cache
def release_of(proxy: GuardedProxy) -> str:
    program = "import importlib.metadata as m; print(m.version('litellm'))"
    return proxy.container.exec(["python", "-c", program]).output.decode().strip()


def numbers(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def skip_what_is_missing(proxy: GuardedProxy, route: Route) -> None:
    skip_before(proxy, route.since)
    if route.needs and proxy.container.exec(["python", "-c", f"import {route.needs}"]).exit_code != 0:
        pytest.skip(f"LiteLLM serves this only with the package {route.needs}, which this base image lacks")
