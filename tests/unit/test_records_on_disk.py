"""The queue of records and its disk: what an outage, a stop or a disk in trouble leaves of them."""

from __future__ import annotations

import asyncio
import errno
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from akto_guardrails import recorder as recorder_module
from akto_guardrails import spool as spool_module
from akto_guardrails import waiting as waiting_module
from akto_guardrails.counters import Counters
from akto_guardrails.recorder import Recorder
from akto_guardrails.spool import Spool
from unit.test_recorder import DELIVERED, RETRY, Outage, Outcome, a_recorder, assert_in_order, number_of, record_of
from unit.test_spool import left_by_a_dead_worker

_ROOMY = 10_000_000


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine's disk is, there is time to write at the end."""
    monkeypatch.setattr(recorder_module, "_DISK_SECONDS_AT_THE_END", 600.0)


def a_spooling_recorder(
    service: Outage, directory: Path, counters: Counters | None = None, most_spooled: int = _ROOMY, **options: Any
) -> Recorder:
    """A recorder with a spool and, but for `options`, room for ten records in memory."""
    bounds = {"most_records": 10, "spool": Spool(str(directory), most_spooled)}
    return a_recorder(service.send, counters, **(bounds | options))


def put(recorder: Recorder, numbers: range) -> None:
    """Puts numbered records of three sessions."""
    for number in numbers:
        recorder.put(record_of(number, f"s{number % 3}"), f"s{number % 3}")


def left(directory: Path) -> list[Path]:
    """The records on disk."""
    return sorted(directory.rglob("*.record"), key=lambda file: file.name)


def failing(number: int, message: str) -> Callable[..., Any]:
    """A function that raises an OSError."""

    def fails(*_: object, **__: object) -> Any:
        raise OSError(number, message)

    return fails


def available() -> Outage:
    """A service that takes everything."""
    service = Outage()
    service.is_over = True
    return service


async def until(is_reached: Callable[[], object]) -> None:
    """Lets the event loop go on until then; fails when it takes too many turns."""
    for _ in range(20_000):
        if is_reached():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


