"""Stops asking Akto while it is down, so that not every request pays the time-out, and asks again by itself."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from akto_guardrails.counters import Counters

FAILURES_TO_OPEN: Final = 5
PROBE_SECONDS: Final = 1.0

_log: Final = logging.getLogger(__name__)


class Breaker:
    """Closed, calls go through. Open, one call in a second does, as a probe; the first success closes it.

    It opens after five failures with no success among them, so a payload that fails each time opens nothing while other
    traffic is judged. Where nothing else is judged, such a payload is itself without a verdict and gets the same
    fallback: whoever sends it gains nothing by opening the breaker. A probe is a real request. Several may be waiting
    for their time-out at once, so that recovery takes a second however long that is.

    Of calls that began before the last success a failure says nothing: those that were waiting while Akto came back
    still come to their time-out.
    """

    def __init__(self, counters: Counters, clock: Callable[[], float] = time.monotonic) -> None:
        self._counters = counters
        self._clock = clock
        self._failures = 0
        self._successes = 0
        self._opened: float | None = None
        self._next_probe = 0.0
        self._not_asked = 0
        counters.add_level("breaker_open", lambda: int(self.is_open))

    @property
    def is_open(self) -> bool:
        """Whether Akto is not asked but for a probe a second."""
        return self._opened is not None

    @property
    def era(self) -> int:
        """Another one after each success. The one in which a call began goes with its failure."""
        return self._successes

    def admits(self) -> bool:
        """Whether a call may be made now."""
        if self._opened is None:
            return True
        now = self._clock()
        if now < self._next_probe:
            self._not_asked += 1
            return False
        self._next_probe = now + PROBE_SECONDS
        return True

    def failed(self, era: int) -> bool:
        """Notes a failure of the service, of a call that began in `era`. Gives whether the breaker opened with it."""
        if era != self._successes:
            return False
        self._failures += 1
        if self._opened is not None or self._failures < FAILURES_TO_OPEN:
            return False
        self._opened = self._clock()
        self._next_probe = self._opened + PROBE_SECONDS
        self._not_asked = 0
        self._counters.add("breaker_opened")
        _log.warning(
            "Akto failed %d times in a row: it is asked once a second from now on, until it answers", self._failures
        )
        return True

    def succeeded(self) -> None:
        """Notes an answer with a verdict."""
        self._failures = 0
        self._successes += 1
        if self._opened is None:
            return
        seconds = self._clock() - self._opened
        self._opened = None
        self._counters.add("breaker_closed")
        _log.warning("Akto answers again after %.0f s, in which %d checks were not made", seconds, self._not_asked)
