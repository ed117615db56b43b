"""RESPONSE_GUARDRAILS: no answer of a model or a tool reaches the client before Akto has seen it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anthropic
import openai
import pytest
import requests
from testcontainers.core.network import Network

from integration.containers import READY_SECONDS, GuardedProxy, MockAkto, MockLlm, chat_body
from integration.routes import ENVIRONMENT, ROUTES, Route, all_routes_config, exchanges
from integration.test_chat import BLOCK_MESSAGE, answer_body, sent_body
from integration.test_routes import skip_before
from integration.test_verdicts import FIXTURES, chat_of_the_fixtures, load

BENIGN = "Hello from the mock model."
BAD = "That is what zebra-block means."
# Ids have any four digits in them now and then.
NUMBER = "4111-1111-1111-1111"
CARD = f"Your card {NUMBER} was charged."
MASKED = "Your card <CREDIT_CARD> was charged."
LONG = " ".join(f"word{number}" for number in range(700))


@dataclass(frozen=True)
class Api:
    """One API of the proxy: `body` asks it, and `text_of` finds what the model said in a whole answer."""

    name: str
    path: str
    body: dict[str, Any]
    text_of: Callable[[dict[str, Any]], str]
    arguments_of: Callable[[dict[str, Any]], Any] | None = None
    stream_path: str = ""


def asked(path: str, field: str, text: str, **more: Any) -> dict[str, Any]:
    value: Any = text
    if field == "messages":
        value = [{"role": "user", "content": text}]
    if field == "contents":
        value = [{"role": "user", "parts": [{"text": text}]}]
    return {field: value, **more}


APIS = [
    Api(
        "chat",
        "/v1/chat/completions",
        {"model": "gpt-4o-mini"},
        lambda answer: answer["choices"][0]["message"]["content"],
        lambda answer: json.loads(answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]),
    ),
    Api("completions", "/v1/completions", {"model": "instruct"}, lambda answer: answer["choices"][0]["text"]),
    Api(
        "Responses",
        "/v1/responses",
        {"model": "gpt-4o-mini"},
        lambda answer: answer["output"][0]["content"][0]["text"],
        lambda answer: json.loads(answer["output"][0]["arguments"]),
    ),
    Api(
        "messages",
        "/v1/messages",
        {"model": "claude", "max_tokens": 9},
        lambda answer: answer["content"][0]["text"],
        lambda answer: answer["content"][0]["input"],
    ),
    Api(
        "messages of an OpenAI model",
        "/v1/messages",
        {"model": "gpt-4o-mini", "max_tokens": 9},
        lambda answer: answer["content"][0]["text"],
        lambda answer: answer["content"][0]["input"],
    ),
    Api(
        "Gemini",
        "/v1beta/models/gemini:generateContent",
        {},
        lambda answer: answer["candidates"][0]["content"]["parts"][0]["text"],
        lambda answer: answer["candidates"][0]["content"]["parts"][0]["functionCall"]["args"],
        "/v1beta/models/gemini:streamGenerateContent?alt=sse",
    ),
]
FIELDS = {"completions": "prompt", "Responses": "input", "Gemini": "contents"}
every_api = pytest.mark.parametrize("api", APIS, ids=lambda api: api.name)


def request_to(api: Api, text: str = "hello", *, stream: bool = False) -> tuple[str, dict[str, Any]]:
    body = asked(api.path, FIELDS.get(api.name, "messages"), text, **api.body)
    if stream and api.stream_path:
        return api.stream_path, body
    return api.path, body | ({"stream": True} if stream else {})


StartGuarded = Callable[..., GuardedProxy]


@pytest.fixture(scope="module")
def start_once(
    network: Network, session_akto: MockAkto, session_llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartGuarded]:
    """A proxy that serves every API and checks answers, started once for each set of further variables."""
    started: dict[tuple[tuple[str, str], ...], GuardedProxy] = {}

    def start(**env: str) -> GuardedProxy:
        wanted = tuple(sorted(env.items()))
        if wanted not in started:
            config = all_routes_config()
            environment = {**ENVIRONMENT, "RESPONSE_GUARDRAILS": "true", **env}
            proxy = GuardedProxy(network, tmp_path_factory.mktemp("config"), config=config, env=environment)
            proxy.container.start()
            started[wanted] = proxy.wait_until_ready("/health/readiness", READY_SECONDS)
        return started[wanted]

    yield start
    for proxy in started.values():
        proxy.stop()


@pytest.fixture
def guarded(start_once: StartGuarded, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    """Answers are checked; streams are held until they were."""
    return start_once()


@pytest.fixture
def windowed(start_once: StartGuarded, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    """Streams are released in checked windows."""
    return start_once(STREAM_GUARD="window")


@pytest.fixture(params=["buffer", "window"])
def either(request: pytest.FixtureRequest, start_once: StartGuarded, akto: MockAkto, llm: MockLlm) -> GuardedProxy:
    return start_once() if request.param == "buffer" else start_once(STREAM_GUARD="window")


def events_of(text: str) -> list[dict[str, Any]]:
    data = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    return [json.loads(each) for each in data if each != "[DONE]"]


def streamed_text(text: str) -> str:
    """What a stream of any of the APIs says, put together from its deltas."""
    said = []
    for event in events_of(text):
        choices = event.get("choices", [])
        said += [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
        said += [part.get("text", "") for each in event.get("candidates", []) for part in each["content"]["parts"]]
        delta = event.get("delta")
        said.append(delta if isinstance(delta, str) else (delta or {}).get("text", ""))
    return "".join(said)


def without_chance(text: str) -> str:
    """A stream without ids and times, which differ from one to the next."""
    return re.sub(r'"(id|item_id|created|created_at|response_id|responseId)": ?("[^"]*"|\d+)', r'"\1":0', text)


@every_api
def test_a_benign_answer_is_checked_once_with_its_request_as_context(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api
) -> None:
    path, body = request_to(api)
    response = guarded.post(path, body)
    assert response.status_code == 200, response.text
    assert api.text_of(response.json()) == BENIGN
    (record,) = akto.wait_for("record", 1)
    (check,), (answer,) = akto.calls("check"), akto.calls("answer")
    assert answer["query"] == {"akto_connector": "litellm", "response_guardrails": "true"}
    assert answer["body"]["requestPayload"] == check["body"]["requestPayload"]
    assert answer["body"]["path"] == check["body"]["path"]
    assert json.loads(answer["body"]["requestHeaders"])["host"] == "checkout-agent"
    assert BENIGN in answer["body"]["responsePayload"]
    assert answer_body(answer) == answer_body(record)


@every_api
def test_a_blocked_answer_never_reaches_the_client(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api
) -> None:
    llm.says(text=BAD)
    path, body = request_to(api)
    response = guarded.post(path, body)
    assert response.status_code == 403
    assert response.json()["error"]["message"] == BLOCK_MESSAGE
    assert "zebra" not in response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"
    recorded = answer_body(record)
    assert (recorded["x-blocked-by"], recorded["reason"]) == ("Akto Proxy", "Prompt injection detected")
    assert BAD in json.dumps(recorded["answer"])


@every_api
def test_a_mask_is_applied_to_the_answer_and_to_nothing_else(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api
) -> None:
    llm.says(text=CARD)
    path, body = request_to(api)
    response = guarded.post(path, body)
    assert response.status_code == 200, response.text
    masked = response.json()
    assert api.text_of(masked) == MASKED
    (record,) = akto.wait_for("record", 1)
    assert MASKED in record["body"]["responsePayload"]
    assert "4111-1111" not in record["body"]["responsePayload"]
    llm.says(text=MASKED)
    unmasked = guarded.post(path, body).json()
    assert without_chance(json.dumps(masked)) == without_chance(json.dumps(unmasked))
    akto.wait_for("record", 2)


def test_log_probabilities_do_not_say_what_was_masked(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=CARD)
    choice = guarded.chat("hello", logprobs=True).json()["choices"][0]
    assert choice["message"]["content"] == MASKED
    assert not choice.get("logprobs")
    (record,) = akto.wait_for("record", 1)
    assert NUMBER not in record["body"]["responsePayload"]
    llm.says(text=MASKED)
    tokens = guarded.chat("hello", logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == MASKED
    akto.wait_for("record", 2)


@pytest.mark.parametrize("api", [api for api in APIS if api.arguments_of], ids=lambda api: api.name)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_arguments_of_tool_calls_are_checked(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api, stream: bool
) -> None:
    path, body = request_to(api, "call a tool", stream=stream)
    for arguments in ({"note": BAD}, {BAD: 4}, {"signature": BAD}):
        llm.says(arguments=json.dumps(arguments))
        response = guarded.post(path, body)
        assert "zebra" not in response.text
        if not stream:
            assert response.status_code == 403

    llm.says(arguments=json.dumps({"note": CARD, "n": 1}))
    response = guarded.post(path, body)
    assert response.status_code == 200, response.text
    assert "4111-1111" not in response.text
    assert "CREDIT_CARD" in response.text
    if not stream:
        assert api.arguments_of is not None
        assert api.arguments_of(response.json()) == {"note": MASKED, "n": 1}


@every_api
def test_a_benign_stream_arrives_as_litellm_would_have_sent_it(
    either: GuardedProxy, shared_proxy: Callable[..., GuardedProxy], start_once: StartGuarded, akto: MockAkto, api: Api
) -> None:
    path, body = request_to(api, stream=True)
    plain = start_once(RESPONSE_GUARDRAILS="false").post(path, body)
    akto.wait_for("record", 1)
    akto.reset()
    checked = either.post(path, body)
    assert checked.status_code == 200
    assert checked.headers["content-type"] == plain.headers["content-type"]
    assert without_chance(checked.text) == without_chance(plain.text)
    assert streamed_text(checked.text) == BENIGN
    akto.wait_for("record", 1)
    assert len(akto.calls("answer")) == 1


@every_api
def test_a_blocked_stream_lets_nothing_out(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api) -> None:
    llm.says(text=f"{LONG} {BAD}")
    path, body = request_to(api, stream=True)
    response = guarded.post(path, body)
    assert "word1" not in response.text
    assert BLOCK_MESSAGE in response.text
    if api.name == "Responses":
        # This API has its errors in the stream.
        assert [event["type"] for event in events_of(response.text)] == ["response.created", "response.failed"]
    else:
        assert response.status_code == 403
        assert response.headers["content-type"].startswith("application/json")
        assert response.json()["error"]["message"] == BLOCK_MESSAGE
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"
    assert "zebra-block" in json.dumps(answer_body(record)["answer"])


@every_api
def test_masks_are_applied_to_streams(either: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api) -> None:
    llm.says(text=f"{CARD} {LONG} {CARD}")
    path, body = request_to(api, stream=True)
    response = either.post(path, body)
    assert response.status_code == 200
    assert streamed_text(response.text) == f"{MASKED} {LONG} {MASKED}"
    assert "4111-1111" not in response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["responsePayload"].count("<CREDIT_CARD>") == 2
    assert "4111-1111" not in record["body"]["responsePayload"]


@every_api
@pytest.mark.parametrize("start", [982, 987, 992, 997])
def test_a_mask_across_the_edge_of_a_window_is_applied(
    windowed: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api, start: int
) -> None:
    """The first window ends at about 1,000 characters, within the number, which comes in several pieces."""
    llm.says(text=f"{LONG[:start]} 4111-1111-1111-1111 {LONG}", size=4)
    path, body = request_to(api, stream=True)
    response = windowed.post(path, body)
    assert streamed_text(response.text) == f"{LONG[:start]} <CREDIT_CARD> {LONG}"
    assert len(akto.calls("answer")) > 2, "the answer was checked in several windows"


@every_api
def test_a_block_in_a_later_window_ends_the_stream_with_an_error_of_the_api(
    windowed: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api
) -> None:
    llm.says(text=f"{LONG} {BAD} {LONG}")
    path, body = request_to(api, stream=True)
    response = windowed.post(path, body)  # requests raises when the connection is cut
    assert response.status_code == 200
    said = streamed_text(response.text)
    assert said
    assert LONG.startswith(said)
    assert "zebra" not in response.text
    assert BLOCK_MESSAGE in response.text
    last = events_of(response.text)[-1]
    if api.path == "/v1/messages":
        assert (last["type"], last["error"]["type"]) == ("error", "permission_error")
    elif api.name == "Responses":
        assert last["type"] == "response.failed"
    elif api.name == "Gemini":
        first = next(event["error"] for event in events_of(response.text) if "error" in event)
        assert first == {"code": 403, "message": BLOCK_MESSAGE, "status": "PERMISSION_DENIED"}
    else:
        assert last["error"]["code"] in ("403", 403)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"
    recorded = answer_body(record)
    assert "zebra-block" in json.dumps(recorded["answer"])
    assert said in json.dumps(recorded["released"]), "what the client got is recorded, too"


def test_a_stream_whose_choices_litellm_mixes_up_is_refused(either: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    instruct = {"model": "instruct", "stream": True}
    for path, body in (
        ("/v1/completions", {"prompt": "hello", "n": 2}),
        ("/v1/completions", {"prompt": ["hello", "bye"]}),
        ("/v1/chat/completions", chat_body("hello", n=2)),
    ):
        akto.reset()
        response = either.post(path, {**body, **instruct})
        assert response.status_code == 400
        assert "several choices" in response.json()["error"]["message"]
        (record,) = akto.wait_for("record", 1)
        assert record["body"]["statusCode"] == "400"
    assert not any("completions" in request["path"] for request in llm.requests())
    assert either.post("/v1/completions", {"prompt": ["hello"], **instruct}).status_code == 200


def test_text_comes_out_before_the_stream_has_ended(windowed: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=" ".join("word" * 120 for _ in range(8)))
    response = windowed.post("/v1/chat/completions", chat_body("slowly", stream=True), stream=True)
    came = [(time.monotonic(), line) for line in response.iter_lines() if line]
    with_text = [moment for moment, line in came if b"wordword" in line]
    assert len(with_text) == 8
    assert came[-1][1] == b"data: [DONE]"
    assert with_text[-1] - with_text[0] > 3, "the first text came seconds before the last"


@pytest.mark.parametrize("api", APIS[:2], ids=lambda api: api.name)
def test_a_stream_is_read_no_further_when_its_client_has_left(
    windowed: GuardedProxy, akto: MockAkto, llm: MockLlm, api: Api
) -> None:
    llm.says(text=LONG, size=400)
    path, body = request_to(api, "slowly", stream=True)
    with windowed.post(path, body, stream=True) as response:
        next(line for line in response.iter_lines() if b"word1" in line)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "499"
    (asked,) = llm.requests()
    time.sleep(2.5)  # the model says a part a second
    assert llm.requests()[0]["parts"] <= asked["parts"] + 1 < 10


@pytest.mark.parametrize(
    ("fallback", "status"), [("fail_open", 200), ("fail_closed", 503)], ids=["fail open", "fail closed"]
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_without_a_verdict_on_the_answer_the_fallback_decides(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, fallback: str, status: int, stream: bool
) -> None:
    proxy = start_once(**({"UNREACHABLE_FALLBACK": fallback} if fallback == "fail_closed" else {}))
    akto.answer("answer", {"status": 500, "body": {}})
    response = proxy.chat("hello", stream=stream)
    assert response.status_code == status
    assert (BENIGN.split(" ", maxsplit=1)[0] in response.text) is (status == 200)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == str(status)


def test_the_example_of_a_masked_answer(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    fixture = load(FIXTURES / "response-modify-response.json")
    ((raw, masked),) = fixture["expect"]["text_changes"]
    llm.says(text=raw)
    plain = guarded.post("/v1/chat/completions", chat_of_the_fixtures())
    assert plain.status_code == 200
    (sent,) = akto.calls("answer")
    akto.reset()
    # The service gives back what it was sent, masked; ids and counts in the example are those of its own answer.
    result = fixture["http"]["body"]["data"]["guardrailsResult"]
    result["ModifiedPayload"] = sent["body"]["responsePayload"].replace(raw, masked)
    assert masked in json.loads(json.dumps(fixture))["http"]["body"]["data"]["guardrailsResult"]["ModifiedPayload"]
    akto.answer("answer", fixture["http"])
    answer = guarded.post("/v1/chat/completions", chat_of_the_fixtures())
    assert answer.json()["choices"][0]["message"]["content"] == masked


def test_an_alert_on_an_answer_lets_it_pass_and_is_logged(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text="zebra-alert")
    assert guarded.chat("hello").json()["choices"][0]["message"]["content"] == "zebra-alert"
    assert "flagged" in guarded.guard_log()


def test_a_long_answer_is_checked_in_portions(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=f"{LONG * 60} {CARD}")
    answer = guarded.chat("hello").json()["choices"][0]["message"]["content"]
    assert answer == f"{LONG * 60} {MASKED}"
    assert len(akto.calls("answer")) == 2
    assert [call["status"] for call in akto.calls("answer")] == [200, 200]


def test_several_models_at_once_are_all_checked(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=CARD)
    response = guarded.chat("hello", model="gpt-4o-mini,claude")
    assert response.status_code == 200
    assert [each["choices"][0]["message"]["content"] for each in response.json()] == [MASKED, MASKED]


def test_a_refused_answer_raises_what_the_sdks_raise(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=BAD)
    with pytest.raises(openai.PermissionDeniedError, match="Prompt injection"):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="sk.a", max_retries=0).chat.completions.create(
            model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}]
        )
    claude = anthropic.Anthropic(base_url=guarded.url, api_key="sk.a", max_retries=0)
    with pytest.raises(anthropic.PermissionDeniedError, match="Prompt injection"):
        claude.messages.create(model="claude", max_tokens=9, messages=[{"role": "user", "content": "hello"}])


def test_a_refused_stream_raises_in_the_sdks(windowed: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=f"{LONG} {BAD}")
    client = openai.OpenAI(base_url=f"{windowed.url}/v1", api_key="sk.a", max_retries=0)
    messages: Any = [{"role": "user", "content": "hello"}]
    with pytest.raises(openai.APIError, match="Prompt injection"):
        list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
    claude = anthropic.Anthropic(base_url=windowed.url, api_key="sk.a", max_retries=0)
    with pytest.raises(anthropic.APIStatusError, match="Prompt injection"):  # noqa: SIM117
        with claude.messages.stream(model="claude", max_tokens=9, messages=messages) as stream:
            list(stream.text_stream)


def test_a_held_stream_that_is_refused_fails_in_the_sdk_as_a_response(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    llm.says(text=BAD)
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="sk.a", max_retries=0)
    with client.responses.stream(model="gpt-4o-mini", input="hello") as stream:
        *_, last = stream
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert last.response.error.message == BLOCK_MESSAGE


each_mode = pytest.mark.parametrize("mode", [{}, {"STREAM_GUARD": "window"}], ids=["buffer", "window"])


@each_mode
def test_thoughts_are_masked_wherever_litellm_writes_them(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, mode: dict[str, str]
) -> None:
    """Of another API's thoughts it makes a summary, and JSON in the place of encrypted ones."""
    llm.says(text=CARD)
    body = {"model": "claude", "input": "think aloud", "stream": True}
    response = start_once(**mode).post("/v1/responses", body)
    assert response.status_code == 200, response.text
    assert NUMBER not in response.text, (response.headers, response.text)
    last = events_of(response.text)[-1]
    assert last["type"] == "response.completed"
    thoughts = next(item for item in last["response"]["output"] if item["type"] == "reasoning")
    assert json.loads(thoughts["encrypted_content"])[0]["thinking"] == MASKED


