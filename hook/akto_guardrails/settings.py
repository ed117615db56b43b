"""Every environment variable of the guard, parsed and checked in this one place.

The launcher calls `load_settings` before LiteLLM starts, each worker calls it again when the guard is built.
An empty value means unset, `NAME_FILE` names a file that holds the value of `NAME`, and all problems are
reported together, each with its fix.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar, get_args
from urllib.parse import SplitResult, urlsplit

from akto_guardrails.collection import collection_of_url
from akto_guardrails.problem import Problem

Fallback = Literal["fail_open", "fail_closed"]
StreamGuard = Literal["buffer", "window"]
PayloadShape = Literal["body", "bare"]
Unchecked = Literal["allow", "deny"]

_TRUE: Final = frozenset({"true", "1", "yes", "on"})
_FALSE: Final = frozenset({"false", "0", "no", "off"})
_LONGEST_TIMEOUT: Final = 600.0
# Where the service takes checks and records, below its address.
SERVICE_PATH: Final = "/api/http-proxy"
_PATH: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CREDENTIAL_HEADERS: Final = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "ocp-apim-subscription-key",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-goog-api-key",
        "x-litellm-api-key",
    }
)


_Word = TypeVar("_Word", bound=str)


class SettingsError(ValueError):
    """The environment does not make valid settings. `problems` holds all of them."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{problem.what} {problem.fix}" for problem in problems))


@dataclass(frozen=True, slots=True)
class Settings:
    """The guard's settings. Times are in seconds, `service_url` has no trailing slash."""

    service_url: str
    api_token: str = field(repr=False)
    default_collection: str
    sync_mode: bool
    timeout: float
    unreachable_fallback: Fallback
    trust_client_agent_name: bool
    forward_headers: frozenset[str]
    account_id: str
    vxlan_id: str
    context_source: str
    response_guardrails: bool
    stream_guard: StreamGuard
    last_user_message_only: bool
    unchecked_routes: Unchecked
    payload_shape: PayloadShape
    most_checked_characters: int
    mcp_path: str
    tool_path_prefix: str
    ca_bundle: str | None
    most_checks_at_once: int
    most_queued_records: int
    most_queued_bytes: int
    shutdown_flush_seconds: float
    spool_directory: str | None
    most_spooled_bytes: int
    startup_probe: bool

    @property
    def fail_closed(self) -> bool:
        """Whether a request without a usable verdict is refused."""
        return self.unreachable_fallback == "fail_closed"


def load_settings(environment: Mapping[str, str]) -> Settings:
    """Settings from `environment`; raises `SettingsError` with every problem found."""
    reader = _Reader(environment)
    settings = _read(reader)
    if reader.problems:
        raise SettingsError(tuple(reader.problems))
    return settings


def setting_names() -> frozenset[str]:
    """The names of all variables that are settings, with their `_FILE` twins."""
    reader = _Reader({})
    _read(reader)
    return frozenset(reader.names)


def _read(reader: _Reader) -> Settings:
    return Settings(
        service_url=reader.service_url("DATA_INGESTION_SERVICE_URL"),
        api_token=reader.token("AKTO_API_TOKEN"),
        default_collection=reader.collection("LITELLM_URL", "http://localhost:4000"),
        sync_mode=reader.boolean("SYNC_MODE", default=True),
        timeout=reader.seconds("TIMEOUT", 5.0),
        unreachable_fallback=reader.one_of("UNREACHABLE_FALLBACK", get_args(Fallback)),
        trust_client_agent_name=reader.boolean("TRUST_CLIENT_AGENT_NAME", default=True),
        forward_headers=reader.header_names("FORWARD_HEADERS"),
        account_id=reader.digits("AKTO_ACCOUNT_ID", "1000000"),
        vxlan_id=reader.digits("AKTO_VXLAN_ID", "0"),
        context_source=reader.context_source("AKTO_CONTEXT_SOURCE", "AGENTIC"),
        response_guardrails=reader.boolean("RESPONSE_GUARDRAILS", default=False),
        stream_guard=reader.one_of("STREAM_GUARD", get_args(StreamGuard)),
        last_user_message_only=reader.boolean("VALIDATE_LAST_USER_MESSAGE_ONLY", default=False),
        unchecked_routes=reader.one_of("UNCHECKED_ROUTES", get_args(Unchecked)),
        payload_shape=reader.one_of("PAYLOAD_SHAPE", get_args(PayloadShape)),
        most_checked_characters=reader.whole_number("MAX_CHECK_CHARACTERS", 2_000_000),
        mcp_path=reader.path("MCP_INGEST_PATH", "/mcp"),
        tool_path_prefix=reader.path("NON_MCP_TOOL_PATH_PREFIX", "/tool"),
        ca_bundle=reader.ca_bundle("AKTO_CA_BUNDLE"),
        most_checks_at_once=reader.count("MAX_CHECKS_AT_ONCE", 2_000),
        most_queued_records=reader.count("MAX_QUEUED_RECORDS", 20_000),
        most_queued_bytes=reader.count("MAX_QUEUED_BYTES", 64 * 1024 * 1024),
        shutdown_flush_seconds=reader.seconds("SHUTDOWN_FLUSH_SECONDS", 10.0, may_be_none=True),
        spool_directory=reader.spool_directory("SPOOL_DIR"),
        most_spooled_bytes=reader.count("MAX_SPOOLED_BYTES", 256 * 1024 * 1024),
        startup_probe=reader.boolean("STARTUP_PROBE", default=True),
    )


