"""The client of Akto's Data Ingestion Service: what is sent where, and what an answer or the lack of one means.

The HTTP itself is in `direct.py`, and in `proxied.py` where the environment names a forward proxy.
"""

from __future__ import annotations

import errno
import resource
import ssl
from enum import Enum
from typing import Final, Protocol

from yarl import URL

from akto_guardrails.breaker import Breaker
from akto_guardrails.direct import Direct
from akto_guardrails.proxied import Proxied, proxy_for
from akto_guardrails.settings import SERVICE_PATH
from akto_guardrails.verdict import Cause, Verdict, unavailable, verdict_of_answer

_LARGEST_ANSWER: Final = 8 * 1024 * 1024
# Of any answer so much is read, and so much more for each byte that was sent: a verdict repeats a payload twice at
# most, with seven bytes for one at worst (`\\u003c`), and masks may be longer than what they stand for.
_ROOM_FOR_ANY_ANSWER: Final = 1024 * 1024
_ANSWERED_FOR_A_BYTE: Final = 24
# Of the envelopes of all checks under way.
MOST_BYTES_AT_ONCE: Final = 256 * 1024 * 1024
# Of the service or of what is in front of it, whatever the payload. A 500 is its reader's word on one payload.
_OUTAGES: Final = frozenset({429, 502, 503, 504})
# In a 422 that is not about the record: the service could not hand it on.
_NOT_PUBLISHED: Final = b"Failed to publish"
# A record above this size may be answered 500 for its size, one below it hardly.
_LONG_RECORD: Final = 65_536
# Nobody waits for a record, and the service may take its time over one (protocol reference, 2.6: it can scan again).
_RECORD_SECONDS: Final = 30.0


class Delivery(Enum):
    """What became of a record."""

    DELIVERED = "delivered"
    RETRY = "retry"
    """Not taken now, as any other would not be (no connection, 401, 429, 503); may be taken later.

    A 401 is one of these because a token expires, and the next start may send what is on disk with a new one.
    """
    DOUBTFUL = "doubtful"
    """Not taken now, maybe for what is in it (time-out, a connection that broke, nothing to publish it to, 500, 502 and
    the like); may be later.
    """
    UNFIT = "unfit"
    """Not taken for what is in it or for its size (413, 422, 500 for a long one); may be taken when it is cut."""
    REFUSED = "refused"
    """Not taken, and sending it again would not help (redirects and other 4xx)."""


class Server(Protocol):
    """The connections to the service, as `Direct` and `Proxied` have them."""

    async def post(self, target: str, body: bytes, seconds: float, most: int | None = None) -> tuple[int, bytes]:
        """Status and body, up to `most` bytes of it, of the answer to a POST.

        Raises TimeoutError after so many `seconds`, and OSError.
        """

    def retire(self) -> None:
        """Lets calls under way finish, and makes all others over new connections."""

    async def close(self) -> None:
        """Closes the connections."""


class AktoClient:
    """Checks and records of one worker."""

    def __init__(
        self,
        service_url: str,
        api_token: str,
        timeout: float,
        breaker: Breaker,
        *,
        most_checks: int = 2_000,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`timeout` is the total for one check in seconds: connecting, sending and reading.

        Checks above `most_checks` at once are not made. `tls`: whom to trust, the system's certificates by default.
        """
        service = URL(f"{service_url}{SERVICE_PATH}")
        self._check_target = f"{service.raw_path}?akto_connector=litellm&guardrails=true"
        self._answer_target = f"{service.raw_path}?akto_connector=litellm&response_guardrails=true"
        self._record_target = f"{service.raw_path}?akto_connector=litellm&ingest_data=true"
        headers = {"Authorization": api_token, "Content-Type": "application/json", "User-Agent": "guarded-litellm"}
        proxy = proxy_for(service_url)
        self._server: Server = (
            Direct(service.origin(), headers, most=_LARGEST_ANSWER, tls=tls)
            if proxy is None
            else Proxied(proxy, service.origin(), headers, most=_LARGEST_ANSWER, tls=tls)
        )
        self._timeout = timeout
        self._breaker = breaker
        self._most_checks = min(most_checks, _open_files() // 2)
        self._checks_in_flight = 0
        self._bytes_in_flight = 0

    async def check(self, body: bytes, *, of_answer: bool = False) -> Verdict:
        """The verdict on the request in the envelope `body`, or on the model's answer in it (`of_answer`).

        Never raises but for cancellation; takes at most the time-out.
        """
        if self._checks_in_flight >= self._most_checks or self._bytes_in_flight + len(body) > MOST_BYTES_AT_ONCE:
            return unavailable(Cause.OVERLOAD)
        if not self._breaker.admits():
            return unavailable(Cause.BREAKER_OPEN)
        self._checks_in_flight += 1
        self._bytes_in_flight += len(body)
        era = self._breaker.era
        try:
            target = self._answer_target if of_answer else self._check_target
            status, answer = await self._server.post(target, body, self._timeout, _most_of_answer(body))
        except TimeoutError:
            self._note_failure(era)
            return unavailable(Cause.TIMEOUT)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return unavailable(Cause.OVERLOAD)
            self._note_failure(era)
            return unavailable(Cause.CONNECTION)
        finally:
            self._checks_in_flight -= 1
            self._bytes_in_flight -= len(body)
        verdict = verdict_of_answer(status, answer, of_answer=of_answer)
        if verdict.is_usable:
            self._breaker.succeeded()
        elif status in _OUTAGES or verdict.cause is Cause.SERVICE_FAIL_OPEN:
            self._note_failure(era)
        return verdict

    async def record(self, body: bytes) -> tuple[Delivery, int | None]:
        """Hands over the envelope `body`; gives what became of it and the HTTP status, None when there was none."""
        try:
            seconds = max(self._timeout, _RECORD_SECONDS)
            status, answer = await self._server.post(self._record_target, body, seconds, _most_of_answer(body))
        except ConnectionRefusedError:
            return Delivery.RETRY, None
        except (TimeoutError, ConnectionError):
            # A firewall that reads along breaks the connection for what is in a record, too.
            return Delivery.DOUBTFUL, None
        except OSError:
            return Delivery.RETRY, None
        return _delivery(status, answer, len(body)), status

    @property
    def checks_in_flight(self) -> int:
        """Checks under way."""
        return self._checks_in_flight

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    def _note_failure(self, era: int) -> None:
        if self._breaker.failed(era):
            # Kept connections may lead to a machine that is gone, and would cost a time-out each.
            self._server.retire()


def _most_of_answer(body: bytes) -> int:
    """How many bytes of the answer to `body` are read."""
    return min(_LARGEST_ANSWER, _ROOM_FOR_ANY_ANSWER + _ANSWERED_FOR_A_BYTE * len(body))


def _delivery(status: int, answer: bytes, length: int) -> Delivery:
    """What a status says about a record of `length` bytes (protocol reference, 1.1 and 1.3)."""
    if status == 200:
        return Delivery.DELIVERED
    if status == 422 and _NOT_PUBLISHED in answer:
        return Delivery.DOUBTFUL
    if status in (413, 422) or (status == 500 and length > _LONG_RECORD):
        return Delivery.UNFIT
    if status in (401, 429, 503):
        return Delivery.RETRY
    return Delivery.DOUBTFUL if status >= 500 else Delivery.REFUSED


def _open_files() -> int:
    """How many files and sockets this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1_000_000
