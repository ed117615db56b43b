"""The calls that were received: the newest of them, each with a number and the time it came."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

KEPT = 2_000
# Of the bodies of all calls together; one may have two million.
KEPT_CHARACTERS = 64 * 1024 * 1024


class Calls:
    """Calls in the order they came. Beyond `most`, or `most_characters` in all of them, the oldest are forgotten."""

    def __init__(self, most: int = KEPT, most_characters: int = KEPT_CHARACTERS) -> None:
        self._most = most
        self._most_characters = most_characters
        self._calls: deque[tuple[dict[str, Any], int]] = deque()
        self._characters = 0
        self._number = 0

    def add(self, call: dict[str, Any], characters: int) -> None:
        """Keeps `call`, whose body is so many characters long. The newest is kept however long it is."""
        self._number += 1
        call |= {"number": self._number, "at": time.time()}
        self._calls.append((call, characters))
        self._characters += characters
        while len(self._calls) > 1 and (len(self._calls) > self._most or self._characters > self._most_characters):
            self._characters -= self._calls.popleft()[1]

    def clear(self) -> None:
        """Forgets all of them; numbers go on, so that none is given twice."""
        self._calls.clear()
        self._characters = 0

    def find(self, number: int) -> dict[str, Any] | None:
        return next((call for call in self if call["number"] == number), None)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (call for call, _ in self._calls)

    def __len__(self) -> int:
        return len(self._calls)
