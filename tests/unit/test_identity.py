"""Who sent a request, and what of its headers Akto gets to see."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from akto_guardrails.client_request import ClientRequest
from akto_guardrails.identity import Identity, call_id_of, identity_of, key_in_metadata, what_the_client_says
from unit.samples import Key, LoggingObject


def identify(
    data: dict[str, Any] | None = None,
    key: Key | None = None,
    request: ClientRequest | None = None,
    *,
    trust: bool = True,
    forward: frozenset[str] = frozenset(),
) -> Identity:
    """The identity behind `data`."""
    return identity_of(
        {} if data is None else data,
        Key() if key is None else key,
        request,
        default_collection="llm.example.com",
        trust_client_agent_name=trust,
        forward_headers=forward,
    )


def with_headers(**headers: object) -> dict[str, Any]:
    """A request with these client headers; an underscore stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"litellm_call_id": "call-1", "proxy_server_request": {"headers": named}}


@pytest.mark.parametrize(
    ("agent_name", "key_alias", "team_alias", "expected"),
    [
        ("agent", "key", "team", "agent"),
        (None, "key", "team", "key"),
        ("  ", "key", "team", "key"),
        (7, "key", "team", "key"),
        (None, None, "team", "team"),
        (None, "", "team", "team"),
        (None, None, None, "llm.example.com"),
    ],
)
@pytest.mark.parametrize("bucket", ["metadata", "litellm_metadata"])
def test_agent_then_key_then_team_then_proxy_name_the_collection_on_every_route(
    bucket: str, agent_name: object, key_alias: str | None, team_alias: str | None, expected: str
) -> None:
    found = identify({bucket: {"agent_name": agent_name}}, Key(key_alias=key_alias, team_alias=team_alias))
    assert found.collection == expected
    assert found.headers["host"] == expected


def test_an_agent_name_counts_wherever_litellm_keeps_the_clients_metadata() -> None:
    data = {"litellm_metadata": {"user_api_key_alias": "key"}, "metadata": {"agent_name": "agent"}}
    assert identify(data, Key(key_alias="key")).collection == "agent"


def test_a_caller_who_is_not_trusted_does_not_choose_the_collection() -> None:
    data = {"metadata": {"agent_name": "agent"}}
    assert identify(data, Key(key_alias="key"), trust=False).collection == "key"
    assert identify(data, trust=False).collection == "llm.example.com"


def test_a_collection_is_a_name_the_service_keeps() -> None:
    assert identify(key=Key(key_alias="Checkout Agent")).collection.startswith("checkout-agent-")


@pytest.mark.parametrize("metadata", [None, "text", ["agent_name"], 7])
def test_metadata_that_is_no_mapping_does_no_harm(metadata: object) -> None:
    assert identify({"metadata": metadata}, Key(key_alias="key")).collection == "key"


def test_only_listed_headers_are_mirrored() -> None:
    found = identify(
        with_headers(
            User_Agent="curl/8",
            traceparent="00-1",
            x_forwarded_for="203.0.113.7",
            x_auth_token="secret",
            x_access_token="secret",
            cookie="secret",
            authorization="secret",
            x_tenant="blue",
        )
    )
    assert found.headers == {
        "user-agent": "curl/8",
        "traceparent": "00-1",
        "x-forwarded-for": "203.0.113.7",
        "host": "llm.example.com",
        "content-type": "application/json",
        "x-request-id": "call-1",
    }


@pytest.mark.parametrize(
    "name",
    [
        "accept",
        "accept-language",
        "anthropic-version",
        "origin",
        "traceparent",
        "user-agent",
        "x-forwarded-for",
        "x-litellm-call-id",
    ],
)
def test_every_header_of_the_list_is_mirrored_under_its_lower_case_name(name: str) -> None:
    data = {"proxy_server_request": {"headers": {name.title(): "value"}}}
    assert identify(data).headers[name] == "value"


