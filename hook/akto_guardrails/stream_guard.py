"""Lets text of a streamed answer out only after it was judged.

Either the whole stream is held and judged once, or its text is judged and released window by window. Whole items are
held and released, never halves, so that an answer nobody objects to arrives as it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Final

import anyio

from akto_guardrails.content import Path
from akto_guardrails.json_text import common_head
from akto_guardrails.masking import UnmappableMask
from akto_guardrails.stream_pieces import Piece, Unit, Units, entry
from akto_guardrails.streaming import StreamedAnswer, assembled, changed_texts

# Gets an answer's body and returns the strings to change by their path in it; raises to block.
Judge = Callable[[object], Awaitable[Mapping[Path, str]]]
# Gets the items that came and did not get out.
Rest = Callable[[Iterable[object]], None]
# Is told that what was judged last may pass, with its changes in it.
Passed = Callable[[], None]

_MOST_READ_AHEAD: Final = 64
# How many items are made ready in one go: some milliseconds of work at most, where all of them are masked.
_IN_ONE_GO: Final = 64
_LATE: Final = object()
_END: Final = object()
# Events of the Responses API that only say that an answer begins. OpenAI's SDK knows no error before the first.
_OPENING: Final = frozenset({"response.created", "response.queued", "response.in_progress"})

# Streams that are being closed: the event loop itself keeps no task alive.
_closing: Final[set[asyncio.Task[None]]] = set()


@dataclass(frozen=True, slots=True)
class Window:
    """How much text is judged at once, in characters of all choices and kinds of text together."""

    characters: int = 1_000  # unjudged text that triggers a check
    overlap: int = 256  # text held back and judged again with what follows
    seconds: float = 1.0  # or unjudged text held for so long triggers one, if that can release any


def guarded(
    items: AsyncIterator[object],
    judge: Judge,
    window: Window | None,
    rest: Rest = lambda _: None,
    passed: Passed = lambda: None,
) -> AsyncGenerator[object, None]:
    """The items of a streamed answer once `judge` let them pass, as they were or, where it changed text, as copies.

    Without a `window` the stream is held to its end and judged once. With one, text comes out in judged windows, each
    judged together with the last `overlap` characters before it; those stay held until text follows or the stream
    ends, however slow it is. Where masked text stands close to the end of a window more is held.

    Raises whatever `judge` raises, `UnmappableMask` when it changes what is no text of the answer, and, after what
    came until then was judged and released, whatever `items` raises. Held events that only say that an answer begins
    come out before that. When nobody wants the items any more, because the generator is cancelled or closed, `rest`
    gets those that came by then, masked where that is known. `passed` is called for each verdict that could be applied.
    """
    answer = _Answer(judge, passed, 0 if window is None else window.overlap)
    return _held(items, answer, rest) if window is None else _windowed(items, answer, window, rest)


async def _held(items: AsyncIterator[object], answer: _Answer, rest: Rest) -> AsyncGenerator[object, None]:
    originals: deque[object] = deque()
    out: deque[object] | None = None
    failure: Exception | None = None
    coming = aiter(items)
    try:
        while True:
            try:
                item = await anext(coming)
            except StopAsyncIteration:
                break
            except Exception as error:  # noqa: BLE001 - raised again below
                failure = error
                break
            answer.take(item)
            originals.append(item)
        await answer.end()
        out = await answer.rest() if answer.is_changed else originals
        answer.forget()
        while out:
            yield out.popleft()
        if failure is not None:
            raise failure
    except (asyncio.CancelledError, GeneratorExit):
        rest(answer.dropped() if out is None else out)
        raise
    except Exception:  # passed on
        for item in answer.opening():
            yield item
        raise
    finally:
        await _close(items)


async def _windowed(
    items: AsyncIterator[object], answer: _Answer, window: Window, rest: Rest
) -> AsyncGenerator[object, None]:
    reader = _Reader(items)
    clock = asyncio.get_running_loop().time
    deadline: float | None = None
    out: deque[object] = deque()
    try:
        while (item := await reader.next(deadline)) is not _END:
            if item is not _LATE:
                answer.take(item)
            is_late = deadline is not None and clock() >= deadline
            # Where masks keep text from being released, checks get rarer as what is held grows.
            is_full = answer.unjudged >= max(window.characters, answer.judged)
            if is_full or not answer.holds_text or (is_late and answer.could_release()):
                out += await answer.checked()
                while out:
                    yield out.popleft()
                deadline = None
            if is_late or deadline is None:
                deadline = clock() + window.seconds if answer.unjudged else None
        await answer.end()
        out += await answer.rest()
        while out:
            yield out.popleft()
        if reader.failure is not None:
            raise reader.failure
    except (asyncio.CancelledError, GeneratorExit):
        rest(chain(out, answer.dropped(), reader.unread))
        raise
    except Exception:  # passed on
        for item in answer.opening():
            yield item
        raise
    finally:
        await _close(items, reader)


async def _close(items: AsyncIterator[object], reader: _Reader | None = None) -> None:
    # A server that has lost its client cancels every wait of the task until it has ended, and LiteLLM cancels the task
    # as well, which no scope keeps off: closing goes on in a task of its own whether it is waited for or not.
    closing = asyncio.create_task(_closed(items, reader))
    _closing.add(closing)
    closing.add_done_callback(_closing.discard)
    with anyio.CancelScope(shield=True):
        await asyncio.shield(closing)


async def _closed(items: AsyncIterator[object], reader: _Reader | None) -> None:
    if reader is not None:
        await reader.close()
    aclose = getattr(items, "aclose", None)
    if aclose is not None:
        # Must not take the place of what ended the stream.
        with contextlib.suppress(Exception):
            await aclose()


class _Reader:
    """Reads a stream in a task of its own, so that waiting for an item can end without cancelling the stream."""

    def __init__(self, items: AsyncIterator[object]) -> None:
        self.failure: Exception | None = None
        self._items: deque[object] = deque()
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._task = asyncio.create_task(self._read(items))
        self._task.add_done_callback(lambda _: self._filled.set())

    async def next(self, deadline: float | None) -> object:
        """The next item, `_LATE` when none came by `deadline`, or `_END`."""
        while not self._items:
            if self._task.done():
                if self._task.cancelled():
                    raise asyncio.CancelledError
                return _END
            self._filled.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._filled.wait()
            except TimeoutError:
                return _LATE
        self._taken.set()
        return self._items.popleft()

    @property
    def unread(self) -> Iterable[object]:
        return self._items

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self, items: AsyncIterator[object]) -> None:
        try:
            async for item in items:
                self._items.append(item)
                self._filled.set()
                while len(self._items) >= _MOST_READ_AHEAD:
                    self._taken.clear()
                    await self._taken.wait()
        except Exception as error:  # noqa: BLE001 - raised by whoever reads, after all items
            self.failure = error


class _Span:
    """The text of one target in what is held, and what a verdict makes of it."""

    def __init__(self, before: str, pieces: list[str], follows: int) -> None:
        self.start = len(before)
        self.old = self.new = before + "".join(pieces)
        # Characters of other targets that came after the last of this one.
        self.follows = follows
        self.head = self.tail = len(self.old)

    def change(self, new: str) -> None:
        """Takes `new` in place of the text. Raises `UnmappableMask` when that would change what is out already."""
        head = common_head(self.old, new)
        tail = min(common_head(self.old[::-1], new[::-1]), len(new) - head, len(self.old) - head)
        if head < self.start:
            if len(self.old) - tail > self.start:
                raise UnmappableMask("the mask begins in text of the answer that is released already")
            return
        self.new, self.head, self.tail = new, head, len(self.old) - tail

    def text_of(self, start: int, end: int) -> str:
        """What becomes of the old text from `start` to `end`; what replaces changed text stands where that began."""
        if self.new == self.old:
            return self.old[start:end]
        begins = min(self.head, len(self.old) - 1)
        text = self.old[start : max(start, min(end, self.head))]
        if start <= begins < end:
            text += self.new[self.head : len(self.new) - (len(self.old) - self.tail)]
        return text + self.old[max(start, self.tail) : max(end, self.tail)]

    def may_end_at(self, end: int, overlap: int) -> bool:
        """Whether text up to `end` may be released and the rest judged again with what follows.

        Masked text that is held is judged again too, so what stands before it, which may be why, is held with it.
        """
        if end == self.start:
            return True
        if end > len(self.old) - overlap and not (end == len(self.old) and self.follows >= overlap):
            return False
        return self.new is self.old or self.tail <= end != self.head or end <= self.head - overlap


class _Sent:
    """What was released of one target."""

    __slots__ = ("before", "is_masked", "parts")

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.is_masked = False
        # The end of what is out, judged again with what follows because nothing of it was held back.
        self.before = ""


class _Answer:
    """The answer so far: what of it is held, and what was released in what form."""

    def __init__(self, judge: Judge, passed: Passed, overlap: int) -> None:
        self.is_changed = False
        self.unjudged = self.judged = 0  # characters that are held
        self._judge = judge
        self._passed = passed
        self._overlap = overlap
        self._units = Units()
        self._answer = StreamedAnswer()
        self._held: list[tuple[Unit, list[Piece]]] = []
        self._spans: dict[Path, _Span] = {}
        # Held text that was judged already and is to be changed, and its new form.
        self._masked: dict[Path, tuple[str, str]] = {}
        self._sent: dict[Path, _Sent] = {}
        # Strings that stand alone by what became of them, and those of them that were not judged yet.
        self._alone: dict[str, str] = {}
        self._new_alone: list[str] = []
        # What is ready to be released while more is made so, and what has yet to be.
        self._ready: deque[object] = deque()
        self._releasing: Iterator[object] = iter(())

    @property
    def holds_text(self) -> bool:
        return self.unjudged + self.judged > 0

    def take(self, item: object) -> None:
        """Holds an item."""
        for unit in self._units.of(item):
            self._hold(unit)

    async def checked(self) -> deque[object]:
        """Judges what is held, and gives what of it may be released."""
        if self.holds_text:
            await self._check()
        return await self._ready_of(self._releasable())

    async def end(self) -> None:
        """Judges what is held, now that no more will come: all of it may be released."""
        for unit in self._units.rest():
            self._hold(unit)
        if self.holds_text:
            await self._check()

    async def rest(self) -> deque[object]:
        """All that is held, once it was judged."""
        return await self._ready_of(len(self._held))

    def forget(self) -> None:
        """Holds nothing any more."""
        self._held.clear()

    async def _ready_of(self, count: int) -> deque[object]:
        """The first held units, so many of them, as they may be released."""
        self._releasing = self._released(count)
        for number, item in enumerate(self._releasing, 1):
            self._ready.append(item)
            if number % _IN_ONE_GO == 0:
                await asyncio.sleep(0)
        ready, self._ready = self._ready, deque()
        return ready

    def dropped(self) -> Iterator[object]:
        """All that is held, when nobody wants it any more: unjudged text as it came."""
        yield from self._ready
        yield from self._releasing
        self._spans = self._spans_of_held()
        for target, (old, new) in self._masked.items():
            span = self._spans[target]
            span.change(span.old[: span.start] + new + span.old[span.start + len(old) :])
        yield from self._released(len(self._held))
        yield from (unit.item for unit in self._units.rest())

    def opening(self) -> Iterator[object]:
        """The events at the head of what is held that say that an answer begins, without any text that was not let out.

        Empty strings stand in its place. An event that has some of the answer already is none of them.
        """
        for unit, pieces in self._held:
            kind = entry(unit.data, "type")
            if getattr(kind, "value", kind) not in _OPENING or any(piece.kind != "alone" for piece in pieces):
                return
            yield unit.emptied() if pieces else unit.item

    def could_release(self) -> bool:
        """Whether a check would release anything if nobody objected."""
        self._spans = self._spans_of_held()
        return self._releasable() > 0

    def _hold(self, unit: Unit) -> None:
        pieces = self._answer.note(unit)
        for piece in pieces:
            if piece.kind == "delta":
                self.unjudged += len(piece.text)
            elif piece.kind == "alone" and piece.text not in self._alone:
                self.unjudged += len(piece.text)
                self._alone[piece.text] = piece.text
                self._new_alone.append(piece.text)
        self._held.append((unit, pieces))

    async def _check(self) -> None:
        self._spans = self._spans_of_held()
        texts = {target: span.old for target, span in self._spans.items()}
        body, sources = assembled(texts, self._answer.facts, self._new_alone)
        changes = await self._judge(body)
        for target, text in changed_texts(texts, sources, changes).items():
            if target in self._spans:
                self._spans[target].change(text)
            else:
                self._alone[self._new_alone[int(target[-1])]] = text
        self._passed()
        self.is_changed = self.is_changed or bool(changes)
        self._new_alone.clear()
        self.unjudged = 0

    def _spans_of_held(self) -> dict[Path, _Span]:
        pieces: dict[Path, list[str]] = {}
        ends: dict[Path, int] = {}
        total = 0
        for piece in self._deltas():
            total += len(piece.text)
            pieces.setdefault(piece.target, []).append(piece.text)
            ends[piece.target] = total
        return {
            target: _Span(self._sent.setdefault(target, _Sent()).before, texts, total - ends[target])
            for target, texts in pieces.items()
        }

    def _deltas(self) -> Iterator[Piece]:
        return (piece for _, pieces in self._held for piece in pieces if piece.kind == "delta")

    def _releasable(self) -> int:
        """How many of the held units may be released, the last window's verdict known."""
        ends = {target: span.start for target, span in self._spans.items()}
        split: set[Path] = set()
        count = 0
        for number, (_, pieces) in enumerate(self._held, 1):
            for piece in pieces:
                if piece.kind == "delta":
                    ends[piece.target] += len(piece.text)
                    if self._spans[piece.target].may_end_at(ends[piece.target], self._overlap):
                        split.discard(piece.target)
                    else:
                        split.add(piece.target)
            if not split:
                count = number
        return count

    def _released(self, count: int) -> Iterator[object]:
        released, self._held = self._held[:count], self._held[count:]
        ends = {target: span.start for target, span in self._spans.items()}
        for unit, pieces in released:
            texts = {piece.place: self._text_of(piece, ends) for piece in pieces}
            changes = {piece.place: texts[piece.place] for piece in pieces if texts[piece.place] != piece.text}
            yield unit.with_texts(changes) if changes else unit.item
        for target, end in ends.items():
            sent, span = self._sent[target], self._spans[target]
            if end > span.start:
                is_overlap_held = len(span.old) - end >= self._overlap
                sent.before = "" if is_overlap_held else "".join(sent.parts)[-self._overlap :]
        self._masked = {
            target: (span.old[ends[target] :], span.text_of(ends[target], len(span.old)))
            for target, span in self._spans.items()
            if span.new is not span.old and ends[target] < len(span.old)
        }
        self.judged = sum(len(piece.text) for piece in self._deltas())
        self._spans = {}

    def _text_of(self, piece: Piece, ends: dict[Path, int]) -> str:
        """What is released in the place of a piece, which is the next of its target."""
        if piece.kind == "alone":
            return self._alone[piece.text]
        sent = self._sent[piece.target]
        if piece.kind == "repeat":
            return "".join(sent.parts) if sent.is_masked else piece.text
        start = ends[piece.target]
        end = ends[piece.target] = start + len(piece.text)
        text = self._spans[piece.target].text_of(start, end)
        sent.parts.append(text)
        sent.is_masked = sent.is_masked or text != piece.text
        return text
