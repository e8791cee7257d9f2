"""A container's memory is what it was given, not the machine's."""

import os
from pathlib import Path

import pytest

import pipeline.distributed.hardware
from pipeline.distributed.hardware import free_memory, group_limits, total_memory

GIB = 2**30


def test_the_system_says_how_much_memory_there_is_and_is_free() -> None:
    assert 1e6 < free_memory() < total_memory() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def test_every_group_around_a_process_may_have_a_limit(tmp_path: Path) -> None:
    group(
        tmp_path / "jobs", memory__max=str(8 * GIB), memory__current=str(5 * GIB), memory__stat=f"anon 7\ninactive_file {GIB}"
    )
    group(tmp_path / "jobs" / "one", memory__max="max", memory__current="1", memory__stat="inactive_file 0")
    group(tmp_path, own="0::/jobs/one")
    assert list(group_limits(str(tmp_path), str(tmp_path / "own"))) == [(8 * GIB, 4 * GIB)]


def test_a_container_sees_its_group_as_the_root(tmp_path: Path) -> None:
    own = {"memory.limit_in_bytes": 8 * GIB, "memory.usage_in_bytes": 5 * GIB, "memory.stat": f"total_inactive_file {GIB}"}
    group(tmp_path / "memory", **{name: str(content) for name, content in own.items()})
    group(tmp_path, own="12:cpu,cpuacct:/kubepods/pod7\n4:memory:/kubepods/pod7\n0::/kubepods/pod7")
    assert list(group_limits(str(tmp_path), str(tmp_path / "own"))) == [(8 * GIB, 4 * GIB)]
    assert list(group_limits(str(tmp_path), str(tmp_path / "none"))) == []


def test_the_least_of_all_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.distributed.hardware, "group_limits", lambda: iter([(2**24, 2**22), (2**40, 2**39)]))
    assert total_memory() == 2**24
    assert free_memory() == 2**24 - 2**22
