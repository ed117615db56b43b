"""What happens to a request: check it, act on the verdict, record the exchange. No LiteLLM types in here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final, NoReturn

import orjson

from akto_guardrails.akto import AktoClient
from akto_guardrails.content import content_of
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import Sender, envelope, fits, fitted, payload_of, tags_of
from akto_guardrails.exchange import Exchange, Key, OpenExchanges, key_of, mark
from akto_guardrails.identity import KeyHolder, identity_of, what_the_client_says
from akto_guardrails.log import RateLimited
from akto_guardrails.masking import UnmappableMask, apply_mask, masked_strings
from akto_guardrails.recorder import Recorder
from akto_guardrails.settings import Settings
from akto_guardrails.verdict import Cause, Decision, Verdict, unavailable

BLOCKED: Final = "Blocked by Akto Guardrails"
_UNMAPPABLE: Final = "content has to be masked, but the mask could not be applied"
_TOO_LARGE: Final = "Request too large to be checked by Akto Guardrails"
_TOO_DEEP: Final = {"x-akto-truncated": "nested too deeply to be read"}
_UNAVAILABLE: Final = "Akto Guardrails could not check this request; it is refused (UNREACHABLE_FALLBACK=fail_closed)"

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
    Cause.OVERLOAD: "too many checks at once",
    Cause.TOO_LARGE: "content is larger than the service takes in one check",
    Cause.INTERNAL: "an error in the guard itself",
}

# LiteLLM's call type on routes where the dictionary of a request is the client's body and nothing else.
_PASS_THROUGH: Final = "pass_through_endpoint"  # noqa: S105 - not a password

_log: Final = logging.getLogger(__name__)

# The exchange that the pre-call hook opened last in this request's task.
_latest: Final[ContextVar[Exchange | None]] = ContextVar("akto_latest_exchange", default=None)


class Refusal(Exception):
    """The request must not reach the model. `judged`: Akto's policies said so, not a missing verdict."""

    def __init__(self, status: int, message: str, *, judged: bool) -> None:
        self.status = status
        self.message = message
        self.judged = judged
        super().__init__(message)


