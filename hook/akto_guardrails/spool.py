"""Records on disk: those that memory cannot hold, and those left when a worker stops, for the next start to send."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import uuid
from collections import deque
from pathlib import Path
from typing import Final

_NAME: Final = re.compile(r"\d{20}-[0-9a-f]{12}-\d+-(\d+)\.record")
_DIRECTORY: Final = "worker-"
_LOCK: Final = "lock"


class Spool:
    """One file for each record, in a directory of this worker's own below `directory`.

    The directory carries a lock that dies with its process. What a dead worker left is taken over by a living one.
    A record is written under another name first, and its name says how long it is: what a crash or a full disk left
    half written is never sent. The name begins with the record's age, by which what is taken over is put in order.
    Not forced to the disk one by one, so a machine that loses power may lose some.
    """

    def __init__(self, directory: str, most_bytes: int) -> None:
        """Raises OSError when `directory` cannot be written to."""
        self._above = Path(directory)
        self._most_bytes = most_bytes
        self._id = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._own = self._above / f"{_DIRECTORY}{self._id}"
        new = self._above / f".{self._id}"
        new.mkdir(mode=0o700)
        self._lock = _lock(new)
        # Under its own name only once it is locked, or another worker would take it over.
        new.rename(self._own)
        # Names of files not loaded yet, the oldest first.
        self._names: deque[str] = deque()
        self._sizes: dict[str, int] = {}
        self._bytes = 0

    def __len__(self) -> int:
        """Records that are not loaded yet."""
        return len(self._names)

    def has_room_for(self, record: bytes) -> bool:
        """Whether `record` may be added."""
        return self._bytes + len(record) <= self._most_bytes

    def add(self, record: bytes, born: int) -> None:
        """Stores the newest record. Raises OSError."""
        self._names.append(self.keep(record, born).name)

    def keep(self, record: bytes, born: int) -> Path:
        """Stores a record that stays in memory too; gives the file that holds it. Raises OSError."""
        name = f"{born:020d}-{self._id}-{next(self._numbers)}-{len(record)}.record"
        _write(self._own / name, record)
        self._count(name, len(record))
        return self._own / name

    def load(self, most: int) -> list[tuple[Path, bytes]]:
        """The oldest records, not more than `most`, with the files that hold them until `remove` is called."""
        loaded: list[tuple[Path, bytes]] = []
        while self._names and len(loaded) < most:
            file = self._own / self._names.popleft()
            try:
                loaded.append((file, file.read_bytes()))
            except OSError:
                self._discard(file)
        return loaded

    def remove(self, file: Path) -> None:
        """Forgets a record that was delivered, or given up."""
        self._discard(file)
        if not self._sizes:
            # There may be room now for what was left to others.
            self.take_over()

    def take_over(self) -> None:
        """Takes what dead workers left, as far as there is room; the rest stays for others, or for later."""
        found: list[tuple[str, int]] = []
        for directory in sorted(self._above.glob(f"{_DIRECTORY}*")):
            if directory == self._own:
                continue
            try:
                found += self._taken_from(directory)
            except OSError:
                # Another worker was quicker, or it is not ours to read.
                continue
        for name, size in sorted(found):
            self._names.append(name)
            self._count(name, size)

    def close(self) -> None:
        """Gives up the lock, and the directory when nothing is left in it."""
        if not self._sizes:
            shutil.rmtree(self._own, ignore_errors=True)
        os.close(self._lock)

    def _discard(self, file: Path) -> None:
        self._bytes -= self._sizes.pop(file.name, 0)
        file.unlink(missing_ok=True)

    def _taken_from(self, directory: Path) -> list[tuple[str, int]]:
        taken: list[tuple[str, int]] = []
        lock = _lock(directory)
        try:
            is_empty = True
            for name in sorted(file.name for file in directory.iterdir()):
                matched = _NAME.fullmatch(name)
                size = (directory / name).lstat().st_size
                if matched is None or int(matched[1]) != size:
                    continue
                if self._bytes + sum(size for _, size in taken) + size > self._most_bytes:
                    is_empty = False
                    break
                (directory / name).rename(self._own / name)
                taken.append((name, size))
            if is_empty:
                shutil.rmtree(directory)
        finally:
            os.close(lock)
        return taken

    def _count(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._bytes += size


def _lock(directory: Path) -> int:
    """The open lock file of `directory`; raises OSError when another process holds it."""
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _write(file: Path, record: bytes) -> None:
    """Writes `file`, readable for its owner alone, whole or not at all."""
    partial = file.with_suffix(".partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(record)
        partial.rename(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
