"""Names of collections: how Akto groups what it is shown.

Akto files a record under the `host` header of the mirrored request. The service lower-cases that name, turns
everything outside `a-z 0-9 . - :` into `-`, puts names with characters like `@` into one common pot and names
without a letter into the default collection (protocol reference, 5.1). Names made here pass all of that
unchanged, and two different names stay two.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final
from urllib.parse import urlsplit

_LONGEST: Final = 100
_HASH_LENGTH: Final = 6
_OUTSIDE: Final = re.compile(r"[^a-z0-9-]+")
_HAS_LETTER: Final = re.compile(r"[a-z]")


def collection_of_name(name: str) -> str | None:
    """The collection of an agent, key or team called `name`; None when the name is blank.

    Letters are lower-cased. Where more than that has to change, six hex digits of the name's SHA-256 follow, so
    that `search_agent` and `search agent` are not merged. No dots: Akto reads the first dot-label of a host
    as a device.
    """
    lowered = name.strip().lower()
    if not lowered:
        return None
    plain = _OUTSIDE.sub("-", lowered).strip("-")
    if not _HAS_LETTER.search(plain):
        plain = f"agent-{plain}".rstrip("-")
    if plain == lowered and len(plain) <= _LONGEST:
        return plain
    digest = hashlib.sha256(lowered.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_LENGTH]
    return f"{plain[: _LONGEST - _HASH_LENGTH - 1]}-{digest}"


def collection_of_url(url: str) -> str | None:
    """`host[:port]` of `url`, lower-cased, without user and password; None when there is no host.

    A bare `host:port` counts as an address. A host without a letter (an IP) gets the prefix `litellm-`, since the
    service has no collection for such a name.
    """
    if any(character.isspace() for character in url):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"//{url}")
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if not host:
        return None
    name = re.sub(r"[^a-z0-9.-]+", "-", host.lower())
    if not _HAS_LETTER.search(name):
        name = f"litellm-{name}"
    return name if port is None else f"{name}:{port}"
