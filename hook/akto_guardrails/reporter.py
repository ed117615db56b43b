"""Shows the counters while a worker runs: as metrics where LiteLLM serves some, else as one line a minute in the log.

`doctor` reads them from a file of the worker, in a directory that its user alone can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson

from akto_guardrails.counters import Counters
from akto_guardrails.metrics import Metrics

_LEVEL_SECONDS: Final = 5.0
_LEVELS_A_LINE: Final = 12

_log: Final = logging.getLogger(__name__)


class Reporter:
    """The report of one worker."""

    def __init__(self, counters: Counters, directory: Path | None = None) -> None:
        self._counters = counters
        self._metrics: Metrics | None = None
        self._file = (directory or reports_directory(tempfile.gettempdir())) / f"{os.getpid()}.json"
        self._since = time.time()
        self._written: dict[str, object] | None = None
        self._logged: dict[str, object] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self, metrics: Metrics | None) -> None:
        """Begins to report. Must be called on the event loop."""
        self._metrics = metrics
        if metrics is not None:
            self._counters.watch(metrics)
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Ends that, and takes the file away."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)

    async def _run(self) -> None:
        while True:
            for _ in range(_LEVELS_A_LINE):
                if self._metrics is not None:
                    self._metrics.set_levels(self._counters)
                self._write()
                await asyncio.sleep(_LEVEL_SECONDS)
            self._log_changes()

    def _log_changes(self) -> None:
        """One line, if anything was counted since the last, or since the start."""
        counts = self._counters.report()
        is_unused = not self._logged and not self._counters.snapshot() and not any(self._counters.levels().values())
        if self._metrics is None and counts != self._logged and not is_unused:
            _log.info("counters | %s", orjson.dumps(counts).decode())
        self._logged = counts

    def _write(self) -> None:
        """The report for `doctor`, if anything has changed. Where nothing can be written there is none."""
        counts = self._counters.report()
        if counts == self._written:
            return
        self._written = counts
        report = orjson.dumps({"pid": os.getpid(), "since": self._since, "counters": counts})
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            if self._file.parent.stat().st_uid == os.getuid():
                partial = self._file.with_suffix(".new")
                partial.write_bytes(report)
                partial.replace(self._file)


def reports_directory(temporary: str) -> Path:
    """Where the workers of this user report, in a directory for temporary files."""
    return Path(temporary) / f"guarded-litellm-reports-{os.getuid()}"


def reports(directory: Path) -> Iterator[dict[str, Any]]:
    """What the workers that are running reported last: `pid`, `since` (seconds of the epoch) and `counters`."""
    for file in sorted(directory.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            if Path(f"/proc/{file.stem}").exists():
                yield orjson.loads(file.read_bytes())
