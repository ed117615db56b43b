"""Exactly one guard among a worker's callbacks."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from akto_guardrails.worker_startup import ensure_guarded, keep_one_guard


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
