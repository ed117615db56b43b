"""The guard's log lines: where they go, and how repeated ones are summed up.

Never in a line, at any level: prompts, answers, tool arguments, tokens, header values.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Final

_NAME: Final = "akto_guardrails"
_SUMMARY_SECONDS: Final = 30.0
_LEVELS: Final = {"DEBUG": logging.DEBUG, "WARNING": logging.WARNING, "ERROR": logging.ERROR}


def set_up_logging() -> None:
    """Sends the guard's lines to stderr; LiteLLM leaves loggers other than its own without a handler.

    From INFO on, or from what LITELLM_LOG says, as LiteLLM's own.
    """
    logger = logging.getLogger(_NAME)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s akto-guardrails: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(_LEVELS.get(os.environ.get("LITELLM_LOG", "").strip().upper(), logging.INFO))
    logger.propagate = False


def log_as(formatter: logging.Formatter) -> None:
    """Has the guard's lines look as `formatter` makes them: LiteLLM's, where it logs in JSON."""
    for handler in logging.getLogger(_NAME).handlers:
        handler.setFormatter(formatter)


class RateLimited:
    """Logs the first of a run of like events at once and then at most one line in 30 s, with the count since.

    On an event loop the last count is logged when no further event comes.
    """

    def __init__(self, logger: logging.Logger, level: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._level = level
        self._clock = clock
        self._next = float("-inf")
        self._held_back = 0
        self._last: tuple[str, tuple[object, ...], int, Mapping[str, object] | None] = ("", (), 0, None)
        self._timer: asyncio.TimerHandle | None = None

    def log(self, message: str, *arguments: object, amount: int = 1, extra: Mapping[str, object] | None = None) -> None:
        """Logs `message` now, or counts it, as `amount` events, for the next line. `extra`: fields of a JSON line."""
        now = self._clock()
        if now < self._next:
            self._held_back += amount
            self._last = message, arguments, amount, extra
            self._remember(self._next - now)
            return
        self._log_now(now, message, arguments, extra)

    def _log_now(
        self, now: float, message: str, arguments: tuple[object, ...], extra: Mapping[str, object] | None
    ) -> None:
        suffix = f" ({self._held_back} more like it since the last line)" if self._held_back else ""
        self._logger.log(self._level, message + suffix, *arguments, extra=extra)
        self._next = now + _SUMMARY_SECONDS
        self._held_back = 0

    def _remember(self, seconds: float) -> None:
        if self._timer is not None:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._timer = loop.call_later(seconds, self._log_the_rest)

    def _log_the_rest(self) -> None:
        self._timer = None
        if self._held_back:
            message, arguments, amount, extra = self._last
            self._held_back -= amount
            self._log_now(self._clock(), message, arguments, extra)
