"""The least HTTP server that a mock can do with, so that the load meets the proxy's limits and not the mocks'."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable

from aiohttp import web

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def serve(handler: Handler, port: int) -> None:
    """Serves every request with `handler` until the process is told to stop."""
    asyncio.run(_serve(handler, port))


async def _serve(handler: Handler, port: int) -> None:
    server = web.Server(handler, access_log=None)
    await asyncio.get_running_loop().create_server(server, "0.0.0.0", port)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
