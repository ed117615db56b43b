"""The turns of a conversation over one WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from akto_guardrails.socket_guard import GuardedSocket
from akto_guardrails.turns import Turns
from unit.samples import Key
from unit.test_guard import ALLOW, BLOCK, Guarded, answer_of, came_in, content_of, no_on


class ClientGone(Exception):
    """What Starlette raises when a socket is closed."""


class Socket:
    """A client's WebSocket: what it sends, and what it got."""

    def __init__(self, *messages: str) -> None:
        self.messages = list(messages)
        self.got: list[dict[str, Any]] = []

    async def receive_text(self) -> str:
        if not self.messages:
            raise ClientGone
        return self.messages.pop(0)

    async def send_text(self, data: str) -> None:
        self.got.append(json.loads(data))


def turn(text: str, kind: str = "response.create") -> str:
    return json.dumps({"type": kind, "input": text})


def delta(text: str) -> str:
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    return json.dumps({"type": "response.output_text.delta", **place, "delta": text})


def completed(text: str) -> str:
    return json.dumps({"type": "response.completed", "response": {"id": text}})


def converse(
    guarded: Guarded, socket: Socket, serve: Callable[[GuardedSocket], Awaitable[None]], first: str | None = None
) -> None:
    """LiteLLM serves a connection until the client has gone."""

    async def main() -> None:
        request = came_in("/v1/responses", kind="websocket")
        data = {"model": "m", "proxy_server_request": {"url": "/v1/responses", "body": {}, "headers": {}}}
        turns = Turns(guarded.guard, data, Key(), "_aresponses_websocket")
        request.has_guarded_turns = True
        request.when_ended(turns.end)
        with contextlib.suppress(ClientGone):
            await serve(GuardedSocket(socket, first, turns))
        request.end()
        assert guarded.guard._open.take_all() == []

    asyncio.run(main())


def said(record: dict[str, Any]) -> Any:
    """The request's text, the status, and the answer in a record."""
    answer = None if record["responsePayload"] is None else answer_of(record)
    return content_of(record)["input"], record["status"], answer


def test_each_turn_is_recorded_with_its_answer() -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        while True:
            text = json.loads(await socket.receive_text())["input"]
            await socket.send_text(completed(text))

    socket = Socket(turn("two"))
    converse(guarded, socket, serve, first=turn("one"))
    assert [said(record) for record in guarded.records] == [
        ("one", "200", {"id": "one"}),
        ("two", "200", {"id": "two"}),
    ]
    assert [event["type"] for event in socket.got] == ["response.completed"] * 2


def test_what_was_sent_and_is_not_in_the_last_event_is_recorded_with_it() -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        for _ in range(2):
            await socket.receive_text()
            await socket.send_text(delta("Hello"))
            await socket.send_text(completed("one") if len(guarded.records) == 0 else '{"type": "error", "code": "x"}')

    converse(guarded, Socket(turn("one"), turn("two")), serve)
    output = [{"content": [{"text": "Hello"}]}]
    assert [said(record) for record in guarded.records] == [
        ("one", "200", {"id": "one", "output": output}),
        ("two", "500", {"type": "error", "code": "x", "output": output}),
    ]


def test_answers_come_in_the_order_of_turns_that_overlap() -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        for _ in range(2):
            await socket.receive_text()
        await socket.send_text(completed("one"))
        await socket.send_text(completed("two"))

    converse(guarded, Socket(turn("one"), turn("two")), serve)
    assert [said(record)[::2] for record in guarded.records] == [("one", {"id": "one"}), ("two", {"id": "two"})]


@pytest.mark.parametrize("reads", [True, False], ids=["while it is read from", "while it is not"])
def test_of_a_client_that_leaves_in_a_turn_what_was_said_is_recorded(reads: bool) -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        await socket.receive_text()
        await socket.send_text(delta("Hello "))
        await socket.send_text(delta("there"))
        if reads:
            await socket.receive_text()

    converse(guarded, Socket(turn("one")), serve)
    ((text, status, answer),) = map(said, guarded.records)
    assert (text, status) == ("one", "499")
    assert answer["output"][0]["content"][0]["text"] == "Hello there"


