"""The layer around LiteLLM's application."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import MutableMapping, Sequence
from typing import Any

import pytest

from akto_guardrails.asgi import UNCHECKED_REFUSED, guarded_application
from akto_guardrails.client_request import ClientRequest, current_request
from akto_guardrails.sent_stream import SentStream

MCP_CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {}}
MCP_PROMPT = {"jsonrpc": "2.0", "id": 1, "method": "prompts/get", "params": {}}


class Served:
    """An application behind the layer, and what reached it and the client."""

    def __init__(self, *, allow: bool = True, roots: Sequence[str] = ()) -> None:
        self.allow = allow
        self.families: list[str] = []
        self.requests: list[ClientRequest | None] = []
        self.received: list[MutableMapping[str, Any]] = []
        self.sent: list[MutableMapping[str, Any]] = []
        self.application = guarded_application(self.inner, self.admits, roots)

    def admits(self, family: str) -> bool:
        self.families.append(family)
        return self.allow

    async def inner(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        self.requests.append(current_request())
        if scope["type"] == "lifespan":
            return
        while True:
            message = await receive()
            self.received.append(message)
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def serve(self, scope: dict[str, Any], *messages: dict[str, Any]) -> None:
        """One request; after `messages` its client hangs on."""
        waiting = list(messages)

        async def receive() -> MutableMapping[str, Any]:
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            self.sent.append(message)

        asyncio.run(self.application(scope, receive, send))

    @property
    def is_served(self) -> bool:
        return bool(self.requests)

    @property
    def refusal(self) -> Any:
        """The body of the refusal that the client got."""
        start, body = self.sent
        assert start["status"] == 403
        assert (b"content-type", b"application/json") in start["headers"]
        return json.loads(body["body"])


def http(path: str = "/v1/chat/completions", method: str = "POST", **entries: Any) -> dict[str, Any]:
    """The scope of a request."""
    headers = [(b"User-Agent", b"curl/8"), (b"x-name", "caf\xe9".encode("latin-1"))]
    client = ("203.0.113.7", 40000)
    return {"type": "http", "method": method, "path": path, "headers": headers, "client": client, **entries}


def websocket(path: str) -> dict[str, Any]:
    """The scope of a WebSocket."""
    return {"type": "websocket", "path": path, "headers": [], "client": None}


def body(*parts: object) -> list[dict[str, Any]]:
    """A body in so many messages."""
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    return [
        {"type": "http.request", "body": each, "more_body": number < len(raw)} for number, each in enumerate(raw, 1)
    ]


def test_what_there_is_to_know_about_a_request_is_noted_for_the_hooks() -> None:
    served = Served()
    served.serve(http(), *body({}))
    (request,) = served.requests
    assert request == ClientRequest(
        is_websocket=False,
        method="POST",
        path="/v1/chat/completions",
        headers={"user-agent": "curl/8", "x-name": "caf\xe9"},
        address="203.0.113.7",
        status=200,
        has_ended=True,
    )


@pytest.mark.parametrize(
    ("path", "root_path", "expected"),
    [
        ("/llm/v1/messages", "/llm", "/v1/messages"),
        ("/llm/v1/messages", "/llm/", "/v1/messages"),
        ("/v1/messages", "/llm", "/v1/messages"),
        ("/v1/messages", "", "/v1/messages"),
        ("/llm", "/llm", "/"),
        ("/llmv1/messages", "/llm", "/llmv1/messages"),
        ("/a/v1/messages", "", "/v1/messages"),
        ("/a/v1/messages", "/llm", "/v1/messages"),
        ("/a", "", "/"),
        ("/a/b/v1/messages", "", "/v1/messages"),
        ("/a/bc/v1/messages", "", "/bc/v1/messages"),
        ("/a/a/v1/messages", "", "/a/v1/messages"),
        ("/a/llm/v1/messages", "/llm", "/llm/v1/messages"),
        ("/A/v1/messages", "", "/A/v1/messages"),
        ("//a/v1/messages", "", "//a/v1/messages"),
        ("/other/v1/messages", "/other", "/v1/messages"),
    ],
)
def test_the_path_is_noted_without_the_prefix_it_is_served_under(path: str, root_path: str, expected: str) -> None:
    served = Served(roots=("/a/b", "/a"))
    served.serve(http(path, root_path=root_path), *body({}))
    (request,) = served.requests
    assert request is not None
    assert request.path == expected


@pytest.mark.parametrize(
    ("sent", "status", "answered"),
    [
        ([], None, False),
        ([{"type": "http.response.start", "status": 200}], 200, False),
        (
            [{"type": "http.response.start", "status": 200}, {"type": "http.response.body", "more_body": True}],
            200,
            False,
        ),
        ([{"type": "http.response.start", "status": 404}, {"type": "http.response.body"}], 404, True),
    ],
)
@pytest.mark.parametrize("failure", [None, asyncio.CancelledError, ValueError])
def test_at_its_end_it_is_known_what_was_answered(
    sent: list[dict[str, Any]], status: int | None, answered: bool, failure: type[BaseException] | None
) -> None:
    seen: list[tuple[int | None, bool]] = []

    async def inner(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        request = current_request()
        assert request is not None
        request.when_ended(lambda: seen.append((request.status, request.is_answered)))
        for message in sent:
            await send(message)
        assert seen == []
        if failure is not None:
            raise failure

    served = Served()
    served.application = guarded_application(inner, served.admits)
    with contextlib.suppress(ValueError, asyncio.CancelledError):
        served.serve(http())
    assert seen == [(status, answered)]
    assert served.sent == sent


def test_what_is_to_be_done_at_its_end_is_done_at_once_when_that_is_over() -> None:
    served = Served()
    served.serve(http(), *body({}))
    (request,) = served.requests
    assert request is not None
    done: list[str] = []
    request.when_ended(lambda: done.append("done"))
    assert done == ["done"]


def test_a_client_without_an_address_does_no_harm() -> None:
    served = Served()
    served.serve(http(client=None), *body({}))
    (request,) = served.requests
    assert request is not None
    assert request.address == ""


def test_the_lifespan_is_no_request() -> None:
    served = Served()
    served.serve({"type": "lifespan"})
    assert served.requests == [None]


def test_a_request_that_is_checked_passes_untouched() -> None:
    served = Served(allow=False)
    messages = body(b'{"messages": ', b"[]}")
    served.serve(http(), *messages)
    assert served.received == messages
    assert served.families == []
    assert served.sent[0]["status"] == 200


@pytest.mark.parametrize(
    ("scope", "family"),
    [
        (http("/v1/threads"), "assistants"),
        (http("/llm/v1/threads", root_path="/llm"), "assistants"),
        (http("/v1/messages/count_tokens"), "token counting"),
        (websocket("/v1/realtime"), "realtime"),
        (websocket("/deepgram/v1/listen"), "websocket pass-through"),
    ],
)
def test_an_unchecked_route_is_served_and_named_where_that_is_allowed(scope: dict[str, Any], family: str) -> None:
    served = Served()
    served.serve(scope, *body({}))
    assert served.families == [family]
    assert served.is_served


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/threads", ["error", "message"]),
        ("/v1/messages/count_tokens", ["error", "message"]),
    ],
)
def test_an_unchecked_route_is_refused_in_the_format_of_its_api(path: str, expected: list[str]) -> None:
    served = Served(allow=False)
    served.serve(http(path), *body({}))
    assert not served.is_served
    refusal: Any = served.refusal
    assert (refusal.get("type") == "error") is path.endswith("count_tokens")
    for name in expected:
        refusal = refusal[name]
    assert refusal == UNCHECKED_REFUSED


def test_a_websocket_is_refused_before_it_is_accepted() -> None:
    served = Served(allow=False)
    served.serve(websocket("/v1/realtime"), {"type": "websocket.connect"})
    assert not served.is_served
    (close,) = served.sent
    assert (close["type"], close["code"], close["reason"]) == ("websocket.close", 1008, UNCHECKED_REFUSED)


@pytest.mark.parametrize("message", [MCP_CALL, [MCP_CALL, MCP_CALL], {"method": 7}, {}, [], "tools/call", None])
def test_mcp_messages_that_are_checked_reach_the_server_as_they_came(message: object) -> None:
    served = Served(allow=False)
    messages = body(message)
    served.serve(http("/mcp"), *messages)
    assert served.families == []
    assert served.received == messages


def test_a_body_in_parts_is_read_whole_and_given_on_in_the_same_parts() -> None:
    raw = json.dumps(MCP_CALL).encode()
    messages = body(raw[:10], raw[10:20], raw[20:])
    served = Served(allow=False)
    served.serve(http("/mcp"), *messages)
    assert served.families == []
    assert served.received == messages


@pytest.mark.parametrize(
    "raw",
    [
        MCP_PROMPT,
        [MCP_CALL, MCP_PROMPT],
        b'{"method": "tools/call", "method": "prompts/get"}',
        b'{"method": "prompts\\/get"}',
        b"no JSON",
        json.dumps(MCP_CALL).encode("utf-16"),
        b"[" * 100_000,
        b"",
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/mcp/github", "/github/mcp"])
def test_mcp_messages_no_hook_sees_are_held_and_what_cannot_be_read_is_taken_for_one(path: str, raw: object) -> None:
    served = Served(allow=False)
    served.serve(http(path), *body(raw))
    assert served.families == ["MCP prompts and resources"]
    assert not served.is_served
    assert served.refusal["error"]["message"] == UNCHECKED_REFUSED
    assert served.refusal["jsonrpc"] == "2.0"


def test_an_unchecked_mcp_message_is_served_as_it_came_where_that_is_allowed() -> None:
    served = Served()
    messages = body(MCP_PROMPT)
    served.serve(http("/mcp"), *messages)
    assert served.families == ["MCP prompts and resources"]
    assert served.received == messages


def test_no_more_of_a_large_mcp_body_is_held_than_a_few_megabytes() -> None:
    served = Served(allow=False)
    part = b" " * 1024 * 1024
    parts = [*([part] * 8), json.dumps(MCP_CALL).encode()]
    taken = 0
    waiting = body(*parts)

    async def receive() -> MutableMapping[str, Any]:
        nonlocal taken
        taken += 1
        return waiting.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        served.sent.append(message)

    asyncio.run(served.application(http("/mcp"), receive, send))
    assert taken == 5
    assert not served.is_served, "what is not read may be anything"


def test_a_client_that_leaves_in_the_middle_of_a_body_is_reported_on() -> None:
    served = Served()
    first = body(b'{"method": ', b"")[0]
    served.serve(http("/mcp"), first, {"type": "http.disconnect"})
    assert served.received[0] == first
    assert served.is_served


@pytest.mark.parametrize(
    ("header", "has_json"),
    [
        (None, True),
        (b"", True),
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"application/vnd.api+json", True),
        (b"multipart/form-data; boundary=x", False),
        (b"application/x-www-form-urlencoded", False),
        (b"text/plain", False),
        (b"application/jsonp", False),
    ],
)
def test_the_media_type_says_whether_a_body_is_json(header: bytes | None, has_json: bool) -> None:
    served = Served()
    served.serve(http(headers=[] if header is None else [(b"Content-Type", header)]), *body({}))
    (request,) = served.requests
    assert request is not None
    assert request.has_json is has_json


def test_a_second_content_type_does_not_pass_a_form_for_json() -> None:
    served = Served()
    two = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-type", b"application/json")]
    served.serve(http(headers=two), *body({}))
    (request,) = served.requests
    assert request is not None
    assert request.has_json is False


def streamed(*bodies: bytes) -> list[MutableMapping[str, Any]]:
    """An answer as a stream of events, in these pieces."""
    headers = [(b"content-type", b"text/event-stream")]
    return [
        {"type": "http.response.start", "status": 200, "headers": headers},
        *({"type": "http.response.body", "body": body, "more_body": True} for body in bodies),
        {"type": "http.response.body", "body": b""},
    ]


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_a_stream_says_is_kept_where_it_is_wanted(is_kept: bool) -> None:
    parts = streamed(b"data: one\n\n", b"data: two\n\n")
    answered: list[bool] = []

    async def inner(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        request = current_request()
        assert request is not None
        request.stream = SentStream(pytest.fail) if is_kept else None
        for part in parts:
            await send(part)
            answered.append(request.is_answered)
        said = None if request.stream is None else request.stream.answer()
        assert said == (({"events": ["one", "two"]}, 200) if is_kept else None)

    served = Served()
    served.application = guarded_application(inner, served.admits)
    served.serve(http())
    assert served.sent == parts
    assert answered == [False, False, False, True]


@pytest.mark.parametrize("more_body", [True, False])
def test_others_are_served_while_a_long_piece_of_a_stream_is_read(more_body: bool) -> None:
    _, part, _ = parts = streamed(b"data: {}\n\n" * 50_000 + b"data: last\n\n")
    part["more_body"] = more_body
    turns = 0

    async def inner(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        nonlocal turns
        request = current_request()
        assert request is not None
        request.stream = SentStream(pytest.fail)
        await send(parts[0])
        sending = asyncio.create_task(send(part))
        while not sending.done():
            turns += 1
            await asyncio.sleep(0)
        assert request.is_answered is not more_body
        assert request.stream.answer() == ({"events": ["last"]}, 200)

    served = Served()
    served.application = guarded_application(inner, served.admits)
    served.serve(http())
    assert served.sent == parts[:2]
    assert turns > 30


@pytest.mark.parametrize(
    ("is_unverdicted", "status", "told"), [(True, 503, [(b"retry-after", b"1")]), (True, 200, []), (False, 503, [])]
)
def test_a_refusal_for_want_of_a_verdict_says_when_to_return(
    is_unverdicted: bool, status: int, told: list[tuple[bytes, bytes]]
) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def inner(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        request = current_request()
        assert request is not None
        request.is_unverdicted = is_unverdicted
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    asyncio.run(guarded_application(inner, lambda _: True)(http(), lambda: None, send))  # type: ignore[arg-type, return-value]
    assert sent[0]["headers"] == told
