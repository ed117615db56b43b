"""What becomes of records while Akto takes none, and when a container stops or dies with records waiting."""

from __future__ import annotations

import concurrent.futures
import json
import re
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

import docker
import pytest

from integration.containers import GuardedProxy, MockAkto, MockLlm
from integration.test_chat import sent_body

DOWN = {"status": 503, "raw_body": "down"}


def chats(proxy: GuardedProxy, numbers: range) -> None:
    """Sends numbered requests of three sessions, one after the other, so that their order is known."""
    for number in numbers:
        assert proxy.chat(f"number {number:04}", headers={"x-session-id": f"session-{number % 3}"}).status_code == 200


def delivered(akto: MockAkto) -> list[dict[str, Any]]:
    """The records that Akto took."""
    return [call for call in akto.calls("record") if call["status"] == 200]


def wait_for_delivery(akto: MockAkto, count: int, seconds: float = 30) -> list[dict[str, Any]]:
    """The records that Akto took, once there are `count` and no more come."""
    deadline = time.monotonic() + seconds
    while len(delivered(akto)) < count and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    taken = delivered(akto)
    assert len(taken) == count
    return taken


def number_of(record: dict[str, Any]) -> int:
    """The number in the text of a recorded request."""
    found = re.search(r"number (\d+)", json.dumps(sent_body(record)))
    assert found is not None
    return int(found[1])


def assert_all_once_in_the_order_of_their_sessions(records: list[dict[str, Any]], numbers: range) -> None:
    found = [number_of(record) for record in records]
    assert sorted(found) == list(numbers)
    for session in range(3):
        own = [number for number in found if number % 3 == session]
        assert own == sorted(own)
    ids = [json.loads(record["body"]["requestHeaders"])["x-akto-record-id"] for record in records]
    assert len(set(ids)) == len(ids)


def stop(proxy: GuardedProxy, seconds: int = 60) -> tuple[float, dict[str, int]]:
    """How long the container took to stop, and the counters of its workers, summed."""
    began = time.monotonic()
    proxy.container.get_wrapped_container().stop(timeout=seconds)
    took = time.monotonic() - began
    lines = [line for line in proxy.guard_log().splitlines() if "GuardrailsHandler stopped" in line]
    counters: Counter[str] = Counter()
    for line in lines:
        counters.update(json.loads(line.split(" | ")[1]))
    return took, dict(counters)


