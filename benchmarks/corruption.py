"""What a night makes of a damaged run folder: one byte flipped or 4 KiB zeroed, anywhere, and `genctr daily` run on it.

    python benchmarks/corruption.py --trials 200

A tiny job trains three days. Each trial copies its run folder, damages one file of it (every file is as likely as any other,
and every place in it), and runs the fourth night in a process of its own. The result is compared with that of a folder that was
not damaged: the ledger's bytes, the published bundles' bytes, the bits of the newest checkpoint's tensors.

| outcome | means |
|---|---|
| same        | ended well with the same result: nothing that decides anything was hit |
| told, same  | a message, and the same result |
| told, again | a message, and the same tensors; the ledger says what else was done: a day trained again, a model not compared |
| told, other | a message, and other tensors |
| refused     | exit code and message; nothing was trained |
| SILENT      | another result without a word: must be 0 |
| TRACEBACK   | must be 0 |
"""

import argparse
import filecmp
import io
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import yaml

from data.synthetic import write

SERVER = multiprocessing.get_context("forkserver")
BLOCK = 4096
NIGHTS = ("2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04")
BAD = ("SILENT", "TRACEBACK")


def main() -> None:
    """Damage, run, compare, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    SERVER.set_forkserver_preload(["launch.cli", "launch.status", "pipeline.daily.job"])
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.trials, random.Random(arguments.seed))


def measure(folder: Path, trials: int, chance: random.Random) -> Counter[str]:
    """Run the trials below an empty folder; the outcomes, which are also printed by kind of file."""
    config, since = write_job(folder), time.monotonic()
    base, good = folder / "base", folder / "good"
    for until in NIGHTS[:3]:
        assert night(config, base, until) == 0, (base / "said.txt").read_text()
    shutil.copytree(base, good)
    assert night(config, good, NIGHTS[3]) == 0, (good / "said.txt").read_text()
    files = sorted(path.relative_to(base) for path in base.rglob("*") if path.is_file() and path.name != "said.txt")
    counts: Counter[str] = Counter()
    by_file: dict[str, Counter[str]] = {}
    for trial in range(trials):
        file, run = chance.choice(files), folder / "trial"
        shutil.copytree(base, run)
        what = damage(run / file, chance)
        code = night(config, run, NIGHTS[3])
        outcome = judge(run, good, file, code)
        counts[outcome] += 1
        by_file.setdefault(kind(file), Counter())[outcome] += 1
        said = (run / "said.txt").read_text(errors="replace") if outcome in BAD or outcome == "told, other" else ""
        print(f"{trial + 1:4} {outcome:12} {file}: {what}, exit {code}\n{said}", end="", flush=True)
        shutil.rmtree(run)
    for name, own in sorted(by_file.items()):
        print(f"{name:32} {', '.join(f'{outcome} {count}' for outcome, count in sorted(own.items()))}")
    print(f"{trials} trials in {time.monotonic() - since:.0f} s: {dict(sorted(counts.items()))}")
    print(f"silent other results: {counts['SILENT']}, tracebacks: {counts['TRACEBACK']}")
    return counts


def write_job(folder: Path) -> Path:
    """A log of four small days, a schema with a vocabulary, a bucketed and a standardised number, and a run file."""
    write(str(folder / "log"), days=len(NIGHTS), rows=150, seed=7, users=40, items=20)
    schema = Path(__file__).resolve().parents[1] / "launch" / "configs" / "demo.schema.yaml"
    run = {
        "name": "corruption",
        "schema": str(schema),
        "seed": 7,
        "data": {"root": str(folder / "log"), "days": f"{NIGHTS[0]}..", "lanes": 2, "shuffle_buffer_rows": 32},
        "model": {"decoder": "mlp", "dim": 4, "decoder_options": {"hidden": [8]}},
        "train": {"global_batch_rows": 16, "device": "cpu", "diagnose_every_steps": 0},
        "checkpoint": {"every_steps": 5},
        "daily": {"first_gates": {}, "gates": {"auc": -0.5, "calibration": [0.2, 5.0]}, "keep": 4, "lease_seconds": 2},
    }
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(run, sort_keys=False))
    return path


def night(config: Path, run: Path, until: str, seconds: float = 300) -> int | None:
    """Run `genctr daily` in a process of its own; its exit code. What it said is in `said.txt` in the run folder."""
    run.mkdir(exist_ok=True)
    (run / "said.txt").unlink(missing_ok=True)
    words = ["daily", str(config), "--out", str(run), "--until", until, "--quiet"]
    process = SERVER.Process(target=_run, args=(words, str(run / "said.txt")))
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
    return process.exitcode


def _run(words: list[str], said: str) -> None:
    for number in (1, 2):
        os.dup2(os.open(said, os.O_CREAT | os.O_APPEND | os.O_WRONLY), number)
    from launch.cli import main as genctr

    sys.exit(genctr(words))


def damage(path: Path, chance: random.Random) -> str:
    """Flip bits of one byte, or zero a block; what was done."""
    content = bytearray(path.read_bytes())
    if not content:
        return "an empty file is left"
    at = chance.randrange(len(content))
    if chance.random() < 0.5:
        before, content[at] = content[at], content[at] ^ (1 << chance.randrange(8))
        what = f"byte {at} of {len(content)}: {before} -> {content[at]}"
    else:
        at -= at % BLOCK
        content[at : at + BLOCK] = bytes(len(content[at : at + BLOCK]))
        what = f"4 KiB from byte {at} of {len(content)} zeroed"
    path.write_bytes(bytes(content))
    return what


def judge(run: Path, good: Path, file: Path, code: int | None) -> str:
    """The outcome of one trial."""
    said = (run / "said.txt").read_text(errors="replace").partition("genctr:")
    told = bool(said[1])
    if "Traceback" in said[0] + said[2] or code is None:
        return "TRACEBACK"
    if code not in (0, 3):
        return "refused" if told else "TRACEBACK"
    if same_files(run, good, file):
        return "told, same" if told else "same"
    if not told:
        return "SILENT"
    return "told, again" if same_tensors(run, good) else "told, other"


def same_files(run: Path, good: Path, damaged: Path) -> bool:
    """Whether ledger, bundles and the newest checkpoint's tensors are the same; what is damaged and was not read still is."""
    if (run / "ledger.jsonl").read_bytes() != (good / "ledger.jsonl").read_bytes():
        return False
    left, right = (
        {path.relative_to(own) for path in (own / "published").rglob("*") if path.is_file()} - {damaged} for own in (run, good)
    )
    same = left == right and all(filecmp.cmp(run / name, good / name, shallow=False) for name in left)
    return same and same_tensors(run, good)


