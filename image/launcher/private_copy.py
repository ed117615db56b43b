"""The private copy of the config that LiteLLM is pointed at."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from launcher.config import CALLBACK, GUARD_FILE, Source

# A container that is started again has the same name. Locks of another one may not be seen here (NFS).
_PREFIX: Final = f"guarded-litellm-config-{socket.gethostname()}-"
_PACKAGE, _, _INSTANCE = CALLBACK.partition(".")
# LiteLLM runs it as a module of its own, unknown to `import`, which finds the package: the same instance, then.
_GUARD_MODULE: Final = f"from {_PACKAGE} import {_INSTANCE}\n"


def write_private(config: Mapping[str, Any], source: Source, directory: Path) -> Path:
    """Writes `config` into a new private directory below `directory` and gives the path of the copy.

    LiteLLM looks for Python callbacks, custom_auth modules and the like beside its config, so what lies beside the
    operator's is linked beside the copy. Older releases (1.83) look nowhere else, so the guard needs a file there too.
    What earlier starts of the container left is removed. Raises OSError.
    """
    _remove_abandoned(directory)
    private = _locked_directory(directory)
    copy = private / "config.yaml"
    with os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        yaml.safe_dump(dict(config), file, sort_keys=False, allow_unicode=True)
    (private / GUARD_FILE).write_text(_GUARD_MODULE, encoding="utf-8")
    if source.path is not None:
        _link_siblings(source.path, private)
    return copy


def _locked_directory(above: Path) -> Path:
    """A new private directory, locked for as long as this process lives, whatever program it becomes."""
    new = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=above))
    descriptor = os.open(new, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(descriptor, True)
    # On a file system that has no locks the copy is left to whoever tidies up there.
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Under its own name only once it is locked, or another start would take it for abandoned.
    return new.rename(new.with_name(new.name.removeprefix(".")))


def _remove_abandoned(directory: Path) -> None:
    """Removes the copies of programs that have ended: a container that is started again has its old files."""
    for copy in directory.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(copy, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid == os.getuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(copy, ignore_errors=True)
        except OSError:
            pass
        finally:
            os.close(descriptor)


def _link_siblings(config: Path, directory: Path) -> None:
    try:
        siblings = list(config.absolute().parent.iterdir())
    except PermissionError:
        # A directory that may be entered but not listed: nothing beside the config can be found there.
        siblings = []
    for sibling in siblings:
        # Names with two dots are the way in which Kubernetes mounts the others.
        is_no_file_of_the_operators = sibling.name.startswith("..") or sibling.name == "__pycache__"
        if is_no_file_of_the_operators or f"{sibling.stem}.py" == GUARD_FILE or sibling.name == "config.yaml":
            continue
        (directory / sibling.name).symlink_to(sibling)
