"""`python -m mock_akto [PORT]`: HTTP on PORT, and HTTPS on 8443 if TLS_DIRECTORY says where its certificate goes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from mock_akto.service import application


async def serve(port: int, tls_directory: str | None) -> None:
    runner = web.AppRunner(application())
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    if tls_directory:
        # Only the tests have both mocks beside each other; the demo, which needs no certificate, does not.
        from mock_llm.certificate import self_signed

        context = self_signed("mock-akto-tls", Path(tls_directory) / "akto.pem")
        await web.TCPSite(runner, port=8443, ssl_context=context).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 8080, os.environ.get("TLS_DIRECTORY")))
