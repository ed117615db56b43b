"""POSTs straight to a server over connections that are kept: the way of every check and every record.

No HTTP library, because of what one costs here. Between two of its requests LiteLLM runs so much other code that
whatever comes in turn with it finds the processor's caches taken, and takes five to ten times as long as in a loop. In
a proxy under load (LiteLLM 1.106.2, uvloop, 16 connections, 22 ms of CPU for each of its requests) a POST cost 0.60 ms
with aiohttp 3.14 and 0.20 ms in here, 0.09 ms of which the system takes to send it. What a guard does not need is left
out; calls through a forward proxy are made with aiohttp (`proxied.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from contextvars import Context
from typing import Any, Final

from aiohappyeyeballs import start_connection
from yarl import URL

from akto_guardrails.http_connection import Disconnected, HttpConnection

# Shorter than what servers and load balancers keep idle connections for, so that ours are seldom found closed.
IDLE_SECONDS: Final = 15.0
# How long a host's addresses are used.
_ADDRESSES_SECONDS: Final = 10.0
# A second address is tried beside the first when that takes longer (RFC 8305).
_NEXT_ADDRESS_SECONDS: Final = 0.25
_REQUEST_TIMEOUT: Final = 408
# So that a handshake that takes too long is a time-out by the deadline itself.
_AFTER_THE_DEADLINE: Final = 1.0


class Direct:
    """The connections of one worker to one server; their number has no limit."""

    def __init__(
        self, origin: URL, headers: Mapping[str, str], *, most: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """`headers` go with each POST; `most`: bytes of an answer's body that are read; `tls`: whom https trusts."""
        self._host, self._port = origin.raw_host or "", origin.port or 80
        every = {"Host": origin.host_port_subcomponent, "Accept": "*/*", "Accept-Encoding": "identity", **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in every.items())
        self._head = f" HTTP/1.1\r\n{lines}Content-Length: ".encode("latin-1")
        self._most = most
        self._tls = (tls or ssl.create_default_context()) if origin.scheme == "https" else None
        # The one that was used last at the end.
        self._idle: list[HttpConnection] = []
        self._open: set[HttpConnection] = set()
        self._lookup: asyncio.Task[list[Any]] | None = None
        self._lookup_until = 0.0
        self._numbers = itertools.count()

    async def post(self, target: str, body: bytes, seconds: float, most: int | None = None) -> tuple[int, bytes]:
        """Status and body of the answer to a POST to `target`, a path with its query; `most` of it where that is less.

        Raises TimeoutError after so many `seconds`, and OSError. A connection that ends before an answer, or with a 408
        (RFC 9110, 15.5.9), is tried once more: one that the server closed in this very moment, for being idle, looks
        like an outage and is none.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        most = self._most if most is None else min(most, self._most)
        request = b"".join((b"POST ", target.encode("ascii"), self._head, b"%d\r\n\r\n" % len(body), body))
        with suppress(Disconnected):
            answer = await self._post(self._kept(loop) or await self._new(loop, deadline), request, deadline, most)
            if answer[0] != _REQUEST_TIMEOUT:
                return answer
        return await self._post(await self._new(loop, deadline), request, deadline, most)

    def retire(self) -> None:
        """Lets calls under way finish; all others are made over new connections, to addresses looked up anew."""
        self._idle.clear()
        self._lookup = None
        for connection in tuple(self._open):
            connection.retire()

    async def close(self) -> None:
        """Closes the connections at once."""
        self._idle.clear()
        for connection in tuple(self._open):
            connection.abort()
        # They are closed in the event loop's next round.
        await asyncio.sleep(0)

    async def _post(self, connection: HttpConnection, request: bytes, deadline: float, most: int) -> tuple[int, bytes]:
        answer = await connection.post(request, deadline, most)
        if connection.is_open:
            self._idle.append(connection)
            if connection.idle_since - self._idle[0].idle_since > IDLE_SECONDS:
                self._idle.pop(0).abort()
        return answer

    def _kept(self, loop: asyncio.AbstractEventLoop) -> HttpConnection | None:
        """A connection that is open and idle, not for too long."""
        while self._idle:
            connection = self._idle.pop()
            if connection.loop is not loop:
                self._open.discard(connection)
                continue
            if loop.time() - connection.idle_since <= IDLE_SECONDS and connection.is_quiet:
                return connection
            connection.abort()
        return None

    async def _new(self, loop: asyncio.AbstractEventLoop, deadline: float) -> HttpConnection:
        # In a context of its own: a connection would keep alive what is in that of the request it is opened for.
        opening = loop.create_task(self._connected(loop, deadline), context=Context())
        try:
            async with asyncio.timeout_at(deadline):
                return await opening
        except BaseException:  # passed on: nobody will use what is opened by then
            opening.add_done_callback(_close)
            raise

    async def _connected(self, loop: asyncio.AbstractEventLoop, deadline: float) -> HttpConnection:
        addresses = await self._addresses(loop)
        first = next(self._numbers) % len(addresses)
        connected = await start_connection(
            [*addresses[first:], *addresses[:first]], happy_eyeballs_delay=_NEXT_ADDRESS_SECONDS, loop=loop
        )
        connection = HttpConnection(loop, self._open.discard)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_connection(
                lambda: connection,
                sock=connected,
                ssl=self._tls,
                server_hostname=self._host if self._tls else None,
                # Until then uvloop (0.23) keeps a connection in memory that was given up while it was opened.
                ssl_handshake_timeout=deadline - loop.time() + _AFTER_THE_DEADLINE if self._tls else None,
            )
        except BaseException:  # passed on
            if connection.has_socket:
                connection.abort()
            else:
                connected.close()
            raise
        self._open.add(connection)
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[Any]:
        """The host's addresses, looked up once for all that ask at the same time."""
        lookup = self._lookup
        if lookup is None or lookup.get_loop() is not loop or loop.time() > self._lookup_until:
            lookup = self._lookup = loop.create_task(_looked_up(loop, self._host, self._port))
            lookup.add_done_callback(_retrieve)
            self._lookup_until = loop.time() + _ADDRESSES_SECONDS
        try:
            return await asyncio.shield(lookup)
        except OSError:
            if self._lookup is lookup:
                self._lookup = None
            raise


async def _looked_up(loop: asyncio.AbstractEventLoop, host: str, port: int) -> list[Any]:
    return await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _close(opening: asyncio.Task[HttpConnection]) -> None:
    """Closes what was opened when nobody waits for it any more."""
    if _retrieve(opening):
        opening.result().abort()


def _retrieve(task: asyncio.Task[Any]) -> bool:
    """Whether `task` has a result. asyncio would print an exception that nobody has looked at."""
    return not task.cancelled() and task.exception() is None
