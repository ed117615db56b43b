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

    def words(self) -> Iterator[str]:
        """The text in the pieces that a stream has it in."""
        first, *others = self.text.split(" ")
        yield first
        for word in others:
            yield f" {word}"

    def tell(self, text: str = ANSWER, tool: str = "get_weather", arguments: str = ARGUMENTS) -> None:
        self.text, self.tool, self.arguments = text, tool, arguments


SAID = Said()
