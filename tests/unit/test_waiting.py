"""Records that wait: their age, and the order within sessions."""

from __future__ import annotations

from random import Random

import pytest

from akto_guardrails import waiting as waiting_module
from akto_guardrails.waiting import Entry, Waiting


def waiting(*sessions: str | None) -> tuple[Waiting, list[Entry]]:
    """One entry of 10 bytes for each session."""
    queue, entries = Waiting(), [Entry(b"x" * 10, session) for session in sessions]
    for entry in entries:
        queue.add(entry)
    return queue, entries


def test_entries_without_a_session_are_taken_oldest_first() -> None:
    queue, entries = waiting(None, None, None)
    assert [queue.take() for _ in range(4)] == [*entries, None]


def test_of_a_session_one_is_taken_at_a_time() -> None:
    queue, (first, second, other) = waiting("a", "a", "b")
    assert queue.take() is first
    assert queue.take() is other
    assert queue.take() is None
    queue.done(first)
    assert queue.take() is second


def test_one_that_is_put_back_is_the_oldest_and_keeps_its_session_waiting() -> None:
    queue, (first, second, other) = waiting("a", "a", "b")
    assert queue.take() is first
    queue.put_back(first)
    assert queue.take() is other, "others get their turn"
    assert queue.take() is first
    queue.put_back(first)
    assert queue.remove_oldest() is first
    assert queue.take() is second


def test_bytes_and_number_are_of_those_not_taken() -> None:
    queue, _ = waiting("a", "a", None)
    assert (len(queue), queue.bytes) == (3, 30)
    taken = queue.take()
    assert taken is not None
    assert (len(queue), queue.bytes) == (2, 20)
    queue.put_back(taken)
    assert (len(queue), queue.bytes) == (3, 30)


def test_what_is_in_there_is_what_waits_and_what_is_taken() -> None:
    queue, (first, second) = waiting("a", "a")
    assert first in queue and second in queue
    assert queue.take() is first
    assert first in queue
    queue.done(first)
    assert first not in queue
    queue.remove_oldest()
    assert second not in queue


def test_a_later_entry_is_younger_even_when_the_clock_was_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = Entry(b"").born
    times = iter([now + 5_000, now + 1_000, now + 1_000, now + 9_000])
    monkeypatch.setattr(waiting_module.time, "time_ns", lambda: next(times))
    ages = [Entry(b"").born for _ in range(4)]
    assert ages == [now + 5_000, now + 5_001, now + 5_002, now + 9_000]


def test_all_are_those_taken_too_in_the_order_of_their_age() -> None:
    queue, entries = waiting("a", None, "b", "a")
    queue.take()
    queue.take()
    assert queue.all() == entries


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_nothing_is_lost_or_doubled_and_sessions_keep_their_order(seed: int) -> None:
    random = Random(seed)
    queue = Waiting()
    entries: list[Entry] = []
    taken: list[Entry] = []
    gone: list[Entry] = []
    while len(gone) < 200:
        action = random.choice(["add", "take", "done", "back", "oldest"])
        if action == "add" and len(entries) < 200:
            entries.append(Entry(b"x", random.choice([None, "a", "b", "c"])))
            queue.add(entries[-1])
        elif action == "take" and (entry := queue.take()) is not None:
            assert all(entry.session is None or entry.session != other.session for other in taken)
            taken.append(entry)
        elif action == "done" and taken:
            gone.append(taken.pop(random.randrange(len(taken))))
            queue.done(gone[-1])
        elif action == "back" and taken:
            queue.put_back(taken.pop(random.randrange(len(taken))))
        elif action == "oldest" and len(queue) and random.random() < 0.3:
            gone.append(queue.remove_oldest())
        assert len(queue) + len(taken) + len(gone) == len(entries)
        assert queue.bytes == len(queue)
    assert not len(queue)
    assert len({entry.number for entry in gone}) == 200
    for session in ("a", "b", "c"):
        done = [entry.number for entry in gone if entry.session == session]
        # Only the oldest may go out of turn: while one of its session is taken.
        assert sorted(done) == sorted(entry.number for entry in entries if entry.session == session)
    assert not queue._behind
    assert not queue._ready
