"""The HTTP client, against a server on the loopback interface."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from akto_guardrails import akto as akto_module
from akto_guardrails.akto import AktoClient, Delivery
from akto_guardrails.breaker import Breaker
from akto_guardrails.counters import Counters
from akto_guardrails.verdict import Cause, Decision, Verdict

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

ALLOW = json.dumps({"success": True, "data": {"guardrailsResult": {"Allowed": True}}}).encode()
BLOCK = json.dumps({"success": True, "data": {"guardrailsResult": {"Allowed": False, "Reason": "no"}}}).encode()
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own proxy settings must not decide a test."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """The address of a server that answers every request with `handler`."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def calling(url: str, seconds: float = 5.0, **options: Any) -> AsyncIterator[AktoClient]:
    """A client of the service at `url`."""
    client = AktoClient(url, "raw-token", seconds, Breaker(Counters()), **options)
    try:
        yield client
    finally:
        await client.close()


def check(handler: Handler, seconds: float = 5.0) -> Verdict:
    """The verdict a client gets from a service that answers with `handler`."""

    async def main() -> Verdict:
        async with serving(handler) as url, calling(url, seconds) as client:
            return await client.check(b"{}")

    return asyncio.run(main())


def record(handler: Handler, seconds: float = 5.0) -> tuple[Delivery, int | None]:
    """What becomes of a record at a service that answers with `handler`."""

    async def main() -> tuple[Delivery, int | None]:
        async with serving(handler) as url, calling(url, seconds) as client:
            return await client.record(b"{}")

    return asyncio.run(main())


def answering(body: bytes, status: int = 200, **headers: str) -> Handler:
    """A handler that always gives this answer."""

    async def handler(request: web.BaseRequest) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return handler


async def hang(request: web.BaseRequest) -> web.Response:
    """Never answers in time."""
    await asyncio.sleep(30)
    return web.Response(body=ALLOW)


async def drip(request: web.BaseRequest) -> web.StreamResponse:
    """Answers at once, but one byte at a time."""
    response = web.StreamResponse()
    response.content_length = len(ALLOW)
    await response.prepare(request)
    for position in range(len(ALLOW)):
        await response.write(ALLOW[position : position + 1])
        await asyncio.sleep(0.05)
    return response


def closed_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_check_and_a_record_are_posts_to_one_path_with_one_flag_each() -> None:
    seen: list[tuple[str, str, str, bytes]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append((request.method, request.path, request.query_string, await request.read()))
        return web.Response(body=ALLOW)

    async def main() -> None:
        async with serving(handler) as url, calling(url) as client:
            assert (await client.check(b'{"a":1}')).decision is Decision.ALLOW
            assert await client.record(b'{"b":2}') == (Delivery.DELIVERED, 200)

    asyncio.run(main())
    assert seen == [
        ("POST", "/api/http-proxy", "akto_connector=litellm&guardrails=true", b'{"a":1}'),
        ("POST", "/api/http-proxy", "akto_connector=litellm&ingest_data=true", b'{"b":2}'),
    ]


def test_a_path_in_the_service_address_is_kept() -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        paths.append(request.path)
        return web.Response(body=ALLOW)

    async def main() -> None:
        async with serving(handler) as url, calling(f"{url}/akto/ingest") as client:
            await client.check(b"{}")

    asyncio.run(main())
    assert paths == ["/akto/ingest/api/http-proxy"]


def test_the_token_goes_raw_and_the_body_is_plain_json() -> None:
    seen: list[web.BaseRequest] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.Response(body=ALLOW)

    check(handler)
    (request,) = seen
    assert request.headers.getall("Authorization") == ["raw-token"]
    assert request.headers.getall("Content-Type") == ["application/json"]
    assert "Content-Encoding" not in request.headers


def test_the_answer_is_judged() -> None:
    assert check(answering(BLOCK)) == Verdict(Decision.BLOCK, reason="no")


@pytest.mark.parametrize(
    ("handler", "cause"),
    [
        (answering(b"<html>", 401), Cause.CREDENTIALS),
        (answering(b"", 404), Cause.REJECTED),
        (answering(b"{}", 422), Cause.REJECTED),
        (answering(b"<html>", 500), Cause.SERVER_ERROR),
        (answering(ALLOW, 503), Cause.SERVER_ERROR),
        (answering(b"<html>ok</html>"), Cause.UNREADABLE),
        (answering(b""), Cause.UNREADABLE),
        (answering(b"\xff\x00garbage"), Cause.UNREADABLE),
        (answering(b'{"success": true, "data": {}}'), Cause.NO_VERDICT),
        (answering(gzip.compress(ALLOW), **{"Content-Encoding": "gzip"}), Cause.UNREADABLE),
    ],
)
def test_each_unusable_answer_has_its_cause(handler: Handler, cause: Cause) -> None:
    verdict = check(handler)
    assert verdict.decision is Decision.UNAVAILABLE
    assert verdict.cause is cause


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    paths: list[str] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        paths.append(request.path)
        if request.path == "/elsewhere":
            return web.Response(body=ALLOW)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    assert check(handler).cause is Cause.REDIRECT
    assert paths == ["/api/http-proxy"]


@pytest.mark.parametrize("handler", [hang, drip])
def test_the_timeout_covers_the_whole_call(handler: Handler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akto_module, "_RECORD_SECONDS", 0.1)
    start = time.monotonic()
    assert check(handler, seconds=0.2).cause is Cause.TIMEOUT
    assert record(handler, seconds=0.2) == (Delivery.DOUBTFUL, None)
    assert time.monotonic() - start < 2


def test_a_record_may_take_longer_than_a_check() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response(body=ALLOW)

    assert check(handler, seconds=0.1).cause is Cause.TIMEOUT
    assert record(handler, seconds=0.1) == (Delivery.DELIVERED, 200)


def test_an_answer_within_the_timeout_counts_however_slow() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.2)
        return web.Response(body=BLOCK)

    assert check(handler, seconds=3).decision is Decision.BLOCK


