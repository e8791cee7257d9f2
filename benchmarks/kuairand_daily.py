"""KuaiRand's fourteen days through `genctr daily`: next-day scores, a poisoned day, an approval, a rollback, tables as bytes.

    python benchmarks/kuairand_daily.py

The labels of 2022-05-05 are inverted in a copy of the log. Then the day is fixed and the job goes back to before it. At
last the same nights with int8 tables: the size of a bundle, and what it costs in AUC on the day after.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from grid import DATA, ROOT

sys.path.insert(0, str(ROOT))

from stale import score

POISONED, LAST = "2022-05-05", "2022-05-08"
GATES = "daily.gates={auc: -0.002, auc_floor: 0.6, calibration: [0.8, 1.25], rows: [0.5, 2.0], psi: 0.25}"


def genctr(*words: object) -> subprocess.CompletedProcess:
    """One command, its table shown."""
    line = [sys.executable, "-m", "launch", *map(str, words)]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    print(f"$ genctr {' '.join(map(str, words[:2]))} …   exit code {done.returncode}", flush=True)
    return done


def daily(root: Path, out: Path, *settings: str) -> subprocess.CompletedProcess:
    """`genctr daily` over the whole log."""
    own = (f"data.root={root}", "data.days='2022-04-25..'", "data.validation=[]", "data.test=[]", GATES, "daily.keep=20")
    words = [word for setting in (*own, "daily.keep_days=20", *settings) for word in ("--set", setting)]
    return genctr("daily", ROOT / "launch/configs/kuairand.yaml", "--out", out, "--quiet", *words)


def states(out: Path) -> str:
    """A Markdown table of the days."""
    lines = ["| day | state | AUC before it trains | held by |", "|---|---|---|---|"]
    entries = [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]
    rewound = max((at for at, entry in enumerate(entries) if entry["event"] == "rewound"), default=-1)
    days: dict[str, dict] = {}
    for at, entry in enumerate(entries):
        if "day" in entry and (at > rewound or entry["day"] < entries[rewound].get("day", "")):
            days.setdefault(entry["day"], {})[entry["event"]] = entry
    for day, own in days.items():
        auc = own["scored"]["metrics"]["is_click"]["auc"] if "scored" in own else None
        failed = ", ".join(answer["gate"] for answer in own["judged"]["answers"] if not answer["ok"])
        state = "approved" if "approved" in own else "published" if "published" in own else "held"
        lines.append(f"| {day} | {state} | {'' if auc is None else f'{auc:.4f}'} | {failed} |")
    return "\n".join(lines)


def main() -> None:
    """Run it all."""
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "log"), Path(folder, "run")
        shutil.copytree(DATA / "kuairand", root)
        (file,) = (root / f"day={POISONED}").glob("*.parquet")
        good = file.read_bytes()
        table = pq.read_table(file, partitioning=None)
        at = table.schema.get_field_index("is_click")
        turned = pa.array(1 - table["is_click"].to_numpy(), table.schema.field(at).type)
        pq.write_table(table.set_column(at, "is_click", turned), file)

        daily(root, out)
        print(states(out))
        genctr("approve", out, POISONED, "--reason", "to show it")
        print(json.loads((out / "published" / "current.json").read_text())["bundle"], "serves")
        genctr("rollback", out, "--reason", "it was poisoned")
        print(json.loads((out / "published" / "current.json").read_text())["bundle"], "serves")
        print(genctr("verify", out).stdout.splitlines()[-1])
        file.write_bytes(good)
        daily(root, out, "daily.on_changed_files=retrain_from")
        print(states(out))
        print(genctr("verify", out).stdout.splitlines()[-1])

        sizes, scores = {}, {}
        for kind in ("fp32", "int8"):
            own = Path(folder, kind)
            daily(root, own, f"daily.bundle_precision={kind}")
            bundle = sorted((own / "published").glob("20*"))[-2]
            sizes[kind] = sum(path.stat().st_size for path in bundle.iterdir())
            scores[kind] = score(bundle, root / f"day={LAST}", "is_click")
        print("| tables | bundle, MB | AUC on the day after | logloss |\n|---|---|---|---|")
        for kind, own in scores.items():
            print(f"| {kind} | {sizes[kind] / 1e6:.1f} | {own['auc']:.5f} | {own['logloss']:.5f} |")


if __name__ == "__main__":
    main()
