"""What the answer to the question before the start means, and what is said about it."""

from __future__ import annotations

import urllib.error
from email.message import Message

import pytest

from launcher import probe
from launcher.probe import Access, problem_of
from unit.samples import settings


def refused(status: int) -> probe.Answer:
    """The answer when urllib raises this status."""
    return probe._refused(urllib.error.HTTPError("http://akto.test", status, "", Message(), None))


@pytest.mark.parametrize(
    ("status", "access"),
    [
        (401, Access.DENIED),
        (404, Access.UNCLEAR),
        (407, Access.UNREACHABLE),
        (302, Access.UNREACHABLE),
        (502, Access.UNREACHABLE),
    ],
)
def test_what_a_status_means(status: int, access: Access) -> None:
    assert refused(status).access is access


def test_a_proxy_that_wants_credentials_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    tunnel = probe.Answer(
        Access.UNREACHABLE, probe._why(OSError("Tunnel connection failed: 407 Proxy Authentication Required"))
    )
    for answer in (refused(407), tunnel):
        problem = problem_of(answer, settings(DATA_INGESTION_SERVICE_URL="https://akto.test"))
        assert problem is not None
        assert "through the proxy proxy.test:3128" in problem.what
        assert "407" in problem.what
        assert "user and password of the proxy" in problem.fix
