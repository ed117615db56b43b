"""Records on disk: those that memory cannot hold, and those left when a worker stops, for the next start to send."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
import re
import shutil
import uuid
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from akto_guardrails.log import RateLimited
from akto_guardrails.problem import Problem

_NAME: Final = re.compile(r"(\d{20})-[0-9a-f]{12}-\d+-(\d+)\.record")
_SUFFIX: Final = ".record"
_DIRECTORY: Final = "worker-"
_LOCK: Final = "lock"
# Of dead workers, whose records are sent at a time: each takes an open file.
_MOST_DIRECTORIES: Final = 64

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """A record as it was stored, and the file that holds it. `born`: when it was made, in nanoseconds."""

    body: bytes
    born: int
    file: Path


class Spool:
    """One file for each record, in a directory of this worker's own below `directory`.

    The directory carries a lock that dies with its process. What a dead worker left is sent by a living one: it takes
    that lock, and leaves the files where they are, so that nothing can happen to them on the way.
    A record is written under another name first, and its name says how long it is: what a crash or a full disk left
    half written is never sent. The name begins with the record's age, by which what is taken over is put in order.
    Not forced to the disk one by one, so a machine that loses power may lose some.
    """

    def __init__(self, directory: str, most_bytes: int) -> None:
        """Raises OSError when `directory` cannot be written to."""
        self._above = Path(directory)
        self.most_bytes = most_bytes
        self._id = uuid.uuid4().hex[:12]
        self._numbers = itertools.count()
        self._own = self._above / f"{_DIRECTORY}{self._id}"
        new = self._above / f".{self._id}"
        new.mkdir(mode=0o700)
        lock = _lock(new)
        # Under its own name only once it is locked, or another worker would take it over.
        new.rename(self._own)
        # Of each directory whose records are this worker's to send: its open lock file.
        self._locks: dict[Path, int] = {self._own: lock}
        # Names of files not loaded yet, with their directories, the oldest first.
        self._names: deque[tuple[str, Path]] = deque()
        # Of all files that are not removed yet.
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        # In directories taken over, which are looked through again.
        self._undeleted: set[str] = set()
        self._trouble = RateLimited(_log, logging.WARNING)

    @property
    def directory(self) -> str:
        """Below which all workers have theirs."""
        return str(self._above)

    def __len__(self) -> int:
        """Records that are not loaded yet."""
        return len(self._names)

    @property
    def files(self) -> int:
        """Records that are on disk, loaded or not."""
        return len(self._sizes)

    @property
    def total_bytes(self) -> int:
        """What they take."""
        return self._bytes

    @property
    def next_size(self) -> int:
        """How long the oldest of them is; there has to be one."""
        return self._sizes[self._names[0][0]]

    def has_room_for(self, record: bytes) -> bool:
        """Whether `record` may be added."""
        return self._bytes + len(record) <= self.most_bytes

    def add(self, record: bytes, born: int) -> None:
        """Stores the newest record. Raises OSError."""
        self._names.append((self.keep(record, born).name, self._own))

    def keep(self, record: bytes, born: int) -> Path:
        """Stores a record that stays in memory too; gives the file that holds it. Raises OSError."""
        name = f"{born:020d}-{self._id}-{next(self._numbers)}-{len(record)}{_SUFFIX}"
        _write(self._own / name, record)
        self._count(name, len(record))
        return self._own / name

    def load(self) -> Stored | None:
        """The oldest record, whose file stays until `remove` is called; there has to be one.

        None when it is lost: its file is gone, or is not what was written. Raises OSError when it cannot be read now,
        for example because too many files are open; it stays the oldest then.
        """
        name, directory = self._names[0]
        file = directory / name
        try:
            body = file.read_bytes()
        except FileNotFoundError:
            body = b""
        self._names.popleft()
        if len(body) != self._sizes[name] or not body:
            self.remove(file)
            return None
        return Stored(body, int(name.partition("-")[0]), file)

    def remove(self, file: Path) -> None:
        """Forgets a record that was delivered, or given up. Never raises."""
        self._bytes -= self._sizes.pop(file.name, 0)
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            if file.parent != self._own:
                self._undeleted.add(file.name)
            why = "a record in SPOOL_DIR cannot be deleted, the next start will send it again: %s"
            self._trouble.log(why, error.strerror)
        if not self._sizes:
            # There may be room now for what was left to others.
            self._release_all_but_own()
            self.take_over()

    def take_over(self) -> None:
        """Takes what dead workers left, as far as there is room; the rest stays for others, or for later.

        Never raises: what cannot be read now stays for later too.
        """
        found: list[tuple[str, Path]] = []
        for directory in (self._above / name for name in _names_in(self._above) if name.startswith(_DIRECTORY)):
            if len(self._locks) > _MOST_DIRECTORIES:
                break
            if directory not in self._locks:
                found += self._taken_from(directory)
        if found:
            self._names = deque(sorted((*self._names, *found)))

    def close(self) -> None:
        """Gives up the locks, and the directories in which nothing is left."""
        self._release_all_but_own()
        self._release(self._own)

    def _taken_from(self, directory: Path) -> list[tuple[str, Path]]:
        """Takes what there is room for, and be it one record that is larger than all room there ever is."""
        try:
            self._locks[directory] = _lock(directory)
        except OSError:
            # A living worker's, or another user's.
            return []
        taken: list[tuple[str, Path]] = []
        for name in _names_in(directory):
            matched = _NAME.fullmatch(name)
            if matched is None or name in self._undeleted:
                continue
            size = int(matched[2])
            if self._sizes and self._bytes + size > self.most_bytes:
                break
            self._count(name, size)
            taken.append((name, directory))
        if not taken:
            self._release(directory)
        return taken

    def _release_all_but_own(self) -> None:
        for directory in [directory for directory in self._locks if directory != self._own]:
            self._release(directory)

    def _release(self, directory: Path) -> None:
        """Gives up the lock of `directory`, and the directory itself when there certainly is no record in it."""
        with contextlib.suppress(OSError):
            if not any(path.suffix == _SUFFIX for path in directory.iterdir()):
                shutil.rmtree(directory, ignore_errors=True)
        os.close(self._locks.pop(directory))
        # Where a file that is open cannot be removed (NFS) it goes with its last user.
        with contextlib.suppress(OSError):
            directory.rmdir()

    def _count(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._bytes += size


def left_by_others(directory: str) -> Problem | None:
    """What is wrong with records below `directory` that this process cannot send, because another user left them."""
    workers = (Path(directory) / name for name in _names_in(Path(directory)) if name.startswith(_DIRECTORY))
    if not any(not os.access(worker, os.R_OK | os.W_OK | os.X_OK) for worker in workers):
        return None
    return Problem(
        f"SPOOL_DIR ({directory}) has what another user left: user {os.getuid()} cannot read it, so it is not sent.",
        "Run the container as the user it ran as before, or give the files to this one (chown -R).",
    )


def _names_in(directory: Path) -> list[str]:
    """The sorted names of what is in `directory`, none when it cannot be read."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except OSError:
        return []


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
