"""Streamed answers that are let out only after they were judged."""

from __future__ import annotations

import asyncio
import copy
import json
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from akto_guardrails.content import Path, string_leaves
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.stream_guard import Window, guarded
from akto_guardrails.streaming import StreamedAnswer
from unit.samples import nested

CARD = re.compile(r"\d{4}-\d{4}")
Item = Any
BUFFER = None
SMALL = Window(characters=40, overlap=12, seconds=60)


class Blocked(Exception):
    """What a judge raises."""


class Judge:
    """Masks what a pattern matches, blocks what another one does, and notes what it was shown."""

    def __init__(self, mask: re.Pattern[str] = CARD, block: str = "FORBIDDEN", token: str = "[CARD]") -> None:
        self.bodies: list[Any] = []
        self._mask, self._block, self._token = mask, block, token

    async def __call__(self, body: object) -> Mapping[Path, str]:
        self.bodies.append(copy.deepcopy(body))
        await asyncio.sleep(0)
        leaves = string_leaves(body)
        if any(self._block in text for text in leaves.values()):
            raise Blocked
        masked = {path: self._mask.sub(self._token, text) for path, text in leaves.items()}
        return {path: text for path, text in masked.items() if text != leaves[path]}


async def stream(items: list[Item], failure: Exception | None = None) -> AsyncIterator[Item]:
    for item in items:
        yield item
    if failure is not None:
        raise failure


def released(items: list[Item], judge: Judge, window: Window | None, failure: Exception | None = None) -> list[Item]:
    """What comes out; a list of one exception at its end when one is raised."""
    out: list[Item] = []

    async def read() -> None:
        try:
            async for item in guarded(stream(items, failure), judge, window):
                out.append(item)  # noqa: PERF401 - what came before an exception counts
        except Exception as error:
            out.append(error)

    before = copy.deepcopy(items)
    asyncio.run(read())
    assert items == before, "an item was changed in place"
    return out


def chunk(index: int = 0, finish: str | None = None, **delta: object) -> SimpleNamespace:
    choice = SimpleNamespace(index=index, finish_reason=finish, delta=SimpleNamespace(**delta))
    return SimpleNamespace(id="x", object="chat.completion.chunk", model="m", choices=[choice])


def event(data: Mapping[str, object]) -> bytes:
    return f"event: {data.get('type')}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


# The kinds of streams: the items of a text in pieces, and the text that a client reads from items.


def chat(parts: list[str]) -> list[Item]:
    return [chunk(role="assistant", content=""), *(chunk(content=part) for part in parts), chunk(finish="stop")]


def chat_text(items: list[Item]) -> str:
    return "".join(getattr(item.choices[0].delta, "content", None) or "" for item in items)


def completion(parts: list[str]) -> list[Item]:
    return [SimpleNamespace(id="x", choices=[SimpleNamespace(index=0, text=part)]) for part in parts]


def completion_text(items: list[Item]) -> str:
    return "".join(item.choices[0].text for item in items)


def arguments(parts: list[str]) -> list[Item]:
    calls = [SimpleNamespace(index=1, function=SimpleNamespace(name=None, arguments=part)) for part in parts]
    return [chunk(tool_calls=[call]) for call in calls]


def arguments_text(items: list[Item]) -> str:
    return "".join(item.choices[0].delta.tool_calls[0].function.arguments for item in items)


def responses(parts: list[str]) -> list[Item]:
    place = {"output_index": 0, "content_index": 0, "item_id": "i"}
    text = "".join(parts)
    part = {"type": "output_text", "text": text}
    item = {"type": "message", "id": "i", "content": [part]}
    events = [
        {"type": "response.created", "response": {"id": "r", "output": [], "instructions": "the client's"}},
        {"type": "response.output_item.added", "output_index": 0, "item": {"type": "message", "content": []}},
        {"type": "response.content_part.added", "part": {"type": "output_text", "text": ""}, **place},
        *({"type": "response.output_text.delta", "delta": each, **place} for each in parts),
        {"type": "response.output_text.done", "text": text, **place},
        {"type": "response.content_part.done", "part": part, **place},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {"id": "r", "output": [item], "usage": {"output_tokens": 3}}},
    ]
    return [SimpleNamespace(**event) for event in events]


def responses_text(items: list[Item]) -> str:
    texts = {
        "".join(item.delta for item in items if item.type == "response.output_text.delta"),
        next(item.text for item in items if item.type == "response.output_text.done"),
        next(item.part["text"] for item in items if item.type == "response.content_part.done"),
        next(item.item["content"][0]["text"] for item in items if item.type == "response.output_item.done"),
        items[-1].response["output"][0]["content"][0]["text"],
    }
    assert len(texts) == 1, texts
    return texts.pop()


