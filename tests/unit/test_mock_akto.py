"""The mock Akto is as strict as the service it stands in for."""

from __future__ import annotations

import asyncio
import json
import socket
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


ALLOW = {"success": True, "data": {"guardrailsResult": {"Allowed": True, "Modified": False}}}


def what_a_raw_socket_gets(answer: dict[str, Any]) -> tuple[bytes, bool]:
    """The bytes that come back for a check that is answered with `answer`, and whether a reset ended them."""

    async def main() -> tuple[bytes, bool]:
        app = application()
        app[STATE].answers["check"] = answer
        loop = asyncio.get_running_loop()
        async with TestServer(app) as server:
            with socket.create_connection((server.host, server.port)) as connection:
                connection.setblocking(False)
                call = f"POST {CHECK} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"
                await loop.sock_sendall(connection, call.encode())
                received = b""
                try:
                    while chunk := await asyncio.wait_for(loop.sock_recv(connection, 65536), 10):
                        received += chunk
                except ConnectionResetError:
                    return received, True
                return received, False

    return asyncio.run(main())


def test_a_reset_is_a_reset() -> None:
    assert what_a_raw_socket_gets({"connection": "reset"}) == (b"", True)


def test_a_reset_in_the_headers_comes_after_a_part_of_them() -> None:
    received, is_reset = what_a_raw_socket_gets({"connection": "reset_in_headers"})
    assert is_reset
    assert received.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\n\r\n" not in received


def test_a_reset_in_the_body_comes_after_half_of_it() -> None:
    received, is_reset = what_a_raw_socket_gets({"connection": "reset_in_body", "body": ALLOW})
    assert is_reset
    headers, _, body = received.partition(b"\r\n\r\n")
    whole = json.dumps(ALLOW).encode()
    assert b"Content-Length: %d" % len(whole) in headers
    assert body == whole[: len(whole) // 2]


def test_bytes_that_are_no_http_end_in_good_order() -> None:
    received, is_reset = what_a_raw_socket_gets({"connection": "not_http"})
    assert received and not received.startswith(b"HTTP") and not is_reset


def test_an_answer_for_calls_with_a_text_in_them_is_given_to_no_other() -> None:
    async def main() -> list[int]:
        app = application()
        app[STATE].answers["check"] = {"status": 502, "containing": "this one", "times": 1}
        async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as session:
            bodies = [envelope(path=path) for path in ("another", "this one", "this one")]
            return [(await session.post(CHECK, json=body)).status for body in bodies]

    assert asyncio.run(main()) == [200, 502, 200]


def test_an_answer_for_calls_together_waits_until_they_are_together() -> None:
    async def main() -> list[int]:
        app = application()
        app[STATE].answers["check"] = {"status": 200, "together": 2}
        async with TestServer(app) as server, aiohttp.ClientSession(server.make_url("/")) as session:
            first = asyncio.create_task(session.post(CHECK, json=envelope()))
            done, _ = await asyncio.wait([first], timeout=0.3)
            assert not done
            return [(await session.post(CHECK, json=envelope())).status, (await first).status]

    assert asyncio.run(main()) == [200, 200]


def test_a_closed_port_refuses_and_can_be_opened_again() -> None:
    async def main() -> None:
        app = application()
        app[STATE].answers["check"] = {"delay_ms": 300}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            number = free.getsockname()[1]
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            control, url = server.make_url(f"/_mock/port/{number}"), f"http://127.0.0.1:{number}{CHECK}"
            for calls in (1, 2):
                await session.put(control)
                busy = asyncio.create_task(session.post(url, json=envelope(), headers={"Connection": "close"}))
                idle, _ = await asyncio.open_connection("127.0.0.1", number)
                while len(app[STATE].calls) < calls:  # noqa: ASYNC110 - the mock has no event for it
                    await asyncio.sleep(0.01)
                await session.delete(control)
                assert await asyncio.wait_for(idle.read(), 10) == b"", "an idle connection outlived the port"
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.open_connection("127.0.0.1", number)
                assert (await busy).status == 200
            assert [call["target"] for call in app[STATE].calls] == [CHECK] * 2

    asyncio.run(main())
