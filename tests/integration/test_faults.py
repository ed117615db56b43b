"""Every fault between the guard and Akto, in every mode: what clients see, what is recorded, what is counted.

The tests below share four proxies, one for each mode, and an Akto of their own. A fault strikes the checks and records
of one test's requests only; what became of all of them is looked at in the last two tests, since a record that Akto
never answers is given up after 30 seconds.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
from testcontainers.core.network import Network

from integration.containers import GuardedProxy, MockAkto, MockLlm, chat_body
from integration.test_chat import sent_body
from integration.test_no_verdict import ALLOW, BLOCK

ALIAS = "faulty-akto"
# Can be closed, other than the port on which the mock is controlled.
PORT = 8082
FORBIDDEN = "zebra-block"
# Longer than the time-out where somebody waits for the check, shorter where nobody does: who waited would be late.
MOST_SECONDS = 4
ALLOWING = "http://mock-akto:8080/api/http-proxy?guardrails=true&redirected=true"
_numbers = itertools.count()


@dataclass(frozen=True)
class Mode:
    sync: bool
    fallback: str

    def __str__(self) -> str:
        return f"{'sync' if self.sync else 'async'}-{self.fallback}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "DATA_INGESTION_SERVICE_URL": f"http://{ALIAS}:{PORT}",
            "SYNC_MODE": str(self.sync),
            "UNREACHABLE_FALLBACK": self.fallback,
            "TIMEOUT": "1" if self.sync else "5",
            # The mock is a forward proxy, too, on its other port.
            "HTTP_PROXY": f"http://{ALIAS}:8080",
            "NO_PROXY": f"{ALIAS},mock-llm",
        }

    @property
    def passes_unchecked(self) -> bool:
        return not self.sync or self.fallback == "fail_open"


@dataclass(frozen=True)
class Fault:
    """`answer`: what the mock does instead of answering, None when nobody listens.

    `records`: "later" when each arrives after the fault, "once" when the guard sends each a single time, "" when the
    test makes no statement.
    """

    name: str
    cause: str
    answer: Mapping[str, Any] | None
    records: str = "later"
    requests: int = 2

    def __str__(self) -> str:
        return self.name


MODES = [Mode(sync, fallback) for sync in (True, False) for fallback in ("fail_open", "fail_closed")]
# Those first whose records take longest.
FAULTS = [
    Fault("time-out", "timeout", {"delay_ms": 120_000, "body": ALLOW}, requests=1),
    Fault("slow drip", "timeout", {"drip_ms": 300, "raw_body": json.dumps(ALLOW) + " " * 400}, requests=1),
    Fault("401", "credentials", {"status": 401, "raw_body": "no"}),
    Fault("302", "redirect", {"status": 302, "raw_body": "", "headers": {"Location": ALLOWING}}, records="once"),
    Fault("422", "rejected", {"status": 422, "body": {"success": False}}, records=""),
    Fault("429", "rejected", {"status": 429, "raw_body": "later"}),
    Fault("500", "server_error", {"status": 500, "raw_body": "oops"}),
    Fault("502", "server_error", {"status": 502, "raw_body": "bad gateway"}),
    Fault("garbage JSON", "unreadable", {"status": 200, "raw_body": '{"data": {"guardrailsResult"'}, records="once"),
    Fault("not HTTP", "connection", {"connection": "not_http"}),
    Fault("reset in the headers", "connection", {"connection": "reset_in_headers"}),
    Fault("reset in the body", "connection", {"connection": "reset_in_body", "body": ALLOW}),
    Fault("refused", "connection", None),
]


@dataclass
class Subject:
    """The proxy of one mode, and the ledger of what was done to it."""

    mode: Mode
    proxy: GuardedProxy
    akto: MockAkto
    faults: Counter[str] = field(default_factory=Counter)
    missed: int = 0
    texts: dict[str, list[str]] = field(default_factory=lambda: {"later": [], "once": [], "": []})

    def ask(self, text: str, cause: str, records: str) -> None:
        """Sends a request that gets no verdict because of `cause`, and expects what the mode promises the client."""
        self.faults[cause] += 1
        self.texts[records].append(text)
        began = time.monotonic()
        response = self.proxy.chat(text)
        took = time.monotonic() - began
        assert response.status_code == (200 if self.mode.passes_unchecked else 503), response.text
        assert took < MOST_SECONDS

    def wait_until_enforced(self, seconds: float = 10) -> None:
        """Sends forbidden requests until one of them gets Akto's verdict."""
        deadline = time.monotonic() + seconds
        while not self._is_enforced(f"healthy {next(_numbers)}. {FORBIDDEN}"):
            self.missed += 1
            assert time.monotonic() < deadline, f"no verdict from Akto again within {seconds} seconds"
            time.sleep(0.2)

    def _is_enforced(self, text: str) -> bool:
        status = self.proxy.chat(text).status_code
        if self.mode.sync:
            return status == 403
        assert status == 200
        return eventually(lambda: any(call["verdict"] for call in calls_with(self.akto, "check", [text])), 2)


