"""Faults that the page can set for checks, in the form of scripted answers."""

from __future__ import annotations

from typing import Any, NamedTuple

ERROR_PAGE = "<html><head><title>Error {0}</title></head><body><h2>HTTP ERROR {0}</h2></body></html>"
_UNJUDGED = {"Allowed": True, "Modified": False, "ModifiedPayload": "", "Reason": "", "behaviour": "", "failOpen": True}


class Fault(NamedTuple):
    title: str
    answer: dict[str, Any]


FAULTS: dict[str, Fault] = {
    "slow": Fault("10 seconds late", {"delay_ms": 10_000, "then": "usual"}),
    "500": Fault("HTTP 500", {"status": 500, "raw_body": ERROR_PAGE.format(500)}),
    "401": Fault("HTTP 401, token refused", {"status": 401, "raw_body": ERROR_PAGE.format(401)}),
    "garbage": Fault("HTTP 200, but no JSON", {"raw_body": "<html><body>It works!</body></html>"}),
    "failOpen": Fault(
        "failOpen, nothing was judged",
        {"body": {"success": True, "data": {"success": True, "guardrailsResult": {**_UNJUDGED, "error": "timeout"}}}},
    ),
    "reset": Fault("connection reset", {"connection": "reset"}),
}
