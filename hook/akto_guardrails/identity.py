"""Who sent a request: collection, session, request id, client address, and what of the client's headers is mirrored.

LiteLLM 1.106.2 keeps its own metadata in `metadata` on some routes and in `litellm_metadata` on others, where
`metadata` then is the client's object. The auth object is right on all of them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from akto_guardrails.client_request import ClientRequest
from akto_guardrails.collection import collection_of_name

MIRRORED_HEADERS: Final = frozenset(
    {
        "accept",
        "accept-language",
        "anthropic-version",
        "origin",
        "traceparent",
        "user-agent",
        "x-forwarded-for",
        "x-litellm-call-id",
    }
)
# The one of the service's session headers that the guard sends.
SESSION: Final = "x-session-id"
_SESSION_HEADERS: Final = (SESSION, "x-litellm-session-id", "x-litellm-trace-id")
# Set here and nowhere else: Akto reads grouping, session and request id from them.
_OWN_HEADERS: Final = frozenset({"host", "content-type", "content-length", SESSION, "x-request-id"})
_LONGEST_SESSION: Final = 100
_LONGEST_HEADER: Final = 1_000
# LiteLLM's metadata of a request, the bucket that counts first.
Buckets = Sequence[Mapping[str, object]]
_UNKNOWN_ADDRESS: Final = "0.0.0.0"  # noqa: S104 - a value to report, nothing listens on it


class KeyHolder(Protocol):
    """What is read from LiteLLM's `UserAPIKeyAuth`."""

    key_alias: str | None
    team_alias: str | None
    team_id: str | None
    user_id: str | None
    request_route: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller of one request. `headers` is what Akto gets as the request's headers, `host` included.

    `method`: another one than POST on pass-through routes alone.
    """

    collection: str
    call_id: str
    route: str
    client_ip: str
    headers: Mapping[str, str]
    key_alias: str
    team_id: str
    user_id: str
    method: str = "POST"


@dataclass(slots=True)
class MetadataKey:
    """The key behind a call, read from LiteLLM's metadata where the auth object is not at hand."""

    key_alias: str | None
    team_alias: str | None
    team_id: str | None
    user_id: str | None
    request_route: str | None


def key_in_metadata(data: Mapping[str, object], *, of_provider_route: bool = False) -> MetadataKey:
    """The key in the bucket that LiteLLM writes to on routes without a pre-call hook; the other is the client's.

    On provider routes that is `litellm_metadata`, else `metadata`.
    """
    found = data.get("litellm_metadata" if of_provider_route else "metadata")
    bucket = found if isinstance(found, (dict, Mapping)) else {}
    names = ("alias", "team_alias", "team_id", "user_id", "request_route")
    return MetadataKey(*(_string(bucket.get(f"user_api_key_{name}")) or None for name in names))


def identity_of(
    data: Mapping[str, object],
    key: KeyHolder,
    request: ClientRequest | None = None,
    *,
    default_collection: str,
    trust_client_agent_name: bool,
    forward_headers: frozenset[str],
) -> Identity:
    """The identity behind the request `data` of one of LiteLLM's hooks; `request` is asked for what `data` lacks."""
    buckets = _metadata_buckets(data)
    collection = _collection(buckets if trust_client_agent_name else (), key) or default_collection
    call_id = call_id_of(data)
    client_headers = _client_headers(data) or (request.headers if request is not None else {})
    return Identity(
        collection=collection,
        call_id=call_id,
        route=_route(buckets, key, request),
        client_ip=_client_ip(buckets if "proxy_server_request" in data else None, request),
        headers=_mirrored(client_headers, forward_headers)
        | _session(buckets, client_headers)
        | _own_headers(collection, client_headers, call_id),
        key_alias=_string(key.key_alias),
        team_id=_string(key.team_id),
        user_id=_string(key.user_id),
    )


def call_id_of(data: Mapping[str, object]) -> str:
    """LiteLLM's id of the call: first of all from its logging object, since passed-through `data` is the client's."""
    on_logging_object = getattr(data.get("litellm_logging_obj"), "litellm_call_id", None)
    return _string(on_logging_object) or _string(data.get("litellm_call_id"))


