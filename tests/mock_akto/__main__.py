"""`python -m mock_akto [PORT]`."""

from __future__ import annotations

import sys

from aiohttp import web

from mock_akto.service import application

if __name__ == "__main__":
    web.run_app(application(), port=int(sys.argv[1]) if len(sys.argv) > 1 else 8080)