def anthropic_events(parts: list[str]) -> list[dict[str, Any]]:
    deltas = [{"type": "text_delta", "text": part} for part in parts]
    return [
        {"type": "message_start", "message": {"id": "m", "role": "assistant", "content": [], "model": "c"}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "ping"},
        *({"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 3}},
        {"type": "message_stop"},
    ]


def cut(raw: bytes, sizes: random.Random) -> list[Item]:
    parts, start, most = [], 0, sizes.choice((3, 50, 500))
    while start < len(raw):
        size = sizes.randint(1, most)
        parts.append(raw[start : start + size])
        start += size
    return parts


def anthropic(parts: list[str]) -> list[Item]:
    return cut(b"".join(map(event, anthropic_events(parts))), random.Random(len(parts)))


def data_of(items: list[Item]) -> list[dict[str, Any]]:
    lines = b"".join(items).decode().splitlines()
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


def anthropic_text(items: list[Item]) -> str:
    return "".join(data["delta"].get("text", "") for data in data_of(items) if data["type"] == "content_block_delta")


def gemini(parts: list[str]) -> list[Item]:
    chunks = [{"candidates": [{"content": {"parts": [{"text": part}], "role": "model"}}]} for part in parts]
    raw = b"".join(f"data: {json.dumps(chunk)}\r\n\r\n".encode() for chunk in chunks)
    return cut(raw, random.Random(len(parts)))


def gemini_text(items: list[Item]) -> str:
    return "".join(data["candidates"][0]["content"]["parts"][0]["text"] for data in data_of(items))


def agent(parts: list[str]) -> list[Item]:
    """Of an agent's (A2A) answer."""
    artifacts = [{"artifactId": "a", "parts": [{"kind": "text", "text": part}]} for part in parts]
    updates = [{"kind": "artifact-update", "taskId": "t", "append": True, "artifact": each} for each in artifacts]
    done = {"kind": "status-update", "taskId": "t", "status": {"state": "completed"}, "final": True}
    return [event({"jsonrpc": "2.0", "id": "1", "result": result}) for result in (*updates, done)]


def agent_text(items: list[Item]) -> str:
    results = [data["result"] for data in data_of(items)]
    return "".join(result["artifact"]["parts"][0]["text"] for result in results if "artifact" in result)


def agent_objects(parts: list[str]) -> list[Item]:
    """The same as LiteLLM has it of A2A's SDK."""

    def update(part: str) -> SimpleNamespace:
        text = SimpleNamespace(root=SimpleNamespace(kind="text", text=part))
        artifact = SimpleNamespace(artifact_id="a", parts=[text])
        result = SimpleNamespace(kind="artifact-update", task_id="t", append=True, artifact=artifact)
        return SimpleNamespace(root=SimpleNamespace(jsonrpc="2.0", id="1", result=result))

    return [update(part) for part in parts]


def agent_objects_text(items: list[Item]) -> str:
    return "".join(item.root.result.artifact.parts[0].root.text for item in items)


Make = Callable[[list[str]], list[Item]]
Read = Callable[[list[Item]], str]
KINDS = [
    pytest.param(chat, chat_text, id="chat"),
    pytest.param(completion, completion_text, id="completion"),
    pytest.param(arguments, arguments_text, id="arguments"),
    pytest.param(responses, responses_text, id="responses"),
    pytest.param(anthropic, anthropic_text, id="anthropic"),
    pytest.param(gemini, gemini_text, id="gemini"),
]
# The record of an agent's answer has its events as they came.
EVERY_KIND = [
    *KINDS,
    pytest.param(agent, agent_text, id="agent"),
    pytest.param(agent_objects, agent_objects_text, id="agent's objects"),
]


def some_text(dice: random.Random, cards: int) -> list[str]:
    """A text with `cards` of them in pieces of random sizes."""
    words = [
        dice.choice(("lorem", "ipsum", "\u00fcber", "12", "\U0001f600", "dolor")) for _ in range(dice.randint(0, 150))
    ]
    for _ in range(cards):
        words.insert(dice.randint(0, len(words)), f"{dice.randint(1000, 9999)}-{dice.randint(1000, 9999)}")
    text = " ".join(words) or "none"
    parts, start, most = [], 0, dice.choice((1, 3, 8, 60))
    while start < len(text):
        size = dice.randint(1, most)
        parts.append(text[start : start + size])
        start += size
    return parts


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(("make", "read"), EVERY_KIND)
def test_what_comes_out_is_the_masked_text(make: Make, read: Read, seed: int) -> None:
    dice = random.Random(seed)
    parts = some_text(dice, dice.choice((0, 1, 4, 25)))
    characters, overlap = dice.randint(1, 200), dice.randint(9, 60)
    window = dice.choice((BUFFER, Window(characters, overlap, 60), Window(characters, overlap, 0.0)))
    judge = Judge()
    out = released(make(parts), judge, window)
    expected = CARD.sub("[CARD]", "".join(parts))
    assert not any(isinstance(item, Exception) for item in out), out
    assert read(out) == expected
    if window is None:
        assert len(judge.bodies) == 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("window", [BUFFER, Window(30, 10, 60), Window(30, 40, 0.0)])
@pytest.mark.parametrize(("make", "read"), EVERY_KIND)
def test_a_benign_stream_comes_out_as_it_was(make: Make, read: Read, window: Window | None, seed: int) -> None:
    items = make(some_text(random.Random(seed), 0))
    out = released(items, Judge(), window)
    if isinstance(items[0], bytes):
        assert b"".join(out) == b"".join(items)
    if window is None or not isinstance(items[0], bytes):
        assert len(out) == len(items)
        assert all(one is other for one, other in zip(out, items, strict=True))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("make", "read"), EVERY_KIND)
def test_nothing_of_a_match_gets_out_before_a_block(make: Make, read: Read, seed: int) -> None:
    dice = random.Random(seed)
    parts = [
        *some_text(dice, 0),
        *dice.choice((["FORBIDDEN"], ["FORB", "IDDEN"], list("FORBIDDEN"))),
        *some_text(dice, 0),
    ]
    window = Window(dice.randint(1, 60), dice.randint(9, 40), 60)
    out = released(make(parts), Judge(), window)
    assert isinstance(out.pop(), Blocked)
    shown = repr([vars(item) if hasattr(item, "__dict__") else item for item in out])
    assert "FORB" not in shown
    *opening, blocked = released(make(parts), Judge(), BUFFER)
    assert isinstance(blocked, Blocked)
    assert [item.type for item in opening] == (["response.created"] if make is responses else [])


def opened(kind: str, **response: object) -> Item:
    """An event of the Responses API that says that an answer begins."""
    return SimpleNamespace(type=kind, response={"id": "r", "status": "in_progress", "output": [], **response})


@pytest.mark.parametrize("window", [BUFFER, SMALL], ids=["buffer", "window"])
def test_before_a_block_comes_that_an_answer_has_begun_and_no_text_with_it(window: Window | None) -> None:
    echo = {"instructions": "the client's", "metadata": {"k": "v"}}
    created = opened("response.created", truncation="FORBIDDEN", **echo)
    going_on = opened("response.in_progress", note={"text": "some more"})
    item = opened("response.created", output=[{"type": "message", "content": [{"type": "output_text", "text": "a"}]}])
    *out, blocked = released([created, going_on, item, created, *responses(["b"])], Judge(), window)
    assert isinstance(blocked, Blocked)
    assert out == [
        opened("response.created", truncation="", **echo),
        opened("response.in_progress", note={"text": ""}),
    ]


def test_before_a_block_nothing_of_what_is_nested_deeply_comes_out() -> None:
    created, *_, blocked = released([opened("response.created", note=nested("FORBIDDEN"))], Judge(), BUFFER)
    assert isinstance(blocked, Blocked)
    assert created == opened("response.created", note=nested([], depth=30, times=1))


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_what_is_nested_deeply_is_masked(window: Window | None) -> None:
    (out,) = released([chunk(field=nested("a 1234-5678", times=3))], Judge(), window)
    assert out == chunk(field=nested("a [CARD]", times=3))
    (out,) = released([chunk(field=nested("FORBIDDEN"))], Judge(), window)
    assert isinstance(out, Blocked)


@pytest.mark.parametrize("path", [("input",), ("input", "q"), ("input", "q", 1), ("input", "r"), ()])
def test_a_mask_of_what_is_no_text_of_a_tools_input_is_refused(path: Path) -> None:
    async def judge(_: object) -> Mapping[Path, str]:
        return {("content", 0, *path): "[CARD]"}

    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}}
    delta = {"type": "content_block_delta", "index": 0, "delta": {"partial_json": '{"q": ["a", 7]}'}}
    (out,) = released([block, delta], judge, BUFFER)  # type: ignore[arg-type]
    assert isinstance(out, UnmappableMask)