def test_thoughts_in_a_whole_answer_are_masked_wherever_litellm_writes_them(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    llm.says(text=CARD)
    response = guarded.post("/v1/responses", {"model": "claude", "input": "think aloud"})
    assert response.status_code == 200, response.text
    assert NUMBER not in response.text, (response.headers, response.text)
    thoughts = next(item for item in response.json()["output"] if item["type"] == "reasoning")
    assert json.loads(thoughts["encrypted_content"])[0]["thinking"] == MASKED


@each_mode
@pytest.mark.parametrize(("said", "expected"), [(BENIGN, BENIGN), (CARD, MASKED), (BAD, "")])
def test_a_tools_arguments_in_parts_go_on_from_event_to_event(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, mode: dict[str, str], said: str, expected: str
) -> None:
    llm.says(text=said, size=5)
    body = asked("", "contents", "arguments in parts")
    response = start_once(**mode).post("/v1beta/models/gemini:streamGenerateContent?alt=sse", body)
    events = events_of(response.text)
    parts = [part for event in events for each in event.get("candidates", ()) for part in each["content"]["parts"]]
    arguments = [argument for part in parts for argument in part["functionCall"].get("partialArgs", ())]
    assert "".join(argument["stringValue"] for argument in arguments) == expected
    assert (BLOCK_MESSAGE in response.text) == (said == BAD)
    if said == BAD:
        return
    record, call = (each["body"] for each in akto.wait_for("record", 2))
    assert NUMBER not in json.dumps(record)
    assert call["path"] == "/tool/get_weather"
    assert json.loads(call["requestPayload"])["body"] == {"note": expected}


@each_mode
@pytest.mark.parametrize("said", [BENIGN, CARD])
def test_the_rest_of_a_stored_answer_is_refused_where_it_would_have_to_be_masked(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, mode: dict[str, str], said: str
) -> None:
    """It begins in the middle of the card's number, of which a mask of the whole would leave the end."""
    proxy = start_once(**mode)
    skip_before(proxy, "1.110.2")
    made = proxy.post("/v1/responses", {"model": "gpt-4o-mini", "input": "hello", "background": True})
    llm.says(text=said, size=9)
    path = f"/v1/responses/{made.json()['id']}?stream=true&starting_after=2"
    headers = {"Authorization": "Bearer sk.checkout-agent"}
    text = requests.get(f"{proxy.url}{path}", headers=headers, timeout=30).text
    assert "1-1111-11" not in text
    is_refused = "Blocked by Akto Guardrails" in text
    assert is_refused == (said == CARD), text
    assert is_refused or "response.completed" in text


def test_mcp_tools_that_litellm_runs_for_a_stream_are_recorded_once(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    """Under the server's own name, and not under `litellm`, as the stream calls all servers, as well."""
    llm.says(tool="github-tell", arguments="{}")
    tool = {"type": "mcp", "server_label": "litellm", "server_url": "litellm_proxy", "require_approval": "never"}
    body = {"model": "gpt-4o-mini", "input": "call a tool", "tools": [tool], "stream": True}
    response = guarded.post("/v1/responses", body)
    assert '"mcp_call"' in response.text, response.text
    assert BENIGN in response.text
    akto.wait_for("record", 2)
    # A second one would come with the record of the whole answer.
    time.sleep(1)
    hosts = [json.loads(call["body"]["requestHeaders"])["host"] for call in akto.calls("record")]
    assert sorted(host for host in hosts if host != "checkout-agent") == ["checkout-agent.litellm.github"]


def to_agent(method: str) -> dict[str, Any]:
    message = {"kind": "message", "messageId": "m-1", "role": "user", "parts": [{"kind": "text", "text": "hello"}]}
    return {"jsonrpc": "2.0", "id": "1", "method": method, "params": {"message": message}}


@each_mode
@pytest.mark.parametrize(("said", "expected"), [(BENIGN, BENIGN), (CARD, MASKED), (BAD, "")])
def test_an_agents_text_goes_on_from_event_to_event(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, mode: dict[str, str], said: str, expected: str
) -> None:
    llm.says(text=said, size=5)
    response = start_once(**mode).post("/a2a/helper", to_agent("message/stream"))
    events = events_of(response.text)
    artifacts = [event["result"]["artifact"] for event in events if "artifact" in event.get("result", {})]
    assert "".join(artifact["parts"][0]["text"] for artifact in artifacts) == expected
    assert (BLOCK_MESSAGE in response.text) == (said == BAD)
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == ("403" if said == BAD else "200")
    assert NUMBER not in json.dumps(record["body"])


def test_an_agents_refused_answer_has_its_status(guarded: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=BAD)
    response = guarded.post("/a2a/helper", to_agent("message/send"))
    assert response.status_code == 403, response.text
    assert BLOCK_MESSAGE in response.text
    (record,) = akto.wait_for("record", 1)
    assert record["body"]["statusCode"] == "403"


def tell(proxy: GuardedProxy) -> dict[str, Any]:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "github-tell", "arguments": {}}}
    headers = {"Authorization": "Bearer sk.checkout-agent", "Accept": "application/json, text/event-stream"}
    text = requests.post(f"{proxy.url}/mcp/", json=message, headers=headers, timeout=30).text
    answer = events_of(text)[-1] if "data:" in text else json.loads(text)
    assert "result" in answer, answer
    return answer["result"]


