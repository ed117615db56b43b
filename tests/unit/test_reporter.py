"""What a worker reports while it runs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from akto_guardrails import reporter as module
from akto_guardrails.counters import Counters
from akto_guardrails.reporter import Reporter, reports, reports_directory


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEVEL_SECONDS", 0.01)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The lines of the reporter."""
    logger = logging.getLogger("akto_guardrails")
    propagate, logger.propagate = logger.propagate, True
    with caplog.at_level(logging.INFO):
        yield caplog
    logger.propagate = propagate


def run(counters: Counters, directory: Path, seconds: float) -> list[dict[str, object]]:
    """Lets a reporter run; gives what could be read of it meanwhile."""

    async def main() -> list[dict[str, object]]:
        reporter = Reporter(counters, directory)
        reporter.start(None)
        await asyncio.sleep(seconds)
        found = [report["counters"] for report in reports(directory)]
        await reporter.stop()
        return found

    return asyncio.run(main())


def test_one_line_with_all_numbers_and_none_when_nothing_has_changed(
    tmp_path: Path, lines: pytest.LogCaptureFixture
) -> None:
    counters = Counters()
    counters.add("checks_allow", 3)
    counters.add_level("breaker_open", lambda: 1)
    run(counters, tmp_path, 0.5)
    texts = [line.getMessage() for line in lines.records]
    assert len(texts) == 1
    numbers = json.loads(texts[0].removeprefix("counters | "))
    assert numbers == {"checks_allow": 3, "breaker_open": 1, "check_seconds": {"sum": 0.0}}


def test_a_worker_without_requests_logs_no_zeros(tmp_path: Path, lines: pytest.LogCaptureFixture) -> None:
    counters = Counters()
    counters.add_level("breaker_open", lambda: 0)
    run(counters, tmp_path, 0.5)
    assert lines.records == []


def test_the_file_is_there_while_the_worker_runs_and_only_then(tmp_path: Path) -> None:
    directory = reports_directory(str(tmp_path))
    counters = Counters()
    counters.add("checks_block")
    assert run(counters, directory, 0.1) == [{"checks_block": 1, "check_seconds": {"sum": 0.0}}]
    assert list(directory.iterdir()) == []
    assert directory.stat().st_mode & 0o777 == 0o700


def test_reports_of_workers_that_are_gone_or_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "999999999.json").write_text("{}")
    (tmp_path / "1.json").write_text("no JSON")
    assert list(reports(tmp_path)) == []
    assert list(reports(tmp_path / "nowhere")) == []


def test_a_place_where_nothing_can_be_written_is_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(Counters(), tmp_path / "file" / "below", 0.05) == []
