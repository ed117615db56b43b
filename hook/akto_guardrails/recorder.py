"""A bounded background queue of records, so that recording never delays a request."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from akto_guardrails.akto import Delivery
from akto_guardrails.counters import Counters
from akto_guardrails.log import RateLimited

Send = Callable[[bytes], Awaitable[tuple[Delivery, int | None]]]

MOST_ENTRIES: Final = 20_000
MOST_BYTES: Final = 64 * 1024 * 1024
_SENDERS: Final = 16
_ATTEMPTS: Final = 6
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0

_log: Final = logging.getLogger(__name__)


class Recorder:
    """Takes envelopes and delivers each through `send`, trying again where that can help.

    When entries or bytes pass their bound the oldest record goes, counted and named in the log.
    """

    def __init__(self, send: Send, counters: Counters, *, first_pause: float = _FIRST_PAUSE) -> None:
        self._send = send
        self._counters = counters
        self._first_pause = first_pause
        self._queue: deque[bytes] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._lost = RateLimited(_log, logging.WARNING)
        self._refused = RateLimited(_log, logging.ERROR)

    @property
    def waiting(self) -> int:
        """Records not delivered yet, those being sent included."""
        return len(self._queue) + self._in_flight

    def put(self, record: bytes) -> None:
        """Queues one envelope. Must be called on the event loop; returns at once."""
        self._queue.append(record)
        self._bytes += len(record)
        while len(self._queue) > MOST_ENTRIES or (self._bytes > MOST_BYTES and len(self._queue) > 1):
            self._bytes -= len(self._queue.popleft())
            self._lose("the queue is full")
        if len(self._senders) < min(_SENDERS, len(self._queue)):
            self._senders.add(asyncio.get_running_loop().create_task(self._deliver_all()))

    async def flush(self, seconds: float) -> None:
        """Delivers what is queued for at most `seconds`; what is left then is counted and named in the log."""
        if self._senders:
            await asyncio.wait(tuple(self._senders), timeout=seconds)
        left = self.waiting
        for sender in tuple(self._senders):
            sender.cancel()
        if left:
            self._counters.add("records_dropped", left)
            _log.warning("%d records could not be delivered to Akto before the shutdown", left)

    async def _deliver_all(self) -> None:
        try:
            while self._queue:
                record = self._queue.popleft()
                self._bytes -= len(record)
                self._in_flight += 1
                try:
                    await self._deliver(record)
                except Exception as error:  # noqa: BLE001 - one record that cannot be sent must not stop the others
                    self._lose(f"{type(error).__name__} while sending it")
                finally:
                    self._in_flight -= 1
        finally:
            # Here and not in a callback: between the two a record could be put for which nobody is left.
            self._senders.discard(_this_task())

    async def _deliver(self, record: bytes) -> None:
        pause = self._first_pause
        for attempt in range(1, _ATTEMPTS + 1):
            delivery, status = await self._send(record)
            if delivery is Delivery.DELIVERED:
                self._counters.add("records_delivered")
                return
            if delivery is Delivery.REFUSED:
                self._counters.add("records_refused")
                self._refused.log("Akto refused a record with HTTP status %s", status)
                return
            if attempt < _ATTEMPTS:
                self._counters.add("records_retried")
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
                pause = min(pause * 2, _LONGEST_PAUSE)
        self._lose("Akto did not take it")

    def _lose(self, why: str) -> None:
        self._counters.add("records_dropped")
        self._lost.log("a record was dropped: %s", why)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only called inside one
    return task