@pytest.mark.parametrize(("told", "expected"), [(BENIGN, BENIGN), (CARD, MASKED), (BAD, BLOCK_MESSAGE)])
def test_results_of_mcp_tools_are_checked(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, told: str, expected: str
) -> None:
    llm.says(text=told)
    result = tell(guarded)
    assert [part["text"] for part in result["content"]] == [expected]
    assert result["isError"] is (told == BAD)
    (record,) = akto.wait_for("record", 1)
    (answer,) = akto.calls("answer")
    assert json.loads(answer["body"]["responsePayload"])["result"]["content"][0]["text"] == told
    assert record["body"]["statusCode"] == ("403" if told == BAD else "200")
    payload = json.loads(record["body"]["responsePayload"])
    assert payload["jsonrpc"] == "2.0"
    assert ("x-blocked-by" in payload["result"]) is (told == BAD)
    assert "4111-1111" not in record["body"]["responsePayload"]
    if told != BAD:
        assert payload["result"]["content"][0]["_meta"] == {"by": "tell"}


def test_the_record_of_a_long_mcp_result_is_cut_and_stays_json_rpc(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm
) -> None:
    llm.says(text=LONG * 60)
    assert tell(guarded)["content"][0]["text"] == LONG * 60
    (record,) = akto.wait_for("record", 1)
    payload = json.loads(record["body"]["responsePayload"])
    assert (payload["jsonrpc"], payload["id"]) == ("2.0", 1)
    assert payload["result"]["x-akto-truncated"].endswith(" characters")
    assert payload["result"]["beginning"].startswith('{"content":[{"type":"text","text":"word0 word1')


