"""What the processes of a container have used, from the host's /proc and control groups (Linux, a local engine)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")


def cpu_clock(pids: list[int]) -> tuple[Callable[[], float], str]:
    """A function that gives the seconds of CPU a container's processes have used, and a word on where it reads them.

    The control group's own clock where it can be read; else /proc, which counts in hundredths of a second.
    """
    files = _group_files(Path(f"/proc/{pids[0]}/cgroup").read_text())
    found = next((each for each in files if each[0].exists()), None)
    if found is None:
        return lambda: sum(map(_process_seconds, pids)), "/proc"
    path, unit, name = found
    return lambda: _group_seconds(path, unit), name


def _group_files(groups: str) -> list[tuple[Path, float, str]]:
    """Files that may hold a control group's CPU time, from what /proc/PID/cgroup says, with their unit in seconds."""
    files: list[tuple[Path, float, str]] = []
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        # The root group, or one outside of what this process may see, is not the container's.
        if path.strip("/").partition("/")[0] in ("", ".."):
            continue
        if not controllers:
            files.append((_GROUPS / path.lstrip("/") / "cpu.stat", 1e-6, "control group v2"))
        elif "cpuacct" in controllers.split(","):
            files.append((_GROUPS / controllers / path.lstrip("/") / "cpuacct.usage", 1e-9, "control group v1"))
    return files


def _group_seconds(path: Path, unit: float) -> float:
    found = re.search(r"^(?:usage_usec )?(\d+)$", path.read_text(), re.MULTILINE)
    assert found is not None, f"{path} has no CPU time in it"
    return int(found[1]) * unit


def _process_seconds(pid: int) -> float:
    # The second field, a name in parentheses, may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pids: list[int]) -> dict[str, float]:
    """Resident memory of the processes: `rss`, and `pss` (shared pages in parts) for those who may read it."""
    used = {"rss": sum(_kib(Path(f"/proc/{pid}/status"), "VmRSS") for pid in pids) / 1024}
    with suppress(PermissionError):
        used["pss"] = sum(_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids) / 1024
    return used


def _kib(path: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", path.read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
