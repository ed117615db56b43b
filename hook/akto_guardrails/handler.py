"""LiteLLM's callback: its hook names on one side, the guard's words on the other.

Signatures and call order were read and tried on LiteLLM 1.106.2. A hook counts for LiteLLM only when it is defined
on the instance's own class, so none of them may move to a base class.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from contextvars import Context
from functools import partial
from typing import Any, Final

from fastapi import HTTPException
from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger
from litellm.litellm_core_utils.get_llm_provider_logic import get_llm_provider
from litellm.proxy._types import ProxyException

from akto_guardrails.checker import Judgement
from akto_guardrails.client_request import ClientRequest, Outcome, current_request
from akto_guardrails.content import Path, answer_body, copy_of
from akto_guardrails.exchange import Exchange
from akto_guardrails.guard import CLIENT_LEFT, Guard, Refusal, outcome_of
from akto_guardrails.identity import KeyHolder
from akto_guardrails.json_text import json_bytes
from akto_guardrails.masking import UnmappableMask, apply_to_answer, unsay_logprobs
from akto_guardrails.mcp_result import McpResult, body_of_result, mask_result, refuse_result
from akto_guardrails.metrics import metrics_of_worker
from akto_guardrails.mixed_choices import mixes_choices
from akto_guardrails.reporter import Reporter
from akto_guardrails.settings import Settings
from akto_guardrails.shown import ShownByLiteLLM
from akto_guardrails.socket_guard import GuardedSocket
from akto_guardrails.stream_guard import Window, guarded
from akto_guardrails.streaming import StreamedAnswer
from akto_guardrails.turns import Turns

GUARDRAIL_NAME: Final = "akto"

# Routes on which LiteLLM calls no hook with the answer on its way to the client.
_ANSWERED_LATE: Final = frozenset(
    {
        "acreate_realtime_client_secret",
        "aspeech",
        "moderation",
        "pass_through_endpoint",
        "rerank",
        "transcription",
    }
)

_RESPONSES_SOCKET: Final = "_aresponses_websocket"
# Routes on which LiteLLM turns only FastAPI's own exception into the right status.
_PLAIN_ERRORS: Final = frozenset({"asend_message", "call_mcp_tool"})

_GEMINI_STREAM: Final = ":streamGenerateContent"
_GOOGLES_WORDS: Final = {403: "PERMISSION_DENIED", 503: "UNAVAILABLE"}

_KEEP_ALIVE_SECONDS: Final = 15.0
# How long LiteLLM may take to end a stream of its own accord when its client has gone.
_ABANDONED_SECONDS: Final = 2.0

_log: Final = logging.getLogger(__name__)

try:
    # Seen on 1.106.2 and 1.96.2. Nothing else comes of the mark than that an error is not counted against a deployment.
    from litellm.router_utils.cooldown_handlers import mark_advisor_orchestration_failure as _excuse_the_deployment
except ImportError:
    # 1.83.14 knows no such errors: there, a 503 of the second gate counts as the deployment's.
    def _excuse_the_deployment(exception: BaseException) -> None:
        """Nothing can be done about it."""


class GuardrailsHandler(CustomLogger):
    """The guard as LiteLLM sees it. One instance for each worker."""

    # Makes LiteLLM show the records of a batch file and the tools of an MCP catalog to `async_pre_call_hook`.
    enforces_request_content = True

    def __init__(self, guard: Guard, settings: Settings, reporter: Reporter) -> None:
        super().__init__()
        self._guard = guard
        self._reporter = reporter
        self._shown = ShownByLiteLLM(GUARDRAIL_NAME)
        self._mode = "blocking" if settings.sync_mode else "watching"
        self.may_refuse = settings.sync_mode
        # Releases before 1.100 do not know the attribute above.
        guard.is_shown_batches = hasattr(CustomLogger, "enforces_request_content")
        self._flush_seconds = settings.shutdown_flush_seconds
        self._window = Window() if settings.stream_guard == "window" else None
        # Streams that are held back need a sign of life on the wire.
        self.keep_alive_seconds = _KEEP_ALIVE_SECONDS if settings.response_guardrails else None

    async def async_pre_call_hook(
        self,
        user_api_key_dict: KeyHolder,
        cache: object,
        data: dict[str, Any],
        call_type: str,
    ) -> None:
        """Checks the request; raises the exception that LiteLLM turns into an error in the client's own format."""
        if call_type == _RESPONSES_SOCKET and "websocket" in data:
            self._guard_turns(user_api_key_dict, data, call_type)
            return
        request = current_request()
        if call_type == "aresponses" and request is not None and request.has_guarded_turns:
            # LiteLLM 1.110 shows each turn on a WebSocket once more, after it has read it.
            return
        try:
            await self._guard.check_request(data, user_api_key_dict, call_type)
            self._show(data, self._guard.open_exchange(data))
        except Refusal as refusal:
            self._show_refusal(data, refusal)
            if call_type == "aspeech":
                # The only exception whose status LiteLLM 1.83 and 1.96 keep on this route.
                raise ProxyException(refusal.message, "permission_error", None, refusal.status) from None
            raise _for_litellm(refusal, call_type) from None

    async def async_pre_call_deployment_hook(self, kwargs: dict[str, Any], call_type: object) -> None:
        """Checks what an attempt to call a model carries beyond what the pre-call hook was shown.

        `call_type` is an enum whose values are the pre-call hook's words, or None when LiteLLM has no entry for it.
        """
        self._shown.is_under_way(kwargs)
        kind = str(getattr(call_type, "value", call_type))
        try:
            await self._guard.check_attempt(kwargs, kind)
            if self._guard.will_check_answer() and mixes_choices(kwargs, kind, partial(_provider_of, kwargs)):
                self._guard.refuse_mixed_choices()
        except Refusal as refusal:
            error = HTTPException(refusal.status, refusal.message)
            _excuse_the_deployment(error)
            raise error from None

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: KeyHolder, response: object
    ) -> None:
        """Checks an answer that was not streamed, where answers are checked, and records it."""
        if self._guard.checks_answers(data):
            body: object = None
            call_type = self._guard.call_type_of(data)
            try:
                body = answer_body(response)
                judgement = await self._guard.check_answer(data, body)
                apply_to_answer(response, judgement.changes)
                if judgement.changes:
                    unsay_logprobs(response)
                self._guard.answer_passed(data, judgement)
            except asyncio.CancelledError:
                self._finished(data, response, CLIENT_LEFT)
                raise
            except Refusal as refusal:
                self._show_refusal(data, refusal, of_answer=True)
                raise _for_litellm(refusal, call_type) from None
            except Exception as error:  # noqa: BLE001 - what cannot be read or masked was not checked
                refused = self._guard.refusal_of_answer_mask(data, body, error)
                self._show_refusal(data, refused, of_answer=True)
                raise _for_litellm(refused, call_type) from None
        self._finished_at_end(data, response)

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: KeyHolder,
        response: AsyncIterator[object],
        request_data: dict[str, Any],
    ) -> AsyncGenerator[object, None]:
        """Passes a streamed answer on, item by item, and records it when it ends, however it ends.

        Where answers are checked, nothing is passed on that Akto has not seen. When the client leaves, the record has
        what the model has said by then.
        """
        answer = StreamedAnswer()
        status, failure = 200, None
        has_begun = is_closed = False
        request, task = current_request(), asyncio.current_task()
        if request is not None and task is not None:
            request.said = answer.body
            request.when_ended(partial(self._stream_left_behind, request, request_data, task))
        checked = self._guard.checks_answers(request_data)
        checking = self._guarded(request_data, response, answer) if checked else None
        try:
            async for item in response if checking is None else checking:
                try:
                    answer.add(item)
                except Exception as error:  # noqa: BLE001 - what cannot be read for the record must not break the stream
                    self._guard.note_internal_error(error)
                has_begun = True
                yield item
        except (asyncio.CancelledError, GeneratorExit) as end:
            # Whoever reads the stream may have had enough of it while the client is there.
            is_closed = isinstance(end, GeneratorExit)
            status = 200 if is_closed else CLIENT_LEFT
            if checking is not None:
                await checking.aclose()
            raise
        except Refusal as refusal:
            self._show_refusal(request_data, refusal, of_answer=True)
            # Pings may have begun it too.
            has_begun = has_begun or (request is not None and request.status is not None)
            if has_begun and request is not None and request.path.endswith(_GEMINI_STREAM):
                # LiteLLM's own error event, which follows, has its code as a string, over which Google's SDK stumbles.
                yield _gemini_error(refusal)
            raise _for_litellm(refusal) from None
        except Exception as error:  # not handled here: noted for the record and passed on
            status, failure = _status_of(error), error
            raise
        finally:
            # LiteLLM closes a Gemini stream whose first event is an error, and answers with the status in that.
            if is_closed and answer.error_status is None:
                self._closed_early(request, request_data, answer)
            else:
                self._finished(request_data, answer, status, failure)

    async def async_post_mcp_tool_call_hook(
        self, kwargs: dict[str, Any], response_obj: McpResult, start_time: object, end_time: object
    ) -> McpResult | None:
        """Checks what an MCP tool gave back, where answers are checked, and records it.

        LiteLLM swallows exceptions of this hook, so a refused result is replaced by an error text.
        """
        if not self._guard.checks_answers(kwargs):
            self._finished(kwargs, self._readable(response_obj, kwargs), 200)
            return None
        body: object = None
        try:
            body = body_of_result(response_obj, kwargs)
            judgement = await self._guard.check_answer(kwargs, body)
            changes = judgement.changes
            mask_result(response_obj, changes)
            self._guard.answer_passed(kwargs, judgement)
        except asyncio.CancelledError:
            self._finished(kwargs, body, CLIENT_LEFT)
            raise
        except Refusal as refusal:
            refuse_result(response_obj, refusal.message, kwargs)
            return response_obj
        except Exception as error:  # noqa: BLE001 - what cannot be read or masked was not checked
            refuse_result(response_obj, self._guard.refusal_of_answer_mask(kwargs, body, error).message, kwargs)
            return response_obj
        # Masked content has no place for structured content: LiteLLM drops it.
        self._finished(kwargs, self._readable(response_obj, {}) if changes else body, 200)
        return response_obj if changes else None

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: KeyHolder,
        traceback_str: str | None = None,
    ) -> None:
        """Records a request whose model call failed. The guard's own refusals come by here too, recorded already."""
        status = _status_of(original_exception)
        try:
            error = {} if status == CLIENT_LEFT else _error_body(original_exception)
            self._guard.failed(request_data, self._said_so_far(request_data) | error, status)
        except Exception as failure:  # noqa: BLE001 - a record that cannot be made must not break the answer
            self._guard.note_internal_error(failure)

    async def async_post_call_success_deployment_hook(
        self, request_data: dict[str, Any], response: object, call_type: object
    ) -> None:
        """Records exchanges on routes where no hook is called with the answer to the client."""
        if not hasattr(response, "__aiter__") and self._is_answered_late(request_data, call_type):
            self._finished(request_data, response, 200)

    async def async_logging_hook(
        self, kwargs: dict[str, Any], result: object, call_type: str
    ) -> tuple[dict[str, Any], object]:
        """The same where the answer is streamed, or passed through.

        Not `async_log_success_event`, which a client switches off with `no-log` in its body.
        """
        if self._is_answered_late(kwargs, call_type):
            request = current_request()
            finish = partial(self._finished, kwargs, result, 200)
            if request is None:
                finish()
            else:
                # Only then is it known whether the client was there to the end.
                request.when_ended(finish)
        return kwargs, result

    def admits(self, family: str) -> bool:
        """Whether a request on an unchecked route of `family` may be served."""
        return self._guard.admits(family)

    def start(self, *, has_metrics: bool = False) -> None:
        """Begins the work of a worker that is about to serve; `has_metrics`: LiteLLM serves `/metrics`."""
        # Not earlier: whether lines are to be JSON may stand in LiteLLM's config.
        _log.info("GuardrailsHandler initialized | sync_mode=%s", self._mode == "blocking")
        self._guard.start()
        self._reporter.start(metrics_of_worker(self._mode, is_served=has_metrics))

    async def close(self) -> None:
        """Delivers queued records, for as long as the settings allow, and closes the connections."""
        await self._guard.close(self._flush_seconds)
        await self._reporter.stop()

    def _show(self, data: dict[str, Any], exchange: Exchange | None) -> None:
        """Tells LiteLLM of a request that may pass; nothing where there was nothing to check."""
        if exchange is None:
            return
        self._shown.applied(data)
        if exchange.judgement is not None:
            self._shown.judged(data, exchange.judgement, outcome_of(exchange.judgement))

    def _show_refusal(self, data: dict[str, Any], refusal: Refusal, *, of_answer: bool = False) -> None:
        self._shown.applied(data)
        if refusal.judgement is not None:
            outcome: Outcome = "blocked" if refusal.judged else "unchecked"
            self._shown.judged(data, refusal.judgement, outcome, of_answer=of_answer)

    def _stream_left_behind(
        self, request: ClientRequest, data: Mapping[str, object], task: asyncio.Task[object]
    ) -> None:
        """Ends a stream that is being read by `task` though its request has ended, because the client has gone.

        LiteLLM 1.106.2 forgets such a task where it has sent pings for want of a first item; it would read on.
        """

        def end() -> None:
            if self._guard.open_exchange(data) is not None:
                task.cancel()

        if not request.is_answered and self._guard.open_exchange(data) is not None:
            asyncio.get_running_loop().call_later(_ABANDONED_SECONDS, end, context=Context())

    async def _guarded(
        self, data: dict[str, Any], response: AsyncIterator[object], answer: StreamedAnswer
    ) -> AsyncGenerator[object, None]:
        """The items of a stream, each once Akto has seen it; when nobody wants them, `answer` gets the rest.

        Raises `Refusal`.
        """
        latest: object = None
        judgement: Judgement | None = None
        is_rest = _is_rest_of_an_answer(data)

        async def judge(body: object) -> Mapping[Path, str]:
            nonlocal latest, judgement
            latest = body
            judgement = await self._guard.check_answer(data, body, answer.body)
            if is_rest and judgement.changes:
                raise UnmappableMask("the stream may begin in the middle of what is to be masked")
            return judgement.changes

        def note_passed() -> None:
            if judgement is not None:
                self._guard.answer_passed(data, judgement)

        def collect_rest(items: Iterable[object]) -> None:
            try:
                for item in items:
                    answer.add(item)
            except Exception as error:  # noqa: BLE001 - what cannot be read for the record must not break the stream
                self._guard.note_internal_error(error)

        try:
            window = None if is_rest else self._window
            async with aclosing(guarded(response, judge, window, collect_rest, note_passed)) as items:
                async for item in items:
                    yield item
        except UnmappableMask as error:
            raise self._guard.refusal_of_answer_mask(data, latest, error, answer.body) from None
        except RecursionError:
            # Text nested so deeply that it cannot be walked is text hidden from the check.
            deep = UnmappableMask("the answer is nested too deeply")
            raise self._guard.refusal_of_answer_mask(data, latest, deep, answer.body) from None

    def _guard_turns(self, key: KeyHolder, data: dict[str, Any], call_type: str) -> None:
        """Has every message on a WebSocket checked, the first one too, which came before this hook.

        That one has to be read again: in the one that it has, LiteLLM puts back the text that it read.
        """
        turns = Turns(self._guard, data, key, call_type)
        data["websocket"] = GuardedSocket(data["websocket"], data.pop("first_message", None), turns)
        request = current_request()
        if request is not None:
            request.has_guarded_turns = True
            request.when_ended(turns.end)

    def _is_answered_late(self, kwargs: Mapping[str, object], call_type: object) -> bool:
        exchange = self._guard.open_exchange(kwargs)
        if exchange is None:
            return False
        # Calls within the call, such as a search's, carry its mark too.
        own = exchange.at_gate and getattr(call_type, "value", call_type) == exchange.call_type
        return own or exchange.call_type in _ANSWERED_LATE

    def _readable(self, result: McpResult, details: Mapping[str, object]) -> object:
        try:
            return body_of_result(result, details)
        except Exception as error:  # noqa: BLE001 - a record that cannot be made must not break the answer
            self._guard.note_internal_error(error)
            return None

    def _finished_at_end(self, data: Mapping[str, object], answer: object) -> None:
        """`_finished` once the request has ended, with the answer as it is when this is called.

        A callback that comes after this one may make an error of it: then that is what the client gets. What it writes
        into the answer is for the client alone, such as names in place of those that it hid from the model.
        """
        request = current_request()
        # A connection of turns ends long after each of them.
        if request is None or request.is_websocket:
            self._finished(data, answer, 200)
            return
        try:
            body = answer_body(answer)
            if isinstance(answer, (dict, list)):
                body = copy_of(body)
        except Exception:  # noqa: BLE001 - nested too deeply for a copy, perhaps not for the record
            self._finished(data, answer, 200)
        else:
            request.when_ended(partial(self._finished, data, body, 200))

    def _said_so_far(self, data: Mapping[str, object]) -> dict[str, object]:
        """What has been handed on of the answer, if it is a stream, which a later callback may break off."""
        request = current_request()
        if request is None or request.said is None or self._guard.open_exchange(data) is None:
            return {}
        try:
            said = request.said()
        except Exception as error:  # noqa: BLE001 - the error is recorded all the same
            self._guard.note_internal_error(error)
            return {}
        return said if isinstance(said, dict) else {}

    def _closed_early(self, request: ClientRequest | None, data: Mapping[str, object], answer: StreamedAnswer) -> None:
        """Records a stream that was closed before its end, once it is known whether the client was there to the end."""
        if request is None or request.is_websocket:
            self._finished(data, answer, CLIENT_LEFT)
        else:
            request.when_ended(partial(self._finished, data, answer, 200))

    def _finished(
        self, data: Mapping[str, object], answer: object, status: int, failure: Exception | None = None
    ) -> None:
        try:
            body = answer.body() if isinstance(answer, StreamedAnswer) else answer_body(answer)
            if isinstance(answer, StreamedAnswer) and status == 200:
                status = answer.error_status or status
            if failure is not None:
                body = (body if isinstance(body, dict) else {}) | _error_body(failure)
            self._guard.finished(data, body, status)
        except Exception as error:  # noqa: BLE001 - a record that cannot be made must not break the answer
            self._guard.note_internal_error(error)


