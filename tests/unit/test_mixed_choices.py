"""Streamed text completions with several choices, which cannot be checked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from akto_guardrails.guard import Refusal
from akto_guardrails.mixed_choices import mixes_choices
from unit.samples import Key, chat
from unit.test_guard import Guarded, came_in, marked

SEVERAL_MESSAGES = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]


def mixes(call_type: str, provider: str, **body: Any) -> bool:
    assert not mixes_choices(body, call_type, lambda: provider), "only streams are mixed up"
    return mixes_choices({**body, "stream": True}, call_type, lambda: provider)


@pytest.mark.parametrize(
    ("body", "is_mixed"),
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
    ],
)
@pytest.mark.parametrize("provider", ["text-completion-openai", "hosted_vllm"])
def test_text_completions_with_several_choices_are_mixed_up(
    provider: str, body: dict[str, Any], is_mixed: bool
) -> None:
    assert mixes("atext_completion", provider, **body) is is_mixed


@pytest.mark.parametrize(
    ("body", "with_openai", "with_azure"),
    [
        ({"messages": [{"role": "user", "content": "a"}]}, False, False),
        ({"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]}, False, False),
        ({"messages": [{"role": "user", "content": [[1, 2], [3]]}]}, True, False),
        ({"messages": SEVERAL_MESSAGES}, True, False),
        ({"messages": 7, "extra_body": 7}, False, False),
        ({"messages": [{"role": "user", "content": "a"}], "n": 2}, True, True),
    ],
)
def test_chat_sent_as_text_completions_is_mixed_up_as_well(
    body: dict[str, Any], with_openai: bool, with_azure: bool
) -> None:
    assert mixes("acompletion", "text-completion-openai", **body) is with_openai
    assert mixes("acompletion", "azure_text", **body) is with_azure
    assert mixes("acompletion", "openai", model="ft:davinci-002:acme", **body) is with_openai
    assert not mixes("acompletion", "openai", **body)


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
        assert guarded.guard.will_check_answer() is is_refused
        if not is_refused:
            return
        with pytest.raises(Refusal) as refused:
            guarded.guard.refuse_mixed_choices()
        assert refused.value.status == 400
        assert request.outcome == "blocked"
        with pytest.raises(Refusal):
            await guarded.guard.check_attempt(data, "atext_completion")

    asyncio.run(main())
    assert [record["statusCode"] for record in guarded.records] == (["400"] if is_refused else [])
