"""Akto's guardrails for LiteLLM's proxy.

`proxy_handler_instance` is what LiteLLM's `litellm_settings.callbacks` names. It is made on first use and once per
process, so that importing a part of this package (the launcher needs the settings) does not import LiteLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from akto_guardrails.handler import GuardrailsHandler

    proxy_handler_instance: GuardrailsHandler

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name != "proxy_handler_instance":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from akto_guardrails.assembly import build_handler

    handler = build_handler()
    globals()[name] = handler
    return handler