def test_the_operator_can_add_headers_to_the_list() -> None:
    found = identify(with_headers(X_Tenant="blue", x_other="no"), forward=frozenset({"x-tenant"}))
    assert found.headers["x-tenant"] == "blue"
    assert "x-other" not in found.headers


def test_headers_that_group_a_request_are_the_guards_own() -> None:
    data = with_headers(host="evil", content_type="text/html", content_length="9", x_session_id=" ", x_request_id="r-1")
    forward = frozenset({"host", "content-type", "content-length", "x-session-id", "x-request-id"})
    assert identify(data, forward=forward).headers == {
        "host": "llm.example.com",
        "content-type": "application/json",
        "x-request-id": "r-1",
    }


@pytest.mark.parametrize("header", ["x-user-id", "x-conversation-id", "x-kong-request-id", "request-id"])
def test_stray_headers_do_not_join_strangers_into_one_session(header: str) -> None:
    found = identify({"proxy_server_request": {"headers": {header: "shared"}}})
    assert "shared" not in found.headers.values()


def test_header_values_that_are_no_strings_are_left_out() -> None:
    assert "accept" not in identify(with_headers(accept=7)).headers


@pytest.mark.parametrize("request_entry", [None, "text", {}, {"headers": None}, {"headers": "text"}])
def test_a_request_without_headers_has_the_guards_own_only(request_entry: object) -> None:
    found = identify({"proxy_server_request": request_entry})
    assert found.headers == {"host": "llm.example.com", "content-type": "application/json"}


@pytest.mark.parametrize(
    ("data", "session"),
    [
        (with_headers(x_session_id="a", x_litellm_session_id="b"), "a"),
        (with_headers(X_LiteLLM_Session_Id="b", x_litellm_trace_id="c"), "b"),
        (with_headers(x_litellm_trace_id=" c "), "c"),
        ({"metadata": {"session_id": "d"}}, "d"),
        ({"litellm_metadata": {"session_id": "e"}, "metadata": {"session_id": "d"}}, "e"),
        ({**with_headers(x_session_id="  "), "metadata": {"session_id": "d"}}, "d"),
    ],
)
def test_the_session_is_the_one_the_caller_named(data: dict[str, Any], session: str) -> None:
    assert identify(data).headers["x-session-id"] == session


@pytest.mark.parametrize("data", [with_headers(x_session_id="s" * 101), {"metadata": {"session_id": "s" * 101}}])
def test_a_long_session_is_replaced_by_its_hash_as_the_service_does(data: dict[str, Any]) -> None:
    assert identify(data).headers["x-session-id"] == hashlib.sha256(b"s" * 101).hexdigest()


def test_a_session_of_a_hundred_characters_is_kept() -> None:
    assert identify(with_headers(x_session_id="s" * 100)).headers["x-session-id"] == "s" * 100


def test_a_long_header_is_cut() -> None:
    assert identify(with_headers(user_agent="u" * 5000)).headers["user-agent"] == "u" * 1000


def test_without_a_session_none_is_made_up() -> None:
    assert "x-session-id" not in identify({**with_headers(accept="*/*"), "metadata": {"session_id": 7}}).headers


def test_the_request_id_is_the_clients_or_else_the_call_id() -> None:
    assert identify(with_headers(x_request_id="r-1")).headers["x-request-id"] == "r-1"
    assert identify(with_headers()).headers["x-request-id"] == "call-1"
    assert "x-request-id" not in identify({}).headers


@pytest.mark.parametrize("bucket", ["metadata", "litellm_metadata"])
def test_the_client_address_is_the_peer_litellm_saw_and_not_what_a_header_says(bucket: str) -> None:
    data = {
        **with_headers(x_forwarded_for="6.6.6.6", x_real_ip="6.6.6.6"),
        bucket: {"requester_ip_address": "10.1.2.3"},
    }
    assert identify(data).client_ip == "10.1.2.3"


def test_an_unknown_client_address_is_not_taken_from_a_header() -> None:
    assert identify(with_headers(x_forwarded_for="6.6.6.6")).client_ip == "0.0.0.0"


