"""A family that an installed package adds, in one file, does all that ours do: train, evaluate, diagnose, daily, score."""

import importlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data.errors import BadDocument
from pipeline.config.run import load
from tests.jobs import events
from tests.tiny import DAYS, genctr, train, write_log

FILE = Path(__file__).with_name("two_tower_family.py")
MODEL = "model={family: two_tower, dim: 4}"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run file, with the package installed as pip leaves it."""
    site = tmp_path / "site"
    info = site / "towers-1.dist-info"
    info.mkdir(parents=True)
    shutil.copy(FILE, site / "towers.py")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: towers\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[genctr.families]\ntwo_tower = towers:FAMILY\n[genctr.objectives]\nmatch = towers:Match\n"
    )
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    return write_log(tmp_path)


def test_it_is_one_file_of_at_most_eighty_lines() -> None:
    assert len(FILE.read_text().splitlines()) <= 80


def test_one_shot_jobs(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = train(config, out, MODEL, "train.early_stop={metric: accuracy}", "train.diagnose_every_steps=4", "train.epochs=2")
    assert done.code == 0, done.err
    assert "accuracy" in done.out

    (tested,) = events(out, "tested")
    assert tested["headline"] == ["is_click", "accuracy"]
    assert 0.4 < tested["metrics"]["is_click"]["accuracy"] <= 1
    assert events(out, "diagnosed")[0]["fields"].keys() == {"user_id", "item_id"}

    evaluated = genctr("evaluate", out, "--days", DAYS[3], "--predictions", tmp_path / "rows", "--quiet")
    assert evaluated.code == 0, evaluated.err
    assert events(out, "evaluated")[0]["metrics"] == tested["metrics"]
    diagnosed = genctr("diagnose", out, "--quiet")
    assert diagnosed.code == 0, diagnosed.err
    assert "table user_id" in diagnosed.out


def test_nights_and_scores(config: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = (MODEL, "data.validation=[]", "data.test=[]", "daily.gates={auc: -1.0}", "daily.first_gates={}")
    words = ["daily", config, "--out", out, "--quiet", *(word for own in settings for word in ("--set", own))]
    done = genctr(*words)
    assert done.code == 0, done.err
    assert "accuracy" in done.out
    assert 'genctr_score{target="is_click",metric="accuracy"}' in (out / "metrics.prom").read_text()

    data = config.parent / "log" / f"day={DAYS[3]}"
    scored = genctr("score", out / "published", "--data", data, "--out", tmp_path / "scores")
    assert scored.code == 0, scored.err
    rows = pq.read_table(tmp_path / "scores")
    assert rows.num_rows == sum(pq.read_metadata(file).num_rows for file in data.glob("*.parquet"))
    assert {"row", "is_click", "is_click_logit"} <= set(rows.column_names)
    current = json.loads((out / "published" / "current.json").read_text())
    assert current["bundle"].startswith(DAYS[1])


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("model={family: two_towers}", "no 'two_towers'\n  did you mean 'two_tower'?"),
        ("model={family: two_tower, decoder: fm}", "model.decoder: unknown key"),
        ("model={family: two_tower, margn: 2}", "model.margn: unknown key\n  did you mean 'margin'?"),
    ],
)
def test_its_keys_are_checked_like_ours(config: Path, model: str, told: str) -> None:
    with pytest.raises(BadDocument) as error:
        load(str(config), [model])
    assert told in str(error.value)
