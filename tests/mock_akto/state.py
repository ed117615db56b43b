"""What the mock knows and what it was told."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from mock_akto.calls import KEPT, Calls
from mock_akto.policy import Policy
from mock_akto.wire import Port


@dataclass
class State:
    """`fault` is a name in `faults.FAULTS`; `changes` grows with everything that the page shows."""

    policy: Policy = field(default_factory=Policy)
    calls: Calls = field(default_factory=Calls)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    fault: str = ""
    token: str = ""
    ports: dict[int, Port] = field(default_factory=dict)
    in_flight: int = 0
    most_in_flight: int = 0
    changes: int = 0
    # Tells a page that it looks at another process than before.
    run: str = field(default_factory=lambda: secrets.token_hex(4))


STATE = web.AppKey("state", State)


def state_from_environment() -> State:
    """MOCK_AKTO_TOKEN: the one that is accepted, without it any; MOCK_AKTO_KEEP: how many calls are kept.

    Raises ValueError.
    """
    kept = os.environ.get("MOCK_AKTO_KEEP") or str(KEPT)
    if not (kept.isascii() and kept.isdecimal() and int(kept)):
        raise ValueError(f"MOCK_AKTO_KEEP={kept!r} is not a whole number above 0")
    most = int(kept)
    return State(calls=Calls(most), token=os.environ.get("MOCK_AKTO_TOKEN", ""))
