"""The background queue of records."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from akto_guardrails import recorder as recorder_module
from akto_guardrails.akto import Delivery
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import envelope
from akto_guardrails.recorder import Recorder
from akto_guardrails.spool import Spool
from unit.samples import SENDER, identity, settings

Outcome = tuple[Delivery, int | None]

DELIVERED: Outcome = (Delivery.DELIVERED, 200)
RETRY: Outcome = (Delivery.RETRY, 503)
REFUSED: Outcome = (Delivery.REFUSED, 404)
UNFIT: Outcome = (Delivery.UNFIT, 422)


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


def a_recorder(
    send: Callable[[bytes], Awaitable[Outcome]], counters: Counters | None = None, **options: Any
) -> Recorder:
    """A recorder with room for everything and short pauses, but for `options`."""
    bounds = {"most_records": 20_000, "most_bytes": 64 * 1024 * 1024, "first_pause": 0.001}
    return Recorder(send, counters or Counters(), **(bounds | options))


def run(
    send: Callable[[bytes], Awaitable[Outcome]], records: Iterable[bytes], flush_seconds: float = 5.0, **options: Any
) -> dict[str, int]:
    """Puts `records`, flushes, and gives the counters."""
    counters = Counters()

    async def main() -> None:
        recorder = a_recorder(send, counters, **options)
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


def test_a_record_does_not_wait_for_another_that_is_not_answered() -> None:
    taken: list[bytes] = []

    async def main() -> None:
        silent = asyncio.Event()

        async def send(record: bytes) -> Outcome:
            if record == b"unanswered":
                await silent.wait()
            taken.append(record)
            return DELIVERED

        recorder = a_recorder(send)
        recorder.put(b"unanswered")
        await asyncio.sleep(0.01)
        recorder.put(b"answered")
        await asyncio.sleep(0.01)
        assert taken == [b"answered"]
        silent.set()
        await recorder.flush(5)

    asyncio.run(main())


def test_putting_a_record_returns_before_anything_is_sent() -> None:
    service = Service()

    async def main() -> None:
        recorder = a_recorder(service.send)
        recorder.put(b"a")
        assert service.sent == []
        await recorder.flush(5)

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
        recorder = a_recorder(send, first_pause=0.02)
        recorder.put(b"a")
        await asyncio.sleep(1.5)
        await recorder.flush(0)

    asyncio.run(main())
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert pauses[0] >= 0.01
    assert pauses[4] >= 0.16


def test_a_record_is_kept_as_long_as_akto_takes_none() -> None:
    service = Service([RETRY] * 9)
    counters = run(service.send, [b"a"])
    assert counters == {"records_delivered": 1, "records_retried": 9}


class Stubborn:
    """Takes all records but one, which fails 60 times with `outcome`."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self.sent: Counter[bytes] = Counter()

    async def send(self, record: bytes) -> Outcome:
        """Takes a record, or does not."""
        self.sent[record] += 1
        await asyncio.sleep(0)
        return DELIVERED if record != b"secret-content" or self.sent[record] > 60 else self._outcome


def counters_with_others(service: Stubborn, *, hours: bool = False) -> dict[str, int]:
    """The counters when that one is gone, one way or the other; others are delivered all the time.

    `hours`: that takes hours by the recorder's clock.
    """
    speed = 1_000_000 if hours else 1

    async def main() -> dict[str, int]:
        counters = Counters()
        recorder = a_recorder(service.send, counters, clock=lambda: time.monotonic() * speed)
        recorder._longest_pause = 0.002
        recorder.put(b"secret-content")
        while any(entry.body == b"secret-content" for entry in recorder._waiting.all()):
            recorder.put(b"other")
            await asyncio.sleep(0.001)
        await recorder.flush(5)
        return counters.snapshot()

    return asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("status", [500, 422, None])
