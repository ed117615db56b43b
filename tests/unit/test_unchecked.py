"""Which routes carry content that no hook is shown."""

from __future__ import annotations

from contextvars import Context

import pytest

from akto_guardrails.client_request import note_request
from akto_guardrails.unchecked import (
    ASSISTANTS,
    FILE,
    REALTIME,
    TOKEN_COUNTING,
    WEBSOCKET,
    is_mcp_endpoint,
    is_unchecked_mcp_method,
    unchecked_family,
)


def came_in(path: str) -> str:
    """The path of a request as the layer around LiteLLM's application notes it."""
    return Context().run(note_request, {"type": "http", "method": "POST", "path": path, "headers": []}).path


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/v1/assistants", ASSISTANTS),
        ("/assistants/asst_1", ASSISTANTS),
        ("/v1/threads", ASSISTANTS),
        ("/threads/", ASSISTANTS),
        ("/v1/threads/thread_1/messages", ASSISTANTS),
        ("/v1/threads/thread_1/runs", ASSISTANTS),
        ("/v1/messages/count_tokens", TOKEN_COUNTING),
        ("/claude_code_gateway/v1/messages/count_tokens", TOKEN_COUNTING),
        ("/v1/responses/input_tokens", TOKEN_COUNTING),
        ("/responses/input_tokens", TOKEN_COUNTING),
        ("/v1beta/models/gemini-2.5-flash:countTokens", TOKEN_COUNTING),
        ("/models/gemini-2.5-flash:countTokens", TOKEN_COUNTING),
        ("/utils/token_counter", TOKEN_COUNTING),
        ("/v1/realtime/client_secrets", REALTIME),
        ("/realtime/calls", REALTIME),
        ("/openai/v1/realtime/calls", REALTIME),
        ("/v1/containers/cntr_1/files", FILE),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
def test_routes_without_a_hook_are_known_by_their_path(method: str, path: str, family: str) -> None:
    assert unchecked_family(method, path, is_websocket=False) == family


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/chat/completions",
        "/v1/messages",
        "/v1/responses",
        "/v1/responses/compact",
        "/v1beta/models/gemini-2.5-flash:generateContent",
        "/v1/containers",
        "/v1/containers/cntr_1",
        "/v1/files",
        "/v1/threadsafe",
        "/my/v1/threads",
        "/v1/realtimely",
        "/utils/token_counter_2",
        "/mcp",
    ],
)
def test_every_other_route_is_checked(path: str) -> None:
    assert unchecked_family("POST", path, is_websocket=False) is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/v1/threads/thread_1", "/v1/assistants", "/v1/containers/cntr_1/files"])
def test_a_request_that_sends_no_content_has_nothing_to_be_checked(method: str, path: str) -> None:
    assert unchecked_family(method, path, is_websocket=False) is None


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("/v1/realtime", REALTIME),
        ("/realtime", REALTIME),
        ("/openai/v1/realtime", REALTIME),
        ("/v1/realtime/translations", REALTIME),
        ("/openai/v1/live/sessions", REALTIME),
        ("/vertex_ai/live", WEBSOCKET),
        ("/deepgram/v1/speak", WEBSOCKET),
        ("/deepgram/v1/listen", WEBSOCKET),
        ("/v1/responses/other", WEBSOCKET),
        ("/my/v1/responses", WEBSOCKET),
    ],
)
def test_a_websocket_is_unchecked_unless_its_turns_are_known_to_be(path: str, family: str) -> None:
    assert unchecked_family("GET", path, is_websocket=True) == family


@pytest.mark.parametrize("path", ["/v1/responses", "/responses", "/openai/v1/responses"])
def test_turns_of_a_responses_websocket_are_checked(path: str) -> None:
    assert unchecked_family("GET", path, is_websocket=True) is None


@pytest.mark.parametrize(
    "path",
    [
        "/v1/threads\n",
        "/v1/threads/a\nb/messages",
        "/v1/messages/count_tokens\n",
        "/v1/responses/input_tokens\n",
        "/v1/containers/cntr_1/files\n",
        "/utils/token_counter\n",
    ],
)
def test_a_line_feed_in_a_path_hides_no_route(path: str) -> None:
    """Starlette's patterns end in `$`, which matches before a last line feed, and `[^/]+` matches any."""
    assert unchecked_family("POST", came_in(path), is_websocket=False) is not None


@pytest.mark.parametrize(
    "path",
    [
        "/mcp",
        "/mcp/",
        "/mcp/github",
        "/mcp/a,b/tools",
        "/mcp/sse/messages",
        "/github/mcp",
        "/github/mcp/",
        "/toolset/t/mcp",
    ],
)
def test_mcp_endpoints_are_known_by_their_path(path: str) -> None:
    assert is_mcp_endpoint("POST", path)
    assert not is_mcp_endpoint("GET", path)


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/mcp-rest/tools/call", "/v1/mcp/server", "/mcps"])
def test_other_paths_are_no_mcp_endpoints(path: str) -> None:
    assert not is_mcp_endpoint("POST", path)


@pytest.mark.parametrize("path", ["/mcp/\n", "/mcp/github,\n", "/git\nhub/mcp\n"])
def test_a_line_feed_in_a_path_hides_no_mcp_endpoint(path: str) -> None:
    assert is_mcp_endpoint("POST", came_in(path))


@pytest.mark.parametrize("name", ["prompts/get", "resources/read", "resources/subscribe", "completion/complete"])
def test_methods_whose_content_no_hook_sees_are_unchecked(name: str) -> None:
    assert is_unchecked_mcp_method(name)


@pytest.mark.parametrize(
    "name", ["tools/call", "tools/list", "initialize", "ping", "notifications/prompts/x", "", None, 7, []]
)
def test_other_methods_are_not(name: object) -> None:
    assert not is_unchecked_mcp_method(name)