@pytest.mark.parametrize("route", [route for route in ROUTES if not route.needs], ids=lambda route: route.name)
def test_the_answers_that_are_said_to_be_checked_are(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, route: Route
) -> None:
    request = next(iter(route.places.values()))("a harmless question")
    assert route.is_answered(route.send(guarded, route.path, request))
    akto.wait_for("record", exchanges(request))
    assert len(akto.calls("answer")) == route.answer_checked


@pytest.mark.parametrize(("told", "status"), [(BENIGN, 200), (CARD, 200), (BAD, 403)])
def test_an_answer_made_in_the_background_is_checked_when_it_is_fetched(
    guarded: GuardedProxy, akto: MockAkto, llm: MockLlm, told: str, status: int
) -> None:
    llm.says(text=told)
    made = guarded.post("/v1/responses", {"model": "gpt-4o-mini", "input": "hello", "background": True})
    assert made.json()["status"] == "queued"
    akto.wait_for("record", 1)
    assert akto.calls("answer") == []
    headers = {"Authorization": "Bearer sk.checkout-agent"}
    fetched = requests.get(f"{guarded.url}/v1/responses/{made.json()['id']}", headers=headers, timeout=30)
    assert fetched.status_code == status
    assert "4111-1111" not in fetched.text
    assert ("zebra-block" in fetched.text) is False
    if told == CARD:
        assert MASKED in fetched.text
    assert akto.wait_for("record", 2)[1]["body"]["statusCode"] == str(status)
    assert len(akto.calls("answer")) == 1
    assert len(akto.calls("check")) == 1