def _for_litellm(refusal: Refusal, call_type: str = "") -> GuardrailRaisedException | HTTPException:
    """The refusal as an exception of LiteLLM.

    Not HTTPException but on few routes: with LiteLLM's own the status and a clean message reach the client on all
    others, in a stream too, and batch files understand it.
    """
    if call_type in _PLAIN_ERRORS:
        return HTTPException(refusal.status, refusal.message)
    error = GuardrailRaisedException(
        guardrail_name=GUARDRAIL_NAME, message=refusal.message, should_wrap_with_default_message=False
    )
    # Not given to the constructor, which knows neither on LiteLLM 1.83 and only the first on 1.96.
    error.status_code = refusal.status
    error.blocked_content = refusal.judged
    if refusal.status == 403:
        # Without these the two releases answer "None".
        error.type, error.param = "permission_error", None
    return error


def _is_rest_of_an_answer(data: Mapping[str, object]) -> bool:
    """Whether a stream of a stored answer was asked for from some event on (LiteLLM 1.110.2)."""
    query = data.get("extra_query")
    asked = [data, query] if isinstance(query, dict) else [data]
    return any(each.get("starting_after") is not None for each in asked)


def _gemini_error(refusal: Refusal) -> bytes:
    """The refusal as an event of Gemini's API."""
    word = _GOOGLES_WORDS.get(refusal.status, "INVALID_ARGUMENT")
    error = {"code": refusal.status, "message": refusal.message, "status": word}
    return b"data: " + json_bytes({"error": error}) + b"\n\n"


def _provider_of(kwargs: Mapping[str, Any]) -> str:
    """LiteLLM's word for where a call of a model goes; nothing where it has none, and makes no call."""
    try:
        names = {name: kwargs.get(name) for name in ("custom_llm_provider", "api_base")}
        return str(get_llm_provider(str(kwargs.get("model")), **names)[1])
    except Exception:  # noqa: BLE001 - LiteLLM says so itself, later
        return ""


def _error_body(error: Exception) -> dict[str, object]:
    return {"error": {"message": str(error), "type": type(error).__name__}}


def _status_of(error: Exception) -> int:
    """The HTTP status a client sees for `error`; LiteLLM's exceptions carry it as `status_code` or as `code`."""
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 500