def test_what_begins_an_answer_comes_out_once() -> None:
    items = responses(["word " * 20, "FORBIDDEN"])
    *out, blocked = released(items, Judge(), SMALL)
    assert isinstance(blocked, Blocked)
    assert [item.type for item in out].count("response.created") == 1


@pytest.mark.parametrize("window", [BUFFER, SMALL])
@pytest.mark.parametrize("place", ["content", "model"])
def test_a_verdict_passes_once_its_masks_are_in_the_text(window: Window | None, place: str) -> None:
    """Not before: an answer whose mask has no place is refused."""
    told: list[str] = []
    path: Path = ("choices", 0, "message", "content") if place == "content" else (place,)

    async def judge(body: object) -> Mapping[Path, str]:
        told.append("judged")
        return {path: "masked"}

    async def read() -> None:
        items = guarded(stream(responses([]) + chat(["word"])), judge, window, passed=lambda: told.append("passed"))
        try:
            async for _ in items:
                pass
        except UnmappableMask:
            told.append("refused")

    asyncio.run(read())
    if place == "content":
        assert told[told.index("judged") : told.index("judged") + 2] == ["judged", "passed"]
        assert "refused" not in told
    else:
        assert "passed" not in told
        assert told[-1] == "refused"


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_no_character_comes_out_that_was_not_judged(window: Window | None) -> None:
    judge = Judge()
    out = released(chat([f"word{number} " for number in range(200)]), judge, window)
    seen = [text for body in judge.bodies for text in string_leaves(body).values()]
    for item in out:
        text = getattr(item.choices[0].delta, "content", None) or ""
        assert any(text in each for each in seen)
    if window is not None:
        assert all(len(text) <= 70 for text in seen)


def test_a_window_is_judged_with_the_text_held_back_before_it() -> None:
    judge = Judge()
    released(chat([f"{number:04} " for number in range(40)]), judge, Window(50, 20, 60))
    texts = [body["choices"][0]["message"]["content"] for body in judge.bodies]
    assert texts[0] == " ".join(f"{number:04}" for number in range(10)) + " "
    assert texts[1].startswith("0006 0007 0008 0009 0010")
    assert texts[-1].endswith("0039 ")
    assert judge.bodies[1] == {
        "id": "x",
        "object": "chat.completion",
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": texts[1]}}],
    }


@pytest.mark.parametrize(("make", "read"), KINDS)
def test_in_buffer_mode_the_body_is_the_answer(make: Make, read: Read) -> None:
    items, judge = make(["Hello ", "you"]), Judge()
    released(items, judge, BUFFER)
    answer = StreamedAnswer()
    for item in items:
        answer.add(item)
    recorded: Any = answer.body()
    if make is responses:
        assert judge.bodies[0]["output"][0]["content"][0]["text"] == recorded["output"][0]["content"][0]["text"]
    else:
        recorded.pop("usage", None)
        assert judge.bodies == [recorded]


@pytest.mark.parametrize("window", [BUFFER, SMALL])
@pytest.mark.parametrize(
    "items",
    [
        [],
        [chunk(role="assistant", content=""), chunk(finish="stop")],
        [b": ping\n\n", b"data: [DONE]\n\n"],
        [event({"type": "ping"}), event({"type": "message_stop"})],
        [None, 7],
    ],
)
def test_without_text_nobody_is_asked(items: list[Item], window: Window | None) -> None:
    judge = Judge()
    assert released(items, judge, window) == items
    assert judge.bodies == []


def test_in_window_mode_what_carries_no_text_does_not_wait() -> None:
    async def read() -> None:
        blocked = asyncio.Event()

        async def source() -> AsyncIterator[Item]:
            yield chunk(role="assistant", content="")
            await blocked.wait()

        out = guarded(source(), Judge(), SMALL)
        async with asyncio.timeout(5):
            assert (await anext(out)).choices[0].delta.role == "assistant"
        await out.aclose()

    asyncio.run(read())


