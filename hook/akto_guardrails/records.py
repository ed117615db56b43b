"""What is recorded: exchanges with their answers, and the tool calls in them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Final

from akto_guardrails.burst import Burst
from akto_guardrails.counters import Counters
from akto_guardrails.envelope import Sender, envelope, fitted, mcp_tags_of, payload_of, tool_tags_of
from akto_guardrails.exchange import Exchange
from akto_guardrails.freed_memory import FreedMemory
from akto_guardrails.identity import SESSION, Identity
from akto_guardrails.journal import Journal
from akto_guardrails.recorder import Recorder
from akto_guardrails.settings import Settings
from akto_guardrails.subject import MCP_CALL
from akto_guardrails.tool_calls import (
    LITELLMS_LABEL,
    ToolCall,
    mcp_host,
    payloads_of,
    runs_mcp_tools_here,
    tool_calls_of,
    tool_path,
)

# Records with more characters of text are made at once, so that few such texts are kept at a time.
_LONG: Final = 65_536

TOO_DEEP: Final = {"x-akto-truncated": "nested too deeply to be read"}


class Records:
    """Makes records and queues them."""

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        sender: Sender,
        counters: Counters,
        journal: Journal,
        *,
        memory: FreedMemory,
        burst: Burst,
    ) -> None:
        self._burst = burst
        self._settings = settings
        self._recorder = recorder
        self._memory = memory
        self._sender = sender
        self._counters = counters
        self._journal = journal

    def put(self, exchange: Exchange, answer: object, status: int) -> None:
        """Queues the record of an exchange, a moment later; `answer` is plain data, None when there was none."""
        response = None if answer is None else _answer_payload(exchange, answer)
        self._burst.add(partial(self._put_exchange, exchange, response, status))
        if len(exchange.request_payload) + len(response or "") > _LONG:
            self._burst.run()

    def put_tool_calls(self, exchange: Exchange, answer: object) -> None:
        """Queues a record of each tool call in an answer, a moment later."""
        if exchange.call_type != MCP_CALL:
            self._burst.add(partial(self._put_tool_calls, exchange, answer))

    def start(self) -> None:
        """Begins to send what earlier workers left."""
        self._recorder.start()

    async def flush(self, seconds: float) -> None:
        """Delivers what is queued, for at most `seconds`."""
        self._burst.run()
        await self._recorder.flush(seconds)

    # The next two are called by the event loop, which would print the text of an error.

    def _put_exchange(self, exchange: Exchange, response: str | None, status: int) -> None:
        try:
            self._put(exchange.identity, exchange.tags, fitted(exchange.request_payload), response, status)
        except Exception as error:  # noqa: BLE001 - a record that cannot be made must not stop the others
            self._journal.internal_error(error)

    def _put_tool_calls(self, exchange: Exchange, answer: object) -> None:
        try:
            calls = tool_calls_of(answer)
            # Once for all of them: the request may be long.
            if any(call.server == LITELLMS_LABEL for call in calls) and runs_mcp_tools_here(exchange.request_payload):
                calls = [call for call in calls if call.server != LITELLMS_LABEL]
            for call in calls:
                self._put_tool_call(exchange, call)
        except Exception as error:  # noqa: BLE001 - the same
            self._journal.internal_error(error)

    def _put_tool_call(self, exchange: Exchange, call: ToolCall) -> None:
        identity = exchange.identity
        if call.server:
            identity = at_mcp_server(identity, call.server, self._settings.mcp_path)
            tags = mcp_tags_of(self._sender, identity, server=call.server, tool=call.name)
        else:
            route = tool_path(self._settings.tool_path_prefix, call.name)
            identity = replace(identity, route=route, method="POST")
            tags = tool_tags_of(exchange.tags, tool=call.name)
        request, answer = payloads_of(call)
        self._counters.add("tool_calls_recorded")
        self._put(identity, tags, fitted(request), None if answer is None else fitted(answer), 200)

    def _put(
        self, identity: Identity, tags: Mapping[str, str], request: str, response: str | None, status: int
    ) -> None:
        body = envelope(
            self._sender,
            identity,
            tags,
            request_payload=request,
            response_payload=response,
            status=status,
            record_id=uuid.uuid4().hex,
        )
        self._recorder.put(body, identity.headers.get(SESSION))
        self._memory.used(self._recorder.queued_bytes)


def at_mcp_server(identity: Identity, server: str, path: str) -> Identity:
    """`identity` under a host of the MCP server's own: the tags of its records would turn the agent's into one."""
    host = mcp_host(identity.collection, server)
    return replace(identity, collection=host, route=path, method="POST", headers={**identity.headers, "host": host})


def as_object(exchange: Exchange, answer: object) -> dict[str, Any]:
    """An answer as Akto gets it: the result of a tool as JSON-RPC, several answers under a name, the rest as it is."""
    if exchange.call_type == MCP_CALL:
        return {"jsonrpc": "2.0", "id": 1, "result": answer}
    return answer if isinstance(answer, dict) else {"answers": answer}


def _answer_payload(exchange: Exchange, answer: object) -> str:
    body = as_object(exchange, answer) if exchange.call_type == MCP_CALL else answer
    try:
        return fitted(payload_of(body, bare=exchange.bare))
    except RecursionError:
        return payload_of(TOO_DEEP, bare=exchange.bare)