@pytest.mark.parametrize(("length", "most"), [(600_000, 2), (10, 64)])
def test_a_few_records_are_loaded_at_once_and_fewer_where_they_are_long(
    length: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others get their turn in between."""
    # Of one session, so that none but the first is sent before all are loaded.
    records = [record_of(number, "s") + b" " * length for number in range(200 if most > 2 else 10)]
    left_by_a_dead_worker(tmp_path, *records)
    loads: list[int] = []
    load = Spool.load
    turns = 0

    def noted(spool: Spool) -> Any:
        loads.append(turns)
        return load(spool)

    monkeypatch.setattr(Spool, "load", noted)

    async def main() -> None:
        nonlocal turns
        recorder = a_spooling_recorder(available(), tmp_path, most_records=300, most_spooled=100_000_000)
        recorder.start()
        while len(loads) < len(records):
            await asyncio.sleep(0)
            turns += 1
        await recorder.flush(5)

    asyncio.run(main())
    # Now and then two senders load in one turn.
    assert most <= max(map(loads.count, loads)) <= 2 * most


def test_records_that_cannot_be_read_for_a_moment_are_sent_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left_by_a_dead_worker(tmp_path, *[record_of(number, f"s{number % 3}") for number in range(30)])
    service, counters = available(), Counters()

    async def main() -> None:
        recorder = a_spooling_recorder(service, tmp_path, counters)
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", failing(errno.EMFILE, "Too many open files"))
            recorder.start()
            await asyncio.sleep(0.01)
        assert len(left(tmp_path)) == 30
        await recorder.flush(20)

    asyncio.run(main())
    assert_in_order(service.taken, range(30))
    assert counters.snapshot() == {"records_delivered": 30}
    assert "cannot be read from SPOOL_DIR, tried again: Too many open files" in caplog.text


def test_what_is_on_disk_is_told_until_it_is_delivered(tmp_path: Path) -> None:
    service, counters = Outage(), Counters()

    async def main() -> None:
        recorder = a_spooling_recorder(service, tmp_path, counters)
        put(recorder, range(30))
        levels = counters.levels()
        assert levels["spooled_entries"] == len(left(tmp_path)) > 0
        assert levels["spooled_bytes"] == sum(file.stat().st_size for file in left(tmp_path))
        service.is_over = True
        await recorder.flush(20)

    asyncio.run(main())
    assert (counters.levels()["spooled_entries"], counters.levels()["spooled_bytes"]) == (0, 0)


def test_files_that_are_gone_or_damaged_are_counted_and_the_others_are_sent(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, *[record_of(number, f"s{number % 3}") for number in range(150)])
    files = left(tmp_path)
    files[1].write_bytes(b"")
    # More than are loaded at a time.
    for file in files[2:100]:
        file.write_bytes(b"\0" * file.stat().st_size)
    service, counters = available(), Counters()

    async def main() -> None:
        recorder = a_spooling_recorder(service, tmp_path, counters)
        recorder.start()
        files[0].unlink()
        await until(lambda: len(service.taken) == 50)
        await recorder.flush(5)

    asyncio.run(main())
    assert sorted(number_of(record) for record in service.taken) == list(range(100, 150))
    assert counters.snapshot() == {"records_delivered": 50, "records_dropped": 100}
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_worker_left_is_sent_when_its_directory_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_dead_worker(tmp_path, *[record_of(number, f"s{number % 3}") for number in range(30)])
    service, counters = available(), Counters()
    real = spool_module.shutil.rmtree

    def rmtree(path: Any, *args: Any, **options: Any) -> None:
        if not options.get("ignore_errors"):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real(path, *args, **options)

    monkeypatch.setattr(spool_module.shutil, "rmtree", rmtree)

    async def main() -> None:
        recorder = a_spooling_recorder(service, tmp_path, counters)
        recorder.start()
        await recorder.flush(20)

    asyncio.run(main())
    assert_in_order(service.taken, range(30))
    assert left(tmp_path) == []


class TestEnd:
    """A worker that stops."""

    def test_the_event_loop_goes_on_between_two_writes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        turn, now = 0, 0.0
        written_in: list[int] = []

        async def beat() -> None:
            nonlocal turn
            while True:
                turn += 1
                await asyncio.sleep(0)

        async def main() -> None:
            recorder = a_spooling_recorder(Outage(), tmp_path, most_records=100, clock=lambda: now)
            real = recorder._spool.keep

            def keep(*arguments: Any) -> Path:
                nonlocal now
                now += 0.011
                written_in.append(turn)
                return real(*arguments)

            monkeypatch.setattr(recorder._spool, "keep", keep)
            put(recorder, range(50))
            beating = asyncio.create_task(beat())
            await recorder.flush(0.05)
            beating.cancel()

        asyncio.run(main())
        assert len(written_in) == len(set(written_in)) == 50
        assert len(left(tmp_path)) == 50

    @pytest.mark.parametrize(("seconds", "most"), [(5.0, 5), (0.0, 1)])
    def test_a_disk_that_takes_longer_than_there_is_time_for_loses_the_oldest(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        seconds: float,
        most: int,
    ) -> None:
        now, counters = 0.0, Counters()
        monkeypatch.setattr(recorder_module, "_DISK_SECONDS_AT_THE_END", 1.0)

        async def silent(_: bytes) -> Outcome:
            await asyncio.Event().wait()
            return DELIVERED

        async def main() -> None:
            recorder = a_spooling_recorder(Outage(), tmp_path, counters, most_records=100, clock=lambda: now)
            recorder._send = silent
            real = recorder._spool.keep

            def keep(*arguments: Any) -> Path:
                nonlocal now
                now += 1.0
                return real(*arguments)

            monkeypatch.setattr(recorder._spool, "keep", keep)
            put(recorder, range(20))
            flushing = asyncio.create_task(recorder.flush(seconds))
            await until(lambda: now >= most)
            for sender in tuple(recorder._senders):
                sender.cancel()
            await flushing

        asyncio.run(main())
        assert [number_of(file.read_bytes()) for file in left(tmp_path)] == list(range(20 - most, 20))
        assert counters.snapshot() == {"records_spooled": most, "records_dropped": 20 - most}
        assert f"{20 - most} record(s) dropped: not delivered before the shutdown" in caplog.text

    @pytest.mark.parametrize("seed", range(5))
    def test_what_is_delivered_meanwhile_is_not_left_on_disk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
    ) -> None:
        """Some records are taken before they would be written, some after it, some never."""
        monkeypatch.setattr(recorder_module, "_SECONDS_OF_A_TURN", 0.0)
        service = Outage()
        answers = itertools.count(seed)

        async def send(record: bytes) -> Outcome:
            for _ in range(next(answers) % 7):
                await asyncio.sleep(0)
            if next(answers) % 5 == 0:
                return RETRY
            if len(service.taken) > 120:
                await asyncio.Event().wait()
            service.taken.append(record)
            return DELIVERED

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, most_records=500)
            recorder._send = send
            put(recorder, range(200))
            await recorder.flush(0.5)

        asyncio.run(main())
        assert_in_order([*service.taken, *(file.read_bytes() for file in left(tmp_path))], range(200))
        assert service.taken

    def test_without_time_all_goes_to_disk(self, tmp_path: Path) -> None:
        async def main() -> None:
            recorder = a_spooling_recorder(Outage(), tmp_path, most_records=100)
            put(recorder, range(50))
            await recorder.flush(-1)

        asyncio.run(main())
        assert len(left(tmp_path)) == 50

    def test_what_had_no_room_on_disk_is_stored_when_there_is_some(self, tmp_path: Path) -> None:
        service = Outage()

        async def send(record: bytes) -> Outcome:
            await asyncio.sleep(0)
            if number_of(record) >= 20:
                return RETRY
            service.taken.append(record)
            return DELIVERED

        async def main() -> None:
            recorder = a_spooling_recorder(
                service, tmp_path, most_records=100, most_spooled=12 * len(record_of(10, "s0"))
            )
            recorder._send = send
            put(recorder, range(10, 30))
            await recorder.flush(0.5)

        asyncio.run(main())
        assert_in_order([*service.taken, *(file.read_bytes() for file in left(tmp_path))], range(10, 30))


class TestReadOnlyDisk:
    """A disk that nothing can be deleted from any more."""

    def test_all_records_are_delivered_all_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, counters = Outage(), Counters()
        broken: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda _, context: broken.append(context))
            recorder = a_spooling_recorder(service, tmp_path, counters)
            put(recorder, range(100))
            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", failing(errno.EROFS, "Read-only file system"))
                patch.setattr(spool_module.shutil, "rmtree", lambda *_, **__: None)
                service.is_over = True
                await recorder.flush(20)

        asyncio.run(main())
        assert_in_order(service.taken, range(100))
        assert broken == []
        assert counters.snapshot()["records_delivered"] == 100
        assert caplog.text.count("Read-only file system") == 1

    def test_what_is_dropped_is_counted_and_put_does_not_raise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counters = Counters()

        async def main() -> None:
            recorder = a_spooling_recorder(Outage(), tmp_path, counters, most_spooled=20 * len(record_of(100, "s1")))
            put(recorder, range(100, 126))
            with monkeypatch.context() as patch:
                patch.setattr(Path, "unlink", failing(errno.EROFS, "Read-only file system"))
                put(recorder, range(126, 176))
            held = len(recorder._waiting.all()) + len(recorder._spool)
            assert held + counters.snapshot()["records_dropped"] == 76
            await recorder.flush(0)

        asyncio.run(main())


class TestBounds:
    """What memory and disk may hold."""

    def test_loading_stops_at_the_bound_of_bytes(self, tmp_path: Path) -> None:
        size = len(record_of(100, "s1"))
        left_by_a_dead_worker(tmp_path, *[record_of(number, f"s{number}") for number in range(100, 200)])
        service = Outage()
        most = 0

        async def main() -> None:
            nonlocal most
            recorder = a_spooling_recorder(service, tmp_path, most_records=1_000, most_bytes=4 * size + size // 2)
            recorder.start()
            for _ in range(200):
                await asyncio.sleep(0)
                most = max(most, recorder._waiting.bytes)
            # Those that are put back after an attempt come on top, one for each sender.
            assert 0 < most <= (4 + 16) * size + size // 2
            service.is_over = True
            await recorder.flush(20)

        asyncio.run(main())
        assert len(service.taken) == 100

    def test_a_record_above_the_bound_of_bytes_is_loaded_all_the_same(self, tmp_path: Path) -> None:
        left_by_a_dead_worker(tmp_path, *[record_of(number, "s1") for number in range(5)])
        service = available()

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, most_bytes=10)
            recorder.start()
            await recorder.flush(20)

        asyncio.run(main())
        assert [number_of(record) for record in service.taken] == list(range(5))

    @pytest.mark.parametrize("answer", ["none", "a failure"])
    def test_a_busy_session_on_disk_does_not_hold_up_those_behind_it(self, tmp_path: Path, answer: str) -> None:
        busy = [record_of(number, "busy") for number in range(200)]
        left_by_a_dead_worker(tmp_path, *busy, *[record_of(number, f"s{number}") for number in range(200, 210)])
        service = Outage()

        async def send(record: bytes) -> Outcome:
            await asyncio.sleep(0)
            if number_of(record) < 200 and answer == "none":
                await asyncio.Event().wait()
            if number_of(record) < 200:
                return RETRY
            service.taken.append(record)
            return DELIVERED

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, most_records=1_000)
            recorder._send = send
            recorder.start()
            await until(lambda: len(service.taken) == 10)
            await recorder.flush(0)

        asyncio.run(main())
        assert sorted(number_of(record) for record in service.taken) == list(range(200, 210))

    def test_a_lowered_bound_of_the_disk_does_not_keep_what_is_there_from_being_sent(self, tmp_path: Path) -> None:
        left_by_a_dead_worker(
            tmp_path, record_of(0, "s0" * 4_000), *[record_of(number, "s1") for number in range(1, 9)]
        )
        service = available()

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, most_spooled=3_000)
            recorder.start()
            await recorder.flush(20)

        asyncio.run(main())
        assert [number_of(record) for record in service.taken] == list(range(9))
        assert left(tmp_path) == []

    def test_a_record_that_no_disk_has_room_for_pushes_nothing_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        service, counters = Outage(), Counters()

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, counters, most_spooled=3_000)
            put(recorder, range(10))
            recorder.put(b"x" * 3_001)
            assert counters.snapshot()["records_dropped"] == 1
            service.is_over = True
            await recorder.flush(20)

        asyncio.run(main())
        assert_in_order(service.taken, range(10))
        assert "1 record(s) dropped: it is larger than MAX_SPOOLED_BYTES" in caplog.text

    def test_only_the_oldest_goes_when_all_that_fills_the_disk_is_being_sent(self, tmp_path: Path) -> None:
        service, counters, answered = available(), Counters(), asyncio.Event()
        most = 3 * len(record_of(10, "10"))
        earlier = Spool(str(tmp_path), most)
        for number in range(10, 13):
            earlier.add(record_of(number, str(number)), number)
        earlier.close()

        async def send(record: bytes) -> Outcome:
            service.attempts += 1
            await answered.wait()
            service.taken.append(record)
            return DELIVERED

        async def main() -> None:
            recorder = a_spooling_recorder(service, tmp_path, counters, most_spooled=most, most_records=1)
            recorder._send = send
            recorder.start()
            await until(lambda: service.attempts == 3)
            for number in range(13, 15):
                recorder.put(record_of(number, "10"), "10")
            answered.set()
            await recorder.flush(20)

        asyncio.run(main())
        assert len(service.taken) == 4
        assert counters.snapshot()["records_dropped"] == 1

    def test_memory_does_not_grow_by_long_records_that_come_from_a_full_disk(self, tmp_path: Path) -> None:
        short, long = record_of(1, "s"), record_of(2, "s" * 2_000)
        counters = Counters()

        async def main() -> None:
            recorder = a_spooling_recorder(
                Outage(), tmp_path, counters, most_spooled=5 * len(long), most_records=20, most_bytes=20 * len(short)
            )
            for _ in range(20):
                recorder.put(short)
            for _ in range(50):
                recorder.put(long)
            assert recorder._waiting.bytes <= max(20 * len(short), len(long))
            held = len(recorder._waiting.all()) + len(recorder._spool)
            assert held + counters.snapshot()["records_dropped"] == 70
            await recorder.flush(0)

        asyncio.run(main())


def test_a_record_that_comes_back_from_disk_keeps_its_age(tmp_path: Path) -> None:
    """It goes to disk once more at the end, among younger ones that never left it."""
    size = len(record_of(10, "only"))

    async def main() -> None:
        recorder = a_spooling_recorder(Outage(), tmp_path, most_records=5, most_spooled=6 * size)
        for number in range(10, 23):
            recorder.put(record_of(number, "only"), "only")
        assert recorder._spool is not None
        recorder._spool.most_bytes = _ROOMY
        await recorder.flush(0)

    asyncio.run(main())
    # The first two made room for the last two: two that were on disk are in memory.
    assert [number_of(file.read_bytes()) for file in left(tmp_path)] == list(range(12, 23))


def test_a_clock_that_is_set_back_does_not_change_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = waiting_module.time.time_ns()
    times = (now + 10**9 - number * 10**6 for number in itertools.count())
    monkeypatch.setattr(waiting_module.time, "time_ns", lambda: next(times))

    async def main() -> None:
        recorder = a_spooling_recorder(Outage(), tmp_path)
        put(recorder, range(30))
        await recorder.flush(0)

    asyncio.run(main())
    assert [number_of(file.read_bytes()) for file in left(tmp_path)] == list(range(30))
