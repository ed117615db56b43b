"""Answers of an HTTP server, read from bytes that come in pieces of any size."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from akto_guardrails.http_answer import BadAnswer, HttpAnswer

MOST = 1_000
OK = b"HTTP/1.1 200 OK\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def read(data: bytes, size: int = 1 << 20, *, is_broken: bool = False) -> HttpAnswer:
    """The answer in `data`, which comes in pieces of `size` bytes, and with it the end of the connection if need be."""
    answer = HttpAnswer(MOST)
    if not [True for piece in pieces(data, size) if answer.feed(piece)]:
        answer.end(is_broken=is_broken)
    return answer


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize(
    ("data", "status", "body", "is_reusable"),
    [
        (OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (OK + b"content-length:2\r\nX-Other: a: b\r\nX-Empty:\r\n\r\nhi", 200, b"hi", True),
        (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (OK + b"Content-Length: 0\r\n\r\n", 200, b"", True),
        (OK + b"Content-Length: 2\r\nConnection: close\r\n\r\nhi", 200, b"hi", False),
        (OK + b"Content-Length: 2\r\nConnection: Upgrade, CLOSE\r\n\r\nhi", 200, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: Keep-Alive\r\n\r\nhi", 200, b"hi", True),
        (b"HTTP/1.1 503 \r\nContent-Length: 2\r\n\r\nno", 503, b"no", True),
        (b"HTTP/1.1 503\r\nContent-Length: 2\r\n\r\nno", 503, b"no", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", True),
        (INTERIM + OK + b"Content-Length: 2\r\n\r\nhi", 200, b"hi", True),
        (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", 200, b"hi", True),
        (CHUNKED + b"1;ext=1\r\nh\r\n01 \r\ni\r\n0\r\nTrailer: x\r\n\r\n", 200, b"hi", True),
        (CHUNKED + b"A\r\n0123456789\r\n0\r\n\r\n", 200, b"0123456789", True),
        # Without a length the body goes on to the end of the connection.
        (OK + b"\r\nhi", 200, b"hi", False),
        (OK + b"\r\n", 200, b"", False),
    ],
)
def test_whole_answers(data: bytes, status: int, body: bytes, is_reusable: bool, size: int) -> None:
    answer = read(data, size)
    assert (answer.status, answer.body, answer.is_reusable) == (status, body, is_reusable)


@pytest.mark.parametrize("size", [1, 1 << 20])
@pytest.mark.parametrize(
    "data",
    [
        b"220 mail.example.com ESMTP\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1  200 OK\r\n\r\n",
        b"HTTP/1.1 600 Odd\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi",
        OK + b"Content-Length: two\r\n\r\nhi",
        OK + b"Content-Length: -2\r\n\r\nhi",
        OK + b"Content-Length: +2\r\n\r\nhi",
        OK + b"Content-Length: \xb2\r\n\r\nhi",
        OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
        OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        OK + b"Content-Length : 2\r\n\r\nhi",
        OK + b"Content-Length: 2\r\n folded\r\n\r\nhi",
        OK + b"no field\r\n\r\nhi",
        CHUNKED + b"two\r\nhi\r\n0\r\n\r\n",
        CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n",
        CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n",
        CHUNKED + b"\r\n\r\n",
        CHUNKED + b"1" * 2_000,
        OK + b"X: " + b"x" * 70_000,
    ],
)
def test_what_leaves_something_open_is_no_answer(data: bytes, size: int) -> None:
    with pytest.raises(BadAnswer):
        read(data, size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK",
        OK + b"Content-Length: 3\r\n\r\nhi",
        CHUNKED,
        CHUNKED + b"2\r\nhi",
        CHUNKED + b"2\r\nhi\r\n",
        CHUNKED + b"2\r\nhi\r\n0\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
    ],
)
def test_an_answer_cut_short_is_none(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read(data)


def test_an_answer_that_breaks_off_has_no_end_without_a_length() -> None:
    with pytest.raises(BadAnswer):
        read(OK + b"\r\nhi", is_broken=True)


@pytest.mark.parametrize("is_broken", [True, False])
def test_a_refusal_counts_however_its_connection_ends(is_broken: bool) -> None:
    """A server that closes without having read the whole request breaks the connection."""
    answer = read(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\n\r\ntoo l", is_broken=is_broken)
    assert (answer.status, answer.body, answer.is_reusable) == (413, b"too l", False)


def test_a_refusal_whose_length_is_known_has_to_be_whole() -> None:
    with pytest.raises(BadAnswer):
        read(b"HTTP/1.1 413 Too Large\r\nContent-Length: 9\r\n\r\ntoo l", is_broken=True)


def test_interim_answers_have_an_end() -> None:
    interim = b"HTTP/1.1 102 Processing\r\n\r\n"
    assert read(interim * 16 + OK + b"\r\nhi").body == b"hi"
    with pytest.raises(BadAnswer):
        read(interim * 17 + OK + b"\r\nhi")


@pytest.mark.parametrize(
    "data",
    [
        OK + b"Content-Length: 5000\r\n\r\n" + b"x" * 1_200,
        OK + b"\r\n" + b"x" * 1_200,
        CHUNKED + b"400\r\n" + b"x" * 1_024,
    ],
)
def test_no_more_of_a_body_than_wanted_is_read(data: bytes) -> None:
    answer = HttpAnswer(MOST)
    assert answer.feed(data)
    assert (answer.status, answer.body, answer.is_reusable) == (200, b"x" * MOST, False)


def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again() -> None:
    assert not read(OK + b"Content-Length: 2\r\n\r\nhi" + OK).is_reusable


@given(st.binary(max_size=300), st.integers(1, 50))
def test_no_bytes_make_it_stumble(data: bytes, size: int) -> None:
    for head in (b"", b"HTTP/1.1 ", OK, CHUNKED):
        with contextlib.suppress(BadAnswer):
            read(head + data, size)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.integers(1, 100), st.booleans())
def test_what_a_server_says_is_read_however_it_comes(parts: list[bytes], size: int, is_chunked: bool) -> None:
    """As aiohttp's server writes it."""

    async def main() -> tuple[bytes, bytes]:
        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            response = web.StreamResponse()
            if is_chunked:
                response.enable_chunked_encoding()
            else:
                response.content_length = sum(map(len, parts))
            await response.prepare(request)
            for part in parts:
                await response.write(part)
            return response

        runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            data = await reader.read()
            writer.close()
        finally:
            await runner.cleanup()
        return data, b"".join(parts)

    data, body = asyncio.run(main())
    assert read(data, size).body == body
