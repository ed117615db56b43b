"""Connections that are kept, against a server on the loopback interface that does as the test says."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from yarl import URL

from akto_guardrails import direct as direct_module
from akto_guardrails.direct import Direct
from akto_guardrails.http_connection import Disconnected, HttpConnection
from mock_llm.certificate import self_signed

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Exchange = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers every request, and keeps what came: heads, bodies, and the port each came from."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        self._exchange = exchange
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.ports: list[int] = []
        self.open = 0
        self._none_open = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self._none_open.clear()
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
                self.bodies.append(await reader.readexactly(length))
                self.heads.append(head)
                self.ports.append(writer.get_extra_info("peername")[1])
                if self._exchange is None:
                    writer.write(ANSWER)
                else:
                    await self._exchange(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            if not self.open:
                self._none_open.set()
            writer.close()

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Direct]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        direct = Direct(URL(f"http://127.0.0.1:{port}"), {"X-Own": "a b"}, most=1_000, **options)
        try:
            yield direct
        finally:
            await direct.close()
            server.close()

    async def all_closed(self) -> None:
        await asyncio.wait_for(self._none_open.wait(), 5)


def run(server: Server, main: Callable[[Direct], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with server.running() as direct:
            await main(direct)

    asyncio.run(whole())


def test_a_post_as_it_goes_over_the_wire() -> None:
    server = Server()

    async def main(direct: Direct) -> None:
        assert await direct.post("/a%20b?c=d", b"\xff\x00", 5) == (200, b"ok")

    run(server, main)
    first, *lines = server.heads[0].removesuffix("\r\n\r\n").split("\r\n")
    assert first == "POST /a%20b?c=d HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers.pop("Host").startswith("127.0.0.1:")
    assert headers == {"Accept": "*/*", "Accept-Encoding": "identity", "X-Own": "a b", "Content-Length": "2"}
    assert server.bodies == [b"\xff\x00"]


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://akto.example.com", "akto.example.com"),
        ("https://akto.example.com", "akto.example.com"),
        ("http://akto.example.com:80", "akto.example.com"),
        ("http://[2001:db8::1]:8080", "[2001:db8::1]:8080"),
        ("https://äkto.example.com", "xn--kto-pla.example.com"),
    ],
)
def test_the_host_header_names_the_origin(origin: str, host: str) -> None:
    assert f"\r\nHost: {host}\r\n".encode() in Direct(URL(origin), {}, most=1)._head


def test_connections_that_were_idle_for_too_long_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "IDLE_SECONDS", 0.1)
    server = Server()

    async def main(direct: Direct) -> None:
        await direct.post("/", b"", 5)
        await direct.post("/", b"", 5)
        await asyncio.sleep(0.2)
        await direct.post("/", b"", 5)
        await asyncio.sleep(0.05)
        assert server.open == 1, "the old one is closed"

    run(server, main)
    assert server.ports[0] == server.ports[1] != server.ports[2]


def test_connections_that_a_crowd_needed_are_given_up_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "IDLE_SECONDS", 0.2)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(ANSWER)

    server = Server(answer)

    async def main(direct: Direct) -> None:
        await asyncio.gather(*(direct.post("/", b"", 5) for _ in range(5)))
        assert server.open == 5
        for _ in range(10):
            await direct.post("/", b"", 5)
        assert server.open == 1

    run(server, main)


def test_what_nobody_asked_for_closes_the_connection() -> None:
    """A server that says 408 before it closes an idle connection: it is not the answer to the next request."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(ANSWER)

    server = Server(answer)

    async def main(direct: Direct) -> None:
        await direct.post("/", b"", 5)
        writers[0].write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(0.05)
        assert await direct.post("/", b"", 5) == (200, b"ok")

    run(server, main)
    assert len(set(server.ports)) == 2


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", ANSWER, b""])
def test_what_came_while_the_event_loop_was_busy_is_no_answer(unasked: bytes) -> None:
    """The system has it, and the event loop has not read it yet; nothing means that the server has closed."""
    with socket.create_server(("127.0.0.1", 0)) as listening, ThreadPoolExecutor() as threads:
        listening.settimeout(5)
        answered, spoken = threading.Event(), threading.Event()

        def serve() -> None:
            connection, _ = listening.accept()
            connection.recv(65_536)
            connection.sendall(ANSWER)
            assert answered.wait(5)
            connection.sendall(unasked)
            if not unasked:
                connection.close()
            spoken.set()
            another, _ = listening.accept()
            another.settimeout(5)
            another.recv(65_536)
            another.sendall(ANSWER.replace(b"ok", b"no"))

        async def main() -> None:
            direct = Direct(URL(f"http://127.0.0.1:{listening.getsockname()[1]}"), {}, most=1_000)
            serving = threads.submit(serve)
            assert await direct.post("/", b"", 5) == (200, b"ok")
            answered.set()
            assert spoken.wait(5)
            assert await direct.post("/", b"", 5) == (200, b"no")
            serving.result(5)
            await direct.close()

        asyncio.run(main())


