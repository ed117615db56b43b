"""When Akto is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from akto_guardrails.breaker import Breaker
from akto_guardrails.counters import Counters


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def opened(clock: Clock, counters: Counters | None = None) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker(counters or Counters(), clock)
    assert [breaker.failed(breaker.era) for _ in range(5)] == [False] * 4 + [True]
    return breaker


def test_it_is_closed_at_first_and_after_four_failures(clock: Clock) -> None:
    breaker = Breaker(Counters(), clock)
    for _ in range(4):
        assert breaker.admits()
        breaker.failed(breaker.era)
    assert breaker.admits()


def test_open_it_admits_one_call_a_second(clock: Clock) -> None:
    breaker = opened(clock)
    admitted = []
    for _ in range(40):
        admitted.append(breaker.admits())
        clock.now += 0.125
    assert admitted.index(True) == 8
    assert sum(admitted) == 4


def test_a_probe_that_fails_or_never_comes_back_keeps_it_open(clock: Clock) -> None:
    breaker = opened(clock)
    clock.now += 1.5
    assert breaker.admits()
    assert not breaker.failed(breaker.era)
    assert not breaker.admits()
    clock.now += 1.5
    assert breaker.admits(), "the first probe may still be waiting for its time-out"


def test_a_success_closes_it_and_five_further_failures_open_it_again(clock: Clock) -> None:
    counters = Counters()
    breaker = opened(clock, counters)
    breaker.succeeded()
    assert breaker.admits()
    assert [breaker.failed(breaker.era) for _ in range(5)][-1]
    assert counters.snapshot() == {"breaker_closed": 1, "breaker_opened": 2}


def test_calls_from_before_a_success_do_not_open_it_again(clock: Clock) -> None:
    breaker = opened(clock)
    hanging = breaker.era
    breaker.succeeded()
    assert not any(breaker.failed(hanging) for _ in range(10))
    assert [breaker.failed(breaker.era) for _ in range(5)] == [False] * 4 + [True]


def test_opening_and_closing_are_one_line_each(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    breaker = opened(clock)
    for _ in range(10):
        breaker.failed(breaker.era)
        breaker.admits()
    clock.now += 61
    breaker.succeeded()
    breaker.succeeded()
    first, last = (line.getMessage() for line in caplog.records)
    assert "failed 5 times in a row" in first
    assert "after 61 s, in which 10 checks were not made" in last
