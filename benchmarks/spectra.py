"""Spectra of the field embeddings and correlation of the two sides of a product: plain, sfg, and tables from pre-training.

    python benchmarks/spectra.py --seeds 5

KuaiRand, twelve days; the spectra are of all 13,687 rows of the next day (`genctr diagnose`). `pre-trained` loads the tables of
two denoising passes into dcnv2 and trains the network over frozen tables; `pre-trained, then trained` trains the tables too.
`fm` and `fm sfg` are of the decoder that generating changes most.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grid import DATA, ROOT, paired, read, spread

PRETRAIN = (
    "{name: pretrain, objective: denoise, train: {epochs: 2}, tables: {init: {kind: normal, scale: 0.05}}, "
    "model: {family: denoiser, hidden: 32, layers: 2}}"
)
ARMS = {
    "plain": (),
    "sfg": ("model.encoder.kind=sfg", "model.encoder.residual=true"),
    "fm": ("model.decoder=fm", "model.decoder_options={}"),
    "fm sfg": ("model.decoder=fm", "model.decoder_options={}", "model.encoder.kind=sfg"),
    "pre-trained": (
        f"stages=[{PRETRAIN}, {{name: rank, load: {{stage: pretrain, parts: tables, rescale: 0.05}}, freeze: [tables]}}]",
    ),
    "pre-trained, then trained": (
        f"stages=[{PRETRAIN}, {{name: rank, load: {{stage: pretrain, parts: tables, rescale: 0.05}}}}]",
    ),
}
FIGURES = ("rankme_share", "abundance_share", "svs98_share")


def run(arm: str, seed: int) -> dict | None:
    """Train one arm and diagnose it."""
    with tempfile.TemporaryDirectory() as folder:
        settings = (
            f"data.root={DATA / 'kuairand'}",
            "train.progressive_validation=false",
            "data.validation=[]",
            f"seed={seed}",
            *ARMS[arm],
        )
        words = [word for setting in settings for word in ("--set", setting)]
        for command in (
            ["train", str(ROOT / "launch/configs/kuairand.yaml"), "--out", f"{folder}/run", "--quiet", *words],
            ["diagnose", f"{folder}/run", "--days", "2022-05-07", "--quiet"],
        ):
            line = [sys.executable, "-m", "launch", *command]
            environment = dict(os.environ, PYTHONPATH=str(ROOT))
            done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
            if done.returncode:
                print(f"{arm} seed {seed} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
                return None
        told = json.loads(Path(folder, "run", "diagnosis", "diagnosis.json").read_text())
        tested = [json.loads(line) for line in Path(folder, "run", "log.jsonl").read_text().splitlines() if '"tested"' in line]
    kept = {key: told[key] for key in ("emb", "generated", "raw", "correlation", "bands") if key in told}
    auc = tested[-1]["metrics"]["is_click"]["auc"]
    return {"name": arm, "seed": seed, "auc": auc, **kept, "spectra": told["spectra"]}


def draw(lines: list[dict], path: Path) -> None:
    """The spectra of the first seed, side by side: of the embeddings, and of what enters the product."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    first = {line["name"]: line for line in reversed(lines)}
    for arm in (arm for arm in ARMS if arm in first):
        for side, name in zip(axes, ("emb", "generated"), strict=True):
            values = first[arm]["spectra"].get(name)
            if values:
                side.semilogy([value / values[0] for value in values if value > 0], label=arm)
    axes[0].set_title("embeddings of the fields")
    axes[1].set_title("generated side of the product")
    for side in axes:
        side.set_xlabel("singular value")
        side.legend(fontsize=8)
    axes[0].set_ylabel("relative to the first")
    axes[0].set_ylim(1e-12, 3)  # what is left of a unit that died is smaller still
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "spectra.jsonl")
    arguments = parser.parse_args()
    known = {(line["name"], line["seed"]) for line in read(arguments.results)}
    cells = [(arm, 2026 + seed) for seed in range(arguments.seeds) for arm in ARMS]

    def one(cell: tuple[str, int]) -> None:
        line = run(*cell)
        if line is not None:
            with arguments.results.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(cell, f"{line['auc']:.4f}", line["emb"], flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        list(pool.map(one, [cell for cell in cells if cell not in known]))
    lines = read(arguments.results)
    heads = ("RankMe", "abundance", "98 % of the spectrum", "correlation of the two sides", "test AUC", "to plain")
    print("\n| arm | seeds | " + " | ".join(heads) + " |\n" + "|---" * (2 + len(heads)) + "|")
    by_arm = {arm: {line["seed"]: line for line in lines if line["name"] == arm} for arm in ARMS}
    for arm in ARMS:
        rows, base = by_arm[arm], by_arm["fm" if arm == "fm sfg" else "plain"]
        if rows:
            figures = [spread([row["emb"][key] for row in rows.values()]) for key in FIGURES]
            figures.append(spread([row["correlation"]["mean_r"] for row in rows.values()]))
            figures += [
                spread([row["auc"] for row in rows.values()]),
                "-" if arm in ("plain", "fm") else paired(rows, base, "auc"),
            ]
            print(f"| {arm} | {len(rows)} | " + " | ".join(figures) + " |")
    draw(lines, arguments.results.parent / "spectra.png")


if __name__ == "__main__":
    main()