class _Reader:
    """Reads one variable after the other and collects their names and what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[Problem] = []
        self.names: set[str] = set()

    def _wrong(self, what: str, fix: str) -> None:
        self.problems.append(Problem(what, fix))

    def text(self, name: str) -> str | None:
        """The trimmed value of `name`, or of the file that `NAME_FILE` names.

        Empty when neither is set, None when the file cannot be read (reported here, so not once more as missing).
        """
        self.names |= {name, f"{name}_FILE"}
        value = self._environment.get(name, "").strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            self._wrong(f"{name} has quotes around it.", "Leave them out: --env-file of docker run keeps them.")
            return None
        path = self._environment.get(f"{name}_FILE", "").strip()
        if not path:
            return value
        if value:
            self._wrong(f"{name} and {name}_FILE are both set.", "Keep one of the two.")
            return value
        try:
            # Editors on Windows put a byte order mark in front.
            return Path(path).read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            # It may be the secret itself, set in the wrong place.
            named = path if path.startswith("/") else "a file without a leading slash"
            self._wrong(
                f"{name}_FILE names {named}, which user {os.getuid()} cannot read: {why}.",
                "Mount the secret at that path, readable by the user the container runs as.",
            )
            return None

    def required(self, name: str, fix: str) -> str:
        value = self.text(name)
        if value == "":
            by_file = self._environment.get(f"{name}_FILE", "").strip()
            self._wrong(f"The file {by_file} of {name}_FILE is empty." if by_file else f"{name} is missing.", fix)
        return value or ""

    def service_url(self, name: str) -> str:
        value = self.required(
            name, f"Set it to the address of Akto's Data Ingestion Service: {name}=https://akto-ingestion.example.com"
        )
        if not value:
            return ""
        parts = _split(value)
        if parts is None or parts.scheme not in {"http", "https"} or not parts.hostname:
            self._wrong(
                f"{name} is not an http or https address.", f"Give scheme and host: {name}=https://akto.example.com"
            )
        elif value.rstrip("/").endswith(SERVICE_PATH):
            self._wrong(
                f"{name} ends in {SERVICE_PATH}, which the guard adds itself.", f"Leave {SERVICE_PATH} out of it."
            )
        elif "?" in value or "#" in value or parts.username is not None:
            self._wrong(
                f"{name} carries a query, a fragment or a user name.",
                "Give scheme, host and at most a path; the token goes into AKTO_API_TOKEN.",
            )
        return value.rstrip("/")

    def token(self, name: str) -> str:
        value = self.required(name, "Create one in Akto's dashboard (Connectors, Setup Guardrail) and set it.")
        if any(not 0x21 <= ord(character) <= 0x7E for character in value):
            self._wrong(
                f"{name} contains a space or another character that no HTTP header can carry.",
                "Set the raw token alone, without a scheme word such as Bearer.",
            )
        return value

    def collection(self, name: str, default: str) -> str:
        value = self.text(name) or default
        collection = collection_of_url(value)
        if collection is None:
            self._wrong(
                f"{name} has no host in it.", f"Set it to the address clients use: {name}=https://llm.example.com"
            )
        return collection or ""

    def boolean(self, name: str, *, default: bool) -> bool:
        value = (self.text(name) or "").lower()
        if value and value not in _TRUE | _FALSE:
            self._wrong(f"{name}={value!r} is neither true nor false.", "Use true or false.")
        return default if not value else value in _TRUE

    def seconds(self, name: str, default: float, *, may_be_none: bool = False) -> float:
        """A number of seconds, also 0 if `may_be_none`."""
        value = self.text(name)
        if not value:
            return default
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not (0 < seconds <= _LONGEST_TIMEOUT or (may_be_none and seconds == 0)):
            least = "not below 0" if may_be_none else "above 0"
            self._wrong(
                f"{name}={value!r} is not a number of seconds {least} and at most {_LONGEST_TIMEOUT:.0f}.",
                f"Use for example {name}=5.",
            )
        return seconds

    def one_of(self, name: str, words: tuple[_Word, ...]) -> _Word:
        """The one of `words` that `name` is set to; the first of them is the default."""
        value = (self.text(name) or "").lower()
        if value and value not in words:
            self._wrong(f"{name}={value!r} is not a known mode.", f"Use {' or '.join(words)}.")
        return next((word for word in words if word == value), words[0])

    def path(self, name: str, default: str) -> str:
        value = (self.text(name) or default).rstrip("/")
        if not _PATH.fullmatch(value):
            self._wrong(f"{name}={value!r} is not the path of a URL.", f"Use for example {name}={default}.")
        return value

    def header_names(self, name: str) -> frozenset[str]:
        names = [header.strip().lower() for header in (self.text(name) or "").split(",")]
        names = [header for header in names if header]
        for header in names:
            if not _HEADER_NAME.fullmatch(header):
                self._wrong(f"{name} holds {header!r}, which is not a header name.", "Give names separated by commas.")
            elif header in _CREDENTIAL_HEADERS:
                self._wrong(f"{name} holds {header}, which carries credentials.", "Remove it: it is never forwarded.")
        return frozenset(names)

    def digits(self, name: str, default: str) -> str:
        value = self.text(name) or default
        if not (value.isascii() and value.isdigit()):
            self._wrong(f"{name}={value!r} is not a whole number.", f"Use for example {name}={default}.")
        return value

    def whole_number(self, name: str, default: int) -> int:
        value = self.digits(name, str(default))
        return int(value) if value.isascii() and value.isdigit() else default

    def count(self, name: str, default: int) -> int:
        """A whole number above 0."""
        value = self.whole_number(name, default)
        if value == 0:
            self._wrong(f"{name}=0 leaves no room.", f"Use for example {name}={default}, or unset it.")
        return value

    def ca_bundle(self, name: str) -> str | None:
        value = self.text(name)
        if not value:
            return None
        try:
            ssl.create_default_context(cafile=value)
        except (OSError, ssl.SSLError) as error:
            self._wrong(
                f"{name} names {value}, from which user {os.getuid()} can read no certificates: {error.strerror}.",
                "Mount a file of certificates in PEM form at that path, readable by that user.",
            )
        return value

    def spool_directory(self, name: str) -> str | None:
        value = self.text(name)
        if value and not (Path(value).is_dir() and os.access(value, os.W_OK | os.X_OK)):
            self._wrong(
                f"{name} names {value}, which is not a directory that user {os.getuid()} can write to.",
                "Mount a volume at that path, writable by that user (in Kubernetes: fsGroup).",
            )
        return value or None

    def context_source(self, name: str, default: str) -> str:
        value = self.text(name) or default
        if not re.fullmatch(r"[A-Za-z_]+", value):
            self._wrong(f"{name}={value!r} is not a word.", f"Use for example {name}={default}.")
        # Akto compares it in upper case: any other spelling matches no policy at all.
        return value.upper()


def _split(value: str) -> SplitResult | None:
    if any(character.isspace() or character == "\\" for character in value):
        return None
    try:
        parts = urlsplit(value)
        _ = parts.port
        # A label that is empty or too long is found by nobody's name server.
        (parts.hostname or "").encode("idna")
    except ValueError:
        return None
    return parts
