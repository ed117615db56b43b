"""Requests whose answer is still to come."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Final

from akto_guardrails.envelope import LONGEST_STRING, fitted
from akto_guardrails.identity import Identity, call_id_of

if TYPE_CHECKING:
    from akto_guardrails.checker import Judgement

MOST_OPEN: Final = 20_000
MOST_CHARACTERS: Final = 256 * 1024 * 1024

Key = int | str
# The mark of what is no exchange of its own: it is never open.
NO_KEY: Final[Key] = 0

# In LiteLLM's own record of the client's request, which goes along with every copy of a request and never to a
# provider, and which no client can write to.
_PLACE: Final = "proxy_server_request"
_ENTRY: Final = "akto_exchange"

# Here and elsewhere `dict` is asked for before `Mapping`: asking an abstract class takes ten times as long.

_numbers: Final = itertools.count(1)

# The exchange that was opened last in this request's task. Reset for each request: a server may start one in the
# context of the one before it on the connection.
latest: Final[ContextVar[Exchange | None]] = ContextVar("akto_latest_exchange", default=None)


@dataclass(frozen=True, eq=False)
class Exchange:
    """One request on its way, with all that its record needs besides the answer.

    `sent_payload` is what Akto judged, `request_payload` what is recorded: the same, or the masked form of it.
    `further`: strings that were checked after that, at the second gate. `bare`: payloads go without `{"body": ...}`.
    `at_gate`: no hook saw the request before its model call. `refused_within`: the status with which a further
    call that LiteLLM made for the request was refused at the second gate, which is recorded; 0: none was.
    """

    key: Key
    identity: Identity
    tags: Mapping[str, str]
    call_type: str
    model: object
    sent_payload: str
    request_payload: str
    further: frozenset[str] = frozenset()
    bare: bool = False
    at_gate: bool = False
    refused_within: int = 0
    judgement: Judgement | None = None

    @property
    def fitted_request(self) -> str:
        """`request_payload` as the service takes it. Each check of an answer needs it, and a stream has a thousand."""
        # Looked at each time rather than kept, where it is short.
        is_short = 2 * len(self.request_payload) <= LONGEST_STRING
        return self.request_payload if is_short else self._fitted

    @cached_property
    def _fitted(self) -> str:
        return fitted(self.request_payload)


def mark(data: Mapping[str, object], key: Key | None = None) -> Key:
    """Marks LiteLLM's dictionary of a request, so that later hooks find the exchange; gives the mark.

    Where LiteLLM keeps no record of the client's request (MCP, and pass-through) its call id has to do. It is no mark
    elsewhere, because a client may choose it and give two requests the same one.
    """
    request = data.get(_PLACE)
    if not isinstance(request, (dict, MutableMapping)):
        return call_id_of(data)
    key = next(_numbers) if key is None else key
    request[_ENTRY] = key
    return key


def key_of(data: Mapping[str, object]) -> Key:
    """The mark of a request, from the dictionary of any hook or of a log event; "" when there is none."""
    request = data.get(_PLACE)
    if isinstance(request, (dict, Mapping)):
        return _mark_in(request) or ""
    logged = data.get("litellm_params")
    request = logged.get(_PLACE) if isinstance(logged, (dict, Mapping)) else None
    return (_mark_in(request) if isinstance(request, (dict, Mapping)) else None) or call_id_of(data)


def _mark_in(request: Mapping[str, object]) -> int | None:
    found = request.get(_ENTRY)
    return found if isinstance(found, int) else None


class OpenExchanges:
    """Open exchanges by their mark, bounded in number and in the characters they hold; each is handed out once."""

    def __init__(self, most: int = MOST_OPEN, most_characters: int = MOST_CHARACTERS) -> None:
        self._most = most
        self._most_characters = most_characters
        self._by_key: dict[Key, Exchange] = {}
        self._characters = 0

    def add(self, exchange: Exchange) -> list[Exchange]:
        """Adds `exchange`; gives those that had to make room, the oldest first."""
        displaced = [each for each in (self.take(exchange.key),) if each is not None]
        self._by_key[exchange.key] = exchange
        self._characters += _size_of(exchange)
        while len(self._by_key) > self._most or (self._characters > self._most_characters and len(self._by_key) > 1):
            oldest = self.take(next(iter(self._by_key)))
            if oldest is not None:
                displaced.append(oldest)
        return displaced

    def note_refusal_within(self, key: Key, status: int) -> None:
        """A further call within the exchange with this mark was refused; it stays open, and keeps its place."""
        exchange = self._by_key.get(key)
        if exchange is not None:
            self._by_key[key] = replace(exchange, refused_within=status)

    def take(self, key: Key) -> Exchange | None:
        """Removes and gives the exchange with this mark; None when there is none (any more)."""
        exchange = self._by_key.pop(key, None)
        if exchange is not None:
            self._characters -= _size_of(exchange)
        return exchange

    def take_all(self) -> list[Exchange]:
        """Removes and gives all exchanges, the oldest first."""
        exchanges = list(self._by_key.values())
        self._by_key.clear()
        self._characters = 0
        return exchanges

    def get(self, key: Key) -> Exchange | None:
        """The exchange with this mark, which stays open."""
        return self._by_key.get(key)


def _size_of(exchange: Exchange) -> int:
    """The characters that `exchange` holds, roughly."""
    size = len(exchange.request_payload)
    is_masked = exchange.sent_payload is not exchange.request_payload
    return size + len(exchange.sent_payload) if is_masked else size