def test_an_answer_without_an_end_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akto_module, "_LARGEST_ANSWER", 1000)
    assert check(answering(b" " * 2000 + ALLOW)).cause is Cause.UNREADABLE
    assert record(answering(b" " * 2000 + ALLOW)) == (Delivery.DELIVERED, 200)


def repeating(payload: str, more: int) -> bytes:
    """An answer that repeats `payload` as long as it can be written, and so many bytes more."""
    masked = json.dumps({"body": payload}).replace("<", "\\u003c").replace("\u0436", "\\u0436")
    result = {"Allowed": True, "Modified": True, "ModifiedPayload": masked}
    both = {**result, "requestResult": result, "responseResult": {"Allowed": True}}
    return json.dumps({"data": {"guardrailsResult": both}, "more": " " * more}).encode()


@pytest.mark.parametrize("proxy", [False, True])
def test_as_much_of_an_answer_is_read_as_what_was_sent_may_take_in_it(
    proxy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def verdict(sent: bytes, answer: bytes) -> Verdict:
        async with serving(answering(answer)) as url:
            if proxy:
                monkeypatch.setenv("HTTP_PROXY", url)
            async with calling("http://akto.invalid" if proxy else url) as client:
                return await client.check(sent)

    assert asyncio.run(verdict(b"{}", repeating("", 1_100_000))).cause is Cause.UNREADABLE
    for payload in ("", "<" * 262_000, "\u0436" * 262_000):
        sent = json.dumps({"requestPayload": payload}, ensure_ascii=False).encode()
        assert asyncio.run(verdict(sent, repeating(payload, 900_000))).mask is not None


def test_a_long_error_page_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akto_module, "_LARGEST_ANSWER", 1000)
    assert record(answering(b"x" * 2000, 503)) == (Delivery.RETRY, 503)


def test_nobody_listening_is_a_connection_fault() -> None:
    async def main() -> None:
        async with calling(f"http://127.0.0.1:{closed_port()}") as client:
            assert (await client.check(b"{}")).cause is Cause.CONNECTION
            assert await client.record(b"{}") == (Delivery.RETRY, None)

    asyncio.run(main())


