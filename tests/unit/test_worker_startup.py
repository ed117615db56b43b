"""Exactly one guard among a worker's callbacks."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import SimpleNamespace

import pytest

import akto_guardrails
from akto_guardrails import batch_lines
from akto_guardrails.worker_startup import NotGuarded, ensure_guarded, keep_one_guard


@pytest.fixture
def no_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every import of LiteLLM fail."""
    monkeypatch.setitem(sys.modules, "litellm", None)


def started_as(module: str) -> SimpleNamespace:
    """The main module of a process started with `python -m module`."""
    return SimpleNamespace(__spec__=SimpleNamespace(name=module))


@pytest.mark.usefixtures("no_litellm")
def test_the_spend_collector_serves_no_model_and_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", started_as("litellm.proxy.collector"))
    ensure_guarded()


@pytest.mark.usefixtures("no_litellm")
@pytest.mark.parametrize(
    "main", [started_as("litellm.proxy.proxy_cli"), SimpleNamespace(__spec__=None), SimpleNamespace()]
)
def test_any_other_process_is_guarded_or_does_not_start(monkeypatch: pytest.MonkeyPatch, main: SimpleNamespace) -> None:
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(ImportError):
        ensure_guarded()


class FakeProxy:
    """LiteLLM's modules, as far as the startup hook touches them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[object] = []
        guard = {
            "start": lambda _, has_metrics: self.events.append(f"guard started, metrics: {has_metrics}"),
            "close": self.close,
            "admits": lambda _, family: True,
            "keep_alive_seconds": None,
            "may_refuse": True,
        }
        self.guard = type("GuardrailsHandler", (), guard)()
        self.callbacks: list[object] = ["otel"]
        self.server = SimpleNamespace(
            app=SimpleNamespace(middleware_stack=self.serve, routes=[SimpleNamespace(path="/metrics")]),
            proxy_logging_obj=SimpleNamespace(startup_event=self.startup),
            proxy_shutdown_event=self.shutdown,
        )
        modules = {
            "litellm": SimpleNamespace(callbacks=self.callbacks),
            "litellm.proxy": SimpleNamespace(proxy_server=self.server),
            "litellm.proxy.proxy_server": self.server,
        }
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(vars(akto_guardrails), "proxy_handler_instance", self.guard)

    def startup(self, *arguments: object, **options: object) -> str:
        self.events.append(("startup", list(self.callbacks), arguments, options))
        return "started"

    async def serve(self, scope: dict[str, object], receive: object, send: object) -> None:
        self.events.append(("served", scope["type"]))

    async def shutdown(self) -> None:
        self.events.append("shutdown")

    async def close(self) -> None:
        self.events.append("guard closed")


def test_the_guard_is_in_place_before_litellm_uses_its_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    ensure_guarded()
    assert proxy.callbacks == ["otel"], "a config that is loaded later may still replace the list"
    assert proxy.server.proxy_logging_obj.startup_event("a", b="c") == "started"
    assert proxy.events == ["guard started, metrics: True", ("startup", [proxy.guard, "otel"], ("a",), {"b": "c"})]


def test_lines_are_json_before_the_first_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    sys.modules["litellm"].json_logs = True  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "litellm._logging", SimpleNamespace(JsonFormatter=lambda: "JSON"))
    monkeypatch.setattr("akto_guardrails.worker_startup.log_as", proxy.events.append)
    monkeypatch.setattr("akto_guardrails.worker_startup.keep_one_guard", lambda *_: proxy.events.append("kept"))
    ensure_guarded()
    proxy.server.proxy_logging_obj.startup_event()
    assert proxy.events[:3] == ["JSON", "kept", "guard started, metrics: True"]


def test_the_guard_is_closed_after_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    ensure_guarded()
    asyncio.run(proxy.server.proxy_shutdown_event())
    assert proxy.events == ["shutdown", "guard closed"]


def test_the_guard_is_closed_even_if_the_proxys_shutdown_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)

    async def fail() -> None:
        raise RuntimeError("no database")

    proxy.server.proxy_shutdown_event = fail
    ensure_guarded()
    with pytest.raises(RuntimeError):
        asyncio.run(proxy.server.proxy_shutdown_event())
    assert proxy.events == ["guard closed"]


@pytest.mark.parametrize("fails", [False, True])
def test_the_guard_does_not_wait_for_what_other_callbacks_still_have_to_do(
    monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """LiteLLM 1.110 waits for them before its shutdown event, mostly longer than the server has left."""
    proxy = FakeProxy(monkeypatch)

    async def drain() -> None:
        await asyncio.sleep(0.05)
        proxy.events.append("others drained")

    async def close() -> None:
        proxy.events.append("guard closed")
        if fails:
            raise RuntimeError

    async def stop() -> None:
        await proxy.server._flush_spend_around_logging_drain_on_shutdown()
        await proxy.server.proxy_shutdown_event()

    proxy.guard.close = close  # type: ignore[attr-defined]
    proxy.server._flush_spend_around_logging_drain_on_shutdown = drain
    ensure_guarded()
    asyncio.run(stop())
    assert proxy.events == ["guard closed", "others drained", "shutdown"]


@pytest.mark.parametrize("seconds", [0, 60])
def test_a_stop_that_is_broken_off_does_not_break_off_the_guards(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Neither while LiteLLM still waits for others, nor while it waits for the guard alone."""
    proxy = FakeProxy(monkeypatch)

    async def close() -> None:
        await asyncio.sleep(0.05)
        proxy.events.append("guard closed")

    async def drain() -> None:
        await asyncio.sleep(seconds)

    async def stop() -> None:
        first = asyncio.create_task(proxy.server._flush_spend_around_logging_drain_on_shutdown())
        await asyncio.sleep(0.01)
        first.cancel()
        await proxy.server.proxy_shutdown_event()

    proxy.guard.close = close  # type: ignore[attr-defined]
    proxy.server._flush_spend_around_logging_drain_on_shutdown = drain
    ensure_guarded()
    asyncio.run(stop())
    assert proxy.events == ["shutdown", "guard closed"]


