"""The turns of a conversation over one WebSocket: each is an exchange of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from akto_guardrails.exchange import Key
from akto_guardrails.guard import CLIENT_LEFT, Guard, Refusal
from akto_guardrails.identity import KeyHolder
from akto_guardrails.json_text import parsed_json
from akto_guardrails.socket_guard import RefusedTurn
from akto_guardrails.streaming import StreamedAnswer, status_of_error

# The message that asks for an answer.
_TURN: Final = "response.create"
_LAST_EVENTS: Final = ("response.completed", "response.failed", "response.incomplete")


class Turns:
    """Checks what a client sends, and records it with what it is answered; answers come in the order of the turns."""

    def __init__(self, guard: Guard, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        """`data`, `key`, `call_type`: what the pre-call hook was given for the connection."""
        self._guard = guard
        self._data = data
        self._key = key
        self._call_type = call_type
        self._open: deque[Key] = deque()
        self._answer = StreamedAnswer()

    async def check(self, event: dict[str, Any]) -> None:
        """Checks a message of the client and masks text in it. Raises `RefusedTurn`."""
        try:
            turn = await self._guard.check_turn(event, self._data, self._key, self._call_type)
        except Refusal as refusal:
            raise RefusedTurn(refusal.message) from None
        if turn is None:
            return
        if event.get("type") == _TURN:
            self._open.append(turn)
        else:
            # Nothing is answered to it.
            self._guard.finished_exchange(turn, None, 200)

    def sent(self, data: str) -> None:
        """Notes an event that goes to the client."""
        event = _parsed(data) if self._open else None
        if event is None:
            return
        kind = event.get("type")
        if kind == "error":
            self._finish(status_of_error(event) or 500, event)
            return
        try:
            self._answer.add(event)
        except Exception as error:  # noqa: BLE001 - what cannot be read for the record must not break the connection
            self._guard.note_internal_error(error)
        if kind in _LAST_EVENTS:
            self._finish(self._answer.error_status or 200)

    def end(self) -> None:
        """The client has gone, or the connection is over. May be called again."""
        while self._open:
            self._finish(CLIENT_LEFT)

    def _finish(self, status: int, error: Mapping[str, object] | None = None) -> None:
        """The answer that was being sent has come to its end, with an `error` in place of the rest."""
        turn = self._open.popleft()
        answer, self._answer = self._answer, StreamedAnswer()
        try:
            body = answer.body()
            if error is not None:
                body = {**(body if isinstance(body, dict) else {}), **error}
            self._guard.finished_exchange(turn, body, status)
        except Exception as failure:  # noqa: BLE001 - a record that cannot be made must not break the connection
            self._guard.note_internal_error(failure)


def _parsed(data: str) -> dict[str, Any] | None:
    """The event in `data`; None when it is none."""
    try:
        event = parsed_json(data)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
