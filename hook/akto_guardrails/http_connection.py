"""One connection to a server, over which one POST at a time is sent and its answer read."""

from __future__ import annotations

import asyncio
import contextlib
import select
from collections.abc import Callable
from contextvars import Context
from typing import Final, cast

from akto_guardrails.http_answer import BadAnswer, HttpAnswer

# A request up to this length has left for the most part when its answer comes, whatever the server read of it.
_SHORT_REQUEST: Final = 65_536
_NO_ANSWER: Final = HttpAnswer(0)


class Disconnected(ConnectionError):
    """The connection ended before anything of an answer had come."""


class HttpConnection(asyncio.Protocol):
    """The protocol of a connection. `when_lost` is called once, when it has ended.

    `idle_since`: when it was last used, by the clock of the event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, when_lost: Callable[[HttpConnection], None]) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self._when_lost = when_lost
        # For timers. In the context of a request they would keep alive what is in it.
        self._context = Context()
        self._transport: asyncio.Transport | None = None
        self._unread = select.poll()
        self._answer = _NO_ANSWER
        self._whole: asyncio.Future[None] | None = None
        self._is_retired = False

    @property
    def has_socket(self) -> bool:
        """Whether its socket is the event loop's, which alone may close it then."""
        return self._transport is not None

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent over it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether it is open, and nothing has come that the event loop has not read yet: not its end, and no bytes,
        which would be taken for the answer to the next request.
        """
        return self.is_open and not self._unread.poll(0)

    async def post(self, request: bytes, deadline: float, most: int) -> tuple[int, bytes]:
        """Sends the bytes of a request; gives status and body of the answer. `most`: as in `HttpAnswer`.

        Raises TimeoutError at `deadline`, by the clock of the event loop, and ConnectionError. Then, and when the task
        is cancelled, the connection is closed, as it is when it cannot be used again.
        """
        transport = self._transport
        if transport is None:
            raise Disconnected("it has ended already")
        answer = self._answer = HttpAnswer(most)
        whole = self._whole = self.loop.create_future()
        timer = self.loop.call_at(deadline, self._fail, TimeoutError(), context=self._context)
        transport.write(request)
        try:
            await whole
        except BaseException:  # passed on: an answer that nobody waits for may still come
            self._is_retired = True
            raise
        finally:
            timer.cancel()
            self._whole = None
            # What was asked and what was answered can be whole conversations.
            self._answer = _NO_ANSWER
            if self._is_retired or not answer.is_reusable or _may_be_unsent(transport, request, answer.status):
                transport.abort()
        self.idle_since = self.loop.time()
        return answer.status, answer.body

    def retire(self) -> None:
        """Closes the connection, once the exchange that is under way has come to its end."""
        self._is_retired = True
        if self._whole is None:
            self.abort()

    def abort(self) -> None:
        """Closes the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's word that the connection is open."""
        # uvloop's is no subclass of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._unread.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """asyncio's way to hand over what has come."""
        if self._whole is None:
            # Nothing was asked for. Some servers send a 408 before they close an idle connection.
            self.abort()
            return
        try:
            is_whole = self._answer.feed(data)
        except BadAnswer as error:
            self._fail(error)
            return
        if is_whole and not self._whole.done():
            self._whole.set_result(None)

    def eof_received(self) -> None:
        """asyncio's word that the server has said all it will; the end of the request may never be read then."""
        if self._whole is None or self._whole.done() or not self._answer.has_begun:
            return
        # What is missing then, `connection_lost` says.
        with contextlib.suppress(BadAnswer):
            self._answer.end()
            self._is_retired = True
            self._whole.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's word that the connection has ended, `exc`: because it broke."""
        self._transport = None
        self._when_lost(self)
        if self._whole is None or self._whole.done():
            return
        if not self._answer.has_begun:
            self._fail(Disconnected("it ended before an answer"))
            return
        try:
            self._answer.end(is_broken=exc is not None)
        except BadAnswer as error:
            self._fail(error)
        else:
            self._whole.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._whole is not None and not self._whole.done():
            self._whole.set_exception(error)


def _may_be_unsent(transport: asyncio.Transport, request: bytes, status: int) -> bool:
    """Whether the end of `request` may still be on its way, since a server can refuse one before it has read it.

    Under TLS a transport does not know what waits to be sent.
    """
    return transport.get_write_buffer_size() > 0 or (status >= 400 and len(request) > _SHORT_REQUEST)
