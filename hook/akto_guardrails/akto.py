"""The client of Akto's Data Ingestion Service: the only place that does HTTP.

aiohttp and not httpx: with 16 requests at once a POST of 2 kB cost 0.08 ms of CPU with aiohttp 3.14 and 1.3 ms with
`httpx.AsyncClient` 0.28 (3,000 POSTs on the loopback interface, process time), and the guard makes two for each
request. aiohttp is a core dependency of LiteLLM.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import resource
import ssl
import urllib.request
from enum import Enum
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from akto_guardrails.breaker import Breaker
from akto_guardrails.verdict import Cause, Verdict, unavailable, verdict_of_answer

_PATH: Final = "/api/http-proxy"
# Shorter than what servers and load balancers keep idle connections for, so that ours are seldom found closed.
_IDLE_SECONDS: Final = 15.0
_LARGEST_ANSWER: Final = 8 * 1024 * 1024
# Of the envelopes of all checks under way.
MOST_BYTES_AT_ONCE: Final = 256 * 1024 * 1024
# Of the service or of what is in front of it, whatever the payload. A 500 is its reader's word on one payload.
_OUTAGES: Final = frozenset({429, 502, 503, 504})
# In a 422 that is not about the record: the service could not hand it on.
_NOT_PUBLISHED: Final = b"Failed to publish"
# A record above this size may be answered 500 for its size, one below it hardly.
_LONG_RECORD: Final = 65_536
# Nobody waits for a record, and the service may take its time over one (protocol reference, 2.6: it can scan again).
_RECORD_SECONDS: Final = 30.0


class Delivery(Enum):
    """What became of a record."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """Not taken now (time-out, connection, 401, 429, 5xx, nothing to publish it to); may be taken later.

    A 401 is one of these because a token expires, and the next start may send what is on disk with a new one.
    """
    UNFIT = "unfit"
    """Not taken for what is in it or for its size (413, 422, 500 for a long one); may be taken when it is cut."""
    REFUSED = "refused"
    """Not taken, and sending it again would not help (redirects and other 4xx)."""


class AktoClient:
    """Checks and records over HTTP, with one connection pool for each worker's event loop."""

    def __init__(
        self,
        service_url: str,
        api_token: str,
        timeout: float,
        breaker: Breaker,
        *,
        most_checks: int = 2_000,
        tls: ssl.SSLContext | Literal[False] | None = None,
    ) -> None:
        """`timeout` is the total for one check in seconds: connecting, sending and reading.

        Checks above `most_checks` at once are not made. `tls`: whom to trust, the system's certificates by default.
        """
        self._check_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&guardrails=true")
        self._answer_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&response_guardrails=true")
        self._record_url = URL(f"{service_url}{_PATH}?akto_connector=litellm&ingest_data=true")
        self._headers = {"Authorization": api_token, "Content-Type": "application/json"}
        self._timeout = timeout
        self._breaker = breaker
        self._most_checks = min(most_checks, _open_files() // 2)
        self._tls = True if tls is None else tls
        self._proxy, self._proxy_headers = _proxy_for(service_url)
        if self._check_url.scheme == "http":
            # No tunnel then: the proxy reads the call's own headers.
            self._headers |= self._proxy_headers
        self._session: aiohttp.ClientSession | None = None
        self._session_loop: asyncio.AbstractEventLoop | None = None
        self._retired: set[aiohttp.ClientSession] = set()
        self._checks_in_flight = 0
        self._bytes_in_flight = 0

    async def check(self, body: bytes, *, of_answer: bool = False) -> Verdict:
        """The verdict on the request in the envelope `body`, or on the model's answer in it (`of_answer`).

        Never raises but for cancellation; takes at most the time-out.
        """
        if self._checks_in_flight >= self._most_checks or self._bytes_in_flight + len(body) > MOST_BYTES_AT_ONCE:
            return unavailable(Cause.OVERLOAD)
        if not self._breaker.admits():
            return unavailable(Cause.BREAKER_OPEN)
        self._checks_in_flight += 1
        self._bytes_in_flight += len(body)
        try:
            url = self._answer_url if of_answer else self._check_url
            status, answer = await self._post(url, body, self._timeout)
        except TimeoutError:
            self._note_failure()
            return unavailable(Cause.TIMEOUT)
        except (aiohttp.ClientError, OSError) as error:
            if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
                return unavailable(Cause.OVERLOAD)
            self._note_failure()
            return unavailable(Cause.CONNECTION)
        finally:
            self._checks_in_flight -= 1
            self._bytes_in_flight -= len(body)
        verdict = verdict_of_answer(status, answer, of_answer=of_answer)
        if verdict.is_usable:
            self._breaker.succeeded()
        elif status in _OUTAGES or verdict.cause is Cause.SERVICE_FAIL_OPEN:
            self._note_failure()
        return verdict

    async def record(self, body: bytes) -> tuple[Delivery, int | None]:
        """Hands over the envelope `body`; gives what became of it and the HTTP status, None when there was none."""
        try:
            status, answer = await self._post(self._record_url, body, max(self._timeout, _RECORD_SECONDS))
        except (TimeoutError, aiohttp.ClientError, OSError):
            return Delivery.RETRY, None
        return _delivery(status, answer, len(body)), status

    @property
    def checks_in_flight(self) -> int:
        """Checks under way."""
        return self._checks_in_flight

    async def close(self) -> None:
        """Closes the connections."""
        self._retire_session()
        for session in tuple(self._retired):
            await session.close()
        self._retired.clear()

    def _note_failure(self) -> None:
        if self._breaker.failed():
            # Kept connections may lead to a machine that is gone, and would cost a time-out each.
            self._retire_session()

    def _retire_session(self) -> None:
        """Lets calls under way finish, and makes new connections for all others."""
        session, self._session = self._session, None
        if session is not None:
            self._retired.add(session)
            longest = max(self._timeout, _RECORD_SECONDS)
            asyncio.get_running_loop().call_later(longest, self._close_retired, session)

    def _close_retired(self, session: aiohttp.ClientSession) -> None:
        if session in self._retired:
            task = asyncio.get_running_loop().create_task(session.close())
            task.add_done_callback(lambda _: self._retired.discard(session))

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
            proxy_headers=self._proxy_headers,
            ssl=self._tls,
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
            self._session = _new_session()
            self._session_loop = loop
        return self._session


def _delivery(status: int, answer: bytes, length: int) -> Delivery:
    """What a status says about a record of `length` bytes (protocol reference, 1.1 and 1.3)."""
    if status == 200:
        return Delivery.DELIVERED
    if status == 422 and _NOT_PUBLISHED in answer:
        return Delivery.RETRY
    if status in (413, 422) or (status == 500 and length > _LONG_RECORD):
        return Delivery.UNFIT
    return Delivery.RETRY if status in (401, 429) or status >= 500 else Delivery.REFUSED


def _new_session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # No limit here: checks and records have limits of their own, and waiting for a connection would look like an
        # outage of the service.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        # AktoClient's own deadline covers the whole call, connecting included.
        timeout=aiohttp.ClientTimeout(total=None),
    )


def _proxy_for(service_url: str) -> tuple[URL | None, dict[str, str]]:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for the service, and the headers it wants.

    Looked up once: aiohttp's own `trust_env` does so on every call, in a thread, and reads ~/.netrc besides.
    """
    parts = urlsplit(service_url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None, {}
    url = URL(proxy if "://" in proxy else f"http://{proxy}")
    if not url.user:
        return url, {}
    credentials = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    return url.with_user(None), {"Proxy-Authorization": f"Basic {credentials}"}


def _open_files() -> int:
    """How many files and sockets this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1_000_000