def test_records_of_an_outage_arrive_after_it_in_the_order_of_their_sessions(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy()
    akto.answer("record", DOWN)
    chats(proxy, range(60))
    time.sleep(1)
    assert delivered(akto) == []
    akto.answer_normally("record")
    assert_all_once_in_the_order_of_their_sessions(wait_for_delivery(akto, 60), range(60))
    attempts = len(akto.calls("record"))
    assert attempts < 600, "those that wait are not sent all the time"
    _, counters = stop(proxy)
    assert counters["records_delivered"] == 60
    assert counters["records_retried"] == attempts - 60
    assert "records_dropped" not in counters


def test_above_the_bound_the_oldest_are_dropped_counted_and_named(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy(env={"MAX_QUEUED_RECORDS": "10", "SHUTDOWN_FLUSH_SECONDS": "20"})
    akto.answer("record", DOWN)
    # One after the other within a session: one is being sent, ten wait.
    for number in range(30):
        assert proxy.chat(f"number {number:04}", headers={"x-session-id": "only"}).status_code == 200
    assert "1 record(s) dropped: the queue is full" in proxy.guard_log()
    akto.answer_normally("record")
    found = [number_of(record) for record in wait_for_delivery(akto, 11)]
    assert found == [0, *range(20, 30)]
    _, counters = stop(proxy)
    assert counters["records_dropped"] == 19
    assert counters["records_delivered"] == 11


def test_a_record_refused_for_its_content_is_cut_and_sent_once_more(proxy: GuardedProxy, akto: MockAkto) -> None:
    akto.answer("record", {"status": 422, "body": {"success": False, "message": "Unexpected error: null"}})
    assert proxy.chat("hello " * 3000).status_code == 200
    first, second = akto.wait_for("record", 2)
    assert sent_body(first)["messages"][0]["content"] == "hello " * 3000
    assert "x-akto-truncated" in sent_body(second)
    assert len(second["body"]["requestPayload"]) < 10_000
    for name in ("path", "requestHeaders", "tag", "statusCode", "time"):
        assert first["body"][name] == second["body"][name]
    time.sleep(1.5)
    assert len(akto.calls("record")) == 2


def test_at_the_stop_requests_under_way_are_finished_and_all_records_delivered(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy()
    akto.answer("record", {"status": 200, "body": {}, "delay_ms": 700})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for _ in range(30):
            assert proxy.chat("hello").status_code == 200
        # A moderation's record is made by one of LiteLLM's log events, after the answer.
        body = {"model": "moderate", "input": "hello"}
        assert proxy.post("/v1/moderations", body).status_code == 200
        running = pool.submit(proxy.chat, "slowly", stream=True)
        time.sleep(1)
        _, counters = stop(proxy)
        assert running.result().status_code == 200
        assert running.result().text.rstrip().endswith("data: [DONE]")
    assert len(delivered(akto)) == counters["records_delivered"] == 32
    assert "records_dropped" not in counters


def test_what_cannot_be_delivered_at_the_stop_is_counted_and_named_in_time(
    start_proxy: Any, akto: MockAkto, llm: MockLlm
) -> None:
    proxy: GuardedProxy = start_proxy(env={"SHUTDOWN_FLUSH_SECONDS": "2"})
    akto.answer("record", DOWN)
    chats(proxy, range(25))
    took, counters = stop(proxy)
    assert 1.5 < took < 12
    assert counters["records_dropped"] == 25
    assert "25 record(s) dropped: not delivered before the shutdown" in proxy.guard_log()


@pytest.mark.parametrize(
    "arguments",
    [("--num_workers", "4"), ("--num_workers", "2", "--run_gunicorn")],
    ids=["uvicorn, 4 workers", "gunicorn, 2 workers"],
)
def test_every_worker_delivers_its_records_at_the_stop(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, arguments: tuple[str, ...]
) -> None:
    workers = int(arguments[1])
    proxy: GuardedProxy = start_proxy(command=["--config", "/etc/litellm/config.yaml", *arguments])
    deadline = time.monotonic() + 120
    while proxy.logs().count("GuardrailsHandler initialized") < workers and time.monotonic() < deadline:
        time.sleep(0.5)
    akto.answer("record", {"status": 200, "body": {}, "delay_ms": 1000})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: proxy.chat("hello").status_code, range(80))) == {200}
    _, counters = stop(proxy)
    assert proxy.guard_log().count("GuardrailsHandler stopped") == workers
    assert len(delivered(akto)) == counters["records_delivered"] == 80


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    tmp_path.chmod(0o777)
    return tmp_path


def with_spool(spool: Path, **env: str) -> dict[str, Any]:
    """Options of a proxy with a volume for records and room for few in memory."""
    bounds = {"SPOOL_DIR": "/spool", "MAX_QUEUED_RECORDS": "5", "SHUTDOWN_FLUSH_SECONDS": "1"}
    return {"env": bounds | env, "volumes": [(str(spool), "/spool", "rw")]}


@pytest.mark.parametrize("answer", [DOWN, {"status": 401, "raw_body": "expired"}], ids=["down", "token refused"])
def test_records_on_disk_are_sent_by_the_next_start_in_their_order(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path, answer: dict[str, Any]
) -> None:
    akto.answer("record", answer)
    first: GuardedProxy = start_proxy(**with_spool(spool))
    chats(first, range(30))
    stored = list(spool.glob("worker-*/*.record"))
    assert stored, "memory has no room for all of them"
    assert {stat.S_IMODE(path.stat().st_mode) for path in stored} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in stored} == {0o700}
    _, counters = stop(first)
    assert "records_dropped" not in counters
    assert "30 records are left on disk for the next start" in first.guard_log()
    assert len(list(spool.glob("worker-*/*.record"))) == 30

    akto.answer_normally("record")
    second: GuardedProxy = start_proxy(**with_spool(spool))
    chats(second, range(30, 36))
    assert_all_once_in_the_order_of_their_sessions(wait_for_delivery(akto, 36), range(36))
    _, counters = stop(second)
    assert counters["records_delivered"] == 36
    assert list(spool.iterdir()) == []


