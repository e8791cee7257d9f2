"""Pictures of a diagnosis: what the log tells is drawn, whatever some of its lines lack."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.jobs import plots


def look(step: int, rms: float | None = 1.0, **shares: float | None) -> dict[str, Any]:
    told = {name: {"rankme_share": share} for name, share in shares.items()}
    return {"event": "diagnosed", "step": step, "tables": {"item": {"rms": rms}}, **told}


def restored(step: int, **losses: float) -> dict[str, Any]:
    return {"event": "train", "step": step, "metrics": {name: {"loss": loss} for name, loss in losses.items()}}


def history_of(log: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What is drawn: panel -> curve -> points."""
    drawn: dict[str, Figure] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **_: drawn.update({Path(file.name).name: self}))
        plots.draw(str(folder), spectra={}, correlation=None, told={}, log=log)
    figure = drawn["history.png"]
    return {
        axes.get_ylabel(): {line.get_label(): list(map(tuple, line.get_xydata().tolist())) for line in axes.lines}
        for axes in figure.axes
    }


def test_stages_with_other_representations_and_fields_share_a_history(tmp_path: Path) -> None:
    log = [
        restored(1, all=3.0, tab=2.0, city=1.0),
        look(1),
        restored(2, all=2.0, tab=1.5),
        look(3, emb=0.5, generated=0.25),
        look(4, emb=0.75),
    ]

    assert history_of(log, tmp_path) == {
        "RankMe / most": {"emb": [(3, 0.5), (4, 0.75)], "generated": [(3, 0.25)]},
        "table rms / first": {"item": [(1, 1), (3, 1), (4, 1)]},
        "loss": {"tab": [(1, 2.0), (2, 1.5)], "city": [(1, 1.0)]},
    }


def test_what_was_not_finite_is_left_out(tmp_path: Path) -> None:
    log = [look(1, None, emb=None), look(2, 2.0, emb=0.5), look(3, None, emb=None), look(4, 3.0, emb=0.25)]

    assert history_of(log, tmp_path) == {
        "RankMe / most": {"emb": [(2, 0.5), (4, 0.25)]},
        "table rms / first": {"item": [(2, 1.0), (4, 1.5)]},
    }


def test_steps_told_again_or_late_are_drawn_once_and_in_order(tmp_path: Path) -> None:
    log = [look(5, emb=0.5), look(10, emb=0.25), look(10, emb=0.375), look(7, emb=0.125)]

    assert history_of(log, tmp_path)["RankMe / most"] == {"emb": [(5, 0.5), (7, 0.125), (10, 0.375)]}
