"""What the mock answers and calls tools with, until `PUT /_mock/told` says otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ANSWER = "Hello from the mock model."
ARGUMENTS = '{"city": "Paris"}'


@dataclass
class Said:
    text: str = ANSWER
    tool: str = "get_weather"
    arguments: str = ARGUMENTS
    size: int = 0

    def words(self) -> Iterator[str]:
        """The text in the pieces that a stream has it in: of so many characters, else words."""
        if self.size:
            yield from (self.text[start : start + self.size] for start in range(0, len(self.text), self.size))
            return
        first, *others = self.text.split(" ")
        yield first
        for word in others:
            yield f" {word}"

    def tell(self, text: str = ANSWER, tool: str = "get_weather", arguments: str = ARGUMENTS, size: int = 0) -> None:
        self.text, self.tool, self.arguments, self.size = text, tool, arguments, size


SAID = Said()
