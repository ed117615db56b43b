"""Asks Akto about one request or one answer, in as many checks as its size takes, and says what came of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from akto_guardrails.akto import AktoClient
from akto_guardrails.content import CONTEXT_KEYS, Path, newest_turn_of
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import Sender, envelope, fits, payload_of
from akto_guardrails.exchange import Exchange
from akto_guardrails.json_text import json_length, parsed_json
from akto_guardrails.logprobs import without_logprobs
from akto_guardrails.masking import masked_strings, without_summary
from akto_guardrails.portions import MOST_TEXTS, TooManyTexts, changes_of, portions_of
from akto_guardrails.settings import Settings
from akto_guardrails.verdict import NOT_ASKED, Cause, Decision, Verdict, unavailable

# So many names and values are looked at where more is to be checked than by default: on average they are longer.
_CHARACTERS_OF_A_TEXT: Final = 20
_WORST_FIRST: Final = (Decision.BLOCK, Decision.UNAVAILABLE, Decision.FLAG, Decision.ALLOW)


@dataclass(frozen=True, slots=True)
class Judgement:
    """`changes`: masked strings by their place in what was checked; none when it may not pass.

    `seconds`: how long Akto took, all checks together.
    """

    verdict: Verdict
    changes: Mapping[Path, str] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)


class Checker:
    """The checks of one worker."""

    def __init__(self, settings: Settings, client: AktoClient, sender: Sender, counters: Counters) -> None:
        self._client = client
        self._sender = sender
        self._counters = counters
        self._newest_turn_only = settings.last_user_message_only
        self._summaries = settings.payload_shape == "bare"
        self._most_characters = settings.most_checked_characters
        self._most_texts = max(MOST_TEXTS, self._most_characters // _CHARACTERS_OF_A_TEXT)

    async def request(self, exchange: Exchange, content: Mapping[str, Any]) -> Judgement:
        """Checks `content`, whose payload is `exchange.sent_payload`. Raises `UnmappableMask` and nothing else."""
        part, skipped = newest_turn_of(content) if self._newest_turn_only else (content, {})
        payload = exchange.sent_payload if part is content else payload_of(part, bare=exchange.bare)
        judgement = await self._judged(exchange, part, payload, None)
        if not judgement.changes:
            return judgement
        changes = without_summary(part, judgement.changes) if self._summaries else judgement.changes
        moved = {_moved(path, skipped): text for path, text in changes.items()}
        return replace(judgement, changes=moved)

    async def request_as_sent(self, exchange: Exchange) -> Judgement:
        """The same for the whole request as it was written down: the objects it was made of may have changed since."""
        body = parsed_json(exchange.sent_payload)
        return await self.request(exchange, body if exchange.bare else body["body"])

    async def answer(self, exchange: Exchange, body: Mapping[str, Any]) -> Judgement:
        """Checks a model's answer, with the request as its context. Raises `UnmappableMask` and nothing else."""
        payload = payload_of(body, bare=exchange.bare)
        if not fits(payload):
            body = without_logprobs(body)
            payload = payload_of(body, bare=exchange.bare)
        return await self._judged(exchange, body, payload, exchange.fitted_request)

    async def _judged(
        self, exchange: Exchange, content: Mapping[str, Any], payload: str, request: str | None
    ) -> Judgement:
        """`payload`: of `content`; `request`: the request's payload when `content` is an answer."""
        began = time.perf_counter()
        if fits(payload):
            verdict = await self._ask(exchange, payload, request)
            seconds, mask = time.perf_counter() - began, _mask(verdict)
            changes = {} if mask is None else masked_strings(content, mask, bare=exchange.bare)
            return Judgement(verdict, changes, seconds)
        if json_length(payload) > self._most_characters:
            return Judgement(unavailable(Cause.TOO_LARGE))
        context = {key: content[key] for key in CONTEXT_KEYS if key in content}
        rest = {key: value for key, value in content.items() if key not in context}
        try:
            portions = portions_of(rest, context, most_texts=self._most_texts)
        except TooManyTexts:
            return Judgement(unavailable(Cause.TOO_LARGE, "(too many names and values)"))
        self._counters.add("checks_split")
        verdicts = await asyncio.gather(
            *(self._ask(exchange, payload_of(each.body, bare=exchange.bare), request) for each in portions)
        )
        verdict = _of_all(verdicts)
        masks = [_mask(each) for each in verdicts]
        # Where the rest may pass without a verdict, the masks there are still count.
        is_masked = verdict.decision is not Decision.BLOCK and any(mask is not None for mask in masks)
        changes = changes_of(portions, masks) if is_masked else {}
        return Judgement(verdict, changes, time.perf_counter() - began)

    async def _ask(self, exchange: Exchange, payload: str, request: str | None) -> Verdict:
        is_answer = request is not None
        began = time.perf_counter()
        body = envelope(
            self._sender,
            exchange.identity,
            exchange.tags,
            request_payload=payload if request is None else request,
            response_payload=payload if is_answer else None,
        )
        try:
            verdict = await self._client.check(body, of_answer=True) if is_answer else await self._client.check(body)
        except Exception as error:  # noqa: BLE001 - a bug of the client is no verdict; the exchange goes on to its record
            verdict = unavailable(Cause.INTERNAL, type(error).__name__)
        what = "answers" if is_answer else "checks"
        seconds = None if verdict.cause in NOT_ASKED else time.perf_counter() - began
        self._counters.judged(what, verdict.decision.value, exchange.call_type, seconds)
        return verdict


def _of_all(verdicts: Sequence[Verdict]) -> Verdict:
    return min(verdicts, key=lambda verdict: _WORST_FIRST.index(verdict.decision))


def _mask(verdict: Verdict) -> str | None:
    return verdict.mask if verdict.decision in (Decision.ALLOW, Decision.FLAG) else None


def _moved(path: Path, skipped: Mapping[str, int]) -> Path:
    """The place in the whole content of what is at `path` in its newest turn."""
    if len(path) > 1 and isinstance(path[1], int) and path[0] in skipped:
        return (path[0], path[1] + skipped[str(path[0])], *path[2:])
    return path
