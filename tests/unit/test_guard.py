"""What happens to a request, from its check to its record."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import json
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from contextvars import Context
from typing import Any

import pytest

from akto_guardrails import awaited as awaited_module
from akto_guardrails import guard as guard_module
from akto_guardrails import sent_stream as sent_stream_module
from akto_guardrails.asgi import begin
from akto_guardrails.burst import Burst
from akto_guardrails.checker import Judgement
from akto_guardrails.client_request import ClientRequest
from akto_guardrails.content import Path
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import LONGEST_STRING
from akto_guardrails.exchange import OpenExchanges
from akto_guardrails.freed_memory import FreedMemory
from akto_guardrails.guard import Guard, Refusal
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.streaming import StreamedAnswer
from akto_guardrails.verdict import Cause, Decision, Verdict, unavailable
from unit.samples import CARD, MASKED_CARD, Key, LoggingObject, chat, settings

ALLOW = Verdict(Decision.ALLOW)
BLOCK = Verdict(Decision.BLOCK, reason="Prompt injection detected", behaviour="block")
ALERT = Verdict(Decision.FLAG, reason="PII detected", behaviour="alert", policy="Data", rule="Pii")
ANSWER = {"id": "chatcmpl-1", "choices": []}
OUTAGES = [cause for cause in Cause if cause not in (Cause.TOO_LARGE, Cause.INTERNAL)]


def mask(old: str, new: str) -> Callable[[dict[str, Any]], Verdict]:
    """A service that allows a request with `old` replaced by `new`."""
    return lambda sent: Verdict(Decision.ALLOW, mask=sent["requestPayload"].replace(old, new))


class Client:
    """Akto, as far as checks go: gives one verdict, or what a function makes of the envelope, or raises."""

    def __init__(self, verdict: Verdict | Callable[[dict[str, Any]], Verdict] | Exception) -> None:
        self._verdict = verdict
        self.checks: list[dict[str, Any]] = []
        self.answer_checks: list[dict[str, Any]] = []
        self.closed = False

    async def check(self, body: bytes, *, of_answer: bool = False) -> Verdict:
        await asyncio.sleep(0)
        sent = json.loads(body)
        (self.answer_checks if of_answer else self.checks).append(sent)
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return self._verdict if isinstance(self._verdict, Verdict) else self._verdict(sent)

    async def close(self) -> None:
        self.closed = True


class Recorder:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.queued_bytes = 0
        self.flushed = False
        self.broken: Exception | None = None

    def put(self, record: bytes, session: str | None = None) -> None:
        if self.broken is not None:
            raise self.broken
        self.records.append(json.loads(record))

    async def flush(self, seconds: float) -> None:
        self.flushed = True


class Guarded:
    """A guard with a client and a recorder that show what reached them."""

    def __init__(
        self, verdict: Verdict | Callable[[dict[str, Any]], Verdict] | Exception = ALLOW, **environment: str
    ) -> None:
        self.client = Client(verdict)
        self.recorder = Recorder()
        self.counters = Counters()
        self.guard = Guard(settings(**environment), self.client, self.recorder, self.counters)  # type: ignore[arg-type]

    @property
    def records(self) -> list[dict[str, Any]]:
        return self.recorder.records

    def check(self, data: dict[str, Any], key: Key | None = None) -> None:
        """Runs one check to its end, background work included; raises what the guard raises."""

        async def main() -> None:
            try:
                await self.guard.check_request(data, Key() if key is None else key, "acompletion")
            finally:
                await background_work()

        asyncio.run(main())

    def refusal(self, data: dict[str, Any]) -> Refusal:
        """The refusal that a check of `data` ends in."""
        with pytest.raises(Refusal) as caught:
            self.check(data)
        return caught.value

    def finish(self, data: dict[str, Any], answer: object = ANSWER, status: int = 200) -> None:
        """The answer to `data` came."""

        async def main() -> None:
            self.guard.finished(data, answer, status)

        asyncio.run(main())


async def background_work() -> None:
    """Waits for the tasks that were started beside this one."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})


def content_of(record: dict[str, Any]) -> Any:
    """The request's content in an envelope."""
    return json.loads(record["requestPayload"])["body"]


def answer_of(record: dict[str, Any]) -> Any:
    """The answer in a record."""
    return json.loads(record["responsePayload"])["body"]


def marked(data: dict[str, Any]) -> dict[str, Any]:
    """`data` with LiteLLM's record of the client's request, which exchanges are found by."""
    return {**data, "proxy_server_request": {"url": "/v1/chat/completions", "body": {}, "headers": {}}}


