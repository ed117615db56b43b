"""The background queue of records."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from akto_guardrails import recorder as recorder_module
from akto_guardrails.akto import Delivery
from akto_guardrails.counters import Counters
from akto_guardrails.recorder import Recorder

Outcome = tuple[Delivery, int | None]

DELIVERED: Outcome = (Delivery.DELIVERED, 200)
RETRY: Outcome = (Delivery.RETRY, 503)
REFUSED: Outcome = (Delivery.REFUSED, 401)


class Service:
    """Takes records, answering with `outcomes` one after the other and then with a delivery."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self._outcomes = iter(outcomes)
        self.sent: list[bytes] = []
        self.taken: list[bytes] = []

    async def send(self, record: bytes) -> Outcome:
        """Takes one record, after giving up control as every real call does."""
        self.sent.append(record)
        await asyncio.sleep(0)
        outcome = next(self._outcomes, DELIVERED)
        if outcome == DELIVERED:
            self.taken.append(record)
        return outcome


def run(
    send: Callable[[bytes], Awaitable[Outcome]], records: Iterable[bytes], flush_seconds: float = 5.0
) -> dict[str, int]:
    """Puts `records`, flushes, and gives the counters."""
    counters = Counters()

    async def main() -> None:
        recorder = Recorder(send, counters, first_pause=0.001)
        for record in records:
            recorder.put(record)
        await recorder.flush(flush_seconds)

    asyncio.run(main())
    return counters.snapshot()


def test_records_are_delivered_oldest_first() -> None:
    service = Service()
    records = [str(number).encode() for number in range(50)]
    assert run(service.send, records) == {"records_delivered": 50}
    assert service.taken == records


def test_putting_a_record_returns_before_anything_is_sent() -> None:
    service = Service()

    async def main() -> None:
        recorder = Recorder(service.send, Counters())
        recorder.put(b"a")
        assert service.sent == []
        assert recorder.waiting == 1
        await recorder.flush(5)
        assert recorder.waiting == 0

    asyncio.run(main())
    assert service.taken == [b"a"]


def test_a_record_that_is_not_taken_now_is_sent_again() -> None:
    service = Service([RETRY, (Delivery.RETRY, None)])
    assert run(service.send, [b"a"]) == {"records_delivered": 1, "records_retried": 2}
    assert service.sent == [b"a", b"a", b"a"]


def test_the_pauses_between_attempts_grow() -> None:
    times: list[float] = []

    async def send(record: bytes) -> Outcome:
        times.append(time.monotonic())
        return RETRY

    async def main() -> None:
        recorder = Recorder(send, Counters(), first_pause=0.02)
        recorder.put(b"a")
        await recorder.flush(5)

    asyncio.run(main())
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.01
    assert pauses[4] >= 0.16


def test_a_record_that_is_never_taken_is_dropped_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service([RETRY] * 100)
    assert run(service.send, [b"secret-content"]) == {"records_dropped": 1, "records_retried": 5}
    assert len(service.sent) == 6
    assert [line.levelno for line in caplog.records] == [logging.WARNING]
    assert "secret-content" not in caplog.text


def test_a_refused_record_is_not_sent_again_and_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service([REFUSED])
    assert run(service.send, [b"secret-content"]) == {"records_refused": 1}
    assert service.sent == [b"secret-content"]
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "401" in line.getMessage()
    assert "secret-content" not in caplog.text


def test_many_refusals_make_one_line(caplog: pytest.LogCaptureFixture) -> None:
    service = Service([REFUSED] * 40)
    assert run(service.send, [b"x"] * 40) == {"records_refused": 40}
    assert len(caplog.records) == 1


