"""Where LiteLLM shows what a guardrail did: its header of applied guardrails, and the payload of its logging callbacks.

Its UI, Langfuse, OTEL and Datadog read `guardrail_information` of that payload. LiteLLM has a method that fills it in
for its own kind of guardrails; that takes three times as long as all of the guard's other work, so it is done here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from akto_guardrails.checker import Judgement
from akto_guardrails.client_request import Outcome

# Seen on 1.106.2, 1.96.2 and 1.83.14: entries of LiteLLM's metadata of a request, and of one piece of information.
_APPLIED: Final = "applied_guardrails"
_INFORMATION: Final = "standard_logging_guardrail_information"
_MODE: Final = "pre_call"
_MODE_OF_ANSWERS: Final = "post_call"
# LiteLLM's words for what became of a guardrail's work.
_STATUS: Final[dict[Outcome, str]] = {
    "masked": "guardrail_intervened",
    "blocked": "guardrail_intervened",
    "unchecked": "guardrail_failed_to_respond",
}


class ShownByLiteLLM:
    """Tells LiteLLM what the guard did, for others to show."""

    def __init__(self, name: str) -> None:
        self._name = name

    def applied(self, data: dict[str, Any]) -> None:
        """The guard was applied to the request in `data`: LiteLLM says so in `x-litellm-applied-guardrails`."""
        metadata = _metadata_of(data)
        names = None if metadata is None else metadata.setdefault(_APPLIED, [])
        if isinstance(names, list) and self._name not in names:
            names.append(self._name)

    def judged(self, data: dict[str, Any], judgement: Judgement, outcome: Outcome, *, of_answer: bool = False) -> None:
        """What Akto said of the request in `data`, or of its answer."""
        metadata = _metadata_of(data)
        entries = None if metadata is None else metadata.setdefault(_INFORMATION, [])
        if isinstance(entries, list):
            entries.append(_entry(self._name, judgement, outcome, of_answer=of_answer))

    def is_under_way(self, kwargs: Mapping[str, Any]) -> None:
        """The call of a model with `kwargs` is about to be made: says so where it was left open when Akto was asked."""
        metadata = _metadata_of(kwargs)
        entries = None if metadata is None else metadata.get(_INFORMATION)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict) and entry.get("guardrail_name") == self._name:
                entry["guardrail_mode"] = entry.get("guardrail_mode") or _MODE


def _entry(name: str, judgement: Judgement, outcome: Outcome, *, of_answer: bool) -> dict[str, Any]:
    """LiteLLM's `StandardLoggingGuardrailInformation`."""
    verdict, now = judgement.verdict, time.time()
    details = {
        "decision": outcome,
        "behaviour": verdict.behaviour,
        "policy": verdict.policy,
        "rule": verdict.rule,
        "cause": "" if verdict.cause is None else verdict.cause.value,
    }
    return {
        "guardrail_name": name,
        "guardrail_provider": name,
        # After the pre-call hooks LiteLLM copies the whole request, leaf by leaf, when one of them may have changed it:
        # 0.5 ms for two kilobytes, more than all of the guard's work. It tells by the mode, and an empty one changes
        # nothing. The second gate, which comes later, puts it right.
        "guardrail_mode": _MODE_OF_ANSWERS if of_answer else _MODE if outcome in ("masked", "blocked") else [],
        "guardrail_response": {name: text for name, text in details.items() if text},
        "guardrail_status": _STATUS.get(outcome, "success"),
        "start_time": now - judgement.seconds,
        "end_time": now,
        "duration": judgement.seconds,
        "masked_entity_count": None,
    }


def _metadata_of(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """LiteLLM's own metadata of a request. None where it keeps none: what is put into `data` would go to a provider."""
    metadata = data.get("litellm_metadata" if "litellm_metadata" in data else "metadata")
    return metadata if isinstance(metadata, dict) and "proxy_server_request" in data else None
