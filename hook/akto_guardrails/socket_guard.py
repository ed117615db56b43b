"""The WebSocket of a client, of whose messages LiteLLM reads none that was not checked.

LiteLLM 1.106.2 calls its pre-call hook once for a connection, and reads later messages with `receive_text` alone.
1.110.2 also calls it for each turn that was read, but not for events of other kinds, which may carry text as well.
"""

from __future__ import annotations

import json
from typing import Any, Protocol


class RefusedTurn(Exception):
    """A message must not be read; the text of the exception is for the client."""


class Conversation(Protocol):
    """Who is told about messages and events."""

    async def check(self, event: dict[str, Any]) -> None:
        """Makes of a message of the client what may be read in its place. Raises `RefusedTurn`."""

    def sent(self, data: str) -> None:
        """An event goes to the client."""

    def end(self) -> None:
        """The client has gone."""


class GuardedSocket:
    """Stands in for Starlette's WebSocket: everything but reading and writing text is passed on to it."""

    def __init__(self, socket: Any, first: str | None, conversation: Conversation) -> None:
        """`first`: a message that was read already."""
        self._socket = socket
        self._first = first
        self._conversation = conversation

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    async def receive_text(self) -> str:
        """The next message that may be read; the client is told about those that may not."""
        while True:
            message = await self._next()
            try:
                event = json.loads(message)
                if not isinstance(event, dict):
                    raise RefusedTurn("a message has to be a JSON object")
                await self._conversation.check(event)
            except (RefusedTurn, ValueError, RecursionError) as refused:
                await self._socket.send_text(_error_event(refused))
            else:
                # Written anew: of two entries with one name, only the checked one is left.
                return json.dumps(event, ensure_ascii=False)

    async def send_text(self, data: str) -> None:
        """Sends one event to the client."""
        self._conversation.sent(data)
        await self._socket.send_text(data)

    async def _next(self) -> str:
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return str(await self._socket.receive_text())
        except BaseException:  # the client has gone or the connection is cancelled: noted, and passed on
            self._conversation.end()
            raise


def _error_event(refused: Exception) -> str:
    message = str(refused) if isinstance(refused, RefusedTurn) else "a message has to be JSON"
    return json.dumps({"type": "error", "error": {"type": "permission_error", "code": "403", "message": message}})
