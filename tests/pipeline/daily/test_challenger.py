import weakref
from pathlib import Path
from typing import cast

import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torchrec.distributed.types import ShardedTensor

from data.collate import NO_GROUP
from pipeline.config.daily import DailyConfig
from pipeline.daily.challenger import borrowed, load_bundle_weights
from pipeline.daily.day import renew
from pipeline.distributed.cpu_kernels import PooledKernel
from pipeline.serving.bundle import Bundle
from pipeline.training.paired_bootstrap import compare, population_stability
from tests.tiny import built, write_log


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    truth = torch.randn(4000, generator=generator)
    labels = (torch.rand(4000, generator=generator) < truth.sigmoid()).float()
    good = truth + 0.3 * torch.randn(4000, generator=generator)
    bad = truth + 2.0 * torch.randn(4000, generator=generator)
    groups = torch.arange(4000) // 8
    return {"labels": labels, "good": good, "bad": bad, "groups": groups, "weights": torch.ones(4000)}


def test_metrics_are_those_of_scikit_learn(rows) -> None:
    found = compare(rows["good"], rows["bad"], rows["labels"], rows["weights"], rows["groups"])
    for name, own in (("candidate", "good"), ("serving", "bad")):
        assert found[name]["auc"] == pytest.approx(roc_auc_score(rows["labels"], rows[own]))
        assert found[name]["logloss"] == pytest.approx(log_loss(rows["labels"], rows[own].double().sigmoid()), rel=1e-6)
    value, low, high = found["difference"]["auc"]
    assert value == pytest.approx(found["candidate"]["auc"] - found["serving"]["auc"])
    assert 0 < low < value < high


def test_the_interval_covers_the_difference_about_as_often_as_it_says() -> None:
    covered, tries = 0, 40
    for seed in range(tries):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randn(600, generator=generator)
        labels = (torch.rand(600, generator=generator) < truth.sigmoid()).float()
        one, other = (truth + torch.randn(600, generator=generator) for _ in range(2))  # alike: the true difference is 0
        _, low, high = compare(one, other, labels, torch.ones(600), None)["difference"]["auc"]
        covered += low <= 0 <= high
    assert covered >= 0.85 * tries


def test_the_interval_of_calibration_covers_the_truth_about_as_often_as_it_says_and_narrows_with_the_rows() -> None:
    covered, tries, widths = 0, 20, {}
    for seed in range(tries):
        generator = torch.Generator().manual_seed(seed)
        for rows in (500, 2000):
            logits = torch.randn(rows, generator=generator) - 2
            labels = (torch.rand(rows, generator=generator) < logits.sigmoid()).float()  # calibrated: 1
            low, high = compare(logits, None, labels, torch.ones(rows), None)["calibration"]
            widths[rows] = high - low
            covered += low <= 1 <= high
    assert 0.88 * 2 * tries <= covered < 2 * tries
    assert widths[2000] == pytest.approx(widths[500] / 2, rel=0.3)


@pytest.mark.parametrize("weight", [1.0, 20.0])
def test_rows_without_a_click_hold_a_model_that_expects_many_alone(weight: float) -> None:
    for expected, least in ((25.0, 6.78), (1.0, 0.27)):
        logits = torch.full((50,), expected / 50).logit()
        low, high = compare(logits, None, torch.zeros(50), torch.full((50,), weight), None)["calibration"]
        assert (low, high) == (pytest.approx(least, rel=0.01), float("inf"))


def test_rows_without_a_group_are_not_drawn_as_one_user(rows) -> None:
    groups = torch.full((4000,), NO_GROUP)
    groups[:40] = torch.arange(40)  # one in a hundred has told who he is
    found, alone = (compare(rows["good"], rows["bad"], rows["labels"], rows["weights"], own) for own in (groups, None))
    for name in ("auc", "logloss"):
        (_, low, high), (_, least, most) = found["difference"][name], alone["difference"][name]
        assert high - low == pytest.approx(most - least, rel=0.3)
    low, high = found["calibration"]
    least, most = alone["calibration"]
    assert high - low == pytest.approx(most - least, rel=0.3)


