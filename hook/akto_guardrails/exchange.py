"""Requests whose answer is still to come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from akto_guardrails.identity import Identity

MOST_OPEN: Final = 20_000


@dataclass(frozen=True, slots=True, eq=False)
class Exchange:
    """One request on its way, with all that its record needs besides the answer.

    `data` is LiteLLM's dictionary for the request: the one thing that tells two requests with one call id apart.
    """

    data: Mapping[str, object]
    identity: Identity
    tags: Mapping[str, str]
    call_type: str
    request_payload: str


class OpenExchanges:
    """Open exchanges by call id, at most `MOST_OPEN`.

    A client may choose the call id (`x-litellm-call-id`), so one id can stand for several requests at once. Each is
    handed out exactly once.
    """

    def __init__(self, most: int = MOST_OPEN) -> None:
        self._most = most
        self._by_call_id: OrderedDict[str, list[Exchange]] = OrderedDict()
        self._count = 0

    def add(self, exchange: Exchange) -> Exchange | None:
        """Adds `exchange`; gives the oldest one when it had to make room."""
        self._by_call_id.setdefault(exchange.identity.call_id, []).append(exchange)
        self._count += 1
        if self._count <= self._most:
            return None
        oldest = next(iter(self._by_call_id.values()))[0]
        return self.take(oldest.identity.call_id, oldest.data)

    def take(self, call_id: str, data: Mapping[str, object] | None) -> Exchange | None:
        """Removes and gives the exchange of a call id, if possible the one of this very `data`; None without one."""
        exchanges = self._by_call_id.get(call_id)
        if not exchanges:
            return None
        exchange = next((each for each in exchanges if each.data is data), exchanges[0] if call_id else None)
        if exchange is None:
            return None
        exchanges.remove(exchange)
        self._count -= 1
        if not exchanges:
            del self._by_call_id[call_id]
        return exchange

    def call_type(self, call_id: str) -> str | None:
        """The call type of an open exchange."""
        exchanges = self._by_call_id.get(call_id)
        return exchanges[0].call_type if exchanges else None
