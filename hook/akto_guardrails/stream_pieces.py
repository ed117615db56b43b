"""What text an item of a streamed answer carries, and where in the whole answer that text belongs.

Items LiteLLM 1.106.2 streams: chat and text-completion chunks, Responses events (both pydantic objects), and raw
bytes of server-sent events on the Anthropic and Gemini routes, cut anywhere. A dictionary is read like the data of an
event. Items are never changed, since LiteLLM keeps them for its logs; a changed item is a copy.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any, Final, Literal, NamedTuple

from akto_guardrails.content import Path, children_of
from akto_guardrails.encrypted_content import ENCRYPTED, head_of, not_encrypted
from akto_guardrails.json_text import json_bytes, json_text, parsed_json
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.stream_pattern import Pattern

# Strings that name things. They are part of a body's structure and not checked, except in what a tool is called with.
_NAMES: Final = frozenset(
    [
        "id",
        "object",
        "created",
        "model",
        "type",
        "role",
        "status",
        "call_id",
        "item_id",
        "tool_call_id",
        "tool_use_id",
        "finish_reason",
        "stop_reason",
        "system_fingerprint",
        "service_tier",
        "finishReason",
        "modelVersion",
        "responseId",
        "category",
        "probability",
        "severity",
    ]
)
# What a tool is called with, where that is an object, and what the same is called as JSON text. Numbers and names in it
# are the model's words as much as strings are.
INPUT_AS_TEXT: Final = {"args": "partial_args", "input": "partial_json"}
# Arguments of a tool in parts, each with the place of what it goes on with (Vertex AI, where the client asks for it).
PARTIAL_ARGS: Final = "partialArgs"
_PLACE_OF_A_PART: Final = "jsonPath"
_NUMBER_IN_A_PART: Final = "numberValue"
# What no policy can read: signatures and encrypted thoughts of providers, padding, media.
_OPAQUE: Final = frozenset(
    [
        "signature",
        "thoughtSignature",
        "thought_signature",
        "obfuscation",
        "b64_json",
        "partial_image_b64",
    ]
)
_MEDIA_HOLDERS: Final = frozenset({"audio", "image_url", "inlineData", "inline_data", "source"})
_BASE64: Final = re.compile(r"(?:data:[\w.+-]+/[\w.+-]+;base64,)?[A-Za-z0-9+/]{256,}={0,2}")
# Objects and lists so far down in the whole answer are read as JSON text: places of their own for the strings in them
# would take memory without bounds where many are nested deeply.
_DEEPEST: Final = 32
# The tokens of the text once more, one by one. Left out of a check, and out of an item whose text is masked.
_LOGPROBS: Final = frozenset({"logprobs", "logprobsResult"})
# What a model calls a tool with: names in there are its own.
_OF_THE_MODEL: Final = frozenset({"action", "args", "arguments", "functionResponse", "input"})
# What a Responses object repeats of the request, which was checked as such.
_ECHO: Final = frozenset(
    [
        "instructions",
        "tools",
        "tool_choice",
        "metadata",
        "text",
        "prompt",
        "input",
        "reasoning",
        "user",
        "safety_identifier",
        "prompt_cache_key",
    ]
)
# Where the text of a Responses event stands in its output item; in a content or summary part unless it is told here.
_ITEM_KEY: Final = {
    "function_call_arguments": "arguments",
    "mcp_call_arguments": "arguments",
    "custom_tool_call_input": "input",
    "code_interpreter_call_code": "code",
}
_WHOLE_TEXT: Final = frozenset({"text", "refusal", "arguments", "input", "code", "transcript"})

_FRAME_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z)){2}")
_NO_PAYLOAD: Final = re.compile(rb":|(?:event|id|retry)(?::|$)|$")

Kind = Literal["delta", "repeat", "alone"]


class Piece(NamedTuple):
    """A string of an item. `place`: where it stands in the item; `target`: where it belongs in the whole answer.

    A "delta" is appended to what came for its target before, a "repeat" is the whole text of its target once more.
    A string that stands "alone" has a target that means nothing.
    """

    kind: Kind
    place: Path
    target: Path
    text: str


class Continued:
    """Units like one whose only piece is `piece`, with other text."""

    __slots__ = ("_data", "_logprobs", "pattern", "piece")

    def __init__(self, pattern: Pattern, piece: Piece, data: Any) -> None:
        """`data`: what the first of them carries."""
        self.pattern = pattern
        self.piece = piece
        self._data = data
        self._logprobs: Mapping[Path, object] | None = None

    @property
    def without_logprobs(self) -> Mapping[Path, object]:
        """What takes log probabilities of tokens out of each of them, looked for in one of them only."""
        if self._logprobs is None:
            self._logprobs = dict(_without_logprobs(self._data))
        return self._logprobs


class Unit:
    """What is released as one: an item of the stream, or one whole event of its bytes.

    `goes_on`: it differs from the one before it in its text alone, and its facts are left out, being the same.
    """

    __slots__ = ("_before", "_open_calls", "data", "facts", "goes_on", "item", "pieces")

    def __init__(
        self, item: object, serial: int, before: Continued | None = None, open_calls: OpenCalls | None = None
    ) -> None:
        """`before`: how the unit before it goes on; `open_calls`: those of its stream, which it may go on with."""
        self.item = item
        self.pieces: list[Piece] = []
        self.facts: list[tuple[Path, object]] = []  # names and ids by their target
        self.data: Any = _data_of_frame(_as_bytes(item)) if isinstance(item, (bytes, str)) else item
        text = None if before is None else before.pattern.text_in(self.data)
        self.goes_on = text is not None
        self._before = before if self.goes_on else None
        self._open_calls = OpenCalls() if open_calls is None else open_calls
        if before is None or text is None:
            self._read(serial)
        elif text:
            self.pieces.append(before.piece._replace(text=text))

    def continued(self) -> Continued | None:
        """How it may go on; None when it is more than one piece of text."""
        piece = self.pieces[0] if len(self.pieces) == 1 else None
        if piece is None or piece.kind != "delta" or _may_be_media(piece.place):
            return None
        # A name may come again, which does not go on with it.
        if piece.target[-1:] == ("name",):
            return None
        # Where text of Gemini's belongs can depend on the number of its chunk.
        if entry(self.data, "candidates") is not None:
            return None
        pattern = Pattern.of(self.data, piece.place)
        return None if pattern is None else Continued(pattern, piece, self.data)

    def with_texts(self, texts: Mapping[Path, str]) -> object:
        """A copy of the item with the strings at these places replaced, and without log probabilities of tokens.

        Raises `UnmappableMask` when what is read as JSON text is no object, or no list, any more.
        """
        changes = {place: self._in_place(place, text) for place, text in texts.items()}
        before = self._before
        unsaid = dict(_without_logprobs(self.data)) if before is None else before.without_logprobs
        data = replaced(self.data, {**unsaid, **changes})
        if not isinstance(self.item, (bytes, str)):
            return data
        payload = data.encode("utf-8", "replace") if () in texts else json_bytes(data)
        frame = _with_payload(_as_bytes(self.item), payload)
        return frame if isinstance(self.item, bytes) else frame.decode("utf-8", "surrogatepass")

    def emptied(self) -> object:
        """A copy of the item without its text."""
        return self.with_texts(
            {piece.place: _nothing_like(standing_at(self.data, piece.place)) for piece in self.pieces}
        )

    def _in_place(self, place: Path, text: str) -> object:
        """`text` as what stands at `place` now: a string, or an object or a list that is read as JSON text."""
        standing = standing_at(self.data, place)
        if isinstance(standing, str):
            return head_of(standing) + text if place[-1:] == (ENCRYPTED,) else text
        data = parsed(text)
        if not isinstance(data, dict if isinstance(standing, dict) else list):
            raise UnmappableMask("the mask leaves something else in the place of an object or a list")
        return data

    def _read(self, serial: int) -> None:
        data = self.data
        kind = entry(data, "type")
        kind = str(getattr(kind, "value", kind))
        if entry(data, "choices") is not None:
            self._read_chunk(data)
        elif kind.startswith("response."):
            self._read_responses_event(data, kind)
        elif kind in ("message_start", "message_delta") or kind.startswith("content_block_"):
            self._read_anthropic_event(data)
        elif entry(data, "candidates") is not None:
            self._read_gemini_chunk(data, serial)
        else:
            self._mirror(data, (), (), "alone")
            self.facts.clear()
            # LiteLLM has events of agents as objects of A2A's SDK, whose unions are in `root`.
            if entry(entry(data, "root") or data, "jsonrpc") is not None:
                self.pieces = [self._of_artifact(piece) for piece in self.pieces]

    def _read_chunk(self, chunk: Any) -> None:
        for key, child in children_of(chunk):
            if key != "choices":
                self._mirror(child, (key,), (key,), "alone")
                continue
            for position, choice in self._inside(child, (key,)):
                index = index_of(choice, "index", position)
                self.facts.append((("choices", index, "index"), index))
                self.facts.append((("choices", index, "message", "role"), "assistant"))
                for name, value in self._inside(choice, (key, position)):
                    target = ("choices", index, "message" if name == "delta" else name)
                    self._mirror(value, ("choices", position, name), target, "delta")

    def _read_responses_event(self, event: Any, kind: str) -> None:
        base: Path = ("output", index_of(event, "output_index", 0))
        stem, _, stage = kind.removeprefix("response.").rpartition(".")
        part = ("summary", index_of(event, "summary_index", 0))
        if not stem.startswith("reasoning_summary"):
            part = ("content", index_of(event, "content_index", 0))
        for key, child in children_of(event):
            if key == "response":
                self._read_response(child)
            elif key in ("item", "part"):
                self._mirror(child, (key,), base if key == "item" else (*base, *part), "repeat")
            elif key == "delta" and stem.endswith("audio"):
                continue
            elif isinstance(child, str) and (key == "delta" or (stage == "done" and key in _WHOLE_TEXT)):
                own = (_ITEM_KEY[stem],) if stem in _ITEM_KEY else (*part, "refusal" if stem == "refusal" else "text")
                self._mirror(child, (key,), (*base, *own), "delta" if key == "delta" else "repeat")
            elif key not in _NAMES:
                self._mirror(child, (key,), (key,), "alone")

    def _read_response(self, response: Any) -> None:
        for key, child in self._inside(response, ("response",)):
            if key not in _ECHO:
                self._mirror(child, ("response", key), (key,), "repeat" if key == "output" else "alone")

    def _read_anthropic_event(self, event: Any) -> None:
        block: Path = ("content", index_of(event, "index", 0))
        base: Path = () if entry(event, "type") == "message_delta" else block
        for key, child in children_of(event):
            if key == "content_block":
                self._mirror(child, (key,), block, "delta")
            elif key == "delta":
                for name, value in self._inside(child, (key,)):
                    # Anything but text comes whole, like a citation. The type is the delta's own, not the block's.
                    if name != "type":
                        self._mirror(value, (key, name), (*base, name), "delta" if isinstance(value, str) else "alone")
            elif key == "message":
                for name, value in self._inside(child, (key,)):
                    self._mirror(value, (key, name), (name,), "delta" if name == "content" else "alone")
            elif key != "type":
                self._mirror(child, (key,), (key,), "alone")

    def _read_gemini_chunk(self, chunk: Any, serial: int) -> None:
        for key, child in children_of(chunk):
            if key != "candidates":
                self._mirror(child, (key,), (key,), "alone")
                continue
            for position, candidate in self._inside(child, (key,)):
                base: Path = ("candidates", index_of(candidate, "index", position))
                for name, value in self._inside(candidate, (key, position)):
                    place: Path = ("candidates", position, name)
                    if name != "content":
                        self._mirror(value, place, (*base, name), "alone")
                        continue
                    for inner, content in self._inside(value, place):
                        self._read_gemini_content(inner, content, (*place, inner), base, serial)

    def _read_gemini_content(self, name: Any, content: Any, place: Path, base: Path, serial: int) -> None:
        if name != "parts" or not isinstance(content, (list, tuple)):
            self._mirror(content, place, (*base, "content", name), "delta")
            return
        for position, part in enumerate(content):
            # Text goes on from chunk to chunk, thoughts and answer apart, and so does a call whose arguments come in
            # parts; any other part is one of its own.
            slot = 2 + 1000 * serial + position
            if entry(part, "text") is not None:
                slot = 0 if entry(part, "thought") else 1
            elif isinstance(call := entry(part, "functionCall"), dict):
                slot = self._open_calls.slot_of(base, call, slot)
            self._mirror(part, (*place, position), (*base, "content", "parts", slot), "delta")

    def _of_artifact(self, piece: Piece) -> Piece:
        """Text of an agent's (A2A) artifact goes on from event to event; any other text of its comes whole."""
        place = tuple(key for key in piece.place if key != "root")
        if place[-4:-2] != ("artifact", "parts") or place[-1] != "text":
            return piece
        artifact = standing_at(self.data, piece.place[: piece.place.index("artifact") + 1])
        which = entry(artifact, "artifact_id") or entry(artifact, "artifactId")
        return piece._replace(kind="delta", target=("artifacts", str(which), *place[-3:]))

    def _inside(self, value: Any, place: Path) -> Iterable[tuple[Any, Any]]:
        """What `value` holds. A string where an object or a list should be is text as well."""
        if isinstance(value, str):
            self._mirror(value, place, place, "alone")
        return children_of(value)

    def _mirror(self, value: Any, place: Path, target: Path, kind: Kind) -> None:
        """Notes every string in `value`, in the whole answer in the same structure below `target`."""
        key = place[-1] if place else None
        if isinstance(value, str):
            self._mirror_text(value, place, target, kind)
        elif isinstance(value, (int, float)):
            if key == "created":
                self.facts.append((target, value))
            elif key == _NUMBER_IN_A_PART and PARTIAL_ARGS in place:
                self.pieces.append(Piece(kind, place, target, json_text(value)))
        elif isinstance(value, dict) and key in INPUT_AS_TEXT and kind != "alone":
            if value:
                self.pieces.append(Piece(kind, place, (*target[:-1], INPUT_AS_TEXT[key]), json_text(value)))
        elif value is not None and (key not in _LOGPROBS or not _OF_THE_MODEL.isdisjoint(place)):
            if len(target) >= _DEEPEST and isinstance(value, (dict, list, tuple)):
                text = json_text(value)
                # Numbers alone say nothing.
                if '"' in text:
                    self.pieces.append(Piece(kind, place, target, text))
                return
            is_list = isinstance(value, (list, tuple))
            for name, child in children_of(value):
                if child is not None:
                    slot = _slot_in(key, name, child) if is_list else name
                    self._mirror(child, (*place, name), (*target, slot), kind)

    def _mirror_text(self, value: str, place: Path, target: Path, kind: Kind) -> None:
        key = place[-1] if place else None
        is_place = key == _PLACE_OF_A_PART and PARTIAL_ARGS in place
        if is_place or (key in _NAMES and INPUT_AS_TEXT.keys().isdisjoint(place)):
            self.facts.append((target, value))
            return
        text = not_encrypted(value) if key == ENCRYPTED else value
        if text and not _is_opaque(place, text):
            self.pieces.append(Piece(kind, place, target, text))