def nested(depth: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = ["hidden text"]
    for _ in range(depth):
        value = [value]
    return value


def test_an_allowed_request_is_checked_once_unchanged_and_recorded_with_its_answer() -> None:
    guarded = Guarded()
    data = chat("hello", temperature=0.2)
    before = copy.deepcopy(data)
    guarded.check(data)
    assert data == before
    (check,) = guarded.client.checks
    assert content_of(check) == {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
    assert check["responsePayload"] is None
    assert guarded.records == [], "the record waits for the answer"

    guarded.finish(data)
    (record,) = guarded.records
    assert content_of(record) == content_of(check)
    assert answer_of(record) == ANSWER
    assert record["status"] == record["statusCode"] == "200"


def test_an_exchange_is_recorded_once_however_often_its_end_is_seen() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    guarded.finish(data, ANSWER, 200)
    guarded.finish(data, {"error": {}}, 500)
    assert [record["status"] for record in guarded.records] == ["200"]


def test_a_failed_call_is_recorded_with_its_status() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    guarded.finish(data, {"error": {"message": "overloaded"}}, 529)
    (record,) = guarded.records
    assert record["status"] == "529"
    assert answer_of(record) == {"error": {"message": "overloaded"}}


def test_an_answer_that_never_came_leaves_the_record_without_one() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    guarded.finish(data, None, 499)
    assert guarded.records[0]["responsePayload"] is None


def test_check_and_record_carry_the_same_identity() -> None:
    guarded = Guarded()
    metadata = {"agent_name": "Checkout Agent", "requester_ip_address": "10.1.2.3"}
    data = chat(metadata=metadata, proxy_server_request={"headers": {}})
    guarded.check(data, Key(key_alias="key", request_route="/v1/messages"))
    guarded.finish(data)
    (check,), (record,) = guarded.client.checks, guarded.records
    headers = json.loads(record["requestHeaders"])
    assert headers.pop("x-akto-record-id")
    assert json.loads(check["requestHeaders"]) == headers
    for name in ("path", "tag", "metadata", "ip", "contextSource"):
        assert check[name] == record[name]
    assert check["path"] == "/v1/messages"
    assert check["ip"] == "10.1.2.3"
    assert json.loads(check["requestHeaders"])["host"].startswith("checkout-agent-")
    assert json.loads(check["tag"])["call_type"] == "acompletion"


def test_a_request_without_text_is_neither_checked_nor_recorded() -> None:
    guarded = Guarded(BLOCK)
    data = {"model": "m", "litellm_call_id": "call-1"}
    guarded.check(data)
    guarded.finish(data)
    assert guarded.client.checks == []
    assert guarded.records == []
    assert guarded.counters.snapshot() == {}


def test_an_answer_too_long_for_the_service_is_recorded_by_its_beginning() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    guarded.finish(data, {"text": "x" * LONGEST_STRING})
    (record,) = guarded.records
    assert len(record["responsePayload"]) <= LONGEST_STRING
    assert answer_of(record)["beginning"].startswith('{"body":{"text":"xxx')


def test_an_answer_nested_too_deeply_to_be_read_is_recorded_as_that() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    guarded.finish(data, nested(20_000))
    (record,) = guarded.records
    assert answer_of(record) == {"x-akto-truncated": "nested too deeply to be read"}


class TestBlocked:
    """Requests that Akto's policies do not allow."""

    def test_it_is_refused_with_403_and_the_reason(self) -> None:
        refusal = Guarded(BLOCK).refusal(chat())
        assert refusal.status == 403
        assert refusal.message == "Blocked by Akto Guardrails: Prompt injection detected"
        assert refusal.judged is True

    def test_without_a_reason_the_message_has_none(self) -> None:
        assert Guarded(Verdict(Decision.BLOCK)).refusal(chat()).message == "Blocked by Akto Guardrails"

    def test_it_is_recorded_once_as_blocked(self) -> None:
        guarded = Guarded(BLOCK)
        data = chat("zebra")
        guarded.refusal(data)
        guarded.finish(data, {"error": {}}, 403)
        (record,) = guarded.records
        assert record["status"] == record["statusCode"] == "403"
        assert answer_of(record) == {"x-blocked-by": "Akto Proxy", "reason": "Prompt injection detected"}
        assert content_of(record)["messages"][0]["content"] == "zebra"

    def test_it_stays_refused_when_it_cannot_be_recorded(self) -> None:
        guarded = Guarded(BLOCK)
        guarded.recorder.broken = RuntimeError("no memory")
        assert guarded.refusal(chat()).status == 403
        assert guarded.counters.snapshot()["unavailable_internal"] == 1

    def test_the_log_names_policy_and_rule(self, caplog: pytest.LogCaptureFixture) -> None:
        Guarded(Verdict(Decision.BLOCK, policy="Injection", rule="R1", behaviour="block")).refusal(chat())
        assert "blocked | call_id=call-1 collection=localhost:4000 route=/v1/chat/completions" in caplog.text
        assert "behaviour=block policy=Injection rule=R1" in caplog.text


class TestFlagged:
    """Violations that a policy only wants to be known."""

    def test_it_passes_unchanged_and_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded = Guarded(ALERT)
        data = chat()
        before = copy.deepcopy(data)
        guarded.check(data)
        assert data == before
        assert [line.levelno for line in caplog.records if "flagged" in line.getMessage()] == [logging.WARNING]
        assert "behaviour=alert policy=Data rule=Pii" in caplog.text

    def test_it_is_recorded_as_any_other_request(self) -> None:
        guarded = Guarded(ALERT)
        data = chat()
        guarded.check(data)
        guarded.finish(data)
        assert [record["status"] for record in guarded.records] == ["200"]

    def test_a_mask_that_comes_with_it_is_applied(self) -> None:
        def flag_and_mask(sent: dict[str, Any]) -> Verdict:
            masked = sent["requestPayload"].replace("4111-1111-1111-1111", "<CREDIT_CARD>")
            return Verdict(Decision.FLAG, behaviour="alert", mask=masked)

        data = chat(CARD)
        Guarded(flag_and_mask).check(data)
        assert data["messages"][0]["content"] == MASKED_CARD


class TestMasked:
    """Requests in which Akto replaces some text."""

    def test_the_text_is_replaced_and_nothing_else(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = chat(CARD, temperature=0.2, max_tokens=5, metadata={"agent_name": "a"}, user=CARD)
        expected = copy.deepcopy(data)
        expected["messages"][0]["content"] = MASKED_CARD
        guarded.check(data)
        assert data == expected
        assert guarded.counters.snapshot()["masks_applied"] == 1

    def test_the_record_holds_the_masked_text(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = chat(CARD)
        guarded.check(data)
        guarded.finish(data)
        (record,) = guarded.records
        assert content_of(record)["messages"][0]["content"] == MASKED_CARD
        assert "4111" not in json.dumps(record)

    def test_a_mask_that_changes_nothing_is_an_allow(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "4111-1111-1111-1111"))
        data = chat(CARD)
        guarded.check(data)
        assert data == chat(CARD)
        assert "masks_applied" not in guarded.counters.snapshot()

    @pytest.mark.parametrize(
        "returned", ["", "not json", '{"text": "<MASKED>"}', '{"body": {}}', '{"body": {"model": "<MASKED>"}}']
    )
    def test_a_mask_that_belongs_nowhere_refuses_the_request(self, returned: str) -> None:
        guarded = Guarded(Verdict(Decision.ALLOW, mask=returned))
        data = chat(CARD)
        refusal = guarded.refusal(data)
        assert (refusal.status, refusal.judged) == (403, True)
        assert refusal.message.startswith("Blocked by Akto Guardrails: ")
        assert guarded.counters.snapshot()["masks_unmappable"] == 1
        assert data == chat(CARD)
        assert [record["status"] for record in guarded.records] == ["403"]


class TestWithoutAVerdict:
    """Requests Akto gave no usable verdict on."""

    @pytest.mark.parametrize("cause", OUTAGES)
    def test_fail_open_lets_them_pass_counted_logged_and_recorded(
        self, cause: Cause, caplog: pytest.LogCaptureFixture
    ) -> None:
        guarded = Guarded(unavailable(cause))
        data = chat()
        guarded.check(data)
        guarded.finish(data)
        assert data == chat()
        assert [record["status"] for record in guarded.records] == ["200"]
        assert guarded.counters.snapshot()[f"unavailable_{cause.value}"] == 1
        (line,) = [line for line in caplog.records if "no verdict" in line.getMessage()]
        assert cause.value in line.getMessage()
        assert "fail_open" in line.getMessage()
        assert line.levelno == (logging.ERROR if cause is Cause.CREDENTIALS else logging.WARNING)

    @pytest.mark.parametrize("cause", OUTAGES)
    def test_fail_closed_refuses_them_with_503_and_records_that(self, cause: Cause) -> None:
        guarded = Guarded(unavailable(cause), UNREACHABLE_FALLBACK="fail_closed")
        data = chat()
        refusal = guarded.refusal(data)
        guarded.finish(data, {"error": {}}, 503)
        assert (refusal.status, refusal.judged) == (503, False)
        assert [record["status"] for record in guarded.records] == ["503"]
        assert answer_of(guarded.records[0])["x-blocked-by"] == "Akto Proxy"

    def test_a_long_outage_does_not_fill_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded = Guarded(unavailable(Cause.TIMEOUT))
        for _ in range(20):
            guarded.check(chat())
        assert caplog.text.count("no verdict from Akto") == 1
        assert guarded.counters.snapshot()["unavailable_timeout"] == 20


class TestTooLarge:
    """Requests that are more than the operator wants to have checked."""

    LIMIT = {"MAX_CHECK_CHARACTERS": str(LONGEST_STRING)}  # noqa: RUF012 - never changed

    @pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
    def test_it_is_refused_and_never_passed_unchecked(self, fallback: str) -> None:
        guarded = Guarded(UNREACHABLE_FALLBACK=fallback, **self.LIMIT)
        refusal = guarded.refusal(chat("x" * LONGEST_STRING))
        assert (refusal.status, refusal.judged) == (413, False)
        assert guarded.client.checks == []
        assert guarded.counters.snapshot()["unavailable_too_large"] == 1

    def test_it_is_recorded_by_its_beginning(self) -> None:
        guarded = Guarded(**self.LIMIT)
        guarded.refusal(chat("x" * LONGEST_STRING))
        (record,) = guarded.records
        assert record["status"] == "413"
        assert len(record["requestPayload"]) <= LONGEST_STRING
        assert "xxx" in content_of(record)["beginning"]

    @pytest.mark.parametrize("fill", ["x", "\u0436", "\u641c"])
    def test_a_long_text_in_any_script_is_checked_in_full(self, fill: str) -> None:
        guarded = Guarded(BLOCK)
        text = fill * 250_000
        assert guarded.refusal(chat(text)).status == 403
        assert content_of(guarded.client.checks[0])["messages"][0]["content"] == text

    @pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
    def test_text_nested_too_deeply_to_be_read_is_refused(self, fallback: str) -> None:
        guarded = Guarded(UNREACHABLE_FALLBACK=fallback)
        refusal = guarded.refusal(chat(messages=nested(20_000)))
        assert refusal.judgement is not None
        assert refusal.judgement.verdict.cause is Cause.TOO_LARGE
        assert (refusal.status, refusal.judged) == (413, False)
        assert guarded.client.checks == []
        assert guarded.counters.snapshot()["unavailable_too_large"] == 1

    def test_text_nested_less_deeply_is_checked(self) -> None:
        guarded = Guarded(BLOCK)
        assert guarded.refusal(chat(messages=nested(200))).status == 403
        assert "hidden text" in guarded.client.checks[0]["requestPayload"]


class TestInternalError:
    """Bugs of the guard itself."""

    def test_fail_open_lets_the_request_pass(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded = Guarded(ValueError("secret-content"))
        data = chat()
        guarded.check(data)
        assert data == chat()
        assert guarded.counters.snapshot()["unavailable_internal"] == 1
        (line,) = [line for line in caplog.records if "no verdict" in line.getMessage()]
        assert line.levelno == logging.ERROR
        assert "ValueError" in line.getMessage()

    def test_a_request_that_passes_is_recorded_all_the_same(self) -> None:
        guarded = Guarded(ValueError("secret-content"))
        data = chat()
        guarded.check(data)
        guarded.finish(data)
        assert [record["status"] for record in guarded.records] == ["200"]

    def test_fail_closed_refuses_the_request(self) -> None:
        refusal = Guarded(ValueError("secret-content"), UNREACHABLE_FALLBACK="fail_closed").refusal(chat())
        assert (refusal.status, refusal.judged) == (503, False)
        assert "secret-content" not in refusal.message

    def test_a_cancelled_request_is_cancelled(self) -> None:
        guarded = Guarded(lambda sent: (_ for _ in ()).throw(asyncio.CancelledError()))
        with pytest.raises(asyncio.CancelledError):
            guarded.check(chat())


class TestWatching:
    """SYNC_MODE=false: checks in the background that only log."""

    @pytest.mark.parametrize(
        "verdict",
        [
            BLOCK,
            ALERT,
            mask("4111-1111-1111-1111", "<CREDIT_CARD>"),
            Verdict(Decision.ALLOW, mask="not json"),
            unavailable(Cause.TIMEOUT),
            ValueError("secret-content"),
        ],
    )
    @pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
    def test_no_verdict_refuses_or_changes_a_request(
        self, verdict: Verdict | Callable[[dict[str, Any]], Verdict] | Exception, fallback: str
    ) -> None:
        guarded = Guarded(verdict, SYNC_MODE="false", UNREACHABLE_FALLBACK=fallback)
        data = chat(CARD)
        guarded.check(data)
        guarded.finish(data)
        assert data == chat(CARD)
        assert len(guarded.client.checks) == 1
        assert [record["status"] for record in guarded.records] == ["200"]

    @pytest.mark.parametrize("messages", ["x" * LONGEST_STRING, nested(20_000)])
    def test_text_that_cannot_be_checked_passes_and_is_counted(self, messages: object) -> None:
        guarded = Guarded(
            SYNC_MODE="false", UNREACHABLE_FALLBACK="fail_closed", MAX_CHECK_CHARACTERS=str(LONGEST_STRING)
        )
        guarded.check(chat(messages=messages))
        assert guarded.client.checks == []
        assert guarded.counters.snapshot()["unavailable_too_large"] == 1

    def test_the_request_does_not_wait_for_the_check(self) -> None:
        guarded = Guarded(BLOCK, SYNC_MODE="false")

        async def main() -> None:
            await guarded.guard.check_request(chat(), Key(), "acompletion")
            assert guarded.client.checks == []
            await background_work()
            assert len(guarded.client.checks) == 1

        asyncio.run(main())

    def test_a_violation_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        Guarded(BLOCK, SYNC_MODE="false").check(chat())
        assert "violation seen, not enforced (SYNC_MODE=false) | call_id=call-1" in caplog.text

    def test_a_mask_is_logged_and_said_not_to_be_applied(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded = Guarded(mask(CARD, MASKED_CARD), SYNC_MODE="false")
        data = chat(CARD)
        with caplog.at_level(logging.INFO):
            guarded.check(data)
        assert data["messages"][0]["content"] == CARD
        assert "mask seen, not enforced (SYNC_MODE=false) | call_id=call-1" in caplog.text
        assert guarded.counters.snapshot() == {"checks_allow": 1, "masks_seen": 1}

    def test_a_mask_that_could_not_be_applied_refuses_nothing_in_the_log_either(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        Guarded(Verdict(Decision.ALLOW, mask="not JSON"), SYNC_MODE="false").check(chat())
        assert "mask not applicable, not enforced (SYNC_MODE=false) | call_id=call-1" in caplog.text
        assert "refused" not in caplog.text

    def test_a_missing_verdict_is_counted_and_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        guarded = Guarded(unavailable(Cause.CREDENTIALS), SYNC_MODE="false", UNREACHABLE_FALLBACK="fail_closed")
        guarded.check(chat())
        assert guarded.counters.snapshot()["unavailable_credentials"] == 1
        assert "not enforced (SYNC_MODE=false)" in caplog.text

    def test_an_error_in_the_background_is_counted_and_its_message_stays_out_of_the_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        guarded = Guarded(ValueError("secret-content"), SYNC_MODE="false")
        guarded.check(chat())
        assert guarded.counters.snapshot().get("unavailable_internal") == 1
        assert "secret-content" not in caplog.text

    def test_checks_say_that_they_only_watch(self) -> None:
        guarded = Guarded(SYNC_MODE="false")
        guarded.check(chat())
        assert json.loads(guarded.client.checks[0]["tag"])["mode"] == "observe"


class TestPassedThrough:
    """Requests passed through as they are, where LiteLLM hands over the client's body and keeps no record of it."""

    @staticmethod
    def run(guarded: Guarded, body: dict[str, Any]) -> None:
        """Checks `body` and lets the log event with its answer come."""
        data = {**body, "litellm_logging_obj": LoggingObject("call-7")}
        before = copy.deepcopy(body)
        event = {"litellm_call_id": "call-7", "litellm_params": {"proxy_server_request": {"url": "/cohere/v1/chat"}}}

        async def main() -> None:
            await guarded.guard.check_request(data, Key(request_route="/cohere/v1/chat"), "pass_through_endpoint")
            assert {name: data[name] for name in body} == before, "the body goes to the provider as it is"
            guarded.guard.finished(event, ANSWER, 200)

        asyncio.run(main())

    @pytest.mark.parametrize("call_type", ["pass_through_endpoint", "allm_passthrough_route", "acompletion"])
    def test_its_method_is_the_clients(self, call_type: str) -> None:
        guarded = Guarded()

        async def main() -> None:
            begin({"type": "http", "method": "PUT", "path": "/support", "headers": []})
            await guarded.guard.check_request(chat("hello"), Key(), call_type)

        asyncio.run(main())
        assert [check["method"] for check in guarded.client.checks] == ["POST" if call_type == "acompletion" else "PUT"]

    def test_the_whole_body_is_checked_and_recorded_with_its_answer(self) -> None:
        guarded = Guarded()
        self.run(guarded, {"message": "hello", "chat_history": [{"message": "before"}], "temperature": 0.2})
        (check,), (record,) = guarded.client.checks, guarded.records
        assert content_of(check) == {"message": "hello", "chat_history": [{"message": "before"}]}
        assert content_of(record) == content_of(check)
        assert answer_of(record) == ANSWER

    @pytest.mark.parametrize(
        "decoy",
        [
            {"proxy_server_request": {}},
            {"proxy_server_request": {"body": {}, "akto_exchange": 1}},
            {"litellm_params": {"proxy_server_request": {"akto_exchange": 1}}},
            {"mcp_tool_name": "search"},
            {"litellm_call_id": "chosen"},
        ],
    )
    def test_entries_named_like_litellms_own_hide_neither_the_text_nor_the_record(self, decoy: dict[str, Any]) -> None:
        guarded = Guarded()
        self.run(guarded, {"message": "hidden text", **decoy})
        assert [content_of(check)["message"] for check in guarded.client.checks] == ["hidden text"]
        assert [answer_of(record) for record in guarded.records] == [ANSWER]


@pytest.mark.parametrize(
    "path",
    [
        "/azure_speech/speech/recognition/x",
        "/bedrock/model/m/converse",
        "/comprehendmedical/DetectEntitiesV2",
        "/transcribe/StartTranscriptionJob",
    ],
)
def test_a_mask_blocks_where_litellm_sends_the_body_as_it_was_before(path: str) -> None:
    guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))

    async def main() -> None:
        came_in(path)
        await guarded.guard.check_request({"Text": CARD}, Key(), "pass_through_endpoint")

    with pytest.raises(Refusal) as caught:
        asyncio.run(main())
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("path", "call_type"),
    [("/bedrock-kb/x", "pass_through_endpoint"), ("/bedrock/mcp", "acompletion"), ("/my/bedrock/x", "acompletion")],
)
def test_elsewhere_it_masks(path: str, call_type: str) -> None:
    guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
    data = chat(CARD)

    async def main() -> None:
        came_in(path)
        await guarded.guard.check_request(data, Key(), call_type)

    asyncio.run(main())
    assert data["messages"][0]["content"] == MASKED_CARD


class TestSecondAttempt:
    """LiteLLM runs its hooks again for another model when a rate limit of its own refused the first."""

    @staticmethod
    def attempts(guarded: Guarded, *requests: dict[str, Any]) -> list[Refusal | None]:
        """What becomes of these attempts, made one after the other in the task of one request."""

        async def main() -> list[Refusal | None]:
            outcomes: list[Refusal | None] = []
            for data in requests:
                try:
                    await guarded.guard.check_request(data, Key(), "acompletion")
                    outcomes.append(None)
                except Refusal as refusal:
                    outcomes.append(refusal)
            await background_work()
            return outcomes

        return asyncio.run(main())

    @pytest.mark.parametrize("mode", ["true", "false"])
    def test_it_is_neither_checked_nor_recorded_a_second_time(self, mode: str) -> None:
        guarded = Guarded(SYNC_MODE=mode)
        first, second = marked(chat()), marked(chat(model="fallback"))
        assert self.attempts(guarded, first, second) == [None, None]
        guarded.finish(second)
        guarded.finish(first)
        assert len(guarded.client.checks) == 1
        (record,) = guarded.records
        assert content_of(record)["model"] == "fallback"
        assert answer_of(record) == ANSWER

    def test_a_mask_is_applied_to_it_as_well(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        first, second = marked(chat(CARD)), marked(chat(CARD, model="fallback"))
        assert self.attempts(guarded, first, second) == [None, None]
        assert second["messages"][0]["content"] == MASKED_CARD
        assert second["model"] == "fallback"

    def test_other_text_is_checked_anew_and_recorded_on_its_own(self) -> None:
        guarded = Guarded()
        first, second = marked(chat("first")), marked(chat("second"))
        self.attempts(guarded, first, second)
        guarded.finish(first)
        guarded.finish(second)
        assert len(guarded.client.checks) == 2
        assert [content_of(each)["messages"][0]["content"] for each in guarded.records] == ["first", "second"]

    def test_the_same_text_in_another_request_is_checked_anew(self) -> None:
        guarded = Guarded()
        for data in (marked(chat()), marked(chat())):
            guarded.check(data)
            guarded.finish(data)
        assert len(guarded.client.checks) == len(guarded.records) == 2

    def test_the_same_text_after_the_answer_is_checked_anew(self) -> None:
        guarded = Guarded()
        first, second = marked(chat()), marked(chat())

        async def main() -> None:
            await guarded.guard.check_request(first, Key(), "acompletion")
            guarded.guard.finished(first, ANSWER, 200)
            await guarded.guard.check_request(second, Key(), "acompletion")

        asyncio.run(main())
        assert len(guarded.client.checks) == 2

    def test_a_refused_text_is_refused_again(self) -> None:
        guarded = Guarded(BLOCK)
        outcomes = self.attempts(guarded, marked(chat()), marked(chat(model="fallback")))
        assert [outcome.status for outcome in outcomes if outcome is not None] == [403, 403]


@pytest.mark.parametrize(
    "verdict",
    [
        Verdict(Decision.BLOCK, reason="secret-reason quotes secret-prompt"),
        Verdict(Decision.FLAG, reason="secret-reason quotes secret-prompt", behaviour="alert"),
        mask("secret-prompt", "secret-mask"),
        Verdict(Decision.ALLOW, mask="secret-mask"),
        Verdict(Decision.ALLOW, mask='{"text": "secret-mask"}'),
        unavailable(Cause.UNREADABLE),
        ValueError("secret-error"),
    ],
)
@pytest.mark.parametrize("mode", ["true", "false"])
@pytest.mark.parametrize("text", ["secret-prompt", "secret-prompt" * 30_000])
def test_no_log_line_at_any_level_holds_content_or_credentials(
    verdict: Verdict | Callable[[dict[str, Any]], Verdict] | Exception,
    mode: str,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    guarded = Guarded(verdict, SYNC_MODE=mode, AKTO_API_TOKEN="secret-token")
    data = chat(text, proxy_server_request={"headers": {"user-agent": "secret-header", "x-auth-token": "secret"}})
    with caplog.at_level(logging.DEBUG):
        with contextlib.suppress(Refusal):
            guarded.check(data)
        guarded.finish(data, {"text": "secret-answer"})
        guarded.guard.note_internal_error(ValueError("secret-error"))
    assert caplog.records
    assert "secret" not in caplog.text


def test_a_refusal_for_a_mask_without_a_place_tells_that_the_request_was_blocked() -> None:
    refusal = Guarded(Verdict(Decision.ALLOW, mask="not JSON")).refusal(chat())
    assert refusal.judged
    assert refusal.judgement == Judgement(Verdict(Decision.BLOCK))


def test_the_text_of_a_refusal_of_the_guard_itself_holds_no_content() -> None:
    refusal = Guarded(Verdict(Decision.ALLOW, mask='{"text": "secret-mask"}')).refusal(chat("secret-prompt"))
    assert "secret" not in refusal.message


def test_an_exchange_that_has_to_make_room_is_recorded_without_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "OpenExchanges", lambda: OpenExchanges(most=1))
    guarded = Guarded()
    guarded.check(marked(chat("first")))
    guarded.check(marked(chat("second")))
    (record,) = guarded.records
    assert content_of(record)["messages"][0]["content"] == "first"
    assert record["responsePayload"] is None
    assert record["status"] == "200"
    assert guarded.counters.snapshot()["exchanges_displaced"] == 1


def test_requests_that_had_to_make_room_are_forgotten_when_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "OpenExchanges", lambda: OpenExchanges(most=1))
    guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true")

    async def main() -> None:
        request = came_in("/v1/chat/completions")
        await guarded.guard.check_request(marked(chat("first")), Key(), "acompletion")
        await guarded.guard.check_request(marked(chat("second")), Key(), "acompletion")
        assert len(guarded.guard._displaced) == 1
        request.end()
        assert guarded.guard._displaced == {}

    asyncio.run(main())


def test_a_displaced_request_whose_answer_never_comes_is_forgotten() -> None:
    guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true")
    data = marked(chat())
    guarded.check(data)
    exchange = guarded.guard.open_exchange(data)
    assert exchange is not None
    guarded.guard._displaced[exchange.key] = exchange
    guarded.guard._given_up(exchange.key, 200)
    assert guarded.guard._displaced == {}


def test_a_path_and_an_address_of_any_length_fit_into_a_check() -> None:
    guarded = Guarded()

    async def main() -> None:
        came_in("/openai/" + "a/" * 150_000)
        await guarded.guard.check_request(
            {"messages": [{"role": "user", "content": "x"}]}, Key(), "pass_through_endpoint"
        )
        metadata = {"requester_ip_address": "1" * 300_000}
        await guarded.guard.check_request(marked(chat(metadata=metadata)), Key(), "acompletion")

    asyncio.run(main())
    assert [len(check["path"]) < 3_000 and len(check["ip"]) < 3_000 for check in guarded.client.checks] == [True, True]


def test_requests_that_share_a_call_id_get_their_own_answers() -> None:
    guarded = Guarded()
    first, second = marked(chat("first")), marked(chat("second"))
    guarded.check(first)
    guarded.check(second)
    guarded.finish(second, {"answer": "to second"})
    guarded.finish(first, {"answer": "to first"})
    assert [(content_of(each)["messages"][0]["content"], answer_of(each)["answer"]) for each in guarded.records] == [
        ("second", "to second"),
        ("first", "to first"),
    ]


def test_an_open_request_is_known_until_it_is_recorded() -> None:
    guarded = Guarded()
    data = chat()
    guarded.check(data)
    exchange = guarded.guard.open_exchange(data)
    assert exchange is not None
    assert exchange.call_type == "acompletion"
    guarded.finish(data)
    assert guarded.guard.open_exchange(data) is None


def test_closing_does_not_wait_for_a_check_that_hangs() -> None:
    guarded = Guarded(SYNC_MODE="false")

    stopped = False

    async def hang(body: bytes) -> Verdict:
        nonlocal stopped
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            stopped = True
            raise
        return ALLOW

    async def main() -> None:
        guarded.client.check = hang  # type: ignore[method-assign]
        await guarded.guard.check_request(chat(), Key(), "acompletion")
        await guarded.guard.close(0.1)
        await asyncio.sleep(0)
        assert stopped

    start = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - start < 2
    assert guarded.recorder.flushed
    assert guarded.client.closed


def test_closing_delivers_closes_the_connections_and_logs_the_counters(caplog: pytest.LogCaptureFixture) -> None:
    guarded = Guarded()
    guarded.check(chat())
    guarded.finish(chat())
    with caplog.at_level(logging.INFO):
        asyncio.run(guarded.guard.close(5))
    assert guarded.recorder.flushed
    assert guarded.client.closed
    assert 'GuardrailsHandler stopped | {"checks_allow":1}' in caplog.text


def test_closing_records_what_is_open_without_an_answer_and_counts_it() -> None:
    guarded = Guarded()
    for text in ("first", "second"):
        guarded.check(marked(chat(text)))
    asyncio.run(guarded.guard.close(5))
    assert [content_of(record)["messages"][0]["content"] for record in guarded.records] == ["first", "second"]
    assert {(record["status"], record["responsePayload"]) for record in guarded.records} == {("499", None)}
    assert guarded.counters.snapshot()["exchanges_left_open"] == 2


def test_all_records_that_wait_count_as_memory_that_will_be_free(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(FreedMemory, "used", lambda _, size: used.append(size))
    guarded = Guarded()
    guarded.recorder.queued_bytes = 1_000_000
    data = marked(chat("hello"))
    guarded.check(data)
    guarded.finish(data)
    assert used == [1_000_000]


def test_memory_is_given_back_again_as_long_as_records_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Callable[[], int]] = []

    def made(_: object, in_use: Callable[[], int]) -> FreedMemory:
        asked.append(in_use)
        return FreedMemory(None)

    monkeypatch.setattr(guard_module, "FreedMemory", made)
    guarded = Guarded()
    guarded.recorder.queued_bytes = 7
    assert [in_use() for in_use in asked] == [7]


def came_in(path: str = "/v1/chat/completions", *, kind: str = "http", **entries: Any) -> ClientRequest:
    """A request came in: the ASGI layer notes it for the task that runs."""
    scope = {"type": kind, "method": "POST", "path": path, "headers": [], "client": ("203.0.113.7", 1), **entries}
    return begin(scope)


@pytest.mark.parametrize(
    ("verdict", "fallback", "outcome"),
    [
        (ALLOW, "fail_open", "allowed"),
        (ALERT, "fail_open", "flagged"),
        (mask("hello", "<X>"), "fail_open", "masked"),
        (BLOCK, "fail_open", "blocked"),
        (unavailable(Cause.TIMEOUT), "fail_open", "unchecked"),
        (unavailable(Cause.TIMEOUT), "fail_closed", "unchecked"),
    ],
)
def test_the_request_tells_what_became_of_it(verdict: Any, fallback: str, outcome: str) -> None:
    guarded = Guarded(verdict, UNREACHABLE_FALLBACK=fallback)

    async def main() -> ClientRequest:
        request = came_in()
        with contextlib.suppress(Refusal):
            await guarded.guard.check_request(chat("hello"), Key(), "acompletion")
        return request

    assert asyncio.run(main()).outcome == outcome


class TestEndOfTheRequest:
    """What becomes of an exchange that no hook of LiteLLM has brought the answer to when its request ends."""

    @pytest.fixture(autouse=True)
    def quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answers for clients that have left are waited for for moments only."""
        monkeypatch.setattr(awaited_module, "_PAUSE", 0.01)
        monkeypatch.setattr(guard_module, "_LEFT_SECONDS", 0.05)

    @pytest.mark.parametrize("is_cut", [False, True])
    def test_the_stream_of_a_pass_through_route_is_recorded_and_says_if_there_was_more(
        self, is_cut: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sent_stream_module, "_LONGEST", 20)
        guarded = Guarded()
        self.passed_through(
            guarded, b'data: {"note": "said"}\n\n', *([b'data: {"note": "more"}\n\n'] if is_cut else [])
        )
        (record,) = guarded.records
        assert answer_of(record)["events"] == ["said"]
        assert ("x-akto-truncated" in answer_of(record)) is is_cut

    def test_what_cannot_be_read_of_a_stream_passed_through_does_not_lose_the_rest(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        add = StreamedAnswer.add

        def failing(answer: StreamedAnswer, item: object) -> None:
            if item == b"broken":
                raise RecursionError
            add(answer, item)

        monkeypatch.setattr(StreamedAnswer, "add", failing)
        guarded = Guarded()
        self.passed_through(guarded, b'data: {"note": "said"}\n\n', b"broken", b'data: {"note": "more"}\n\n')
        (record,) = guarded.records
        assert answer_of(record) == {"events": ["said", "more"]}
        assert "an error in the guard itself RecursionError" in caplog.text

    @staticmethod
    def passed_through(guarded: Guarded, *parts: bytes, failure: dict[str, Any] | None = None) -> None:
        """A stream of these parts passed through, which ends well, or with a failure that LiteLLM tells of."""

        async def main() -> None:
            request = came_in("/openai/v1/chat/completions")
            data = {"messages": [{"role": "user", "content": "hello"}], "litellm_logging_obj": LoggingObject()}
            await guarded.guard.check_request(data, Key(), "pass_through_endpoint")
            request.began(200, [(b"content-type", b"text/event-stream")])
            for part in parts:
                request.sent(part, is_last=False)
            if failure is None:
                request.sent(b"", is_last=True)
            else:
                guarded.guard.failed(data, failure, 500)
            request.end()

        asyncio.run(main())

    def test_a_stream_passed_through_in_which_nothing_came_is_recorded_at_once(self) -> None:
        guarded = Guarded()
        self.passed_through(guarded)
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("200", None)
        assert "answers_missed" not in guarded.counters.snapshot()

    def test_a_stream_passed_through_that_tells_of_an_error_is_recorded_with_its_status(self) -> None:
        guarded = Guarded()
        self.passed_through(guarded, b'data: {"note": "said"}\n\n', b'data: {"error": {"code": 503}}\n\n')
        (record,) = guarded.records
        assert (record["status"], answer_of(record)) == ("503", {"events": ["said"]})

    def test_a_stream_passed_through_that_breaks_off_is_recorded_with_what_was_sent(self) -> None:
        guarded = Guarded()
        self.passed_through(guarded, b'data: {"note": "said"}\n\n', failure={"error": {"message": "broken off"}})
        (record,) = guarded.records
        assert record["status"] == "500"
        assert answer_of(record) == {"events": ["said"], "error": {"message": "broken off"}}

    def test_a_stream_passed_through_whose_client_left_is_recorded_at_once_with_what_was_sent(self) -> None:
        guarded = Guarded()

        async def main() -> None:
            request = came_in("/openai/v1/chat/completions")
            await guarded.guard.check_request(chat("hello"), Key(), "pass_through_endpoint")
            request.began(200, [(b"content-type", b"text/event-stream")])
            request.sent(b'data: {"note": "said"}\n\n', is_last=False)
            request.end()

        asyncio.run(main())
        (record,) = guarded.records
        assert record["status"] == "499"
        assert answer_of(record) == {"events": ["said"]}

    def test_a_call_that_failed_because_the_client_left_is_recorded_without_an_answer(self) -> None:
        guarded = Guarded()
        data = chat()
        guarded.check(data)
        guarded.guard.failed(data, {}, 499)
        assert guarded.records[0]["responsePayload"] is None

    def test_a_stream_passed_through_that_cannot_be_read_does_not_break_the_end_of_the_request(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(_: object) -> None:
            raise ValueError("broken")

        monkeypatch.setattr(guard_module, "_passed_through", broken)
        guarded = Guarded()
        self.passed_through(guarded, b'data: {"note": "said"}\n\n')
        assert guarded.counters.snapshot()["unavailable_internal"] == 1

    @staticmethod
    def run(
        guarded: Guarded,
        seconds: float,
        *,
        status: int | None = 200,
        whole: bool = True,
        late: object = None,
        call_type: str = "acompletion",
    ) -> None:
        """A checked request that ends like this, and so many seconds after it, or until the `late` answer comes."""

        async def main() -> None:
            request = came_in()
            data = marked(chat())
            await guarded.guard.check_request(data, Key(), call_type)
            request.status, request.is_answered = status, whole
            request.end()
            if late is not None:
                guarded.guard.finished(data, late, 200)
            await asyncio.sleep(seconds)

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("status", "whole"), [(None, False), (200, False), (499, True)], ids=["none", "cut off", "LiteLLM's 499"]
    )
    def test_of_a_client_that_left_it_is_recorded_without_an_answer(self, status: int | None, whole: bool) -> None:
        guarded = Guarded()
        self.run(guarded, 0.2, status=status, whole=whole)
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("499", None)
        assert guarded.counters.snapshot()["answers_missed"] == 1
        assert "exchanges_left_open" not in guarded.counters.snapshot()

    def test_what_comes_late_of_an_answer_to_a_client_that_left_is_recorded_as_that(self) -> None:
        guarded = Guarded()
        self.run(guarded, 0.2, whole=False, late=ANSWER)
        (record,) = guarded.records
        assert record["status"] == "499"
        assert answer_of(record) == ANSWER
        assert "answers_missed" not in guarded.counters.snapshot()

    def test_an_answer_that_is_logged_late_is_recorded_as_usual(self) -> None:
        guarded = Guarded()
        self.run(guarded, 0, late=ANSWER)
        (record,) = guarded.records
        assert record["status"] == "200"
        assert answer_of(record) == ANSWER

    def test_an_answer_that_was_sent_is_waited_for_longer(self) -> None:
        guarded = Guarded()
        self.run(guarded, 0.2)
        assert guarded.records == []

    def test_an_answer_that_is_sent_and_never_logged_is_given_up_some_day(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(guard_module, "_LATE_SECONDS", 0.05)
        guarded = Guarded()
        self.run(guarded, 0.2, status=201)
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("201", None)

    def test_an_answer_may_be_made_in_the_background(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard_module, "_LATE_SECONDS", 0.05)
        guarded = Guarded()
        self.run(guarded, 0.2, call_type="aresponses")
        assert guarded.records == []

    @pytest.mark.parametrize("status", [400, 503])
    def test_an_error_is_recorded_at_once(self, status: int) -> None:
        guarded = Guarded()
        self.run(guarded, 0, status=status)
        (record,) = guarded.records
        assert record["status"] == str(status)
        assert answer_of(record) == {"error": {"message": f"answered with HTTP status {status}"}}

    def test_what_is_awaited_at_the_stop_is_recorded_with_its_status_and_not_left_open(self) -> None:
        guarded = Guarded()
        self.run(guarded, 0)
        assert guarded.records == []
        asyncio.run(guarded.guard.close(5))
        assert [record["status"] for record in guarded.records] == ["200"]
        assert "exchanges_left_open" not in guarded.counters.snapshot()

    def test_an_exchange_of_a_request_that_has_ended_before_it_is_awaited_too(self) -> None:
        guarded = Guarded()

        async def main() -> None:
            request = came_in()
            request.end()
            await guarded.guard.check_request(marked(chat()), Key(), "acompletion")
            await asyncio.sleep(0.2)

        asyncio.run(main())
        assert [record["status"] for record in guarded.records] == ["499"]

    def test_a_record_that_cannot_be_made_does_not_break_the_end_of_the_request(self) -> None:
        guarded = Guarded()
        guarded.recorder.broken = ValueError("broken")
        self.run(guarded, 0, status=400)
        assert guarded.counters.snapshot()["unavailable_internal"] == 1

    def test_waiting_keeps_no_request_alive(self) -> None:
        guarded = Guarded()
        path = "/of/this/test/alone"

        async def serve() -> None:
            request = came_in(path)
            await guarded.guard.check_request(marked(chat()), Key(), "acompletion")
            request.end()

        async def main() -> None:
            await asyncio.create_task(serve(), context=Context())
            await asyncio.sleep(0)
            gc.collect()
            assert not any(isinstance(each, ClientRequest) and each.path == path for each in gc.get_objects())

        asyncio.run(main())


class TestCancelledChecks:
    """LiteLLM cancels a request, because its client has left, while Akto is asked about it."""

    @staticmethod
    def cancel(guarded: Guarded, check: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Cancels `check` while Akto is asked."""

        async def main() -> None:
            asked = asyncio.Event()

            async def hang(body: bytes, *, of_answer: bool = False) -> Verdict:
                asked.set()
                await asyncio.sleep(60)
                return ALLOW

            guarded.client.check = hang  # type: ignore[method-assign]
            came_in()
            task = asyncio.create_task(check())
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await guarded.guard.close(5)

        asyncio.run(main())
        assert "exchanges_left_open" not in guarded.counters.snapshot()
        assert "unavailable_internal" not in guarded.counters.snapshot()

    def test_it_is_recorded_once_without_an_answer(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello"))
        self.cancel(guarded, lambda: guarded.guard.check_request(data, Key(), "acompletion"))
        guarded.finish(data, {"error": {}}, 499)
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("499", None)
        assert content_of(record)["messages"][0]["content"] == "hello"

    def test_at_the_second_gate_too(self) -> None:
        guarded = Guarded()
        self.cancel(guarded, lambda: guarded.guard.check_attempt(marked(chat("hello")), "acompletion"))
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("499", None)

    def test_a_turn_on_a_websocket_too(self) -> None:
        guarded = Guarded()
        event = {"type": "response.create", "input": "hello"}
        self.cancel(guarded, lambda: guarded.guard.check_turn(event, marked({}), Key(), "_aresponses_websocket"))
        (record,) = guarded.records
        assert (record["status"], record["responsePayload"]) == ("499", None)

    def test_the_tools_of_a_catalog_are_not_recorded(self) -> None:
        guarded = Guarded()
        tool = {"mcp_tool_name": "echo", "mcp_tool_description": "Says it again", "mcp_server_name": "github"}
        self.cancel(guarded, lambda: guarded.guard.check_request(marked(tool), Key(), "list_mcp_tools"))
        assert guarded.records == []


def no_on(text: str, verdict: Verdict = BLOCK) -> Callable[[dict[str, Any]], Verdict]:
    """A service that objects to `text`, wherever it is asked about it."""
    return lambda sent: verdict if text in (sent["responsePayload"] or sent["requestPayload"]) else ALLOW


class TestSecondGate:
    """What a call of a model carries beyond what the request's check has seen."""

    METADATA = {  # noqa: RUF012 - never changed
        "user_api_key_alias": "key",
        "user_api_key_team_id": "team-7",
        "user_api_key_request_route": "/queue/chat/completions",
    }

    @staticmethod
    def run(
        guarded: Guarded,
        data: dict[str, Any] | None,
        *attempts: dict[str, Any],
        path: str = "/v1/chat/completions",
        call_type: str = "acompletion",
        method: str = "POST",
    ) -> Refusal | None:
        """The request `data`, if any hook sees it, and its attempts; gives the refusal that ends it."""

        async def main() -> Refusal | None:
            came_in(path, method=method)
            try:
                if data is not None:
                    await guarded.guard.check_request(data, Key(), "acompletion")
                for kwargs in attempts:
                    await guarded.guard.check_attempt(kwargs, call_type)
            except Refusal as refusal:
                return refusal
            finally:
                await background_work()
            return None

        return asyncio.run(main())

    @pytest.mark.parametrize("mode", ["true", "false"])
    def test_an_attempt_with_nothing_new_is_not_checked(self, mode: str) -> None:
        guarded = Guarded(SYNC_MODE=mode)
        data = marked(chat("hello\nworld", system="rules"))
        again = {"model": "deployment", "input": [{"role": "user", "content": "hello"}], "instructions": "rules"}
        assert self.run(guarded, data, dict(data), {**data, "model": "deployment"}, again) is None
        assert len(guarded.client.checks) == 1
        assert "checks_at_the_second_gate" not in guarded.counters.snapshot()
        guarded.finish(data)
        assert len(guarded.records) == 1

    def test_what_is_new_is_checked_alone_and_under_the_same_identity(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello", system="rules"))
        new = [{"role": "system", "content": "found on the web"}, *data["messages"]]
        assert self.run(guarded, data, {**data, "messages": new}) is None
        first, second = guarded.client.checks
        assert content_of(second) == {"messages": new}
        for name in ("path", "requestHeaders", "tag", "ip"):
            assert first[name] == second[name]
        assert guarded.counters.snapshot()["checks_at_the_second_gate"] == 1

    def test_what_was_new_is_checked_once_however_many_attempts_there_are(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello"))
        kwargs = {**data, "messages": [{"role": "user", "content": "template"}, *data["messages"]]}
        assert self.run(guarded, data, kwargs, dict(kwargs), {**kwargs, "documents": ["another"]}) is None
        assert [content_of(check).keys() - {"model"} for check in guarded.client.checks] == [
            {"messages"},
            {"messages"},
            {"documents"},
        ]

    def test_new_text_can_be_refused_and_the_request_is_recorded_once_as_that(self) -> None:
        guarded = Guarded(no_on("poison"))
        data = marked(chat("hello"))
        refusal = self.run(guarded, data, {**data, "documents": ["poison"]})
        assert refusal is not None
        assert (refusal.status, refusal.judged) == (403, True)
        guarded.finish(data, {"error": {}}, 403)
        (record,) = guarded.records
        assert record["status"] == "403"
        assert content_of(record)["documents"] == ["poison"]
        assert content_of(record)["messages"][0]["content"] == "hello"

    @pytest.mark.parametrize(
        ("answer", "status", "recorded"),
        [
            (ANSWER, 200, ["403", "200"]),
            ({"error": {}}, 500, ["403", "500"]),
            (ANSWER, 499, ["403", "499"]),
            (None, 499, ["403"]),
            ({"error": {}}, 403, ["403"]),
        ],
    )
    def test_a_request_that_goes_on_after_the_refusal_of_a_further_call_is_recorded_by_itself(
        self, answer: Any, status: int, recorded: list[str]
    ) -> None:
        guarded = Guarded(no_on("poison"), RESPONSE_GUARDRAILS="true")
        data = marked(chat("hello"))
        assert self.run(guarded, data, {"model": "finder", "query": "poison"}) is not None
        assert guarded.guard.checks_answers(data)
        guarded.finish(data, answer, status)
        assert [record["statusCode"] for record in guarded.records] == recorded
        assert content_of(guarded.records[0])["query"] == "poison"
        assert all(content_of(record)["messages"] == data["messages"] for record in guarded.records[1:])

    def test_after_a_refusal_every_further_call_is_refused(self) -> None:
        guarded = Guarded(no_on("poison"))
        data = marked(chat("hello"))
        assert self.run(guarded, data, {"model": "finder", "query": "poison"}, dict(data)) is not None
        assert len(guarded.client.checks) == 2
        assert len(guarded.records) == 1

    def test_a_further_call_nested_too_deeply_leaves_the_exchange_open(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello"))
        refusal = self.run(guarded, data, {"model": "finder", "query": nested(100_000)})
        assert refusal is not None
        assert refusal.status == 413
        guarded.finish(data)
        assert [record["statusCode"] for record in guarded.records] == ["413", "200"]

    def test_new_text_is_masked_in_the_attempt(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = marked(chat("hello"))
        kwargs = {**data, "documents": [CARD], "temperature": 0.2}
        assert self.run(guarded, data, kwargs) is None
        assert kwargs == {**data, "documents": [MASKED_CARD], "temperature": 0.2}

    def test_masked_text_is_not_new_in_the_attempt(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = marked(chat(CARD))
        kwargs = dict(data)
        assert self.run(guarded, data, kwargs) is None
        assert len(guarded.client.checks) == 1

    def test_text_that_was_masked_is_new_where_it_comes_back(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = marked(chat(CARD))
        kwargs = {"model": "m", "input": CARD}
        assert self.run(guarded, data, kwargs) is None
        assert kwargs["input"] == MASKED_CARD

    @pytest.mark.parametrize(("fallback", "status"), [("fail_open", None), ("fail_closed", 503)])
    def test_without_a_verdict_on_new_text_the_fallback_decides(self, fallback: str, status: int | None) -> None:
        guarded = Guarded(no_on("new", unavailable(Cause.TIMEOUT)), UNREACHABLE_FALLBACK=fallback)
        data = marked(chat("hello"))
        refusal = self.run(guarded, data, {**data, "documents": ["new"]})
        assert (refusal and refusal.status) == status

    def test_new_text_is_only_watched_where_nothing_is_enforced(self) -> None:
        guarded = Guarded(no_on("poison"), SYNC_MODE="false")
        data = marked(chat("hello"))
        assert self.run(guarded, data, {**data, "documents": ["poison"]}) is None
        assert len(guarded.client.checks) == 2

    def test_a_call_whose_request_no_hook_saw_is_checked_whole_and_recorded(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello", metadata=self.METADATA))
        assert self.run(guarded, None, data, dict(data), path="/queue/chat/completions") is None
        (check,) = guarded.client.checks
        assert content_of(check) == {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
        assert check["path"] == "/queue/chat/completions"
        assert json.loads(check["requestHeaders"])["host"] == "key"
        assert json.loads(check["tag"])["team_id"] == "team-7"
        exchange = guarded.guard.open_exchange(data)
        assert exchange is not None
        assert exchange.at_gate is True
        guarded.finish(data)
        assert [answer_of(record) for record in guarded.records] == [ANSWER]

    def test_a_call_whose_request_a_hook_saw_is_not_taken_for_one_at_the_gate(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello"))
        self.run(guarded, data, dict(data))
        exchange = guarded.guard.open_exchange(data)
        assert exchange is not None
        assert exchange.at_gate is False

    def test_a_call_whose_request_no_hook_saw_can_be_refused(self) -> None:
        guarded = Guarded(BLOCK)
        refusal = self.run(guarded, None, marked(chat("poison")), path="/v1/rag/query")
        assert refusal is not None
        assert refusal.status == 403
        assert [record["status"] for record in guarded.records] == ["403"]

    def test_the_body_of_a_routed_pass_through_is_checked_and_masked(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        kwargs = {"model": "m", "json": {"message": CARD}, "method": "POST"}
        assert self.run(guarded, None, kwargs, path="/vllm/chat", call_type="allm_passthrough_route") is None
        assert content_of(guarded.client.checks[0]) == {"message": CARD}
        assert kwargs["json"] == {"message": MASKED_CARD}

    def test_a_call_of_litellms_own_is_not_checked(self) -> None:
        guarded = Guarded(BLOCK)

        async def main() -> None:
            await guarded.guard.check_attempt(chat("ping"), "acompletion")

        asyncio.run(main())
        assert guarded.client.checks == []

    @pytest.mark.parametrize("path", ["/health", "/health/latest"])
    def test_a_health_check_is_not_checked(self, path: str) -> None:
        guarded = Guarded(BLOCK)
        assert self.run(guarded, None, chat("ping"), path=path, method="GET") is None
        assert guarded.client.checks == []

    def test_a_test_of_a_connection_with_a_text_of_the_callers_is(self) -> None:
        guarded = Guarded(BLOCK)
        refusal = self.run(guarded, None, marked(chat("poison")), path="/health/test_connection")
        assert refusal is not None
        assert refusal.status == 403

    @pytest.mark.parametrize("call_type", ["call_mcp_tool", "list_mcp_tools"])
    def test_a_tool_call_had_its_hook_already(self, call_type: str) -> None:
        guarded = Guarded(BLOCK)
        assert self.run(guarded, None, {"mcp_tool_name": "t", "mcp_arguments": {}}, call_type=call_type) is None

    def test_text_nested_too_deeply_is_refused_here_too(self) -> None:
        guarded = Guarded()
        refusal = self.run(guarded, None, chat(messages=nested(20_000)), path="/v1/rag/query")
        assert refusal is not None
        assert refusal.status == 413

    def test_a_bug_of_the_guard_is_no_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise ValueError("secret-content")

        monkeypatch.setattr(guard_module, "unseen_part", broken)
        data = marked(chat("hello"))
        further = {**data, "messages": chat("hello again")["messages"]}
        guarded = Guarded()
        assert self.run(guarded, data, further) is None
        assert guarded.counters.snapshot()["unavailable_internal"] == 1
        refusal = self.run(Guarded(UNREACHABLE_FALLBACK="fail_closed"), data, further)
        assert refusal is not None
        assert refusal.status == 503

    def test_text_that_was_added_to_the_checked_objects_themselves_is_new(self) -> None:
        """Callbacks after the guard, and LiteLLM itself, may write into the list of messages."""
        guarded = Guarded(no_on("poison"))
        data = marked(chat("hello"))

        async def main() -> None:
            came_in()
            await guarded.guard.check_request(data, Key(), "acompletion")
            data["messages"].append({"role": "system", "content": "poison"})
            await guarded.guard.check_attempt(dict(data), "acompletion")

        with pytest.raises(Refusal):
            asyncio.run(main())

    def test_a_request_does_not_inherit_what_was_checked_for_another(self) -> None:
        """uvicorn starts a pipelined request in the context of the one before it."""
        guarded = Guarded()
        first, second = marked(chat("hello")), marked(chat("hello"))

        async def main() -> None:
            came_in()
            await guarded.guard.check_request(first, Key(key_alias="one"), "acompletion")
            guarded.guard.finished(first, ANSWER, 200)
            came_in("/v1/rag/query")
            await guarded.guard.check_attempt(second, "aquery")
            guarded.guard.finished(second, ANSWER, 200)

        asyncio.run(main())
        assert len(guarded.client.checks) == 2
        assert len(guarded.records) == 2

    def test_a_tool_call_within_a_request_does_not_make_its_text_new(self) -> None:
        guarded = Guarded()
        data = marked(chat("hello"))
        call = {"mcp_tool_name": "search", "mcp_server_name": "s", "mcp_arguments": {"q": "x"}, "litellm_call_id": "c"}

        async def main() -> None:
            came_in()
            await guarded.guard.check_request(data, Key(), "acompletion")
            await guarded.guard.check_request(call, Key(), "call_mcp_tool")
            await guarded.guard.check_attempt(dict(data), "acompletion")

        asyncio.run(main())
        assert len(guarded.client.checks) == 2

    def test_what_was_new_is_watched_once(self) -> None:
        guarded = Guarded(SYNC_MODE="false")
        data = marked(chat("hello"))
        kwargs = {**data, "documents": ["new"]}
        self.run(guarded, data, kwargs, dict(kwargs), dict(kwargs))
        assert len(guarded.client.checks) == 2

    @pytest.mark.parametrize(
        ("call_type", "body"),
        [("acreate_file", {"purpose": "batch"}), ("acreate_batch", {"input_file_id": "file-1", "endpoint": "/v1/x"})],
    )
    def test_a_call_without_text_for_a_model_is_not_checked_at_the_gate(
        self, call_type: str, body: dict[str, str]
    ) -> None:
        guarded = Guarded()
        data = {**body, "proxy_server_request": {"body": dict(body)}}
        assert self.run(guarded, None, data, path="/v1/batches", call_type=call_type) is None
        assert guarded.client.checks == []


class TestAnswers:
    """RESPONSE_GUARDRAILS."""

    SAID = {"choices": [{"message": {"role": "assistant", "content": CARD}}]}  # noqa: RUF012 - never changed

    @staticmethod
    def mask_the_card(sent: dict[str, Any]) -> Verdict:
        return Verdict(Decision.ALLOW, mask=sent["responsePayload"].replace(CARD, MASKED_CARD))

    @staticmethod
    def asked(
        verdict: Verdict | Callable[[dict[str, Any]], Verdict] | Exception,
        body: object,
        call_type: str = "acompletion",
        **environment: str,
    ) -> tuple[Guarded, dict[str, Any], Mapping[Path, str] | Refusal]:
        """A guard that allowed a request, the request, and what it says of an answer with `body`."""
        guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true", **environment)
        data = marked(chat("hello"))

        async def main() -> Mapping[Path, str] | Refusal:
            await guarded.guard.check_request(data, Key(), call_type)
            guarded.client._verdict = verdict
            try:
                return (await guarded.guard.check_answer(data, body)).changes
            except Refusal as refusal:
                return refusal

        return guarded, data, asyncio.run(main())

    def test_an_allowed_answer_passes_unchanged_and_is_recorded_with_its_request(self) -> None:
        guarded, data, outcome = self.asked(ALLOW, self.SAID)
        assert outcome == {}
        (check,) = guarded.client.answer_checks
        assert content_of(check) == content_of(guarded.client.checks[0])
        assert answer_of(check) == self.SAID
        assert guarded.counters.snapshot() == {"answers_allow": 1, "checks_allow": 1}
        guarded.finish(data, self.SAID)
        assert [answer_of(record) for record in guarded.records] == [self.SAID]

    def test_what_stands_in_the_place_of_encrypted_thoughts_is_checked_without_escapes(self) -> None:
        """As LiteLLM writes it, with a head and escapes, a mask of the name would not find it."""
        thoughts = 'litellm_enc:bW9k;[{"thinking": "M\\u00fcller has called"}]'
        body = {"id": "resp_1", "output": [{"type": "reasoning", "encrypted_content": thoughts}]}

        def masked(sent: dict[str, Any]) -> Verdict:
            return Verdict(Decision.ALLOW, mask=sent["responsePayload"].replace("Müller", "<NAME>"))

        _, _, changes = self.asked(masked, body, "aresponses")
        expected = 'litellm_enc:bW9k;[{"thinking":"<NAME> has called"}]'
        assert changes == {("output", 0, "encrypted_content"): expected}

    def test_the_same_is_shown_where_akto_only_watches(self) -> None:
        guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true", SYNC_MODE="false")
        data = marked(chat("hello"))
        body = {"id": "resp_1", "output": [{"type": "reasoning", "encrypted_content": '["M\\u00fcller"]'}]}

        async def main() -> None:
            await guarded.guard.check_request(data, Key(), "aresponses")
            guarded.guard.finished(data, body, 200)
            await background_work()

        asyncio.run(main())
        (check,) = guarded.client.answer_checks
        assert answer_of(check)["output"][0]["encrypted_content"] == '["Müller"]'

    def test_a_blocked_answer_is_refused_and_recorded_once_with_what_it_was(self) -> None:
        guarded, data, outcome = self.asked(BLOCK, self.SAID)
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.judged) == (403, True)
        assert outcome.message == "Blocked by Akto Guardrails: Prompt injection detected"
        guarded.finish(data, {"error": {}}, 403)
        (record,) = guarded.records
        assert record["status"] == "403"
        assert answer_of(record) == {
            "x-blocked-by": "Akto Proxy",
            "reason": "Prompt injection detected",
            "answer": self.SAID,
        }

    def test_what_the_client_had_of_a_refused_stream_is_recorded_with_its_tool_calls(self) -> None:
        guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true")
        data = marked(chat("hello"))
        call = {"id": "call_1", "type": "function", "function": {"name": "rm", "arguments": '{"all": true}'}}
        had = {"choices": [{"message": {"role": "assistant", "content": "first", "tool_calls": [call]}}]}

        async def main() -> None:
            await guarded.guard.check_request(data, Key(), "acompletion")
            guarded.client._verdict = BLOCK
            with pytest.raises(Refusal):
                await guarded.guard.check_answer(data, self.SAID, lambda: had)

        asyncio.run(main())
        record, tool = guarded.records
        assert (record["status"], tool["path"]) == ("403", "/tool/rm")
        assert (answer_of(record)["released"], answer_of(record)["answer"]) == (had, self.SAID)

    def test_what_comes_first_of_an_answer_that_is_in_progress_is_checked(self) -> None:
        _, _, outcome = self.asked(BLOCK, {"status": "in_progress", "events": ["a note"]})
        assert isinstance(outcome, Refusal)
        assert self.asked(BLOCK, {"status": "in_progress", "output": []})[2] == {}

    def test_the_answer_to_a_request_that_had_to_make_room_is_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guard_module, "OpenExchanges", lambda: OpenExchanges(most=1))
        guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true")
        first, second = marked(chat("first")), marked(chat("second"))
        guarded.check(first)
        guarded.check(second)
        guarded.client._verdict = BLOCK
        assert guarded.guard.checks_answers(first)
        with pytest.raises(Refusal):
            asyncio.run(guarded.guard.check_answer(first, self.SAID))
        guarded.finish(first, self.SAID)
        assert [record["status"] for record in guarded.records] == ["200", "403"]
        assert guarded.guard._displaced == {}

    def test_a_flagged_answer_passes_and_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        _, _, outcome = self.asked(ALERT, self.SAID)
        assert outcome == {}
        assert "flagged | call_id=call-1" in caplog.text

    def test_masks_are_given_by_their_place_in_the_answer(self) -> None:
        masks = self.mask_the_card
        _, _, outcome = self.asked(masks, self.SAID)
        assert outcome == {("choices", 0, "message", "content"): MASKED_CARD}
        _, _, outcome = self.asked(masks, [self.SAID, self.SAID])
        assert outcome == {(n, "choices", 0, "message", "content"): MASKED_CARD for n in (0, 1)}

    def test_a_mask_is_told_once_it_was_applied(self, caplog: pytest.LogCaptureFixture) -> None:
        changed = Judgement(ALLOW, {("choices", 0): "masked"})
        with caplog.at_level(logging.INFO):
            guarded, data, _ = self.asked(self.mask_the_card, self.SAID)
            assert "masked" not in caplog.text
            assert "masks_applied" not in guarded.counters.snapshot()
            guarded.guard.answer_passed(data, Judgement(ALLOW))
            assert "masked" not in caplog.text
            guarded.guard.answer_passed(data, changed)
        assert "masked | call_id=call-1" in caplog.text
        assert guarded.counters.snapshot()["masks_applied"] == 1

    def test_an_answer_with_a_mask_that_cannot_be_applied_is_blocked_for_client_and_log(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        guarded = Guarded(ALLOW, RESPONSE_GUARDRAILS="true")
        data = marked(chat("hello"))

        async def main() -> ClientRequest:
            request = begin({"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []})
            await guarded.guard.check_request(data, Key(), "acompletion")
            guarded.client._verdict = self.mask_the_card
            await guarded.guard.check_answer(data, self.SAID)
            refusal = guarded.guard.refusal_of_answer_mask(data, self.SAID, UnmappableMask("no place"))
            assert refusal.judgement is not None
            assert refusal.judged
            return request

        with caplog.at_level(logging.INFO):
            assert asyncio.run(main()).outcome == "blocked"
        assert "masked |" not in caplog.text
        assert caplog.text.count("mask not applicable, refused | call_id=call-1") == 1

    def test_a_mask_without_a_place_refuses_the_answer_which_is_recorded_once(self) -> None:
        guarded, data, outcome = self.asked(Verdict(Decision.ALLOW, mask="not JSON"), self.SAID)
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.judged) == (403, True)
        guarded.finish(data, {"error": {}}, 403)
        assert [answer_of(record)["answer"] for record in guarded.records] == [self.SAID]

    @pytest.mark.parametrize("error", [unavailable(Cause.TIMEOUT), ValueError("secret-content")])
    def test_without_a_verdict_the_fallback_decides(self, error: Verdict | Exception) -> None:
        guarded, data, outcome = self.asked(error, self.SAID)
        assert outcome == {}
        guarded.finish(data, self.SAID)
        assert [record["status"] for record in guarded.records] == ["200"]

        guarded, data, outcome = self.asked(error, self.SAID, UNREACHABLE_FALLBACK="fail_closed")
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.judged) == (503, False)
        guarded.finish(data, {"error": {}}, 503)
        assert [record["status"] for record in guarded.records] == ["503"]

    @pytest.mark.parametrize("fallback", ["fail_open", "fail_closed"])
    def test_an_answer_too_large_to_be_checked_never_passes(self, fallback: str) -> None:
        body = {"text": "x" * (LONGEST_STRING + 1)}
        guarded, _, outcome = self.asked(
            ALLOW, body, MAX_CHECK_CHARACTERS=str(LONGEST_STRING), UNREACHABLE_FALLBACK=fallback
        )
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.message) == (413, "Answer too large to be checked by Akto Guardrails")
        assert guarded.client.answer_checks == []
        (record,) = guarded.records
        assert len(record["responsePayload"]) <= LONGEST_STRING

    def test_media_is_left_out_of_what_is_checked(self) -> None:
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 400}}
        guarded, _, _ = self.asked(ALLOW, {"choices": [{"message": {"content": [image]}}]})
        assert "AAAA" not in guarded.client.answer_checks[0]["responsePayload"]

    def test_an_answer_to_a_request_that_is_recorded_already_is_not_checked(self) -> None:
        guarded, data, _ = self.asked(BLOCK, self.SAID)
        assert guarded.guard.checks_answers(data) is False
        assert asyncio.run(guarded.guard.check_answer(data, self.SAID)).changes == {}

    @pytest.mark.parametrize(
        ("environment", "call_type", "checked"),
        [
            ({"RESPONSE_GUARDRAILS": "true"}, "acompletion", True),
            ({"RESPONSE_GUARDRAILS": "true"}, "anthropic_messages", True),
            ({"RESPONSE_GUARDRAILS": "true"}, "aresponses", True),
            ({"RESPONSE_GUARDRAILS": "true"}, "agenerate_content_stream", True),
            ({"RESPONSE_GUARDRAILS": "true"}, "aembedding", False),
            ({"RESPONSE_GUARDRAILS": "true"}, "image_generation", False),
            ({"RESPONSE_GUARDRAILS": "true", "SYNC_MODE": "false"}, "acompletion", False),
            ({}, "acompletion", False),
        ],
    )
    def test_answers_are_held_where_a_model_speaks_and_the_operator_wants_it(
        self, environment: dict[str, str], call_type: str, checked: bool
    ) -> None:
        guarded = Guarded(**environment)
        data = marked(chat("hello"))
        asyncio.run(guarded.guard.check_request(data, Key(), call_type))
        assert guarded.guard.checks_answers(data) is checked
        assert guarded.guard.checks_answers(marked(chat("another"))) is False

    @pytest.mark.parametrize(("call_type", "checks"), [("acompletion", 1), ("aembedding", 0)])
    def test_where_nothing_is_enforced_they_are_checked_after_they_were_given_out(
        self, call_type: str, checks: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        guarded = Guarded(no_on("4111"), RESPONSE_GUARDRAILS="true", SYNC_MODE="false")
        data = marked(chat("hello"))

        async def main() -> None:
            await guarded.guard.check_request(data, Key(), call_type)
            guarded.guard.finished(data, self.SAID, 200)
            assert guarded.client.answer_checks == []
            await background_work()

        asyncio.run(main())
        assert len(guarded.client.answer_checks) == checks
        assert caplog.text.count("violation seen, not enforced") == checks
        assert [record["status"] for record in guarded.records] == ["200"]

    def test_no_log_line_holds_the_answer(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.DEBUG):
            for verdict in (BLOCK, ALERT, Verdict(Decision.ALLOW, mask="secret-mask"), ValueError("secret-error")):
                self.asked(verdict, {"choices": [{"text": "secret-answer"}]})
        assert caplog.records
        assert "secret" not in caplog.text

    def test_an_answer_that_is_fetched_later_is_checked(self) -> None:
        """`POST /responses` with `background: true` answers empty; `GET /responses/{id}` has the text."""
        guarded = Guarded(RESPONSE_GUARDRAILS="true")
        data = {"response_id": "resp_1", "proxy_server_request": {"body": {}}, "litellm_call_id": "call-1"}
        asyncio.run(guarded.guard.check_request(data, Key(), "aget_responses"))
        assert guarded.guard.checks_answers(data)


class TestToolCalls:
    """Tool calls, in answers and as requests of their own."""

    MCP = {  # noqa: RUF012 - never changed
        "mcp_tool_name": "refund",
        "mcp_server_name": "shop",
        "mcp_arguments": {"note": CARD, "amount": 7},
        "litellm_call_id": "call-1",
        "model": "mcp-tool-call",
    }

    @staticmethod
    def call(guarded: Guarded, data: dict[str, Any], call_type: str = "call_mcp_tool") -> None:
        """Checks an MCP call."""
        asyncio.run(guarded.guard.check_request(data, Key(key_alias="checkout"), call_type))

    @staticmethod
    def answered(guarded: Guarded, answer: object, call_type: str = "acompletion") -> None:
        """A request and its answer."""
        data = marked(chat("hello"))

        async def main() -> None:
            await guarded.guard.check_request(data, Key(key_alias="checkout"), call_type)
            guarded.guard.finished(data, answer, 200)
            await background_work()

        asyncio.run(main())

    def test_they_are_posts_whatever_the_request_was(self) -> None:
        guarded = Guarded()
        answer = {"choices": [{"message": {"tool_calls": [{"function": {"name": n}} for n in ("a", "mcp__b__c")]}}]}
        data = {"messages": [{"role": "user", "content": "hello"}], "litellm_logging_obj": LoggingObject("call-7")}
        event = {"litellm_call_id": "call-7", "litellm_params": {"proxy_server_request": {}}}

        async def main() -> None:
            came_in("/openai_passthrough/v1/x", method="PUT")
            await guarded.guard.check_request(data, Key(), "pass_through_endpoint")
            guarded.guard.finished(event, answer, 200)

        asyncio.run(main())
        assert [record["method"] for record in guarded.records] == ["PUT", "POST", "POST"]

    def test_those_in_an_answer_are_recorded_on_their_own(self) -> None:
        guarded = Guarded()
        calls = [
            {"id": "1", "type": "function", "function": {"name": "search", "arguments": '{"q": "x"}'}},
            {"id": "2", "type": "function", "function": {"name": "mcp__github__search", "arguments": '{"q": "y"}'}},
        ]
        self.answered(guarded, {"choices": [{"message": {"role": "assistant", "tool_calls": calls}}]})
        exchange, ordinary, mcp = guarded.records
        assert exchange["path"] == "/v1/chat/completions"
        assert (ordinary["path"], mcp["path"]) == ("/tool/search", "/mcp")
        assert json.loads(ordinary["requestPayload"]) == {"body": {"q": "x"}, "toolName": "search"}
        params = {"name": "search", "arguments": {"q": "y"}}
        assert json.loads(mcp["requestPayload"]) == {
            "jsonrpc": "2.0",
            "method": "tools/call",
            "params": params,
            "id": 1,
        }
        hosts = [json.loads(record["requestHeaders"])["host"] for record in guarded.records]
        assert hosts == ["checkout", "checkout", "checkout.litellm.github"]
        kinds = ["gen-ai" in json.loads(record["tag"]) for record in guarded.records]
        assert kinds == [True, True, False]
        assert ordinary["responsePayload"] is mcp["responsePayload"] is None
        assert guarded.counters.snapshot()["tool_calls_recorded"] == 2

    @pytest.mark.parametrize(
        ("tools", "recorded"),
        [
            ([("mcp", "litellm", "litellm_proxy")], 1),
            ([("mcp", "other", "litellm_proxy/mcp/files"), ("mcp", "docs", "https://example.com/mcp")], 1),
            ([("mcp", "litellm", "https://example.com/mcp")], 2),
            ([("mcp", "litellm", "https://example.com/mcp"), ("mcp", "other", "litellm_proxy/mcp/none")], 2),
            ([("function", "litellm", "litellm_proxy")], 2),
            ([], 2),
        ],
    )
    def test_those_that_litellm_ran_itself_had_a_record_already(
        self, tools: list[tuple[str, str, str]], recorded: int
    ) -> None:
        guarded = Guarded()
        asked = [{"type": kind, "server_label": label, "server_url": address} for kind, label, address in tools]
        text = 'use {"type": "mcp", "server_url": "litellm_proxy"}'
        data = {"input": text, "tools": asked, "proxy_server_request": {}}
        item = {"type": "mcp_call", "name": "read", "arguments": "{}", "output": "text"}
        output = [{**item, "server_label": "litellm"}, {**item, "server_label": "docs"}]

        async def main() -> None:
            await guarded.guard.check_request(data, Key(), "aresponses")
            guarded.guard.finished(data, {"output": output}, 200)
            await background_work()

        asyncio.run(main())
        assert len(guarded.records) == recorded + 1

    def test_their_paths_are_the_operators(self) -> None:
        guarded = Guarded(MCP_INGEST_PATH="/gateway/mcp", NON_MCP_TOOL_PATH_PREFIX="/tools")
        calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("search", "mcp__github__search")]
        self.answered(guarded, {"choices": [{"message": {"tool_calls": calls}}]})
        assert [record["path"] for record in guarded.records[1:]] == ["/tools/search", "/gateway/mcp"]

    def test_a_call_that_cannot_be_recorded_is_counted_and_harms_nothing(self) -> None:
        guarded = Guarded()
        deep = {"output": [{"type": "function_call", "name": "f", "arguments": nested(20_000)}]}
        guarded.guard._record = lambda *_: None  # type: ignore[method-assign]
        self.answered(guarded, deep)
        assert guarded.counters.snapshot()["unavailable_internal"] == 1

    def test_an_mcp_call_is_checked_as_json_rpc_under_a_host_of_its_server(self) -> None:
        guarded = Guarded()
        data = copy.deepcopy(self.MCP)
        self.call(guarded, data)
        assert data == self.MCP
        (check,) = guarded.client.checks
        assert json.loads(check["requestPayload"]) == {
            "jsonrpc": "2.0",
            "method": "tools/call",
            "params": {"name": "refund", "arguments": {"note": CARD, "amount": 7}},
            "id": 1,
        }
        assert check["path"] == "/mcp"
        assert json.loads(check["requestHeaders"])["host"] == "checkout.litellm.shop"
        tags = json.loads(check["tag"])
        assert (tags["mcp_server_name"], tags["tool_name"]) == ("shop", "refund")
        assert "gen-ai" not in tags

    def test_an_mcp_call_is_recorded_with_its_result_as_json_rpc_and_not_once_more_as_a_tool_call(self) -> None:
        guarded = Guarded()
        result = {"content": [{"type": "tool_use", "name": "x", "input": {}}]}
        data = copy.deepcopy(self.MCP)
        self.call(guarded, data)
        guarded.finish({"litellm_call_id": "call-1"}, result)
        (record,) = guarded.records
        assert json.loads(record["responsePayload"]) == {"jsonrpc": "2.0", "id": 1, "result": result}
        assert record["path"] == "/mcp"

    def test_masked_arguments_are_handed_to_litellm_under_the_name_it_reads(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = copy.deepcopy(self.MCP)
        self.call(guarded, data)
        assert data["modified_arguments"] == {"note": MASKED_CARD, "amount": 7}
        guarded.finish(data, {"content": []})
        assert "4111" not in json.dumps(guarded.records)
        assert MASKED_CARD in guarded.records[0]["requestPayload"]

    def test_a_blocked_mcp_call_is_refused_and_recorded(self) -> None:
        guarded = Guarded(BLOCK)
        with pytest.raises(Refusal):
            self.call(guarded, copy.deepcopy(self.MCP))
        assert [record["status"] for record in guarded.records] == ["403"]

    def test_a_catalogs_tool_is_checked_and_masked_and_waits_for_no_answer(self) -> None:
        guarded = Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>"))
        data = {"mcp_tool_name": "refund", "mcp_tool_description": CARD, "mcp_input_schema": {}, "litellm_call_id": "c"}
        self.call(guarded, data, "list_mcp_tools")
        assert data["mcp_tool_description"] == MASKED_CARD
        assert guarded.guard.open_exchange(data) is None
        assert guarded.records == []

    TOOL: Mapping[str, Any] = {
        "mcp_tool_name": "refund",
        "mcp_tool_description": "Pays money back",
        "mcp_input_schema": {},
        "mcp_server_name": "shop",
    }

    def listed(self, guarded: Guarded, **changed: str) -> int:
        """How many checks there were when a tool was listed twice."""

        async def main() -> None:
            for _ in range(2):
                with contextlib.suppress(Refusal):
                    await guarded.guard.check_request({**self.TOOL, **changed}, Key(), "list_mcp_tools")
                await background_work()

        asyncio.run(main())
        return len(guarded.client.checks)

    @pytest.mark.parametrize("mode", ["true", "false"])
    def test_a_catalogs_tool_that_was_allowed_is_not_checked_again_at_once(self, mode: str) -> None:
        guarded = Guarded(SYNC_MODE=mode)
        assert self.listed(guarded) == 1
        assert self.listed(guarded, mcp_tool_description="Pays all money back") == 2
        assert self.listed(guarded, mcp_server_name="bank") == 3

    @pytest.mark.parametrize("mode", ["true", "false"])
    @pytest.mark.parametrize("verdict", [BLOCK, ALERT, mask("money", "<MONEY>"), unavailable(Cause.TIMEOUT)])
    def test_any_other_one_is(self, verdict: Verdict | Callable[[dict[str, Any]], Verdict], mode: str) -> None:
        assert self.listed(Guarded(verdict, UNREACHABLE_FALLBACK="fail_open", SYNC_MODE=mode)) == 2

    def test_a_known_one_is_shown_as_allowed(self) -> None:
        guarded = Guarded()
        self.listed(guarded)

        async def main() -> set[str]:
            request = came_in("/mcp/")
            await guarded.guard.check_request(dict(self.TOOL), Key(), "list_mcp_tools")
            return {str(request.outcome)}

        assert asyncio.run(main()) == {"allowed"}

    def test_a_mask_of_the_tools_name_cannot_be_applied(self) -> None:
        guarded = Guarded(mask("refund", "<NAME>"))
        with pytest.raises(Refusal):
            self.call(guarded, copy.deepcopy(self.MCP))

    def test_nor_can_one_of_the_name_of_a_catalogs_tool(self) -> None:
        guarded = Guarded(mask("refund", "<NAME>"))
        data = {"mcp_tool_name": "refund", "mcp_tool_description": "hi", "mcp_input_schema": {}, "litellm_call_id": "c"}
        with pytest.raises(Refusal):
            self.call(guarded, data, "list_mcp_tools")


class TestBatchRecords:
    """Records of a batch file, each of which LiteLLM shows before the file goes to a provider."""

    @staticmethod
    def shown(guarded: Guarded, *records: dict[str, Any], path: str = "/v1/files") -> None:
        async def main() -> None:
            came_in(path)
            for record in records:
                await guarded.guard.check_request(record, Key(), "acompletion")

        asyncio.run(main())

    def test_each_is_checked_and_recorded_at_once_without_an_answer(self) -> None:
        guarded = Guarded()
        records = [{"model": "m", "messages": [{"role": "user", "content": text}]} for text in ("one", "two")]
        self.shown(guarded, *records)
        assert [content_of(check)["messages"][0]["content"] for check in guarded.client.checks] == ["one", "two"]
        assert [content_of(record)["messages"][0]["content"] for record in guarded.records] == ["one", "two"]
        assert {record["responsePayload"] for record in guarded.records} == {None}
        assert guarded.guard.open_exchange(records[0]) is None

    def test_a_blocked_one_is_recorded_once(self) -> None:
        guarded = Guarded(BLOCK)
        with pytest.raises(Refusal):
            self.shown(guarded, {"messages": [{"role": "user", "content": "one"}]})
        assert [record["status"] for record in guarded.records] == ["403"]

    @pytest.mark.parametrize("path", ["/v1/files\n", "/v1/files/", "/files\r\n/"])
    def test_another_spelling_of_the_path_hides_nothing(self, path: str) -> None:
        guarded = Guarded()
        self.shown(guarded, {"input": "one", "text": {"format": {"description": "two"}}}, path=path)
        assert content_of(guarded.client.checks[0])["text"] == {"format": {"description": "two"}}

    @pytest.mark.parametrize("name", ["proxy_server_request", "litellm_logging_obj"])
    @pytest.mark.parametrize("value", [{"headers": {"x-session-id": "another"}, "note": "two"}, "two", None])
    def test_entries_of_litellms_names_are_the_clients_text(self, name: str, value: object) -> None:
        guarded = Guarded()
        record = {"messages": [{"role": "user", "content": "one"}], name: value}
        before = json.dumps(record)
        self.shown(guarded, record)
        assert content_of(guarded.client.checks[0]).get(name) == value
        assert len(guarded.records) == 1
        assert "another" not in guarded.records[0]["requestHeaders"]
        assert json.dumps(record) == before

    @pytest.mark.parametrize(
        ("path", "entries"),
        [
            ("/v1/chat/completions", {}),
            ("/v1/files", {"litellm_logging_obj": LoggingObject()}),
        ],
    )
    def test_other_requests_wait_for_their_answer(self, path: str, entries: dict[str, Any]) -> None:
        guarded = Guarded()
        data = {"messages": [{"role": "user", "content": "one"}], "litellm_call_id": "call-1", **entries}
        self.shown(guarded, data, path=path)
        assert guarded.records == []
        assert guarded.guard.open_exchange(data) is not None


class TestUncheckedRoutes:
    """UNCHECKED_ROUTES."""

    @pytest.mark.parametrize(("setting", "admitted"), [("allow", True), ("deny", False)])
    def test_each_family_is_counted_and_logged_once(
        self, setting: str, admitted: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        guarded = Guarded(UNCHECKED_ROUTES=setting)
        for family in ("assistants", "token counting", "assistants", "assistants"):
            assert guarded.guard.admits(family) is admitted
        assert guarded.counters.snapshot() == {"unchecked_assistants": 3, "unchecked_token_counting": 1}
        lines = [line.getMessage() for line in caplog.records]
        assert lines == [
            f"unchecked route | assistants | UNCHECKED_ROUTES={setting}",
            f"unchecked route | token counting | UNCHECKED_ROUTES={setting}",
        ]

    @staticmethod
    def send(guarded: Guarded, data: dict[str, Any], call_type: str, content_type: str, method: str = "POST") -> None:
        async def main() -> None:
            headers = [(b"content-type", content_type.encode())] if content_type else []
            came_in("/cohere/v1/x", headers=headers, method=method)
            await guarded.guard.check_request(data, Key(), call_type)

        asyncio.run(main())

    @pytest.mark.parametrize(
        ("data", "call_type", "content_type", "counter"),
        [
            (
                {},
                "pass_through_endpoint",
                "multipart/form-data; boundary=x",
                "unchecked_pass-through_body_that_is_not_JSON",
            ),
            ({"purpose": "assistants"}, "acreate_file", "multipart/form-data; boundary=x", "unchecked_file_upload"),
            ({}, "acreate_file", "multipart/form-data; boundary=x", "unchecked_file_upload"),
        ],
    )
    def test_a_body_that_no_hook_is_shown_counts_as_one(
        self, data: dict[str, Any], call_type: str, content_type: str, counter: str
    ) -> None:
        guarded = Guarded()
        self.send(guarded, data, call_type, content_type)
        assert guarded.counters.snapshot() == {counter: 1}
        with pytest.raises(Refusal) as caught:
            self.send(Guarded(UNCHECKED_ROUTES="deny"), data, call_type, content_type)
        assert (caught.value.status, caught.value.judged) == (403, False)

    @pytest.mark.parametrize(
        ("data", "call_type", "content_type", "method"),
        [
            ({"message": "hi"}, "pass_through_endpoint", "application/json", "POST"),
            ({"message": "hi"}, "pass_through_endpoint", "", "POST"),
            ({}, "pass_through_endpoint", "", "GET"),
            ({}, "pass_through_endpoint", "text/plain", "GET"),
            ({"purpose": "batch"}, "acreate_file", "multipart/form-data; boundary=x", "POST"),
            (chat("hi"), "acompletion", "text/plain", "POST"),
        ],
    )
    def test_a_body_that_is_shown_does_not(
        self, data: dict[str, Any], call_type: str, content_type: str, method: str
    ) -> None:
        guarded = Guarded(UNCHECKED_ROUTES="deny")
        self.send(guarded, dict(data), call_type, content_type, method)
        assert not [name for name in guarded.counters.snapshot() if name.startswith("unchecked")]


@pytest.mark.parametrize("call_type", ["acreate_file", "acreate_batch", "acreate_fine_tuning_job"])
def test_calls_that_carry_only_names_and_ids_are_not_checked(call_type: str) -> None:
    guarded = Guarded(BLOCK)
    data = {"purpose": "batch", "endpoint": "/v1/x", "proxy_server_request": {"body": {"endpoint": "/v1/x"}}}
    asyncio.run(guarded.guard.check_request(data, Key(), call_type))
    assert guarded.client.checks == []


class TestTurns:
    """Messages on a WebSocket, whose pre-call hook LiteLLM calls once."""

    CONNECTION = {"litellm_call_id": "call-1", "metadata": {"agent_name": "agent"}}  # noqa: RUF012 - never changed

    def turn(self, guarded: Guarded, event: dict[str, Any]) -> Any:
        """The mark of the exchange of one message."""
        data = marked(dict(self.CONNECTION))
        return asyncio.run(guarded.guard.check_turn(event, data, Key(), "_aresponses_websocket"))

    def test_each_is_checked_and_recorded_with_its_own_answer(self) -> None:
        guarded = Guarded()
        data = marked(dict(self.CONNECTION))

        async def main() -> None:
            came_in("/v1/responses", kind="websocket")
            marks = []
            for text in ("one", "two"):
                event = {"type": "response.create", "model": "m", "input": text}
                marks.append(await guarded.guard.check_turn(event, data, Key(), "_aresponses_websocket"))
            assert len(set(marks)) == 2
            for key, answer in reversed(list(zip(marks, ("to one", "to two"), strict=True))):
                guarded.guard.finished_exchange(key, {"answer": answer}, 200)
                guarded.guard.finished_exchange(key, {"answer": answer}, 200)

        asyncio.run(main())
        assert [content_of(check)["input"] for check in guarded.client.checks] == ["one", "two"]
        assert [(content_of(each)["input"], answer_of(each)["answer"]) for each in guarded.records] == [
            ("two", "to two"),
            ("one", "to one"),
        ]
        assert json.loads(guarded.records[0]["requestHeaders"])["host"] == "agent"

    def test_masked_text_is_masked_in_the_message(self) -> None:
        event = {"type": "response.create", "model": "m", "input": CARD, "temperature": 1}
        self.turn(Guarded(mask("4111-1111-1111-1111", "<CREDIT_CARD>")), event)
        assert event == {"type": "response.create", "model": "m", "input": MASKED_CARD, "temperature": 1}

    def test_a_blocked_one_is_refused_and_recorded(self) -> None:
        guarded = Guarded(BLOCK)
        with pytest.raises(Refusal):
            self.turn(guarded, {"type": "response.create", "input": "poison"})
        assert [record["status"] for record in guarded.records] == ["403"]

    def test_one_without_text_is_not_checked(self) -> None:
        guarded = Guarded(BLOCK)
        assert self.turn(guarded, {"type": "response.cancel", "event_id": "e"}) is None
        assert guarded.client.checks == []


@pytest.mark.parametrize("sync_mode", ["true", "false"])
def test_what_waits_for_a_burst_is_done_before_the_end(sync_mode: str) -> None:
    """Records, and with SYNC_MODE=false checks, of the last tenth of a second before a stop."""
    guarded = Guarded()
    guard = Guard(
        settings(SYNC_MODE=sync_mode),
        guarded.client,  # type: ignore[arg-type]
        guarded.recorder,  # type: ignore[arg-type]
        guarded.counters,
        Burst(60),
    )
    finished, left_open = marked(chat("hello")), marked(chat("bye"))

    async def main() -> None:
        for data in (finished, left_open):
            await guard.check_request(data, Key(), "acompletion")
        guard.finished(finished, ANSWER, 200)
        assert guarded.records == []
        await guard.close(5)

    asyncio.run(main())
    assert [record["statusCode"] for record in guarded.records] == ["200", "499"]
    assert len(guarded.client.checks) == 2
