"""What there is to show of a call: its decision in a word, and who sent what to which model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

DEFAULT_COLLECTION = "(default collection)"
# Longer payloads are not read for a line in a list that is made anew each second.
_LONGEST_READ = 65_536
_LONGEST_SHOWN = 160
_TEXT_IN = ("messages", "contents", "input", "prompt", "query", "content", "parts", "text", "choices", "message")


@dataclass(frozen=True)
class Decision:
    """`tone` is one of allowed, blocked, masked, flagged, fault and waiting."""

    label: str
    tone: str
    reason: str = ""


@dataclass(frozen=True)
class Shown:
    """One line of the list."""

    collection: str
    path: str
    model: str
    session: str
    call_id: str
    text: str


def collection_of(body: Any) -> str:
    """The collection that the service and its runtime file an envelope under, after the `host` of its headers."""
    host = _text(_parsed(_field(body, "requestHeaders")), "host").strip()
    name = re.sub(r"[^a-z0-9.:-]", "-", host.lower())
    return name if re.search("[a-z]", name) else DEFAULT_COLLECTION


def decision_of(call: dict[str, Any]) -> Decision:
    """What became of a call: the verdict on a check, the status of the request in a record, or why there is neither."""
    if call["milliseconds"] is None:
        return Decision("waiting", "waiting")
    status = call.get("status", 200)
    if status is None:
        return Decision("unavailable", "fault", "the connection was broken")
    if call.get("left"):
        return Decision("unavailable", "fault", "the caller had gone before the answer")
    if status != 200:
        return Decision("refused" if call["kind"] == "record" else "unavailable", "fault", f"HTTP {status}")
    if call["kind"] == "record":
        return _of_record(_field(call["body"], "statusCode"))
    return _of_verdict(call["verdict"] or call.get("scripted"))


def shown(call: dict[str, Any]) -> Shown:
    body = call["body"]
    headers, tags = _parsed(_field(body, "requestHeaders")), _parsed(_field(body, "tag"))
    payload = _payload(_field(body, "requestPayload"))
    said = _payload(_field(body, "responsePayload")) if "answer" in call["kind"] else payload
    return Shown(
        collection=call["collection"],
        path=_short(_field(body, "path")),
        model=_short(_text(tags, "model") or _text(payload, "model")),
        session=_short(_text(headers, "x-session-id")),
        call_id=_short(_text(tags, "litellm_call_id") or _text(headers, "x-litellm-call-id", "x-request-id")),
        text=_short(_newest_text_or_nothing(said)),
    )


@dataclass
class Count:
    """What a collection consists of."""

    checks: int = 0
    blocked: int = 0
    records: int = 0


def collections_of(calls: Iterable[dict[str, Any]]) -> dict[str, Count]:
    """The collections in alphabetical order."""
    found: dict[str, Count] = {}
    for call in calls:
        count = found.setdefault(call["collection"], Count())
        if call["kind"] == "record":
            count.records += 1
        else:
            count.checks += 1
            count.blocked += decision_of(call).tone == "blocked"
    return dict(sorted(found.items()))


def readable(text: str) -> str:
    """`text` with line breaks, and with what is invisible or turns the direction of text as a JSON escape."""
    return "\n".join(line if line.isprintable() else "".join(map(_escaped, line)) for line in text.split("\n"))


def unfolded(value: Any, depth: int = 6) -> Any:
    """`value` with every string that is a JSON object or array replaced by that, also those within."""
    if depth == 0:
        return value
    if isinstance(value, str) and value[:1] in ("{", "["):
        inner = _json_or(value, value)
        return value if inner == value else unfolded(inner, depth - 1)
    if isinstance(value, dict):
        return {name: unfolded(each, depth) for name, each in value.items()}
    return [unfolded(each, depth) for each in value] if isinstance(value, list) else value


def _of_record(status: Any) -> Decision:
    text = _short(str(status))
    return Decision(text, "allowed" if text.startswith("2") else "blocked" if text == "403" else "fault")


def _of_verdict(verdict: dict[str, Any] | None) -> Decision:
    if verdict is None:
        return Decision("unavailable", "fault", "no verdict in the answer")
    reason = _short(verdict.get("Reason"))
    if verdict.get("failOpen"):
        return Decision("unavailable", "fault", "failOpen: nothing was judged")
    if verdict.get("Allowed"):
        return Decision("masked", "masked") if verdict.get("Modified") else Decision("allowed", "allowed")
    behaviour = verdict.get("behaviour")
    if behaviour in ("alert", "warn"):
        return Decision(f"flagged: {behaviour}", "flagged", reason)
    return Decision("blocked", "blocked", reason if behaviour in ("block", "") else f"{reason} ({_short(behaviour)})")


def _payload(text: Any) -> Any:
    """The object in a payload string, without the wrapper that most clients put around it."""
    found = _parsed(text) if isinstance(text, str) and len(text) <= _LONGEST_READ else {}
    inner = found.get("body", found)
    return _json_or(inner, inner) if isinstance(inner, str) else inner


def _newest_text_or_nothing(value: Any) -> str:
    try:
        return _newest_text(value)
    except RecursionError:
        return ""


def _newest_text(value: Any) -> str:
    """The last text in the body of a request or an answer, whatever its format."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return next(filter(None, map(_newest_text, reversed(value))), "")
    if isinstance(value, dict):
        return next(filter(None, (_newest_text(value[name]) for name in _TEXT_IN if name in value)), "")
    return ""


def _parsed(text: Any) -> dict[str, Any]:
    found = _json_or(text, {}) if isinstance(text, str) else {}
    return found if isinstance(found, dict) else {}


def _json_or(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _field(body: Any, name: str) -> Any:
    return body.get(name) if isinstance(body, dict) else None


def _text(values: Any, *names: str) -> str:
    """The first of the named values that is a text and not empty."""
    found = (_field(values, name) for name in names)
    return next((each for each in found if isinstance(each, str) and each), "")


def _short(value: Any) -> str:
    """One line of limited length without anything invisible in it."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    line = "".join(each if each.isprintable() else " " for each in text[: _LONGEST_SHOWN + 1])
    return line if len(line) <= _LONGEST_SHOWN else line[: _LONGEST_SHOWN - 1] + "…"


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
