"""Repeated log lines, and where lines go."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from akto_guardrails.log import RateLimited, set_up_logging


@pytest.fixture
def guard_logger() -> Iterator[logging.Logger]:
    """The guard's logger, put back as it was afterwards."""
    logger = logging.getLogger("akto_guardrails")
    before = (logger.level, logger.propagate, list(logger.handlers))
    yield logger
    logger.level, logger.propagate, logger.handlers = before[0], before[1], before[2]


def test_the_first_line_comes_at_once_and_the_next_after_half_a_minute_with_the_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = iter((1000.0, 1001.0, 1010.0, 1029.9, 1030.0, 1061.0))
    limited = RateLimited(logging.getLogger("test"), logging.WARNING, clock=lambda: next(times))
    for letter in "abbbcd":
        limited.log("failed: %s", letter)
    assert [line.getMessage() for line in caplog.records] == [
        "failed: a",
        "failed: c (3 more like it since the last line)",
        "failed: d",
    ]


def test_lines_of_the_guard_go_to_stderr_once(
    guard_logger: logging.Logger, capsys: pytest.CaptureFixture, caplog: pytest.LogCaptureFixture
) -> None:
    guard_logger.handlers = []
    set_up_logging()
    set_up_logging()
    logging.getLogger("akto_guardrails.guard").info("GuardrailsHandler initialized")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("INFO akto-guardrails: GuardrailsHandler initialized")
    assert caplog.records == [], "LiteLLM's own handlers would print it a second time"


def test_the_last_count_is_logged_without_a_further_event(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("akto_guardrails.log._SUMMARY_SECONDS", 0.05)

    async def main() -> None:
        limited = RateLimited(logging.getLogger("test"), logging.WARNING)
        limited.log("%d dropped", 1)
        limited.log("%d dropped", 1, amount=1)
        limited.log("%d dropped", 5, amount=5)
        await asyncio.sleep(0.2)

    asyncio.run(main())
    assert [line.getMessage() for line in caplog.records] == [
        "1 dropped",
        "5 dropped (1 more like it since the last line)",
    ]
