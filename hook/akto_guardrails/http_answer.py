"""Reads an HTTP/1.1 answer from the bytes of a connection as they come (RFC 9112).

Strict: whatever leaves it open where the answer ends is an error, since a misread answer would be a wrong verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

_LONGEST_HEAD: Final = 65_536
_LONGEST_LINE: Final = 1_024

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?")
_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?")
_LEAST_ERROR: Final = 400
_MOST_INTERIM: Final = 16
_WITHOUT_BODY: Final = frozenset({204, 304})


class BadAnswer(ConnectionError):
    """What the server sent is no HTTP/1.1 answer, or not a whole one."""


class HttpAnswer:
    """One answer. `status` and `body` count once `feed` or `end` have said that it is whole.

    `most`: so many bytes of a body are kept, and an answer with that many is whole. `is_reusable`: the connection may
    be used again. Interim answers (1xx) are skipped. Compressed bodies stay as they are: none was asked for.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._unread = bytearray()
        self._body = bytearray()
        self._left = 0
        self._interim = 0
        # Reads on, and gives whether it could; None once the answer is whole.
        self._step: Callable[[], bool] | None = self._read_head
        self.status = 0
        self.has_begun = False
        self.is_reusable = False

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    def feed(self, data: bytes) -> bool:
        """Takes what has come. Gives whether the answer is whole. Raises `BadAnswer`."""
        self.has_begun = True
        self._unread += data
        while self._step is not None and self._step():
            pass
        if self._step is None and self._unread:
            # Nothing more was asked for.
            self.is_reusable = False
        return self._step is None

    def end(self, *, is_broken: bool = False) -> None:
        """The connection has ended, or broken. Raises `BadAnswer` when the answer was to go on.

        Whoever refuses a request that is still on its way, and closes, breaks the connection for what he says as well.
        """
        is_refusal = self.status >= _LEAST_ERROR
        if self._step is not None and (self._step != self._read_to_the_end or (is_broken and not is_refusal)):
            raise BadAnswer("the connection ended in the middle of an answer")

    def _read_head(self) -> bool:
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            if len(self._unread) > _LONGEST_HEAD:
                raise BadAnswer("the head of the answer has no end")
            return False
        first, *lines = bytes(self._unread[:end]).split(b"\r\n")
        del self._unread[: end + 4]
        status_line = _STATUS_LINE.fullmatch(first)
        if status_line is None:
            raise BadAnswer("not an HTTP/1 status line")
        self.status = int(status_line[2])
        if self.status >= 200:
            self._step = self._body_reader(_headers(lines), is_1_0=status_line[1] == b"0")
            return True
        self._interim += 1
        if self.status == 101 or self._interim > _MOST_INTERIM:
            raise BadAnswer("another protocol, or no end of interim answers")
        return True

    def _body_reader(self, headers: dict[bytes, bytes], *, is_1_0: bool) -> Callable[[], bool] | None:
        """What reads the body that these headers announce; None when there is none."""
        connection = headers.get(b"connection", b"").lower()
        self.is_reusable = b"keep-alive" in connection if is_1_0 else b"close" not in connection
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if self.status in _WITHOUT_BODY:
            return None
        if coding is not None:
            if coding.lower() != b"chunked" or length is not None:
                raise BadAnswer("the length of the answer is not clear")
            return self._read_chunk_size
        if length is None:
            self.is_reusable = False
            return self._read_to_the_end
        if _LENGTH.fullmatch(length) is None:
            raise BadAnswer("the length of the answer is not a number")
        self._left = int(length)
        return self._read_body if self._left else None

    def _read_body(self) -> bool:
        if not self._take():
            return False
        self._step = None
        return True

    def _read_to_the_end(self) -> bool:
        self._left = len(self._unread)
        self._take()
        return False

    def _read_chunk_size(self) -> bool:
        line = self._line()
        if line is None:
            return False
        size = _CHUNK_SIZE.fullmatch(line)
        if size is None:
            raise BadAnswer("a chunk has no size")
        self._left = int(size[1], 16)
        self._step = self._read_chunk if self._left else self._read_trailer
        return True

    def _read_chunk(self) -> bool:
        if not self._take():
            return False
        self._step = self._read_end_of_chunk
        return True

    def _read_end_of_chunk(self) -> bool:
        line = self._line()
        if line:
            raise BadAnswer("a chunk is longer than its size")
        self._step = self._read_chunk_size if line is not None else self._step
        return line is not None

    def _read_trailer(self) -> bool:
        line = self._line()
        if line == b"":
            self._step = None
        return line is not None

    def _take(self) -> bool:
        """Moves what there is of the `_left` bytes to the body; gives whether that is all of them."""
        taken = self._unread[: self._left]
        del self._unread[: self._left]
        self._left -= len(taken)
        self._body += taken
        if len(self._body) >= self._most:
            del self._body[self._most :]
            self._step, self.is_reusable = None, False
            return False
        return not self._left

    def _line(self) -> bytes | None:
        """The next line; None when it has not come to its end yet."""
        end = self._unread.find(b"\r\n")
        if max(end, len(self._unread) if end < 0 else 0) > _LONGEST_LINE:
            raise BadAnswer("a line has no end")
        if end < 0:
            return None
        line = bytes(self._unread[:end])
        del self._unread[: end + 2]
        return line


def _headers(lines: list[bytes]) -> dict[bytes, bytes]:
    """Header fields by their names in lower case; of those that come twice, all values in one."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or _NAME.fullmatch(name) is None:
            raise BadAnswer("not a header field")
        name, value = name.lower(), value.strip(b" \t")
        if name in headers and (name != b"content-length" or headers[name] != value):
            value = headers[name] + b", " + value
        headers[name] = value
    return headers
