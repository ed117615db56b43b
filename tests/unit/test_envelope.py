"""The flat record Akto takes: its fields, its limits, and the JSON texts inside it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from akto_guardrails.envelope import (
    LONGEST_STRING,
    Sender,
    cut_record,
    envelope,
    fits,
    fitted,
    mcp_tags_of,
    payload_of,
    tags_of,
    tool_tags_of,
)
from akto_guardrails.json_text import json_length, json_text
from unit.samples import SENDER, identity


def built(**changes: Any) -> dict[str, Any]:
    """An envelope as the service reads it."""
    entries = {"request_payload": payload_of({"messages": []}), **changes}
    return json.loads(envelope(SENDER, identity(), {"gen-ai": "Gen AI"}, **entries))


def units(text: str) -> int:
    """The length of `text` as Java counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class TestJsonText:
    """JSON text the way the service measures it."""

    def test_it_is_compact_and_keeps_other_scripts_as_they_are(self) -> None:
        assert json_text({"a": ["\u0436", "\u641c", "\U0001f600"]}) == '{"a":["\u0436","\u641c","\U0001f600"]}'

    @pytest.mark.parametrize("number", [2**64, 2**70, -(2**70)])
    def test_an_integer_above_64_bits_keeps_its_value(self, number: int) -> None:
        assert json.loads(json_text({"seed": number})) == {"seed": number}

    def test_a_lone_surrogate_is_kept_as_an_escape(self) -> None:
        text = json_text({"a": "x\ud83dy"})
        assert text.isascii()
        assert json.loads(text) == {"a": "x\ud83dy"}

    @pytest.mark.parametrize("oddity", [2**70, "\ud83d"])
    def test_one_oddity_does_not_turn_all_other_text_into_escapes(self, oddity: object) -> None:
        text = json_text({"text": "\u0436" * 1000, "oddity": oddity})
        assert "\u0436" * 1000 in text

    @pytest.mark.parametrize("oddity", [2**70, "\ud83d"])
    def test_a_text_with_an_oddity_is_as_compact(self, oddity: object) -> None:
        assert json_text({"a": [1, 2], "oddity": oddity}).startswith('{"a":[1,2],"oddity":')

    def test_an_object_json_has_no_form_for_becomes_its_text(self) -> None:
        class Thing:
            def __str__(self) -> str:
                return "a thing"

        assert json.loads(json_text({"a": Thing(), "n": 2**70})) == {"a": "a thing", "n": 2**70}
        assert json.loads(json_text({"a": Thing()})) == {"a": "a thing"}

    def test_nesting_beyond_what_can_be_written_raises_recursion_error(self) -> None:
        deep: list[Any] = []
        for _ in range(50_000):
            deep = [deep]
        with pytest.raises(RecursionError):
            json_text(deep)

    def test_nesting_a_parser_still_reads_is_written(self) -> None:
        deep: Any = "text"
        for _ in range(400):
            deep = [deep]
        assert json.loads(json_text(deep)) == deep

    @pytest.mark.parametrize(
        ("text", "length"), [("", 0), ("abc", 3), ("\u0436", 1), ("\u641c\u7d22", 2), ("\U0001f600", 2), ("\ud83d", 1)]
    )
    def test_length_is_counted_in_utf16_units(self, text: str, length: int) -> None:
        assert json_length(text) == length