def test_one_record_that_has_to_wait_does_not_hold_up_the_others() -> None:
    stuck = asyncio.Event()
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        if record == b"stuck":
            await stuck.wait()
        taken.append(record)
        return DELIVERED

    async def main() -> None:
        recorder = Recorder(send, Counters())
        for record in (b"stuck", b"a", b"b", b"c"):
            recorder.put(record)
        await asyncio.sleep(0.02)
        assert taken == [b"a", b"b", b"c"]
        stuck.set()
        await recorder.flush(5)

    asyncio.run(main())
    assert taken[-1] == b"stuck"


def test_only_a_few_records_are_sent_at_once() -> None:
    at_once = 0
    most = 0

    async def send(record: bytes) -> Outcome:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.001)
        at_once -= 1
        return DELIVERED

    assert run(send, [b"x"] * 60) == {"records_delivered": 60}
    assert 1 < most <= 16


def test_more_records_than_the_bound_push_out_the_oldest(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recorder_module, "MOST_ENTRIES", 3)
    service = Service()
    assert run(service.send, [b"1", b"2", b"3", b"4", b"5"]) == {"records_delivered": 3, "records_dropped": 2}
    assert service.taken == [b"3", b"4", b"5"]
    assert "queue is full" in caplog.text


def test_more_bytes_than_the_bound_push_out_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_BYTES", 100)
    service = Service()
    records = [b"a" * 60, b"b" * 60, b"c" * 40]
    assert run(service.send, records) == {"records_delivered": 2, "records_dropped": 1}
    assert service.taken == records[1:]


def test_bytes_of_delivered_records_do_not_count_against_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_BYTES", 100)
    service = Service()

    async def main() -> None:
        recorder = Recorder(service.send, Counters())
        for _ in range(10):
            recorder.put(b"a" * 40)
            recorder.put(b"b" * 40)
            await asyncio.sleep(0.005)
        await recorder.flush(5)

    asyncio.run(main())
    assert len(service.taken) == 20


def test_a_single_record_above_the_bound_of_bytes_is_still_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MOST_BYTES", 100)
    service = Service()
    assert run(service.send, [b"a" * 500]) == {"records_delivered": 1}


def test_a_flush_ends_in_time_and_counts_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(30)
        return DELIVERED

    assert run(send, [b"x"] * 7, flush_seconds=0.05) == {"records_dropped": 7}
    assert "7 records could not be delivered" in caplog.text


def test_nothing_is_sent_any_more_after_a_flush() -> None:
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(0.05)
        taken.append(record)
        return DELIVERED

    async def main() -> None:
        recorder = Recorder(send, Counters())
        for _ in range(20):
            recorder.put(b"x")
        await recorder.flush(0.01)
        await asyncio.sleep(0.1)

    asyncio.run(main())
    assert taken == []


def test_a_flush_without_records_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert run(Service().send, []) == {}
    assert caplog.text == ""


def test_records_put_after_the_queue_ran_empty_are_delivered() -> None:
    service = Service()

    async def main() -> None:
        recorder = Recorder(service.send, Counters())
        for number in range(5):
            recorder.put(str(number).encode())
            await asyncio.sleep(0.005)
        assert recorder.waiting == 0

    asyncio.run(main())
    assert service.taken == [b"0", b"1", b"2", b"3", b"4"]


def test_a_record_put_in_the_moment_in_which_the_last_one_is_delivered_is_not_forgotten() -> None:
    taken: list[bytes] = []

    async def main() -> None:
        async def send(record: bytes) -> Outcome:
            if record == b"first":
                asyncio.get_running_loop().call_soon(recorder.put, b"second")
            taken.append(record)
            return DELIVERED

        recorder = Recorder(send, Counters())
        recorder.put(b"first")
        await asyncio.sleep(0.05)

    asyncio.run(main())
    assert taken == [b"first", b"second"]


def test_a_send_that_breaks_loses_its_own_record_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "_SENDERS", 1)
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(0)
        if record == b"bad":
            raise ValueError("broken")
        taken.append(record)
        return DELIVERED

    run(send, [b"bad", b"a", b"bad", b"b"])
    assert taken == [b"a", b"b"]
