"""Golden hashes: what small runs come to, bit by bit, so that a refactoring can show that it changed no result.

    python benchmarks/golden.py --record     writes benchmarks/results/golden.json
    python benchmarks/golden.py              compares with it; exit code 1 if a hash differs

Six configs are trained on one and on two ranks; a daily job has three nights, the second of them killed twice and started
again. Each run is hashed by values and canonical names: tables (and their optimizer state) by table name, dense weights as a
set; of the ledger every day and every number; of the newest bundle its tensors and the scores that it promises. So names in
state dicts, manifests and messages may change, and no number may.

The bits depend on the processor (its matrix kernels) and on the versions of the torch stack. Both are recorded, and on others
nothing is compared.
"""

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import yaml
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "golden.json"
CONFIGS = ROOT / "launch" / "configs"
DAYS = ("2026-11-01", "2026-11-02", "2026-11-03")

RUN: dict[str, Any] = {
    "seed": 7,
    "data": {"days": "2026-11-01..2026-11-02", "lanes": 2, "shuffle_buffer_rows": 64},
    "train": {"global_batch_rows": 32, "device": "cpu", "progressive_validation": True},
    "checkpoint": {"every_steps": 5},
}
DENOISER = {
    "family": "denoiser",
    "dim": 4,
    "hidden": 16,
    "layers": 1,
    "heads": 2,
    "full_softmax_max_rows": 64,
    "sampled_negatives": 16,
}
STAGES = [{"name": "pretrain", "objective": "denoise"}, {"name": "rank", "load": {"stage": "pretrain"}}]
DCN = {"family": "ranker", "decoder": "dcnv2", "dim": 4, "decoder_options": {"layers": 2, "hidden": [8], "dropout": 0.1}}

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"model": DCN},
    "sfg": {"model": {**DCN, "encoder": {"kind": "sfg", "batch_norm": True}}},
    "diffusion": {"model": DENOISER, "stages": STAGES},
    "hetegen": {"model": {**DENOISER, "balance": "progress"}, "stages": STAGES},
    "tf": {"model": {"family": "ranker", "decoder": "tf", "dim": 4, "losses": [{"name": "tf"}]}},
    "managed": {"schema": str(CONFIGS / "managed.schema.yaml"), "model": DCN},
}


def config_of(name: str, folder: Path) -> Path:
    """Write the run file of one of the configs."""
    run = {"name": name, "schema": str(CONFIGS / "demo.schema.yaml"), **RUN, **MODELS[name]}
    run["data"] = {**RUN["data"], "root": str(folder / "log")}
    if "stages" in run:
        run["train"] = {key: value for key, value in run["train"].items() if key != "progressive_validation"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def genctr(*words: str, kill_after: float | None = None) -> None:
    """Run the command in a process of its own, or SIGKILL it and its ranks after so many seconds."""
    command = [sys.executable, "-m", "launch", *words]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return
    if process.returncode not in (0, 3, 75):
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")


def leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every leaf of nested mappings and lists, with its path; a dot in a key parts it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*path, *str(key).split(".")))
    elif isinstance(tree, list | tuple):
        for at, value in enumerate(tree):
            yield from leaves(value, (*path, str(at)))
    else:
        yield path, tree


