"""What is wrong with a configuration, in the words of the message that an operator reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration: what is wrong, and what to do about it."""

    what: str
    fix: str


def report(problems: Sequence[Problem]) -> str:
    """The one message: every problem, numbered, each followed by its fix."""
    return "\n".join(_lines(problems))


def _lines(problems: Sequence[Problem]) -> Iterator[str]:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    yield f"guarded-litellm: not started, {count} with the configuration:"
    for number, problem in enumerate(problems, start=1):
        yield f"  {number}. {problem.what}"
        yield f"     {problem.fix}"
