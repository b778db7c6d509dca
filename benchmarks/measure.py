"""What a process and its children use, as Linux tells (proc(5))."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


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


@dataclass
class Usage:
    """Of a process and its descendants."""

    #: User and system time, in seconds. (The kernel counts in steps of 10 ms.)
    cpu: float
    #: Memory that it does not share, in bytes.
    memory: int
    threads: int


def usage(pid: int) -> Usage:
    cpu, memory, threads = 0.0, 0, 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        cpu += (int(fields[11]) + int(fields[12])) / TICKS
        threads += int(fields[17])
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                memory += int(line.split()[1]) * 1024
    return Usage(cpu, memory, threads)
