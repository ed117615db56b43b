"""Exactly one guard among a worker's callbacks."""

from __future__ import annotations

import logging

import pytest

from akto_guardrails.worker_startup import keep_one_guard


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
