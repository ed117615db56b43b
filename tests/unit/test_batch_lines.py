"""Lines of a batch file that LiteLLM would not show as a whole."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any, BinaryIO

import pytest
from litellm.proxy._types import ProxyException

from akto_guardrails.batch_lines import problem_of_line, whole_lines_alone

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
LINE = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": BODY}


def written(**entries: Any) -> bytes:
    """A line with these entries besides, or in place of, its own."""
    return json.dumps(LINE | entries).encode()


@pytest.mark.parametrize(
    "line",
    [
        written(),
        b"\xef\xbb\xbf" + written(),
        written().decode().encode("utf-16"),
        json.dumps({"custom_id": "1", "body": BODY}).encode(),
        written(priority=1, stream=None, dry_run=True, metadata={}, tag="", more=[]),
        written(body={"tools": [{"name": "a"}, {"name": "a"}]}),
        b"",
        b"\n",
        b"not JSON",
        b"[1]",
        b"\xff\xfe\xfd",
        b"[" * 100_000,
    ],
)
def test_lines_that_are_shown_or_refused_by_litellm_are_no_problem(line: bytes) -> None:
    assert problem_of_line(line) is None


@pytest.mark.parametrize("value", ["text", {"contents": [{"text": "x"}]}, ["x"]])
def test_text_besides_the_body_is_one(value: object) -> None:
    assert problem_of_line(written(request=value)) == "it has text besides its body"


@pytest.mark.parametrize(
    "line",
    [
        b'{"body": {"input": "a"}, "body": {"input": "b"}}',
        b'{"body": {"messages": [{"content": "a", "content": "b"}]}}',
        b'{"body": {"x": "a", "\\u0078": "b"}}',
    ],
)
def test_two_entries_of_one_name_are_one(line: bytes) -> None:
    """Which of them counts is the reader's choice."""
    assert problem_of_line(line) == "it has two entries of one name"


class Scan:
    """LiteLLM's scan, which is given a file to read from its beginning."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    async def __call__(self, *, file_source: BinaryIO, purpose: str) -> str:
        """Reads the file."""
        self.seen += file_source.readlines()
        return purpose


def test_a_file_without_problems_is_scanned_from_its_beginning() -> None:
    scan = Scan()
    lines = [written() + b"\n", b"\n", written()]
    outcome = asyncio.run(whole_lines_alone(scan)(file_source=io.BytesIO(b"".join(lines)), purpose="batch"))
    assert outcome == "batch"
    assert scan.seen == lines


def test_a_file_with_one_is_refused_with_the_lines_number_and_none_of_its_text() -> None:
    scan = Scan()
    source = io.BytesIO(written() + b"\n\n" + written(request="hidden text"))
    with pytest.raises(ProxyException) as caught:
        asyncio.run(whole_lines_alone(scan)(file_source=source, purpose="batch"))
    assert caught.value.code == "400"
    assert "line 3 " in caught.value.message
    assert "hidden" not in caught.value.message
    assert scan.seen == []
    assert source.tell() == 0
