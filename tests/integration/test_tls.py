"""HTTPS to Akto: whom the guard trusts, and that it never falls back to plain text."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from testcontainers.core.network import Network

from integration.containers import GuardedProxy, MockAkto, MockLlm, run_once

SERVICE = "https://mock-akto-tls:8443"


class MockAktoOverTls(MockAkto):
    """A mock Akto with HTTPS on 8443 and a certificate of its own, to be found in `certificates`."""

    def __init__(self, network: Network, certificates: Path) -> None:
        super().__init__(network, "mock-akto-tls")
        self.container.with_env("TLS_DIRECTORY", "/certificates")
        self.container.with_volume_mapping(str(certificates), "/certificates", "rw")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    directory.chmod(0o777)
    shutil.copy(certifi.where(), directory / "others.pem")
    return directory


@pytest.fixture(scope="module")
def secure_akto(network: Network, certificates: Path) -> Iterator[MockAkto]:
    akto = MockAktoOverTls(network, certificates).start()
    yield akto
    akto.stop()


@pytest.mark.parametrize(
    ("variables", "is_trusted"),
    [
        ({"AKTO_CA_BUNDLE": "/certificates/akto.pem"}, True),
        ({"SSL_VERIFY": "False"}, True),
        ({"SSL_CERT_FILE": "/certificates/akto.pem"}, True),
        ({"AKTO_CA_BUNDLE": "/certificates/others.pem", "SSL_CERT_FILE": "/certificates/akto.pem"}, False),
        ({}, False),
    ],
    ids=["AKTO_CA_BUNDLE", "SSL_VERIFY=False", "SSL_CERT_FILE", "AKTO_CA_BUNDLE of others", "nothing"],
)
def test_akto_is_asked_when_its_certificate_is_trusted_and_only_then(
    start_proxy: Any,
    secure_akto: MockAkto,
    certificates: Path,
    llm: MockLlm,
    variables: dict[str, str],
    is_trusted: bool,
) -> None:
    secure_akto.reset()
    fallback = {"UNREACHABLE_FALLBACK": "fail_closed", "STARTUP_PROBE": "off"}
    env = {"DATA_INGESTION_SERVICE_URL": SERVICE, **fallback, **variables}
    proxy: GuardedProxy = start_proxy(env=env, volumes=[(str(certificates), "/certificates", "ro")])
    assert proxy.chat("hello").status_code == (200 if is_trusted else 503)
    if is_trusted:
        assert proxy.chat("zebra-block").status_code == 403
        assert len(secure_akto.wait_for("record", 2)) == len(secure_akto.calls("check"))
    else:
        assert "no verdict from Akto | connection" in proxy.guard_log()
        assert secure_akto.calls() == []
        assert llm.requests() == []
    warned = "is not verified" in proxy.guard_log()
    assert warned == (variables == {"SSL_VERIFY": "False"})


@pytest.mark.parametrize("path", ["/nowhere.pem", "/etc/hostname"])
def test_a_ca_bundle_without_certificates_stops_the_start(path: str) -> None:
    env = {"DATA_INGESTION_SERVICE_URL": SERVICE, "AKTO_API_TOKEN": "t", "AKTO_CA_BUNDLE": path}
    status, _, err = run_once((), env)
    assert status == 78
    assert f"AKTO_CA_BUNDLE names {path}" in err
    assert "PEM" in err
