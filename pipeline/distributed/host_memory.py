"""The memory that programs may take here: the machine's, or what a container or a batch job was given of it.

psutil, like /proc/meminfo, knows the machine alone: in a pod of 8 GiB it speaks of the node's 256.
"""

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS, OWN = "/sys/fs/cgroup", "/proc/self/cgroup"


def total_memory() -> int:
    """[bytes] of the machine, or of the group of processes with the least."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for limit, _ in group_limits())])


def free_memory() -> float:
    """[bytes] that can still be taken; no limit where the system does not say."""
    return min([_available(), *(limit - used for limit, used in group_limits())])


def group_limits(groups: str = GROUPS, own: str = OWN) -> Iterator[tuple[int, int]]:
    """(limit, used), two [bytes], of this process's control group and all around it that have a limit, cgroup 2 or 1.

    Files that were read and can be dropped are not counted as used, as `MemAvailable` has it. A container may see its group
    as the root, whatever path the system says.
    """
    try:
        lines = Path(own).read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, (limit, used, cache) = Path(groups), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = Path(groups, "memory")
            limit, used, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        folder = base / path.strip("/")
        for group in (folder, *folder.parents):
            if group.is_relative_to(base):
                try:
                    most = int((group / limit).read_text())  # cgroup 2 says max where there is none
                    stat = dict(own.split() for own in (group / "memory.stat").read_text().splitlines())
                    yield most, int((group / used).read_text()) - int(stat[cache])
                except (OSError, ValueError, KeyError):
                    continue


def _available() -> float:
    try:
        with open("/proc/meminfo") as file:
            lines = dict(line.split(":") for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return float("inf")
