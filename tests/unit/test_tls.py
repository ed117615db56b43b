"""Whom the guard trusts to be Akto."""

from __future__ import annotations

import ssl
from pathlib import Path

import certifi
import pytest

from akto_guardrails.tls import trusted_by


@pytest.fixture
def one(tmp_path: Path) -> str:
    """A file with a single certificate."""
    first = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    path = tmp_path / "one.pem"
    path.write_text(first[0][first[0].index("-----BEGIN") :] + first[1])
    return str(path)


def authorities(trust: ssl.SSLContext) -> int:
    """How many authorities are trusted."""
    assert trust.verify_mode is ssl.CERT_REQUIRED
    assert trust.check_hostname
    return trust.cert_store_stats()["x509"]


def test_the_bundle_for_akto_alone_counts_whatever_else_is_set(one: str) -> None:
    everything = {"SSL_VERIFY": "false", "SSL_CERT_FILE": certifi.where()}
    assert authorities(trusted_by(one, everything)) == 1
    trust = trusted_by(one, {})
    assert not trust.verify_flags & ssl.VERIFY_X509_STRICT


@pytest.mark.parametrize("name", ["SSL_VERIFY", "SSL_CERT_FILE"])
def test_a_file_that_litellm_trusts_is_trusted(one: str, name: str) -> None:
    assert authorities(trusted_by(None, {name: one})) == 1


def test_litellms_switch_counts_and_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    trust = trusted_by(None, {"SSL_VERIFY": "False"})
    assert (trust.verify_mode, trust.check_hostname) == (ssl.CERT_NONE, False)
    assert "is not verified" in caplog.text


@pytest.mark.parametrize("variables", [{}, {"SSL_VERIFY": "True"}, {"SSL_VERIFY": ""}, {"SSL_CERT_FILE": "/nowhere"}])
def test_without_any_the_usual_authorities_are_trusted(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert authorities(trusted_by(None, variables)) > 100
    assert caplog.text == ""


def test_a_file_without_certificates_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    with pytest.raises(OSError):
        trusted_by(str(tmp_path / "empty.pem"), {})
    with pytest.raises(OSError):
        trusted_by(str(tmp_path / "missing.pem"), {})
