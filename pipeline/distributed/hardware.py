"""What a machine can hold and how fast it is: data sheets for plans on paper, and the memory that programs may take here."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from data.errors import GenctrError
from data.yaml_document import nearest
from pipeline.config.train import HardwareConfig

GROUPS, OWN = "/sys/fs/cgroup", "/proc/self/cgroup"
GIB = 2**30
GB = 1e9


@dataclass(frozen=True)
class Device:
    """One rank's share of a machine.

    Args:
        name: what `--device` calls it. kind: what torch calls it.
        hbm, ddr: [bytes] on the GPU, of main memory.
        hbm_bw, ddr_bw: [bytes/s] of each when a whole table is read; of a CPU ddr_bw is for looked-up rows.
        link_bw: [bytes/s] between GPU and main memory.
        intra_bw, inter_bw: [bytes/s] one way to a rank of the same host, and of another one.
        flops: [FLOP/s] of fp32 matrix products as torch does them without TF32. bf16_flops: of bf16 ones.
        fixed: [s] of a step that has next to nothing to do: starting kernels, collectives and the program around them.
    """

    name: str
    kind: Literal["cpu", "cuda"]
    hbm: int
    ddr: int
    hbm_bw: float
    ddr_bw: float
    link_bw: float
    intra_bw: float
    inter_bw: float
    flops: float
    bf16_flops: float
    fixed: float

    @property
    def memory(self) -> int:
        """[bytes] where tables live that are nowhere else: the GPU's memory, or a CPU's."""
        return self.ddr if self.kind == "cpu" else self.hbm

    @property
    def bandwidths(self) -> dict[str, float]:
        """[bytes/ms] by TorchRec's names."""
        per_second = {
            "hbm_mem_bw": self.hbm_bw,
            "ddr_mem_bw": self.ddr_bw,
            "hbm_to_ddr_mem_bw": self.link_bw,
            "intra_host_bw": self.intra_bw,
            "inter_host_bw": self.inter_bw,
        }
        return {name: speed / 1e3 for name, speed in per_second.items()}


# Cards: NVIDIA's data sheets of the SXM parts; NVLink's two directions are halved. Of a host with eight of them (DGX and its
# like: 1 or 2 TiB of main memory, a network port per GPU of 200 or 400 Gbit/s) every rank has an eighth;
# a100-40gb's main memory and network are those of AWS's p4d.24xlarge, 1152 GiB and 400 Gbit/s for all eight GPUs.
# The CPU is one core of the machine our benchmarks ran on: GEMM measured; ddr_bw such that TorchRec's estimate of look-ups is
# what was measured (79 ms for 39 x 8192 of them, 16 wide); gloo over loopback, and 10 Gbit/s between hosts.
# fixed, of GPUs: the published TorchRec DLRM of 256 rows a rank on eight A100 takes 7.2 ms a step (284,615 rows/s).
DEVICES = MappingProxyType(
    {
        device.name: device
        for device in (
            Device("h100", "cuda", 80 * GIB, 256 * GIB,
                   3350 * GB, 70 * GB, 55 * GB, 450 * GB, 50 * GB, 67e12, 989e12, 7e-3),
            Device("h200", "cuda", 141 * 10**9, 256 * GIB,
                   4800 * GB, 70 * GB, 55 * GB, 450 * GB, 50 * GB, 67e12, 989e12, 7e-3),
            Device("a100", "cuda", 80 * GIB, 256 * GIB,
                   2039 * GB, 50 * GB, 25 * GB, 300 * GB, 25 * GB, 19.5e12, 312e12, 7e-3),
            Device("a100-40gb", "cuda", 40 * GIB, 144 * GIB,
                   1555 * GB, 50 * GB, 25 * GB, 300 * GB, 6.25 * GB, 19.5e12, 312e12, 7e-3),
            Device("cpu", "cpu", 0, 12 * GIB,
                   1 * GB, 4 * GB, 10 * GB, 1.5 * GB, 1.25 * GB, 150e9, 2e9, 5e-3),
        )
    }
)  # fmt: skip


def find_device(name: str, hardware: HardwareConfig) -> Device:
    """A device by name, with what the config says of it instead.

    Raises:
        GenctrError: no such device.
    """
    if name not in DEVICES:
        raise GenctrError(
            f"no device {name!r}; {nearest(name, list(DEVICES))}\n"
            "  next: choose one, and say with train.hardware what yours has other than it"
        )
    values: dict[str, Any] = {}
    for key, value in hardware.model_dump(exclude={"device"}, exclude_none=True).items():
        memory, speed = key.removesuffix("_gib"), key.removesuffix("_gb_s")
        if memory != key:
            values[memory] = int(value * GIB)
        elif speed != key:
            values[f"{speed}_bw"] = value * GB
        else:
            values |= {"flops": value * 1e12, "bf16_flops": value * 1e12}
    return replace(DEVICES[name], **values)


def device_here(device: torch.device, hardware: HardwareConfig) -> Device | None:
    """What a job's own device is, as far as is known."""
    name = hardware.device or ("cpu" if device.type == "cpu" else _card(device))
    return find_device(name, hardware) if name else None


def _card(device: torch.device) -> str | None:
    """The card's name among ours."""
    told = torch.cuda.get_device_name(device).lower()
    # An A1000 is not an A100, nor a GH200 an H200.
    found = next((name for name in ("h100", "h200", "a100") if re.search(rf"(?<![a-z]){name}(?!\d)", told)), None)
    small = torch.cuda.get_device_properties(device).total_memory < 48 * GIB
    return "a100-40gb" if found == "a100" and small else found


def total_memory() -> int:
    """[bytes] of the machine, or of the control group with the least: psutil, like /proc/meminfo, knows the machine alone."""
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
