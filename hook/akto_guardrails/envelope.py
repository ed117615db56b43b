"""The flat record that `/api/http-proxy` takes, for checks and for records alike.

Shape and constants: section 1.1 of the protocol reference. Every value is a string or null; payloads, headers and
tags are JSON texts inside.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from akto_guardrails.identity import SESSION, Identity
from akto_guardrails.json_text import json_bytes, json_length, json_text, parsed_json

# The service's limit for one string value (protocol reference, 1.1). The limit for the whole body, 2,097,152
# characters, is out of reach then: two payloads double when they are escaped, and everything else is kept short.
LONGEST_STRING: Final = 262_144
# What is kept of each payload of a record that the service did not take.
_KEPT_OF_A_REFUSED_PAYLOAD: Final = 4_000
# What is kept of a payload that is over the limit; JSON escapes can at most double it.
_KEPT_OF_A_LONG_PAYLOAD: Final = 100_000

RECORD_ID: Final = "x-akto-record-id"

_LONGEST_TAG: Final = 200
# Of paths and addresses, whose length a client chooses.
_LONGEST_NAME: Final = 2_000

_RESPONSE_HEADERS: Final = '{"content-type":"application/json"}'


@dataclass(frozen=True, slots=True)
class Sender:
    """What the envelopes of one deployment have in common. `observing`: checks are not enforced (SYNC_MODE=false)."""

    account_id: str
    vxlan_id: str
    context_source: str
    observing: bool


def payload_of(body: object, *, bare: bool = False) -> str:
    """The JSON text of `{"body": body}`, the connector's shape for requests and answers; `bare`: of `body` itself."""
    return json_text(body if bare else {"body": body})


def fits(payload: str) -> bool:
    """Whether the service takes `payload` as one string value."""
    # A character is two units at most, and counting them takes its time.
    return 2 * len(payload) <= LONGEST_STRING or json_length(payload) <= LONGEST_STRING


def fitted(payload: str) -> str:
    """`payload`, or, when the service would refuse it for its length, its beginning with a note that says so."""
    if fits(payload):
        return payload
    return _beginning(payload, f"{json_length(payload)} characters", _KEPT_OF_A_LONG_PAYLOAD)


def _beginning(payload: str, note: str, kept: int) -> str:
    """So many characters of `payload` with a note. A JSON-RPC message stays one: without, Akto discards the record."""
    try:
        message = _json_rpc(payload)
        if message is not None:
            return json_text(_cut_message(message, note, kept))
    except (ValueError, RecursionError):
        pass
    return payload_of(_cut(payload, note, kept))


def _json_rpc(payload: str) -> dict[str, Any] | None:
    """The parts of the JSON-RPC message in `payload`; None when there is none, or one whose id would be too long.

    Raises `ValueError`.
    """
    if not payload.startswith('{"jsonrpc":'):
        return None
    parsed = parsed_json(payload)
    frame = {name: parsed[name] for name in ("jsonrpc", "method", "id") if name in parsed}
    content = next((name for name in ("result", "params") if name in parsed), None)
    if content is None or len(json_text(frame)) > _LONGEST_NAME:
        return None
    return {**frame, content: parsed[content]}


def _cut_message(message: dict[str, Any], note: str, kept: int) -> dict[str, Any]:
    content = "result" if "result" in message else "params"
    value = message[content]
    if content == "params" and message.get("method") == "tools/call" and isinstance(value, dict):
        arguments = _cut(json_text(value.get("arguments")), note, kept)
        return {**message, content: {"name": str(value.get("name"))[:_LONGEST_TAG], "arguments": arguments}}
    return {**message, content: _cut(json_text(value), note, kept)}


def _cut(text: str, note: str, kept: int) -> dict[str, str]:
    return {"x-akto-truncated": note, "beginning": text[:kept]}


def envelope(
    sender: Sender,
    identity: Identity,
    tags: Mapping[str, str],
    *,
    request_payload: str,
    response_payload: str | None = None,
    status: int = 200,
    record_id: str | None = None,
) -> bytes:
    """One envelope as the body of a POST. `record_id` goes into its headers, so that one sent twice can be told."""
    tag = json_text(tags)
    headers = identity.headers if record_id is None else {**identity.headers, RECORD_ID: record_id}
    return json_bytes(
        {
            "path": identity.route[:_LONGEST_NAME],
            "requestHeaders": json_text(headers),
            "responseHeaders": _RESPONSE_HEADERS,
            "method": identity.method,
            "requestPayload": request_payload,
            "responsePayload": response_payload,
            "ip": identity.client_ip[:_LONGEST_NAME],
            "destIp": "127.0.0.1",
            "time": str(int(time.time() * 1000)),
            "statusCode": str(status),
            "type": "HTTP/1.1",
            "status": str(status),
            "akto_account_id": sender.account_id,
            "akto_vxlan_id": sender.vxlan_id,
            "is_pending": "false",
            "source": "MIRRORING",
            "direction": None,
            "process_id": None,
            "socket_id": None,
            "daemonset_id": None,
            "enabled_graph": None,
            "tag": tag,
            "metadata": tag,
            "contextSource": sender.context_source,
        }
    )


def cut_record(record: bytes) -> bytes:
    """A record that the service refused for what is in it, or for its size, with only the beginning of its payloads."""
    parts = json.loads(record)
    for name in ("requestPayload", "responsePayload"):
        payload = parts[name]
        if payload is not None:
            parts[name] = _beginning(payload, "refused by the service", _KEPT_OF_A_REFUSED_PAYLOAD)
    return json_bytes(parts)


def session_of_record(record: bytes) -> str | None:
    """The session that a record belongs to, None when it has none. Raises ValueError when it is no record."""
    try:
        session = json.loads(json.loads(record)["requestHeaders"]).get(SESSION)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("not a record") from error
    return session if isinstance(session, str) else None


def tags_of(sender: Sender, identity: Identity, *, call_type: str, model: object) -> dict[str, str]:
    """The tags of one request, by allow-list.

    Tags stick to the whole collection on Akto's side and some names decide how it is shown (protocol reference,
    5.3), so nothing a caller or a key's metadata says becomes a tag's name.
    """
    tags = {
        "gen-ai": "Gen AI",
        "litellm": "LiteLLM",
        "call_type": call_type,
        "model": model if isinstance(model, str) else "",
        "litellm_call_id": identity.call_id,
        "key_alias": identity.key_alias,
        "team_id": identity.team_id,
        "user_id": identity.user_id,
        # The service labels traffic without a mode as inline, which a check that only watches is not.
        "mode": "observe" if sender.observing else "",
    }
    return {name: value[:_LONGEST_TAG] for name, value in tags.items() if value}


def mcp_tags_of(sender: Sender, identity: Identity, *, server: str, tool: str) -> dict[str, str]:
    """The tags of an MCP tool call. They make its host an MCP server, so that has to be one of its own."""
    tags = {
        "mcp-server": "MCP Server",
        "mcp-client": "litellm",
        "mcp_server_name": server,
        "tool_name": tool,
        "call_type": "tool_call",
        "litellm_call_id": identity.call_id,
        "mode": "observe" if sender.observing else "",
    }
    return {name: value[:_LONGEST_TAG] for name, value in tags.items() if value}


def tool_tags_of(tags: Mapping[str, str], *, tool: str) -> dict[str, str]:
    """The tags of an ordinary tool call, from those of the request that led to it."""
    own = {"call_type": "tool_call", "tool_name": tool[:_LONGEST_TAG]}
    return {**tags, **{name: value for name, value in own.items() if value}}
