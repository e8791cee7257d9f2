"""Pictures of a diagnosis: spectra, correlations, fields, and how they went over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from data.paths import PATHS

FORMATS = ("png", "svg")


def draw(
    folder: str,
    *,
    spectra: Mapping[str, Sequence[float]],
    correlation: Sequence[Sequence[float]] | None,
    told: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
) -> None:
    """Draw what there is: spectrum, correlation, fields and history, each as PNG and SVG.

    Args:
        spectra: representation -> singular values, descending. correlation: of the two sides of the product.
        told: the scalars of the diagnosis. log: the run's events.
    """
    if spectra:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for name, values in spectra.items():
            s = np.asarray(values)
            axes.plot(np.log(np.maximum(s / max(s[0], 1e-300), 1e-16)), label=name)
        axes.set(xlabel="rank of the singular value", ylabel="ln(s / largest)", title="spectrum of the covariance")
        axes.legend()
        _save(figure, f"{folder}/spectrum")
    if correlation is not None:
        figure, axes = plt.subplots(figsize=(5, 4.2), layout="constrained")
        figure.colorbar(axes.imshow(np.asarray(correlation), vmin=-1, vmax=1, cmap="RdBu"), ax=axes)
        axes.set(xlabel="raw side", ylabel="generated side", title="correlation of the two sides of the first product")
        _save(figure, f"{folder}/correlation")
    if told.get("fields"):
        names = list(told["fields"])
        figure, axes = plt.subplots(figsize=(6, 0.22 * len(names) + 1), layout="constrained")
        axes.barh(names, list(told["fields"].values()))
        axes.invert_yaxis()
        axes.set(xlabel="RankMe / width", title="how much of its width each field uses", xlim=(0, 1.05))
        _save(figure, f"{folder}/fields")
    _history(folder, log)


def _history(folder: str, log: Sequence[Mapping[str, Any]]) -> None:
    looks = [event for event in log if event["event"] == "diagnosed"]
    pretraining = [event for event in log if event["event"] == "train" and "fields" in event]
    panels = [("rankme", looks), ("rms", looks)] if looks else []
    panels += [(metric, pretraining) for metric in ("loss", "weight", "difficulty") if _has(pretraining, metric)]
    if not panels:
        return
    figure, rows = plt.subplots(len(panels), 1, figsize=(7, 2.6 * len(panels)), layout="constrained", squeeze=False)
    for axes, (metric, events) in zip(rows[:, 0], panels, strict=True):
        steps = [event["step"] for event in events]
        if metric == "rms":
            for name, first in events[0]["tables"].items():
                drift = [event["tables"].get(name, {}).get("rms", np.nan) / max(first["rms"], 1e-12) for event in events]
                axes.plot(steps, drift, label=name)
        elif metric == "rankme":
            for name in ("emb", "generated", "raw"):
                if name in events[0]:
                    axes.plot(steps, [event[name]["rankme_share"] for event in events], marker=".", label=name)
        else:
            for name in events[0]["fields"]:
                values = [event["fields"][name].get(metric) for event in events]
                if name != "all" and values[0] is not None:
                    axes.plot(steps, [np.nan if value is None else value for value in values], label=name)
        axes.set(xlabel="step", ylabel={"rankme": "RankMe / most", "rms": "table rms / first"}.get(metric, metric))
        axes.legend(fontsize=6, ncols=3)
    _save(figure, f"{folder}/history")


def _has(events: Sequence[Mapping[str, Any]], metric: str) -> bool:
    return bool(events) and any(metric in own for own in events[0]["fields"].values())


def _save(figure: Any, path: str) -> None:
    PATHS.mkdirs(path.rpartition("/")[0])
    for kind in FORMATS:
        with PATHS.open(f"{path}.{kind}", "wb") as file:
            figure.savefig(file, format=kind, dpi=120)
    plt.close(figure)