def test_what_was_said_of_a_turn_is_not_said_of_the_next() -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        await socket.receive_text()
        await socket.send_text(delta("Hello"))
        await socket.send_text(completed("one"))
        await socket.receive_text()
        await socket.receive_text()

    converse(guarded, Socket(turn("one"), turn("two")), serve)
    (_, _, answer), nothing = map(said, guarded.records)
    assert answer["output"][0]["content"][0]["text"] == "Hello"
    assert nothing == ("two", "499", None)


def test_a_message_that_asks_for_no_answer_does_not_wait_for_one() -> None:
    guarded = Guarded()

    async def serve(socket: GuardedSocket) -> None:
        for _ in range(2):
            await socket.receive_text()
        await socket.send_text(completed("one"))

    converse(guarded, Socket(turn("note", "response.append"), turn("one")), serve)
    assert [said(record) for record in guarded.records] == [("note", "200", None), ("one", "200", {"id": "one"})]


def test_a_refused_turn_is_recorded_as_that_and_the_next_one_read() -> None:
    guarded = Guarded(no_on("poison", BLOCK))

    async def serve(socket: GuardedSocket) -> None:
        text = json.loads(await socket.receive_text())["input"]
        await socket.send_text(completed(text))

    socket = Socket(turn("poison"), turn("one"))
    converse(guarded, socket, serve)
    assert [event["type"] for event in socket.got] == ["error", "response.completed"]
    assert [said(record)[:2] for record in guarded.records] == [("poison", "403"), ("one", "200")]


def test_a_turn_that_failed_has_the_status_of_one() -> None:
    guarded = Guarded()
    failed = {"type": "response.failed", "response": {"id": "r", "error": {"code": "server_error"}}}

    async def serve(socket: GuardedSocket) -> None:
        await socket.receive_text()
        await socket.send_text(delta("Hello"))
        await socket.send_text(json.dumps(failed))
        await socket.receive_text()
        await socket.send_text('{"type": "error", "code": "429"}')
        await socket.receive_text()
        await socket.send_text(completed("three"))

    converse(guarded, Socket(turn("one"), turn("two"), turn("three")), serve)
    assert [said(record)[1] for record in guarded.records] == ["500", "429", "200"]
    assert "Hello" in json.dumps(said(guarded.records[0])[2])


def test_an_error_ends_a_turn() -> None:
    guarded = Guarded()
    error = {"type": "error", "error": {"message": "out of order"}}

    async def serve(socket: GuardedSocket) -> None:
        await socket.receive_text()
        await socket.send_text(json.dumps(error))

    converse(guarded, Socket(turn("one")), serve)
    assert [said(record) for record in guarded.records] == [("one", "500", error)]


def test_a_turn_nested_too_deeply_is_refused_or_watched_and_recorded() -> None:
    deep = '{"type": "response.create", "input": ' + "[" * 900 + "]" * 900 + "}"
    too_deep = '{"type": "response.create", "input": ' + "[" * 100_000 + "]" * 100_000 + "}"

    async def serve(socket: GuardedSocket) -> None:
        while True:
            await socket.receive_text()

    for environment, statuses in (({}, ["413"]), ({"SYNC_MODE": "false"}, ["499"])):
        guarded, socket = Guarded(**environment), Socket(deep, too_deep)
        converse(guarded, socket, serve)
        assert [record["status"] for record in guarded.records] == statuses
        assert socket.got[-1]["error"]["message"] == "a message has to be JSON"


def test_events_without_a_turn_and_what_is_no_event_pass() -> None:
    guarded = Guarded(ALLOW)

    async def serve(socket: GuardedSocket) -> None:
        await socket.send_text(completed("none"))
        await socket.receive_text()
        await socket.send_text('"error"')
        await socket.send_text("[1]")
        await socket.send_text(delta("Hello"))

    socket = Socket(turn("one"))
    converse(guarded, socket, serve)
    assert len(socket.got) == 4
    ((_, status, answer),) = map(said, guarded.records)
    assert status == "499"
    assert answer["output"][0]["content"][0]["text"] == "Hello"


def test_a_record_that_cannot_be_made_does_not_break_the_connection() -> None:
    guarded = Guarded()
    guarded.recorder.broken = ValueError("broken")

    async def serve(socket: GuardedSocket) -> None:
        await socket.receive_text()
        await socket.send_text(completed("one"))
        await socket.receive_text()

    socket = Socket(turn("one"), turn("two"))
    converse(guarded, socket, serve)
    assert len(socket.got) == 1
    assert guarded.counters.snapshot()["unavailable_internal"] == 2
