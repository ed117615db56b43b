"""Content larger than the service takes in one string, as several portions that are checked side by side.

A portion is a flat list of strings: unless told otherwise the service scans the text of the payload, and what its
fields are called does not matter (protocol reference, 3.2). The strings are those of the content in document order,
names of fields and numbers among them. What ends one portion is repeated at the start of the next, so that a phrase
of up to about `_OVERLAP` characters is seen whole wherever it stands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, NamedTuple

from akto_guardrails.content import Path, Place, is_naming, path_of, paths_to
from akto_guardrails.envelope import LONGEST_STRING, payload_of
from akto_guardrails.json_text import common_head, json_length, json_text
from akto_guardrails.masking import UnmappableMask, masked_strings

# Of the names and values in content that is split. They are looked at one by one, during which nobody else gets a turn:
# half a microsecond for each, and three times that where it is masked.
MOST_TEXTS: Final = 100_000
_TEXT: Final = "text"
_NUMBERS: Final = frozenset({int, float})
_OVERLAP: Final = 1_000
# Long strings are measured and cut in steps of so many characters, each of which JSON writes as six at most.
_BLOCK: Final = 512
_LEAST_ROOM: Final = 16 * _BLOCK
# Original text on both sides of a place, by which it is found in masked text.
_AROUND: Final = 24
# A piece that begins or ends within a phrase may be masked for the rest of it; that is about so long at most.
_EDGE: Final = 200


class Piece(NamedTuple):
    """The part from `start` to `end` of the string `whole`, which stands at `place` in the content.

    `place` is None for what no mask may change: the name of a field, a number.
    """

    place: Place | None
    whole: str
    start: int
    end: int

    @property
    def path(self) -> Path | None:
        """The keys and indices that lead to the place."""
        return None if self.place is None else path_of(self.place)

    @property
    def sent(self) -> str:
        return self.whole[self.start : self.end]


# The fields of a piece in a plain tuple, at which the garbage collector looks only once. Very many named tuples would
# have it go through all objects of the process.
_Fields = tuple[Place | None, str, int, int]


@dataclass(frozen=True, slots=True)
class Portion:
    """What one check is about: `body`, with one string for each piece."""

    body: dict[str, Any]
    fields: tuple[_Fields, ...]

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces by the names of their fields."""
        return tuple(map(Piece._make, self.fields))


class TooManyTexts(Exception):
    """The content has more names and values than are looked at. Never carries content."""


def portions_of(
    content: Mapping[str, Any],
    context: Mapping[str, Any],
    longest: int = LONGEST_STRING,
    *,
    most_texts: int = MOST_TEXTS,
) -> list[Portion]:
    """The portions of `content`; none when it has no text. No JSON text of `{"body": body}` is over `longest`.

    `context` is repeated in each portion, or checked as part of the content if it is large. Raises `ValueError` when
    `longest` is too small for anything, `RecursionError` when `content` is nested too deeply, and `TooManyTexts` when
    it has more than `most_texts` names and values.
    """
    room = longest - _length_with(context)
    if room < longest // 2:
        content, context = {**context, **content}, {}
        room = longest - _length_with(context)
    if room < _LEAST_ROOM:
        raise ValueError("portions that small cannot be made")
    texts = _Texts(most_texts)
    texts.collect(content, None)
    packer = _Packer(room)
    for fields in texts.found:
        packer.add(fields)
    return [Portion({**context, _TEXT: list(map(_sent, pieces))}, tuple(pieces)) for pieces in packer.portions()]


def changes_of(portions: Sequence[Portion], returned: Sequence[str | None]) -> dict[Path, str]:
    """The strings of the content that masks change, whole and by their place; empty when none is.

    `returned` has the payload text of each portion's mask, or None. Raises `UnmappableMask` when a portion does not
    come back in its own shape, a name changed, or masked pieces of one string do not go together.
    """
    masks = [
        {} if payload is None else masked_strings(portion.body, payload)
        for portion, payload in zip(portions, returned, strict=True)
    ]
    changed: dict[int, Place] = {}
    texts: dict[int, str] = {}
    # By the identity of their places: each string has one of its own.
    cut = {id(place) for each in portions for place, whole, start, end in each.fields if end - start < len(whole)}
    for portion, mask in zip(portions, masks, strict=True):
        for path, text in mask.items():
            place = _maskable(portion, path)
            changed[id(place)] = place
            if id(place) not in cut and texts.setdefault(id(place), text) != text:
                raise UnmappableMask("the same text was masked in two ways")
    texts |= _joined_texts(portions, masks, cut & changed.keys())
    paths = paths_to(changed.values())
    if paths is None:
        raise UnmappableMask("the mask changes too many strings that are nested too deeply")
    return {path: texts[number] for path, number in zip(paths, changed, strict=True) if number in texts}


