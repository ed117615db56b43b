"""The client of Akto's Data Ingestion Service: the only place that does HTTP.

aiohttp and not httpx: with 16 requests at once a POST of 2 kB cost 0.08 ms of CPU with aiohttp 3.14 and 1.3 ms with
`httpx.AsyncClient` 0.28 (3,000 POSTs on the loopback interface, process time), and the guard makes two for each
request. aiohttp is a core dependency of LiteLLM.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from akto_guardrails.verdict import Cause, Verdict, unavailable, verdict_of_answer

SessionFactory = Callable[[], aiohttp.ClientSession]

_PATH: Final = "/api/http-proxy"
# Shorter than what servers and load balancers keep idle connections for, so that ours are seldom found closed.
_IDLE_SECONDS: Final = 15.0
_LARGEST_ANSWER: Final = 8 * 1024 * 1024
MOST_CONNECTIONS: Final = 1_000
# Those above the number of connections wait for one, within their deadline.
MOST_CHECKS_AT_ONCE: Final = 5_000
# Nobody waits for a record, and the service may take its time over one (protocol reference, 2.6: it can scan again).
_RECORD_SECONDS: Final = 30.0


class Delivery(Enum):
    """What became of a record."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """Not taken now (time-out, connection, 429, 5xx); may be taken later."""
    REFUSED = "refused"
    """Not taken, and sending the same again would not help (401, 422, redirects and other 4xx)."""


class AktoClient:
    """Checks and records over HTTP, with one connection pool for each worker's event loop."""

    def __init__(
        self,
        service_url: str,
        api_token: str,
        timeout: float,
        new_session: SessionFactory | None = None,
    ) -> None:
        """`timeout` is the total for one check in seconds: waiting for a connection, connecting and reading."""
        self._check_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&guardrails=true")
        self._answer_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&response_guardrails=true")
        self._record_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&ingest_data=true")
        self._headers = {"Authorization": api_token, "Content-Type": "application/json"}
        self._timeout = timeout
        self._proxy, self._proxy_auth = _proxy_for(service_url)
        self._new_session = new_session or _new_session
        self._session: aiohttp.ClientSession | None = None
        self._session_loop: asyncio.AbstractEventLoop | None = None
        self._checks_in_flight = 0

    async def check(self, body: bytes, *, of_answer: bool = False) -> Verdict:
        """The verdict on the request in the envelope `body`, or on the model's answer in it (`of_answer`).

        Never raises but for cancellation; takes at most the time-out.
        """
        if self._checks_in_flight >= MOST_CHECKS_AT_ONCE:
            return unavailable(Cause.OVERLOAD)
        self._checks_in_flight += 1
        try:
            url = self._answer_url if of_answer else self._check_url
            return verdict_of_answer(*await self._post(url, body, self._timeout), of_answer=of_answer)
        except TimeoutError:
            return unavailable(Cause.TIMEOUT)
        except (aiohttp.ClientError, OSError):
            return unavailable(Cause.CONNECTION)
        finally:
            self._checks_in_flight -= 1

    async def record(self, body: bytes) -> tuple[Delivery, int | None]:
        """Hands over the envelope `body`; gives what became of it and the HTTP status, None when there was none."""
        try:
            status, _ = await self._post(self._record_url, body, max(self._timeout, _RECORD_SECONDS))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Delivery.RETRY, None
        if status == 200:
            return Delivery.DELIVERED, status
        return (Delivery.RETRY if status == 429 or status >= 500 else Delivery.REFUSED), status

    async def close(self) -> None:
        """Closes the connections."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _post(self, url: URL, body: bytes, seconds: float) -> tuple[int, bytes]:
        async with asyncio.timeout(seconds):
            try:
                return await self._post_once(url, body)
            except aiohttp.ClientConnectorError:
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A kept connection that the server closed in this very moment looks like an outage and is none.
                return await self._post_once(url, body)

    async def _post_once(self, url: URL, body: bytes) -> tuple[int, bytes]:
        async with self._open_session().post(
            url,
            data=body,
            headers=self._headers,
            allow_redirects=False,
            proxy=self._proxy,
            proxy_auth=self._proxy_auth,
        ) as response:
            answer = bytearray()
            async for chunk in response.content.iter_any():
                answer += chunk
                if len(answer) > _LARGEST_ANSWER:
                    # Cut off it is not JSON any more, so it cannot be taken for a verdict.
                    break
            return response.status, bytes(answer[:_LARGEST_ANSWER])

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._session_loop is not loop:
            self._session = self._new_session()
            self._session_loop = loop
        return self._session


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=MOST_CONNECTIONS, keepalive_timeout=_IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        # AktoClient's own deadline covers the whole call, waiting for a connection included.
        timeout=aiohttp.ClientTimeout(total=None),
    )


def _proxy_for(service_url: str) -> tuple[URL | None, aiohttp.BasicAuth | None]:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for the service.

    Looked up once: aiohttp's own `trust_env` does so on every call, in a thread, and reads ~/.netrc besides.
    """
    parts = urlsplit(service_url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None, None
    url = URL(proxy if "://" in proxy else f"http://{proxy}")
    auth = aiohttp.BasicAuth(url.user, url.password or "") if url.user else None
    return url.with_user(None), auth
