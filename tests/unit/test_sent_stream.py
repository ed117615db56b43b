"""Streams of which no hook sees anything."""

from __future__ import annotations

import time

import pytest

from akto_guardrails import sent_stream as sent_stream_module
from akto_guardrails.sent_stream import SentStream


def sent(*parts: bytes) -> SentStream:
    """A stream of which these parts were sent."""
    stream = SentStream(pytest.fail)
    for part in parts:
        stream.add(part)
    return stream


def test_what_was_sent_is_put_together_however_it_is_cut() -> None:
    stream = sent(b'data: {"note": "sa', b'id"}\n', b"", b'\ndata: {"error": {"code": 503, "message": "over"}}')
    assert stream.answer() == ({"events": ["said", "over"]}, 503)


def test_a_last_event_that_cannot_be_read_leaves_a_record_of_none() -> None:
    errors: list[Exception] = []
    stream = SentStream(errors.append)
    stream.add(b"data: " + b'{"a":' * 1_000 + b'"x"' + b"}" * 1_000)
    assert stream.answer() == (None, 200)
    assert stream.has_begun


def test_a_stream_in_which_nothing_came_has_not_begun() -> None:
    assert not sent(b"").has_begun
    assert sent(b"").answer() == (None, 200)
    assert sent(b"d").has_begun


def test_of_a_long_stream_the_beginning_is_kept_and_it_is_known_that_there_was_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sent_stream_module, "_LONGEST", 20)
    stream = SentStream(pytest.fail)
    for part, is_cut in ((b"x" * 19, False), (b"yy", False), (b"", False), (b"z", True), (b"", True)):
        stream.add(part)
        assert stream.is_cut is is_cut
    assert stream.answer() == ({"events": ["x" * 19 + "yy"], "x-akto-truncated": "the stream goes on"}, 200)


def test_at_its_end_little_is_left_to_do() -> None:
    began = time.perf_counter()
    stream = sent(*[b"data: {}\n\n"] * 50_000)
    ended = time.perf_counter()
    stream.answer()
    assert 10 * (time.perf_counter() - ended) < ended - began