def test_watching_only_lets_answers_pass_and_checks_them_beside(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm
) -> None:
    proxy = start_once(SYNC_MODE="false")
    llm.says(text=BAD)
    assert proxy.chat("hello").json()["choices"][0]["message"]["content"] == BAD
    akto.wait_for("answer", 1)
    akto.wait_for("record", 1)
    assert "violation seen, not enforced" in proxy.guard_log()


def test_a_held_stream_shows_signs_of_life(
    network: Network, akto: MockAkto, llm: MockLlm, tmp_path_factory: pytest.TempPathFactory
) -> None:
    config = all_routes_config()
    config["litellm_settings"]["sse_keepalive_ping_interval_seconds"] = 1
    directory = tmp_path_factory.mktemp("config")
    proxy = GuardedProxy(network, directory, config=config, env={**ENVIRONMENT, "RESPONSE_GUARDRAILS": "true"})
    proxy.container.start()
    try:
        proxy.wait_until_ready("/health/readiness", READY_SECONDS)
        lines = proxy.post("/v1/chat/completions", chat_body("slowly", stream=True)).text.splitlines()
    finally:
        proxy.stop()
    assert lines[0].startswith(": ")
    assert streamed_text("\n".join(lines)) == BENIGN


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_tool_calls_of_gemini_are_recorded_with_all_their_arguments(
    start_once: StartGuarded, akto: MockAkto, llm: MockLlm, stream: bool
) -> None:
    llm.says(arguments='{"city": "Paris", "days": 2, "exact": true}')
    path, body = request_to(APIS[-1], "call a tool", stream=stream)
    assert start_once().post(path, body).status_code == 200
    _, call = akto.wait_for("record", 2)
    assert call["body"]["path"] == "/tool/get_weather"
    arguments = {"city": "Paris", "days": 2, "exact": True}
    assert json.loads(call["body"]["requestPayload"]) == {"body": arguments, "toolName": "get_weather"}


def test_without_the_setting_answers_are_not_checked(proxy: GuardedProxy, akto: MockAkto, llm: MockLlm) -> None:
    llm.says(text=BAD)
    assert proxy.chat("hello").json()["choices"][0]["message"]["content"] == BAD
    (record,) = akto.wait_for("record", 1)
    assert akto.calls("answer") == []
    assert sent_body(record) == chat_body("hello")