def test_choices_and_kinds_of_text_are_judged_apart() -> None:
    items = [
        chunk(0, reasoning_content="1234"),
        chunk(1, content="-5678"),
        chunk(0, content="1111-"),
        chunk(0, reasoning_content="-5678"),
        chunk(1, content=" 1234-5678"),
        chunk(0, content="2222"),
    ]
    judge = Judge()
    out = released(items, judge, BUFFER)
    assert judge.bodies[0]["choices"] == [
        {"index": 0, "message": {"role": "assistant", "reasoning_content": "1234-5678", "content": "1111-2222"}},
        {"index": 1, "message": {"role": "assistant", "content": "-5678 1234-5678"}},
    ]
    texts = [[text for key, text in vars(item.choices[0].delta).items()] for item in out]
    assert texts == [["[CARD]"], ["-5678"], ["[CARD]"], [""], [" [CARD]"], [""]]


@pytest.mark.parametrize("seed", range(30))
def test_text_of_several_choices_comes_out_masked_however_it_alternates(seed: int) -> None:
    dice = random.Random(seed)
    queues = [some_text(dice, dice.choice((0, 2, 9))) for _ in range(3)]
    expected = [CARD.sub("[CARD]", "".join(queue)) for queue in queues]
    items = []
    while any(queues):
        index = dice.choice([number for number, queue in enumerate(queues) if queue])
        taken = dice.choice((1, 1, 5))
        items += [chunk(index, content=part) for part in queues[index][:taken]]
        del queues[index][:taken]
    out = released(items, Judge(), Window(dice.randint(1, 150), dice.randint(40, 80), 60))
    if isinstance(out[-1], UnmappableMask):
        return  # text went on in a choice that had been quiet for so long that it was all out
    texts = [chat_text([item for item in out if item.choices[0].index == index]) for index in range(3)]
    assert texts == expected


def test_a_match_with_text_that_is_out_blocks_the_rest() -> None:
    items = [chunk(reasoning_content="1234-"), *(chunk(content="lorem ") for _ in range(20))]
    judge = Judge()
    out = released([*items, chunk(reasoning_content="5678")], judge, SMALL)
    assert isinstance(out[-1], UnmappableMask)
    assert "5678" not in repr(out[:-1])
    out = released([*items, chunk(reasoning_content="fine, and 1234-5678")], judge, SMALL)
    assert out[-1].choices[0].delta.reasoning_content == "fine, and [CARD]"


def test_what_stands_before_masked_text_is_held_with_it() -> None:
    secret = re.compile(r"(?<=secret: )\w+|(?<=secret: \[X\] )\w+")
    parts = [*("lorem " * 6), "secret: ", "abcdef ", "fedcba ", *("ipsum " * 20)]
    for characters in range(1, 80):
        out = released(chat(parts), Judge(mask=secret, token="[X]"), Window(characters, 12, 60))
        assert chat_text(out).count("abcdef") == 0


def test_masks_without_end_do_not_make_a_check_of_every_item() -> None:
    parts = ["1234-5678 "] * 2_000
    judge = Judge()
    out = released(chat(parts), judge, Window(100, 50, 60))
    assert chat_text(out) == "[CARD] " * 2_000
    assert len(judge.bodies) < 20
    assert sum(len(str(body)) for body in judge.bodies) < 5 * len("".join(parts))


def test_tool_input_stands_as_an_object_and_goes_back_as_text() -> None:
    parts = ['{"q": "1234-', '5678", "n": [1, "x', '"], "url": "y"}']
    events = [
        {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}},
        *({"type": "content_block_delta", "index": 0, "delta": {"partial_json": part}} for part in parts),
    ]
    judge = Judge()
    out = released([b"".join(map(event, events))], judge, BUFFER)
    block = {"type": "tool_use", "name": "f", "input": {"q": "1234-5678", "n": [1, "x"], "url": "y"}}
    assert judge.bodies == [{"content": [block]}]
    text = "".join(data["delta"]["partial_json"] for data in data_of(out)[1:])
    assert json.loads(text) == {"q": "[CARD]", "n": [1, "x"], "url": "y"}


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_text_that_only_the_final_event_has_is_judged(window: Window | None) -> None:
    def final(text: str) -> list[Item]:
        output = [{"type": "message", "content": [{"type": "output_text", "text": text}]}]
        return [SimpleNamespace(type="response.completed", response={"id": "r", "output": output})]

    judge = Judge()
    (out,) = released(final("a 1234-5678"), judge, window)
    assert out.response["output"][0]["content"][0]["text"] == "a [CARD]"
    content = [{"type": "output_text", "text": "a 1234-5678"}]
    assert judge.bodies == [{"id": "r", "output": [{"type": "message", "content": content}]}]
    assert isinstance(released(final("FORBIDDEN"), Judge(), window)[0], Blocked)
    # It says more than what was streamed.
    started = SimpleNamespace(type="response.output_text.delta", delta="a ", output_index=0, content_index=0)
    out = released([started, *final("a FORBIDDEN")], Judge(), window)
    assert isinstance(out[-1], Blocked)
    assert "FORBIDDEN" not in repr(out[:-1])
    out = released([started, *final("a 1234-5678")], Judge(), window)
    assert out[1].response["output"][0]["content"][0]["text"] == "a [CARD]"


def test_a_repeat_at_another_place_is_known_by_its_text() -> None:
    items = responses(["1234-", "5678 and more"])
    for item in items:
        if item.type == "response.output_text.delta":
            item.output_index = 3
    judge = Judge()
    assert responses_text(released(items, judge, BUFFER)) == "[CARD] and more"
    assert len(string_leaves(judge.bodies[0]["output"])) == 1


