"""Pictures of a diagnosis: what the log tells is drawn, whatever some of its lines lack."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.jobs import plots
from pipeline.jobs.findings import findings


def look(step: int, rms: float | None = 1.0, **shares: float | None) -> dict[str, Any]:
    told = {name: {"rankme_share": share} for name, share in shares.items()}
    return {"event": "diagnosed", "step": step, "tables": {"item": {"rms": rms}}, **told}


def restored(step: int, **losses: float) -> dict[str, Any]:
    return {"event": "train", "step": step, "metrics": {name: {"loss": loss} for name, loss in losses.items()}}


def pictures(folder: Path, **what: Any) -> dict[str, Figure]:
    """What is drawn, by file."""
    drawn: dict[str, Figure] = {}
    nothing: dict[str, Any] = {"spectra": {}, "correlation": None, "told": {}, "log": []}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda self, file, **_: drawn.update({Path(file.name).name: self}))
        plots.draw(str(folder), **nothing | what)
    return drawn


def history_of(log: list[dict[str, Any]], folder: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """What is drawn: panel -> curve -> points."""
    figure = pictures(folder, log=log)["history.png"]
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


TOLD: dict[str, Any] = {
    "emb": {"rankme": 3.0, "rankme_share": 0.05},
    "generated": {"rankme": 40.0, "rankme_share": 0.5},
    "correlation": {"mean_r_within": 0.8},
    "fields": {"user_id": 0.9, "tab": 0.2, "$city$": 0.3},
    "tables": {"user_id": {"moved": 0.01}, "tab": {"moved": float("nan")}},
}


def test_what_was_found_is_said_in_words() -> None:
    assert findings(TOLD) == {
        "spectrum": "emb is collapsed: it uses 3 of 60 directions; generated is not collapsed: it uses 40 of 80 directions",
        "correlation": "the two sides of a field are redundant: mean |R| 0.80",
        "fields": "2 of 3 fields use less than 40% of the directions that they can have: tab, $city$",
        "tables": "tables of which less than 10% of the rows have moved, so fewer rows may do: user_id",
    }
    assert findings({"tables": {"tab": {"moved": 1.0}}}) == {}


def test_every_picture_says_of_which_run_and_days_it_is_and_what_it_means(tmp_path: Path) -> None:
    drawn = pictures(
        tmp_path,
        spectra={"emb": [1.0, 0.5], "generated": [2.0, 0.5]},
        correlation=[[0.1] * 6] * 6,
        told=TOLD,
        log=[look(1, emb=0.5), look(2, emb=0.25)],
        run="feed",
        days=["2026-11-03", "2026-11-04"],
        fields=["user_id", "tab", "$city$"],
    )
    titles = {name: figure.get_suptitle() for name, figure in drawn.items() if name.endswith("png")}

    assert titles.keys() == {"spectrum.png", "correlation.png", "fields.png", "history.png"}
    assert all(title.startswith("feed, 2026-11-03 to 2026-11-04: ") for name, title in titles.items() if name != "history.png")
    assert titles["history.png"].startswith("feed: ")
    assert "emb is collapsed" in titles["spectrum.png"]
    assert "emb 50% to 25%" in titles["history.png"]
    labels = [label.get_text() for label in drawn["correlation.png"].axes[0].get_xticklabels()]
    assert labels == ["user_id", "tab", r"\$city\$"], "a name between two dollars is no formula"


def test_the_most_that_there_can_be_is_drawn(tmp_path: Path) -> None:
    drawn = pictures(tmp_path, spectra={"emb": [1.0] * 80}, told=TOLD, log=[look(1, emb=0.5)])

    assert [line.get_xdata()[0] for line in drawn["spectrum.png"].axes[0].lines[1:]] == [59]
    assert drawn["fields.png"].axes[0].lines[0].get_xdata()[0] == 1
    assert [own.get_label() for own in drawn["history.png"].axes[0].collections] == ["most that there can be"]


def test_no_axes_are_empty(tmp_path: Path) -> None:
    assert pictures(tmp_path, spectra={"emb": [0.0, 0.0], "raw": []}) == {}
    one = pictures(tmp_path, log=[look(1)])["history.png"]

    assert [line.get_marker() for axes in one.axes for line in axes.lines] == ["."], "a line through one point is not seen"


def test_of_many_fields_some_are_named(tmp_path: Path) -> None:
    names = [f"f{at}" for at in range(90)]
    axes = pictures(tmp_path, correlation=[[0.0] * 180] * 180, fields=names)["correlation.png"].axes[0]

    assert [label.get_text() for label in axes.get_yticklabels()] == names[::3]
    assert axes.get_yticks()[1] == 6.5, "the fourth field's coordinates are 6 and 7"