def what_the_client_says(body: Mapping[str, object]) -> dict[str, object]:
    """The part of a passed-through `body` that may say who sent it; the rest could pose as LiteLLM's own entries."""
    metadata = body.get("metadata")
    said = metadata if isinstance(metadata, (dict, Mapping)) else {}
    return {
        "litellm_logging_obj": body.get("litellm_logging_obj"),
        "metadata": {name: said[name] for name in ("agent_name", "session_id") if name in said},
    }


def _route(buckets: Buckets, key: KeyHolder, request: ClientRequest | None) -> str:
    """The LiteLLM route that was called, such as `/v1/chat/completions`."""
    called = "" if request is None else request.path
    noted = _string(key.request_route) or _first(buckets, "user_api_key_request_route")
    route = noted or called or "/v1/chat/completions"
    # LiteLLM takes the last part of `/v1/responses/compact` for the id of a response.
    return called if "{" in route and called.endswith("/compact") else route


def _collection(buckets: Buckets, key: KeyHolder) -> str | None:
    names = [*(bucket.get("agent_name") for bucket in buckets), key.key_alias, key.team_alias]
    return next(filter(None, (collection_of_name(name) for name in names if isinstance(name, str))), None)


def _metadata_buckets(data: Mapping[str, object]) -> Buckets:
    found = (data.get("litellm_metadata"), data.get("metadata"))
    return [bucket for bucket in found if isinstance(bucket, (dict, Mapping))]


def _first(buckets: Buckets, name: str) -> str:
    """The first text under this name."""
    for bucket in buckets:
        text = _string(bucket.get(name))
        if text:
            return text
    return ""


def _client_headers(data: Mapping[str, object]) -> dict[str, str]:
    """The client's headers in lower case, as LiteLLM cleaned them: its own credential headers are gone."""
    request = data.get("proxy_server_request")
    headers = request.get("headers") if isinstance(request, (dict, Mapping)) else None
    if not isinstance(headers, (dict, Mapping)):
        return {}
    return {name.lower(): value for name, value in headers.items() if isinstance(value, str)}


def _mirrored(client_headers: Mapping[str, str], forward_headers: frozenset[str]) -> dict[str, str]:
    allowed = _allowed(forward_headers)
    return {name: value[:_LONGEST_HEADER] for name, value in client_headers.items() if name in allowed}


@functools.cache
def _allowed(forward_headers: frozenset[str]) -> frozenset[str]:
    return (MIRRORED_HEADERS | forward_headers) - _OWN_HEADERS


def _own_headers(collection: str, client_headers: Mapping[str, str], call_id: str) -> dict[str, str]:
    """Grouping and request id. Without a request id the service keeps no session state (protocol reference, 4.2)."""
    own = {"host": collection, "content-type": "application/json"}
    request_id = client_headers.get("x-request-id") or call_id
    if request_id:
        own["x-request-id"] = request_id[:_LONGEST_HEADER]
    return own


def _session(buckets: Buckets, client_headers: Mapping[str, str]) -> dict[str, str]:
    """The session the caller named, by header or in LiteLLM's metadata; nothing when there is none.

    A long one is replaced by its SHA-256, as the service itself does; unbounded it would make a check fail.
    """
    candidates = [client_headers.get(name, "") for name in _SESSION_HEADERS]
    candidates += [_string(bucket.get("session_id")) for bucket in buckets]
    session = next(filter(None, map(str.strip, candidates)), "")
    if len(session) > _LONGEST_SESSION:
        session = hashlib.sha256(session.encode("utf-8", "surrogatepass")).hexdigest()
    return {SESSION: session} if session else {}


def _client_ip(buckets: Buckets | None, request: ClientRequest | None) -> str:
    """The peer as LiteLLM sees it. Forwarding headers are the client's word and count only if uvicorn trusts them.

    `buckets`: None on pass-through routes, where all metadata is the client's.
    """
    named = "" if buckets is None else _first(buckets, "requester_ip_address")
    # LiteLLM notes none for queued requests and for connections.
    return named or (request.address if request is not None else "") or _UNKNOWN_ADDRESS


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
