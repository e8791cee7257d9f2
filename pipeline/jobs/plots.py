"""Pictures of a diagnosis: spectra, correlations, fields, and how they went over the steps."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from data.errors import visible
from data.paths import PATHS, naming
from pipeline.jobs.findings import findings, most_directions

FORMATS = ("png", "svg")


MANY = 40
"""[fields] up to which each has its name at an axis; of more, evenly spaced ones."""

FEW = 30
"""[numbers] of a curve up to which each is marked: a line through one of them is not to be seen."""


def draw(
    folder: str,
    *,
    spectra: Mapping[str, Sequence[float]],
    correlation: Sequence[Sequence[float]] | None,
    told: Mapping[str, Any],
    log: Sequence[Mapping[str, Any]],
    run: str = "",
    days: Sequence[str] = (),
    fields: Sequence[str] = (),
) -> None:
    """Draw what there is: spectrum, correlation, fields and history, each as PNG and SVG.

    Args:
        spectra: representation -> singular values, descending. correlation: of the two sides of the product.
        told: the scalars of the diagnosis. log: the run's events.
        run, days: what the titles say of where the numbers are from. fields: those of the correlation, in its order.
    """
    said = findings(told)
    seen = f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
    of = ", ".join(filter(None, [run, seen]))
    spectra = {name: values for name, values in spectra.items() if len(values) and values[0] > 0}
    if spectra:
        figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
        for name, values in spectra.items():
            s = np.asarray(values)
            axes.plot(np.log(np.maximum(s / s[0], 1e-16)), label=name)
        for most in sorted({round(most_directions(told[name])) for name in spectra if name in told}):
            axes.axvline(most - 1, color="grey", linestyle=":", label=f"most that there can be: {most}")
        axes.set(xlabel="rank of the singular value", ylabel="ln(s / largest)")
        axes.legend()
        _title(figure, of, "spectrum of the covariance", said.get("spectrum"))
        _save(figure, f"{folder}/spectrum")
    if correlation is not None:
        figure, axes = plt.subplots(figsize=(6, 5.2), layout="constrained")
        figure.colorbar(axes.imshow(np.asarray(correlation), vmin=-1, vmax=1, cmap="RdBu"), ax=axes)
        _name_fields(axes, fields, len(correlation))
        axes.set(xlabel="raw side", ylabel="generated side")
        _title(figure, of, "correlation of the two sides of the first product", said.get("correlation"))
        _save(figure, f"{folder}/correlation")
    if told.get("fields"):
        names = list(told["fields"])
        figure, axes = plt.subplots(figsize=(6, 0.22 * len(names) + 1.4), layout="constrained")
        axes.barh(list(map(_shown, names)), list(told["fields"].values()))
        axes.axvline(1, color="grey", linestyle=":", label="most that there can be")
        axes.invert_yaxis()
        axes.set(xlabel="RankMe / most directions that the field can have", xlim=(0, max(1.05, *told["fields"].values())))
        axes.legend(fontsize=6, loc="lower right")
        _title(figure, of, "how many directions each field uses", said.get("fields"))
        _save(figure, f"{folder}/fields")
    _history(folder, log, run)


def _history(folder: str, log: Sequence[Mapping[str, Any]], run: str) -> None:
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
    figure, rows = plt.subplots(len(panels), 1, figsize=(7, 2.6 * len(panels) + 0.6), layout="constrained", squeeze=False)
    for axes, (metric, curves) in zip(rows[:, 0], panels.items(), strict=True):
        for name, own in curves.items():
            axes.plot(own[:, 0], own[:, 1], label=_shown(name), marker="." if len(own) <= FEW else None)
        if metric.startswith("RankMe"):
            axes.hlines(1, *axes.get_xlim(), colors="grey", linestyles=":", label="most that there can be")
        axes.set(xlabel="step", ylabel=metric)
        axes.legend(fontsize=6, ncols=3)
    _title(figure, run, "the steps of training", _trend(panels.get("RankMe / most", {})))
    _save(figure, f"{folder}/history")


def _trend(curves: Mapping[str, NDArray[np.float64]]) -> str:
    """How the shares went from the first to the last of them."""
    moved = [f"{name} {own[0, 1]:.0%} to {own[-1, 1]:.0%}" for name, own in curves.items() if len(own) > 1]
    return f"of the directions that there can be: {', '.join(moved)}" if moved else ""


def _name_fields(axes: Any, fields: Sequence[str], coordinates: int) -> None:
    """Names in the middle of every field's coordinates, which are next to each other and as many."""
    if not fields or coordinates % len(fields):
        return
    width = coordinates // len(fields)
    shown = range(0, len(fields), -(-len(fields) // MANY))
    places = [at * width + (width - 1) / 2 for at in shown]
    axes.set_xticks(places, [_shown(fields[at]) for at in shown], rotation=90, fontsize=6)
    axes.set_yticks(places, [_shown(fields[at]) for at in shown], fontsize=6)


def _title(figure: Any, of: str, what: str, said: str | None) -> None:
    lines = [f"{_shown(of)}: {what}" if of else what, *(textwrap.wrap(_shown(said), 80) if said else [])]
    figure.suptitle("\n".join(lines), fontsize=9)


def _shown(text: str) -> str:
    """As matplotlib shows it: a name between two dollars would be a formula."""
    return visible(text).replace("$", r"\$")


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