@pytest.mark.parametrize("window", [BUFFER, SMALL])
@pytest.mark.parametrize(
    "item",
    [
        SimpleNamespace(type="response.brand_new", note="1234-5678"),
        SimpleNamespace(note=[SimpleNamespace(inner="1234-5678")]),
        {"type": "whatever", "deep": {"er": ["1234-5678"]}},
        event({"type": "brand_new", "text": "1234-5678"}),
        b"data: 1234-5678\n\n",
        b"1234-5678",
        "1234-5678",
        'data: {"error": {"message": "1234-5678"}}\n\n',
    ],
)
def test_unknown_items_are_judged_and_masked_too(item: Item, window: Window | None) -> None:
    judge = Judge()
    (out,) = released([item], judge, window)
    assert judge.bodies == [{"events": ["1234-5678"]}]
    assert type(out) is type(item)
    assert "1234-5678" not in str(out)
    assert "[CARD]" in str(out)


def test_what_is_said_again_and_again_is_judged_once() -> None:
    items = [chunk(content="word ") for _ in range(50)]
    for item in items:
        item.citations = ["http://1234-5678", "http://b"]
    judge = Judge()
    out = released(items, judge, SMALL)
    assert [body.get("events") for body in judge.bodies][:2] == [["http://1234-5678", "http://b"], None]
    assert all(item.citations == ["http://[CARD]", "http://b"] for item in out)


@pytest.mark.parametrize("path", [("choices", 0, "message", "role"), ("id",), ("no", "such"), ("choices",)])
@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_a_mask_of_what_is_no_text_is_refused(path: Path, window: Window | None) -> None:
    async def judge(body: object) -> Mapping[Path, str]:
        return {path: "x"}

    out = released(chat(["Hello"]), judge, window)  # type: ignore[arg-type]
    assert isinstance(out[-1], UnmappableMask)
    assert "Hello" not in repr(out)


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_when_the_stream_breaks_its_text_so_far_is_judged_first(window: Window | None) -> None:
    failure = ValueError("upstream")
    out = released(chat(["a 1234-", "5678"]), Judge(), window, failure)
    assert out[-1] is failure
    assert chat_text(out[:-1]) == "a [CARD]"
    out = released(chat(["FORBIDDEN"]), Judge(), window, failure)
    assert isinstance(out[-1], Blocked)
    assert "FORBIDDEN" not in repr(out[:-1])
    raw = released([b'data: {"a": "FORB', b"IDDEN"], Judge(), window, failure)
    assert [type(item) for item in raw] == [Blocked]


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_an_item_that_cannot_be_read_does_not_get_out(window: Window | None) -> None:
    deep: Any = "x"
    for _ in range(5_000):
        deep = [deep]
    out: list[Item] = []

    async def read() -> None:
        async for item in guarded(stream([chunk(content="a"), {"deep": deep}]), Judge(), window):
            out.append(item)  # noqa: PERF401 - what came before an exception counts

    with pytest.raises(RecursionError):
        asyncio.run(read())
    assert out == []


def test_slow_text_is_judged_in_time_and_its_end_is_held() -> None:
    async def read() -> tuple[float, float, list[Item]]:
        clock = asyncio.get_running_loop().time
        started = clock()

        async def source() -> AsyncIterator[Item]:
            for number in range(6):
                yield chunk(content=f"word{number} ")
            await asyncio.sleep(0.5)
            yield chunk(content="end")

        out, times = [], []
        async for item in guarded(source(), judge, Window(1_000, 10, 0.1)):
            times.append(clock() - started)
            out.append(item)
        return times[0], times[-1], out

    judge = Judge()
    first, last, out = asyncio.run(read())
    assert 0.09 < first < 0.4
    assert last >= 0.5
    assert len(out) == 7
    assert len(judge.bodies) == 2
    assert judge.bodies[1]["choices"][0]["message"]["content"] == "word4 word5 end"


def test_time_alone_asks_nobody_when_nothing_could_be_released() -> None:
    async def source() -> AsyncIterator[Item]:
        yield chunk(content="short")
        await asyncio.sleep(0.2)
        yield chunk(content=" text")

    async def read() -> int:
        return len([item async for item in guarded(source(), judge, Window(1_000, 100, 0.02))])

    judge = Judge()
    assert asyncio.run(read()) == 2
    assert len(judge.bodies) == 1


@pytest.mark.parametrize(("window", "how"), [(BUFFER, "cancel"), (SMALL, "cancel"), (SMALL, "close")])
def test_when_the_client_leaves_the_stream_is_closed(window: Window | None, how: str) -> None:
    closed = []

    async def source() -> AsyncIterator[Item]:
        try:
            yield chunk(role="assistant", content="")
            yield chunk(content="text " * 20)
            yield chunk(content="text " * 20)
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    async def read() -> None:
        out = guarded(source(), Judge(), window)
        reading = asyncio.create_task(take(out, 1 if how == "close" else 1_000))
        await asyncio.sleep(0.05)
        if how == "cancel":
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await out.aclose()
        assert closed == [True]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def take(out: AsyncIterator[Item], count: int) -> None:
        while count:
            await anext(out)
            count -= 1

    asyncio.run(read())


class Unwilling:
    """A stream that takes its time to end, is no generator and has to be closed, like those of LiteLLM."""

    def __init__(self) -> None:
        self.is_closed = False
        self._items = iter([chunk(content="text " * 20)])

    def __aiter__(self) -> Unwilling:
        return self

    async def __anext__(self) -> Item:
        for item in self._items:
            return item
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02)

    async def aclose(self) -> None:
        await asyncio.sleep(0.02)
        self.is_closed = True


@pytest.mark.parametrize("window", [BUFFER, SMALL], ids=["buffer", "window"])
def test_a_stream_is_closed_however_often_its_reader_is_cancelled(window: Window | None) -> None:
    source = Unwilling()

    async def read() -> None:
        async for _ in guarded(source, Judge(), window):
            pass

    async def main() -> None:
        reading = asyncio.create_task(read())
        for _ in range(3):
            await asyncio.sleep(0.01)
            reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        assert reading.cancelled()
        await asyncio.sleep(0.1)
        assert source.is_closed
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


