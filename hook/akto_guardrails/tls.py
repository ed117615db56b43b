"""Whom the guard trusts to be Akto."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_FALSE: Final = frozenset({"false", "0", "no", "off"})

_log: Final = logging.getLogger(__name__)


def trusted_by(ca_bundle: str | None, environment: Mapping[str, str]) -> ssl.SSLContext:
    """The TLS context for calls to Akto, which verifies no certificates where the environment says so.

    `ca_bundle` (AKTO_CA_BUNDLE) alone counts where it is given. Else the variables that LiteLLM 1.106.2 reads for its
    own calls: SSL_VERIFY (a switch, or a path) and SSL_CERT_FILE. Without any: the system's certificates and certifi's,
    which are the ones LiteLLM trusts. Raises OSError when a file cannot be read, or holds no certificates.
    """
    if ca_bundle:
        context = ssl.create_default_context(cafile=ca_bundle)
        # From Python 3.13 on this refuses certificates of many a company's own authority that curl is content with.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context
    verify = environment.get("SSL_VERIFY", "").strip()
    if verify.lower() in _FALSE:
        _log.warning("SSL_VERIFY=%s: the certificate of DATA_INGESTION_SERVICE_URL is not verified", verify)
        unverified = ssl.create_default_context()
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        return unverified
    for path in (verify, environment.get("SSL_CERT_FILE", "").strip()):
        if path and Path(path).exists():
            return ssl.create_default_context(cafile=path)
    context = ssl.create_default_context()
    try:
        import certifi
    except ImportError:
        return context
    context.load_verify_locations(cafile=certifi.where())
    return context
