"""Faults below HTTP: connections that break off in the middle, bytes that mean nothing, ports that open and close."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from aiohttp import web

# Long enough for the other side to have read what came before the break.
_PAUSE = 0.05
_NOT_HTTP = b"\x16\x03\x01 this is no HTTP \x00\r\n\r\n"


async def break_connection(request: web.Request, how: str, body: bytes) -> None:
    """Ends the connection of `request` as `how` says.

    `reset` and `refused`: RST and nothing else; `reset_in_headers`: RST after a part of the headers; `reset_in_body`:
    RST after half of `body`; `not_http`: closed in good order after bytes that no HTTP client can read.
    """
    transport = request.transport
    assert transport is not None
    if how == "not_http":
        transport.write(_NOT_HTTP)
        transport.close()
        return
    headers = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Le"
    if how == "reset_in_headers":
        transport.write(headers)
    elif how == "reset_in_body":
        transport.write(headers + b"ngth: %d\r\n\r\n%b" % (len(body), body[: len(body) // 2]))
    await asyncio.sleep(_PAUSE)
    # Without this the kernel says goodbye with a FIN when there is nothing unread.
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Port:
    """A further port. While it is closed nobody listens there: the kernel refuses connections."""

    def __init__(self, app: web.Application, number: int) -> None:
        app.middlewares.append(self._noting_busy_connections)
        self._runner = web.AppRunner(app)
        self._number = number
        self._busy: set[asyncio.BaseTransport | None] = set()

    async def open(self) -> None:
        """Listens from now on."""
        if self._runner.server is None:
            await self._runner.setup()
        if not self._runner.sites:
            await web.TCPSite(self._runner, port=self._number).start()

    async def close(self) -> None:
        """Stops listening and closes connections: idle ones now, others after the answer they are waiting for."""
        for site in self._runner.sites:
            await site.stop()
        for connection in self._runner.server.connections if self._runner.server else ():
            if connection.transport in self._busy:
                connection.close()
            else:
                connection.force_close()

    @web.middleware
    async def _noting_busy_connections(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        transport = request.transport
        self._busy.add(transport)
        try:
            return await handler(request)
        finally:
            self._busy.discard(transport)