def same_tensors(run: Path, good: Path) -> bool:
    """Whether the newest checkpoints hold the same bits."""
    from pipeline.checkpoint.inspect import checkpoints_of, find
    from pipeline.checkpoint.reader import CheckpointReader, height

    held = []
    for own in (run, good):
        checkpoints = checkpoints_of(str(own))
        with CheckpointReader(checkpoints, find(checkpoints, "newest")) as pieces:
            values: dict[str, Any] = {name: pieces.rows(name, 0, height(own)) for name, own in pieces.tensors.items()}
            values |= {name: torch.load(io.BytesIO(pieces.value(name)), weights_only=True) for name in pieces.values}
            held.append((values, pieces.meta["state"]["cursor"], pieces.meta["state"]["rows"]))
    (left, *before), (right, *after) = held
    return (
        before == after
        and left.keys() == right.keys()
        and all(
            torch.equal(own, right[name]) if isinstance(own, torch.Tensor) else own == right[name] for name, own in left.items()
        )
    )


def kind(file: Path) -> str:
    """A file by what it is: names of checkpoints and bundles left out."""
    folder = f"{file.parts[0]}/" if len(file.parts) > 1 else ""
    name = "*" if folder in ("tensorboard/", "schemas/") else file.name
    return folder + (f"*{file.suffix}" if file.suffix in (".distcp", ".safetensors") else name)


if __name__ == "__main__":
    main()