def test_records_that_another_user_left_are_named_until_they_can_be_read(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path
) -> None:
    akto.answer("record", DOWN)
    first: GuardedProxy = start_proxy(**with_spool(spool), user="65534:0")
    chats(first, range(8))
    stop(first)
    akto.answer_normally("record")
    unlike = {**with_spool(spool), "user": "12345:0", "cap_drop": ["ALL"]}
    second: GuardedProxy = start_proxy(**unlike)
    assert "SPOOL_DIR (/spool) has what another user left: user 12345 cannot read it" in second.guard_log()
    doctor = second.container.get_wrapped_container().exec_run(["/opt/akto/entrypoint.sh", "doctor"])
    assert b"user 12345 cannot read it" in doctor.output
    assert doctor.exit_code == 0
    stop(second)
    assert delivered(akto) == []
    third: GuardedProxy = start_proxy(**with_spool(spool), user="65534:0")
    assert_all_once_in_the_order_of_their_sessions(wait_for_delivery(akto, 8), range(8))
    assert "another user" not in third.guard_log()


def test_records_on_disk_outlive_a_container_that_was_killed(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path
) -> None:
    akto.answer("record", DOWN)
    first: GuardedProxy = start_proxy(**with_spool(spool))
    # One after the other within a session: one is being sent and five wait in memory.
    for number in range(30):
        assert first.chat(f"number {number:04}", headers={"x-session-id": "only"}).status_code == 200
        while number == 0 and not akto.calls("record"):
            time.sleep(0.05)
    # Records are made up to a tenth of a second after their answers.
    deadline = time.monotonic() + 20
    while len(list(spool.glob("worker-*/*.record"))) < 24 and time.monotonic() < deadline:
        time.sleep(0.05)
    docker.from_env().containers.get(first.id).kill()
    on_disk = len(list(spool.glob("worker-*/*.record")))
    assert on_disk == 24
    akto.answer_normally("record")
    second: GuardedProxy = start_proxy(**with_spool(spool))
    found = [number_of(record) for record in wait_for_delivery(akto, on_disk)]
    assert found == list(range(6, 30))
    stop(second)
    assert list(spool.iterdir()) == []


def test_records_in_memory_are_on_disk_before_a_stop_turns_into_a_kill(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path
) -> None:
    akto.answer("record", DOWN)
    first: GuardedProxy = start_proxy(**with_spool(spool, MAX_QUEUED_RECORDS="100", SHUTDOWN_FLUSH_SECONDS="60"))
    chats(first, range(30))
    assert not list(spool.glob("worker-*/*.record"))
    _, counters = stop(first, seconds=6)
    assert counters == {}, "it was killed while it tried to deliver"
    akto.answer_normally("record")
    second: GuardedProxy = start_proxy(**with_spool(spool))
    assert_all_once_in_the_order_of_their_sessions(wait_for_delivery(akto, 30), range(30))
    stop(second)
    assert list(spool.iterdir()) == []


def test_living_workers_leave_each_others_records_alone(
    start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path
) -> None:
    akto.answer("record", DOWN)
    first: GuardedProxy = start_proxy(**with_spool(spool))
    chats(first, range(20))
    second: GuardedProxy = start_proxy(**with_spool(spool))
    chats(first, range(20, 30))
    chats(second, range(30, 60))
    akto.answer_normally("record")
    records = wait_for_delivery(akto, 60)
    # Both have all sessions; the order is kept within a worker.
    for numbers in (range(30), range(30, 60)):
        own = [record for record in records if number_of(record) in numbers]
        assert_all_once_in_the_order_of_their_sessions(own, numbers)
    for proxy in (first, second):
        _, counters = stop(proxy)
        assert counters["records_delivered"] == 30
        assert "records_dropped" not in counters


def test_a_full_spool_drops_the_oldest_and_says_so(start_proxy: Any, akto: MockAkto, llm: MockLlm, spool: Path) -> None:
    akto.answer("record", DOWN)
    proxy: GuardedProxy = start_proxy(**with_spool(spool, MAX_SPOOLED_BYTES="10000"))
    for number in range(30):
        assert proxy.chat(f"number {number:04}", headers={"x-session-id": "only"}).status_code == 200
    assert "record(s) dropped: the spool is full" in proxy.guard_log()
    assert sum(path.stat().st_size for path in spool.rglob("*.record")) <= 10_000
    akto.answer_normally("record")
    deadline = time.monotonic() + 20
    while list(spool.rglob("*.record")) and time.monotonic() < deadline:
        time.sleep(0.2)
    _, counters = stop(proxy)
    assert counters["records_delivered"] + counters["records_dropped"] == 30
    assert len(delivered(akto)) == counters["records_delivered"]
