"""POSTs to a server through the forward proxy that the environment names, with aiohttp."""

from __future__ import annotations

import asyncio
import base64
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from akto_guardrails.direct import IDLE_SECONDS

# TIMEOUT may not be longer, so the connections of a retired session are idle by then.
_LONGEST_CALL: Final = 600.0


class Proxied:
    """The connections of one worker to one server behind a proxy; their number has no limit."""

    def __init__(
        self, proxy: URL, origin: URL, headers: Mapping[str, str], *, most: int, tls: ssl.SSLContext | None = None
    ) -> None:
        """`proxy` may have a user and a password in it; everything else is as in `Direct`."""
        self._origin = origin
        self._proxy, self._proxy_headers = proxy.with_user(None), _credentials(proxy)
        # Without a tunnel the proxy reads the call's own headers.
        self._headers = dict(headers) if origin.scheme == "https" else {**headers, **self._proxy_headers}
        self._most = most
        self._tls: ssl.SSLContext | bool = tls or True
        self._session: aiohttp.ClientSession | None = None
        self._session_loop: asyncio.AbstractEventLoop | None = None
        self._retired: set[aiohttp.ClientSession] = set()

    async def post(self, target: str, body: bytes, seconds: float, most: int | None = None) -> tuple[int, bytes]:
        """As `Direct.post`."""
        most = self._most if most is None else min(most, self._most)
        url = URL(f"{self._origin}{target}", encoded=True)
        try:
            async with asyncio.timeout(seconds):
                try:
                    return await self._post(url, body, most)
                except aiohttp.ClientConnectorError:
                    raise
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                    return await self._post(url, body, most)
        except aiohttp.ClientError as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            raise ConnectionError(type(error).__name__) from error

    def retire(self) -> None:
        """As `Direct.retire`."""
        session, self._session = self._session, None
        if session is not None:
            self._retired.add(session)
            asyncio.get_running_loop().call_later(_LONGEST_CALL, self._close_retired, session)

    async def close(self) -> None:
        """As `Direct.close`."""
        self.retire()
        for session in tuple(self._retired):
            await session.close()
        self._retired.clear()

    def _close_retired(self, session: aiohttp.ClientSession) -> None:
        if session in self._retired:
            task = asyncio.get_running_loop().create_task(session.close())
            task.add_done_callback(lambda _: self._retired.discard(session))

    async def _post(self, url: URL, body: bytes, most: int) -> tuple[int, bytes]:
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
                if len(answer) >= most:
                    break
            return response.status, bytes(answer[:most])

    def _open_session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._session is None or self._session.closed or self._session_loop is not loop:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                # The deadline of `post` covers the whole call, connecting included.
                timeout=aiohttp.ClientTimeout(total=None),
            )
            self._session_loop = loop
        return self._session


def proxy_for(service_url: str) -> URL | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY name for the service; None to call it directly.

    Asked once: aiohttp's own `trust_env` looks on every call, in a thread, and reads ~/.netrc besides.
    """
    parts = urlsplit(service_url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or any(map(urllib.request.proxy_bypass, (parts.hostname or "", parts.netloc))):
        return None
    return URL(proxy if "://" in proxy else f"http://{proxy}")


def _credentials(proxy: URL) -> dict[str, str]:
    if not proxy.user:
        return {}
    credentials = base64.b64encode(f"{proxy.user}:{proxy.password or ''}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {credentials}"}
