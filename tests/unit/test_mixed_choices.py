"""Streamed text completions with several choices, which cannot be checked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from akto_guardrails.guard import Refusal
from akto_guardrails.mixed_choices import asks_for_several, mixes_choices
from unit.samples import Key, chat
from unit.test_guard import Guarded, came_in, marked


@pytest.mark.parametrize(
    ("body", "is_several"),
    [
        ({"prompt": "a"}, False),
        ({"prompt": "a", "n": 1, "best_of": 3}, False),
        ({"prompt": "a", "n": 2}, True),
        ({"prompt": "a", "n": "2"}, True),
        ({"prompt": ["a"]}, False),
        ({"prompt": ["a", "b"]}, True),
        ({"prompt": [1, 2, 3]}, False),
        ({"prompt": [[1, 2], [3]]}, True),
        ({"prompt": "a", "extra_body": {"n": 2}}, True),
        ({"prompt": "a", "extra_body": {"prompt": ["a", "b"]}}, True),
        ({"messages": [{"role": "user", "content": "a"}]}, False),
        ({"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]}, False),
        ({"messages": [{"role": "user", "content": [[1, 2], [3]]}]}, True),
        ({"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}, True),
    ],
)
def test_what_is_answered_with_several_choices(body: dict[str, Any], is_several: bool) -> None:
    assert asks_for_several({**body, "stream": True}) is is_several
    assert not asks_for_several(body), "only streams are mixed up"


@pytest.mark.parametrize(
    ("call_type", "model", "provider", "is_mixed"),
    [
        ("atext_completion", "gpt-3.5-turbo-instruct", "text-completion-openai", True),
        ("atext_completion", "hosted_vllm/mock", "hosted_vllm", True),
        ("acompletion", "gpt-3.5-turbo-instruct", "text-completion-openai", True),
        ("acompletion", "azure_text/mine", "azure_text", True),
        ("acompletion", "ft:davinci-002:acme", "openai", True),
        ("acompletion", "openai/gpt-4o-mini", "openai", False),
        ("anthropic_messages", "claude", "anthropic", False),
    ],
)
def test_where_choices_are_mixed_up(call_type: str, model: str, provider: str, is_mixed: bool) -> None:
    assert mixes_choices(call_type, model, provider) is is_mixed


@pytest.mark.parametrize(
    ("environment", "is_refused"),
    [
        ({"RESPONSE_GUARDRAILS": "true"}, True),
        ({"RESPONSE_GUARDRAILS": "true", "SYNC_MODE": "false"}, False),
        ({}, False),
    ],
)
def test_only_where_answers_are_checked_the_request_is_refused(environment: dict[str, str], is_refused: bool) -> None:
    guarded = Guarded(**environment)
    data = marked(chat(n=2, stream=True))

    async def main() -> None:
        request = came_in()
        await guarded.guard.check_request(data, Key(), "atext_completion")
        if not is_refused:
            guarded.guard.refuse_mixed_choices()
            return
        with pytest.raises(Refusal) as refused:
            guarded.guard.refuse_mixed_choices()
        assert refused.value.status == 400
        assert request.outcome == "blocked"
        with pytest.raises(Refusal):
            await guarded.guard.check_attempt(data, "atext_completion")

    asyncio.run(main())
    assert [record["statusCode"] for record in guarded.records] == (["400"] if is_refused else [])
