"""What the guard says about its work: counters and log lines, never content."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from akto_guardrails.checker import Judgement
from akto_guardrails.counters import Counters
from akto_guardrails.exchange import Exchange
from akto_guardrails.log import RateLimited
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.settings import Settings
from akto_guardrails.unchecked import count_of
from akto_guardrails.verdict import Cause

_ADVICE: Final = {
    Cause.TIMEOUT: "no answer within TIMEOUT",
    Cause.CONNECTION: "no connection to DATA_INGESTION_SERVICE_URL",
    Cause.CREDENTIALS: "credentials refused (HTTP 401): AKTO_API_TOKEN is wrong, expired or revoked",
    Cause.REDIRECT: "answered with a redirect, which is never followed: DATA_INGESTION_SERVICE_URL is not the service",
    Cause.REJECTED: "check refused with a 4xx status: wrong DATA_INGESTION_SERVICE_URL, or a gateway in between",
    Cause.SERVER_ERROR: "check failed with a 5xx status",
    Cause.UNREADABLE: "answer is not what the service sends: is DATA_INGESTION_SERVICE_URL right?",
    Cause.NO_VERDICT: "answer carries no verdict",
    Cause.SERVICE_FAIL_OPEN: "the ingestion service got no verdict from its guardrails service (failOpen)",
    Cause.OVERLOAD: "too many checks at once (MAX_CHECKS_AT_ONCE)",
    Cause.BREAKER_OPEN: "not asked, because it failed again and again; it is asked once a second",
    Cause.TOO_LARGE: "content is larger than MAX_CHECK_CHARACTERS",
    Cause.INTERNAL: "an error in the guard itself",
}
_LOUD: Final = (Cause.CREDENTIALS, Cause.INTERNAL)
_NOT_ENFORCED: Final = "not enforced (SYNC_MODE=false)"
# Of a value that is not the guard's own.
_LONGEST_VALUE: Final = 200
# What would make such a value look like further fields of a line: LiteLLM's JSON lines take over the keys of any
# dictionary in a message, before the line's own.
_LOOKALIKES: Final = str.maketrans({"{": "(", "}": ")", "|": "/", "=": ":"})

_log: Final = logging.getLogger(__name__)


class Journal:
    """Counters and log lines of one worker."""

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self._settings = settings
        self._counters = counters
        self._faults = {
            cause: RateLimited(_log, logging.ERROR if cause in _LOUD else logging.WARNING) for cause in Cause
        }
        self._unchecked: set[str] = set()

    def unavailable(
        self, cause: Cause, detail: str = "", exchange: Exchange | None = None, *, of_answer: bool = False
    ) -> None:
        """There is no verdict, because of `cause`. Of a run of the same the first exchange is named."""
        self._counters.add(f"unavailable_{cause.value}")
        if not self._settings.sync_mode:
            outcome = _NOT_ENFORCED
        else:
            outcome = "refused" if cause is Cause.TOO_LARGE else self._settings.unreachable_fallback
        advice = f"{_ADVICE[cause]} {_printable(detail)}".rstrip()
        about = "-" if exchange is None else _about(exchange, of_answer=of_answer)
        named = {} if exchange is None else _names(exchange, of_answer=of_answer)
        self._faults[cause].log(
            "no verdict from Akto | %s | %s | %s | %s",
            cause.value,
            advice,
            outcome,
            about,
            extra={"event": "no verdict from Akto", "cause": cause.value, "outcome": outcome, **named},
        )

    def internal_error(self, error: BaseException) -> None:
        """A bug of the guard outside a check. The message stays out: it may quote content."""
        self.unavailable(Cause.INTERNAL, type(error).__name__)

    def violation(self, what: str, exchange: Exchange, judgement: Judgement, *, of_answer: bool = False) -> None:
        """A policy was violated, and `what` became of it."""
        verdict = judgement.verdict
        details = {"behaviour": verdict.behaviour, "policy": verdict.policy, "rule": verdict.rule}
        _log.warning(
            "%s | %s | %s | %s",
            what,
            _about(exchange, of_answer=of_answer),
            " ".join(f"{name}={_printable(text) or '-'}" for name, text in details.items()),
            _took(judgement),
            extra={"event": what, **_fields(exchange, judgement, of_answer=of_answer), **_short(details)},
        )

    def violation_seen(self, exchange: Exchange, judgement: Judgement, *, of_answer: bool = False) -> None:
        """A policy was violated while nothing is enforced."""
        self.violation(f"violation seen, {_NOT_ENFORCED}", exchange, judgement, of_answer=of_answer)

    def masked(self, exchange: Exchange, judgement: Judgement, *, of_answer: bool = False) -> None:
        """Pieces of text were masked."""
        self._counters.add("masks_applied")
        self._mask("masked", exchange, judgement, of_answer=of_answer)

    def mask_seen(self, exchange: Exchange, judgement: Judgement, *, of_answer: bool = False) -> None:
        """Akto masked text while nothing is enforced."""
        self._counters.add("masks_seen")
        self._mask(f"mask seen, {_NOT_ENFORCED}", exchange, judgement, of_answer=of_answer)

    def _mask(self, what: str, exchange: Exchange, judgement: Judgement, *, of_answer: bool) -> None:
        strings = len(judgement.changes)
        fields = {"event": what, "strings": strings, **_fields(exchange, judgement, of_answer=of_answer)}
        about = _about(exchange, of_answer=of_answer)
        _log.info("%s | %s | strings=%d | %s", what, about, strings, _took(judgement), extra=fields)

    def unmappable(self, exchange: Exchange, error: Exception, *, of_answer: bool = False) -> None:
        """A mask could not be applied. The text of errors but `UnmappableMask` stays out: it may quote content."""
        self._counters.add("masks_unmappable")
        why = str(error) if isinstance(error, UnmappableMask) else type(error).__name__
        outcome = "refused" if self._settings.sync_mode else _NOT_ENFORCED
        what = f"mask not applicable, {outcome}"
        fields = {"event": what, **_names(exchange, of_answer=of_answer)}
        _log.warning("%s | %s | %s", what, _about(exchange, of_answer=of_answer), why, extra=fields)

    def unchecked_route(self, family: str) -> None:
        """A request came in on a route that cannot be checked; logged once for each family."""
        self._counters.add(count_of(family))
        if family not in self._unchecked:
            self._unchecked.add(family)
            fields = {"event": "unchecked route", "family": family}
            what = "unchecked route | %s | UNCHECKED_ROUTES=%s"
            _log.warning(what, family, self._settings.unchecked_routes, extra=fields)


def _about(exchange: Exchange, *, of_answer: bool) -> str:
    identity = exchange.identity
    call_id, collection, route = map(_printable, (identity.call_id, identity.collection, identity.route))
    return f"call_id={call_id} collection={collection} route={route} of={_of(of_answer)}"


def _of(is_answer: bool) -> str:
    """What was checked, in the metrics' words."""
    return "answer" if is_answer else "request"


def _printable(value: str) -> str:
    """Call id and route are the client's words, a policy's name is Akto's: none of them may forge a line or a field."""
    text = value[:_LONGEST_VALUE].translate(_LOOKALIKES)
    return "".join(character if character.isprintable() else "?" for character in text)


def _short(fields: Mapping[str, str]) -> dict[str, str]:
    return {name: text[:_LONGEST_VALUE] for name, text in fields.items()}


def _took(judgement: Judgement) -> str:
    return f"{judgement.seconds * 1000:.0f} ms"


def _names(exchange: Exchange, *, of_answer: bool) -> dict[str, str]:
    """What `_about` says, for logs in JSON."""
    identity = exchange.identity
    names = {"call_id": identity.call_id, "collection": identity.collection, "route": identity.route}
    return {**_short(names), "of": _of(of_answer)}


def _fields(exchange: Exchange, judgement: Judgement, *, of_answer: bool) -> dict[str, object]:
    return {**_names(exchange, of_answer=of_answer), "duration_ms": round(judgement.seconds * 1000, 1)}
