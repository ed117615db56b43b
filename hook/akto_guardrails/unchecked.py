"""Routes whose content LiteLLM shows to no hook before it goes to a provider (LiteLLM 1.110.2).

`UNCHECKED_ROUTES` decides about them: `allow` names each in the log once and counts it, `deny` refuses it with 403.
"""

from __future__ import annotations

import functools
import re
from typing import Final

ASSISTANTS: Final = "assistants"
TOKEN_COUNTING: Final = "token counting"  # noqa: S105 - not a password
REALTIME: Final = "realtime"
WEBSOCKET: Final = "websocket pass-through"
BODY: Final = "pass-through body that is not JSON"
FILE: Final = "file upload"
MCP: Final = "MCP prompts and resources"
FAMILIES: Final = (ASSISTANTS, TOKEN_COUNTING, REALTIME, WEBSOCKET, BODY, FILE, MCP)

_HTTP: Final = (
    (ASSISTANTS, re.compile(r"(?:/v1)?/(?:assistants|threads)(?:/.*)?")),
    (
        TOKEN_COUNTING,
        re.compile(
            r"(?:/claude_code_gateway)?(?:/v1)?/messages/count_tokens|(?:/openai)?(?:/v1)?/responses/input_tokens"
            r"|(?:/v1beta)?/models/.*:countTokens|/utils/token_counter"
        ),
    ),
    (REALTIME, re.compile(r"(?:/openai)?(?:/v1)?/realtime(?:/.*)?")),
    (FILE, re.compile(r"(?:/v1)?/(?:containers/[^/]+/files|skills(?:/[^/]+/versions)?)")),
)
_CHECKED_SOCKETS: Final = re.compile(r"(?:/openai)?(?:/v1)?/responses")
_MCP_PATH: Final = re.compile(r"/mcp(?:/.*)?|/(?:toolset/)?[^/]+/mcp/?")
_MCP_METHODS: Final = frozenset({"completion/complete", "prompts/get", "resources/read", "resources/subscribe"})


def count_of(family: str) -> str:
    """The name under which requests on routes of `family` are counted."""
    return f"unchecked_{family.replace(' ', '_')}"


# Asked about every request, most of which are on the same few routes.
@functools.lru_cache(maxsize=256)
def unchecked_family(method: str, path: str, *, is_websocket: bool) -> str | None:
    """The family of unchecked routes that a request with this method and path belongs to; None when it is checked."""
    if is_websocket:
        if _CHECKED_SOCKETS.fullmatch(path):
            return None
        return REALTIME if "realtime" in path or path.endswith("/live/sessions") else WEBSOCKET
    if method not in ("POST", "PUT", "PATCH"):
        return None
    return next((family for family, paths in _HTTP if paths.fullmatch(path)), None)


@functools.lru_cache(maxsize=256)
def is_mcp_endpoint(method: str, path: str) -> bool:
    """Whether a request carries MCP messages, whose methods are in its body."""
    return method == "POST" and _MCP_PATH.fullmatch(path) is not None


def is_unchecked_mcp_method(name: object) -> bool:
    """Whether the MCP method called `name` carries content that no hook is shown."""
    return isinstance(name, str) and name in _MCP_METHODS
