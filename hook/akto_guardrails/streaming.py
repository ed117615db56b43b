"""Puts a streamed answer together again: for the record, and for a check while it is still coming.

LiteLLM 1.106.2 has `stream_chunk_builder` for chat chunks; it is not used because it counts tokens as well: 14 ms
on the event loop for 300 chunks, where folding them takes a third.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeGuard
from zlib import crc32

from akto_guardrails.content import Path, answer_body, entries_of
from akto_guardrails.encrypted_content import readable_items
from akto_guardrails.json_text import json_text
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.stream_pattern import Pattern
from akto_guardrails.stream_pieces import (
    INPUT_AS_TEXT,
    PARTIAL_ARGS,
    Piece,
    Unit,
    Units,
    entry,
    index_of,
    is_same_call,
    parsed,
    replaced,
    standing_at,
)

# What a call of Gemini's has while its arguments come in parts.
_OF_PARTS: Final = frozenset({"willContinue", PARTIAL_ARGS})
_FINAL_RESPONSES_EVENTS: Final = ("response.completed", "response.failed", "response.incomplete")
# How many characters are looked through for streamed texts within those of the last event: some hundredths of a second.
_MOST_SEARCHED: Final = 16 * 1024 * 1024


# The length of a text, and its checksum.
_Key = tuple[int, int]


class StreamedText:
    """All the text of one target that came so far."""

    __slots__ = ("_parts", "_read", "_sum", "length")

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[str] = []
        # The checksum of so many parts: a text that grows is not read from its beginning each time.
        self._read = 0
        self._sum = 0

    def add(self, text: str) -> None:
        """Appends what came next."""
        self.length += len(text)
        self._parts.append(text)

    def __str__(self) -> str:
        if len(self._parts) > 1:
            if self._read < len(self._parts):
                self._read = self._sum = 0
            self._read = min(self._read, 1)
            self._parts = ["".join(self._parts)]
        return self._parts[0] if self._parts else ""

    def is_same(self, text: str) -> bool:
        """Whether it is `text`."""
        return self.length == len(text) and str(self) == text

    @property
    def key(self) -> _Key:
        """What texts that are the same have in common, and hardly any others."""
        for position in range(self._read, len(self._parts)):
            self._sum = _checksum(self._parts[position], self._sum)
        self._read = len(self._parts)
        return self.length, self._sum


def _checksum(text: str, before: int = 0) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"), before)


class _Owners:
    """Which targets have which text.

    `changed`: those that may have other text than when they were last looked at.
    """

    def __init__(self, texts: Mapping[Path, StreamedText]) -> None:
        self.changed: dict[Path, None] = {}
        self._texts = texts
        self._keys: dict[Path, _Key] = {}
        self._targets: dict[_Key, dict[Path, None]] = {}

    def of(self, text: str) -> Path | None:
        """A target that has this very text; of several, the one that has had it for longest."""
        for target in self.changed:
            self._note(target, self._texts[target].key)
        self.changed.clear()
        alike = self._targets.get((len(text), _checksum(text)), ())
        return next((target for target in alike if self._texts[target].is_same(text)), None)

    def _note(self, target: Path, key: _Key) -> None:
        before = self._keys.get(target)
        if before == key:
            return
        if before is not None:
            alike = self._targets[before]
            del alike[target]
            if not alike:
                del self._targets[before]
        self._keys[target] = key
        self._targets.setdefault(key, {})[target] = None


class StreamedAnswer:
    """Collects the items of one stream; `body` is then the answer as it would have looked unstreamed.

    `texts` has the streamed text by its target, `facts` the names and ids by the target of what they belong to, and
    `alone` the strings that belong nowhere. `error_status`: the HTTP status of an error that the stream told of; None
    without one.
    """

    def __init__(self) -> None:
        self.error_status: int | None = None
        self.facts: dict[Path, dict[str, object]] = {}
        self.texts: dict[Path, StreamedText] = {}
        self.alone: dict[str, None] = {}
        self._units = Units()
        self._owners = _Owners(self.texts)
        # What items are like that only go on with a text, and what there is of it so far.
        self._going_on: tuple[Pattern, StreamedText] | None = None
        self._usage: dict[str, object] = {}
        self._response: object = None
        self._gemini: _GeminiAnswer | None = None

    def add(self, item: object) -> None:
        """Takes note of one item; never changes it."""
        if self._going_on is not None:
            pattern, so_far = self._going_on
            text = pattern.text_in(item)
            if text is not None:
                so_far.add(text)
                return
        self._add(self._units.of(item))
        continued = self._units.continued
        self._going_on = None if continued is None else (continued.pattern, self.texts[continued.piece.target])

    def body(self) -> object:
        """The answer put together; None when nothing came."""
        self._going_on = None
        self._add(self._units.rest())
        if self._response is not None:
            return self._with_what_it_lacks(answer_body(self._response))
        if self._gemini is not None:
            body = self._gemini.body()
            events = self._alone_beside(body)
            return {**body, "events": events} if events else body
        body, _ = assembled({target: str(text) for target, text in self.texts.items()}, self.facts, list(self.alone))
        return (body | self._usage) or None

    def note(self, unit: Unit) -> list[Piece]:
        """Takes note of one unit. What it only says again is a "repeat" in what is returned, with the true target."""
        for target, name in unit.facts:
            self.facts.setdefault(target[:-1], {})[str(target[-1])] = name
        pieces = [self._placed(piece) if self._is_said_again(piece) else piece for piece in unit.pieces]
        for piece in pieces:
            if piece.kind == "delta":
                text = self.texts.get(piece.target)
                if text is None:
                    text = self.texts[piece.target] = StreamedText()
                text.add(piece.text)
                self._owners.changed[piece.target] = None
            elif piece.kind == "alone":
                self.alone[piece.text] = None
        return pieces

    def _add(self, units: Iterable[Unit]) -> None:
        for unit in units:
            self.note(unit)
            if unit.goes_on:
                continue
            self.error_status = self.error_status or status_of_error(unit.data)
            usage = answer_body(entry(unit.data, "usage") or entry(entry(unit.data, "message"), "usage"))
            if isinstance(usage, dict):
                self._usage["usage"] = {**self._usage.get("usage", {}), **usage}  # type: ignore[dict-item]
            if isinstance(unit.data, dict) and isinstance(unit.data.get("candidates"), list):
                self._gemini = self._gemini or _GeminiAnswer()
                self._gemini.add(unit.data)
            if entry(unit.data, "type") in _FINAL_RESPONSES_EVENTS:
                self._response = entry(unit.data, "response")

    def _with_what_it_lacks(self, response: object) -> object:
        """The response of the last event, and what was streamed and is not in it.

        Some providers leave the output out of it, and where LiteLLM went on with another model when the first broke
        off, it is that of the second alone.
        """
        if not isinstance(response, dict):
            return response
        items: set[Path] = set()
        is_said = _saying(readable_items(response))
        for target, text in self.texts.items():
            if target[:2] not in items and not is_said(str(text)):
                items.add(target[:2])
        lacking = {target: str(text) for target, text in self.texts.items() if target[:2] in items}
        events = self._alone_beside(response)
        if not lacking and not events:
            return response
        further, _ = assembled(lacking, self.facts, events)
        output = [*_list_in(response, "output"), *_list_in(further, "output")]
        return {**further, **response, "output": output}

    def _alone_beside(self, body: object) -> list[str]:
        """The strings that belong nowhere and are not in `body`."""
        if not self.alone:
            return []
        said = set(_strings_in(body))
        return [text for text in self.alone if text not in said]

    def _is_said_again(self, piece: Piece) -> bool:
        if piece.kind != "delta" or piece.target[-1:] != ("name",):
            return piece.kind == "repeat"
        # Some providers send the name of a tool with every piece of its input.
        known = self.texts.get(piece.target)
        return known is not None and known.is_same(piece.text)

    def _placed(self, piece: Piece) -> Piece:
        known = self.texts.get(piece.target)
        if known is not None and known.is_same(piece.text):
            return piece._replace(kind="repeat")
        # Events that LiteLLM makes up of a chat stream do not always agree on the place of a text.
        target = self._owners.of(piece.text)
        if target is not None:
            return piece._replace(target=target)
        return piece._replace(kind="delta" if known is None and piece.text not in self.alone else "alone")


def _saying(body: object) -> Callable[[str], bool]:
    """Tells of a text whether a string in `body` has it in it; of a text too many to be looked for, that none has."""
    strings = dict.fromkeys(_strings_in(body))
    whole: str | None = None
    left = _MOST_SEARCHED

    def is_said(text: str) -> bool:
        nonlocal whole, left
        if text in strings:
            return True
        if whole is None:
            whole = "\0".join(strings)
        left -= len(whole) + 1
        return left >= 0 and text in whole

    return is_said


def _strings_in(value: object) -> Iterator[str]:
    """Every string in `value`, without its place, which would take memory where it is deep."""
    waiting = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            yield found
        else:
            waiting.extend(child for _, child in entries_of(found))


def _list_in(body: Mapping[str, object], name: str) -> list[object]:
    found = body.get(name)
    return found if isinstance(found, list) else []


def status_of_error(event: Any) -> int | None:
    """The HTTP status to record for an event that tells of an error: its own, or 500; None for any other event."""
    kind = entry(event, "type")
    error = entry(event, "error")
    if getattr(kind, "value", kind) not in ("error", "response.failed"):
        is_answer = entry(event, "choices") is not None or entry(event, "candidates") is not None
        if is_answer or not (error and isinstance(error, (dict, str))):
            return None
    code = str(entry(error, "code") or entry(event, "code"))
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


class _GeminiAnswer:
    """Chunks of a Gemini stream as one answer: text goes on from chunk to chunk, calls of tools come whole."""

    def __init__(self) -> None:
        self._head: dict[str, object] = {}
        self._candidates: dict[object, dict[str, Any]] = {}

    def add(self, chunk: Mapping[str, Any]) -> None:
        self._head |= {name: value for name, value in chunk.items() if name != "candidates"}
        for position, candidate in enumerate(chunk["candidates"]):
            if isinstance(candidate, dict):
                whole = self._candidates.setdefault(index_of(candidate, "index", position), {"content": {"parts": []}})
                whole |= {name: value for name, value in candidate.items() if name != "content"}
                content = candidate.get("content")
                self._add_content(whole["content"], content if isinstance(content, dict) else {})

    def _add_content(self, whole: dict[str, Any], content: Mapping[str, Any]) -> None:
        whole |= {name: value for name, value in content.items() if name != "parts"}
        parts = content.get("parts")
        for part in parts if isinstance(parts, list) else ():
            last = whole["parts"][-1] if whole["parts"] else None
            if not (isinstance(last, (_Text, _Call)) and last.takes(part)):
                whole["parts"].append(_growing(part))

    def body(self) -> dict[str, object]:
        candidates = [
            {
                **candidate,
                "content": {**candidate["content"], "parts": list(map(_joined, candidate["content"]["parts"]))},
            }
            for candidate in self._candidates.values()
        ]
        return {"candidates": candidates, **self._head}


class _Text:
    """Text that goes on from chunk to chunk, thoughts and answer apart."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        self._part = part
        self._texts: list[str] = [part["text"]]

    def takes(self, part: object) -> bool:
        """Whether `part` goes on with it."""
        if not _is_text(part) or bool(part.get("thought")) != bool(self._part.get("thought")):
            return False
        self._texts.append(part["text"])
        return True

    def whole(self) -> dict[str, Any]:
        return {**self._part, "text": "".join(self._texts)}


