"""Asks Akto once, before the start, whether it is there and takes the token.

urllib and not the guard's own client: importing aiohttp takes a quarter of a second, by which each start would be
later. Proxies and certificates are the guard's.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final
from urllib.parse import urlsplit

from akto_guardrails.problem import Problem
from akto_guardrails.settings import Settings
from akto_guardrails.tls import trusted_by

# Protocol of the Data Ingestion Service: GET, 200 {"success":true} behind its auth filter, 401 for a wrong token.
_AUTH_CHECK: Final = "/api/auth-check"
_MOST_SECONDS: Final = 5.0
_LONGEST_ANSWER: Final = 65_536
_PROXY_WANTS_CREDENTIALS: Final = 407
# OpenSSL's words, of its release 3.2 and later and before that, for an answer that is no TLS at all.
_NOT_TLS: Final = frozenset({"RECORD_LAYER_FAILURE", "WRONG_VERSION_NUMBER"})
_SPEAKS_NO_TLS: Final = "it does not speak TLS"


class Access(Enum):
    """What came of asking Akto."""

    GRANTED = "granted"
    DENIED = "denied"
    """HTTP 401: the token is wrong, expired or revoked."""
    UNCLEAR = "unclear"
    """Another 4xx: something answers that does not know the question, such as a gateway in front."""
    UNREACHABLE = "unreachable"
    """No answer, or none of the service's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """`detail`: what came, in words. `date`: the Date header of whatever answered."""

    access: Access
    detail: str
    date: str | None = None


def ask(settings: Settings, environment: Mapping[str, str]) -> Answer:
    """Asks `/api/auth-check` with the token. Takes at most TIMEOUT or 5 seconds; raises nothing."""
    seconds = min(settings.timeout, _MOST_SECONDS)
    answers: list[Answer] = []
    # In a thread, because looking up a name and reading an answer drop by drop know no time-out.
    thread = threading.Thread(target=lambda: answers.append(_ask(settings, environment, seconds)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else Answer(Access.UNREACHABLE, f"no answer within {seconds:g} s")


def problem_of(answer: Answer, settings: Settings) -> Problem | None:
    """What is wrong when Akto answers so, None when nothing is."""
    akto = f"Akto at {urlsplit(settings.service_url).netloc}"
    if answer.access is Access.GRANTED:
        return None
    if answer.access is Access.DENIED:
        return Problem(
            f"{akto} refuses AKTO_API_TOKEN ({answer.detail}): it is wrong, expired or revoked.",
            "Create a new one in Akto's dashboard (Connectors, Setup Guardrail) and set it as it is, without Bearer.",
        )
    if answer.access is Access.UNCLEAR:
        return Problem(
            f"{akto} answers {_AUTH_CHECK} with {answer.detail}, so AKTO_API_TOKEN could not be tried.",
            "Is DATA_INGESTION_SERVICE_URL the ingestion service itself? If not, no request will get a verdict. "
            "A gateway in front must pass that path on.",
        )
    proxy = proxy_of(settings)
    way = f" through the proxy {proxy}" if proxy else ""
    return Problem(f"{akto} cannot be reached{way}: {answer.detail}.", _how_to_reach(answer, proxy))


def _how_to_reach(answer: Answer, proxy: str | None) -> str:
    if "certificate" in answer.detail:
        return "Give the authority that signed it in AKTO_CA_BUNDLE."
    if answer.detail == _SPEAKS_NO_TLS:
        return "Use http:// in DATA_INGESTION_SERVICE_URL, or the port on which it speaks https."
    if proxy and str(_PROXY_WANTS_CREDENTIALS) in answer.detail:
        return "Give user and password of the proxy in its address: http://user:password@proxy:port."
    if proxy:
        return "Correct DATA_INGESTION_SERVICE_URL, or name its host in NO_PROXY if no proxy should be asked."
    return "Correct DATA_INGESTION_SERVICE_URL, or make it reachable from the container."


def proxy_of(settings: Settings) -> str | None:
    """Host and port of the forward proxy on the way to Akto, without its credentials."""
    parts = urlsplit(settings.service_url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or any(map(urllib.request.proxy_bypass, (parts.hostname or "", parts.netloc))):
        return None
    return proxy.rpartition("@")[2].rpartition("//")[2]


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect an answer: following it would hand the token to another host."""

    def redirect_request(self, *_: object) -> None:
        """None, which makes urllib raise `HTTPError`."""


def _ask(settings: Settings, environment: Mapping[str, str], seconds: float) -> Answer:
    try:
        handlers: list[Any] = [_NoRedirect]
        if settings.service_url.startswith("https:"):
            trusted = trusted_by(settings.ca_bundle, environment)
            handlers.append(urllib.request.HTTPSHandler(context=trusted))
        request = urllib.request.Request(  # noqa: S310 - the settings allow http and https alone
            settings.service_url + _AUTH_CHECK, headers={"Authorization": settings.api_token}
        )
        with urllib.request.build_opener(*handlers).open(request, timeout=seconds) as response:
            return _judged(response.read(_LONGEST_ANSWER), response.headers["Date"])
    except urllib.error.HTTPError as error:
        return _refused(error)
    except TimeoutError:
        return Answer(Access.UNREACHABLE, f"no answer within {seconds:g} s")
    except (OSError, http.client.HTTPException) as error:
        return Answer(Access.UNREACHABLE, _why(error))


def _judged(body: bytes, date: str | None) -> Answer:
    try:
        is_the_service = json.loads(body)["success"] is True
    except (ValueError, TypeError, KeyError):
        is_the_service = False
    if is_the_service:
        return Answer(Access.GRANTED, "token accepted", date)
    return Answer(Access.UNREACHABLE, "HTTP 200, but not an answer of Akto's Data Ingestion Service", date)


def _refused(error: urllib.error.HTTPError) -> Answer:
    access = Access.UNREACHABLE
    if error.code == 401:
        access = Access.DENIED
    elif 400 <= error.code < 500 and error.code != _PROXY_WANTS_CREDENTIALS:
        access = Access.UNCLEAR
    return Answer(access, f"HTTP {error.code}", error.headers["Date"])


def _why(error: OSError | http.client.HTTPException) -> str:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return "time-out while connecting"
    if isinstance(reason, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({reason.verify_message})"
    if isinstance(reason, ssl.SSLError) and reason.reason:
        words = reason.reason.lower().replace("_", " ")
        return _SPEAKS_NO_TLS if reason.reason in _NOT_TLS else f"no TLS connection ({words})"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror.lower()
    # The words of a forward proxy.
    return str(reason) if str(reason).startswith("Tunnel connection failed") else type(reason).__name__