@pytest.mark.parametrize(
    ("data", "call_id"),
    [
        ({"litellm_call_id": "a"}, "a"),
        ({"litellm_logging_obj": LoggingObject("b")}, "b"),
        ({"litellm_call_id": "", "litellm_logging_obj": LoggingObject("b")}, "b"),
        ({"litellm_call_id": 7, "litellm_logging_obj": LoggingObject(7)}, ""),
        ({}, ""),
    ],
)
def test_the_call_id_is_in_the_request_or_on_its_logging_object(data: dict[str, Any], call_id: str) -> None:
    assert call_id_of(data) == call_id
    assert identify(data).call_id == call_id


@pytest.mark.parametrize("bucket", ["metadata", "litellm_metadata"])
def test_the_route_is_read_from_litellms_metadata_when_the_auth_object_has_none(bucket: str) -> None:
    data = {bucket: {"user_api_key_request_route": "/v1/messages"}}
    assert identify(data, Key(request_route=None)).route == "/v1/messages"


def test_the_route_is_read_from_the_auth_object_when_there_is_no_metadata() -> None:
    assert identify({}, Key(request_route="/anthropic/v1/messages")).route == "/anthropic/v1/messages"


def test_a_caller_cannot_name_another_route_in_a_body_that_is_passed_through() -> None:
    body = {"messages": [], "metadata": {"user_api_key_request_route": "/health"}}
    assert identify(body, Key(request_route="/anthropic/v1/messages")).route == "/anthropic/v1/messages"


def test_an_unknown_route_is_taken_for_chat() -> None:
    assert identify({}, Key(request_route=None)).route == "/v1/chat/completions"


def test_key_team_and_user_come_from_the_auth_object() -> None:
    found = identify(
        {"metadata": {"user_api_key_alias": "forged", "user_api_key_user_id": "forged"}},
        Key(key_alias="key", team_id="team-7", user_id="user-9"),
    )
    assert (found.key_alias, found.team_id, found.user_id) == ("key", "team-7", "user-9")
    assert (identify().key_alias, identify().team_id, identify().user_id) == ("", "", "")


