"""The requests of the load, and the mark by which the mock Akto knows them."""

from __future__ import annotations

import json
from typing import Any, Final

MODEL: Final = "gpt-4o-mini"
MARK: Final = "bench-prompt"

# A short conversation, one with a long document in it, one as coding agents send it: many turns and many tools, and the
# first once more, whose answer is to be streamed.
SMALL: Final = "2 kB"
LARGE: Final = "200 kB"
AGENT: Final = "agent"
STREAMED: Final = "stream"
_CHARACTERS: Final = {SMALL: 2_000, LARGE: 200_000, AGENT: 1_000, STREAMED: 2_000}
_AGENT_TURNS: Final = 50
_AGENT_TOOLS: Final = 30

_NUMBER: Final = "000000000"
_SYSTEM: Final = (
    "You are the support assistant of an online shop for garden tools. Answer briefly, in the customer's language, "
    'and say "I do not know" when you do not. Never promise a refund. '
)
_LINES: Final = (
    "I ordered the hedge trimmer with the 60 cm blade two weeks ago, and the parcel has still not arrived.\n",
    'The tracking page says "in transit" since Monday; the order number is on the invoice I was sent.\n',
    "Could you find out where it is, and whether the spare blade, which I ordered later, is in the same parcel?\n",
    "By the way: the fitting of the hose (3/4 inch, brass) does not fit the tap at my mother's house in Łódź.\n",
)


def bodies(prompt: str) -> tuple[bytes, bytes]:
    """A chat completion of that kind, in two halves between which a number of nine digits goes."""
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": f"[{MARK} {_NUMBER}] {_SYSTEM}"},
        {"role": "user", "content": "Hello, I have a question about an order."},
        {"role": "assistant", "content": "Of course. What would you like to know about your order?"},
        {"role": "user", "content": _text(_CHARACTERS[prompt] - len(_SYSTEM))},
    ]
    body: dict[str, Any] = {"model": MODEL, "messages": turns, "temperature": 0.2, "max_tokens": 400, "user": "c-4711"}
    if prompt == AGENT:
        body["messages"] += [turn for number in range(_AGENT_TURNS) for turn in _tool_turns(number)]
        body["tools"] = [_tool(number) for number in range(_AGENT_TOOLS)]
    if prompt == STREAMED:
        body["stream"] = True
    before, _, after = json.dumps(body, ensure_ascii=False).encode().partition(_NUMBER.encode())
    return before, after


def _text(characters: int) -> str:
    whole = "".join(_LINES)
    return (whole * (characters // len(whole) + 1))[:characters]


def _tool_turns(number: int) -> list[dict[str, Any]]:
    """A call of a tool with its result."""
    function = {"name": "read_file", "arguments": json.dumps({"path": f"src/part_{number}.py"})}
    call = {"id": f"call_{number}", "type": "function", "function": function}
    said = [{"type": "text", "text": f"Let me look at part {number}."}]
    result = f"def part_{number}(order: Order) -> Parcel:\n    return order.parcel\n" * 8
    return [
        {"role": "assistant", "content": said, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": result},
    ]


def _tool(number: int) -> dict[str, Any]:
    fields = {name: {"type": "string", "description": f"The {name}."} for name in ("path", "query", "range", "reason")}
    parameters = {"type": "object", "properties": fields, "required": ["path"]}
    description = f"Tool number {number}. " + "Use it when you need it, and only then. " * 6
    function = {"name": f"tool_{number}", "description": description, "parameters": parameters}
    return {"type": "function", "function": function}
