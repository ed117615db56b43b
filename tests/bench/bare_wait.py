"""A wait as long as Akto's checks take, and nothing else: what it costs that a request waits before its model call.

A callback for LiteLLM, mounted next to the config of its proxy, so it imports nothing of the benchmark.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from litellm.integrations.custom_logger import CustomLogger


class BareWait(CustomLogger):
    def __init__(self) -> None:
        super().__init__()
        self._seconds = float(os.environ["BENCH_WAIT_MS"]) / 1000

    async def async_pre_call_hook(
        self, user_api_key_dict: Any, cache: Any, data: dict[str, Any], call_type: str
    ) -> None:
        await asyncio.sleep(self._seconds)


handler = BareWait()
