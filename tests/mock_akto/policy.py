"""What the guardrails service would say: rules of words and masks, and sessions that stay blocked."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

Verdict = dict[str, Any]

# Words that set a rule off, by the policy's behaviour and the reason it gives.
DEFAULT_WORDS: dict[str, tuple[str, str]] = {
    "ignore all previous instructions": ("block", "Prompt injection detected"),
    "zebra-block": ("block", "Prompt injection detected"),
    "zebra-alert": ("alert", "PII detected"),
    "zebra-warn": ("warn", "PII detected"),
    "zebra-approval": ("approval", "Needs human approval"),
    "zebra-silent": ("", "Toxic content"),
    "zebra-unknown": ("quarantine", "Toxic content"),
}
# Sessions that stay blocked; beyond these the oldest are forgotten.
MOST_SESSIONS = 10_000
DEFAULT_MASKS: dict[str, str] = {r"\b\d{4}-\d{4}-\d{4}-\d{4}\b": "<CREDIT_CARD>"}


@dataclass
class Policy:
    """Rules applied to the raw payload string, as the service does without a guardrail schema."""

    words: dict[str, tuple[str, str]] = field(default_factory=lambda: dict(DEFAULT_WORDS))
    masks: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_MASKS))
    malicious_sessions: dict[str, None] = field(default_factory=dict)
    # Summaries of what was said in a session before, by its id.
    summaries: dict[str, str] = field(default_factory=dict)

    def judge(self, payload: str | None, headers: str | None) -> Verdict:
        """The verdict object on one payload string."""
        if not payload or payload == "{}":
            return verdict(reason="No request body provided")
        session, request_id = _session(headers)
        if session in self.malicious_sessions:
            return verdict(allowed=False, reason="Session blocked due to previous malicious activity")
        for word, (behaviour, reason) in self.words.items():
            if as_in_json(word) in payload.lower():
                if session and request_id and behaviour == "block":
                    self._remember(session)
                return verdict(allowed=False, behaviour=behaviour, reason=reason)
        summarised = with_summary(payload, self.summaries.get(session, ""))
        masked = summarised
        for pattern, replacement in self.masks.items():
            masked = re.sub(pattern, replacement, masked)
        # Go escapes these when it writes JSON; a client must not take that for a mask.
        escaped = masked.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        return verdict(modified=masked != payload, payload=escaped if masked != payload else "")

    def _remember(self, session: str) -> None:
        self.malicious_sessions[session] = None
        if len(self.malicious_sessions) > MOST_SESSIONS:
            del self.malicious_sessions[next(iter(self.malicious_sessions))]


def as_in_json(word: str) -> str:
    """`word` as it stands in a JSON text: with its quotes and backslashes escaped."""
    return json.dumps(word, ensure_ascii=False)[1:-1]


def with_summary(payload: str, summary: str) -> str:
    """`payload` with the summary of its session in front of the prompt or of the newest string user message.

    The service does so for bare payloads only.
    """
    body = json.loads(payload) if summary else None
    if not isinstance(body, dict) or "body" in body:
        return payload
    if isinstance(body.get("prompt"), str):
        body["prompt"] = f"{summary}\n\n{body['prompt']}"
    for message in reversed(body.get("messages", [])):
        if message.get("role") == "user" and isinstance(message.get("content"), str):
            message["content"] = f"{summary}\n\n{message['content']}"
            break
    return json.dumps(body, ensure_ascii=False)


def verdict(
    *, allowed: bool = True, modified: bool = False, payload: str = "", reason: str = "", behaviour: str = ""
) -> Verdict:
    return {
        "Allowed": allowed,
        "Modified": modified,
        "ModifiedPayload": payload,
        "Reason": reason,
        "Metadata": {},
        "behaviour": behaviour,
    }


def merged(request: Verdict, response: Verdict) -> Verdict:
    """The shape when both guardrails ran: the request's verdict with `Allowed` of both, and the two sides."""
    return {
        **request,
        "Allowed": request["Allowed"] and response["Allowed"],
        "requestResult": request,
        "responseResult": response,
    }


def _session(headers: str | None) -> tuple[str, str]:
    """Session and request id; one value that is not a string makes the service drop all headers."""
    try:
        parsed = json.loads(headers or "{}")
    except ValueError:
        return "", ""
    if not isinstance(parsed, dict) or not all(isinstance(value, str) for value in parsed.values()):
        return "", ""
    sessions = ("x-akto-installer-akto_session_id", "x-session-id", "x-conversation-id", "x-user-id")
    requests = ("x-kong-request-id", "x-request-id", "request-id")
    return _first(parsed, sessions), _first(parsed, requests)


def _first(headers: dict[str, str], names: tuple[str, ...]) -> str:
    return next((headers[name] for name in names if headers.get(name)), "")
