"""`python -m mock_akto [PORT]`: HTTP on PORT, and HTTPS on 8443 if TLS_DIRECTORY says where its certificate goes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from aiohttp import web

from mock_akto.service import application

_SAID = "mock Akto on http://localhost:{}/: a test double that judges by word lists and protects nothing"
# Calls under way at the end get no more time than this.
_SHUTDOWN_SECONDS = 0.5


async def serve(app: web.Application, port: int, tls_directory: str | None) -> None:
    """Serves until the process is told to stop."""
    stopped = asyncio.Event()
    for sign in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(sign, stopped.set)
    runner = web.AppRunner(app, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    if tls_directory:
        # Only the tests have both mocks beside each other; the image and the demo, which need no certificate, do not.
        from mock_llm.certificate import self_signed

        context = self_signed("mock-akto-tls", Path(tls_directory) / "akto.pem")
        await web.TCPSite(runner, port=8443, ssl_context=context).start()
    print(_SAID.format(port), flush=True)
    await stopped.wait()
    await runner.cleanup()


def main(arguments: list[str]) -> None:
    if len(arguments) > 1 or not all(argument.isdecimal() and int(argument) < 65536 for argument in arguments):
        sys.exit("usage: mock-akto [PORT]")
    try:
        app = application()
    except ValueError as error:
        sys.exit(f"mock-akto: {error}")
    asyncio.run(serve(app, int(arguments[0]) if arguments else 8080, os.environ.get("TLS_DIRECTORY")))


if __name__ == "__main__":
    main(sys.argv[1:])