class _Call:
    """A call of a tool whose arguments come in parts."""

    def __init__(self, part: Mapping[str, Any]) -> None:
        self._part = part
        self._arguments: dict[str, list[object]] = {}
        self._is_open = True
        self.takes(part)

    def takes(self, part: object) -> bool:
        """Whether `part` goes on with it."""
        call = part.get("functionCall") if isinstance(part, dict) else None
        own = self._part["functionCall"]
        if not (self._is_open and isinstance(call, dict) and is_same_call(call, own.get("name"))):
            return False
        self._is_open = bool(call.get("willContinue"))
        for argument in _list_in(call, PARTIAL_ARGS):
            if isinstance(argument, dict):
                values = [value for name, value in argument.items() if name.endswith("Value")]
                self._arguments.setdefault(str(argument.get("jsonPath")).removeprefix("$."), []).extend(values)
        return True

    def whole(self) -> dict[str, Any]:
        call = {name: value for name, value in self._part["functionCall"].items() if name not in _OF_PARTS}
        given = call.get("args")
        in_parts = {
            path: values[0] if len(values) == 1 else "".join(map(str, values))
            for path, values in self._arguments.items()
        }
        arguments = {**(given if isinstance(given, dict) else {}), **in_parts}
        return {**self._part, "functionCall": {**call, "args": arguments}}


