"""LiteLLM's callback: its hook names on one side, the guard's words on the other.

Signatures and call order were read and tried on LiteLLM 1.106.2. A hook counts for LiteLLM only when it is defined
on the instance's own class, so none of them may move to a base class.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any, Final

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_logger import CustomLogger

from akto_guardrails.content import answer_body
from akto_guardrails.guard import Guard, Refusal
from akto_guardrails.identity import KeyHolder
from akto_guardrails.streaming import StreamedAnswer

GUARDRAIL_NAME: Final = "akto"

# Routes on which LiteLLM calls no hook with the answer; there the record is made from the log event.
_ANSWER_ONLY_IN_LOG: Final = frozenset({"aspeech", "transcription", "moderation", "rerank", "pass_through_endpoint"})

_CLIENT_LEFT: Final = 499

_log: Final = logging.getLogger(__name__)


class GuardrailsHandler(CustomLogger):
    """The guard as LiteLLM sees it. One instance for each worker."""

    def __init__(self, guard: Guard, *, sync_mode: bool) -> None:
        super().__init__()
        self._guard = guard
        _log.info("GuardrailsHandler initialized | sync_mode=%s", sync_mode)

    async def async_pre_call_hook(
        self,
        user_api_key_dict: KeyHolder,
        cache: object,
        data: dict[str, Any],
        call_type: str,
    ) -> None:
        """Checks the request; raises the exception that LiteLLM turns into an error in the client's own format.

        GuardrailRaisedException and not HTTPException: the status and a clean message reach the client on every
        route, and batch files understand it.
        """
        try:
            await self._guard.check_request(data, user_api_key_dict, call_type)
        except Refusal as refusal:
            raise GuardrailRaisedException(
                guardrail_name=GUARDRAIL_NAME,
                message=refusal.message,
                should_wrap_with_default_message=False,
                status_code=refusal.status,
                blocked_content=refusal.judged,
            ) from None

    async def async_post_call_success_hook(
        self, data: dict[str, Any], user_api_key_dict: KeyHolder, response: object
    ) -> None:
        """Records an answer that was not streamed."""
        self._finished(data, response, 200)

    async def async_post_call_streaming_iterator_hook(
        self,
        user_api_key_dict: KeyHolder,
        response: AsyncIterator[object],
        request_data: dict[str, Any],
    ) -> AsyncGenerator[object, None]:
        """Passes a streamed answer on, item by item, and records it when it ends, however it ends."""
        answer = StreamedAnswer()
        status, failure = 200, None
        try:
            async for item in response:
                self._collect(answer, item)
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            status = _CLIENT_LEFT
            raise
        except Exception as error:  # not handled here: noted for the record and passed on
            status, failure = _status_of(error), error
            raise
        finally:
            self._finished(request_data, answer, status, failure)

    async def async_post_call_failure_hook(
        self,
        request_data: dict[str, Any],
        original_exception: Exception,
        user_api_key_dict: KeyHolder,
        traceback_str: str | None = None,
    ) -> None:
        """Records a request whose model call failed. The guard's own refusals come by here too, recorded already."""
        self._finished(request_data, _error_body(original_exception), _status_of(original_exception))

    async def async_log_success_event(
        self, kwargs: dict[str, Any], response_obj: object, start_time: object, end_time: object
    ) -> None:
        """Records exchanges on routes where no hook is called with the answer."""
        if self._guard.open_call_type(kwargs) in _ANSWER_ONLY_IN_LOG:
            self._finished(kwargs, response_obj, 200)

    async def close(self, seconds: float) -> None:
        """Delivers queued records for at most `seconds` and closes the connections."""
        await self._guard.close(seconds)

    def _collect(self, answer: StreamedAnswer, item: object) -> None:
        try:
            answer.add(item)
        except Exception as error:  # noqa: BLE001 - what cannot be read for the record must not break the stream
            self._guard.note_internal_error(error)

    def _finished(self, data: Mapping[str, Any], answer: object, status: int, failure: Exception | None = None) -> None:
        try:
            body = answer.body() if isinstance(answer, StreamedAnswer) else answer_body(answer)
            if failure is not None:
                body = (body if isinstance(body, dict) else {}) | _error_body(failure)
            self._guard.finished(data, body, status)
        except Exception as error:  # noqa: BLE001 - a record that cannot be made must not break the answer
            self._guard.note_internal_error(error)


def _error_body(error: Exception) -> dict[str, object]:
    return {"error": {"message": str(error), "type": type(error).__name__}}


def _status_of(error: Exception) -> int:
    """The HTTP status a client sees for `error`; LiteLLM's exceptions carry it as `status_code` or as `code`."""
    for name in ("status_code", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int) or (isinstance(value, str) and value.isdigit()):
            return int(value)
    return 500
