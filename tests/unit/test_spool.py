"""Records on disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from akto_guardrails import spool as spool_module
from akto_guardrails.spool import Spool, Stored


def loaded(spool: Spool, most: int = 1_000) -> list[Stored]:
    """What is loaded of the records that are on disk now, without those that are lost."""
    found = [spool.load() for _ in range(min(most, len(spool)))]
    return [stored for stored in found if stored is not None]


def records_of(spool: Spool, most: int = 1_000) -> list[bytes]:
    """What is loaded, and forgotten as if it had been delivered."""
    found = loaded(spool, most)
    for stored in found:
        spool.remove(stored.file)
    return [stored.body for stored in found]


def left_by_a_dead_worker(directory: Path, *records: bytes, born: int = 0) -> None:
    """Stores `records` in a process that ends without closing anything."""
    process = multiprocessing.get_context("fork").Process(target=_die_with, args=(directory, records, born))
    process.start()
    process.join()
    assert process.exitcode == 9


def _die_with(directory: Path, records: tuple[bytes, ...], born: int) -> None:
    spool = Spool(str(directory), 1_000)
    for number, record in enumerate(records, start=born):
        spool.add(record, number)
    os._exit(9)


def test_records_come_back_in_their_order_and_then_are_gone(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    for number in range(30):
        spool.add(f"{number:02}".encode(), number)
    assert len(spool) == 30
    assert records_of(spool, 20) == [f"{number:02}".encode() for number in range(20)]
    assert records_of(spool) == [f"{number:02}".encode() for number in range(20, 30)]
    assert records_of(spool) == []
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_there_is_room_until_the_bound_and_again_once_records_are_forgotten(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 100)
    spool.add(b"a" * 80, 1)
    assert spool.has_room_for(b"b" * 20)
    assert not spool.has_room_for(b"b" * 21)
    (stored,) = loaded(spool)
    assert not spool.has_room_for(b"b" * 21), "not delivered yet"
    spool.remove(stored.file)
    assert not stored.file.exists()
    assert spool.has_room_for(b"b" * 100)


def test_nobody_else_can_read_them(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    spool.add(b"private", 1)
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_what_a_dead_worker_left_is_taken_over_in_the_order_of_age(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"2", b"3", born=2)
    left_by_a_dead_worker(tmp_path, b"1", born=1)
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()
    spool.add(b"4", 4)
    assert records_of(spool) == [b"1", b"2", b"3", b"4"]
    spool.close()
    assert list(tmp_path.iterdir()) == []


def test_a_living_worker_keeps_its_own(tmp_path: Path) -> None:
    alive = Spool(str(tmp_path), 1_000)
    alive.add(b"mine", 1)
    other = Spool(str(tmp_path), 1_000)
    other.take_over()
    assert len(other) == 0
    assert records_of(alive) == [b"mine"]


def test_looking_for_what_dead_workers_left_keeps_no_file_open(tmp_path: Path) -> None:
    alive, other = Spool(str(tmp_path), 1_000), Spool(str(tmp_path), 1_000)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        other.take_over()
    assert len(os.listdir("/proc/self/fd")) == before
    alive.close()
    other.close()


def test_what_one_worker_has_no_room_for_stays_until_it_has(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"a" * 60, b"b" * 60)
    spool = Spool(str(tmp_path), 100)
    spool.take_over()
    assert records_of(spool) == [b"a" * 60]
    assert records_of(spool) == [b"b" * 60]


def test_what_is_taken_over_takes_room(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"a" * 60, b"b" * 40)
    spool = Spool(str(tmp_path), 100)
    spool.take_over()
    assert len(spool) == 2, "as much as there is room for"
    assert not spool.has_room_for(b"c")


def test_a_record_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path), 1_000)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError):
        spool.add(b"record", 1)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["lock"]
    assert spool.has_room_for(b"r" * 1_000)
    assert len(spool) == 0


@pytest.mark.parametrize("length", [0, 3])
def test_a_half_written_file_is_not_sent(tmp_path: Path, length: int) -> None:
    left_by_a_dead_worker(tmp_path, b"whole", b"longer")
    (_, broken) = sorted(tmp_path.glob("worker-*/*.record"))
    broken.write_bytes(b"longer"[:length])
    (broken.parent / "x.partial").write_bytes(b"half")
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()
    assert records_of(spool) == [b"whole"]


def test_a_half_written_file_does_not_keep_what_comes_after_it_from_being_sent(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"1", b"2")
    first = min(tmp_path.glob("worker-*/*.record"))
    first.rename(first.with_suffix(".partial"))
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()
    assert records_of(spool) == [b"2"]


def test_a_file_that_vanished_is_lost_and_the_next_one_is_there(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    spool.add(b"1", 1)
    spool.add(b"2", 2)
    min(tmp_path.glob("worker-*/*.record")).unlink()
    assert spool.load() is None
    assert records_of(spool) == [b"2"]
    assert spool.has_room_for(b"r" * 1_000)


def test_a_record_that_cannot_be_read_now_stays_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path), 1_000)
    spool.add(b"1", 1)
    spool.add(b"2", 2)

    def fails(_: Path) -> bytes:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", fails)
        with pytest.raises(OSError):
            spool.load()
    assert records_of(spool) == [b"1", b"2"]


def test_a_record_keeps_its_age_on_disk(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    spool.add(b"1", 1_234)
    (stored,) = loaded(spool)
    assert stored.born == 1_234


def test_one_record_above_the_bound_is_taken_over_too_and_the_others_after_it(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"a" * 500, b"b" * 60, b"c" * 60)
    spool = Spool(str(tmp_path), 100)
    spool.take_over()
    assert spool.next_size == 500
    assert [records_of(spool) for _ in range(3)] == [[b"a" * 500], [b"b" * 60], [b"c" * 60]]


def test_what_is_taken_over_is_nobody_elses_until_its_new_worker_gives_it_up(tmp_path: Path) -> None:
    left_by_a_dead_worker(tmp_path, b"1", b"2")
    first, second = Spool(str(tmp_path), 1_000), Spool(str(tmp_path), 1_000)
    first.take_over()
    second.take_over()
    assert (len(first), len(second)) == (2, 0)
    first.remove(loaded(first, 1)[0].file)
    first.close()
    second.take_over()
    assert records_of(second) == [b"2"]
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_only_so_many_directories_are_taken_over_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "_MOST_DIRECTORIES", 2)
    for number in range(5):
        left_by_a_dead_worker(tmp_path, str(number).encode(), born=number)
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()
    portions = [records_of(spool) for _ in range(3)]
    assert [len(portion) for portion in portions] == [2, 2, 1]
    spool.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("broken", ["iterdir", "rmdir"])
def test_a_take_over_that_fails_half_way_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    left_by_a_dead_worker(tmp_path, b"1", b"2")
    (dead,) = tmp_path.iterdir()
    spool = Spool(str(tmp_path), 1_000)
    real_iterdir, real_rmdir = Path.iterdir, os.rmdir

    def iterdir(path: Path) -> Any:
        if path == dead:
            raise OSError(errno.EMFILE, "Too many open files")
        return real_iterdir(path)

    def rmdir(path: Any, **options: Any) -> None:
        if str(path).endswith(dead.name):
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        real_rmdir(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(*{"iterdir": (Path, "iterdir", iterdir), "rmdir": (os, "rmdir", rmdir)}[broken])
        spool.take_over()
        known = len(spool)
        if not known:
            spool.close()
    assert known or len(list(tmp_path.rglob("*.record"))) == 2
    last = Spool(str(tmp_path), 1_000) if not known else spool
    last.take_over()
    assert records_of(last) == [b"1", b"2"]


def test_a_directory_with_a_record_in_it_stays_whoever_put_it_there(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    (own,) = tmp_path.iterdir()
    (own / f"{1:020d}-0123456789ab-0-5.record").write_bytes(b"found")
    spool.close()
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()
    assert records_of(spool) == [b"found"]


def test_what_cannot_be_deleted_is_not_sent_again_by_the_same_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    left_by_a_dead_worker(tmp_path, b"1", b"2")
    spool = Spool(str(tmp_path), 1_000)
    spool.take_over()

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fails)
        assert records_of(spool) == [b"1", b"2"]
    spool.take_over()
    assert len(spool) == 0
    assert caplog.text.count("cannot be deleted, the next start will send it again: Permission denied") == 1
    spool.close()
    following = Spool(str(tmp_path), 1_000)
    following.take_over()
    assert len(following) == 2


def calls_of_a_take_over(directory: Path, records: int) -> int:
    """How many Python functions and generators run in the take-over of so many records."""
    directory.mkdir()
    left_by_a_dead_worker(directory, *[b"r"] * records)
    spool = Spool(str(directory), 1_000)
    calls = 0

    def count(_: object, event: str, __: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        spool.take_over()
    finally:
        sys.setprofile(None)
    assert len(spool) == records
    return calls


def test_a_take_over_of_four_times_as_much_takes_about_four_times_as_long(tmp_path: Path) -> None:
    few, many = calls_of_a_take_over(tmp_path / "few", 100), calls_of_a_take_over(tmp_path / "many", 400)
    assert many < 5 * few


def test_a_directory_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Spool(str(tmp_path / "missing"), 1_000)
