"""`python -m mock_llm [PORT]`: HTTP on PORT, and HTTPS with a certificate of its own on 8443 or what TLS_PORT says."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import web

from mock_llm.certificate import self_signed
from mock_llm.service import application


async def serve(port: int, tls_port: int) -> None:
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    await web.TCPSite(runner, port=tls_port, ssl_context=self_signed("mock-llm")).start()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8081, int(os.environ.get("TLS_PORT", "8443"))))
