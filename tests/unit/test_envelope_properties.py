"""Whatever is told about a call: the service takes it, and what the guard itself says of it stays the guard's."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from akto_guardrails.client_request import ClientRequest
from akto_guardrails.collection import collection_of_name
from akto_guardrails.envelope import (
    LONGEST_STRING,
    Sender,
    envelope,
    fits,
    fitted,
    mcp_tags_of,
    payload_of,
    tags_of,
    tool_tags_of,
)
from akto_guardrails.identity import Identity, identity_of, key_in_metadata, what_the_client_says
from akto_guardrails.records import at_mcp_server
from akto_guardrails.tool_calls import payloads_of, tool_calls_of, tool_path
from mock_akto.limits import read_envelope, utf16_length
from unit.json_values import ANY_TEXT, ANYTHING, KEYS, KINDS, OBJECTS, TEXT, VALUES
from unit.samples import SENDER, Key

ALIASES = st.none() | TEXT | st.integers()
METADATA = (
    st.dictionaries(
        st.sampled_from(
            [
                *("agent_name", "session_id", "requester_ip_address", "user_api_key_request_route"),
                *("user_api_key_alias", "user_api_key_team_alias", "user_api_key_team_id", "user_api_key_user_id"),
            ]
        ),
        TEXT | ANYTHING,
    )
    | VALUES
)
HEADER_NAMES = st.sampled_from(
    ["x-session-id", "X-Request-Id", "host", "x-litellm-trace-id", "User-Agent", "content-type", "x-own", "Host"]
)
HEADERS = st.dictionaries(HEADER_NAMES | ANY_TEXT, TEXT | VALUES | st.text(min_size=900, max_size=1_200), max_size=4)
REQUESTS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": METADATA,
        "litellm_metadata": METADATA,
        "proxy_server_request": st.fixed_dictionaries({}, optional={"headers": HEADERS | VALUES}) | VALUES,
        "litellm_call_id": TEXT | VALUES,
        "litellm_logging_obj": VALUES,
    },
)
KEY_HOLDERS = st.builds(
    Key, key_alias=ALIASES, team_alias=ALIASES, team_id=ALIASES, user_id=ALIASES, request_route=ALIASES
)
CLIENTS = st.none() | st.builds(
    ClientRequest,
    is_websocket=st.booleans(),
    method=st.just("POST"),
    path=ANY_TEXT.map(lambda text: f"/{text}"),
    headers=st.dictionaries(HEADER_NAMES.map(str.lower), ANY_TEXT, max_size=3),
    address=ANY_TEXT,
)
FORWARDED = st.frozensets(st.sampled_from(["x-own", "host", "x-session-id", "x-request-id", "content-type"]))
SENDERS = st.just(SENDER) | st.builds(Sender, ANY_TEXT, ANY_TEXT, ANY_TEXT, observing=st.booleans())
IDENTITIES = st.builds(
    identity_of,
    REQUESTS | REQUESTS.map(what_the_client_says),
    KEY_HOLDERS | REQUESTS.map(key_in_metadata),
    CLIENTS,
    default_collection=st.just("llm.example.com"),
    trust_client_agent_name=st.booleans(),
    forward_headers=FORWARDED,
)
# Long enough for a payload to be over the limit.
FILLS = st.sampled_from(["a", '"', "\\", "\x01", "\ud800", "\u0436", "\U0001f600", "\U0001f600\\"])


@st.composite
def payloads(draw: st.DrawFn, longest: int = LONGEST_STRING) -> str:
    """A payload that fits, or the beginning of one."""
    fill, length = draw(FILLS), draw(st.just(0) | st.integers(0, longest))
    return fitted(payload_of([draw(ANYTHING), fill * (length // len(fill))], bare=draw(st.booleans())))


@given(st.data(), SENDERS, IDENTITIES, VALUES, TEXT)
def test_the_service_takes_every_envelope(
    data: st.DataObject, sender: Sender, identity: Identity, model: Any, name: str
) -> None:
    request, answer = data.draw(payloads()), data.draw(st.none() | payloads())
    tags = tags_of(sender, identity, call_type="acompletion", model=model)
    tags = data.draw(
        st.sampled_from([tags, tool_tags_of(tags, tool=name), mcp_tags_of(sender, identity, server=name, tool=name)])
    )
    identity = data.draw(st.sampled_from([identity, at_mcp_server(identity, name, "/mcp")]))
    body = envelope(sender, identity, tags, request_payload=request, response_payload=answer)
    record = read_envelope(body.decode())
    assert (record["requestPayload"], record["responsePayload"]) == (request, answer)
    assert record["path"] == identity.route
    headers = json.loads(record["requestHeaders"] or "")
    # One value that is no string, and the service drops all of them.
    assert all(isinstance(value, str) for value in headers.values())
    assert (headers["host"], headers["content-type"]) == (identity.collection, "application/json")
    assert json.loads(record["tag"] or "") == tags
    assert all(isinstance(value, str) and len(value) <= 200 for value in tags.values())


@given(REQUESTS, KEY_HOLDERS, CLIENTS, FORWARDED)
def test_nobody_says_in_a_header_what_the_guard_says(
    data: Any, key: Any, client: ClientRequest | None, forwarded: frozenset[str]
) -> None:
    identity = identity_of(
        data, key, client, default_collection="llm", trust_client_agent_name=False, forward_headers=forwarded
    )
    names = [key.key_alias, key.team_alias]
    own = [collection_of_name(name) for name in names if isinstance(name, str) and collection_of_name(name)]
    assert identity.collection == identity.headers["host"] == [*own, "llm"][0]
    assert identity.headers["content-type"] == "application/json"
    assert len(identity.headers.get("x-session-id", "")) <= 100
    assert all(name == name.lower() and len(value) <= 1_000 for name, value in identity.headers.items())
    assert all(isinstance(each, str) for each in (identity.call_id, identity.route, identity.client_ip))


@given(VALUES, FILLS, st.integers(0, LONGEST_STRING + 99), st.booleans())
def test_a_payload_that_fits_stays_and_another_is_cut(value: Any, fill: str, length: int, bare: bool) -> None:
    payload = payload_of([value, fill * length], bare=bare)
    shortened = fitted(payload)
    assert utf16_length(shortened) <= LONGEST_STRING
    assert (shortened == payload) is (utf16_length(payload) <= LONGEST_STRING) is fits(payload)
    if shortened != payload:
        assert payload.startswith(json.loads(shortened)["body"]["beginning"])


FUNCTIONS = st.dictionaries(
    st.sampled_from(["name", "arguments", "input", "args"]), TEXT | VALUES | st.just("mcp__shop__refund")
)
CALLS = (
    st.fixed_dictionaries({"function": FUNCTIONS | VALUES})
    | st.fixed_dictionaries({"custom": FUNCTIONS | VALUES, "type": KINDS})
    | VALUES
)
BLOCKS = (
    st.builds(
        lambda known, more: {**more, **known},
        st.fixed_dictionaries({"type": KINDS | VALUES}, optional={"id": TEXT, "tool_use_id": TEXT, "name": TEXT}),
        st.dictionaries(KEYS | st.sampled_from(["server_name", "action", "output", "outputs"]), VALUES, max_size=4),
    )
    | VALUES
)
PARTS = st.fixed_dictionaries({"functionCall": FUNCTIONS | VALUES}) | VALUES


def some(of: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A list of some, or what should be one."""
    return st.lists(of, max_size=3) | VALUES