def as_it_came_in(path: str = "/cohere/v1/chat", address: str = "203.0.113.7", **headers: str) -> ClientRequest:
    """The HTTP request itself; an underscore in the name of a header stands for a hyphen."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ClientRequest(is_websocket=False, method="POST", path=path, headers=named, address=address)


class TestRequestItself:
    """What the HTTP request tells where LiteLLM hands its hooks nothing about it."""

    def test_its_headers_are_mirrored_by_the_same_rules(self) -> None:
        request = as_it_came_in(
            user_agent="curl/8", x_session_id="s-1", x_request_id="r-1", authorization="sk", cookie="c", host="evil"
        )
        assert identify({}, request=request).headers == {
            "user-agent": "curl/8",
            "x-session-id": "s-1",
            "x-request-id": "r-1",
            "host": "llm.example.com",
            "content-type": "application/json",
        }

    def test_headers_that_litellm_cleaned_come_first(self) -> None:
        found = identify(with_headers(user_agent="cleaned"), request=as_it_came_in(user_agent="raw", accept="*/*"))
        assert found.headers["user-agent"] == "cleaned"
        assert "accept" not in found.headers

    @pytest.mark.parametrize(
        ("data", "address", "expected"),
        [
            ({}, "203.0.113.7", "203.0.113.7"),
            ({}, "", "0.0.0.0"),
            # All metadata is the client's where LiteLLM keeps no record of its request.
            ({"metadata": {"requester_ip_address": "6.6.6.6"}}, "203.0.113.7", "203.0.113.7"),
            ({"metadata": {"requester_ip_address": "6.6.6.6"}}, "", "0.0.0.0"),
            (
                {"metadata": {"requester_ip_address": "10.1.2.3"}, "proxy_server_request": {}},
                "203.0.113.7",
                "10.1.2.3",
            ),
            ({"proxy_server_request": {}}, "203.0.113.7", "203.0.113.7"),
            ({"proxy_server_request": {}}, "", "0.0.0.0"),
        ],
    )
    def test_its_peer_is_the_client_where_litellm_names_none(
        self, data: dict[str, Any], address: str, expected: str
    ) -> None:
        assert identify(data, request=as_it_came_in(address=address)).client_ip == expected

    @pytest.mark.parametrize(
        ("key_route", "data", "expected"),
        [
            (None, {}, "/cohere/v1/chat"),
            ("", {}, "/cohere/v1/chat"),
            (None, {"metadata": {"user_api_key_request_route": "/v1/messages"}}, "/v1/messages"),
            ("/v1/responses", {"metadata": {"user_api_key_request_route": "/v1/messages"}}, "/v1/responses"),
        ],
    )
    def test_its_path_is_the_last_word_on_the_route(
        self, key_route: str | None, data: dict[str, Any], expected: str
    ) -> None:
        assert identify(data, Key(request_route=key_route), as_it_came_in()).route == expected


KEY_ENTRIES = {
    "user_api_key_alias": "key",
    "user_api_key_team_alias": "team",
    "user_api_key_team_id": "team-7",
    "user_api_key_user_id": "user-9",
    "user_api_key_request_route": "/v1/messages",
}


class TestKeyInMetadata:
    """The key behind a call whose hook gets no auth object."""

    @pytest.mark.parametrize(
        "data",
        [
            {"metadata": KEY_ENTRIES},
            {"metadata": KEY_ENTRIES, "litellm_metadata": {"user_api_key_alias": "forged"}},
            {"litellm_metadata": None, "metadata": KEY_ENTRIES},
        ],
    )
    def test_it_is_read_from_the_metadata_that_litellm_writes(self, data: dict[str, Any]) -> None:
        key = key_in_metadata(data)
        assert (key.key_alias, key.team_alias, key.team_id, key.user_id) == ("key", "team", "team-7", "user-9")
        assert key.request_route == "/v1/messages"

    def test_on_provider_routes_litellm_writes_to_the_other_one(self) -> None:
        data = {"litellm_metadata": KEY_ENTRIES, "metadata": {"user_api_key_alias": "forged"}}
        assert key_in_metadata(data, of_provider_route=True).key_alias == "key"

    @pytest.mark.parametrize("data", [{}, {"metadata": None}, {"metadata": "text"}, {"metadata": {"a": "b"}}])
    def test_without_one_there_is_none(self, data: dict[str, Any]) -> None:
        key = key_in_metadata(data)
        assert (key.key_alias, key.team_alias, key.team_id, key.user_id, key.request_route) == (None,) * 5
        assert identify({}, key).collection == "llm.example.com"  # type: ignore[arg-type]

    @pytest.mark.parametrize("value", ["", 7, None, ["key"]])
    def test_what_is_no_name_is_none(self, value: object) -> None:
        assert key_in_metadata({"metadata": {"user_api_key_alias": value}}).key_alias is None


def test_of_a_body_that_is_passed_through_only_agent_and_session_count() -> None:
    own = LoggingObject()
    said = what_the_client_says(
        {
            "metadata": {"agent_name": "agent", "session_id": "s", "user_api_key_alias": "forged", "x": "y"},
            "litellm_metadata": {"agent_name": "forged"},
            "litellm_call_id": "forged",
            "proxy_server_request": {"headers": {"x-session-id": "forged"}},
            "litellm_logging_obj": own,
        }
    )
    assert said == {"litellm_logging_obj": own, "metadata": {"agent_name": "agent", "session_id": "s"}}


@pytest.mark.parametrize("metadata", [None, "text", ["agent_name"], 7])
def test_a_body_whose_metadata_is_no_object_says_nothing(metadata: object) -> None:
    assert what_the_client_says({"metadata": metadata})["metadata"] == {}
