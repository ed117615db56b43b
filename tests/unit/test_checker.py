"""Checks of one request or one answer, in as many calls as its size takes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from akto_guardrails import envelope
from akto_guardrails.checker import Checker, Judgement
from akto_guardrails.content import Path
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import LONGEST_STRING, payload_of
from akto_guardrails.exchange import Exchange
from akto_guardrails.json_text import json_length
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.verdict import Cause, Decision, Verdict, unavailable
from unit.samples import CARD, MASKED_CARD, SENDER, exchange, settings

ALLOW = Verdict(Decision.ALLOW)
BLOCK = Verdict(Decision.BLOCK, reason="no")
FLAG = Verdict(Decision.FLAG, behaviour="alert")
OUTAGE = unavailable(Cause.TIMEOUT)
NUMBER, MASK = "4111-1111-1111-1111", "<CREDIT_CARD>"

Answer = Callable[[str], Verdict]


class Asked:
    """A checker, and what it asked Akto. `answer` makes a verdict of the payload a check is about."""

    def __init__(self, answer: Answer | Exception = lambda payload: ALLOW, **environment: str) -> None:
        self._answer = answer
        self.checks: list[dict[str, Any]] = []
        self.kinds: list[bool] = []
        self.at_once = self.most_at_once = 0
        self.counters = Counters()
        self.checker = Checker(settings(**environment), self, SENDER, self.counters)  # type: ignore[arg-type]

    async def check(self, body: bytes, *, of_answer: bool = False) -> Verdict:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        sent = json.loads(body)
        self.checks.append(sent)
        self.kinds.append(of_answer)
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer(sent["responsePayload"] if of_answer else sent["requestPayload"])

    def request(self, content: Mapping[str, Any], of: Exchange | None = None) -> Judgement:
        of = of or exchange(1)
        known = replace(of, sent_payload=payload_of(content, bare=of.bare))
        return asyncio.run(self.checker.request(known, content))

    def answer(self, body: Mapping[str, Any], of: Exchange | None = None) -> Judgement:
        return asyncio.run(self.checker.answer(of or exchange(1), body))

    @property
    def payloads(self) -> list[Any]:
        """What was checked of the request, check by check."""
        return [json.loads(check["requestPayload"]) for check in self.checks]


def masking(payload: str) -> Verdict:
    """A service that masks card numbers wherever it sees one."""
    return Verdict(Decision.ALLOW, mask=payload.replace(NUMBER, MASK) if NUMBER in payload else None)


def chat(*texts: str, **entries: Any) -> dict[str, Any]:
    """The content of a request with one user turn for each of `texts`, an answer before each but the first."""
    messages: list[dict[str, Any]] = []
    for text in texts:
        messages += [{"role": "assistant", "content": "answer"}] if messages else []
        messages.append({"role": "user", "content": text})
    return {"model": "m", "messages": messages, **entries}


def long(length: int = LONGEST_STRING) -> str:
    """Text of `length` characters or a little more in which no phrase comes twice."""
    return " ".join(f"word-{number:07}" for number in range(length // 13 + 2))


class TestRequest:
    """Checks of requests."""

    @pytest.mark.parametrize("verdict", [ALLOW, BLOCK, FLAG, OUTAGE])
    def test_one_that_fits_is_one_check_with_its_verdict(self, verdict: Verdict) -> None:
        asked = Asked(lambda payload: verdict)
        assert asked.request(chat("hello")) == Judgement(verdict, {})
        assert asked.payloads == [{"body": chat("hello")}]
        assert asked.checks[0]["responsePayload"] is None
        assert asked.kinds == [False]
        assert asked.counters.snapshot() == {f"checks_{verdict.decision.value}": 1}

    @pytest.mark.parametrize("cause", list(Cause))
    def test_it_counts_how_long_akto_took_only_where_akto_was_asked(self, cause: Cause) -> None:
        asked = Asked(lambda payload: unavailable(cause))
        asked.request(chat("hello"))
        report = asked.counters.report()
        assert report["checks_unavailable"] == 1
        is_timed = len(report["check_seconds"]) > 1  # type: ignore[arg-type]
        assert is_timed is (cause not in (Cause.OVERLOAD, Cause.BREAKER_OPEN))

    def test_a_bare_one_goes_without_a_wrapper(self) -> None:
        asked = Asked()
        asked.request(chat("hello"), replace(exchange(1), bare=True))
        assert asked.payloads == [chat("hello")]

    @pytest.mark.parametrize("decision", [Decision.ALLOW, Decision.FLAG])
    def test_its_masks_are_found_where_it_may_pass(self, decision: Decision) -> None:
        asked = Asked(lambda payload: replace(masking(payload), decision=decision))
        assert asked.request(chat(CARD)).changes == {("messages", 0, "content"): MASKED_CARD}

    @pytest.mark.parametrize("verdict", [BLOCK, OUTAGE])
    def test_masks_do_not_matter_where_it_may_not(self, verdict: Verdict) -> None:
        asked = Asked(lambda payload: replace(verdict, mask="not even JSON"))
        assert asked.request(chat(CARD)).changes == {}

    def test_a_mask_without_a_place_is_reported(self) -> None:
        with pytest.raises(UnmappableMask):
            Asked(lambda payload: replace(ALLOW, mask="not even JSON")).request(chat(CARD))

    def test_a_bug_of_the_client_is_no_verdict(self) -> None:
        asked = Asked(ValueError("secret-content"))
        verdict = asked.request(chat("hello")).verdict
        assert (verdict.decision, verdict.cause) == (Decision.UNAVAILABLE, Cause.INTERNAL)
        assert "secret" not in verdict.reason


class TestSplit:
    """Content larger than one check takes."""

    def test_it_is_checked_in_portions_side_by_side_that_hold_all_of_it(self) -> None:
        asked = Asked()
        text = long(3 * LONGEST_STRING)
        assert asked.request(chat(text)).verdict == ALLOW
        assert len(asked.checks) > 2
        assert asked.most_at_once == len(asked.checks)
        assert all(len(check["requestPayload"]) <= LONGEST_STRING for check in asked.checks)
        assert all(payload["body"]["model"] == "m" for payload in asked.payloads)
        checked = " ".join(piece for payload in asked.payloads for piece in payload["body"]["text"])
        assert set(text.split()) <= set(checked.split())
        assert asked.counters.snapshot() == {"checks_split": 1, "checks_allow": len(asked.checks)}

    @pytest.mark.parametrize(
        ("verdicts", "expected"),
        [
            ([ALLOW, BLOCK], BLOCK),
            ([OUTAGE, BLOCK], BLOCK),
            ([BLOCK, FLAG], BLOCK),
            ([FLAG, OUTAGE], OUTAGE),
            ([ALLOW, OUTAGE], OUTAGE),
            ([ALLOW, FLAG], FLAG),
            ([ALLOW, ALLOW], ALLOW),
        ],
    )
    def test_its_worst_verdict_counts(self, verdicts: list[Verdict], expected: Verdict) -> None:
        first = [True]

        def one_after_the_other(payload: str) -> Verdict:
            return verdicts[0] if first and first.pop() else verdicts[1]

        assert Asked(one_after_the_other).request(chat(long())).verdict == expected

    def test_the_name_of_the_model_goes_with_each_portion_and_is_no_text_of_it(self) -> None:
        asked = Asked()
        asked.request(chat(long()))
        bodies = [payload["body"] for payload in asked.payloads]
        assert len(bodies) > 1
        assert all(body["model"] == "m" and "model" not in body["text"] for body in bodies)

    def test_it_says_how_long_all_of_it_took(self) -> None:
        began = time.perf_counter()
        seconds = Asked().request(chat(long())).seconds
        assert 0 < seconds <= time.perf_counter() - began

    def test_a_mask_in_one_portion_changes_the_whole_string(self) -> None:
        text = f"{long()} {NUMBER} {long(1000)}"
        assert Asked(masking).request(chat("short", text)).changes == {
            ("messages", 2, "content"): text.replace(NUMBER, MASK)
        }

    def test_a_mask_changes_nothing_where_another_portion_is_blocked(self) -> None:
        asked = Asked(lambda payload: BLOCK if NUMBER in payload else replace(ALLOW, mask="not even JSON"))
        assert asked.request(chat(long() + CARD)) == Judgement(BLOCK, {})

    def test_more_than_the_operator_wants_checked_is_not_even_asked_about(self) -> None:
        asked = Asked(MAX_CHECK_CHARACTERS=str(LONGEST_STRING))
        assert asked.request(chat(long(LONGEST_STRING + 100_000))) == Judgement(unavailable(Cause.TOO_LARGE), {})
        assert asked.checks == []

    def test_exactly_as_much_as_the_operator_wants_checked_is_checked(self) -> None:
        content = chat(long())
        length = len(payload_of(content))
        assert Asked(MAX_CHECK_CHARACTERS=str(length)).request(content).verdict == ALLOW
        assert Asked(MAX_CHECK_CHARACTERS=str(length - 1)).request(content).verdict.cause is Cause.TOO_LARGE

    def test_the_limit_is_one_of_characters_as_the_service_counts_them(self) -> None:
        asked = Asked(MAX_CHECK_CHARACTERS="300000")
        assert asked.request(chat("\U0001f600" * 140_000)).verdict == ALLOW
        assert asked.request(chat("\U0001f600" * 160_000)).verdict.cause is Cause.TOO_LARGE

    @pytest.mark.parametrize("value", [["a"] * 100_001, [[]] * 100_001, {str(number): "a" for number in range(50_001)}])
    def test_more_names_and_values_than_are_looked_at_are_too_large(self, value: Any) -> None:
        asked = Asked()
        verdict = asked.request(chat(long(), documents=value)).verdict
        assert verdict == unavailable(Cause.TOO_LARGE, "(too many names and values)")
        assert asked.checks == []
        assert asked.counters.snapshot() == {}

    def test_more_of_them_are_looked_at_where_the_operator_wants_more_checked(self) -> None:
        asked = Asked(MAX_CHECK_CHARACTERS="4000000")
        assert asked.request(chat(long(), documents=["a"] * 150_000)).verdict == ALLOW
        assert asked.request(chat(long(), documents=["a"] * 200_001)).verdict.cause is Cause.TOO_LARGE

    def test_less_than_one_check_takes_is_never_too_large(self) -> None:
        assert Asked(MAX_CHECK_CHARACTERS="10").request(chat("hello")).verdict == ALLOW

    def test_a_known_mask_survives_the_outage_of_another_portion(self) -> None:
        text = f"{long()} {NUMBER}"
        asked = Asked(lambda payload: masking(payload) if NUMBER in payload else OUTAGE)
        assert asked.request(chat(text)).changes == {("messages", 0, "content"): text.replace(NUMBER, MASK)}


class TestNewestTurn:
    """VALIDATE_LAST_USER_MESSAGE_ONLY."""

    ON = {"VALIDATE_LAST_USER_MESSAGE_ONLY": "true"}  # noqa: RUF012 - never changed

    def test_only_the_newest_turn_is_checked(self) -> None:
        asked = Asked(**self.ON)
        asked.request(chat("earlier", "newest", system="scaffolding"))
        assert asked.payloads == [{"body": {"model": "m", "messages": [{"role": "user", "content": "newest"}]}}]

    @pytest.mark.parametrize(
        ("content", "place"),
        [
            (chat("earlier", CARD), ("messages", 2, "content")),
            (chat(CARD), ("messages", 0, "content")),
            (chat("earlier", "newest", suffix=CARD), ("suffix",)),
            (chat("earlier", "newest", documents=["a", CARD]), ("documents", 1)),
            (
                {"contents": [{"role": "model", "parts": []}, {"role": "user", "parts": [{"text": CARD}]}]},
                ("contents", 1, "parts", 0, "text"),
            ),
        ],
    )
    def test_its_masks_are_given_by_their_place_in_the_whole(self, content: dict[str, Any], place: Path) -> None:
        assert Asked(masking, **self.ON).request(content).changes == {place: MASKED_CARD}

    def test_a_newest_turn_that_fits_is_one_check_however_long_the_conversation(self) -> None:
        asked = Asked(MAX_CHECK_CHARACTERS="1000", **self.ON)
        assert asked.request(chat(long(), "newest")).verdict == ALLOW
        assert len(asked.checks) == 1

    def test_masks_in_a_split_turn_are_given_by_their_place_in_the_whole(self) -> None:
        text = f"{long()} {NUMBER}"
        changes = Asked(masking, **self.ON).request(chat("earlier", text)).changes
        assert changes == {("messages", 2, "content"): text.replace(NUMBER, MASK)}

    def test_answers_are_checked_whole(self) -> None:
        asked = Asked(**self.ON)
        body = {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "system": "c"}
        asked.answer(body)
        assert json.loads(asked.checks[0]["responsePayload"])["body"] == body


class TestBare:
    """PAYLOAD_SHAPE=bare, for which the service puts a summary of the session before the newest user text."""

    BARE = {"PAYLOAD_SHAPE": "bare"}  # noqa: RUF012 - never changed

    @staticmethod
    def summarised(payload: str) -> Verdict:
        content = json.loads(payload.replace(NUMBER, MASK))
        content["messages"][-1]["content"] = f"Summary\n\n{content['messages'][-1]['content']}"
        return Verdict(Decision.ALLOW, mask=json.dumps(content))

    @pytest.mark.parametrize(
        ("text", "changes"),
        [("hello", {}), ("a\n\nb", {}), (CARD, {("messages", 0, "content"): MASKED_CARD})],
    )
    def test_the_summary_does_not_reach_the_model(self, text: str, changes: dict[Path, str]) -> None:
        asked = Asked(self.summarised, **self.BARE)
        assert asked.request(chat(text), replace(exchange(1), bare=True)).changes == changes

    def test_where_no_summary_is_asked_for_text_before_the_request_is_taken_for_a_mask(self) -> None:
        asked = Asked(lambda payload: Verdict(Decision.ALLOW, mask=payload.replace("hello", "new\\n\\nhello")))
        assert asked.request(chat("hello")).changes == {("messages", 0, "content"): "new\n\nhello"}


class TestAnswer:
    """Checks of answers."""

    BODY = {"choices": [{"message": {"role": "assistant", "content": CARD}}]}  # noqa: RUF012 - never changed

    def test_an_answer_is_checked_as_the_response_to_its_request(self) -> None:
        asked = Asked()
        of = replace(exchange(1, '{"body":{"messages":[]}}'), sent_payload="{}")
        assert asked.answer(self.BODY, of) == Judgement(ALLOW, {})
        (check,) = asked.checks
        assert check["requestPayload"] == '{"body":{"messages":[]}}'
        assert json.loads(check["responsePayload"]) == {"body": self.BODY}
        assert asked.kinds == [True]
        assert asked.counters.snapshot() == {"answers_allow": 1}

    def test_a_long_request_goes_along_by_its_beginning(self) -> None:
        asked = Asked()
        asked.answer(self.BODY, exchange(1, "x" * (LONGEST_STRING + 1)))
        assert "x-akto-truncated" in asked.checks[0]["requestPayload"]
        assert len(asked.checks[0]["requestPayload"]) <= LONGEST_STRING

    def test_its_masks_are_found(self) -> None:
        assert Asked(masking).answer(self.BODY).changes == {("choices", 0, "message", "content"): MASKED_CARD}

    def test_a_long_answer_is_checked_in_portions_each_with_the_request(self) -> None:
        asked = Asked(masking)
        text = f"{long()} {NUMBER}"
        judgement = asked.answer({"choices": [{"text": text}]}, exchange(1, '{"body":{}}'))
        assert judgement.changes == {("choices", 0, "text"): text.replace(NUMBER, MASK)}
        assert len(asked.checks) > 1
        assert {check["requestPayload"] for check in asked.checks} == {'{"body":{}}'}
        assert set(asked.kinds) == {True}

    def test_log_probabilities_make_no_answer_too_large(self) -> None:
        token = {"token": "a", "logprob": -0.1, "bytes": [97]}
        tokens = [{**token, "top_logprobs": [token] * 20} for _ in range(1_000)]
        body = {"choices": [{"message": {"content": "hello"}, "logprobs": {"content": tokens}}]}
        asked = Asked()
        assert asked.answer(body) == Judgement(ALLOW, {})
        assert "logprob" not in asked.checks[0]["responsePayload"]
        asked.checks.clear()
        for of_others in ({"input": {"logprobs": long()}}, {"result": {"structuredContent": {"logprobs": long()}}}):
            asked.answer({"content": [of_others], "logprobs": {"t": "zebra"}})
        assert sum("zebra" in check["responsePayload"] for check in asked.checks) == 2, "names alone say nothing"
        assert len(asked.checks) > 2
        asked.checks.clear()
        asked.answer({"choices": [{"message": {"content": "hello"}, "logprobs": {"content": tokens[:2]}}]})
        assert "logprob" in asked.checks[0]["responsePayload"]

    def test_a_long_request_is_cut_once_for_all_checks_of_its_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fitted: list[str] = []
        monkeypatch.setattr(envelope, "json_length", lambda text: fitted.append(text) or json_length(text))
        asked = Asked()
        of = replace(exchange(1), request_payload=payload_of(chat(long())))
        for _ in range(9):
            asked.answer(self.BODY, of)
        (sent,) = {check["requestPayload"] for check in asked.checks}
        assert "x-akto-truncated" in sent
        assert len(fitted) < 4
        asked.answer(self.BODY, replace(of, request_payload="{}"))
        assert asked.checks[-1]["requestPayload"] == "{}"

    def test_an_answer_larger_than_the_operator_wants_checked_has_no_verdict(self) -> None:
        asked = Asked(MAX_CHECK_CHARACTERS=str(LONGEST_STRING))
        body = {"choices": [{"text": long(LONGEST_STRING + 100_000)}]}
        assert asked.answer(body).verdict.cause is Cause.TOO_LARGE
