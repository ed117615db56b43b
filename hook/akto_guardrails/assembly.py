"""Puts the parts together from the environment of the process."""

from __future__ import annotations

import os

from akto_guardrails.akto import AktoClient
from akto_guardrails.counters import Counters
from akto_guardrails.guard import Guard
from akto_guardrails.handler import GuardrailsHandler
from akto_guardrails.log import set_up_logging
from akto_guardrails.recorder import Recorder
from akto_guardrails.settings import load_settings


def build_handler() -> GuardrailsHandler:
    """The handler for this process; raises `SettingsError` when the environment is not valid."""
    settings = load_settings(os.environ)
    set_up_logging()
    counters = Counters()
    client = AktoClient(settings.service_url, settings.api_token, settings.timeout)
    guard = Guard(settings, client, Recorder(client.record, counters), counters)
    return GuardrailsHandler(guard, settings)