MESSAGES = st.fixed_dictionaries({}, optional={"tool_calls": some(CALLS), "function_call": FUNCTIONS | VALUES}) | VALUES
ANSWERS = (
    st.fixed_dictionaries(
        {},
        optional={
            "choices": some(st.fixed_dictionaries({"message": MESSAGES}) | VALUES),
            "content": some(BLOCKS),
            "output": some(BLOCKS),
            "candidates": some(
                st.fixed_dictionaries({"content": st.fixed_dictionaries({"parts": some(PARTS)}) | VALUES}) | VALUES
            ),
        },
    )
    | OBJECTS
    | ANYTHING
)


@given(ANSWERS | st.lists(ANSWERS, max_size=3), IDENTITIES)
@example({"output": [{"type": "mcp_call", "arguments": "\ud800", "output": [float("nan")]}]}, None)
@example({"content": [{"type": "tool_use", "name": "f", "input": {}}] * 200}, None)
def test_every_tool_call_can_be_recorded(answer: Any, identity: Identity | None) -> None:
    calls = tool_calls_of(answer)
    assert len(calls) <= 128
    for call in calls:
        assert isinstance(call.name, str)
        for payload in payloads_of(call):
            assert payload is None or isinstance(json.loads(payload), dict)
        path = tool_path("/tool", call.name)
        assert path.startswith("/tool/")
        assert path.isascii()
        assert set(path[6:]) - {"."}
        assert "/" not in path[6:]
        if identity is not None:
            owner = at_mcp_server(identity, call.server, "/mcp")
            request, result = payloads_of(call)
            body = envelope(SENDER, owner, {}, request_payload=fitted(request), response_payload=result)
            assert read_envelope(body.decode())["path"] == "/mcp"