def test_a_name_that_does_not_resolve_is_a_connection_fault() -> None:
    async def main() -> Verdict:
        async with calling("http://akto.invalid") as client:
            return await client.check(b"{}")

    assert asyncio.run(main()).cause is Cause.CONNECTION


def test_a_server_that_does_not_speak_http_is_a_connection_fault() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"220 mail.example.com ESMTP\r\n")
        writer.close()

    async def main() -> Verdict:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, calling(f"http://127.0.0.1:{port}") as client:
            return await client.check(b"{}")

    assert asyncio.run(main()).cause is Cause.CONNECTION


def test_a_kept_connection_that_the_server_closed_is_no_outage() -> None:
    calls = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        calls += 1
        if calls in (2, 4):
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=BLOCK)

    async def main() -> None:
        async with serving(handler) as url, calling(url) as client:
            for _ in range(2):
                assert (await client.check(b"{}")).decision is Decision.BLOCK
            assert await client.record(b"{}") == (Delivery.DELIVERED, 200)

    asyncio.run(main())
    assert calls == 5


def test_a_server_that_always_closes_is_called_twice_and_then_given_up() -> None:
    calls = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        calls += 1
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    assert check(handler).cause is Cause.CONNECTION
    assert calls == 2
    assert record(handler) == (Delivery.DOUBTFUL, None)
    assert calls == 4


def test_an_answer_cut_short_is_a_connection_fault() -> None:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(ALLOW)
        await response.prepare(request)
        await response.write(ALLOW[:-5])
        assert request.transport is not None
        request.transport.close()
        return response

    assert check(handler).cause is Cause.CONNECTION
    assert record(handler) == (Delivery.DOUBTFUL, None)


@pytest.mark.parametrize(
    ("status", "delivery"),
    [
        (200, Delivery.DELIVERED),
        (302, Delivery.REFUSED),
        (401, Delivery.RETRY),
        (404, Delivery.REFUSED),
        (422, Delivery.UNFIT),
        (429, Delivery.RETRY),
        (500, Delivery.DOUBTFUL),
        (502, Delivery.DOUBTFUL),
        (505, Delivery.DOUBTFUL),
        (503, Delivery.RETRY),
    ],
)
def test_the_status_alone_says_what_became_of_a_record(status: int, delivery: Delivery) -> None:
    assert record(answering(b'{"success": false}', status)) == (delivery, status)


def test_connections_are_kept_and_cookies_are_not() -> None:
    peers: list[object] = []
    cookies: list[dict[str, str]] = []

    async def handler(request: web.BaseRequest) -> web.Response:
        assert request.transport is not None
        peers.append(request.transport.get_extra_info("peername"))
        cookies.append(dict(request.cookies))
        return web.Response(body=ALLOW, headers={"Set-Cookie": "session=1"})

    async def main() -> None:
        async with serving(handler) as url, calling(url) as client:
            for _ in range(3):
                await client.check(b"{}")

    asyncio.run(main())
    assert len(set(peers)) == 1
    assert cookies == [{}, {}, {}]


def test_many_checks_at_once_do_not_wait_for_one_another() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.3)
        return web.Response(body=BLOCK)

    async def main() -> list[Verdict]:
        async with serving(handler) as url, calling(url, seconds=4) as client:
            return await asyncio.gather(*(client.check(b"{}") for _ in range(250)))

    assert {verdict.decision for verdict in asyncio.run(main())} == {Decision.BLOCK}


def test_more_checks_at_once_than_the_bound_are_an_overload() -> None:
    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(body=ALLOW)

    async def main() -> None:
        async with serving(handler) as url, calling(url, most_checks=2) as client:
            verdicts = await asyncio.gather(*(client.check(b"{}") for _ in range(3)))
            assert [verdict.cause for verdict in verdicts] == [None, None, Cause.OVERLOAD]
            assert (await client.check(b"{}")).decision is Decision.ALLOW

    asyncio.run(main())


def test_a_cancelled_check_is_cancelled_and_frees_its_place() -> None:
    calls = 0

    async def handler(request: web.BaseRequest) -> web.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            return await hang(request)
        return web.Response(body=ALLOW)

    async def main() -> None:
        async with serving(handler) as url, calling(url, most_checks=1) as client:
            task = asyncio.create_task(client.check(b"{}"))
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.check(b"{}")).decision is Decision.ALLOW

    asyncio.run(main())