class OpenCalls:
    """Calls in one stream whose arguments come in parts (Gemini), where more is to come."""

    def __init__(self) -> None:
        self._open: dict[Path, tuple[int, object]] = {}

    def slot_of(self, candidate: Path, call: Mapping[str, Any], own: int) -> int:
        """The number of the part of the whole answer that `call` is of: that of the open call which it goes on with,
        or `own`.
        """
        slot, name = self._open.get(candidate, (own, None))
        if not is_same_call(call, name):
            slot, name = own, None
        if call.get("willContinue"):
            self._open[candidate] = (slot, call.get("name", name))
        else:
            self._open.pop(candidate, None)
        return slot


def is_same_call(call: Mapping[str, Any], name: object) -> bool:
    """Whether `call` may go on with an open one of that name: it has none, or the same."""
    return "name" not in call or bool(call["name"] == name)


class Units:
    """Makes units of the items of one stream. Bytes become whole events, however they are cut."""

    def __init__(self) -> None:
        self._is_text = False
        self._end = b""
        self._parts: list[bytes] = []
        self._serial = 0
        self._continued: Continued | None = None
        self._open_calls = OpenCalls()

    @property
    def continued(self) -> Continued | None:
        """How the latest unit may go on; None in the middle of one."""
        return None if self._parts else self._continued

    def of(self, item: object) -> Iterator[Unit]:
        """The units that `item` completes."""
        if not isinstance(item, (bytes, bytearray, str)):
            if self._parts:
                yield from self.rest()
            yield self._unit(item)
            return
        self._is_text = isinstance(item, str) and (self._is_text or not self._parts)
        raw = _as_bytes(item)
        if not self._parts and raw.endswith(b"\n\n") and raw.find(b"\n\n") == len(raw) - 2 and b"\r" not in raw:
            # One event and nothing else, as most servers send them.
            yield self._frame(raw)
            return
        self._parts.append(raw)
        # The end of an event may be cut in two, and is at most four bytes long.
        seam = self._end + raw
        self._end = seam[-3:]
        if _FRAME_END.search(seam):
            yield from self._frames()

    def rest(self) -> Iterator[Unit]:
        """The last event, when its end never came."""
        raw = b"".join(self._parts)
        self._parts.clear()
        self._end = b""
        if raw:
            yield self._frame(raw)

    def _frames(self) -> Iterator[Unit]:
        raw = b"".join(self._parts)
        ends = [end.end() for end in _FRAME_END.finditer(raw)]
        # Kept before any is read: what cannot be read must not come again with the next part.
        begun = raw[ends[-1] :] if ends else raw
        self._parts = [begun] if begun else []
        self._end = begun[-3:]
        for start, end in pairwise([0, *ends]):
            yield self._frame(raw[start:end])

    def _frame(self, raw: bytes) -> Unit:
        return self._unit(raw.decode("utf-8", "surrogatepass") if self._is_text else raw)

    def _unit(self, item: object) -> Unit:
        self._serial += 1
        unit = Unit(item, self._serial, self._continued, self._open_calls)
        if not unit.goes_on:
            self._continued = unit.continued()
        return unit