def test_a_408_on_a_kept_connection_is_the_end_of_the_connection_and_no_answer() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if server.ports.count(server.ports[-1]) > 1:
            writer.write(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        else:
            writer.write(ANSWER)

    server = Server(answer)

    async def main(direct: Direct) -> None:
        for _ in range(3):
            assert await direct.post("/", b"", 5) == (200, b"ok")

    run(server, main)
    assert len(set(server.ports)) == 3


def test_a_server_that_closes_an_idle_connection_is_no_error_of_the_event_loop() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER)
        writer.close()

    broken: list[dict[str, Any]] = []

    async def main(direct: Direct) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
        await direct.post("/", b"", 5)
        await asyncio.sleep(0.05)
        assert not any(connection.is_open for connection in direct._idle)

    run(Server(answer), main)
    assert broken == []


def test_what_comes_between_an_answer_and_who_waits_for_it_changes_nothing() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        connection = HttpConnection(loop, lambda _: None)
        await loop.create_connection(lambda: connection, sock=ours)
        waiting = loop.create_task(connection.post(b"request", loop.time() + 5, 1_000))
        await asyncio.sleep(0)
        connection.data_received(ANSWER)
        connection.data_received(ANSWER)
        connection._fail(TimeoutError())
        assert await waiting == (200, b"ok")
        assert not connection.is_open
        theirs.close()

    asyncio.run(main())


def test_an_idle_connection_keeps_no_answer() -> None:
    async def main(direct: Direct) -> None:
        await asyncio.gather(*(direct.post("/", b"", 5) for _ in range(3)))
        assert len(direct._idle) == 3
        assert all(connection._answer.body == b"" for connection in direct._idle)

    run(Server(), main)


