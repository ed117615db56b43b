"""Records on disk."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from akto_guardrails.spool import Spool


def records_of(spool: Spool, most: int = 1_000) -> list[bytes]:
    """What is loaded, and forgotten as if it had been delivered."""
    loaded = spool.load(most)
    for file, _ in loaded:
        spool.remove(file)
    return [record for _, record in loaded]


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
    ((file, _),) = spool.load(10)
    assert not spool.has_room_for(b"b" * 21), "not delivered yet"
    spool.remove(file)
    assert not file.exists()
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


def test_a_file_that_vanished_is_passed_over(tmp_path: Path) -> None:
    spool = Spool(str(tmp_path), 1_000)
    spool.add(b"1", 1)
    spool.add(b"2", 2)
    min(tmp_path.glob("worker-*/*.record")).unlink()
    assert records_of(spool) == [b"2"]


def test_a_directory_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        Spool(str(tmp_path / "missing"), 1_000)
