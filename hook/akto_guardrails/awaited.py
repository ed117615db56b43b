"""Exchanges whose request has ended before a hook of LiteLLM brought the answer.

It may still come: LiteLLM logs some answers after they were sent, closes some streams late, and works on for some
clients that have gone. It may also never come, since what is cancelled calls no hook.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Final

from akto_guardrails.exchange import Key

_PAUSE: Final = 5.0


class AwaitedAnswers:
    """The marks of such exchanges, each with the status of its record and the time to give up waiting.

    `give_up` gets a mark and its status then.
    """

    def __init__(self, give_up: Callable[[Key, int], None]) -> None:
        self._give_up = give_up
        self._waiting: dict[Key, tuple[float, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, key: Key, status: int, seconds: float) -> None:
        """Waits so long for the answer."""
        self._waiting[key] = (asyncio.get_running_loop().time() + seconds, status)
        self._look_later()

    def status_of(self, key: Key, status: int) -> int:
        """The status of the exchange whose answer has come with `status`; it is not waited for any more."""
        waiting = self._waiting.pop(key, None)
        return status if waiting is None or status != 200 else waiting[1]

    def close(self) -> None:
        """Gives up at once."""
        if self._timer is not None:
            self._timer.cancel()
        self._give_up_before(float("inf"))

    def _look_later(self) -> None:
        if self._timer is None:
            # In a context of its own: that of the running request would be kept alive with all that is in it.
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self._look, context=Context())

    def _look(self) -> None:
        self._timer = None
        self._give_up_before(asyncio.get_running_loop().time())
        if self._waiting:
            self._look_later()

    def _give_up_before(self, time: float) -> None:
        for key, (deadline, status) in list(self._waiting.items()):
            if deadline <= time:
                del self._waiting[key]
                self._give_up(key, status)
