"""What happens to a request and its answer: check, act on the verdict, record. No LiteLLM types in here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final, NoReturn

import orjson

from akto_guardrails.akto import AktoClient
from akto_guardrails.allowed_tools import AllowedTools
from akto_guardrails.asgi import UNCHECKED_REFUSED
from akto_guardrails.awaited import AwaitedAnswers
from akto_guardrails.burst import Burst
from akto_guardrails.checker import Checker, Judgement
from akto_guardrails.client_request import ClientRequest, Outcome, current_request, note_outcome
from akto_guardrails.counters import Counters
from akto_guardrails.encrypted_content import readable_items, with_heads
from akto_guardrails.envelope import Sender, mcp_tags_of, payload_of, tags_of
from akto_guardrails.exchange import NO_KEY, Exchange, Key, OpenExchanges, key_of, mark
from akto_guardrails.exchange import latest as latest_exchange
from akto_guardrails.freed_memory import FreedMemory, trim_of_the_c_library
from akto_guardrails.identity import KeyHolder, identity_of, key_in_metadata, what_the_client_says
from akto_guardrails.journal import Journal
from akto_guardrails.masking import UnmappableMask, apply_mask
from akto_guardrails.omissions import without_media
from akto_guardrails.recorder import Recorder
from akto_guardrails.records import TOO_DEEP, Records, as_object, at_mcp_server
from akto_guardrails.sent_stream import SentStream
from akto_guardrails.settings import Settings
from akto_guardrails.subject import (
    MCP_CALL,
    MCP_LIST,
    PASS_THROUGH,
    ROUTED_PASS_THROUGH,
    Subject,
    body_subject,
    is_plain,
    subject_of,
)
from akto_guardrails.unchecked import BODY, FILE
from akto_guardrails.unseen import is_repeated, strings_of, strings_seen, unseen_part
from akto_guardrails.verdict import Cause, Decision, Verdict, unavailable

BLOCKED: Final = "Blocked by Akto Guardrails"
_UNMAPPABLE: Final = "content has to be masked, but the mask could not be applied"
_TOO_LARGE: Final = "Request too large to be checked by Akto Guardrails"
_ANSWER_TOO_LARGE: Final = "Answer too large to be checked by Akto Guardrails"
_MIXED_CHOICES: Final = (
    "Refused by Akto Guardrails: the answer to a streamed text completion with several choices (`n`, several prompts,"
    " or messages that are sent as such) cannot be checked; ask without `stream`"
)
_UNAVAILABLE: Final = "Akto Guardrails could not check this request; it is refused (UNREACHABLE_FALLBACK=fail_closed)"
_ANSWER_UNAVAILABLE: Final = (
    "Akto Guardrails could not check the answer to this request; it is withheld (UNREACHABLE_FALLBACK=fail_closed)"
)

# What is told of a check whose mask could not be put back.
_UNAPPLIED: Final = Judgement(Verdict(Decision.BLOCK))
_ALLOWED: Final = Judgement(Verdict(Decision.ALLOW))

CLIENT_LEFT: Final = 499
# How long after the end of a request its answer may come: LiteLLM logs some only then, and is given 20 seconds for it.
_LATE_SECONDS: Final = 60.0
# LiteLLM may make an answer of the Responses API in the background, and serve calls of a session in its first request.
_BACKGROUND_SECONDS: Final = 600.0
_BACKGROUND: Final = frozenset({"aresponses", MCP_CALL})
# Of a client that has gone: LiteLLM cancels most of its calls, and brings at once what came of the others.
_LEFT_SECONDS: Final = 10.0

# Calls of LiteLLM that carry names and ids, and no text for a model.
_ADMINISTRATION: Final = frozenset({"_arealtime", "acreate_batch", "acreate_file", "acreate_fine_tuning_job"})
# Entries of a WebSocket message that say what it is.
_EVENT_NAMES: Final = frozenset({"event_id", "type"})
# Answers in which a model or a tool speaks.
_SPOKEN: Final = frozenset(
    {
        "acompact_responses",
        "acompletion",
        "acreate_interaction",
        "aget_responses",
        "agenerate_content",
        "agenerate_content_stream",
        "anthropic_messages",
        "aresponses",
        "asearch",
        "asend_message",
        "atext_completion",
        "avector_store_search",
        MCP_CALL,
    }
)
# An answer made in the background, asked for by its id: there is nothing to check before it has come.
_FETCHED: Final = "aget_responses"
# LiteLLM 1.106.2 shows no hook the streams of the second, and of the first a text about its own trouble to read them.
_PASSED_THROUGH: Final = frozenset({PASS_THROUGH, ROUTED_PASS_THROUGH})
# Calls on the path of an upload that are no records of a batch file.
_NOT_IN_BATCHES: Final = _PASSED_THROUGH | {"acreate_file", MCP_CALL}
# What LiteLLM puts into its dictionary of a request. In a record of a batch file only the client can have done so.
_LITELLMS_OWN: Final = frozenset({"litellm_logging_obj", "proxy_server_request"})
# Pass-through routes whose body LiteLLM reads, or signs, before it asks the hooks: a mask would not be sent (1.106.2).
_SENT_AS_READ: Final = ("/azure_speech", "/bedrock", "/comprehendmedical", "/transcribe")

_log: Final = logging.getLogger(__name__)


def _nothing() -> None:
    """What was released of an answer that is not streamed."""


class Refusal(Exception):
    """The request must not reach the model, or the answer not the client.

    `judged`: Akto's policies said so, not a missing verdict. `judgement`: what Akto said, where it was asked.
    """

    def __init__(self, status: int, message: str, *, judged: bool) -> None:
        self.status = status
        self.message = message
        self.judged = judged
        self.judgement: Judgement | None = None
        super().__init__(message)


class Guard:
    """The guard of one worker."""

    def __init__(
        self,
        settings: Settings,
        client: AktoClient,
        recorder: Recorder,
        counters: Counters,
        burst: Burst | None = None,
    ) -> None:
        """`burst`: for what nobody waits for, records and, with SYNC_MODE=false, checks; done at once without one."""
        self._settings = settings
        self._client = client
        self._counters = counters
        self._journal = Journal(settings, counters)
        self._open = OpenExchanges()
        self._allowed_tools = AllowedTools()
        # Those that had to make room and are recorded, without their payloads: their answers are checked all the same.
        self._displaced: dict[Key, Exchange] = {}
        self._awaited = AwaitedAnswers(self._given_up)
        self._sender = Sender(
            settings.account_id, settings.vxlan_id, settings.context_source, observing=not settings.sync_mode
        )
        self._checker = Checker(settings, client, self._sender, counters)
        memory = FreedMemory(trim_of_the_c_library(), lambda: recorder.queued_bytes)
        self._burst = Burst(0) if burst is None else burst
        self._records = Records(
            settings, recorder, self._sender, counters, self._journal, memory=memory, burst=self._burst
        )
        self._background: set[asyncio.Task[None]] = set()
        # Whether LiteLLM shows the records of batch files to its hooks.
        self.is_shown_batches = True

    def admits(self, family: str) -> bool:
        """Whether a request on an unchecked route of `family` may be served; says that it came."""
        self._journal.unchecked_route(family)
        is_admitted = self._settings.unchecked_routes == "allow"
        note_outcome("unchecked" if is_admitted else "blocked")
        return is_admitted

    async def check_request(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        """Checks a request before its model call, and masks text in `data` where Akto says so.

        Raises `Refusal`. Whatever goes wrong in here is not a verdict, and `UNREACHABLE_FALLBACK` decides.
        """
        await self._or_fallback(self._check_request(data, key, call_type), data, key, call_type)

    async def check_attempt(self, kwargs: dict[str, Any], call_type: str) -> None:
        """The second gate: checks what a call of a model carries beyond what `check_request` has seen.

        That is everything, on routes where LiteLLM calls no hook before. Raises `Refusal` as `check_request` does, and
        for all further calls of the request. Where it was a model that asked for a search, LiteLLM swallows that, and
        answers with what the model has said before: the exchange stays open for such an answer.
        """
        request = current_request()
        # Without a request it is LiteLLM's own call, such as a health check; tool calls had their hook already.
        if request is None or call_type in (MCP_CALL, MCP_LIST):
            return
        if request.method == "GET" and (request.path == "/health" or request.path.startswith("/health/")):
            return
        if request.has_guarded_turns:
            return
        if request.refused is not None:
            # LiteLLM tries again after some errors. A refused request is neither checked nor recorded once more.
            raise request.refused
        latest = latest_exchange.get()
        if latest is not None and is_plain(call_type) and is_repeated(kwargs, latest):
            return
        key = key_in_metadata(kwargs, of_provider_route=call_type == ROUTED_PASS_THROUGH)
        try:
            check = self._check_attempt(request, kwargs, key, call_type)
            await self._or_fallback(check, kwargs, key, call_type)
        except Refusal as refusal:
            request.refused = refusal
            raise

    async def _or_fallback(
        self, check: Awaitable[Key | None], data: dict[str, Any], key: KeyHolder, call_type: str
    ) -> Key | None:
        """What `check` gives: the mark of an exchange, if it opened one that somebody has to see to."""
        try:
            try:
                return await check
            except RecursionError:
                return self._refuse_too_deep(data, key, call_type)
        except Refusal:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of the guard must neither open the gate unseen nor break the proxy
            self._journal.internal_error(error)
            note_outcome("unchecked")
            if self._settings.sync_mode and self._settings.fail_closed:
                raise _without_verdict(_UNAVAILABLE) from None
            return None

    def _refuse_too_deep(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> Key | None:
        """Text nested so deeply that it cannot be walked is text hidden from the check.

        Gives the mark of its exchange, where it is not refused.
        """
        self._journal.unavailable(Cause.TOO_LARGE, "(nesting)")
        # A tool's call in the middle of a request has an exchange of its own.
        latest = None if call_type in (MCP_CALL, MCP_LIST) else latest_exchange.get()
        known = None if latest is None else latest.key
        exchange = self._exchange(data, Subject(TOO_DEEP, {}), key, call_type, known)
        if self._settings.sync_mode:
            exchange = replace(exchange, judgement=Judgement(unavailable(Cause.TOO_LARGE)))
            refusal = Refusal(413, _TOO_LARGE, judged=False)
            if known is not None:
                self._open.note_refusal_within(known, refusal.status)
                exchange = replace(exchange, key=NO_KEY)
            self._refuse(exchange, refusal)
        if known is None and call_type != MCP_LIST:
            self._add(exchange, None)
        return exchange.key

    async def _check_request(self, data: dict[str, Any], key: KeyHolder, call_type: str) -> None:
        self._refuse_unshown(data, call_type)
        if call_type == _FETCHED:
            if self._settings.response_guardrails:
                fetched = Subject({"response_id": data.get("response_id")}, {})
                self._add(self._exchange(data, fetched, key, call_type, None), None)
            return
        in_batch = _is_batch_record(data, call_type)
        subject = subject_of(data, call_type, in_batch=in_batch) if _may_carry_text(call_type) else None
        if subject is None:
            return
        earlier = self._earlier_attempt(subject.content)
        known = {name: value for name, value in data.items() if name not in _LITELLMS_OWN} if in_batch else data
        exchange = self._exchange(known, subject, key, call_type, None if earlier is None else earlier.key)
        if call_type == MCP_LIST:
            await self._check_tool(exchange, subject)
            return
        exchange = await self._judged_or_left(exchange, subject, earlier)
        if in_batch:
            self._records.put(exchange, None, 200)
            return
        if call_type != MCP_CALL:
            # A tool may be called in the middle of a request, whose own exchange stays the latest then.
            latest_exchange.set(exchange)
        self._add(exchange, earlier)

    async def _check_tool(self, exchange: Exchange, subject: Subject) -> None:
        """Checks the definition of an MCP tool, unless this very one was allowed a short while ago."""
        is_known = self._allowed_tools.has(exchange)
        earlier = replace(exchange, judgement=_ALLOWED) if is_known else None
        judgement = (await self._judged(exchange, subject, earlier)).judgement
        if not is_known and judgement is not None:
            self._note_tool(exchange, judgement)

    def _note_tool(self, exchange: Exchange, judgement: Judgement) -> None:
        verdict = judgement.verdict
        is_allowed = verdict.decision is Decision.ALLOW and verdict.cause is None and not judgement.changes
        if exchange.call_type == MCP_LIST and is_allowed:
            self._allowed_tools.add(exchange)

    async def check_turn(
        self, event: dict[str, Any], data: dict[str, Any], key: KeyHolder, call_type: str
    ) -> Key | None:
        """Checks a message on a WebSocket whose pre-call hook was given `data`; masks text in `event`.

        Gives the mark of its exchange, None when there is nothing to check. Raises `Refusal`.
        """

        async def check() -> Key | None:
            subject = body_subject({name: value for name, value in event.items() if name not in _EVENT_NAMES})
            if subject is None:
                return None
            exchange = await self._judged_or_left(self._exchange(data, subject, key, call_type, None), subject, None)
            event.update(subject.target)
            self._add(exchange, None)
            return exchange.key

        return await self._or_fallback(check(), data, key, call_type)

    async def _check_attempt(
        self, request: ClientRequest, kwargs: dict[str, Any], key: KeyHolder, call_type: str
    ) -> None:
        subject = subject_of(kwargs, call_type) if _may_carry_text(call_type) else None
        if subject is None:
            return
        latest = latest_exchange.get()
        if latest is None:
            exchange = replace(self._exchange(kwargs, subject, key, call_type, None), at_gate=True)
            exchange = await self._judged_or_left(exchange, subject, None)
            latest_exchange.set(exchange)
            self._add(exchange, None)
            return
        unseen = unseen_part(subject.content, strings_seen(latest))
        if unseen:
            self._counters.add("checks_at_the_second_gate")
            attempt = replace(
                latest,
                key=NO_KEY,
                sent_payload=payload_of(unseen, bare=latest.bare),
                request_payload=payload_of(subject.content, bare=latest.bare),
            )
            try:
                checked = await self._judged(attempt, replace(subject, content=unseen), None)
            except Refusal as refusal:
                self._open.note_refusal_within(latest.key, refusal.status)
                raise
            # Of masked text only the masked form: a further attempt may come with the raw one again.
            is_masked = checked.judgement is not None and bool(checked.judgement.changes)
            further = strings_seen(checked) if is_masked else strings_of(unseen)
            latest_exchange.set(replace(latest, further=latest.further | further))

    def _refuse_unshown(self, data: Mapping[str, Any], call_type: str) -> None:
        """Refuses, if the operator wants that, a body that LiteLLM does not hand to its hooks."""
        request = current_request()
        family = None
        if call_type == PASS_THROUGH and request is not None and request.method != "GET" and not request.has_json:
            # LiteLLM reads some bodies as JSON whatever they are announced as, and shows them.
            family = BODY if subject_of(dict(data), call_type) is None else None
        elif call_type == "acreate_file" and not (data.get("purpose") == "batch" and self.is_shown_batches):
            family = FILE
        if family is not None and not self.admits(family):
            raise Refusal(403, UNCHECKED_REFUSED, judged=False)

    def _add(self, exchange: Exchange, earlier: Exchange | None) -> None:
        for displaced in self._open.add(exchange):
            if displaced is not earlier:
                self._counters.add("exchanges_displaced")
                self._records.put(displaced, None, 200)
                if self._settings.response_guardrails:
                    self._displaced[displaced.key] = replace(displaced, sent_payload="{}", request_payload="{}")
        request = current_request()
        # Turns of one connection are many, and are seen to when it is closed.
        if request is not None and not request.has_guarded_turns:
            request.when_ended(partial(self._request_ended, request, exchange.key))
            if exchange.call_type in _PASSED_THROUGH:
                request.stream = SentStream(self.note_internal_error)

    def _earlier_attempt(self, content: Mapping[str, object]) -> Exchange | None:
        """The open exchange of this very request when LiteLLM runs its pre-call hooks a second time.

        It does so for another model when one of its own rate limits refused the first (LiteLLM 1.106.2,
        `_pre_call_with_fallbacks`), with a fresh copy of the request in the same task.
        """
        latest = latest_exchange.get()
        if latest is None or self._open.get(latest.key) is not latest:
            return None
        same = payload_of({**content, "model": latest.model}, bare=latest.bare) == latest.sent_payload
        return latest if same else None

    def _exchange(
        self, data: dict[str, Any], subject: Subject, key: KeyHolder, call_type: str, earlier_mark: Key | None
    ) -> Exchange:
        passed_through = call_type == PASS_THROUGH
        request = current_request()
        identity = identity_of(
            what_the_client_says(data) if passed_through else data,
            key,
            request,
            default_collection=self._settings.default_collection,
            trust_client_agent_name=self._settings.trust_client_agent_name,
            forward_headers=self._settings.forward_headers,
        )
        if call_type in _PASSED_THROUGH and request is not None and not request.is_websocket:
            identity = replace(identity, method=request.method)
        model = subject.content.get("model")
        if call_type in (MCP_CALL, MCP_LIST):
            server = str(data.get("mcp_server_name") or "")
            identity = at_mcp_server(identity, server, self._settings.mcp_path)
            tags = mcp_tags_of(self._sender, identity, server=server, tool=str(data["mcp_tool_name"]))
        else:
            tags = tags_of(self._sender, identity, call_type=call_type, model=model)
        bare = subject.bare or self._settings.payload_shape == "bare"
        payload = payload_of(subject.content, bare=bare)
        own_mark = identity.call_id if passed_through else mark(data, earlier_mark)
        return Exchange(own_mark, identity, tags, call_type, model, payload, payload, bare=bare)

    async def _judged_or_left(self, exchange: Exchange, subject: Subject, earlier: Exchange | None) -> Exchange:
        """`_judged`, for an exchange that is not open yet: recorded when the check is cancelled."""
        try:
            return await self._judged(exchange, subject, earlier)
        except asyncio.CancelledError:
            self._records.put(exchange, None, CLIENT_LEFT)
            raise

    async def _judged(self, exchange: Exchange, subject: Subject, earlier: Exchange | None) -> Exchange:
        """The exchange as it may go on, checked and masked; raises `Refusal` when it may not."""
        if not self._settings.sync_mode:
            note_outcome("observed")
            if earlier is None:
                self._burst.add(lambda: self._in_background(exchange, self._checker.request_as_sent(exchange)))
            return exchange
        judgement = earlier.judgement if earlier is not None else None
        try:
            judgement = judgement or await self._checker.request(exchange, subject.content)
            exchange = replace(exchange, judgement=judgement)
            refusal = self._refusal_of(judgement, exchange)
            if refusal is not None:
                self._refuse(exchange, refusal)
            if judgement.changes:
                if exchange.call_type in _PASSED_THROUGH and _is_sent_as_read():
                    raise UnmappableMask("LiteLLM sends the body of this route as it was before the check")
                apply_mask(subject.target, subject.content, judgement.changes)
                if subject.hand_back is not None:
                    subject.hand_back(subject.target)
        except UnmappableMask as error:
            self._journal.unmappable(exchange, error)
            exchange = replace(exchange, judgement=judgement or _UNAPPLIED)
            self._refuse(exchange, Refusal(403, _blocked_message(_UNMAPPABLE), judged=True))
        note_outcome(outcome_of(judgement))
        if not judgement.changes:
            return exchange
        self._journal.masked(exchange, judgement)
        return replace(exchange, request_payload=payload_of(subject.masked_content(), bare=exchange.bare))

    def _refusal_of(self, judgement: Judgement, exchange: Exchange, *, of_answer: bool = False) -> Refusal | None:
        """What `judgement` asks for; says what is to be said about it."""
        verdict = judgement.verdict
        if verdict.cause is not None:
            self._journal.unavailable(verdict.cause, verdict.reason, exchange, of_answer=of_answer)
            if verdict.cause is Cause.TOO_LARGE:
                return Refusal(413, _ANSWER_TOO_LARGE if of_answer else _TOO_LARGE, judged=False)
            message = _ANSWER_UNAVAILABLE if of_answer else _UNAVAILABLE
            return _without_verdict(message) if self._settings.fail_closed else None
        if verdict.decision is Decision.BLOCK:
            self._journal.violation("blocked", exchange, judgement, of_answer=of_answer)
            return Refusal(403, _blocked_message(verdict.reason), judged=True)
        if verdict.decision is Decision.FLAG:
            self._journal.violation("flagged", exchange, judgement, of_answer=of_answer)
        return None

    def _refuse(
        self,
        exchange: Exchange,
        refusal: Refusal,
        answer: object = None,
        released: Callable[[], object] = _nothing,
    ) -> NoReturn:
        """Records the refusal and raises it. `answer`: the answer that was refused, none when the request was."""
        self._record_refusal(exchange, refusal, answer, released)
        refusal.judgement = exchange.judgement
        note_outcome("blocked" if refusal.judged else "unchecked")
        raise refusal

    def _record_refusal(
        self,
        exchange: Exchange,
        refusal: Refusal,
        answer: object = None,
        released: Callable[[], object] = _nothing,
    ) -> None:
        """Records the refusal, in place of an open exchange if there is one."""
        self._open.take(exchange.key)
        try:
            said = released()
            body: dict[str, object] = {
                "x-blocked-by": "Akto Proxy",
                "reason": refusal.message.removeprefix(f"{BLOCKED}: "),
                **({} if said is None else {"released": said}),
                **({} if answer is None else {"answer": answer}),
            }
            self._records.put(exchange, body, refusal.status)
            if said is not None:
                self._records.put_tool_calls(exchange, said)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the record, the request stays refused
            self.note_internal_error(error)

    def checks_answers(self, data: Mapping[str, object]) -> bool:
        """Whether the answer to the request that `data` belongs to has to be checked before anybody gets it."""
        exchange = self._answered(data) if self._settings.response_guardrails else None
        return exchange is not None and self._checks_answer_of(exchange)

    def _checks_answer_of(self, exchange: Exchange) -> bool:
        settings = self._settings
        return settings.response_guardrails and settings.sync_mode and exchange.call_type in _SPOKEN

    async def check_answer(
        self, data: Mapping[str, object], body: object, released: Callable[[], object] = _nothing
    ) -> Judgement:
        """Checks a model's answer; gives what Akto said, with the changes by their places in `body`.

        Whoever applies them calls `answer_passed` then. Raises `Refusal`; the refused answer is recorded then, and what
        the client got of a stream before it, which `released` gives. A bug in here is no verdict:
        `UNREACHABLE_FALLBACK`.
        """
        exchange = self._answered(data)
        if exchange is None or _is_still_to_come(body):
            return _ALLOWED
        try:
            judgement = await self._checker.answer(exchange, readable_items(without_media(as_object(exchange, body))))
        except (UnmappableMask, RecursionError) as error:
            raise self.refusal_of_answer_mask(data, body, error, released) from None
        except Exception as error:  # noqa: BLE001 - the same as for requests
            judgement = Judgement(unavailable(Cause.INTERNAL, type(error).__name__))
        refusal = self._refusal_of(judgement, exchange, of_answer=True)
        if refusal is not None:
            self._refuse(replace(exchange, judgement=judgement), refusal, body, released)
        note_outcome(outcome_of(judgement))
        whole = as_object(exchange, body)
        wrapped = 0 if whole is body else 1
        changes = with_heads(whole, judgement.changes)
        return replace(judgement, changes={path[wrapped:]: text for path, text in changes.items()})

    def answer_passed(self, data: Mapping[str, object], judgement: Judgement) -> None:
        """An answer, or a part of one, goes to the client with the masks of `judgement` in it."""
        exchange = self._answered(data)
        if exchange is not None and judgement.changes:
            self._journal.masked(exchange, judgement, of_answer=True)

    def will_check_answer(self) -> bool:
        """Whether the answer to the request that is served, as it was checked last, will be checked, too."""
        exchange = latest_exchange.get()
        return exchange is not None and not exchange.at_gate and self._checks_answer_of(exchange)

    def refuse_mixed_choices(self) -> None:
        """Refuses the request that is served, because LiteLLM would mix up the choices of its answer."""
        request, exchange = current_request(), latest_exchange.get()
        if request is None or exchange is None:
            return
        request.refused = Refusal(400, _MIXED_CHOICES, judged=False)
        note_outcome("blocked")
        self._refuse(exchange, request.refused)

    def refusal_of_answer_mask(
        self, data: Mapping[str, object], body: object, error: Exception, released: Callable[[], object] = _nothing
    ) -> Refusal:
        """The refusal, recorded already, of an answer in which a mask has no place, or that cannot be read."""
        refusal = Refusal(403, _blocked_message(_UNMAPPABLE), judged=True)
        refusal.judgement = _UNAPPLIED
        note_outcome("blocked")
        exchange = self._answered(data)
        if exchange is not None:
            self._journal.unmappable(exchange, error, of_answer=True)
            self._record_refusal(exchange, refusal, body, released)
        return refusal

    def _in_background(
        self, exchange: Exchange, check: Coroutine[Any, Any, Judgement], *, of_answer: bool = False
    ) -> None:
        task = asyncio.get_running_loop().create_task(self._watch(exchange, check, of_answer=of_answer))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watch(self, exchange: Exchange, check: Coroutine[Any, Any, Judgement], *, of_answer: bool) -> None:
        try:
            judgement = await check
        except UnmappableMask as error:
            self._journal.unmappable(exchange, error, of_answer=of_answer)
        except Exception as error:  # noqa: BLE001 - nobody awaits this task; asyncio would print the error's text
            self.note_internal_error(error)
        else:
            verdict = judgement.verdict
            if verdict.cause is not None:
                self._journal.unavailable(verdict.cause, verdict.reason, exchange, of_answer=of_answer)
            elif verdict.decision is not Decision.ALLOW:
                self._journal.violation_seen(exchange, judgement, of_answer=of_answer)
            if judgement.changes:
                self._journal.mask_seen(exchange, judgement, of_answer=of_answer)
            self._note_tool(exchange, judgement)

    def finished(self, data: Mapping[str, object], answer: object, status: int) -> None:
        """Records the exchange that `data` belongs to with its `answer`, once; later calls for it do nothing."""
        self.finished_exchange(key_of(data), answer, status)

    def failed(self, data: Mapping[str, object], error: Mapping[str, object], status: int) -> None:
        """The same for a call that failed: its `error`, beside what was sent of a stream that is passed through."""
        said, _ = _passed_through(current_request())
        self.finished(data, {**(said or {}), **error} or None, status)

    def finished_exchange(self, key: Key, answer: object, status: int) -> None:
        """The same for the exchange with this mark."""
        status = self._awaited.status_of(key, status)
        exchange = self._open.take(key)
        self._displaced.pop(key, None)
        if exchange is None or (exchange.call_type == _FETCHED and _is_still_to_come(answer)):
            return
        if exchange.refused_within and status in (exchange.refused_within, CLIENT_LEFT) and _says_nothing(answer):
            # All that the client got is that refusal, if it has waited for it, and its record says so.
            return
        self._records.put(exchange, answer, status)
        if answer is None:
            return
        if self._settings.response_guardrails and not self._settings.sync_mode and exchange.call_type in _SPOKEN:
            check = self._checker.answer(exchange, readable_items(as_object(exchange, answer)))
            self._in_background(exchange, check, of_answer=True)
        self._records.put_tool_calls(exchange, answer)

    def _request_ended(self, request: ClientRequest, key: Key) -> None:
        """Sees to the record of an exchange that no hook has brought the answer to by the end of its request."""
        exchange = self._open.get(key)
        if exchange is None:
            self._displaced.pop(key, None)
            return
        status = _status_at_end(request)
        if request.is_answered and status >= 400 and status != CLIENT_LEFT:
            # On some routes LiteLLM calls no hook for an error.
            error = {"error": {"message": f"answered with HTTP status {status}"}}
            self._finished_without_hook(key, error, status)
        elif request.stream is not None and (request.stream.has_begun or request.is_answered):
            self._stream_ended(key, request, status)
        elif status >= 400:
            self._awaited.add(key, status, _LEFT_SECONDS)
        else:
            self._awaited.add(key, status, _BACKGROUND_SECONDS if exchange.call_type in _BACKGROUND else _LATE_SECONDS)

    def _given_up(self, key: Key, status: int) -> None:
        self._displaced.pop(key, None)
        exchange = self._open.get(key)
        if exchange is not None:
            if not exchange.refused_within:
                self._counters.add("answers_missed")
            self._finished_without_hook(key, None, status)

    def _finished_without_hook(self, key: Key, answer: object, status: int) -> None:
        try:
            self.finished_exchange(key, answer, status)
        except Exception as error:  # noqa: BLE001 - called by the server or the event loop, which would print its text
            self.note_internal_error(error)

    def _stream_ended(self, key: Key, request: ClientRequest, status: int) -> None:
        try:
            body, told = _passed_through(request)
            self.finished_exchange(key, body, told if status == 200 else status)
        except Exception as error:  # noqa: BLE001 - the same
            self.note_internal_error(error)

    def _answered(self, data: Mapping[str, object]) -> Exchange | None:
        """The exchange whose answer is coming; None when it was refused, or there was nothing to check."""
        key = key_of(data)
        return self._open.get(key) or self._displaced.get(key)

    def call_type_of(self, data: Mapping[str, object]) -> str:
        """The call type of the exchange whose answer is coming; "" where there is none."""
        exchange = self._answered(data)
        return "" if exchange is None else exchange.call_type

    def open_exchange(self, data: Mapping[str, object]) -> Exchange | None:
        """The exchange that `data` belongs to, if it is not recorded yet."""
        return self._open.get(key_of(data))

    def start(self) -> None:
        """Begins to send the records that earlier workers left. Must be called on the event loop."""
        self._records.start()

    async def close(self, seconds: float) -> None:
        """Ends background checks and delivers queued records, for at most `seconds`, and logs the counters."""
        deadline = asyncio.get_running_loop().time() + seconds
        self._burst.run()
        if self._background:
            await asyncio.wait(self._background, timeout=seconds / 2)
            for task in self._background:
                task.cancel()
        self._awaited.close()
        for exchange in self._open.take_all():
            self._counters.add("exchanges_left_open")
            self._records.put(exchange, None, CLIENT_LEFT)
        await self._records.flush(deadline - asyncio.get_running_loop().time())
        await self._client.close()
        _log.info("GuardrailsHandler stopped | %s", orjson.dumps(self._counters.snapshot()).decode())

    def note_internal_error(self, error: BaseException) -> None:
        """Counts and logs a bug of the guard outside a check. The message stays out: it may quote content."""
        self._journal.internal_error(error)


def _without_verdict(message: str) -> Refusal:
    """What UNREACHABLE_FALLBACK=fail_closed makes of a missing verdict."""
    request = current_request()
    if request is not None:
        request.is_unverdicted = True
    return Refusal(503, message, judged=False)


def _may_carry_text(call_type: str) -> bool:
    """Whether a call has more to it than names and ids: not those without a body, but for passed-on queries."""
    request = current_request()
    is_bodiless = request is not None and request.method in ("GET", "DELETE") and not request.is_websocket
    return call_type not in _ADMINISTRATION and (call_type == PASS_THROUGH or not is_bodiless)


def _is_sent_as_read() -> bool:
    request = current_request()
    return request is not None and request.path.startswith(tuple(f"{root}/" for root in _SENT_AS_READ))


def _passed_through(request: ClientRequest | None) -> tuple[dict[str, object] | None, int]:
    """What was sent of a stream that is passed through, and the status it has by what it says itself."""
    stream = None if request is None else request.stream
    return (None, 200) if stream is None else stream.answer()


def _status_at_end(request: ClientRequest) -> int:
    """The status of a request that has ended, by what was sent of its answer."""
    if request.has_failed and not request.is_answered:
        return 500
    return request.status if request.is_answered and request.status is not None else CLIENT_LEFT


def _is_batch_record(data: Mapping[str, object], call_type: str) -> bool:
    """Whether LiteLLM shows one record of a batch file: what the client wrote, with nothing of LiteLLM's around it.

    Entries of LiteLLM's names prove nothing: the client may have written those, too, though no object of Python's.
    """
    request = current_request()
    is_upload = request is not None and request.path.rstrip("/").endswith("/files") and call_type not in _NOT_IN_BATCHES
    written = data.get("litellm_logging_obj")
    return is_upload and (written is None or isinstance(written, (str, int, float, list, dict)))


def _says_nothing(answer: object) -> bool:
    """Whether there is nothing in `answer` but an error."""
    return answer is None or (isinstance(answer, dict) and answer.keys() <= {"error"})


def _is_still_to_come(answer: object) -> bool:
    """Whether `answer` only says that the Responses API is working on one in the background.

    The first event of a stream says so, too, and stays true for what comes of its answer first.
    """
    if not isinstance(answer, dict) or answer.get("status") not in ("queued", "in_progress"):
        return False
    return not answer.get("output") and not answer.get("events")


def outcome_of(judgement: Judgement) -> Outcome:
    """What became of something that may pass."""
    if judgement.changes:
        return "masked"
    if judgement.verdict.cause is not None:
        return "unchecked"
    return "flagged" if judgement.verdict.decision is Decision.FLAG else "allowed"


def _blocked_message(reason: str) -> str:
    return f"{BLOCKED}: {reason}" if reason else BLOCKED