def replaced(value: Any, changes: Mapping[Path, object]) -> Any:
    """A copy of `value` with what stands at these places replaced. It shares everything else with `value`."""
    if () in changes:
        return changes[()]
    below: dict[Any, Any] = {}
    for place, change in changes.items():
        level = below
        for key in place[:-1]:
            level = level.setdefault(key, {})
            if isinstance(level, _Change):
                break
        else:
            level[place[-1]] = _Change(change)
    return _with_changes(value, below)


class _Change(NamedTuple):
    new: object


def _with_changes(value: Any, below: Mapping[Any, Any]) -> Any:
    """The same for changes as a tree."""
    holder = list(value) if isinstance(value, tuple) else copy.copy(value)
    for key, inner in below.items():
        if isinstance(holder, (dict, list)):
            holder[key] = _changed(holder[key], inner)
        else:
            setattr(holder, key, _changed(getattr(holder, key), inner))
    return holder


def _changed(value: Any, change: _Change | Mapping[Any, Any]) -> Any:
    return change.new if isinstance(change, _Change) else _with_changes(value, change)


def entry(value: Any, name: str) -> Any:
    """What `value`, an object or a dictionary, has under a name; None when nothing."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def _without_logprobs(value: Any, place: Path = ()) -> Iterator[tuple[Path, object]]:
    for key, child in children_of(value):
        if key in INPUT_AS_TEXT:
            continue
        if key not in _LOGPROBS:
            yield from _without_logprobs(child, (*place, key))
        elif child is not None:
            yield (*place, key), [] if isinstance(child, list) else None


def _slot_in(key: object, position: int, child: Any) -> int | str:
    """Where an element of the list under `key` belongs in the whole list."""
    return str(entry(child, _PLACE_OF_A_PART)) if key == PARTIAL_ARGS else index_of(child, "index", position)


def index_of(value: Any, name: str, otherwise: int) -> int:
    """The whole number that `value` has under a name, or the other one."""
    index = entry(value, name)
    return index if type(index) is int else otherwise


def standing_at(data: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place; None where nothing does."""
    try:
        for key in place:
            data = data[key] if isinstance(data, (dict, list, tuple)) else entry(data, str(key))
    except (LookupError, TypeError):
        return None
    return data


