"""The turns of a conversation over one WebSocket: each is an exchange of its own."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from akto_guardrails.exchange import Key
from akto_guardrails.guard import CLIENT_LEFT, Guard, Refusal
from akto_guardrails.identity import KeyHolder
from akto_guardrails.socket_guard import RefusedTurn
from akto_guardrails.streaming import StreamedAnswer

# The message that asks for an answer.
_TURN: Final = "response.create"
_LAST_EVENTS: Final = ("response.completed", "response.failed", "response.incomplete", "error")


class Turns:
    """Checks what a client sends, and records it with what it is answered; answers come in the order of the turns."""

    def __init__(self, guard: Guard, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        """`data`, `key`, `call_type`: what the pre-call hook was given for the connection."""
        self._guard = guard
        self._data = data
        self._key = key
        self._call_type = call_type
        self._open: deque[Key] = deque()
        # The events of the answer that is being sent, as text.
        self._sent: list[str] = []

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
        if not self._open:
            return
        event = _last_event(data)
        if event is None or event["type"] != "error":
            self._sent.append(data)
        if event is not None:
            self._finish(lambda: self._said(event), 500 if event["type"] == "error" else 200)

    def end(self) -> None:
        """The client has gone, or the connection is over. May be called again."""
        while self._open:
            self._finish(self._said, CLIENT_LEFT)

    def _finish(self, answer: Callable[[], object], status: int) -> None:
        turn = self._open.popleft()
        try:
            self._guard.finished_exchange(turn, answer(), status)
        except Exception as error:  # noqa: BLE001 - a record that cannot be made must not break the connection
            self._guard.note_internal_error(error)

    def _said(self, last: Mapping[str, object] | None = None) -> object:
        """What was sent of the current answer, and its `last` event if it has come; None when nothing was sent."""
        answer = StreamedAnswer()
        sent, self._sent = self._sent, []
        for data in sent:
            for event in _parsed(data):
                answer.add(event)
        body = answer.body()
        return {**(body if isinstance(body, dict) else {}), **last} if last and last["type"] == "error" else body


def _last_event(data: str) -> dict[str, Any] | None:
    """The event in `data` if it ends an answer."""
    if any(f'"{kind}"' in data for kind in _LAST_EVENTS):
        return next((event for event in _parsed(data) if event.get("type") in _LAST_EVENTS), None)
    return None


def _parsed(data: str) -> Iterator[dict[str, Any]]:
    """The event in `data`; nothing when it is none."""
    try:
        event = json.loads(data)
    except ValueError:
        return
    if isinstance(event, dict):
        yield event