def _joined_texts(
    portions: Sequence[Portion], masks: Sequence[Mapping[Path, str]], numbers: AbstractSet[int]
) -> dict[int, str]:
    """The masked strings among those that were cut, by the identity of their places."""
    found: dict[int, dict[tuple[int, int], _Seen]] = {number: {} for number in numbers}
    for portion, mask in zip(portions, masks, strict=True):
        for index, fields in enumerate(portion.fields if found else ()):
            if id(fields[0]) in found:
                _note(found[id(fields[0])], Piece._make(fields), mask.get((_TEXT, index)))
    joined = {number: _joined(list(pieces.values())) for number, pieces in found.items()}
    return {number: text for number, (text, whole) in joined.items() if text != whole}


def _sent(fields: _Fields) -> str:
    _, whole, start, end = fields
    return whole[start:end]


def _length_with(context: Mapping[str, Any]) -> int:
    return json_length(payload_of({**context, _TEXT: []}))


class _Texts:
    """The strings of the content in document order, names and numbers among them, each as one piece."""

    def __init__(self, most: int) -> None:
        self.found: list[_Fields] = []
        self._left = most

    def collect(self, value: object, place: Place | None) -> None:
        """Adds what is in `value`, which stands at `place`. Raises `TooManyTexts`."""
        if isinstance(value, str):
            self._add(place, value)
        elif isinstance(value, (dict, Mapping)):
            self._count(2 * len(value))
            for key, child in value.items():
                self._add(None, str(key))
                self.collect(child, (place, key))
        elif isinstance(value, (list, tuple)):
            if value and _NUMBERS.issuperset(map(type, value)):
                # A prompt in tokens: very many, and one string does for all.
                self._add(None, json_text(value))
                return
            self._count(len(value))
            for index, child in enumerate(value):
                self.collect(child, (place, index))
        elif value is not None and not isinstance(value, bool):
            self._add(None, str(value))

    def _add(self, place: Place | None, text: str) -> None:
        self.found.append((place, text, 0, len(text)))

    def _count(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise TooManyTexts


def _cost(text: str) -> int:
    """What `text` takes in a JSON array: itself, escaped, with quotes and a comma."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return len(text) + 3
    return json_length(json_text(text)) + 1


class _Packer:
    """Fills portions with strings, one after the other."""

    def __init__(self, room: int) -> None:
        self._room = self._left = room
        # Six times that, in the worst case, is repeated at the start of a portion.
        self._echo = min(_OVERLAP, room // 16)
        self._pieces: list[_Fields] = []
        self._full: list[list[_Fields]] = []

    def portions(self) -> list[list[_Fields]]:
        return [*self._full, self._pieces] if self._pieces else self._full

    def add(self, string: _Fields) -> None:
        """Puts a whole string into one portion, or cut into pieces when it does not fit beside what is repeated."""
        place, text, _, length = string
        most = self._room - 6 * self._echo
        cost = _cost(text) if length <= most else length
        if cost > most:
            self._add_cut(place, text)
            return
        if cost > self._left:
            self._begin(self._last_text())
        self._put(string, cost)

    def _add_cut(self, place: Place | None, text: str) -> None:
        if self._left < _LEAST_ROOM // 2:
            self._begin(self._last_text())
        start = 0
        while True:
            end, cost = _reach(text, start, self._left)
            self._put((place, text, start, end), cost)
            if end == len(text):
                return
            self._begin([])
            start = max(end - _OVERLAP, (start + end) // 2)

    def _put(self, piece: _Fields, cost: int) -> None:
        self._pieces.append(piece)
        self._left -= cost

    def _begin(self, repeated: list[_Fields]) -> None:
        self._full.append(self._pieces)
        self._pieces = []
        self._left = self._room
        for piece in repeated:
            self._put(piece, _cost(_sent(piece)))

    def _last_text(self) -> list[_Fields]:
        """The pieces that end the current portion, the first of them cut where it is too long."""
        last: list[_Fields] = []
        left = self._echo
        for piece in reversed(self._pieces):
            place, whole, start, end = piece
            length = end - start + 3
            if length > left:
                if left >= 8 * _AROUND:
                    last.append((place, whole, end - left + 3, end))
                break
            last.append(piece)
            left -= length
        return last[::-1]


def _reach(text: str, start: int, room: int) -> tuple[int, int]:
    """How far `text` fits into `room` from `start` on, and what that costs."""
    end, cost = start, 3
    while end < len(text):
        block = text[end : end + _BLOCK]
        more = _cost(block) - 3
        if cost + more > room:
            break
        end += len(block)
        cost += more
    return end, cost


class _Seen:
    """A piece as it came back in `got`, and how much of its head and its tail is certain to be as it was sent."""

    def __init__(self, piece: Piece, got: str | None) -> None:
        self.piece = piece
        self.sent = piece.sent
        self.got = self.sent if got is None else got
        head = common_head(self.sent, self.got)
        tail = _alike_at_end(self.sent, self.got)
        # Both reach over the mask when it removed or added text like that around it; where it stood is open then.
        shorter = min(len(self.sent), len(self.got))
        self.head, self.tail = (
            (head, tail) if not self.changed else (min(head, shorter - tail), min(tail, shorter - head))
        )

    @property
    def changed(self) -> bool:
        return self.got != self.sent

    def place(self, position: int) -> int | None:
        """Where in `got` the character at `position` of the whole string is; None when that cannot be told."""
        offset = position - self.piece.start
        if offset <= self.head:
            return offset
        if len(self.sent) - offset <= self.tail:
            return len(self.got) - len(self.sent) + offset
        around = self.piece.whole[position - _AROUND : position + _AROUND]
        if self.got.count(around) != 1 or self.sent.count(around) != 1:
            return None
        found = self.got.index(around)
        # It may be other text that reads like it, where masked text is gone.
        is_it = found >= self.head and found + len(around) <= len(self.got) - self.tail
        return found + _AROUND if is_it else None


def _maskable(portion: Portion, path: Path) -> Place:
    """The place in the content of what a mask changes at `path` in a portion."""
    index = path[-1]
    place = portion.fields[index][0] if path[0] == _TEXT and isinstance(index, int) else None
    if place is None or is_naming(place[1:]):
        raise UnmappableMask("the mask changes a name, an id or a number")
    return place


def _note(seen: dict[tuple[int, int], _Seen], piece: Piece, got: str | None) -> None:
    """Takes note of one piece; of a repeated one, what is masked counts."""
    new = _Seen(piece, got)
    known = seen.setdefault((piece.start, piece.end), new)
    if not known.changed:
        seen[piece.start, piece.end] = new
    elif new.changed and new.got != known.got:
        raise UnmappableMask("the same text was masked in two ways")


def _joined(pieces: Sequence[_Seen]) -> tuple[str, str]:
    """A string put together from its masked pieces, and as it was sent."""
    parts: list[str] = []
    begin = 0
    for left, right in pairwise(pieces):
        end, next_begin = _seam(left, right)
        if end < begin:
            raise UnmappableMask("masks reach over more than two pieces of a long text")
        parts.append(left.got[begin:end])
        begin = next_begin
    return "".join([*parts, pieces[-1].got[begin:]]), pieces[-1].piece.whole


def _seam(left: _Seen, right: _Seen) -> tuple[int, int]:
    """Up to where `left.got` is taken, and from where on `right.got`."""
    if right.piece.end == left.piece.end and (not right.changed or left.got.endswith(right.got)):
        return len(left.got), len(right.got)
    for position in _from_the_middle(right.piece.start + _AROUND, left.piece.end - _AROUND):
        end, begin = left.place(position), right.place(position)
        if end is not None and begin is not None and _agree(left, end, right, begin):
            return end, begin
    begins = list(_shared(left, right))
    if len(begins) != 1:
        raise UnmappableMask("the masked pieces of a long text cannot be joined")
    return len(left.got), begins[0]


def _from_the_middle(first: int, last: int) -> Iterator[int]:
    middle = (first + last) // 2
    for away in range(0, (last - first) // 2 + 1, _AROUND):
        yield middle - away
        yield middle + away


def _agree(left: _Seen, end: int, right: _Seen, begin: int) -> bool:
    """Whether what is dropped of either side says nothing that the other side does not say.

    Each side is the better witness for its own half: it may have masked a phrase of which the other saw a part, which
    left that part as it was, or masked it for something else.
    """
    dropped = left.got[end:]
    odd = len(dropped) - common_head(dropped, right.got[begin : begin + len(dropped)])
    is_cut = right.piece.end > left.piece.end
    if odd > (_EDGE if is_cut else 0) and not left.sent.endswith(dropped[-odd:]):
        return False
    dropped = right.got[:begin]
    odd = begin - _alike_at_end(dropped, left.got[max(0, end - begin) : end])
    return odd <= _EDGE or right.sent.startswith(dropped[:odd])


def _shared(left: _Seen, right: _Seen) -> Iterator[int]:
    """Lengths of masked text that ends `left.got` and begins `right.got`, long enough to be their overlap."""
    overlap = left.piece.end - right.piece.start
    within = right.got[: 4 * overlap]
    last = left.got[-2 * _AROUND :]
    length = within.find(last, max(0, overlap // 2 - len(last))) + len(last)
    while last and length >= len(last):
        if left.got.endswith(within[:length]):
            yield length
        length = within.find(last, length - len(last) + 1) + len(last)


def _alike_at_end(one: str, other: str) -> int:
    return common_head(one[::-1], other[::-1])
