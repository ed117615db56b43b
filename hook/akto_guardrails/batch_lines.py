"""What may stand in a line of a batch file.

LiteLLM 1.106.2 shows its hooks the `body` of each line as it reads it, and uploads a line in which nothing is masked as
it was written. What stands beside the body, and the first of two entries of one name, would reach the provider unseen.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final

from litellm.proxy._types import ProxyException

from akto_guardrails.client_request import note_outcome

Scan = Callable[..., Awaitable[Any]]

_NAMES: Final = frozenset({"body", "custom_id", "method", "url"})
_TWICE: Final = "it has two entries of one name"
_BESIDE: Final = "it has text besides its body"

_log: Final = logging.getLogger(__name__)


class _TwoOfOneNameError(ValueError):
    pass


def whole_lines_alone(scan: Scan) -> Scan:
    """LiteLLM's `scan_batch_input_file`, for files in which everything can be shown; others are refused with 400."""

    @functools.wraps(scan)
    async def wrapper(*, file_source: BinaryIO, **others: Any) -> Any:
        # A batch may have a hundred megabytes.
        found = await asyncio.to_thread(_first_problem, file_source)
        if found is not None:
            number, problem = found
            note_outcome("blocked")
            _log.warning("batch file refused | line %d: %s", number, problem)
            message = f"Blocked by Akto Guardrails: line {number} of the file cannot be checked as a whole: {problem}"
            raise ProxyException(message, "invalid_request_error", "file", 400)
        return await scan(file_source=file_source, **others)

    return wrapper


def problem_of_line(line: bytes) -> str | None:
    """Why not all of a line would be shown; None for one that is, and for one that LiteLLM itself will refuse."""
    try:
        record = json.loads(line, object_pairs_hook=_object)
    except _TwoOfOneNameError:
        return _TWICE
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    others = (value for name, value in record.items() if name not in _NAMES)
    return _BESIDE if any(value and isinstance(value, (str, list, dict)) for value in others) else None


def _first_problem(lines: BinaryIO) -> tuple[int, str] | None:
    try:
        return next(_problems(lines), None)
    finally:
        lines.seek(0)


def _problems(lines: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        problem = problem_of_line(line)
        if problem is not None:
            yield number, problem


def _object(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(entries)
    if len(made) != len(entries):
        raise _TwoOfOneNameError
    return made
