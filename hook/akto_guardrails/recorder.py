"""A bounded background queue of records, so that recording never delays a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from akto_guardrails.akto import Delivery
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import cut_record, session_of_record
from akto_guardrails.log import RateLimited
from akto_guardrails.spool import Spool
from akto_guardrails.waiting import Entry, Waiting

Send = Callable[[bytes], Awaitable[tuple[Delivery, int | None]]]

_SENDERS: Final = 16
_LOADED_AT_ONCE: Final = 64
# A record is given up when Akto has taken others between this many failures of it: it is not the outage then.
_MOST_FAILURES: Final = 20
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0
_LONGEST_PAUSE_AT_THE_END: Final = 0.5

_log: Final = logging.getLogger(__name__)


class Recorder:
    """Takes envelopes and delivers each through `send`, for as long as it takes, in order within a session.

    What memory has no room for goes to the spool, if there is one, until everything older is delivered. Where there is
    no room at all the oldest records are dropped, counted and named in the log.
    """

    def __init__(
        self,
        send: Send,
        counters: Counters,
        *,
        most_records: int,
        most_bytes: int,
        spool: Spool | None = None,
        first_pause: float = _FIRST_PAUSE,
    ) -> None:
        self._send = send
        self._counters = counters
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._spool = spool
        self._first_pause = first_pause
        self._longest_pause = _LONGEST_PAUSE
        # Older than all that is in the spool.
        self._waiting = Waiting()
        self._delivered = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._lost = RateLimited(_log, logging.WARNING)
        self._refused = RateLimited(_log, logging.ERROR)
        counters.add_level("record_queue_entries", lambda: len(self._waiting))
        counters.add_level("record_queue_bytes", lambda: self._waiting.bytes)

    def start(self) -> None:
        """Begins to send what earlier workers left on disk. Must be called on the event loop."""
        if self._spool is not None:
            self._spool.take_over()
            if len(self._spool):
                _log.info("%d records of an earlier run are on disk, and are sent now", len(self._spool))
            self._wake()

    def put(self, record: bytes, session: str | None = None) -> None:
        """Queues one envelope. Must be called on the event loop; returns at once."""
        entry = Entry(record, session)
        if self._spool is None or not (len(self._spool) or self._is_full(entry)):
            self._waiting.add(entry)
        else:
            self._store(self._spool, entry)
        while self._spool is None and self._is_full() and len(self._waiting) > 1:
            self._waiting.remove_oldest()
            self._lose(1, "the queue is full")
        self._wake()

    async def flush(self, seconds: float) -> None:
        """Delivers what is queued for at most `seconds`; what is left then goes to disk, or is counted and logged."""
        self._longest_pause = _LONGEST_PAUSE_AT_THE_END
        if self._spool is not None:
            # At once: whoever stops the process may kill it before the time is over.
            self._keep_all(self._spool)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._senders and loop.time() < deadline:
            await asyncio.wait(self._senders, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        senders = tuple(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        self._put_away()

    def _put_away(self) -> None:
        """Stores what is left at the end, or loses it."""
        if self._spool is not None:
            self._keep_all(self._spool)
        left = self._waiting.all()
        kept = sum(entry.file is not None for entry in left)
        if kept < len(left):
            self._lose(len(left) - kept, "not delivered before the shutdown")
        if self._spool is not None:
            kept += len(self._spool)
            if kept:
                _log.warning("%d records are left on disk for the next start", kept)
            self._spool.close()

    def _keep_all(self, spool: Spool) -> None:
        """Stores what is in memory alone, the newest first: where there is no room for all, the oldest go."""
        for entry in reversed(self._waiting.all()):
            if entry.file is None and spool.has_room_for(entry.body):
                with contextlib.suppress(OSError):
                    entry.file = spool.keep(entry.body, entry.born)
                    self._counters.add("records_spooled")

    def _is_full(self, further: Entry | None = None) -> bool:
        """Whether memory holds more than it may, or would with a `further` entry."""
        count, size = (0, 0) if further is None else (1, len(further.body))
        waiting = self._waiting
        return len(waiting) + count > self._most_records or waiting.bytes + size > self._most_bytes

    def _store(self, spool: Spool, entry: Entry) -> None:
        """Puts the newest entry on disk; the oldest of all go when there is no room for it."""
        while not spool.has_room_for(entry.body) and len(self._waiting):
            oldest = self._waiting.remove_oldest()
            self._forget(oldest)
            self._lose(1, "the spool is full")
            if oldest.file is None:
                # Its place in memory goes to the oldest on disk.
                self._load(spool, 1, and_forget=True)
        try:
            if spool.has_room_for(entry.body):
                spool.add(entry.body, entry.born)
                self._counters.add("records_spooled")
            else:
                self._lose(1, "the spool is full")
        except OSError as error:
            self._lose(1, f"it could not be written to SPOOL_DIR: {error.strerror}")

    def _load(self, spool: Spool, most: int, *, and_forget: bool = False) -> None:
        """Takes the oldest records from disk into memory. They stay on disk too, if not `and_forget`."""
        for file, body in spool.load(most):
            try:
                entry = Entry(body, session_of_record(body), file=None if and_forget else file)
            except ValueError:
                self._lose(1, "it cannot be read from disk")
            else:
                self._waiting.add(entry)
                if not and_forget:
                    continue
            spool.remove(file)

    def _wake(self) -> None:
        """Starts one more sender when there is work for it: those there are may all be waiting for Akto."""
        has_work = self._waiting.ready or (self._spool is not None and len(self._spool))
        if has_work and len(self._senders) < _SENDERS:
            self._senders.add(asyncio.get_running_loop().create_task(self._deliver_all()))

    def _next(self) -> Entry | None:
        """What to send next."""
        few = min(_LOADED_AT_ONCE, self._most_records)
        if self._spool is not None and len(self._spool) and len(self._waiting) < few:
            self._load(self._spool, few - len(self._waiting))
        return self._waiting.take()

    async def _deliver_all(self) -> None:
        pause = self._first_pause
        try:
            while (entry := self._next()) is not None:
                entry.delivered_before = entry.delivered_before or self._delivered
                self._wake()
                if await self._is_settled(entry):
                    self._waiting.done(entry)
                    self._forget(entry)
                    pause = self._first_pause
                    continue
                # Held back for the pause, its session with it; then others get their turn before it.
                await asyncio.sleep(min(pause, self._longest_pause) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, self._longest_pause)
                self._waiting.put_back(entry)
        finally:
            # Here and not in a callback: between the two a record could be put for which nobody is left.
            self._senders.discard(_this_task())

    async def _is_settled(self, entry: Entry) -> bool:
        """Sends `entry`. False when it is to be sent again later."""
        try:
            delivery, status = await self._send(entry.body)
            if delivery is Delivery.UNFIT and not entry.is_cut:
                self._counters.add("records_cut")
                entry.body, entry.is_cut = cut_record(entry.body), True
                delivery, status = await self._send(entry.body)
        except Exception as error:  # noqa: BLE001 - one record that cannot be sent must not stop the others
            self._lose(1, f"{type(error).__name__} while sending it")
            return True
        if delivery is Delivery.DELIVERED:
            self._delivered += 1
            self._counters.add("records_delivered")
            return True
        if delivery is not Delivery.RETRY:
            self._counters.add("records_refused")
            self._refused.log("Akto refused a record with HTTP status %s", status)
            return True
        if self._delivered > entry.delivered_before:
            entry.failures += 1
            entry.delivered_before = self._delivered
        if entry.failures < _MOST_FAILURES:
            self._counters.add("records_retried")
            return False
        self._lose(1, "Akto takes others, but not this one")
        return True

    def _forget(self, entry: Entry) -> None:
        if entry.file is not None and self._spool is not None:
            self._spool.remove(entry.file)

    def _lose(self, number: int, why: str) -> None:
        self._counters.add("records_dropped", number)
        self._lost.log("%d record(s) dropped: %s", number, why, amount=number)


def _this_task() -> asyncio.Task[None]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only called inside one
    return task
