"""Requests whose answer is still to come."""

from __future__ import annotations

from akto_guardrails.exchange import OpenExchanges
from unit.samples import exchange


def test_an_exchange_is_handed_out_exactly_once() -> None:
    open_exchanges = OpenExchanges()
    added = exchange("a")
    open_exchanges.add(added)
    assert open_exchanges.take("a", added.data) is added
    assert open_exchanges.take("a", added.data) is None


def test_an_unknown_call_id_has_no_exchange() -> None:
    open_exchanges = OpenExchanges()
    open_exchanges.add(exchange("a"))
    assert open_exchanges.take("b", {}) is None
    assert open_exchanges.take("", {}) is None


def test_requests_that_share_a_call_id_are_told_apart_by_their_data() -> None:
    open_exchanges = OpenExchanges()
    first, second = exchange("a", {"same": 1}), exchange("a", {"same": 1})
    open_exchanges.add(first)
    open_exchanges.add(second)
    assert open_exchanges.take("a", second.data) is second
    assert open_exchanges.take("a", first.data) is first


def test_without_the_same_data_the_oldest_of_a_call_id_is_taken() -> None:
    open_exchanges = OpenExchanges()
    first, second = exchange("a"), exchange("a")
    open_exchanges.add(first)
    open_exchanges.add(second)
    assert open_exchanges.take("a", {"a": "copy"}) is first
    assert open_exchanges.take("a", None) is second


def test_without_a_call_id_only_the_same_data_will_do() -> None:
    open_exchanges = OpenExchanges()
    added = exchange("")
    open_exchanges.add(added)
    assert open_exchanges.take("", {}) is None
    assert open_exchanges.take("", None) is None
    assert open_exchanges.take("", added.data) is added


def test_the_oldest_makes_room_when_there_are_too_many() -> None:
    open_exchanges = OpenExchanges(most=2)
    first, second, third = exchange("a"), exchange("b"), exchange("c")
    assert open_exchanges.add(first) is None
    assert open_exchanges.add(second) is None
    assert open_exchanges.add(third) is first
    assert open_exchanges.take("a", None) is None
    assert open_exchanges.take("b", None) is second
    assert open_exchanges.take("c", None) is third


def test_one_call_id_for_all_requests_does_not_escape_the_bound() -> None:
    open_exchanges = OpenExchanges(most=3)
    evicted = [open_exchanges.add(exchange("a")) for _ in range(10)]
    assert [each is not None for each in evicted] == [False] * 3 + [True] * 7


def test_exchanges_without_a_call_id_do_not_escape_the_bound() -> None:
    open_exchanges = OpenExchanges(most=1)
    first = exchange("", {"n": 1})
    open_exchanges.add(first)
    assert open_exchanges.add(exchange("", {"n": 2})) is first


def test_what_was_taken_makes_room() -> None:
    open_exchanges = OpenExchanges(most=1)
    for number in range(5):
        added = exchange(str(number))
        assert open_exchanges.add(added) is None
        assert open_exchanges.take(str(number), added.data) is added


def test_a_newer_exchange_of_a_call_id_used_before_is_not_the_oldest() -> None:
    open_exchanges = OpenExchanges(most=2)
    early, middle, late = exchange("a"), exchange("b"), exchange("a")
    open_exchanges.add(early)
    open_exchanges.add(middle)
    open_exchanges.take("a", early.data)
    open_exchanges.add(late)
    assert open_exchanges.add(exchange("c")) is middle


def test_the_oldest_goes_even_if_its_call_id_was_taken_up_again() -> None:
    open_exchanges = OpenExchanges(most=3)
    early, middle, late = exchange("a"), exchange("b"), exchange("a")
    for each in (early, middle, late):
        open_exchanges.add(each)
    open_exchanges.take("a", early.data)
    open_exchanges.add(exchange("c"))
    assert open_exchanges.add(exchange("d")) is middle


def test_the_call_type_of_an_open_exchange_is_known() -> None:
    open_exchanges = OpenExchanges()
    added = exchange("a", call_type="aspeech")
    open_exchanges.add(added)
    assert open_exchanges.call_type("a") == "aspeech"
    open_exchanges.take("a", added.data)
    assert open_exchanges.call_type("a") is None
