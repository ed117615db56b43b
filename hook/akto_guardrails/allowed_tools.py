"""Definitions of MCP tools that Akto has let pass a short while ago.

An agent may list the same tools for every task, a hundred at a time, and LiteLLM 1.110 shows the definition of a tool
once more before each call of it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Final

from akto_guardrails.exchange import Exchange

# How long a new policy of Akto's may go unnoticed for what was listed before it.
_SECONDS: Final = 60.0
_MOST: Final = 10_000


class AllowedTools:
    """For which agent and MCP server a definition was allowed, and until when it needs no further check."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # The oldest first.
        self._until: dict[bytes, float] = {}

    def has(self, exchange: Exchange) -> bool:
        """Whether this very definition was allowed for the same agent within the last minute."""
        return self._until.get(_digest_of(exchange), 0.0) > self._clock()

    def add(self, exchange: Exchange) -> None:
        """Notes that the definition in `exchange` was allowed as it is."""
        digest = _digest_of(exchange)
        self._until.pop(digest, None)
        self._until[digest] = self._clock() + _SECONDS
        if len(self._until) > _MOST:
            del self._until[next(iter(self._until))]


def _digest_of(exchange: Exchange) -> bytes:
    said = f"{exchange.identity.collection}\n{exchange.sent_payload}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).digest()
