"""Requests whose answer is still to come."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from akto_guardrails.exchange import OpenExchanges, key_of, mark
from unit.samples import LoggingObject, exchange


def request(call_id: str = "call-1") -> dict[str, Any]:
    """A request with LiteLLM's record of what the client sent."""
    return {"litellm_call_id": call_id, "proxy_server_request": {"url": "/v1/chat/completions", "body": {}}}


class TestMark:
    """How later hooks find the exchange of a request."""

    def test_requests_are_told_apart_even_if_the_client_gave_them_one_call_id(self) -> None:
        first, second = request("same"), request("same")
        assert mark(first) != mark(second)
        assert key_of(first) != key_of(second)

    def test_a_copy_of_the_request_has_its_mark(self) -> None:
        data = request()
        key = mark(data)
        assert key_of({**data, "model": "another"}) == key

    def test_a_log_event_has_the_mark_of_its_request(self) -> None:
        data = request()
        key = mark(data)
        event = {"litellm_call_id": "other", "litellm_params": {"proxy_server_request": data["proxy_server_request"]}}
        assert key_of(event) == key

    def test_a_mark_can_be_passed_on_to_a_second_attempt(self) -> None:
        first, second = request(), request()
        key = mark(first)
        assert mark(second, key) == key
        assert key_of(second) == key

    def test_where_litellm_keeps_no_record_of_the_request_its_call_id_has_to_do(self) -> None:
        data = {"messages": [], "litellm_logging_obj": LoggingObject("call-7")}
        assert mark(data) == key_of(data) == "call-7"
        assert data.keys() == {"messages", "litellm_logging_obj"}

    def test_the_log_event_of_such_a_request_is_found_by_the_call_id_too(self) -> None:
        key = mark({"messages": [], "litellm_logging_obj": LoggingObject("call-7")})
        event = {"litellm_call_id": "call-7", "litellm_params": {"proxy_server_request": {"url": "/anthropic"}}}
        assert key_of(event) == key

    def test_a_request_without_either_has_none(self) -> None:
        assert mark({}) == key_of({}) == ""


class TestOpenExchanges:
    """The exchanges that are not recorded yet."""

    def test_each_is_handed_out_exactly_once(self) -> None:
        open_exchanges = OpenExchanges()
        added = exchange(1)
        assert open_exchanges.add(added) == []
        assert open_exchanges.take(1) is added
        assert open_exchanges.take(1) is None

    def test_an_unknown_mark_has_none(self) -> None:
        open_exchanges = OpenExchanges()
        open_exchanges.add(exchange(1))
        assert open_exchanges.take(2) is None
        assert open_exchanges.get(2) is None

    def test_looking_at_one_leaves_it_open(self) -> None:
        open_exchanges = OpenExchanges()
        added = exchange(1, call_type="aspeech")
        open_exchanges.add(added)
        assert open_exchanges.get(1) is added
        assert open_exchanges.take(1) is added

    def test_one_with_the_same_mark_displaces_the_earlier(self) -> None:
        open_exchanges = OpenExchanges()
        first, second = exchange("a"), exchange("a")
        open_exchanges.add(first)
        assert open_exchanges.add(second) == [first]
        assert open_exchanges.take("a") is second

    def test_the_oldest_makes_room_when_there_are_too_many(self) -> None:
        open_exchanges = OpenExchanges(most=2)
        first, second, third = exchange(1), exchange(2), exchange(3)
        assert open_exchanges.add(first) == []
        assert open_exchanges.add(second) == []
        assert open_exchanges.add(third) == [first]
        assert open_exchanges.take(1) is None
        assert open_exchanges.take(2) is second
        assert open_exchanges.take(3) is third

    def test_the_oldest_make_room_when_they_hold_too_much(self) -> None:
        open_exchanges = OpenExchanges(most_characters=50)
        first, second, third = exchange(1, "x" * 20), exchange(2, "x" * 20), exchange(3, "x" * 40)
        open_exchanges.add(first)
        assert open_exchanges.add(second) == []
        assert open_exchanges.add(third) == [first, second]

    def test_they_may_hold_exactly_as_much_as_the_bound(self) -> None:
        open_exchanges = OpenExchanges(most=2, most_characters=50)
        assert open_exchanges.add(exchange(1, "x" * 30)) == []
        assert open_exchanges.add(exchange(2, "x" * 20)) == []

    def test_what_was_masked_counts_besides_its_masked_form(self) -> None:
        open_exchanges = OpenExchanges(most=3, most_characters=50)
        masked = replace(exchange(1, "x" * 15), request_payload="y" * 15)
        assert open_exchanges.add(masked) == []
        assert open_exchanges.add(exchange(2, "x" * 20)) == []
        assert open_exchanges.add(exchange(3, "x")) == [masked]

    def test_all_can_be_taken_at_once(self) -> None:
        open_exchanges = OpenExchanges(most=1, most_characters=50)
        added = exchange(1, "x" * 50)
        open_exchanges.add(added)
        assert open_exchanges.take_all() == [added]
        assert open_exchanges.take_all() == []
        assert open_exchanges.add(exchange(2, "x" * 50)) == []

    def test_a_single_one_that_holds_too_much_stays(self) -> None:
        open_exchanges = OpenExchanges(most_characters=100)
        large = exchange(1, "x" * 500)
        assert open_exchanges.add(large) == []
        assert open_exchanges.take(1) is large

    def test_what_was_taken_makes_room(self) -> None:
        open_exchanges = OpenExchanges(most=1, most_characters=50)
        for number in range(5):
            assert open_exchanges.add(exchange(number, "x" * 40)) == []
            assert open_exchanges.take(number) is not None

    def test_what_was_displaced_makes_room(self) -> None:
        open_exchanges = OpenExchanges(most=2, most_characters=50)
        open_exchanges.add(exchange(1, "x" * 10))
        for _ in range(5):
            assert len(open_exchanges.add(exchange("a", "x" * 40))) <= 1
        assert open_exchanges.take(1) is not None