class Guard:
    """The guard of one worker."""

    def __init__(self, settings: Settings, client: AktoClient, recorder: Recorder, counters: Counters) -> None:
        self._settings = settings
        self._client = client
        self._recorder = recorder
        self._counters = counters
        self._open = OpenExchanges()
        self._sender = Sender(
            settings.account_id, settings.vxlan_id, settings.context_source, observing=not settings.sync_mode
        )
        self._background: set[asyncio.Task[None]] = set()
        self._faults = {
            cause: RateLimited(_log, logging.ERROR if cause in (Cause.CREDENTIALS, Cause.INTERNAL) else logging.WARNING)
            for cause in Cause
        }

    async def check_request(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        """Checks a request before its model call, and masks text in `data` where Akto says so.

        Raises `Refusal`. Whatever goes wrong in here is not a verdict, and `UNREACHABLE_FALLBACK` decides.
        """
        try:
            try:
                await self._check_request(data, key, call_type)
            except RecursionError:
                self._refuse_too_deep(data, key, call_type)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of the guard must neither open the gate unseen nor break the proxy
            self._note_unavailable(Cause.INTERNAL, type(error).__name__)
            if self._settings.sync_mode and self._settings.fail_closed:
                raise Refusal(503, _UNAVAILABLE, judged=False) from None

    def _refuse_too_deep(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        """Text nested so deeply that it cannot be walked is text hidden from the check."""
        self._note_unavailable(Cause.TOO_LARGE, "(nesting)")
        exchange = self._exchange(data, _TOO_DEEP, key, call_type, None)
        if self._settings.sync_mode:
            self._refuse(exchange, Refusal(413, _TOO_LARGE, judged=False))
        self._open.add(exchange)

    async def _check_request(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        content = content_of(data, passed_through=call_type == _PASS_THROUGH)
        if content is None:
            return
        earlier = self._earlier_attempt(content)
        exchange = self._exchange(data, content, key, call_type, None if earlier is None else earlier.key)
        if not self._settings.sync_mode:
            if earlier is None:
                self._in_background(exchange)
        else:
            verdict = earlier.verdict if earlier is not None else None
            verdict = verdict or await self._verdict_on(exchange)
            judged = content if earlier is None else {**content, "model": earlier.model}
            exchange = replace(self._enforced(verdict, exchange, data, judged), verdict=verdict)
        _latest.set(exchange)
        for displaced in self._open.add(exchange):
            if displaced is not earlier:
                self._counters.add("exchanges_displaced")
                self._record(displaced, None, 200)

    def _earlier_attempt(self, content: Mapping[str, object]) -> Exchange | None:
        """The open exchange of this very request when LiteLLM runs its pre-call hooks a second time.

        It does so for another model when one of its own rate limits refused the first (LiteLLM 1.106.2,
        `_pre_call_with_fallbacks`), with a fresh copy of the request in the same task.
        """
        latest = _latest.get()
        if latest is None or self._open.get(latest.key) is not latest:
            return None
        same = payload_of({**content, "model": latest.model}) == latest.sent_payload
        return latest if same else None

    def _exchange(
        self,
        data: dict[str, Any],
        content: Mapping[str, object],
        key: KeyHolder,
        call_type: str,
        earlier_mark: Key | None,
    ) -> Exchange:
        passed_through = call_type == _PASS_THROUGH
        identity = identity_of(
            what_the_client_says(data) if passed_through else data,
            key,
            default_collection=self._settings.default_collection,
            trust_client_agent_name=self._settings.trust_client_agent_name,
            forward_headers=self._settings.forward_headers,
        )
        model = content.get("model")
        tags = tags_of(self._sender, identity, call_type=call_type, model=model)
        payload = payload_of(content)
        own_mark = identity.call_id if passed_through else mark(data, earlier_mark)
        return Exchange(own_mark, identity, tags, call_type, model, payload, payload)

    async def _verdict_on(self, exchange: Exchange) -> Verdict:
        if not fits(exchange.request_payload):
            return unavailable(Cause.TOO_LARGE)
        body = envelope(self._sender, exchange.identity, exchange.tags, request_payload=exchange.request_payload)
        try:
            verdict = await self._client.check(body)
        except Exception as error:  # noqa: BLE001 - a bug of the client is no verdict; the exchange goes on to its record
            verdict = unavailable(Cause.INTERNAL, type(error).__name__)
        self._counters.add(f"checks_{verdict.decision.value}")
        return verdict

    def _enforced(
        self, verdict: Verdict, exchange: Exchange, data: dict[str, Any], content: Mapping[str, object]
    ) -> Exchange:
        """The exchange as it may go on, masked where needed; raises `Refusal` when it may not.

        `content` is what the verdict is about.
        """
        if verdict.cause is not None:
            self._note_unavailable(verdict.cause, verdict.reason)
            if verdict.cause is Cause.TOO_LARGE:
                self._refuse(exchange, Refusal(413, _TOO_LARGE, judged=False))
            if self._settings.fail_closed:
                self._refuse(exchange, Refusal(503, _UNAVAILABLE, judged=False))
            return exchange
        if verdict.decision is Decision.BLOCK:
            self._note_violation("blocked", verdict, exchange)
            self._refuse(exchange, Refusal(403, _blocked_message(verdict.reason), judged=True))
        if verdict.decision is Decision.FLAG:
            self._note_violation("flagged", verdict, exchange)
        if verdict.mask is None:
            return exchange
        try:
            changes = masked_strings(content, verdict.mask)
            apply_mask(data, content, changes)
        except UnmappableMask as error:
            self._counters.add("masks_unmappable")
            _log.warning("mask not applicable, request refused | %s | %s", _about(exchange), error)
            self._refuse(exchange, Refusal(403, _blocked_message(_UNMAPPABLE), judged=True))
        if not changes:
            return exchange
        self._counters.add("masks_applied")
        _log.info("masked | %s | strings=%d", _about(exchange), len(changes))
        masked = content_of(data, passed_through=exchange.call_type == _PASS_THROUGH)
        return replace(exchange, request_payload=payload_of(masked))

    def _refuse(self, exchange: Exchange, refusal: Refusal) -> NoReturn:
        """Records the refusal, in place of an earlier attempt's exchange if there was one, and raises it."""
        self._open.take(exchange.key)
        reason = refusal.message.removeprefix(f"{BLOCKED}: ")
        try:
            self._record(exchange, {"x-blocked-by": "Akto Proxy", "reason": reason}, refusal.status)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the record, the request stays refused
            self.note_internal_error(error)
        raise refusal

    def _in_background(self, exchange: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(exchange))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watch(self, exchange: Exchange) -> None:
        try:
            verdict = await self._verdict_on(exchange)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; asyncio would print the error's text
            self.note_internal_error(error)
            return
        if verdict.cause is not None:
            self._note_unavailable(verdict.cause, verdict.reason)
        elif verdict.decision is not Decision.ALLOW:
            self._note_violation("violation seen, not enforced (SYNC_MODE=false)", verdict, exchange)

    def finished(self, data: Mapping[str, object], answer: object, status: int) -> None:
        """Records the exchange that `data` belongs to with its `answer`, once; later calls for it do nothing."""
        exchange = self._open.take(key_of(data))
        if exchange is not None:
            self._record(exchange, answer, status)

    def open_call_type(self, data: Mapping[str, object]) -> str | None:
        """The call type of an exchange that is not recorded yet."""
        exchange = self._open.get(key_of(data))
        return None if exchange is None else exchange.call_type

    def _record(self, exchange: Exchange, answer: object, status: int) -> None:
        self._recorder.put(
            envelope(
                self._sender,
                exchange.identity,
                exchange.tags,
                request_payload=fitted(exchange.request_payload),
                response_payload=None if answer is None else fitted(payload_of(answer)),
                status=status,
            )
        )

    async def close(self, seconds: float) -> None:
        """Ends background checks and delivers queued records, for at most `seconds`, and logs the counters."""
        deadline = asyncio.get_running_loop().time() + seconds
        if self._background:
            await asyncio.wait(self._background, timeout=seconds / 2)
            for task in self._background:
                task.cancel()
        await self._recorder.flush(deadline - asyncio.get_running_loop().time())
        await self._client.close()
        _log.info("GuardrailsHandler stopped | %s", orjson.dumps(self._counters.snapshot()).decode())

    def note_internal_error(self, error: BaseException) -> None:
        """Counts and logs a bug of the guard outside a check. The message stays out: it may quote content."""
        self._note_unavailable(Cause.INTERNAL, type(error).__name__)

    def _note_unavailable(self, cause: Cause, detail: str = "") -> None:
        self._counters.add(f"unavailable_{cause.value}")
        if not self._settings.sync_mode:
            outcome = "not enforced (SYNC_MODE=false)"
        else:
            outcome = "refused" if cause is Cause.TOO_LARGE else self._settings.unreachable_fallback
        advice = f"{_ADVICE[cause]} {detail}".rstrip()
        self._faults[cause].log("no verdict from Akto | %s | %s | %s", cause.value, advice, outcome)

    def _note_violation(self, what: str, verdict: Verdict, exchange: Exchange) -> None:
        details = f"behaviour={verdict.behaviour or '-'} policy={verdict.policy or '-'} rule={verdict.rule or '-'}"
        _log.warning("%s | %s | %s", what, _about(exchange), details)


def _about(exchange: Exchange) -> str:
    identity = exchange.identity
    line = f"call_id={identity.call_id} collection={identity.collection} route={identity.route}"
    # Call id and route are the client's words: they must not be able to forge a line.
    return "".join(character if character.isprintable() else "?" for character in line)


def _blocked_message(reason: str) -> str:
    return f"{BLOCKED}: {reason}" if reason else BLOCKED
