"""A bounded background queue of records, so that recording never delays a request."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from akto_guardrails.akto import Delivery
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import cut_record, session_of_record
from akto_guardrails.log import RateLimited
from akto_guardrails.spool import Spool, left_by_others
from akto_guardrails.waiting import Entry, Waiting

Send = Callable[[bytes], Awaitable[tuple[Delivery, int | None]]]

_SENDERS: Final = 16
_LOADED_AT_ONCE: Final = 64
_BYTES_LOADED_AT_ONCE: Final = 1024 * 1024
# A record is given up when Akto has taken others between this many failures that may be for what is in it, over so many
# seconds: in a partial outage that fails nine of ten calls, whichever they are, one in eight would have the failures.
_MOST_FAILURES: Final = 20
_SECONDS_OF_FAILURES: Final = 600.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 5.0
_LONGEST_PAUSE_AT_THE_END: Final = 0.5
# For writing to disk at the end, even when there is no time left for delivering.
_DISK_SECONDS_AT_THE_END: Final = 1.0
# How long the event loop is kept from all else for it.
_SECONDS_OF_A_TURN: Final = 0.01

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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most_records` and `most_bytes` may wait in memory; what is being sent comes on top."""
        self._send = send
        self._counters = counters
        self._most_records = most_records
        self._most_bytes = most_bytes
        self._spool = spool
        self._first_pause = first_pause
        self._longest_pause = _LONGEST_PAUSE
        self._clock = clock
        # Older than all that is in the spool.
        self._waiting = Waiting()
        self._delivered = 0
        self._senders: set[asyncio.Task[None]] = set()
        self._is_ending = asyncio.Event()
        self._lost = RateLimited(_log, logging.WARNING)
        self._refused = RateLimited(_log, logging.ERROR)
        self._trouble = RateLimited(_log, logging.WARNING)
        counters.add_level("record_queue_entries", lambda: len(self._waiting))
        counters.add_level("record_queue_bytes", lambda: self.queued_bytes)
        if spool is not None:
            counters.add_level("spooled_entries", lambda: spool.files)
            counters.add_level("spooled_bytes", lambda: spool.total_bytes)

    def start(self) -> None:
        """Begins to send what earlier workers left on disk. Must be called on the event loop."""
        if self._spool is not None:
            self._spool.take_over()
            if (problem := left_by_others(self._spool.directory)) is not None:
                _log.warning("%s %s", problem.what, problem.fix)
            if len(self._spool):
                _log.info("%d records of an earlier run are on disk, and are sent now", len(self._spool))
            self._wake()

    @property
    def queued_bytes(self) -> int:
        """What waits in memory."""
        return self._waiting.bytes

    def put(self, record: bytes, session: str | None = None) -> None:
        """Queues one envelope. Must be called on the event loop; returns at once."""
        entry = Entry(record, session)
        if self._spool is None or not (len(self._spool) or self._is_full(1, len(record))):
            self._waiting.add(entry)
        else:
            self._store(self._spool, entry)
        while self._spool is None and self._is_full() and len(self._waiting) > 1:
            self._waiting.remove_oldest()
            self._lose(1, "the queue is full")
        self._wake()

    async def flush(self, seconds: float) -> None:
        """Delivers what is queued for at most `seconds`; what is left then goes to disk, or is counted and logged.

        What the disk takes longer for is lost too; it has a second of its own where there is no time left.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        self._longest_pause = _LONGEST_PAUSE_AT_THE_END
        self._is_ending.set()
        # First of all: whoever stops the process may kill it before the time is over.
        is_disk_fast = await self._keep_all(max(seconds, _DISK_SECONDS_AT_THE_END))
        while self._senders and loop.time() < deadline:
            await asyncio.wait(self._senders, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        senders = tuple(self._senders)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)
        if is_disk_fast:
            # There may be room now for what had none before.
            await self._keep_all(_DISK_SECONDS_AT_THE_END)
        self._put_away()

    def _put_away(self) -> None:
        """Says at the end what is on disk, and what is lost."""
        left = self._waiting.all()
        kept = sum(entry.file is not None for entry in left)
        self._log_losses(len(left) - kept)
        if self._spool is not None:
            kept += len(self._spool)
            if kept:
                _log.warning("%d records are left on disk for the next start", kept)
            self._spool.close()

    def _log_losses(self, at_the_end: int) -> None:
        """Counts the last losses, and logs the sum of all: lines that are held back now would never be written."""
        if at_the_end:
            self._counters.add("records_dropped", at_the_end)
        total = self._counters.snapshot().get("records_dropped", 0)
        if at_the_end:
            message = "%d record(s) dropped: not delivered before the shutdown (%d dropped in all)"
            _log.warning(message, at_the_end, total)
        elif total > 1:
            _log.warning("%d record(s) dropped in all", total)

    async def _keep_all(self, seconds: float) -> bool:
        """Stores what is in memory alone, the newest first: where there is no room for all, the oldest go.

        A few at a time, so that others get their turn, the senders among them. False when `seconds` were not enough.
        """
        spool = self._spool
        if spool is None:
            return True
        last_turn = self._clock()
        until = last_turn + seconds
        for entry in reversed(self._waiting.all()):
            if self._clock() >= last_turn + _SECONDS_OF_A_TURN:
                await asyncio.sleep(0)
                last_turn = self._clock()
            if entry.file is not None or entry not in self._waiting or not spool.has_room_for(entry.body):
                continue
            if self._clock() >= until:
                return False
            try:
                entry.file = spool.keep(entry.body, entry.born)
                self._counters.add("records_spooled")
            except OSError as error:
                self._trouble.log("records cannot be written to SPOOL_DIR: %s", error.strerror)
        return True

    def _is_full(self, further: int = 0, size: int = 0) -> bool:
        """Whether memory holds more than it may, or would with `further` records of `size` bytes."""
        waiting = self._waiting
        return len(waiting) + further > self._most_records or waiting.bytes + size > self._most_bytes

    def _store(self, spool: Spool, entry: Entry) -> None:
        """Puts the newest entry on disk; the oldest of all go when there is no room for it."""
        if len(entry.body) > spool.most_bytes:
            self._lose(1, "it is larger than MAX_SPOOLED_BYTES")
            return
        try:
            while not spool.has_room_for(entry.body) and len(self._waiting):
                if not len(spool) and not self._is_full(1, len(entry.body)):
                    break
                self._lose(1, "the spool is full")
                oldest = self._waiting.remove_oldest()
                self._forget(oldest)
                if oldest.file is None and self._may_load():
                    # Its place in memory goes to the oldest on disk.
                    self._load(spool, and_forget=True)
            if spool.has_room_for(entry.body):
                spool.add(entry.body, entry.born)
                self._counters.add("records_spooled")
            elif not len(spool):
                # All that fills the disk is being sent, so this one is younger than what waits in memory.
                self._waiting.add(entry)
            else:
                self._lose(1, "the spool is full")
        except OSError as error:
            self._lose(1, f"it could not be written to SPOOL_DIR: {error.strerror}")

    def _may_load(self) -> bool:
        """Whether there is something on disk, and room for it in memory; there always is for one record."""
        if self._spool is None or not len(self._spool):
            return False
        return not len(self._waiting) or not self._is_full(1, self._spool.next_size)

    def _load(self, spool: Spool, *, and_forget: bool = False) -> None:
        """Takes the oldest record from disk into memory. It stays on disk too, if not `and_forget`. Raises OSError."""
        stored = spool.load()
        if stored is None:
            self._lose(1, "its file in SPOOL_DIR is gone or damaged")
            return
        try:
            session = session_of_record(stored.body)
        except ValueError:
            self._lose(1, "it cannot be read from disk")
            and_forget = True
        else:
            file = None if and_forget else stored.file
            self._waiting.add(Entry(stored.body, session, born=stored.born, file=file))
        if and_forget:
            spool.remove(stored.file)

    def _load_some(self, spool: Spool) -> None:
        """Loads as many as are loaded at once, or as there is room for. Raises OSError."""
        size = 0
        for _ in range(_LOADED_AT_ONCE):
            if size >= _BYTES_LOADED_AT_ONCE or not self._may_load():
                return
            size += spool.next_size
            self._load(spool)

    def _wake(self) -> None:
        """Starts one more sender when there is work for it: those there are may all be waiting for Akto."""
        if (self._waiting.ready or self._may_load()) and len(self._senders) < _SENDERS:
            self._senders.add(asyncio.get_running_loop().create_task(self._deliver_all()))

    async def _loaded(self) -> Entry | None:
        """What to send next when nothing in memory can be: the records there may all be of sessions that are held up.

        Loads until there is something, or no more room in memory; a few at a time, so that others get their turn.
        """
        while self._spool is not None and self._may_load():
            pause = 0.0
            try:
                self._load_some(self._spool)
            except OSError as error:
                self._trouble.log("records cannot be read from SPOOL_DIR, tried again: %s", error.strerror)
                pause = self._first_pause
            if (entry := self._waiting.take()) is not None:
                return entry
            await self._rest(pause)
        return self._waiting.take()

    async def _deliver_all(self) -> None:
        pause = self._first_pause
        try:
            while (entry := self._waiting.take() or await self._loaded()) is not None:
                entry.delivered_before = entry.delivered_before or self._delivered
                self._wake()
                if await self._is_settled(entry):
                    self._waiting.done(entry)
                    self._forget(entry)
                    pause = self._first_pause
                    continue
                # Held back for the pause, its session with it; then others get their turn before it.
                await self._rest(min(pause, self._longest_pause) * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
                pause = min(pause * 2, self._longest_pause)
                self._waiting.put_back(entry)
        finally:
            # Here and not in a callback: between the two a record could be put for which nobody is left.
            self._senders.discard(_this_task())

    async def _rest(self, seconds: float) -> None:
        """Waits, but when the end begins no longer than until then: there is little time from there on."""
        if self._is_ending.is_set():
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_ending.wait()

    async def _is_settled(self, entry: Entry) -> bool:
        """Sends `entry`. False when it is to be sent again later."""
        try:
            delivery, status = await self._sent(entry)
        except Exception as error:  # noqa: BLE001 - one record that cannot be sent must not stop the others
            self._lose(1, f"{type(error).__name__} while sending it")
            return True
        if delivery is Delivery.DELIVERED:
            self._delivered += 1
            self._counters.add("records_delivered")
            return True
        if delivery not in (Delivery.RETRY, Delivery.DOUBTFUL):
            self._counters.add("records_refused")
            self._refused.log("Akto refused a record with HTTP status %s", status)
            return True
        if delivery is Delivery.DOUBTFUL and self._is_hopeless(entry):
            self._lose(1, "Akto takes others, but not this one")
            return True
        self._counters.add("records_retried")
        return False

    def _is_hopeless(self, entry: Entry) -> bool:
        """Whether `entry`, which has failed once more, has failed for its content all this time."""
        if self._delivered == entry.delivered_before:
            return False
        entry.delivered_before = self._delivered
        entry.failures += 1
        if entry.failures == 1:
            entry.failing_since = self._clock()
        return entry.failures >= _MOST_FAILURES and self._clock() >= entry.failing_since + _SECONDS_OF_FAILURES

    async def _sent(self, entry: Entry) -> tuple[Delivery, int | None]:
        """Sends `entry`, and once more what is left of it when it is cut, where Akto does not take it as it is."""
        delivery, status = await self._send(entry.body)
        if delivery is not Delivery.UNFIT or entry.is_cut:
            return delivery, status
        cut = cut_record(entry.body)
        delivery, last_status = await self._send(cut)
        # Answered 500 and then not taken even when it is cut: it may be an outage, and the record fit as it is.
        if status != 500 or delivery not in (Delivery.RETRY, Delivery.DOUBTFUL):
            self._counters.add("records_cut")
            entry.body, entry.is_cut = cut, True
        return delivery, last_status

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