def eventually(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` comes true within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def calls_with(akto: MockAkto, kind: str, texts: Sequence[str]) -> list[dict[str, Any]]:
    """The calls of `kind` about requests with one of `texts`."""
    return [call for call in akto.calls(kind) if text_of(call) in texts]


def text_of(call: dict[str, Any]) -> str:
    """The text that was asked; "" in a record that was cut."""
    messages = sent_body(call).get("messages")
    return messages[0]["content"] if messages else ""


@pytest.fixture(scope="module")
def faulty_akto(network: Network) -> Iterator[MockAkto]:
    akto = MockAkto(network, ALIAS).start()
    akto.open_port(PORT)
    yield akto
    akto.stop()


@pytest.fixture(scope="module")
def subjects(
    shared_proxy: Any, faulty_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> dict[Mode, Subject]:
    tmp_path_factory.getbasetemp()  # not made by several threads at once
    with concurrent.futures.ThreadPoolExecutor(len(MODES)) as pool:
        proxies = list(pool.map(lambda mode: shared_proxy(**mode.env), MODES))
    return {mode: Subject(mode, proxy, faulty_akto) for mode, proxy in zip(MODES, proxies, strict=True)}


@pytest.fixture
def subject(mode: Mode, subjects: dict[Mode, Subject], shared_proxy: Any) -> Subject:
    shared_proxy(**mode.env)  # so that a failure shows its log
    return subjects[mode]


def test_akto_vanishes_without_a_word(
    subjects: dict[Mode, Subject], faulty_akto: MockAkto, llm: MockLlm, network: Network
) -> None:
    """No FIN, no RST, nobody behind the kept connections: packets go nowhere, and no name leads there."""
    for subject in subjects.values():
        subject.wait_until_enforced()
    with disconnected(faulty_akto, network), concurrent.futures.ThreadPoolExecutor(len(MODES)) as pool:
        texts = {mode: f"vanished.{mode} {FORBIDDEN}" for mode in MODES}
        for done in [pool.submit(subjects[mode].ask, texts[mode], "timeout", "later") for mode in MODES]:
            done.result()
        for mode in MODES:
            # Up to the time-out a connection whose peer comes back would carry the check after all.
            assert eventually(lambda mode=mode: "| timeout |" in subjects[mode].proxy.guard_log(), 15), mode
    reached = {request["body"]["messages"][0]["content"] for request in llm.requests()}
    assert {mode for mode in MODES if texts[mode] in reached} == {mode for mode in MODES if mode.passes_unchecked}
    for subject in subjects.values():
        # Long enough for the old address to be forgotten, should Akto have come back at another.
        subject.wait_until_enforced(30)


@contextmanager
def disconnected(akto: MockAkto, network: Network) -> Iterator[None]:
    docker_network = docker.from_env().networks.get(network.id)
    docker_network.disconnect(akto.id)
    try:
        yield
    finally:
        docker_network.connect(akto.id, aliases=[ALIAS])


@pytest.mark.parametrize("mode", MODES, ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault(fault: Fault, mode: Mode, subject: Subject, akto: MockAkto, llm: MockLlm) -> None:
    akto.answer("check", {"status": 200, "body": ALLOW})
    subject.wait_until_enforced()
    llm.reset()
    texts = [f"{fault}.{mode} {number} {FORBIDDEN}" for number in range(fault.requests)]
    with struck_by(fault, subject.akto, f"{fault}.{mode}", texts):
        for text in texts:
            subject.ask(text, fault.cause, fault.records)
    asked = [request["body"]["messages"][0]["content"] for request in llm.requests()]
    assert asked == (texts if mode.passes_unchecked else [])
    subject.wait_until_enforced()
    assert not any("redirected" in call["query"] for call in akto.calls()), "a redirect was followed to another host"


@contextmanager
def struck_by(fault: Fault, akto: MockAkto, marker: str, texts: Sequence[str]) -> Iterator[None]:
    """Has the fault strike all checks and records with `marker` in them, until those of all `texts` have met it.

    Their checks meet it for good: the guard repeats one at once when a connection breaks.
    """
    if fault.answer is None:
        with nobody_listening(akto):
            yield
        return
    for kind in ("check", "record"):
        akto.answer(kind, {**fault.answer, "containing": marker})
    try:
        yield
        for kind in ("check", "record"):
            met = lambda kind=kind: {text_of(call) for call in calls_with(akto, kind, texts)} == set(texts)  # noqa: E731
            assert eventually(met, 10), f"not every {kind} met the fault"
    finally:
        akto.answer_normally("record")


@contextmanager
def nobody_listening(akto: MockAkto) -> Iterator[None]:
    akto.close_port(PORT)
    try:
        yield
        # Nobody sees a refused connection: checks and records for which no client waits get a moment to try.
        time.sleep(1)
    finally:
        akto.open_port(PORT)


@pytest.fixture
def behind_a_proxy(shared_proxy: Any, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    """Has to call Akto through a forward proxy, which is the mock itself: nobody else knows this host of Akto's."""
    env = {"DATA_INGESTION_SERVICE_URL": "http://akto.invalid", "TIMEOUT": "20"}
    return shared_proxy(**env, HTTP_PROXY="http://mock-akto:8080", NO_PROXY="mock-llm")


def test_the_proxy_of_the_environment_is_used(behind_a_proxy: GuardedProxy, akto: MockAkto) -> None:
    assert behind_a_proxy.chat("hello").status_code == 200
    assert behind_a_proxy.chat(FORBIDDEN).status_code == 403
    akto.wait_for("record", 2)
    assert len(akto.calls("check")) == 2
    assert all(call["target"].startswith("http://akto.invalid/api/http-proxy?") for call in akto.calls())


@pytest.mark.parametrize("way", ["through a proxy", "direct"])
def test_two_hundred_and_fifty_slow_blocks_at_once_all_arrive(
    shared_proxy: Any, behind_a_proxy: GuardedProxy, akto: MockAkto, llm: MockLlm, way: str
) -> None:
    proxy = behind_a_proxy if way == "through a proxy" else shared_proxy(TIMEOUT="20")
    # Nobody waits in vain for a connection: Akto answers none of them before it was asked about all.
    akto.answer("check", {"status": 200, "body": BLOCK, "delay_ms": 3000, "together": 250})

    def status(_: int) -> int:
        return proxy.post("/v1/chat/completions", chat_body("hello"), timeout=60).status_code

    with concurrent.futures.ThreadPoolExecutor(250) as pool:
        statuses = Counter(pool.map(status, range(250)))
    assert statuses == {403: 250}
    assert llm.requests() == []


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_the_proxy_of_the_environment_is_not_used_for_exempt_hosts(mode: Mode, subject: Subject) -> None:
    assert subject.mode.env["HTTP_PROXY"]
    subject.wait_until_enforced()
    assert {call["target"].split("?")[0] for call in subject.akto.calls()} == {"/api/http-proxy"}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_afterwards_each_record_has_arrived(mode: Mode, subject: Subject) -> None:
    """Of all requests above: once Akto is well again, or not at all where sending again would not help."""
    wanted = set(subject.texts["later"])

    def missing() -> set[str]:
        taken = {text_of(call) for call in subject.akto.calls("record") if call.get("status") == 200}
        return wanted - taken

    assert eventually(lambda: not missing(), 45), f"records that never arrived: {missing()}"
    sent = Counter(text_of(call) for call in calls_with(subject.akto, "record", subject.texts["once"]))
    assert sent == dict.fromkeys(subject.texts["once"], 1)


@pytest.fixture(scope="module")
def counters(subjects: dict[Mode, Subject]) -> dict[Mode, dict[str, int]]:
    """What each proxy has counted by its end."""
    with concurrent.futures.ThreadPoolExecutor(len(MODES)) as pool:
        return dict(zip(subjects, pool.map(counted_by, [each.proxy for each in subjects.values()]), strict=True))


def counted_by(proxy: GuardedProxy) -> dict[str, int]:
    """The counters that the proxy logs when it is stopped, which is done here."""
    proxy.container.get_wrapped_container().stop(timeout=60)
    (line,) = [line for line in proxy.guard_log().splitlines() if "GuardrailsHandler stopped" in line]
    return json.loads(line.split(" | ")[1])


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_afterwards_the_counters_name_each_cause_as_often_as_it_struck(
    mode: Mode, subject: Subject, counters: dict[Mode, dict[str, int]]
) -> None:
    prefix = "unavailable_"
    counted = Counter(
        {name.removeprefix(prefix): number for name, number in counters[mode].items() if name.startswith(prefix)}
    )
    assert counted >= subject.faults, f"counted {counted}, struck {subject.faults}"
    # More only for what was asked while Akto was coming back.
    assert counted.total() - subject.faults.total() <= subject.missed, f"counted {counted}, struck {subject.faults}"
