"""The mock Akto's page: what it says of each call, that it shows hostile text as text, and that it forgets."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer

from mock_akto.__main__ import main
from mock_akto.calls import Calls
from mock_akto.faults import FAULTS
from mock_akto.policy import MOST_SESSIONS, Policy, verdict
from mock_akto.service import STATE, application
from mock_akto.shown import DEFAULT_COLLECTION, collection_of, decision_of, readable, shown, unfolded

CHECK = "/api/http-proxy?akto_connector=litellm&guardrails=true"
RECORD = "/api/http-proxy?akto_connector=litellm&ingest_data=true"
HTML = {"Accept": "text/html"}
HOSTILE = "<script>alert(1)</script>\"'&\u202e\ud800"
Client = TestClient[Any, Any]
ROOT = Path(__file__).resolve().parents[2]


def envelope(text: str = "Hello", host: str = "planner", **changes: Any) -> dict[str, Any]:
    payload = {"body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}]}}
    headers = {"host": host, "x-session-id": "session-1", "x-litellm-call-id": "call-1"}
    return {
        "path": "/v1/chat/completions",
        "requestHeaders": json.dumps(headers),
        "requestPayload": json.dumps(payload),
        "statusCode": "200",
        "tag": json.dumps({"model": "gpt-4o-mini"}),
    } | changes


def with_mock(test: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        async with TestClient(TestServer(application())) as client:
            await test(client)

    asyncio.run(main())


async def page(client: Client, path: str = "/") -> str:
    answer = await client.get(path, headers=HTML)
    assert answer.status == 200
    return await answer.text()


async def post(client: Client, action: str, site: str | None = "same-origin", **form: str) -> int:
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    answer = await client.post(f"/_mock/page/{action}", data=form, headers=headers, allow_redirects=False)
    return answer.status


def decisions(text: str) -> list[str]:
    """The decisions in the list, newest first."""
    return re.findall(r'<span class="decision"><b class="\w+">(.*?)</b>', text)


def test_browsers_get_the_page_and_others_the_services_health() -> None:
    async def test(client: Client) -> None:
        assert "<h1>" in await page(client)
        assert await (await client.get("/")).json() == {"success": True}

    with_mock(test)


def test_calls_are_listed_newest_first_with_who_sent_what() -> None:
    async def test(client: Client) -> None:
        for text in ("Hello", "zebra-block", "zebra-alert", "4111-1111-1111-1111"):
            # Without headers the session would stay blocked.
            await client.post(CHECK, json=envelope(text, requestHeaders='{"host": "Search_Agent"}'))
        await client.post(RECORD, json=envelope(statusCode="403"))
        listed = await page(client)
        assert decisions(listed) == ["403", "masked", "flagged: alert", "blocked", "allowed"]
        for part in (
            "search-agent",
            "planner",
            "gpt-4o-mini",
            "/v1/chat/completions",
            "session session-1",
            "call call-1",
        ):
            assert part in listed
        assert "4 checks, 1 blocked, 0 records" in listed
        assert decisions(await page(client, "/?collection=planner")) == ["403"]

    with_mock(test)


def test_an_envelope_is_shown_with_its_payloads_unfolded() -> None:
    async def test(client: Client) -> None:
        await client.post(CHECK, json=envelope("zebra-block"), headers={"Authorization": "a-token"})
        shown_page = await page(client, "/_mock/page/call/1")
        assert "&quot;content&quot;: &quot;zebra-block&quot;" in shown_page
        assert "&quot;Reason&quot;: &quot;Prompt injection detected&quot;" in shown_page
        assert "a-token" not in shown_page
        assert (await client.get("/_mock/page/call/2", headers=HTML)).status == 404

    with_mock(test)


def test_hostile_text_is_text_wherever_it_stands() -> None:
    async def test(client: Client) -> None:
        app = client.app
        assert app is not None
        headers = {"host": HOSTILE, "x-session-id": HOSTILE, "x-litellm-call-id": HOSTILE}
        hostile = envelope(
            HOSTILE,
            path=HOSTILE,
            statusCode=HOSTILE,
            requestHeaders=json.dumps(headers),
            tag=json.dumps({"model": HOSTILE}),
        )
        app[STATE].policy.words[HOSTILE] = ("block", HOSTILE)
        for url in (CHECK, RECORD):
            await client.post(f"{url}&x=<script>", json=hostile)
        for path in ("/", "/_mock/page/call/1", "/_mock/page/call/2", "/?collection=%3Cscript%3E"):
            text = await page(client, path)
            assert "&lt;script&gt;" in text
            assert re.findall(r"<script[^>]*>", text) in ([], ['<script src="/_mock/page/page.js" defer>'])
            shown_text = re.sub(r'value="[^"]*"', "", text)
            assert "\u202e" not in shown_text

    with_mock(test)


BODIES: list[Any] = [None, 1, "text", [], {}, {"requestHeaders": 1, "requestPayload": [1], "path": {}, "tag": "[]"}]


@pytest.mark.parametrize("body", [*BODIES, {"requestPayload": "[" * 3000 + "]" * 3000, "tag": '{"model": 7}'}])
def test_no_body_is_too_strange_to_be_listed(body: Any) -> None:
    async def test(client: Client) -> None:
        await client.post(CHECK, json=body)
        assert len(decisions(await page(client))) == 1
        await page(client, "/_mock/page/call/1")

    with_mock(test)


@pytest.mark.parametrize(
    ("call", "label", "reason"),
    [
        ({"verdict": verdict()}, "allowed", ""),
        ({"verdict": verdict(modified=True)}, "masked", ""),
        ({"verdict": verdict(allowed=False, behaviour="block", reason="why")}, "blocked", "why"),
        ({"verdict": verdict(allowed=False, reason="why")}, "blocked", "why"),
        ({"verdict": verdict(allowed=False, behaviour="approval", reason="why")}, "blocked", "why (approval)"),
        ({"verdict": verdict(allowed=False, behaviour="warn", reason="why")}, "flagged: warn", "why"),
        ({"scripted": FAULTS["failOpen"].answer["body"]["data"]["guardrailsResult"]}, "unavailable", "failOpen"),
        ({}, "unavailable", "no verdict"),
        ({"status": 500}, "unavailable", "HTTP 500"),
        ({"status": None}, "unavailable", "broken"),
        ({"left": True, "verdict": verdict()}, "unavailable", "gone"),
        ({"milliseconds": None}, "waiting", ""),
        ({"kind": "record", "body": {"statusCode": "499"}}, "499", ""),
        ({"kind": "record", "status": 401}, "refused", "HTTP 401"),
    ],
)
def test_each_call_has_a_decision(call: dict[str, Any], label: str, reason: str) -> None:
    usual = {"kind": "check", "milliseconds": 1, "status": 200, "verdict": None, "body": {}}
    decision = decision_of(usual | call)
    assert decision.label == label
    assert reason in decision.reason


@pytest.mark.parametrize(
    ("host", "collection"),
    [
        ("Planner", "planner"),
        ("search_agent", "search-agent"),
        ("llm.example.com:4000", "llm.example.com:4000"),
        ("10.0.0.1", DEFAULT_COLLECTION),
        ("агент", DEFAULT_COLLECTION),
        (7, DEFAULT_COLLECTION),
    ],
)
def test_collections_are_named_as_akto_would(host: Any, collection: str) -> None:
    assert collection_of({"requestHeaders": json.dumps({"host": host})}) == collection


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"content": "first"}, {"content": [{"type": "text", "text": "newest"}, {"image_url": "x"}]}]},
        {"contents": [{"parts": [{"text": "newest"}]}]},
        {"input": "newest"},
        {"prompt": ["first", "newest"]},
    ],
)
def test_the_newest_text_of_any_format_is_in_the_list(body: dict[str, Any]) -> None:
    payloads = (json.dumps(body), json.dumps({"body": body}), json.dumps({"body": json.dumps(body)}))
    for payload in payloads:
        call = {"kind": "check", "collection": "a", "body": {"requestPayload": payload}}
        assert shown(call).text == "newest"


def test_texts_are_unfolded_and_made_readable() -> None:
    assert unfolded({"a": '{"b": "[1]"}', "c": "{no", "d": "3"}) == {"a": {"b": [1]}, "c": "{no", "d": "3"}
    assert readable("слово\n\u202eword\x00") == "слово\n\\u202eword\\u0000"


def test_an_unchanged_page_is_not_sent_again() -> None:
    async def test(client: Client) -> None:
        async def status(tag: str) -> int:
            return (await client.get("/", headers=HTML | {"If-None-Match": tag})).status

        tag = (await client.get("/", headers=HTML)).headers["ETag"]
        assert await status(tag) == 304
        await client.post(CHECK, json=envelope())
        assert await status(tag) == 200

    with_mock(test)


def test_a_word_set_by_the_form_is_enforced_until_it_is_removed() -> None:
    async def blocks(client: Client, text: str) -> bool:
        answer = await client.post(CHECK, json=envelope(text, requestHeaders="{}"))
        return not (await answer.json())["data"]["guardrailsResult"]["Allowed"]

    async def test(client: Client) -> None:
        said = 'Say "Okapi" now'
        assert not await blocks(client, said)
        assert await post(client, "word", word='"Okapi"', behaviour="block", reason="No okapis") == 303
        assert await blocks(client, said)
        assert "No okapis" in await page(client)
        assert await post(client, "word/remove", word='"okapi"') == 303
        assert not await blocks(client, said)

    with_mock(test)


@pytest.mark.parametrize(
    ("action", "form"),
    [
        ("word", {"word": " ", "behaviour": "block"}),
        ("word", {"word": "x" * 201, "behaviour": "block"}),
        ("word", {"word": "x", "behaviour": "burn"}),
        ("fault", {"fault": "fire"}),
    ],
)
def test_what_a_form_could_not_have_sent_is_refused(action: str, form: dict[str, str]) -> None:
    async def test(client: Client) -> None:
        assert await post(client, action, **form) == 400

    with_mock(test)


def test_faults_concern_checks_and_nothing_else() -> None:
    async def test(client: Client) -> None:
        for fault in ("500", "401", "garbage", "failOpen"):
            assert await post(client, "fault", fault=fault) == 303
            checked = await client.post(CHECK, json=envelope())
            assert checked.status == FAULTS[fault].answer.get("status", 200)
            assert (await client.post(RECORD, json=envelope())).status == 200
        await post(client, "fault", fault="reset")
        with pytest.raises(aiohttp.ClientError):
            await client.post(CHECK, json=envelope())
        assert set(decisions(await page(client))) == {"200", "unavailable"}
        await post(client, "fault", fault="")
        await client.post(CHECK, json=envelope())
        assert decisions(await page(client))[0] == "allowed"

    with_mock(test)


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none", None])
def test_forms_of_other_sites_change_nothing(site: str | None) -> None:
    async def test(client: Client) -> None:
        await client.post(CHECK, json=envelope())
        assert await post(client, "clear", site) == 403
        assert len(decisions(await page(client))) == 1

    with_mock(test)


def test_without_a_word_on_the_site_the_origin_decides() -> None:
    async def test(client: Client) -> None:
        own = str(client.make_url("/")).rstrip("/")
        for origin, status in {own: 303, "http://elsewhere.example.com": 403, "null": 403}.items():
            headers = {"Origin": origin}
            got = await client.post("/_mock/page/clear", headers=headers, allow_redirects=False)
            assert got.status == status

    with_mock(test)


def test_everything_has_a_policy_that_allows_no_script_but_the_pages_own() -> None:
    async def test(client: Client) -> None:
        for path in ("/", "/_mock/page/page.js", "/_mock/page/page.css", "/_mock/page/call/1"):
            policy = (await client.get(path, headers=HTML)).headers["Content-Security-Policy"]
            assert "default-src 'none'; script-src 'self';" in policy
            assert "unsafe" not in policy
        text = await page(client)
        assert "style=" not in text and " on" not in re.sub(r">[^<]*<", "><", text)
        assert set(re.findall(r"https?://\S+", text)) == set()

    with_mock(test)


def test_the_oldest_calls_are_forgotten_and_numbers_go_on() -> None:
    calls = Calls(most=3, most_characters=100)
    for size in (1, 1, 1, 1):
        calls.add({}, size)
    assert [call["number"] for call in calls] == [2, 3, 4]
    calls.add({}, 99)
    assert [call["number"] for call in calls] == [4, 5]
    calls.add({}, 1000)
    assert [call["number"] for call in calls] == [6], "the newest is kept however long it is"
    calls.clear()
    calls.add({}, 1)
    assert [call["number"] for call in calls] == [7]


def test_how_many_calls_are_kept_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_AKTO_KEEP", "2")

    async def test(client: Client) -> None:
        for _ in range(4):
            await client.post(CHECK, json=envelope())
        assert len(decisions(await page(client))) == 2

    with_mock(test)


@pytest.mark.parametrize("value", ["x", "0", "-1", "1.5"])
def test_a_number_of_calls_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MOCK_AKTO_KEEP", value)
    with pytest.raises(ValueError, match="is not a whole number above 0"):
        application()


def test_a_wrong_setting_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_AKTO_KEEP", "x")
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == "mock-akto: MOCK_AKTO_KEEP='x' is not a whole number above 0"


def test_blocked_sessions_are_forgotten_in_the_end_and_on_request() -> None:
    policy = Policy()
    for number in range(MOST_SESSIONS + 5):
        headers = json.dumps({"x-session-id": str(number), "x-request-id": "1"})
        policy.judge('"zebra-block"', headers)
    assert len(policy.malicious_sessions) == MOST_SESSIONS

    async def test(client: Client) -> None:
        assert client.app is not None
        client.app[STATE].policy = policy
        assert "10,000 sessions stay blocked" in await page(client)
        assert await post(client, "unblock") == 303
        assert not policy.malicious_sessions

    with_mock(test)


def test_the_picture_in_the_readme_is_there_and_small() -> None:
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+[.]png)\)", (ROOT / "README.md").read_text())
    assert (ROOT / picture).stat().st_size < 150_000