def test_a_record_that_is_not_taken_while_others_are_is_dropped_in_the_end(
    status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It must not hold its session up for ever."""
    service = Stubborn((Delivery.DOUBTFUL, status))
    counters = counters_with_others(service, hours=True)
    assert counters["records_dropped"] == 1
    assert 20 <= service.sent[b"secret-content"] < 60
    assert counters["records_delivered"] == service.sent[b"other"]
    assert [line.levelno for line in caplog.records] == [logging.WARNING]
    assert "secret-content" not in caplog.text


def test_what_has_nothing_to_do_with_the_record_is_never_held_against_it() -> None:
    """A limit or a balancer without enough backends takes some records and not others, whichever they are."""
    service = Stubborn(RETRY)
    counters = counters_with_others(service, hours=True)
    assert "records_dropped" not in counters
    assert service.sent[b"secret-content"] == 61


def test_many_failures_within_ten_minutes_are_not_held_against_a_record() -> None:
    """In a partial outage it is chance which records fail so often."""
    service = Stubborn((Delivery.DOUBTFUL, None))
    counters = counters_with_others(service)
    assert "records_dropped" not in counters
    assert service.sent[b"secret-content"] == 61


def test_many_records_that_are_never_taken_do_not_keep_the_others_from_their_turn() -> None:
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(0)
        if record.startswith(b"bad"):
            return RETRY
        taken.append(record)
        return DELIVERED

    bad = [f"bad {number}".encode() for number in range(40)]
    run(send, [*bad, b"good"], flush_seconds=2)
    assert taken == [b"good"]


RECORD = envelope(SENDER, identity(), {}, request_payload=json.dumps({"body": "x" * 10_000}), record_id="id-1")


def test_a_record_refused_for_its_content_is_cut_and_sent_once_more() -> None:
    service = Service([UNFIT])
    assert run(service.send, [RECORD]) == {"records_cut": 1, "records_delivered": 1}
    first, second = (json.loads(record) for record in service.sent)
    assert "x-akto-truncated" in json.loads(second["requestPayload"])["body"]
    assert len(second["requestPayload"]) < 5_000
    without_payload = [{**record, "requestPayload": ""} for record in (first, second)]
    assert without_payload[0] == without_payload[1]


def test_a_cut_record_that_is_refused_again_is_given_up() -> None:
    service = Service([UNFIT, UNFIT])
    assert run(service.send, [RECORD]) == {"records_cut": 1, "records_refused": 1}
    assert len(service.sent) == 2


def test_a_record_answered_500_is_whole_again_when_its_beginning_is_not_taken_either() -> None:
    """It is the outage then, and not the record."""
    service = Service([(Delivery.UNFIT, 500), RETRY, (Delivery.UNFIT, 500), (Delivery.DOUBTFUL, 500)])
    assert run(service.send, [RECORD]) == {"records_delivered": 1, "records_retried": 2}
    assert service.taken == [RECORD]


@pytest.mark.parametrize("status", [413, 422])
def test_a_record_that_is_too_large_stays_cut(status: int) -> None:
    service = Service([(Delivery.UNFIT, status), RETRY])
    assert run(service.send, [RECORD]) == {"records_cut": 1, "records_delivered": 1, "records_retried": 1}
    assert [len(record) < 5_000 for record in service.sent] == [False, True, True]


def test_a_record_answered_500_stays_cut_when_akto_takes_its_beginning() -> None:
    service = Service([(Delivery.UNFIT, 500)])
    assert run(service.send, [RECORD]) == {"records_cut": 1, "records_delivered": 1}


def test_within_a_session_records_keep_their_order_whatever_has_to_be_sent_again() -> None:
    random = Random(4)
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(random.random() / 500)
        if random.random() < 0.4:
            return RETRY
        taken.append(record)
        return DELIVERED

    async def main() -> None:
        recorder = a_recorder(send)
        for number in range(60):
            session = f"s{number % 3}"
            recorder.put(f"{session}:{number:02}".encode(), session)
            recorder.put(b"-:no session", None)
        await recorder.flush(20)

    asyncio.run(main())
    assert len(taken) == 120
    for session in (b"s0", b"s1", b"s2"):
        own = [record for record in taken if record.startswith(session)]
        assert len(own) == 20
        assert own == sorted(own)


def test_a_session_that_has_to_wait_does_not_hold_up_others() -> None:
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(0)
        if record.startswith(b"stuck"):
            return RETRY
        taken.append(record)
        return DELIVERED

    async def main() -> None:
        recorder = a_recorder(send)
        for number in range(30):
            recorder.put(f"stuck {number}".encode(), "one")
            recorder.put(f"fine {number}".encode(), "two")
        await recorder.flush(1)

    asyncio.run(main())
    assert taken == [f"fine {number}".encode() for number in range(30)]


def test_a_refused_record_is_not_sent_again_and_is_an_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    service = Service([REFUSED])
    assert run(service.send, [b"secret-content"]) == {"records_refused": 1}
    assert service.sent == [b"secret-content"]
    (line,) = caplog.records
    assert line.levelno == logging.ERROR
    assert "404" in line.getMessage()
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
        recorder = a_recorder(send)
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


def test_more_records_than_the_bound_push_out_the_oldest(caplog: pytest.LogCaptureFixture) -> None:
    service = Service()
    assert run(service.send, [b"1", b"2", b"3", b"4", b"5"], most_records=3) == {
        "records_delivered": 3,
        "records_dropped": 2,
    }
    assert service.taken == [b"3", b"4", b"5"]
    assert "queue is full" in caplog.text


def test_more_bytes_than_the_bound_push_out_the_oldest() -> None:
    service = Service()
    records = [b"a" * 60, b"b" * 60, b"c" * 40]
    assert run(service.send, records, most_bytes=100) == {"records_delivered": 2, "records_dropped": 1}
    assert service.taken == records[1:]


def test_bytes_of_delivered_records_do_not_count_against_the_bound() -> None:
    service = Service()

    async def main() -> None:
        recorder = a_recorder(service.send, most_bytes=100)
        for _ in range(10):
            recorder.put(b"a" * 40)
            recorder.put(b"b" * 40)
            await asyncio.sleep(0.005)
        await recorder.flush(5)

    asyncio.run(main())
    assert len(service.taken) == 20


def test_a_single_record_above_the_bound_of_bytes_is_still_sent() -> None:
    service = Service()
    assert run(service.send, [b"a" * 500], most_bytes=100) == {"records_delivered": 1}


def test_a_flush_ends_in_time_and_counts_what_is_left(caplog: pytest.LogCaptureFixture) -> None:
    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(30)
        return DELIVERED

    assert run(send, [b"x"] * 7, flush_seconds=0.05) == {"records_dropped": 7}
    assert "7 record(s) dropped: not delivered before the shutdown" in caplog.text


def test_a_flush_without_time_waits_for_nothing_and_counts_all(caplog: pytest.LogCaptureFixture) -> None:
    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(30)
        return DELIVERED

    began = time.monotonic()
    assert run(send, [b"x"] * 7, flush_seconds=0) == {"records_dropped": 7}
    assert time.monotonic() - began < 5
    assert "7 record(s) dropped: not delivered before the shutdown" in caplog.text


def test_what_is_lost_at_the_end_is_logged_however_short_after_another_line(caplog: pytest.LogCaptureFixture) -> None:
    service = Outage()
    assert run(service.send, [b"x"] * 9, flush_seconds=0.05, most_records=4)["records_dropped"] == 9
    assert "4 record(s) dropped: not delivered before the shutdown (9 dropped in all)" in caplog.text


def test_what_was_lost_before_the_end_is_told_as_a_sum(caplog: pytest.LogCaptureFixture) -> None:
    assert run(Service().send, [b"x"] * 9, most_records=4)["records_dropped"] == 5
    assert "5 record(s) dropped in all" in caplog.text


def test_the_end_does_not_wait_for_pauses() -> None:
    """Akto may be there again, and the time is short."""
    service = Service([RETRY])

    async def main() -> None:
        recorder = a_recorder(service.send, first_pause=1_000.0)
        recorder._longest_pause = 1_000.0
        recorder.put(b"a")
        await asyncio.sleep(0.01)
        await recorder.flush(5)

    asyncio.run(main())
    assert service.taken == [b"a"]


def test_nothing_is_sent_any_more_after_a_flush() -> None:
    taken: list[bytes] = []

    async def send(record: bytes) -> Outcome:
        await asyncio.sleep(0.05)
        taken.append(record)
        return DELIVERED

    async def main() -> None:
        recorder = a_recorder(send)
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
        recorder = a_recorder(service.send)
        for number in range(5):
            recorder.put(str(number).encode())
            await asyncio.sleep(0.005)

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

        recorder = a_recorder(send)
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


class Outage:
    """A service that takes nothing until it is over."""

    def __init__(self) -> None:
        self.is_over = False
        self.attempts = 0
        self.taken: list[bytes] = []

    async def send(self, record: bytes) -> Outcome:
        """Takes one record once it is over."""
        self.attempts += 1
        await asyncio.sleep(0)
        if not self.is_over:
            return RETRY
        self.taken.append(record)
        return DELIVERED


def record_of(number: int, session: str) -> bytes:
    """A numbered record of a session."""
    one = identity(headers={"x-session-id": session})
    return envelope(SENDER, one, {}, request_payload=json.dumps({"body": number}), record_id=f"id-{number}")


def number_of(record: bytes) -> int:
    """The number of a record."""
    return int(json.loads(json.loads(record)["requestPayload"])["body"])


def assert_in_order(records: list[bytes], numbers: range) -> None:
    """Each of `numbers` once, those of each of three sessions in their order."""
    found = [number_of(record) for record in records]
    assert sorted(found) == list(numbers)
    for session in range(3):
        own = [number for number in found if number % 3 == session]
        assert own == sorted(own)


class TestSpool:
    """Records that go to disk."""

    @staticmethod
    def recorder(service: Outage, directory: Path, counters: Counters, most_bytes: int = 10_000_000) -> Recorder:
        return a_recorder(service.send, counters, most_records=10, spool=Spool(str(directory), most_bytes))

    @staticmethod
    def put(recorder: Recorder, numbers: range) -> None:
        for number in numbers:
            recorder.put(record_of(number, f"s{number % 3}"), f"s{number % 3}")

    def test_what_memory_has_no_room_for_arrives_in_order_too(self, tmp_path: Path) -> None:
        service, counters = Outage(), Counters()

        async def main() -> None:
            recorder = self.recorder(service, tmp_path, counters)
            self.put(recorder, range(100))
            await asyncio.sleep(0.05)
            self.put(recorder, range(100, 150))
            service.is_over = True
            await asyncio.sleep(0.01)
            self.put(recorder, range(150, 200))
            await recorder.flush(20)

        asyncio.run(main())
        assert_in_order(service.taken, range(200))
        assert counters.snapshot()["records_delivered"] == 200
        assert "records_dropped" not in counters.snapshot()
        assert list(tmp_path.iterdir()) == []

    def test_what_is_left_at_the_end_is_sent_by_the_next_start_before_anything_new(self, tmp_path: Path) -> None:
        service = Outage()

        async def first() -> None:
            recorder = self.recorder(service, tmp_path, Counters())
            self.put(recorder, range(60))
            await asyncio.sleep(0.05)
            self.put(recorder, range(60, 100))
            await recorder.flush(0.05)

        async def second() -> None:
            recorder = self.recorder(service, tmp_path, Counters())
            recorder.start()
            self.put(recorder, range(100, 120))
            await recorder.flush(20)

        asyncio.run(first())
        assert len(list(tmp_path.glob("*/*.record"))) == 100
        service.is_over = True
        asyncio.run(second())
        assert_in_order(service.taken, range(120))
        assert list(tmp_path.iterdir()) == []

    def test_at_the_end_everything_goes_to_disk_at_once(self, tmp_path: Path) -> None:
        """Whoever stops the process may kill it while it still tries to deliver."""
        service = Outage()

        async def main() -> None:
            recorder = self.recorder(service, tmp_path, Counters())
            self.put(recorder, range(30))
            await asyncio.sleep(0.02)
            assert service.attempts
            flushing = asyncio.create_task(recorder.flush(5))
            for _ in range(30):
                await asyncio.sleep(0)
            files = [entry.file for entry in recorder._waiting.all()]
            assert len(files) + len(recorder._spool or ()) == 30
            assert None not in files
            service.is_over = True
            await flushing

        asyncio.run(main())
        assert_in_order(service.taken, range(30))
        assert list(tmp_path.iterdir()) == []

    def test_without_room_on_disk_the_oldest_of_all_are_dropped(self, tmp_path: Path) -> None:
        service, counters = Outage(), Counters()

        async def main() -> None:
            recorder = self.recorder(service, tmp_path, counters, most_bytes=20 * len(record_of(10, "only")))
            for number in range(10, 99):
                recorder.put(record_of(number, "only"), "only")
                await asyncio.sleep(0)
            service.is_over = True
            await recorder.flush(20)

        asyncio.run(main())
        found = [number_of(record) for record in service.taken]
        # The one that was being sent, ten in memory, the rest on disk.
        assert found[0] == 10
        assert found[1:] == list(range(99 - len(found) + 1, 99))
        assert len(found) == 31
        assert counters.snapshot()["records_dropped"] == 89 - len(found)

    def test_a_disk_that_cannot_be_written_to_loses_records_and_nothing_else(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, counters = Outage(), Counters()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        async def main() -> None:
            recorder = self.recorder(service, tmp_path, counters)
            monkeypatch.setattr(recorder._spool, "add", full)
            self.put(recorder, range(30))
            service.is_over = True
            await recorder.flush(20)

        asyncio.run(main())
        assert_in_order(service.taken, range(10))
        assert counters.snapshot()["records_dropped"] == 20
        assert "No space left on device" in caplog.text


def test_ten_minutes_at_twenty_requests_a_second_fit_into_the_default_bounds() -> None:
    service, counters = Outage(), Counters()
    defaults = settings()

    async def main() -> None:
        recorder = Recorder(
            service.send,
            counters,
            most_records=defaults.most_queued_records,
            most_bytes=defaults.most_queued_bytes,
            first_pause=0.001,
        )
        body = json.dumps({"body": {"messages": [{"role": "user", "content": "word " * 400}]}})
        for number in range(12_000):
            session = f"s{number % 300}"
            one = identity(headers={"x-session-id": session, "n": str(number)})
            recorder.put(envelope(SENDER, one, {}, request_payload=body, response_payload=body), session)
            if number % 100 == 0:
                await asyncio.sleep(0)
        service.is_over = True
        await recorder.flush(60)

    asyncio.run(main())
    assert counters.snapshot()["records_delivered"] == 12_000
    numbers = [int(json.loads(json.loads(record)["requestHeaders"])["n"]) for record in service.taken]
    last: dict[int, int] = {}
    for number in numbers:
        assert last.get(number % 300, -1) < number
        last[number % 300] = number