@pytest.mark.parametrize("window", [BUFFER, Window(1_000_000, 12, 60)])
def test_others_are_served_while_masks_are_applied(window: Window | None) -> None:
    def turns(count: int) -> int:
        """How often others get their turn between the verdict on so many items and the first of them."""

        async def main() -> int:
            judge, taken = Noting(), 0
            out = guarded(stream([chunk(content="1234-5678 ")] * count), judge, window)

            async def read() -> None:
                await anext(out)

            reading = asyncio.create_task(read())
            async with asyncio.timeout(60):
                await judge.asked.wait()
            while not reading.done():
                taken += 1
                await asyncio.sleep(0)
            await out.aclose()
            return taken

        return asyncio.run(main())

    assert turns(4_000) > turns(500) + 40


def test_log_probabilities_go_from_every_item_of_one_shape() -> None:
    items = [chunk(content="1234-"), chunk(content="5678"), chunk(content=" 1234-5678")]
    for item in items:
        item.choices[0].logprobs = "1234"
    out = released(items, Judge(), BUFFER)
    assert chat_text(out) == "[CARD] [CARD]"
    assert "1234" not in repr(out)


class Left:
    """A stream that pauses after some items, and a reader who leaves: what it got, and what nobody got."""

    def __init__(self, items: list[Item], window: Window | None, *, ends: bool = False) -> None:
        self.out: list[Item] = []
        self.rest: list[Item] = []
        self.paused = asyncio.Event()
        self.is_closed = False
        self._items = items
        self._window = window
        self._ends = ends

    async def source(self) -> AsyncIterator[Item]:
        try:
            for item in self._items:
                yield item
            self.paused.set()
            if not self._ends:
                await asyncio.sleep(60)
        finally:
            with anyio.CancelScope(shield=True):
                await asyncio.sleep(0)
            self.is_closed = True

    def closed(self, judge: Any, count: int) -> Left:
        """Closed by a reader who has got so many items."""

        async def main() -> None:
            out = guarded(self.source(), judge, self._window, self.rest.extend)
            self.out += [await anext(out) for _ in range(count)]
            await out.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert self.is_closed
        return self

    def cancelled(self, judge: Any, when: asyncio.Event, after: int = 100) -> Left:
        """Cancelled, at every wait from then on, as a server does that has lost its client."""

        async def read() -> None:
            async for item in guarded(self.source(), judge, self._window, self.rest.extend):
                self.out.append(item)

        async def main() -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(read)
                await when.wait()
                for _ in range(after):
                    await asyncio.sleep(0)
                group.cancel_scope.cancel()
            assert asyncio.all_tasks() == {asyncio.current_task()}

        asyncio.run(main())
        assert self.is_closed
        return self


class Hanging(Judge):
    """Never gives the verdict of this number."""

    def __init__(self, number: int = 1) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self._number = number

    async def __call__(self, body: object) -> Mapping[Path, str]:
        changes = await super().__call__(body)
        if len(self.bodies) == self._number:
            self.asked.set()
            await asyncio.sleep(60)
        return changes