def test_the_connection_of_a_cancelled_check_is_closed() -> None:
    async def main() -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"{}")
            asked.set()
            await reader.read()
            gone.set()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, calling(f"http://127.0.0.1:{port}", seconds=60) as client, asyncio.timeout(30):
            task = asyncio.create_task(client.check(b"{}"))
            await asked.wait()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await gone.wait()

    asyncio.run(main())


def test_a_client_works_on_another_event_loop_too() -> None:
    client = AktoClient("http://127.0.0.1:1", "raw-token", 5.0, Breaker(Counters()))

    async def main() -> Cause | None:
        verdict = await client.check(b"{}")
        await client.close()
        return verdict.cause

    assert asyncio.run(main()) is Cause.CONNECTION
    assert asyncio.run(main()) is Cause.CONNECTION


class TestProxy:
    """The forward proxy that the environment names."""

    @staticmethod
    def check_through(service_url: str, environment: Callable[[str], dict[str, str]]) -> tuple[Verdict, list[str]]:
        """The verdict, and what a proxy saw, when `environment` is made from the proxy's address."""
        seen: list[str] = []

        async def handler(request: web.BaseRequest) -> web.Response:
            credentials = request.headers.get("Proxy-Authorization", "-")
            seen.append(f"{request.method} {request.host} {credentials}")
            return web.Response(body=BLOCK, status=403 if request.method == "CONNECT" else 200)

        async def main() -> Verdict:
            async with serving(handler) as url:
                with pytest.MonkeyPatch.context() as patch:
                    for name, value in environment(url.removeprefix("http://")).items():
                        patch.setenv(name, value)
                    client = AktoClient(service_url, "raw-token", 2.0, Breaker(Counters()))
                try:
                    return await client.check(b"{}")
                finally:
                    await client.close()

        return asyncio.run(main()), seen

    @pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy"])
    @pytest.mark.parametrize("scheme", ["http://", ""])
    def test_http_calls_go_through_it(self, name: str, scheme: str) -> None:
        verdict, seen = self.check_through("http://akto.invalid", lambda proxy: {name: f"{scheme}{proxy}"})
        assert verdict.decision is Decision.BLOCK
        assert seen == ["POST akto.invalid -"]

    def test_https_calls_open_a_tunnel_through_it(self) -> None:
        verdict, seen = self.check_through("https://akto.invalid", lambda proxy: {"HTTPS_PROXY": f"http://{proxy}"})
        assert verdict.cause is Cause.CONNECTION
        assert seen == ["CONNECT akto.invalid -"]

    def test_its_user_and_password_are_sent_to_it(self) -> None:
        _, seen = self.check_through("http://akto.invalid", lambda proxy: {"HTTP_PROXY": f"http://me:p%40ss@{proxy}"})
        credentials = base64.b64encode(b"me:p@ss").decode()
        assert seen == [f"POST akto.invalid Basic {credentials}"]

    @pytest.mark.parametrize("exempt", ["akto.invalid", ".invalid", "other,akto.invalid", "*", "akto.invalid:9000"])
    def test_exempt_hosts_are_called_directly(self, exempt: str) -> None:
        verdict, seen = self.check_through(
            "http://akto.invalid:9000", lambda proxy: {"HTTP_PROXY": f"http://{proxy}", "NO_PROXY": exempt}
        )
        assert not verdict.is_usable
        assert seen == []

    def test_other_exempt_hosts_make_no_difference(self) -> None:
        _, seen = self.check_through(
            "http://akto.invalid", lambda proxy: {"HTTP_PROXY": f"http://{proxy}", "NO_PROXY": "localhost,10.0.0.1"}
        )
        assert len(seen) == 1

    def test_a_record_whose_connection_breaks_may_have_broken_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async def handler(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        async def recorded() -> tuple[Delivery, int | None]:
            async with calling("http://akto.invalid") as client:
                return await client.record(b"{}")

        async def main() -> None:
            async with serving(handler) as url:
                monkeypatch.setenv("HTTP_PROXY", url)
                assert await recorded() == (Delivery.DOUBTFUL, None)
            monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
            assert await recorded() == (Delivery.RETRY, None)

        asyncio.run(main())

    def test_a_proxy_for_the_other_scheme_is_not_used(self) -> None:
        verdict, seen = self.check_through("http://akto.invalid", lambda proxy: {"HTTPS_PROXY": f"http://{proxy}"})
        assert not verdict.is_usable
        assert seen == []


def test_checks_whose_envelopes_are_too_much_together_are_an_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akto_module, "MOST_BYTES_AT_ONCE", 100)

    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(body=ALLOW)

    async def main() -> list[Cause | None]:
        async with serving(handler) as url, calling(url) as client:
            verdicts = await asyncio.gather(*(client.check(b" " * 40) for _ in range(3)))
            verdicts += [await client.check(b" " * 40)]
        return [verdict.cause for verdict in verdicts]

    assert asyncio.run(main()) == [None, None, Cause.OVERLOAD, None]


