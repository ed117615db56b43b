"""Gives back to the system the memory that long requests took, and many records that waited.

glibc keeps what was freed for the next ones. After prompts of 200 kB, 16 at once, a worker kept 56 MiB that way; with
`malloc_trim` it keeps 2, for 0.1 to 8 ms each time (glibc 2.41, LiteLLM 1.106.2). After outages of Akto, of which
thousands of records were left waiting, it kept 36 MiB, and keeps 10 then.
"""

from __future__ import annotations

import asyncio
import ctypes
from collections.abc import Callable
from contextvars import Context
from typing import Final

# Shorter blocks are used again by LiteLLM's own work.
_LONG: Final = 65_536
_PAUSE: Final = 5.0


class FreedMemory:
    """Has `trim` called some seconds after a lot was used, and no more often than that.

    `in_use`: how many bytes still are; as long as that is a lot, it is called again.
    """

    def __init__(
        self, trim: Callable[[], object] | None, in_use: Callable[[], int] = lambda: 0, pause: float = _PAUSE
    ) -> None:
        self._trim = trim
        self._in_use = in_use
        self._pause = pause
        self._timer: asyncio.TimerHandle | None = None

    def used(self, size: int) -> None:
        """So many bytes are about to be free again. Must be called on the event loop."""
        if size >= _LONG and self._trim is not None and self._timer is None:
            # In a context of its own: that of the running request would be kept alive with all that is in it.
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._give_back, context=Context())

    def _give_back(self) -> None:
        self._timer = None
        if self._trim is not None:
            self._trim()
            self.used(self._in_use())


def trim_of_the_c_library() -> Callable[[], object] | None:
    """glibc's `malloc_trim`; None where the C library has none, like musl."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return None if trim is None else lambda: trim(ctypes.c_size_t(0))