class Noting(Judge):
    """Says when it gives its first verdict."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()

    async def __call__(self, body: object) -> Mapping[Path, str]:
        changes = await super().__call__(body)
        self.asked.set()
        return changes


WORDS = [f"word{number} " for number in range(60)]


class TestWhatNobodyGets:
    """When the reader leaves, what came by then and did not get out is handed over, and nothing goes on."""

    @pytest.mark.parametrize("count", [1, 2, 20, 40])
    def test_of_a_window_that_is_being_released(self, count: int) -> None:
        left = Left(chat(WORDS), SMALL).closed(Judge(), count)
        assert len(left.out) == count
        assert "".join(WORDS).startswith(chat_text(left.out + left.rest))
        assert len(left.out + left.rest) > 40

    @pytest.mark.parametrize("count", [1, 30])
    def test_of_a_held_stream_that_is_being_released(self, count: int) -> None:
        items = chat(WORDS)
        left = Left(items, BUFFER, ends=True).closed(Judge(), count)
        assert left.out + left.rest == items

    def test_of_a_held_stream_with_masks(self) -> None:
        items = chat(["a 1234-", "5678 b", " 1111-2222"])
        left = Left(items, BUFFER, ends=True).closed(Judge(), 2)
        assert chat_text(left.out + left.rest) == "a [CARD] b [CARD]"
        assert len(left.rest) == 3

    @pytest.mark.parametrize("window", [BUFFER, SMALL])
    def test_of_a_stream_that_pauses(self, window: Window | None) -> None:
        items = chat(WORDS)
        source = Left(items, window)
        left = source.cancelled(Judge(), source.paused)
        assert chat_text(left.out + left.rest) == "".join(WORDS)

    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_while_a_window_is_judged(self, number: int) -> None:
        judge = Hanging(number)
        left = Left(chat(WORDS), SMALL).cancelled(judge, judge.asked)
        assert "".join(WORDS).startswith(chat_text(left.out + left.rest))
        assert len(judge.bodies) == number
        judged = judge.bodies[-1]["choices"][0]["message"]["content"]
        assert judged in chat_text(left.out + left.rest)

    def test_while_a_held_stream_is_judged(self) -> None:
        items, judge = chat(WORDS), Hanging()
        left = Left(items, BUFFER, ends=True).cancelled(judge, judge.asked)
        assert (left.out, left.rest) == ([], items)

    @pytest.mark.parametrize("window", [BUFFER, Window(1_000_000, 12, 60)])
    def test_while_masks_are_applied(self, window: Window | None) -> None:
        items = [chunk(content=part) for part in ["a 1234-", "5678 b "] * 2_000]
        judge = Noting()
        left = Left(items, window, ends=True).cancelled(judge, judge.asked, after=20)
        assert left.out == []
        assert chat_text(left.rest) == "a [CARD] b " * 2_000
        assert len(left.rest) == len(items)

    @pytest.mark.parametrize("size", [50, 100])
    def test_of_bytes_in_the_middle_of_an_event(self, size: int) -> None:
        raw = b"".join(
            event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}})
            for word in WORDS
        )
        judge = Hanging(2)
        left = Left([raw[start : start + size] for start in range(0, len(raw), size)], SMALL)
        left.cancelled(judge, judge.asked)
        came = b"".join((*left.out, *left.rest))
        assert raw.startswith(came)
        assert len(came) > 64 * size, "what was read ahead is among it"

    def test_of_judged_text_that_is_still_held_only_the_masked_form(self) -> None:
        items = chat(["x" * 10] * 9 + ["y 1234-5678", " z 1111-2222"])
        source = Left(items, Window(characters=100, overlap=12, seconds=60))
        left = source.cancelled(Judge(), source.paused)
        assert chat_text(left.out) == "x" * 80
        # The second one was not judged yet.
        assert chat_text(left.rest) == "x" * 10 + "y [CARD] z 1111-2222"


def gemini_call(called_with: object) -> bytes:
    part = {"functionCall": {"name": "pay", "args": called_with}}
    return event({"candidates": [{"content": {"role": "model", "parts": [part]}}]})


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_the_judge_is_shown_all_that_a_tool_is_called_with(window: Window | None) -> None:
    called_with = {"card": 4111111111111111, "signature": "s", "b64_json": "b", "logprobs": {"x": True}, "type": "t"}
    judge = Judge()
    items = [gemini_call(called_with)]
    assert released(items, judge, window) == items
    # A window that is held until more comes is shown again.
    shown = [body["candidates"][0]["content"]["parts"] for body in judge.bodies]
    assert shown == [[{"functionCall": {"name": "pay", "args": called_with}}]] * max(len(shown), 1)


@pytest.mark.parametrize("window", [BUFFER, SMALL])
def test_a_mask_in_what_a_tool_is_called_with_leaves_the_rest_as_it_is(window: Window | None) -> None:
    called_with = {"id": 1234567890123456789, "note": "1234-5678", "ok": True, "rate": 1.25}
    (item,) = released([gemini_call(called_with)], Judge(), window)
    (call,) = json.loads(item.partition(b"data: ")[2])["candidates"][0]["content"]["parts"]
    assert call == {"functionCall": {"name": "pay", "args": {**called_with, "note": "[CARD]"}}}


def call_in_parts(*calls: dict[str, Any]) -> list[Item]:
    return [
        event({"candidates": [{"content": {"role": "model", "parts": [{"functionCall": call}]}}]}) for call in calls
    ]


def part_of(path: str, text: str) -> dict[str, Any]:
    return {"partialArgs": [{"jsonPath": path, "stringValue": text}], "willContinue": True}


def strings_of_calls(items: list[Item]) -> list[str]:
    parts = [part for data in data_of(items) for part in data["candidates"][0]["content"]["parts"]]
    arguments = [each for part in parts for each in part["functionCall"].get("partialArgs", ())]
    return [each["stringValue"] for each in arguments]


@pytest.mark.parametrize("window", [BUFFER, SMALL])
@pytest.mark.parametrize("end", [[{}], []], ids=["closed", "left open"])
def test_an_argument_in_parts_goes_on_within_its_call_alone(window: Window | None, end: list[dict[str, Any]]) -> None:
    """Joined with that of the call before it, the number of the second would not be told from a longer one."""
    items = call_in_parts(
        {"name": "f", "willContinue": True},
        part_of("$.a", "order 7"),
        part_of("$.b", "1234"),
        *end,
        {"name": "g", "willContinue": True},
        part_of("$.a", "1234-"),
        part_of("$.b", "-5678"),
        part_of("$.a", "5678"),
        {},
    )
    judge = Judge(re.compile(r"\b1234-5678\b"))
    assert strings_of_calls(released(items, judge, window)) == ["order 7", "1234", "[CARD]", "-5678", ""]
    calls = [part["functionCall"] for part in judge.bodies[-1]["candidates"][0]["content"]["parts"]]
    assert [call["name"] for call in calls] == ["f", "g"]


def test_what_comes_without_a_name_goes_on_with_an_open_call_alone() -> None:
    """One that repeats its name goes on as well."""
    items = call_in_parts(
        {"name": "f", "willContinue": True},
        part_of("$.a", "1234"),
        {"name": "f", **part_of("$.a", "-56")},
        part_of("$.a", "78"),
        {},
        part_of("$.a", "1234"),
        {},
        part_of("$.a", "-5678"),
    )
    assert strings_of_calls(released(items, Judge(), BUFFER)) == ["[CARD]", "", "", "1234", "-5678"]


def test_a_number_among_arguments_in_parts_is_judged_and_not_masked() -> None:
    number = {"partialArgs": [{"jsonPath": "$.card", "numberValue": 41111111}], "willContinue": True}
    items = call_in_parts({"name": "f", "willContinue": True}, number, {})
    assert released(items, Judge(), BUFFER) == items
    (error,) = released(items, Judge(re.compile("41111111")), BUFFER)
    assert isinstance(error, UnmappableMask)


def test_numbers_beside_masked_text_stay_as_they_were_written() -> None:
    parts = ['{"id": 123456789012345678901234, "rate": 1.10', ', "small": 1e-7, "note": "1234-5678"}']
    out = released(arguments(parts), Judge(), BUFFER)
    assert arguments_text(out) == '{"id": 123456789012345678901234, "rate": 1.10, "small": 1e-7, "note": "[CARD]"}'
    block = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "name": "f", "input": {}}}
    delta = {"type": "content_block_delta", "index": 0}
    deltas = [event({**delta, "delta": {"type": "input_json_delta", "partial_json": part}}) for part in parts]
    out = released([event(block), *deltas], Judge(), BUFFER)
    said = "".join(json.loads(each.partition(b"data: ")[2])["delta"]["partial_json"] for each in out[1:])
    assert said.replace(" ", "") == '{"id":123456789012345678901234,"rate":1.10,"small":1e-7,"note":"[CARD]"}'


def test_a_block_closes_the_stream() -> None:
    closed = []

    async def source() -> AsyncIterator[Item]:
        try:
            for _ in range(1_000):
                yield chunk(content="FORBIDDEN ")
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def read() -> None:
        with pytest.raises(Blocked):
            async for _ in guarded(source(), Judge(), SMALL):
                pass
        assert closed == [True]

    asyncio.run(read())


def test_a_stream_that_is_cancelled_from_within_ends_the_reading() -> None:
    async def source() -> AsyncIterator[Item]:
        yield chunk(content="a")
        raise asyncio.CancelledError

    async def read() -> None:
        async for _ in guarded(source(), Judge(), SMALL):
            pass

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(asyncio.wait_for(read(), 5))


def test_a_slow_client_keeps_the_stream_from_being_read_far_ahead() -> None:
    made = 0

    async def source() -> AsyncIterator[Item]:
        nonlocal made
        for _ in range(10_000):
            made += 1
            yield chunk(content="word ")

    async def read() -> None:
        out = guarded(source(), Judge(), SMALL)
        await anext(out)
        await asyncio.sleep(0.05)
        assert made < 300
        await out.aclose()

    asyncio.run(read())


def test_items_of_litellm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    utils = pytest.importorskip("litellm.types.utils")
    openai = pytest.importorskip("litellm.types.llms.openai")

    def made(text: str) -> Any:
        delta = utils.Delta(role="assistant", content=text, reasoning_content="hm")
        item = utils.ModelResponseStream(id="x", choices=[utils.StreamingChoices(index=0, delta=delta)])
        item._hidden_params = {"model_id": "m", "lock": asyncio.Lock()}
        return item

    items = [made("1234-"), made("5678"), made(" end")]
    plain = [item.model_dump() for item in items]

    async def read(source: list[Item], judge: Judge) -> list[Item]:
        return [item async for item in guarded(stream(source), judge, SMALL)]

    out = asyncio.run(read(items, Judge()))
    assert [item.choices[0].delta.content for item in out] == ["[CARD]", "", " end"]
    assert [item.model_dump() for item in items] == plain
    assert out[2] is items[2]
    assert out[0]._hidden_params is not None
    assert '"content":"[CARD]"' in out[0].model_dump_json(exclude_none=True, exclude_unset=True)

    kinds = openai.ResponsesAPIStreamEvents
    output = [
        {
            "type": "message",
            "id": "i",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "1234-5678", "annotations": []}],
        }
    ]
    response = openai.ResponsesAPIResponse(id="r", created_at=1, output=output, instructions="1234-5678")
    place = {"item_id": "i", "output_index": 0, "content_index": 0}
    events = [
        openai.OutputTextDeltaEvent(type=kinds.OUTPUT_TEXT_DELTA, delta="1234-", **place),
        openai.OutputTextDeltaEvent(type=kinds.OUTPUT_TEXT_DELTA, delta="5678", **place),
        openai.OutputTextDoneEvent(type=kinds.OUTPUT_TEXT_DONE, text="1234-5678", **place),
        openai.GenericEvent(type="response.new", note="1234-5678"),
        openai.ResponseCompletedEvent(type=kinds.RESPONSE_COMPLETED, response=response),
    ]
    judge = Judge()
    changed = asyncio.run(read(events, judge))
    assert [changed[0].delta, changed[1].delta, changed[2].text, changed[3].note] == ["[CARD]", "", "[CARD]", "[CARD]"]
    assert "[CARD]" in changed[4].model_dump_json(exclude_none=True, exclude_unset=True)
    assert changed[4].response.output[0].content[0].text == "[CARD]"
    assert events[4].response.output[0].content[0].text == "1234-5678"
    assert judge.bodies[0]["output"][0]["content"][0]["text"] == "1234-5678"


@pytest.mark.parametrize("head", ["", "litellm_enc:bW9kZWw;"])
def test_thoughts_that_litellm_wrote_down_in_the_place_of_encrypted_ones_are_masked(head: str) -> None:
    said = "Es w\u00e4re 1234-5678"
    thoughts = json.dumps([{"type": "thinking", "thinking": said, "signature": "c2ln"}])
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": head + thoughts}
    completed = {"type": "response.completed", "response": {"id": "r", "output": [item]}}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    judge = Judge()
    out = released([SimpleNamespace(**done), SimpleNamespace(**completed)], judge, BUFFER)
    assert said in judge.bodies[0]["output"][0]["encrypted_content"].replace('\\"', '"')
    for masked in (out[0].item, out[1].response["output"][0]):
        text = masked["encrypted_content"]
        assert text.startswith(head)
        assert json.loads(text.removeprefix(head)) == [
            {"type": "thinking", "thinking": "Es w\u00e4re [CARD]", "signature": "c2ln"}
        ]


@pytest.mark.parametrize("encrypted", ["gAAAAABo+/=", "litellm_enc:bW9kZWw;gAAAAABo+/=", "", "7"])
def test_encrypted_thoughts_are_no_text(encrypted: str) -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": encrypted}
    done = SimpleNamespace(type="response.output_item.done", output_index=0, item=item)
    judge = Judge()
    assert released([done], judge, BUFFER) == [done]
    assert judge.bodies == []
