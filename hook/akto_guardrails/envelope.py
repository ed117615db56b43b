"""The flat record that `/api/http-proxy` takes, for checks and for records alike.

Shape and constants: section 1.1 of the protocol reference. Every value is a string or null; payloads, headers and
tags are JSON texts inside.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from akto_guardrails.identity import Identity
from akto_guardrails.json_text import json_bytes, json_length, json_text

# The service's limit for one string value (protocol reference, 1.1). The limit for the whole body, 2,097,152
# characters, is out of reach then: two payloads double when they are escaped, and everything else is kept short.
LONGEST_STRING: Final = 262_144
# What is kept of a payload that is over the limit; JSON escapes can at most double it.
_KEPT_OF_A_LONG_PAYLOAD: Final = 100_000

_LONGEST_TAG: Final = 200

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
    return json_length(payload) <= LONGEST_STRING


def fitted(payload: str) -> str:
    """`payload`, or, when the service would refuse it for its length, its beginning with a note that says so."""
    if fits(payload):
        return payload
    return payload_of(
        {"x-akto-truncated": f"{json_length(payload)} characters", "beginning": payload[:_KEPT_OF_A_LONG_PAYLOAD]}
    )


def envelope(
    sender: Sender,
    identity: Identity,
    tags: Mapping[str, str],
    *,
    request_payload: str,
    response_payload: str | None = None,
    status: int = 200,
) -> bytes:
    """One envelope as the body of a POST."""
    tag = json_text(tags)
    return json_bytes(
        {
            "path": identity.route,
            "requestHeaders": json_text(identity.headers),
            "responseHeaders": _RESPONSE_HEADERS,
            "method": "POST",
            "requestPayload": request_payload,
            "responsePayload": response_payload,
            "ip": identity.client_ip,
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
    return {**tags, "call_type": "tool_call", "tool_name": tool[:_LONGEST_TAG]}
