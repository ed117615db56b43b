"""A streamed answer that no hook of LiteLLM sees, put together as it is sent.

At its end it would be megabytes to read in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from akto_guardrails.streaming import StreamedAnswer

_LONGEST: Final = 4 * 1024 * 1024


class SentStream:
    """What of the stream was sent, the first 4 MiB or so. `has_begun`: something was; `is_cut`: there was more."""

    def __init__(self, note_error: Callable[[Exception], None]) -> None:
        """`note_error` is told when a part cannot be read."""
        self.is_cut = False
        self._note_error = note_error
        self._answer = StreamedAnswer()
        self._length = 0

    @property
    def has_begun(self) -> bool:
        return self._length > 0

    def add(self, part: bytes) -> None:
        """Takes note of what is sent next."""
        if self._length >= _LONGEST:
            self.is_cut = self.is_cut or bool(part)
            return
        self._length += len(part)
        try:
            self._answer.add(part)
        except Exception as error:  # noqa: BLE001 - what cannot be read for the record must not break the stream
            self._note_error(error)

    def answer(self) -> tuple[dict[str, object] | None, int]:
        """The answer so far, and the HTTP status it has by what it says itself."""
        try:
            body = self._answer.body()
        except Exception as error:  # noqa: BLE001 - of a last event that cannot be read there is a record, too
            self._note_error(error)
            body = None
        said = body if isinstance(body, dict) else None
        if self.is_cut:
            said = {**(said or {}), "x-akto-truncated": "the stream goes on"}
        return said, self._answer.error_status or 200
