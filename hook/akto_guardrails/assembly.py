"""Puts the parts together from the environment of the process."""

from __future__ import annotations

import logging
import os
from typing import Final

from akto_guardrails.akto import AktoClient
from akto_guardrails.breaker import Breaker
from akto_guardrails.burst import Burst
from akto_guardrails.counters import Counters
from akto_guardrails.guard import Guard
from akto_guardrails.handler import GuardrailsHandler
from akto_guardrails.log import set_up_logging
from akto_guardrails.recorder import Recorder
from akto_guardrails.reporter import Reporter
from akto_guardrails.settings import Settings, load_settings
from akto_guardrails.spool import Spool
from akto_guardrails.tls import trusted_by

# A record may be late by so much, and Akto's dashboard does not show it.
_RECORDS_TOGETHER_SECONDS: Final = 0.1

_log: Final = logging.getLogger(__name__)


def build_handler() -> GuardrailsHandler:
    """The handler for this process; raises `SettingsError` when the environment is not valid."""
    settings = load_settings(os.environ)
    set_up_logging()
    counters = Counters()
    client = AktoClient(
        settings.service_url,
        settings.api_token,
        settings.timeout,
        Breaker(counters),
        most_checks=settings.most_checks_at_once,
        tls=trusted_by(settings.ca_bundle, os.environ) if settings.service_url.startswith("https:") else None,
    )
    counters.add_level("checks_in_flight", lambda: client.checks_in_flight)
    recorder = Recorder(
        client.record,
        counters,
        most_records=settings.most_queued_records,
        most_bytes=settings.most_queued_bytes,
        spool=_spool(settings),
    )
    guard = Guard(settings, client, recorder, counters, Burst(_RECORDS_TOGETHER_SECONDS))
    return GuardrailsHandler(guard, settings, Reporter(counters))


def _spool(settings: Settings) -> Spool | None:
    if settings.spool_directory is None:
        return None
    try:
        return Spool(settings.spool_directory, settings.most_spooled_bytes)
    except OSError as error:
        # The directory was writable when the settings were read. Records are no reason not to serve.
        _log.error("SPOOL_DIR cannot be used, records stay in memory: %s", error.strerror)
        return None
