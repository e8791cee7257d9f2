"""What moving a checkpoint takes: memory at its peak, and seconds, of every word of `genctr ckpt`, next to the size of a table.

    python benchmarks/ckpt_memory.py [--rows 8388609] [--dim 16]

A run with one table of `--rows` rows is trained for four steps, then each word runs in a process of its own. The peak is that
process's, the interpreter and libraries included, which `show` has too and which reads no tensor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from grid import ROOT

sys.path.insert(0, str(ROOT))

from data.synthetic import write

ONE = """
import json, sys, time
from launch.cli import main
since = time.perf_counter()
code = main(sys.argv[1:])
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps({"code": code, "seconds": round(time.perf_counter() - since, 1), "peak_mib": round(peak)}))
"""


def run(*words: object) -> dict[str, float]:
    """One command in a process of its own."""
    argv = [sys.executable, "-c", ONE, *map(str, words)]
    done = subprocess.run(argv, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=2**23 + 1)
    parser.add_argument("--dim", type=int, default=16)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(str(folder / "log"), days=1, rows=600, seed=3)
        schema = yaml.safe_load((ROOT / "launch/configs/demo.schema.yaml").read_text())
        schema["fields"][0]["rows"] = arguments.rows
        (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
        config = {
            "name": "large",
            "schema": str(folder / "schema.yaml"),
            "data": {"root": str(folder / "log"), "days": ["2026-11-01"], "lanes": 2},
            "model": {"decoder": "mlp", "dim": arguments.dim, "decoder_options": {"hidden": [8]}},
            "train": {"global_batch_rows": 64, "device": "cpu", "max_steps": 4},
            "checkpoint": {"asynchronous": False},
        }
        (folder / "run.yaml").write_text(yaml.safe_dump(config))
        out = folder / "run"
        words = {
            "train": ("train", folder / "run.yaml", "--out", out, "--quiet"),
            "show": ("ckpt", "show", out),
            "verify": ("ckpt", "verify", out, "--quiet"),
            "reshard to 4": ("ckpt", "reshard", out, "--ranks", 4, "--out", folder / "four", "--quiet"),
            "reshard back to 1": ("ckpt", "reshard", folder / "four", "--ranks", 1, "--quiet"),
            "diff": ("ckpt", "diff", out, folder / "four", "--quiet"),
            "export-table": ("ckpt", "export-table", out, "--table", "user_id", "--out", folder / "t.parquet", "--quiet"),
            "grow to twice": (
                *("ckpt", "grow", out, "--table", "user_id", "--rows", 2 * arguments.rows - 1),
                *("--out", folder / "grown", "--quiet"),
            ),
        }
        table = arguments.rows * arguments.dim * 4 / 2**20
        print(f"table {table:,.0f} MiB, load {os.getloadavg()[0]:.1f}", flush=True)
        for word, argv in words.items():
            print(f"{word:20}", json.dumps(run(*argv)), flush=True)


if __name__ == "__main__":
    main()
