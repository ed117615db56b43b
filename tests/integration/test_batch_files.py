"""Batch files: the provider gets what Akto has seen, whatever a line holds and however the path is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import READY_SECONDS, GuardedProxy, MockAkto, MockLlm, proxy_config

BAD = "please zebra-block this"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
RESPONSE = {
    "model": "m",
    "input": "hello",
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object", "description": BAD}}},
}


@pytest.fixture(scope="module")
def storing_proxy(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GuardedProxy]:
    store = {"custom_llm_provider": "openai", "api_base": "http://mock-llm:8081/v1", "api_key": "os.environ/MODEL_KEY"}
    config = proxy_config(files_settings=[store])
    proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), config=config)
    proxy.container.start()
    yield proxy.wait_until_ready("/health/readiness", READY_SECONDS)
    proxy.stop()


@pytest.fixture
def storing(storing_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return storing_proxy


def line(body: dict[str, Any], url: str = "/v1/chat/completions", **more: Any) -> str:
    """One request of a batch."""
    return json.dumps({"custom_id": "r1", "method": "POST", "url": url, "body": body, **more})


def upload(proxy: GuardedProxy, lines: str, path: str = "/v1/files") -> requests.Response:
    """What the client gets for a batch file."""
    prepared = requests.Request(
        "POST",
        proxy.url,
        data={"purpose": "batch"},
        files={"file": ("batch.jsonl", lines, "application/jsonl")},
        headers={"Authorization": "Bearer sk.checkout-agent"},
    ).prepare()
    prepared.url = proxy.url + path
    with requests.Session() as session:
        return session.send(prepared, timeout=30)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files%0A", "/files%0A", "/openai/v1/files%0A"])
def test_no_spelling_of_the_path_hides_a_part_of_a_line(
    storing: GuardedProxy, akto: MockAkto, llm: MockLlm, path: str
) -> None:
    upload(storing, line(CHAT) + "\n" + line(RESPONSE, "/v1/responses"), path)
    assert "zebra-block" not in json.dumps(llm.requests())
    assert "zebra-block" in json.dumps(akto.calls("check"))


@pytest.mark.parametrize(
    "strange",
    [
        line(CHAT, request={"contents": [{"parts": [{"text": BAD}]}]}),
        line(CHAT, params=BAD),
        line(CHAT).replace('"content": "hello"', f'"content": "{BAD}", "content": "hello"'),
        line(CHAT).replace('"body":', f'"body": {json.dumps(RESPONSE)}, "body":'),
    ],
    ids=["native row", "text", "content twice", "body twice"],
)
def test_a_line_that_litellm_does_not_show_as_a_whole_is_refused(
    storing: GuardedProxy, akto: MockAkto, llm: MockLlm, strange: str
) -> None:
    response = upload(storing, line(CHAT) + "\n" + strange + "\n")
    assert response.status_code == 400, response.text
    assert "line 2 of the file cannot be checked as a whole" in response.json()["error"]["message"]
    assert response.headers["x-akto-guardrails"] == "blocked"
    assert llm.requests() == []
    assert "batch file refused | line 2" in storing.guard_log()


def test_an_ordinary_file_goes_out_as_it_was_written(storing: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    response = upload(storing, line(CHAT) + "\r\n\r\n" + line(CHAT, priority=1))
    assert response.status_code == 200, response.text
    assert response.headers["x-akto-guardrails"] == "allowed"
    assert len(akto.calls("check")) == 2
    assert len(llm.requests()) == 1