def test_checks_do_not_use_up_the_files_a_process_may_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(akto_module.resource, "getrlimit", lambda _: (8, 1000))

    async def handler(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(0.1)
        return web.Response(body=ALLOW)

    async def main() -> int:
        async with serving(handler) as url, calling(url) as client:
            verdicts = await asyncio.gather(*(client.check(b"{}") for _ in range(10)))
        return sum(verdict.cause is Cause.OVERLOAD for verdict in verdicts)

    assert asyncio.run(main()) == 6


class TestBreaker:
    """What opens it, seen by the number of calls that reach the service."""

    @staticmethod
    def causes_of(answers: list[web.Response | None], checks: int) -> tuple[list[Cause | None], int]:
        """The causes of `checks` checks, one after the other, and how many were made; None hangs."""
        calls = 0

        async def handler(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal calls
            answer = answers[min(calls, len(answers) - 1)]
            calls += 1
            if answer is None:
                await asyncio.sleep(5)
                return web.Response()
            return web.Response(status=answer.status, body=answer.body)

        async def main() -> list[Cause | None]:
            async with serving(handler) as url, calling(url, 0.05) as client:
                return [(await client.check(b"{}")).cause for _ in range(checks)]

        return asyncio.run(main()), calls

    FAIL_OPEN = json.dumps({"data": {"guardrailsResult": {"Allowed": True, "failOpen": True}}}).encode()

    @pytest.mark.parametrize(
        "outage",
        [
            None,
            web.Response(status=502),
            web.Response(status=503),
            web.Response(status=504),
            web.Response(status=429),
            web.Response(body=FAIL_OPEN),
        ],
    )
    def test_after_five_failures_the_service_is_left_alone(self, outage: web.Response | None) -> None:
        causes, calls = self.causes_of([outage], 9)
        assert calls == 5
        assert Cause.BREAKER_OPEN not in causes[:5]
        assert causes[5:] == [Cause.BREAKER_OPEN] * 4

    def test_five_connections_in_a_row_that_cannot_be_made_open_it(self) -> None:
        async def main() -> list[Cause | None]:
            async with calling(f"http://127.0.0.1:{closed_port()}") as client:
                return [(await client.check(b"{}")).cause for _ in range(6)]

        assert asyncio.run(main()) == [Cause.CONNECTION] * 5 + [Cause.BREAKER_OPEN]

    @pytest.mark.parametrize(
        "answer",
        [
            web.Response(status=400),
            web.Response(status=401),
            web.Response(status=413),
            web.Response(status=422),
            web.Response(status=500),
            web.Response(status=302),
            web.Response(body=b"no json"),
            web.Response(body=BLOCK),
        ],
    )
    def test_what_concerns_one_payload_or_the_settings_does_not_open_it(self, answer: web.Response) -> None:
        _, calls = self.causes_of([answer], 9)
        assert calls == 9

    def test_a_verdict_in_between_starts_the_count_anew(self) -> None:
        bad, good = web.Response(status=503), web.Response(body=ALLOW)
        _, calls = self.causes_of([bad, bad, bad, bad, good, bad, bad, bad, bad, good], 10)
        assert calls == 10

    def test_a_call_after_a_second_is_a_probe_and_closes_it_when_it_is_answered(self) -> None:
        calls = 0

        async def handler(request: web.BaseRequest) -> web.Response:
            nonlocal calls
            calls += 1
            return web.Response(status=503) if calls <= 5 else web.Response(body=ALLOW)

        async def main() -> list[Cause | None]:
            now = 0.0
            counters = Counters()
            async with serving(handler) as url:
                client = AktoClient(url, "raw-token", 5.0, Breaker(counters, lambda: now))
                causes = [(await client.check(b"{}")).cause for _ in range(6)]
                now = 1.5
                causes += [(await client.check(b"{}")).cause for _ in range(3)]
                await client.close()
            assert counters.snapshot() == {"breaker_closed": 1, "breaker_opened": 1}
            return causes

        assert asyncio.run(main())[5:] == [Cause.BREAKER_OPEN, None, None, None]

    def test_checks_that_still_hang_when_the_service_is_back_do_not_open_it_again(self) -> None:
        back = False

        async def handler(request: web.BaseRequest) -> web.Response:
            if not back:
                await asyncio.sleep(5)
            return web.Response(body=ALLOW)

        async def main() -> list[Cause | None]:
            nonlocal back
            counters = Counters()
            async with serving(handler) as url:
                client = AktoClient(url, "raw-token", 0.5, Breaker(counters))
                hanging = [asyncio.create_task(client.check(b"{}")) for _ in range(20)]
                await asyncio.sleep(0.2)
                back = True
                assert (await client.check(b"{}")).is_usable
                causes = [verdict.cause for verdict in await asyncio.gather(*hanging)]
                assert (await client.check(b"{}")).is_usable
                await client.close()
            assert counters.snapshot() == {}
            return causes

        assert asyncio.run(main()) == [Cause.TIMEOUT] * 20

    def test_as_long_as_it_is_closed_connections_are_kept(self) -> None:
        peers: list[object] = []

        async def handler(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            peers.append(request.transport.get_extra_info("peername"))
            return web.Response(status=503)

        async def main() -> None:
            async with serving(handler) as url, calling(url) as client:
                for _ in range(5):
                    await client.check(b"{}")

        asyncio.run(main())
        assert len(peers) == 5
        assert len(set(peers)) == 1

    def test_connections_from_before_the_outage_are_not_used_again(self) -> None:
        """A machine that is gone answers nothing on any of them."""
        peers: list[object] = []
        gone = False

        async def handler(request: web.BaseRequest) -> web.Response:
            assert request.transport is not None
            peer = request.transport.get_extra_info("peername")
            if gone and peer in peers:
                await asyncio.sleep(5)
            if not gone:
                peers.append(peer)
                await asyncio.sleep(0.05)
            return web.Response(body=ALLOW)

        async def main() -> list[Cause | None]:
            nonlocal gone
            now = 0.0
            async with serving(handler) as url:
                client = AktoClient(url, "raw-token", 0.3, Breaker(Counters(), lambda: now))
                await asyncio.gather(*(client.check(b"{}") for _ in range(20)))
                gone = True
                await asyncio.gather(*(client.check(b"{}") for _ in range(5)))
                now = 2.0
                causes = [(await client.check(b"{}")).cause for _ in range(20)]
                await client.close()
            return causes

        assert asyncio.run(main()) == [None] * 20


@pytest.mark.parametrize(
    ("status", "answer", "length", "delivery"),
    [
        (413, b"", 10, Delivery.UNFIT),
        (422, b"Unexpected error: null", 10, Delivery.UNFIT),
        (422, b"Unexpected error: Failed to publish data: Topic not present", 10, Delivery.DOUBTFUL),
        (500, b"", 100_000, Delivery.UNFIT),
        (500, b"", 1_000, Delivery.DOUBTFUL),
    ],
)
def test_a_record_may_be_refused_for_what_is_in_it(status: int, answer: bytes, length: int, delivery: Delivery) -> None:
    async def main() -> tuple[Delivery, int | None]:
        async with serving(answering(answer, status)) as url, calling(url) as client:
            return await client.record(b" " * length)

    assert asyncio.run(main()) == (delivery, status)
