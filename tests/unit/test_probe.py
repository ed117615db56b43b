"""What the answer to the question before the start means, and what is said about it."""

from __future__ import annotations

import http.server
import ssl
import threading
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


def test_an_https_address_of_a_port_without_tls_is_told_with_what_to_do() -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        found = settings(DATA_INGESTION_SERVICE_URL=f"https://127.0.0.1:{server.server_port}")
        problem = problem_of(probe.ask(found, {}), found)
    assert problem is not None
    assert problem.what.endswith("cannot be reached: it does not speak TLS.")
    assert "http://" in problem.fix


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("WRONG_VERSION_NUMBER", "it does not speak TLS"),
        ("RECORD_LAYER_FAILURE", "it does not speak TLS"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "no TLS connection (tlsv1 alert protocol version)"),
    ],
)
def test_what_openssl_says_is_put_in_words(reason: str, words: str) -> None:
    error = ssl.SSLError(1, f"[SSL: {reason}] as OpenSSL has it (_ssl.c:1032)")
    error.reason = reason
    assert probe._why(urllib.error.URLError(error)) == words


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
