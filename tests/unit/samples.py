"""Settings, callers and requests that several of the unit tests start from."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from akto_guardrails.envelope import Sender
from akto_guardrails.exchange import Exchange
from akto_guardrails.identity import Identity
from akto_guardrails.settings import Settings, load_settings

REQUIRED: Mapping[str, str] = {"DATA_INGESTION_SERVICE_URL": "https://akto.test", "AKTO_API_TOKEN": "raw-token"}
SENDER = Sender(account_id="1000000", vxlan_id="0", context_source="AGENTIC", observing=False)
CARD = "My card is 4111-1111-1111-1111, refund me"
MASKED_CARD = "My card is <CREDIT_CARD>, refund me"


@dataclass
class Key:
    """What the guard reads of LiteLLM's auth object."""

    key_alias: str | None = None
    team_alias: str | None = None
    team_id: str | None = None
    user_id: str | None = None
    request_route: str | None = "/v1/chat/completions"


@dataclass
class LoggingObject:
    """What the guard reads of LiteLLM's logging object."""

    litellm_call_id: object = field(default="call-1")


def settings(**environment: str) -> Settings:
    """Settings from the required variables and `environment`."""
    return load_settings({**REQUIRED, **environment})


def chat(text: str = "hello", **entries: Any) -> dict[str, Any]:
    """A chat request as LiteLLM hands it to a pre-call hook."""
    return {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": text}],
        "litellm_call_id": "call-1",
        **entries,
    }


def nested(text: str, depth: int = 400, times: int = 5_000) -> Any:
    """So many strings so far down in lists."""
    value: Any = [text] * times
    for _ in range(depth):
        value = [value]
    return value


def memory_of(action: Callable[[], object]) -> int:
    """How many bytes an action takes at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def seconds_of(action: Callable[[], object]) -> float:
    """How much of the processor an action takes, the best of some runs."""
    times: list[float] = []
    for _ in range(3):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return min(times)


def identity(**changes: Any) -> Identity:
    """The identity behind a request."""
    values = {
        "collection": "checkout-agent",
        "call_id": "call-1",
        "route": "/v1/chat/completions",
        "client_ip": "203.0.113.7",
        "headers": {"host": "checkout-agent", "content-type": "application/json"},
        "key_alias": "checkout",
        "team_id": "team-7",
        "user_id": "user-9",
    }
    return Identity(**(values | changes))


def exchange(key: int | str, payload: str = "{}", call_type: str = "acompletion") -> Exchange:
    """An exchange whose answer is still to come."""
    return Exchange(key, identity(), {}, call_type, "gpt-4o-mini", payload, payload)


def config_file(directory: Path, text: str = "model_list: []\n", name: str = "config.yaml") -> Path:
    """A config with this text."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
