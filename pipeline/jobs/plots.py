"""Pictures of a diagnosis: spectra, correlations, fields, and how they went over the steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from data.paths import PATHS, naming

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
    training = [event for event in log if event["event"] == "train"]
    names = [name for name in _names(training, "metrics") if name != "all"]
    panels = {
        "RankMe / most": {name: _curve(looks, name, "rankme_share") for name in ("emb", "generated", "raw")},
        "table rms / first": {name: _drift(_curve(looks, "tables", name, "rms")) for name in _names(looks, "tables")},
        **{
            metric: {name: _curve(training, "metrics", name, metric) for name in names}
            for metric in ("loss", "weight", "difficulty")
        },
    }
    panels = {metric: {name: own for name, own in curves.items() if len(own)} for metric, curves in panels.items()}
    panels = {metric: curves for metric, curves in panels.items() if curves}
    if not panels:
        return
    figure, rows = plt.subplots(len(panels), 1, figsize=(7, 2.6 * len(panels)), layout="constrained", squeeze=False)
    for axes, (metric, curves) in zip(rows[:, 0], panels.items(), strict=True):
        for name, own in curves.items():
            axes.plot(own[:, 0], own[:, 1], label=name, marker="." if metric.startswith("RankMe") else None)
        axes.set(xlabel="step", ylabel=metric)
        axes.legend(fontsize=6, ncols=3)
    _save(figure, f"{folder}/history")


def _names(events: Sequence[Mapping[str, Any]], key: str) -> list[str]:
    """What some event has below this key; not all stages have the same."""
    return list(dict.fromkeys(name for event in events for name in event[key]))


def _curve(events: Sequence[Mapping[str, Any]], *path: str) -> NDArray[np.float64]:
    """(N, 2) the steps whose event has a number there, ascending, and the number: of a step told twice, the later."""
    told: dict[int, float] = {}
    for event in events:
        found: Any = event
        for key in path:
            found = found.get(key, {})
        if isinstance(found, float):  # a number that is not finite is null
            told[event["step"]] = found
    return np.array(sorted(told.items()), dtype=np.float64).reshape(-1, 2)


def _drift(curve_N2: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers over the first of them."""
    return curve_N2 / np.array([1, max(curve_N2[0, 1], 1e-12)]) if len(curve_N2) else curve_N2


def _save(figure: Any, path: str) -> None:
    PATHS.mkdirs(path.rpartition("/")[0])
    for kind in FORMATS:
        with naming(f"{path}.{kind}"), PATHS.open(f"{path}.{kind}", "wb") as file:
            figure.savefig(file, format=kind, dpi=120)
    plt.close(figure)
