"""The mock Akto is as strict as the service it stands in for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from mock_akto.limits import LONGEST_BODY, LONGEST_STRING
from mock_akto.service import STATE, application

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
TOKEN = "raw-token"
CHECK = "/api/http-proxy?akto_connector=litellm&guardrails=true"


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())["http"]


def call(
    path: str = CHECK, body: Any = None, *, raw: bytes | None = None, token: str = TOKEN, kind: str = "application/json"
) -> tuple[int, Any]:
    """Status and body of the mock's answer to one call; the body is text where it is not JSON."""

    async def main() -> tuple[int, Any]:
        app = application()
        app[STATE].token = TOKEN
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            headers = {"Authorization": token, "Content-Type": kind}
            data = json.dumps(body).encode() if raw is None else raw
            async with session.post(f"{server.make_url('/')}"[:-1] + path, data=data, headers=headers) as got:
                text = await got.text()
                return got.status, json.loads(text) if got.content_type == "application/json" else text

    return asyncio.run(main())


def envelope(**changes: Any) -> dict[str, Any]:
    return {**fixture("request-validate-chat")["body"], **changes}


REQUESTS = [
    path.stem
    for path in sorted(FIXTURES.glob("request-*.json"))
    # The guardrails service's own endpoint, which the ingestion service does not offer.
    if path.stem != "request-file-validate-multipart"
]


@pytest.mark.parametrize("name", REQUESTS)
def test_it_takes_every_request_of_the_protocol_examples(name: str) -> None:
    http = fixture(name)
    flags = "&".join(f"{key}={value}" for key, value in http["query"].items())
    status, answer = call(f"{http['path']}?{flags}", http["body"])
    if name == "request-invalid-missing-payload":
        assert status == 422
        assert answer == fixture("response-422-missing-payload")["body"]
        return
    assert status == 200
    if http["path"] == "/api/ingestData":
        assert answer == fixture("response-ingest-batch-ok")["body"]
        return
    checks = "guardrails" in http["query"] or "response_guardrails" in http["query"]
    assert ("guardrailsResult" in answer["data"]) == checks


def test_both_checks_are_answered_in_the_merged_shape() -> None:
    _, answer = call(f"{CHECK}&response_guardrails=true", fixture("request-all-flags")["body"])
    result = answer["data"]["guardrailsResult"]
    assert result.keys() == fixture("response-merged-allowed")["body"]["data"]["guardrailsResult"].keys()


@pytest.mark.parametrize("token", ["", "another", f"Bearer {TOKEN}"])
def test_only_the_raw_token_is_let_in(token: str) -> None:
    assert call(body=envelope(), token=token)[0] == 401


@pytest.mark.parametrize("kind", ["text/plain", "application/octet-stream"])
def test_another_content_type_is_not_read(kind: str) -> None:
    assert call(body=envelope(), kind=kind)[0] == 422


@pytest.mark.parametrize("payload", ["", None])
def test_a_payload_is_required(payload: str | None) -> None:
    assert call(body=envelope(requestPayload=payload))[0] == 422


def test_a_string_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert call(body=envelope(requestPayload="x" * LONGEST_STRING))[0] == 200
    assert call(body=envelope(requestPayload="x" * (LONGEST_STRING + 1)))[0] == 500


def test_length_is_measured_in_utf_16_units_after_decoding() -> None:
    cyrillic = json.dumps(envelope(requestPayload="ж" * LONGEST_STRING))
    assert call(raw=cyrillic.encode())[0] == 200
    assert call(body=envelope(requestPayload="😀" * (LONGEST_STRING // 2 + 1)))[0] == 500


def test_a_body_over_the_limit_is_an_error_page() -> None:
    long = {f"field{number}": "x" * 200_000 for number in range(11)}
    assert len(json.dumps(long)) > LONGEST_BODY
    status, page = call(body=envelope(**long))
    assert status == 500
    assert "<html>" in page


@pytest.mark.parametrize("value", [True, {"a": 1}, ["a"]])
def test_values_that_are_no_strings_are_errors(value: Any) -> None:
    assert call(body=envelope(is_pending=value))[0] == 500


def test_a_number_is_taken_as_a_string() -> None:
    assert call(body=envelope(statusCode=200))[0] == 200


@pytest.mark.parametrize("raw", [b"", b"not json", b"[1]"])
def test_a_body_that_is_no_object_is_an_error(raw: bytes) -> None:
    assert call(raw=raw)[0] == 500