def test_what_comes_behind_an_answer_is_not_the_next_one() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ANSWER + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    server = Server(answer)

    async def main(direct: Direct) -> None:
        for _ in range(3):
            assert await direct.post("/", b"", 5) == (200, b"ok")

    run(server, main)
    assert len(set(server.ports)) == 3


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(ANSWER, (200, b"ok")), (b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n", (413, b""))],
    ids=["verdict", "refusal"],
)
def test_an_answer_before_the_end_of_the_request_counts_and_ends_the_connection(
    answer: bytes, expected: tuple[int, bytes]
) -> None:
    async def main() -> None:
        async def answer_early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await asyncio.sleep(0.2)
            writer.close()

        server = await asyncio.start_server(answer_early, "127.0.0.1", 0)
        direct = Direct(URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), {}, most=1_000)
        assert await direct.post("/", b"x" * 50_000_000, 5) == expected
        assert direct._idle == []
        await direct.close()
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("reads_on", [True, False])
def test_a_refusal_that_ends_with_its_connection_counts_before_the_request_is_sent(reads_on: bool) -> None:
    async def main() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1_000)
            writer.write(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\ntoo large")
            if reads_on:
                writer.write_eof()
                await asyncio.sleep(1)
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        direct = Direct(URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"), {}, most=1_000)
        began = time.monotonic()
        assert await direct.post("/", b"x" * 50_000_000, 5) == (413, b"too large")
        assert time.monotonic() - began < 0.9
        assert direct._idle == []
        await direct.close()
        server.close()

    asyncio.run(main())


@asynccontextmanager
async def over_tls(serve: Exchange, directory: Path) -> AsyncIterator[Direct]:
    """Connections with TLS to a server that does `serve` with each."""
    trusted = directory / "server.pem"
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self_signed("localhost", trusted))
    origin = URL(f"https://localhost:{server.sockets[0].getsockname()[1]}")
    direct = Direct(origin, {}, most=1_000, tls=ssl.create_default_context(cafile=str(trusted)))
    try:
        yield direct
    finally:
        await direct.close()
        server.close()


def test_unless_told_otherwise_a_server_without_a_known_certificate_is_not_spoken_to(tmp_path: Path) -> None:
    server = Server()

    async def main() -> None:
        async with over_tls(server.serve, tmp_path) as trusting:
            direct = Direct(URL(f"https://localhost:{trusting._port}"), {}, most=1_000)
            with pytest.raises(ssl.SSLCertVerificationError):
                await direct.post("/", b"", 5)
            await direct.close()

    asyncio.run(main())
    assert server.heads == []


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_of_a_long_request_ends_a_connection_with_tls(tmp_path: Path, status: int) -> None:
    """Under TLS nobody knows how much of the request is still to be sent."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1_000)
        cast(asyncio.Transport, writer.transport).pause_reading()
        writer.write(b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % status)
        await asyncio.sleep(1)
        writer.close()

    async def main() -> None:
        async with over_tls(refuse, tmp_path) as direct:
            assert await direct.post("/", b"x" * 20_000_000, 5) == (status, b"")
            assert direct._idle == []

    asyncio.run(main())


def test_a_call_that_is_given_up_as_its_tls_is_ready_leaves_the_socket_to_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says goodbye to the server then, for a while, and would find another connection's socket under its number."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        create_connection = loop.create_connection

        async def given_up(*arguments: Any, **options: Any) -> Any:
            transport, _ = await create_connection(*arguments, **options)
            monkeypatch.undo()
            transport.close()
            raise asyncio.CancelledError

        async with over_tls(answer, tmp_path) as direct:
            monkeypatch.setattr(loop, "create_connection", given_up)
            with pytest.raises(asyncio.CancelledError):
                await direct.post("/", b"", 5)
            assert await direct.post("/", b"", 5) == (200, b"ok")

    asyncio.run(main())


def test_calls_given_up_while_they_connect_with_tls_leave_nothing_behind() -> None:
    """On uvloop, which is what LiteLLM serves on. Its timer for a handshake keeps all of the connection."""

    async def give_up(direct: Direct, turns: int) -> None:
        call = asyncio.create_task(direct.post("/", b"x", 0.3))
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait((call,))

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=400) as silent:
            direct = Direct(URL(f"https://127.0.0.1:{silent.getsockname()[1]}"), {}, most=1_000)
            for turns in (*range(20),) * 15:
                await give_up(direct, turns)
            await asyncio.sleep(2)
            gc.collect()
            assert [each for each in gc.get_objects() if isinstance(each, HttpConnection)] == []
            await direct.close()

    uvloop.run(main())


def test_a_retired_connection_finishes_what_it_has_begun() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(ANSWER)

    server = Server(answer)

    async def main(direct: Direct) -> None:
        await direct.post("/", b"", 5)
        under_way = asyncio.create_task(direct.post("/", b"", 5))
        await asyncio.sleep(0.05)
        direct.retire()
        assert await under_way == (200, b"ok")
        await direct.post("/", b"", 5)
        await asyncio.sleep(0.05)
        assert server.open == 1

    run(server, main)
    assert server.ports[0] == server.ports[1] != server.ports[2]


def test_closing_it_closes_all_connections() -> None:
    server = Server()

    async def main(direct: Direct) -> None:
        await asyncio.gather(*(direct.post("/", b"", 5) for _ in range(3)))
        await direct.close()
        await server.all_closed()
        assert direct._open == set()

    run(server, main)


def test_the_time_for_connecting_is_part_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = asyncio.Event()

    async def slowly(*_: Any, **__: Any) -> socket.socket:
        try:
            await asyncio.sleep(30)
        finally:
            closed.set()
        raise AssertionError

    monkeypatch.setattr(direct_module, "start_connection", slowly)

    async def main(direct: Direct) -> None:
        with pytest.raises(TimeoutError):
            await direct.post("/", b"", 0.1)
        await asyncio.wait_for(closed.wait(), 5)

    run(Server(), main)


def test_a_connection_that_comes_too_late_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = direct_module.start_connection

    async def stubbornly(*arguments: Any, **options: Any) -> socket.socket:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(30)
        return await connect(*arguments, **options)

    monkeypatch.setattr(direct_module, "start_connection", stubbornly)
    server = Server()

    async def main(direct: Direct) -> None:
        with pytest.raises(TimeoutError):
            await direct.post("/", b"", 0.05)
        await asyncio.sleep(0.1)
        await server.all_closed()
        assert direct._open == set()

    run(server, main)


def test_a_call_given_up_in_the_moment_in_which_its_connection_is_there_closes_it() -> None:
    server = Server()

    async def main(direct: Direct) -> None:
        call = asyncio.create_task(direct.post("/", b"", 5))
        for _ in range(1_000_000):
            await asyncio.sleep(0)
            if direct._open:
                break
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await server.all_closed()
        assert direct._open == set()

    run(server, main)
    assert server.heads == []


def test_a_name_is_looked_up_once_for_all_that_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    look_up = direct_module._looked_up

    async def slowly(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        looked_up.append(host)
        await asyncio.sleep(0.05)
        return await look_up(loop, host, port)

    monkeypatch.setattr(direct_module, "_looked_up", slowly)

    async def main(direct: Direct) -> None:
        await asyncio.gather(*(direct.post("/", b"", 5) for _ in range(20)))
        assert len(looked_up) == 1
        direct.retire()
        await direct.post("/", b"", 5)
        assert len(looked_up) == 2

    run(Server(), main)


def test_a_name_is_looked_up_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_module, "_ADDRESSES_SECONDS", 0.1)
    looked_up: list[str] = []
    look_up = direct_module._looked_up

    async def noted(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        looked_up.append(host)
        return await look_up(loop, host, port)

    monkeypatch.setattr(direct_module, "_looked_up", noted)

    async def main(direct: Direct) -> None:
        await direct.post("/", b"", 5)
        await asyncio.sleep(0.15)
        await asyncio.gather(*(direct.post("/", b"", 5) for _ in range(2)))
        assert len(looked_up) == 2

    run(Server(), main)


def test_a_name_that_was_not_found_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up, tries = direct_module._looked_up, 0

    async def at_the_second_try(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise socket.gaierror("not yet")
        return await look_up(loop, host, port)

    monkeypatch.setattr(direct_module, "_looked_up", at_the_second_try)

    async def main(direct: Direct) -> None:
        with pytest.raises(OSError):
            await direct.post("/", b"", 5)
        assert await direct.post("/", b"", 5) == (200, b"ok")

    run(Server(), main)


def test_of_several_addresses_each_gets_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{number}", 9)) for number in (1, 2, 3)]
    first: list[Any] = []

    async def found(*_: Any) -> list[Any]:
        return addresses

    async def none(infos: list[Any], **_: Any) -> socket.socket:
        first.append(infos[0])
        assert sorted(infos) == addresses
        raise ConnectionRefusedError

    monkeypatch.setattr(direct_module, "_looked_up", found)
    monkeypatch.setattr(direct_module, "start_connection", none)

    async def main(direct: Direct) -> None:
        for _ in range(6):
            with pytest.raises(ConnectionRefusedError):
                await direct.post("/", b"", 5)

    run(Server(), main)
    assert first == addresses * 2


def test_an_address_that_does_not_answer_is_not_waited_for() -> None:
    """The first of two leads nowhere: the second is tried beside it."""

    async def main() -> None:
        server = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
        # A queue for one connection, and it is taken.
        port = server.sockets[0].getsockname()[1]
        with (
            socket.create_server(("127.0.0.2", port), backlog=0),
            socket.create_connection(("127.0.0.2", port)),
            socket.socket() as waiting,
        ):
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
            direct = Direct(URL(f"http://both.invalid:{port}"), {}, most=1_000)
            direct._lookup = asyncio.get_running_loop().create_task(both(port))
            direct._lookup_until = asyncio.get_running_loop().time() + 60
            assert await direct.post("/", b"", 5) == (200, b"ok")
            await direct.close()
        server.close()

    async def both(port: int) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.2", "127.0.0.1")]

    asyncio.run(main())


def test_a_connection_keeps_nothing_of_the_request_it_was_opened_for() -> None:
    class Large:
        """What a request has in its context."""

    variable: ContextVar[Large | None] = ContextVar("variable", default=None)

    async def main(direct: Direct) -> None:
        async def request() -> weakref.ref[Large]:
            large = Large()
            variable.set(large)
            await direct.post("/", b"", 5)
            return weakref.ref(large)

        kept = await asyncio.create_task(request())
        await asyncio.sleep(0)
        gc.collect()
        assert kept() is None

    run(Server(), main)


def test_a_server_that_ends_every_connection_is_tried_twice() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise ConnectionError

    server = Server(close)

    async def main(direct: Direct) -> None:
        with pytest.raises(Disconnected):
            await direct.post("/", b"", 5)

    run(server, main)
    assert len(server.heads) == 2


def test_a_connection_whose_answer_did_not_come_to_its_end_in_time_is_closed() -> None:
    """What comes of it later must not be taken for the answer to another request."""

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
        assert await reader.read() == b""

    server = Server(begin)

    async def main(direct: Direct) -> None:
        with pytest.raises(TimeoutError):
            await direct.post("/", b"", 0.1)
        await server.all_closed()
        assert direct._idle == []

    run(server, main)