def _growing(part: Any) -> Any:
    """`part` as what may go on; itself if it cannot."""
    if _is_text(part):
        return _Text(part)
    call = part.get("functionCall") if isinstance(part, dict) else None
    return _Call(part) if isinstance(call, dict) and not call.keys().isdisjoint(_OF_PARTS) else part


def _is_text(part: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(part, dict) and isinstance(part.get("text"), str)


def _joined(part: Any) -> Any:
    return part.whole() if isinstance(part, (_Text, _Call)) else part


class Source(NamedTuple):
    """Where a string of an assembled body comes from: a target of streamed text.

    `is_json`: the text is JSON, and what it says stands in the body in its place.
    """

    target: Path
    is_json: bool = False


class _Leaf(NamedTuple):
    target: Path
    text: str


def assembled(
    texts: Mapping[Path, str], facts: Mapping[Path, Mapping[str, object]], alone: Sequence[str]
) -> tuple[dict[str, object], dict[Path, Source]]:
    """The body of an answer that consists of these texts by their target, and the sources of its text by their path.

    `facts`: names and ids by the target of what they belong to; they are taken in where there is text. Strings that
    stand `alone` are listed as `events`, their target being `("events", index)`.
    """
    root: dict[Any, Any] = dict(facts.get((), {}))
    if root.get("object") == "chat.completion.chunk":
        root["object"] = "chat.completion"
    leaves = [_Leaf(("events", index), text) for index, text in enumerate(alone)]
    leaves += (_Leaf(target, text) for target, text in texts.items())
    stray = [leaf for leaf in leaves if not _is_put(leaf, leaf.target, root, facts)]
    for index, leaf in enumerate(stray, len(alone)):
        _is_put(leaf, ("events", index), root, facts)
    sources: dict[Path, Source] = {}
    body: dict[str, object] = _compact(root, (), sources)
    return body, sources


def changed_texts(
    texts: Mapping[Path, str], sources: Mapping[Path, Source], changes: Mapping[Path, str]
) -> dict[Path, str]:
    """The new text of each target that `changes` to an assembled body touch. Raises `UnmappableMask`."""
    within: dict[Path, dict[Path, object]] = {}
    # How long the paths are that JSON stands at.
    lengths = {len(path) for path, source in sources.items() if source.is_json}
    for path, text in changes.items():
        source, place = _source_of(path, sources, lengths)
        within.setdefault(source.target, {})[place] = text
    return {
        target: str(places[()]) if () in places else _replaced_in_json(texts[target], places)
        for target, places in within.items()
    }


def _source_of(path: Path, sources: Mapping[Path, Source], lengths: Iterable[int]) -> tuple[Source, Path]:
    """Where the string at `path` comes from, and its place in that if it is JSON."""
    source = sources.get(path)
    if source is not None and not source.is_json:
        return source, ()
    for length in lengths:
        source = sources.get(path[:length])
        if source is not None and source.is_json and length < len(path):
            return source, path[length:]
    raise UnmappableMask("the mask changes what is no text of the answer")


def _replaced_in_json(text: str, changes: Mapping[Path, object]) -> str:
    """JSON `text` with the strings at these places replaced, and its numbers as they were written, of whatever size."""
    numbers: list[str] = []
    name = uuid.uuid4().hex

    def named(number: str) -> str:
        numbers.append(number)
        return f"{name}{len(numbers) - 1}"

    data = json.loads(text, parse_int=named, parse_float=named)
    for place in changes:
        standing = standing_at(data, place)
        if not isinstance(standing, str) or standing.startswith(name):
            raise UnmappableMask("the mask changes what is no text of the answer")
    return re.sub(f'"{name}([0-9]+)"', lambda found: numbers[int(found[1])], json_text(replaced(data, changes)))


def _is_put(leaf: _Leaf, target: Path, root: dict[Any, Any], facts: Mapping[Path, Mapping[str, object]]) -> bool:
    """Puts a text into the tree, with the facts along its way; False when something else stands there."""
    node = root
    for depth, key in enumerate(target[:-1], 1):
        node = node.setdefault(key, dict(facts.get(target[:depth], {})))
        if not isinstance(node, dict):
            return False
    return node.setdefault(target[-1], leaf) is leaf


def _compact(node: Any, path: Path, sources: dict[Path, Source]) -> Any:
    """The tree as plain data: numbered entries below the body become lists, in their order and without gaps."""
    if isinstance(node, _Leaf):
        sources[path] = Source(node.target)
        return node.text
    if not isinstance(node, dict):
        return node
    if node and path and all(isinstance(key, int) for key in node):
        return [_compact(child, (*path, index), sources) for index, (_, child) in enumerate(sorted(node.items()))]
    data = {str(key): _compact(child, (*path, str(key)), sources) for key, child in node.items()}
    return _with_input(data, path, sources)


def _with_input(block: dict[str, Any], path: Path, sources: dict[Path, Source]) -> dict[str, Any]:
    """A tool's input is streamed as JSON text, and stands as an object in a whole answer."""
    for name, as_text in INPUT_AS_TEXT.items():
        source = sources.get((*path, as_text))
        if source is None or name in block:
            continue
        value = block.pop(as_text)
        del sources[(*path, as_text)]
        data = parsed(value)
        is_json = isinstance(data, dict)
        block[name] = data if is_json else value
        sources[(*path, name)] = Source(source.target, is_json)
    return block
