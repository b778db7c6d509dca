"""What a process and its children use, as Linux tells (proc(5))."""

from __future__ import annotations

import os
import platform
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the client's, or None where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return (available[0], available[1]) if len(available) > 1 else (None, None)


def family(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def cpu(pid: int) -> float:
    """Return user and system time of a process and its descendants, in seconds.

    The kernel counts in steps of 10 ms.
    """
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


def memory(pid: int) -> dict[str, float]:
    """Return what a process and its descendants hold, in KB; PSS counts what is shared once."""
    found = {"RSS": 0.0, "PSS": 0.0}
    for each in family(pid):
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.upper() in found:
                found[name.upper()] += float(value.split()[0])
    return found


def threads(pid: int) -> int:
    """Return how many threads a process and its descendants have."""
    return sum(len(os.listdir(f"/proc/{each}/task")) for each in family(pid))


def open_files(pid: int) -> list[str]:
    """Return what a process and its descendants have open: paths, and ``socket:[INODE]``."""
    found = []
    for each in family(pid):
        for entry in os.scandir(f"/proc/{each}/fd"):
            try:
                found.append(os.readlink(entry.path))
            except OSError:
                continue  # closed meanwhile
    return found


def machine() -> dict[str, str | int]:
    """Return what this is measured on."""
    cpus = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in cpus.splitlines() if "model name" in line]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count() or 1,
        "memory MB": pages >> 20,
        "system": platform.platform(),
    }
