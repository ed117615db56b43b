"""What Akto's answer to a check means.

Facts: sections 2.2 to 2.7 of the protocol reference. An HTTP 200 is not yet an allow and `Allowed: false` is not
yet a block; this module is the only place that decides.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

import orjson

from akto_guardrails.json_text import parsed_json

_SHORT: Final = 1_024
_NOT_BLOCKING: Final = frozenset({"alert", "warn"})


class Decision(Enum):
    """What happens to the request."""

    ALLOW = "allow"
    FLAG = "flag"
    """Let through, but a policy was violated and wants it known (behaviour alert or warn)."""
    BLOCK = "block"
    UNAVAILABLE = "unavailable"
    """Akto gave no usable verdict; `UNREACHABLE_FALLBACK` decides."""


class Cause(Enum):
    """Why there is no usable verdict. Each has its own counter and its own line in the log."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    CREDENTIALS = "credentials"
    REDIRECT = "redirect"
    REJECTED = "rejected"
    SERVER_ERROR = "server_error"
    UNREADABLE = "unreadable"
    NO_VERDICT = "no_verdict"
    SERVICE_FAIL_OPEN = "service_fail_open"
    OVERLOAD = "overload"
    BREAKER_OPEN = "breaker_open"
    TOO_LARGE = "too_large"
    INTERNAL = "internal"


# Those for which nothing was sent.
NOT_ASKED: Final = (Cause.OVERLOAD, Cause.BREAKER_OPEN)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on one check.

    `reason` is Akto's text for the caller, or, without a usable verdict, a word on the cause for the log. `mask` is
    the payload string to take masked text from, given only when the service says that it modified something; ""
    then means that it modified something it did not send.
    """

    decision: Decision
    reason: str = ""
    behaviour: str = ""
    policy: str = ""
    rule: str = ""
    mask: str | None = None
    cause: Cause | None = None

    @property
    def is_usable(self) -> bool:
        """Whether Akto judged the content at all."""
        return self.decision is not Decision.UNAVAILABLE


def unavailable(cause: Cause, detail: str = "") -> Verdict:
    """No usable verdict, because of `cause`; `detail` goes into the log."""
    return Verdict(Decision.UNAVAILABLE, reason=detail, cause=cause)


def verdict_of_answer(status: int, body: bytes, *, of_answer: bool = False) -> Verdict:
    """The verdict in the service's HTTP answer to a check, of a request or (`of_answer`) of a model's answer.

    Never raises.
    """
    if status != 200:
        return unavailable(_cause_of_status(status))
    if len(body) <= _SHORT:
        return _verdict_of_short(body, of_answer)
    return _verdict_of_body(body, of_answer)


@functools.lru_cache(maxsize=64)
def _verdict_of_short(body: bytes, of_answer: bool) -> Verdict:
    """Kept, because the service says most of the time the same: that there is nothing to say."""
    return _verdict_of_body(body, of_answer)


def _verdict_of_body(body: bytes, of_answer: bool) -> Verdict:
    try:
        answer = parsed_json(body)
    except ValueError:
        return unavailable(Cause.UNREADABLE)
    if not isinstance(answer, dict):
        return unavailable(Cause.UNREADABLE)
    return _verdict_of_envelope(answer, of_answer)


def _cause_of_status(status: int) -> Cause:
    if status == 401:
        return Cause.CREDENTIALS
    if status < 300:
        return Cause.UNREADABLE
    if status < 400:
        return Cause.REDIRECT
    return Cause.REJECTED if status < 500 else Cause.SERVER_ERROR


def _verdict_of_envelope(answer: Mapping[str, object], of_answer: bool) -> Verdict:
    blocked = _error_verdict(answer.get("error"))
    if blocked is not None:
        return blocked
    data = answer.get("data")
    # The guardrails service itself answers with the bare verdict object, in lower case.
    result = data.get("guardrailsResult") if isinstance(data, dict) else answer
    if not isinstance(result, dict):
        return unavailable(Cause.NO_VERDICT)
    verdict = _merged(result, of_answer) or _verdict_of_result(result)
    if answer.get("success") is False and verdict.decision is not Decision.BLOCK:
        return unavailable(Cause.NO_VERDICT)
    return verdict


def _error_verdict(error: object) -> Verdict | None:
    """The JSON-RPC-like form that one of Akto's own clients accepts as a verdict."""
    details = error.get("data") if isinstance(error, dict) else None
    if not isinstance(error, dict) or not isinstance(details, dict):
        return None
    reason = _text(details, "reason", "Reason") or _text(error, "message")
    return _denied(_behaviour(details), reason, details, mask=None)