def test_log_events_on_their_way_are_waited_for_before_the_guard_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)

    async def drain(seconds: float) -> None:
        proxy.events.append(f"events drained, {seconds} s")

    async def flush() -> None:
        proxy.events.append("queue flushed")

    worker = SimpleNamespace(GLOBAL_LOGGING_WORKER=SimpleNamespace(flush=flush))
    iterator = SimpleNamespace(drain_logging_tasks=drain)
    monkeypatch.setitem(sys.modules, "litellm.litellm_core_utils", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "litellm.litellm_core_utils.logging_worker", worker)
    monkeypatch.setitem(sys.modules, "litellm.responses", SimpleNamespace(streaming_iterator=iterator))
    ensure_guarded()
    asyncio.run(proxy.server.proxy_shutdown_event())
    assert proxy.events == ["shutdown", "events drained, 1.0 s", "queue flushed", "guard closed"]


@pytest.mark.parametrize("may_refuse", [True, False])
def test_batch_files_are_looked_through_where_requests_may_be_refused(
    monkeypatch: pytest.MonkeyPatch, may_refuse: bool
) -> None:
    proxy = FakeProxy(monkeypatch)
    proxy.guard.may_refuse = may_refuse
    scan = object()
    files = SimpleNamespace(scan_batch_input_file=scan)
    monkeypatch.setitem(sys.modules, "litellm.proxy.openai_files_endpoints.files_endpoints", files)
    monkeypatch.setattr(batch_lines, "whole_lines_alone", lambda scan: ("whole", scan))
    ensure_guarded()
    assert files.scan_batch_input_file == (("whole", scan) if may_refuse else scan)


def test_a_litellm_that_cannot_be_guarded_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    del proxy.server.proxy_logging_obj.startup_event
    with pytest.raises(NotGuarded):
        ensure_guarded()


def guard() -> object:
    """A guard of a class of its own, as each loading of a file beside the config makes one."""
    return type("GuardrailsHandler", (), {})()


class Other:
    """A callback that is no guard."""


@pytest.mark.parametrize("others", [[], ["prometheus"], ["prometheus", Other(), Other]])
def test_a_missing_guard_is_put_first(others: list[object]) -> None:
    ours = guard()
    callbacks = list(others)
    keep_one_guard(callbacks, ours)
    assert callbacks == [ours, *others]


def test_a_guard_that_is_there_moves_to_the_front() -> None:
    ours, other = guard(), Other()
    callbacks = ["otel", other, ours]
    keep_one_guard(callbacks, ours)
    assert callbacks == [ours, "otel", other]


def test_a_second_guard_is_told_by_its_class_name_and_removed() -> None:
    ours, other = guard(), Other()
    callbacks = [guard(), other, ours, guard(), ours]
    keep_one_guard(callbacks, ours)
    assert callbacks == [ours, other]


def test_the_list_itself_is_changed_as_litellm_holds_on_to_it() -> None:
    callbacks: list[object] = ["otel"]
    same = callbacks
    keep_one_guard(callbacks, guard())
    assert len(same) == 2


def test_doing_it_twice_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ours = guard()
    callbacks: list[object] = ["otel"]
    keep_one_guard(callbacks, ours)
    before = list(callbacks)
    keep_one_guard(callbacks, ours)
    assert callbacks == before
    assert caplog.text == ""


def test_a_removed_guard_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    keep_one_guard([guard(), guard()], guard())
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage().startswith("2 further guard(s)")


@pytest.mark.parametrize(("set_to", "wanted", "expected"), [(None, 15.0, 15.0), (3.0, 15.0, 3.0), (None, None, None)])
def test_streams_that_are_held_back_get_signs_of_life_unless_the_operator_says_how_often(
    monkeypatch: pytest.MonkeyPatch, set_to: float | None, wanted: float | None, expected: float | None
) -> None:
    proxy = FakeProxy(monkeypatch)
    litellm = sys.modules["litellm"]
    litellm.sse_keepalive_ping_interval_seconds = set_to  # type: ignore[attr-defined]
    proxy.guard.keep_alive_seconds = wanted
    ensure_guarded()
    proxy.server.proxy_logging_obj.startup_event()
    assert litellm.sse_keepalive_ping_interval_seconds == expected  # type: ignore[attr-defined]


def test_a_release_without_signs_of_life_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    proxy.guard.keep_alive_seconds = 15.0
    ensure_guarded()
    proxy.server.proxy_logging_obj.startup_event()
    assert not hasattr(sys.modules["litellm"], "sse_keepalive_ping_interval_seconds")


def test_requests_go_through_the_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(monkeypatch)
    ensure_guarded()
    asyncio.run(proxy.server.app.middleware_stack({"type": "lifespan"}, None, None))
    assert proxy.events == [("served", "lifespan")]
    assert proxy.server.app.middleware_stack != proxy.serve
