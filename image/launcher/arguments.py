"""Reading the command line of the proxy, as far as the launcher has to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_CONFIG_OPTIONS: Final = ("--config", "-c")
_MODEL_OPTION: Final = re.compile(r"--model(=|$)|-m")
_INFORMATION: Final = frozenset({"--check_migrations_against_existing_data", "--help", "--version", "-v"})
# Words that name the proxy. The older base image's entrypoint puts `litellm` in front of its arguments itself.
_PROXY_WORDS: Final = frozenset({"litellm", "proxy"})


@dataclass(frozen=True, slots=True)
class Arguments:
    """A command line: an optional component word, and the options after it."""

    word: str | None
    options: tuple[str, ...]

    @property
    def asks_for_information(self) -> bool:
        """Whether the proxy would print something and leave, so that no configuration is needed."""
        return any(option in _INFORMATION for option in self.options)

    @property
    def config(self) -> str | None:
        """The config path given on the command line; the last one counts, as LiteLLM's own parser has it.

        Empty when the option has none.
        """
        found = [path for _, _, path in _config_options(self.options)]
        return found[-1] if found else None

    @property
    def breaks_off(self) -> bool:
        """Whether the command line ends where the config path should be."""
        return bool(self.options) and self.options[-1] in _CONFIG_OPTIONS

    @property
    def names_a_model(self) -> bool:
        """Whether the one model to serve is given on the command line."""
        return any(_MODEL_OPTION.match(option) for option in self.options)

    def with_config(self, path: str) -> Arguments:
        """The same command line with `path` in place of every config option, or added."""
        options = list(self.options)
        for start, end, _ in reversed(_config_options(self.options)):
            del options[start:end]
        return Arguments(self.word, (*options, "--config", path))

    def for_older_base(self) -> tuple[str, ...]:
        """Arguments for `prod_entrypoint.sh`, which takes options only and knows no words for the proxy."""
        return self.options if self.word in _PROXY_WORDS else self.as_given()

    def as_given(self) -> tuple[str, ...]:
        """Word and options, for the entrypoint that knows component words."""
        return self.options if self.word is None else (self.word, *self.options)


def parse(command_line: Sequence[str]) -> Arguments:
    """`command_line` is what follows the image's name in `docker run`."""
    if command_line and not command_line[0].startswith("-"):
        return Arguments(command_line[0], tuple(command_line[1:]))
    return Arguments(None, tuple(command_line))


def _config_options(options: Sequence[str]) -> list[tuple[int, int, str]]:
    """Each config option as (start, end, path), in the forms `--config X`, `--config=X`, `-c X` and `-cX`."""
    found: list[tuple[int, int, str]] = []
    position = 0
    while position < len(options):
        option = options[position]
        width = 1
        if option in _CONFIG_OPTIONS:
            path = "".join(options[position + 1 : position + 2])
            width = 2
            found.append((position, min(position + 2, len(options)), path))
        elif option.startswith("--config="):
            found.append((position, position + 1, option.removeprefix("--config=")))
        elif option.startswith("-c") and not option.startswith("--") and len(option) > len("-c"):
            found.append((position, position + 1, option.removeprefix("-c").removeprefix("=")))
        position += width
    return found
