"""The HTTP request that a worker is serving, for hooks to which LiteLLM tells nothing about it.

LiteLLM 1.106.2 hands no headers and no route to its hooks on pass-through and MCP routes, and calls none at all on
others. An ASGI layer around the proxy's application notes what there is to know; every task of the request sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args

from akto_guardrails.sent_stream import SentStream

# What became of a request, as clients are told it; of two the later in this row counts. `observed`: checked beside the
# request, whatever the verdict (SYNC_MODE=false). `unchecked`: there was no verdict.
Outcome = Literal["allowed", "observed", "flagged", "masked", "unchecked", "blocked"]
_OUTCOMES: Final = get_args(Outcome)


@dataclass(slots=True)
class ClientRequest:
    """One request, or one WebSocket connection, as it came in.

    `path` is without the root path and what cannot be printed, the names in `headers` are in lower case.
    `has_guarded_turns`: every message on the connection is checked before LiteLLM reads it. `refused`: what the second
    gate raised for the request. `is_unverdicted`: it, or its answer, was refused for want of a verdict. `status`: of
    the answer, once it has begun; `is_answered`: it was sent to its end. `has_failed`: the application raised an
    exception. `outcome`: what the guard made of it, None when there was nothing to check. `stream`: what was sent of a
    streamed answer, where the guard wants to know. `said`: gives what has been handed on of another kind of stream so
    far.
    """

    is_websocket: bool
    method: str
    path: str
    headers: Mapping[str, str]
    address: str
    has_guarded_turns: bool = False
    refused: Exception | None = None
    is_unverdicted: bool = False
    status: int | None = None
    is_answered: bool = False
    has_failed: bool = False
    has_ended: bool = False
    outcome: Outcome | None = None
    stream: SentStream | None = None
    said: Callable[[], object] | None = None
    _at_end: list[Callable[[], None]] = field(default_factory=list)

    def note(self, outcome: Outcome) -> None:
        """Notes what became of the request, or of a part of it."""
        if self.outcome is None or _OUTCOMES.index(outcome) > _OUTCOMES.index(self.outcome):
            self.outcome = outcome

    def began(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The answer has begun."""
        self.status = status
        if self.stream is not None and not _is_event_stream(headers):
            self.stream = None

    def sent(self, part: bytes, *, is_last: bool) -> None:
        """A part of the answer is on its way."""
        self.is_answered = is_last
        if self.stream is not None:
            self.stream.add(part)

    def when_ended(self, action: Callable[[], None]) -> None:
        """Has `action`, which must not raise, called when the request has ended; at once when it has."""
        if self.has_ended:
            action()
        else:
            self._at_end.append(action)

    def end(self) -> None:
        """The application has returned. All else is let go: a task that lives on may keep the request alive."""
        self.has_ended = True
        self.said = None
        actions, self._at_end = self._at_end, []
        for action in actions:
            action()
        self.stream = None

    @property
    def has_json(self) -> bool:
        """Whether the body is announced as JSON, or not announced at all, which LiteLLM reads as JSON too."""
        announced = self.headers.get("content-type", "").lower()
        media_type = announced.partition(";")[0].strip()
        # LiteLLM takes for a form whatever has these words in it.
        is_form = "multipart/form-data" in announced
        return not is_form and (not media_type or media_type == "application/json" or media_type.endswith("+json"))


def _is_event_stream(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)


_current: Final[ContextVar[ClientRequest | None]] = ContextVar("akto_client_request", default=None)


def current_request() -> ClientRequest | None:
    """The request that the running task belongs to; None outside of one, as in background health checks."""
    return _current.get()


def note_outcome(outcome: Outcome) -> None:
    """Notes what became of the request that is being served, if there is one."""
    request = _current.get()
    if request is not None:
        request.note(outcome)


def _plain(path: str) -> str:
    """`path` without what cannot be printed: Starlette finds the route of one that ends in a line feed as well."""
    return path if path.isprintable() else "".join(filter(str.isprintable, path))


def _below_root(scope: Mapping[str, Any], roots: Iterable[str]) -> str:
    """The path of a request as LiteLLM finds its route by it: without the prefix under which the proxy is served."""
    path: str = scope["path"]
    for root in (*roots, (scope.get("root_path") or "").rstrip("/")):
        if path == root or path.startswith(f"{root}/"):
            # Only one: what comes after it is the path, also if it looks like another prefix.
            return path.removeprefix(root)
    return path


def note_request(scope: Mapping[str, Any], roots: Iterable[str] = ()) -> ClientRequest:
    """Makes the request in an ASGI `scope` of type http or websocket the current one, and gives it.

    `roots`: prefixes that count before the scope's own root path, the longest first.
    """
    client = scope.get("client")
    path = _below_root(scope, roots)
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        # Of two headers of one name Starlette reads the first.
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    request = ClientRequest(
        is_websocket=scope["type"] == "websocket",
        method=scope.get("method", "GET"),
        path=_plain(path) or "/",
        headers=headers,
        address=client[0] if client else "",
    )
    _current.set(request)
    return request