def _merged(result: Mapping[str, object], of_answer: bool) -> Verdict | None:
    """The verdict when request and answer were both checked; None when this is not the merged shape.

    The top level then only repeats the request side with `Allowed` = both. Accounts exist for which the service
    always answers so: either side can block, but only the side that was asked about decides about a mask or a
    missing verdict. Where that side is missing, too, a block of the top level is one.
    """
    request, response = result.get("requestResult"), result.get("responseResult")
    if not isinstance(request, dict) and not isinstance(response, dict):
        return None
    sides = [_side(request), _side(response)]
    for verdict in sides:
        if verdict.decision is Decision.BLOCK:
            return verdict
    if not isinstance(response if of_answer else request, dict):
        whole = _verdict_of_result(result)
        return whole if whole.decision is Decision.BLOCK else unavailable(Cause.NO_VERDICT)
    other, asked = sides if of_answer else reversed(sides)
    if asked.decision is Decision.ALLOW and other.decision is Decision.FLAG:
        return replace(other, mask=asked.mask)
    return asked


def _side(side: object) -> Verdict:
    if not isinstance(side, dict):
        return unavailable(Cause.NO_VERDICT)
    if _allowed(side) is None and not _service_failed_open(side):
        # The service itself counts a missing `Allowed` as false when it merges.
        return _denied(_behaviour(side), _text(side, "Reason", "reason"), side, _mask(side))
    return _verdict_of_result(side)


def _verdict_of_result(result: Mapping[str, object]) -> Verdict:
    if _service_failed_open(result):
        return unavailable(Cause.SERVICE_FAIL_OPEN)
    allowed = _allowed(result)
    if allowed is None:
        return unavailable(Cause.NO_VERDICT)
    if allowed:
        return Verdict(Decision.ALLOW, mask=_mask(result))
    return _denied(_behaviour(result), _text(result, "Reason", "reason"), result, _mask(result))


def _denied(behaviour: str, reason: str, result: Mapping[str, object], mask: str | None) -> Verdict:
    metadata = result.get("Metadata", result.get("metadata"))
    details = metadata if isinstance(metadata, dict) else {}
    flagged = behaviour in _NOT_BLOCKING
    return Verdict(
        Decision.FLAG if flagged else Decision.BLOCK,
        reason=reason,
        behaviour=behaviour,
        policy=_text(details, "policy_name", "policyName"),
        rule=_text(details, "rule_violated", "ruleViolated"),
        mask=mask if flagged else None,
    )


def _allowed(result: Mapping[str, object]) -> bool | None:
    """False where either spelling says so; true where none that is there says anything else."""
    said = [_boolean(result[name]) for name in ("Allowed", "allowed") if name in result]
    if False in said:
        return False
    return True if said and all(said) else None


def _mask(result: Mapping[str, object]) -> str | None:
    if not _boolean(result.get("Modified", result.get("modified"))):
        return None
    payload = result.get("ModifiedPayload", result.get("modifiedPayload"))
    if isinstance(payload, (dict, list)):
        try:
            return orjson.dumps(payload).decode()
        except orjson.JSONEncodeError:
            return ""
    return payload if isinstance(payload, str) else ""


def _service_failed_open(result: Mapping[str, object]) -> bool:
    return bool(_boolean(result.get("failOpen")))


def _behaviour(result: Mapping[str, object]) -> str:
    return _text(result, "behaviour", "Behaviour").strip().lower()


def _boolean(value: object) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value.strip().lower())
    return None


def _text(source: Mapping[str, object], *names: str) -> str:
    """The first non-empty string under one of `names`, in characters that can be written."""
    for name in names:
        value = source.get(name)
        if isinstance(value, str) and value:
            return value if value.isascii() else value.encode("utf-8", "replace").decode()
    return ""