def digest(value: Any) -> str:
    """SHA-256 of a tensor's bytes, type and size; of anything else's JSON."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        content = f"{value.dtype} {tuple(value.shape)} ".encode() + value.reshape(-1).view(torch.uint8).numpy().tobytes()
    else:
        content = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def table_of(path: tuple[str, ...]) -> str | None:
    """The table that a tensor of a state dict belongs to."""
    return next((after for part, after in pairwise(path) if part in ("embedding_bags", "embeddings")), None)


def checkpoint_hashes(run: Path) -> dict[str, str]:
    """Tables with their optimizer state by name; everything dense as a set."""
    newest = max((run / "checkpoints").glob("step-*"))
    tensors: dict[str, Any] = {}
    _load_state_dict(tensors, storage_reader=FileSystemReader(newest), planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    tables, dense = [], []
    for path, value in leaves(tensors):
        if not isinstance(value, torch.Tensor):
            continue
        table = table_of(path)
        if table is not None or path[0] == "ids":
            tables.append([table or ".".join(path), path[0], path[-1].rpartition(".")[2], digest(value)])
        else:
            dense.append(digest(value))
    assert len(tables) > 5, "a hash of nothing proves nothing"
    assert len(dense) > 5, "a hash of nothing proves nothing"
    return {"tables": digest(sorted(tables)), "dense": digest(sorted(dense))}


def ledger_hash(run: Path) -> str:
    """Of every entry its day and every number in it; texts and names may change."""
    entries = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert len(entries) > 5, "a hash of nothing proves nothing"
    numbers = [sorted(repr(value) for _, value in leaves(entry) if isinstance(value, int | float)) for entry in entries]
    return digest([[entry.get("day"), found] for entry, found in zip(entries, numbers, strict=True)])


def bundle_hash(run: Path) -> str:
    """The newest bundle's tensors, and what its sample's rows must score."""
    newest = max(path for path in (run / "published").iterdir() if path.is_dir())
    manifest = json.loads((newest / "manifest.json").read_text())
    found = [digest(manifest["expected"])]
    for file in sorted(newest.glob("*.safetensors")):
        found += [digest(tensor) for tensor in safetensors.torch.load_file(file).values()]
    return digest(sorted(found))


def trained(name: str, ranks: int, folder: Path) -> dict[str, str]:
    """Train one config."""
    out = folder / f"{name}-{ranks}"
    genctr("train", str(config_of(name, folder)), "--out", str(out), "--quiet", "--set", f"train.ranks={ranks}")
    return checkpoint_hashes(out)


def nights(ranks: int, folder: Path) -> dict[str, str]:
    """Three nights of the sfg config with every gate at ease; the second one is killed on its way, twice, and goes on."""
    out = folder / f"daily-{ranks}"
    words = ["daily", str(config_of("sfg", folder)), "--out", str(out), "--quiet", "--set", f"train.ranks={ranks}"]
    words += ["--set", "data.days=2026-11-01..", "--set", "daily.gates={auc: -0.9, calibration: [0.0, 100.0]}"]
    words += ["--set", "daily.lease_seconds=2"]
    began = time.monotonic()
    genctr(*words, "--until", DAYS[0])
    took = time.monotonic() - began
    for share in (0.6, 0.85):
        genctr(*words, "--until", DAYS[1], kill_after=took * share)
    for day in DAYS[1:]:
        genctr(*words, "--until", day)
    return {**checkpoint_hashes(out), "ledger": ledger_hash(out), "bundle": bundle_hash(out)}


def here() -> dict[str, str]:
    """What the bits depend on besides the code."""
    told = dict(
        (part.strip() for part in line.split(":", 1))
        for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        if ":" in line
    )
    # The name alone does not say it: two machines of one name may have other instructions, and other kernels then.
    processor = " ".join(told.get(key, "?") for key in ("model name", "cpu family", "model", "stepping"))
    processor += f", {torch.backends.cpu.get_cpu_capability()}, flags {digest(sorted(told.get('flags', '').split()))}"
    stack = {name: version(name) for name in ("torch", "torchrec", "numpy")}
    return {"processor": processor, "python": platform.python_version(), **stack}


def main() -> int:
    """Hash everything, then record or compare."""
    parser = argparse.ArgumentParser(description="Golden hashes of small runs.")
    parser.add_argument("--record", action="store_true", help="write the hashes instead of comparing")
    arguments = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        genctr("synth", "--out", str(folder / "log"), "--days", str(len(DAYS)), "--rows", "600", "--seed", "7")
        for ranks in (1, 2):
            for config in MODELS:
                found[f"{config}, {ranks} ranks"] = trained(config, ranks, folder)
                print(f"{config}, {ranks} ranks: {found[f'{config}, {ranks} ranks']}", flush=True)
            found[f"nights, {ranks} ranks"] = nights(ranks, folder)
            print(f"nights, {ranks} ranks: {found[f'nights, {ranks} ranks']}", flush=True)
    if arguments.record:
        RESULT.write_text(json.dumps({"here": here(), "hashes": found}, indent=1) + "\n")
        return 0
    known = json.loads(RESULT.read_text())
    if known["here"] != here():
        print(f"nothing is compared: recorded with {known['here']}, here {here()}")
        return 0
    wrong = [
        f"{run}: {part} is {found[run][part]}, recorded {own}"
        for run, parts in known["hashes"].items()
        for part, own in parts.items()
        if found[run][part] != own
    ]
    print("\n".join(wrong) or "all hashes are as recorded")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