class TestLimits:
    """Payloads against the limits of the service."""

    @pytest.mark.parametrize(
        ("fill", "most"),
        [("a", LONGEST_STRING), ("\u0436", LONGEST_STRING), ("\U0001f600", LONGEST_STRING // 2)],
    )
    def test_a_string_of_exactly_the_limit_fits_and_one_more_does_not(self, fill: str, most: int) -> None:
        assert fits(fill * most)
        assert not fits(fill * (most + 1))

    def test_the_limit_is_that_of_the_service(self) -> None:
        assert LONGEST_STRING == 262_144

    def test_a_long_text_in_another_script_fits(self) -> None:
        assert fits(payload_of({"messages": [{"role": "user", "content": "\u0436" * 200_000}]}))

    def test_a_payload_that_fits_is_left_alone(self) -> None:
        payload = payload_of({"a": "b" * 1000})
        assert fitted(payload) == payload

    @pytest.mark.parametrize("fill", ["a", '"', "\\", "\x01", "\u0436", "\U0001f600", "\U0001f600\\"])
    def test_a_longer_payload_becomes_its_beginning_with_a_note(self, fill: str) -> None:
        payload = payload_of({"text": fill * LONGEST_STRING})
        shortened = fitted(payload)
        assert units(shortened) <= LONGEST_STRING
        body = json.loads(shortened)["body"]
        assert body["x-akto-truncated"] == f"{units(payload)} characters"
        assert payload.startswith(body["beginning"])
        assert len(body["beginning"]) >= 50_000

    @pytest.mark.parametrize("fill", ["a", '"', "\x01", "\u0436", "\U0001f600"])
    def test_the_largest_record_is_within_the_limit_of_the_whole_body(self, fill: str) -> None:
        payloads = [payload_of({"text": fill * n}) for n in range(40_000, 262_144, 20_000)]
        largest = max((payload for payload in payloads if fits(payload)), key=json_length)
        record = envelope(SENDER, identity(), {}, request_payload=largest, response_payload=largest)
        assert units(record.decode()) <= 2_097_152


class TestEnvelope:
    """The fields of one envelope."""

    def test_a_check_has_every_field_the_service_reads(self) -> None:
        found = built()
        assert found == {
            "path": "/v1/chat/completions",
            "requestHeaders": '{"host":"checkout-agent","content-type":"application/json"}',
            "responseHeaders": '{"content-type":"application/json"}',
            "method": "POST",
            "requestPayload": '{"body":{"messages":[]}}',
            "responsePayload": None,
            "ip": "203.0.113.7",
            "destIp": "127.0.0.1",
            "time": found["time"],
            "statusCode": "200",
            "type": "HTTP/1.1",
            "status": "200",
            "akto_account_id": "1000000",
            "akto_vxlan_id": "0",
            "is_pending": "false",
            "source": "MIRRORING",
            "direction": None,
            "process_id": None,
            "socket_id": None,
            "daemonset_id": None,
            "enabled_graph": None,
            "tag": '{"gen-ai":"Gen AI"}',
            "metadata": '{"gen-ai":"Gen AI"}',
            "contextSource": "AGENTIC",
        }

    def test_the_time_is_now_in_milliseconds(self) -> None:
        assert abs(int(built()["time"]) / 1000 - time.time()) < 60

    def test_no_value_is_anything_but_a_string_or_null(self) -> None:
        found = built(response_payload="{}", status=403)
        assert {type(value) for value in found.values()} == {str, type(None)}

    def test_status_and_answer_of_a_record(self) -> None:
        found = built(response_payload=payload_of({"x-blocked-by": "Akto Proxy"}), status=403)
        assert found["status"] == found["statusCode"] == "403"
        assert json.loads(found["responsePayload"]) == {"body": {"x-blocked-by": "Akto Proxy"}}

    def test_the_sender_is_that_of_the_deployment(self) -> None:
        sender = Sender(account_id="42", vxlan_id="7", context_source="ENDPOINT", observing=True)
        found = json.loads(envelope(sender, identity(), {}, request_payload="{}"))
        assert (found["akto_account_id"], found["akto_vxlan_id"], found["contextSource"]) == ("42", "7", "ENDPOINT")

    @pytest.mark.parametrize(
        "caller",
        [
            identity(route="/v1/\ud800"),
            identity(client_ip="\ud800"),
            identity(headers={"x-session-id": "\ud800"}),
        ],
    )
    def test_a_lone_surrogate_in_what_a_caller_sent_does_not_break_the_envelope(self, caller: Any) -> None:
        assert json.loads(envelope(SENDER, caller, {"model": "\ud800"}, request_payload="{}"))["method"] == "POST"


class TestTags:
    """The tags of one request."""

    def test_they_describe_the_request(self) -> None:
        assert tags_of(SENDER, identity(), call_type="acompletion", model="gpt-4o-mini") == {
            "gen-ai": "Gen AI",
            "litellm": "LiteLLM",
            "call_type": "acompletion",
            "model": "gpt-4o-mini",
            "litellm_call_id": "call-1",
            "key_alias": "checkout",
            "team_id": "team-7",
            "user_id": "user-9",
        }

    @pytest.mark.parametrize("model", [None, "", ["a"], 7])
    def test_what_is_unknown_has_no_tag(self, model: object) -> None:
        nobody = identity(call_id="", key_alias="", team_id="", user_id="")
        assert tags_of(SENDER, nobody, call_type="", model=model) == {"gen-ai": "Gen AI", "litellm": "LiteLLM"}

    def test_a_value_a_caller_chose_does_not_make_the_tags_long(self) -> None:
        tags = tags_of(SENDER, identity(call_id="c" * 5000), call_type="acompletion", model="m" * 500_000)
        assert (tags["model"], tags["litellm_call_id"]) == ("m" * 200, "c" * 200)

    def test_checks_that_only_watch_say_so(self) -> None:
        watching = Sender("1", "0", "AGENTIC", observing=True)
        assert tags_of(watching, identity(), call_type="a", model="m")["mode"] == "observe"


@pytest.mark.parametrize(
    ("bare", "text"), [(False, '{"body":{"messages":["\u0436"]}}'), (True, '{"messages":["\u0436"]}')]
)
def test_a_payload_comes_in_two_shapes(bare: bool, text: str) -> None:
    assert payload_of({"messages": ["\u0436"]}, bare=bare) == text


def test_what_is_left_of_a_long_bare_payload_says_what_it_is() -> None:
    shortened = json.loads(fitted(payload_of({"text": "x" * LONGEST_STRING}, bare=True)))
    assert shortened["body"]["beginning"].startswith('{"text":"xxx')


class TestLongJsonRpc:
    """What is left of a JSON-RPC message is one: the service discards the record of a call with another answer."""

    LONG = "x y" * LONGEST_STRING

    def test_a_result_keeps_its_frame(self) -> None:
        message = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": self.LONG}]}}
        payload = payload_of(message, bare=True)
        cut = json.loads(fitted(payload))
        assert cut.keys() == message.keys()
        assert (cut["jsonrpc"], cut["id"]) == ("2.0", 1)
        assert cut["result"]["x-akto-truncated"] == f"{units(payload)} characters"
        assert cut["result"]["beginning"].startswith('{"content":[{"type":"text","text":"x yx y')

    def test_a_tool_call_keeps_method_and_name(self) -> None:
        params = {"name": "search", "arguments": {"query": self.LONG}}
        message = {"jsonrpc": "2.0", "method": "tools/call", "params": params, "id": 1}
        cut = json.loads(fitted(payload_of(message, bare=True)))
        assert {**cut, "params": None} == {**message, "params": None}
        assert cut["params"]["name"] == "search"
        assert cut["params"]["arguments"]["beginning"].startswith('{"query":"x y')

    def test_any_other_call_keeps_its_method(self) -> None:
        message = {"jsonrpc": "2.0", "id": "a", "method": "message/send", "params": {"text": self.LONG}}
        cut = json.loads(fitted(payload_of(message, bare=True)))
        assert {**cut, "params": None} == {**message, "params": None}
        assert cut["params"]["beginning"].startswith('{"text":"x y')

    def test_one_that_the_service_refused_stays_one(self) -> None:
        call = {"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "f", "arguments": {}}, "id": 1}
        result = {"jsonrpc": "2.0", "id": 1, "result": {"content": ["x" * 9_000]}}
        payloads = {"requestPayload": json_text(call), "responsePayload": json_text(result)}
        cut = json.loads(cut_record(json.dumps(payloads).encode()))
        assert json.loads(cut["requestPayload"])["params"]["name"] == "f"
        answer = json.loads(cut["responsePayload"])
        assert answer["result"]["x-akto-truncated"] == "refused by the service"
        assert len(answer["result"]["beginning"]) == 4_000

    @pytest.mark.parametrize("rest", [{"id": "x" * LONGEST_STRING, "params": {}}, {"error": "x" * LONGEST_STRING}])
    def test_what_cannot_keep_its_frame_is_cut_like_any_other(self, rest: dict[str, Any]) -> None:
        payload = payload_of({"jsonrpc": "2.0", **rest}, bare=True)
        assert payload.startswith(json.loads(fitted(payload))["body"]["beginning"])


class TestToolTags:
    """The tags of tool calls."""

    def test_those_of_an_mcp_call_make_its_host_an_mcp_server_and_no_agent(self) -> None:
        assert mcp_tags_of(SENDER, identity(), server="github", tool="search") == {
            "mcp-server": "MCP Server",
            "mcp-client": "litellm",
            "mcp_server_name": "github",
            "tool_name": "search",
            "call_type": "tool_call",
            "litellm_call_id": "call-1",
        }

    def test_what_is_not_known_of_an_mcp_call_is_left_out(self) -> None:
        tags = mcp_tags_of(SENDER, identity(call_id=""), server="", tool="search")
        assert tags.keys() == {"mcp-server", "mcp-client", "tool_name", "call_type"}

    def test_an_mcp_call_that_is_only_watched_says_so(self) -> None:
        watching = Sender(account_id="1", vxlan_id="0", context_source="AGENTIC", observing=True)
        assert mcp_tags_of(watching, identity(), server="s", tool="t")["mode"] == "observe"

    def test_those_of_an_ordinary_tool_call_are_the_requests_and_its_name(self) -> None:
        tags = {"gen-ai": "Gen AI", "call_type": "acompletion", "key_alias": "key"}
        assert tool_tags_of(tags, tool="search") == {**tags, "call_type": "tool_call", "tool_name": "search"}
        assert tags["call_type"] == "acompletion"

    def test_a_tool_without_a_name_has_no_tag_for_it(self) -> None:
        assert tool_tags_of({}, tool="") == {"call_type": "tool_call"}

    @pytest.mark.parametrize("name", ["tool_name", "mcp_server_name"])
    def test_they_are_kept_short(self, name: str) -> None:
        long = "x" * 5000
        assert mcp_tags_of(SENDER, identity(), server=long, tool=long)[name] == "x" * 200
        assert tool_tags_of({}, tool=long)["tool_name"] == "x" * 200
