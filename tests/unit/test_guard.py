"""What happens to a request, from its check to its record."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from akto_guardrails import guard as guard_module
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import LONGEST_STRING
from akto_guardrails.exchange import OpenExchanges
from akto_guardrails.guard import Guard, Refusal
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
        self.closed = False

    async def check(self, body: bytes) -> Verdict:
        await asyncio.sleep(0)
        sent = json.loads(body)
        self.checks.append(sent)
        if isinstance(self._verdict, Exception):
            raise self._verdict
        return self._verdict if isinstance(self._verdict, Verdict) else self._verdict(sent)

    async def close(self) -> None:
        self.closed = True


class Recorder:
    """Keeps the records."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.flushed = False
        self.broken: Exception | None = None

    def put(self, record: bytes) -> None:
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
                await self.guard.close(5)

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
    for name in ("path", "requestHeaders", "tag", "metadata", "ip", "contextSource"):
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

    LIMIT = {"MAX_CHECK_CHARACTERS": str(LONGEST_STRING)}

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
            await guarded.guard.close(5)
            assert len(guarded.client.checks) == 1

        asyncio.run(main())

    def test_a_violation_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        Guarded(BLOCK, SYNC_MODE="false").check(chat())
        assert "violation seen, not enforced (SYNC_MODE=false) | call_id=call-1" in caplog.text

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
            await guarded.guard.close(5)
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
    with caplog.at_level(logging.INFO):
        guarded.check(chat())
    assert guarded.recorder.flushed
    assert guarded.client.closed
    assert 'GuardrailsHandler stopped | {"checks_allow":1}' in caplog.text