def _nothing_like(value: object) -> str:
    """An empty string, object or list in the place of `value`, as text."""
    return "" if isinstance(value, str) else "{}" if isinstance(value, dict) else "[]"


def _is_opaque(place: Path, text: str) -> bool:
    if not place or len(place) == 1 or place[-1] in _OPAQUE:
        return bool(place) and place[-1] in _OPAQUE
    return _may_be_media(place) and _BASE64.fullmatch(text) is not None


def _may_be_media(place: Path) -> bool:
    # An image that was made is the result of its item.
    return len(place) > 1 and (place[-1] == "result" or place[-2] in _MEDIA_HOLDERS)


def _as_bytes(item: bytes | bytearray | str) -> bytes:
    return item.encode("utf-8", "surrogatepass") if isinstance(item, str) else bytes(item)


def _data_of_frame(frame: bytes) -> Any:
    """What an event carries: parsed JSON, text that is none, or None."""
    lines = frame.splitlines()
    carried = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    # Bytes that are no event at all: a plain JSON error, or whatever a provider sends there.
    payload = b"\n".join(carried or (line for line in lines if not _NO_PAYLOAD.match(line)))
    if not payload or payload == b"[DONE]":
        return None
    data = parsed(payload)
    return data if isinstance(data, (dict, list)) else payload.decode("utf-8", "replace")


def parsed(payload: str | bytes) -> Any:
    """The JSON in `payload`; None when it is none."""
    try:
        # Halves of surrogate pairs among it, which providers send when a character is cut in two.
        return parsed_json(payload)
    except ValueError:
        return None


def _with_payload(frame: bytes, payload: bytes) -> bytes:
    """`frame` with `payload` in the place of what it carries."""
    lines = frame.splitlines(keepends=True)
    is_event = any(line.startswith(b"data:") for line in lines)
    made: list[bytes] = []
    placed = False
    for line in lines:
        if not (line.startswith(b"data:") if is_event else not _NO_PAYLOAD.match(line.rstrip(b"\r\n"))):
            made.append(line)
        elif not placed:
            placed = True
            end = line[len(line.rstrip(b"\r\n")) :]
            texts = payload.split(b"\n") if is_event else [payload]
            made.append((end or b"\n").join((b"data: " if is_event else b"") + text for text in texts) + end)
    return b"".join(made)
