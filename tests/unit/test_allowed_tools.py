"""Definitions of MCP tools that were allowed are known for a minute, and no others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from akto_guardrails import allowed_tools as module
from akto_guardrails.allowed_tools import AllowedTools


def listed(payload: str, collection: str = "checkout.litellm.shop") -> Any:
    return SimpleNamespace(identity=SimpleNamespace(collection=collection), sent_payload=payload)


class Clock:
    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


def test_it_is_known_for_a_minute() -> None:
    clock = Clock()
    tools = AllowedTools(clock)
    assert not tools.has(listed("echo"))
    tools.add(listed("echo"))
    clock.seconds += 59.9
    assert tools.has(listed("echo"))
    clock.seconds += 0.2
    assert not tools.has(listed("echo"))


def test_another_one_is_not_nor_is_it_for_another_agent_or_server() -> None:
    tools = AllowedTools()
    tools.add(listed("echo"))
    assert not tools.has(listed("echo "))
    assert not tools.has(listed("echo", "checkout.litellm.bank"))
    assert not tools.has(listed("shop\necho", "checkout.litellm"))


def test_half_a_character_is_one_of_a_definition_too() -> None:
    tools = AllowedTools()
    tools.add(listed("\ud83d"))
    assert tools.has(listed("\ud83d"))


def test_the_oldest_ones_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST", 2)
    tools = AllowedTools()
    for payload in ("a", "b", "a", "c"):
        tools.add(listed(payload))
    assert [payload for payload in "abc" if tools.has(listed(payload))] == ["a", "c"]