def test_gauc_is_of_the_rows_with_a_group(rows) -> None:
    groups = rows["groups"].clone()
    groups[1000:] = NO_GROUP
    known = [rows[name][:1000] for name in ("good", "bad", "labels", "weights", "groups")]
    found, alone = compare(*(rows[name] for name in ("good", "bad", "labels", "weights")), groups), compare(*known)
    assert found["candidate"]["gauc"] == pytest.approx(alone["candidate"]["gauc"])
    assert found["difference"]["gauc"][0] == pytest.approx(alone["difference"]["gauc"][0])
    assert found["candidate"]["auc"] != pytest.approx(alone["candidate"]["auc"])


def test_the_draws_of_a_bootstrap_are_not_in_memory_together(rows, monkeypatch: pytest.MonkeyPatch) -> None:
    poisson, drawn, most = torch.poisson, [], 0

    def counted(*words: object, **named: object) -> torch.Tensor:
        nonlocal most
        draw = poisson(*words, **named)
        drawn.append(weakref.ref(draw))
        most = max(most, sum(own() is not None for own in drawn))
        return draw

    monkeypatch.setattr(torch, "poisson", counted)
    compare(rows["good"], rows["bad"], rows["labels"], rows["weights"], None)
    assert len(drawn) == 400
    assert most <= 2


def test_the_same_model_differs_by_nothing(rows) -> None:
    found = compare(rows["good"], rows["good"].clone(), rows["labels"], rows["weights"], rows["groups"])
    assert found["difference"]["auc"] == [0.0, 0.0, 0.0]
    assert found["psi"] == 0.0


def test_rows_without_weight_do_not_count(rows) -> None:
    weights = rows["weights"].clone()
    weights[2000:] = 0
    whole = compare(rows["good"][:2000], None, rows["labels"][:2000], weights[:2000], None)
    found = compare(rows["good"], None, rows["labels"], weights, None)
    assert found["candidate"] == pytest.approx(whole["candidate"], nan_ok=True)
    assert "difference" not in whole


def test_one_label_only_leaves_no_auc_to_compare(rows) -> None:
    found = compare(rows["good"], rows["bad"], torch.zeros(4000), rows["weights"], None)
    assert "auc" not in found["difference"]
    assert "logloss" in found["difference"]


def test_psi_sees_scores_that_moved() -> None:
    scores = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    assert population_stability(scores, scores) == 0.0
    assert population_stability(scores + 0.1, scores) < 0.1
    assert population_stability(scores + 1, scores) > 0.5


class Twos:
    """A bundle whose tables are all 2."""

    ids = ()

    def __init__(self, told: list[str]) -> None:
        self._told = told

    def dense(self) -> dict[str, torch.Tensor]:
        return {}

    def fill(self, name: str, tensor: torch.Tensor, row: int, column: int) -> None:
        self._told.append("written")
        tensor.fill_(2.0)


def test_what_a_card_keeps_of_a_table_is_dropped_once_the_table_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(PooledKernel, "purge", lambda _: told.append("dropped"))
    with built(write_log(tmp_path), tmp_path / "run") as job:
        load_bundle_weights(job, cast(Bundle, Twos(told)))
        assert told.index("dropped") > 0
        assert "written" not in told[told.index("dropped") :]

        told.clear()
        renew(job, DailyConfig(table_decay={"user_id": 0.5}))
        assert told.count("dropped") > 0
        tables = {key.split(".")[-2]: own for key, own in job.sharded.model.state_dict().items() if "embedding_bags" in key}
        values = {name: table.local_shards()[0].tensor.unique().tolist() for name, table in tables.items()}
        assert (values["user_id"], values["item_id"]) == ([1.0], [2.0])


def test_a_model_is_what_it_was_after_the_serving_one_has_used_its_place(tmp_path: Path) -> None:
    def numbers() -> list[Tensor]:
        state = job.sharded.model.state_dict().values()
        return [
            (own.local_shards()[0].tensor if isinstance(own, ShardedTensor) else own).detach().clone()
            for own in state
            if isinstance(own, ShardedTensor) or own.is_floating_point()
        ]

    with built(write_log(tmp_path), tmp_path / "run") as job:
        before = numbers()
        with borrowed(job, cast(Bundle, Twos([]))):
            assert not all(map(torch.equal, numbers(), before))
        assert all(map(torch.equal, numbers(), before))
