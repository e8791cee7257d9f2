"""The meters say what scikit-learn says and what is worked out manually; ranks and restarts change nothing."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc
from torchrec import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.collate import NO_GROUP
from data.cursor import Cursor
from pipeline.training.metrics import BINS, EDGE, Meters, NotFinite, RunningMeters, auc_by_group
from pipeline.training.objective import StepOutput
from tests.helpers import on_ranks

Kind = type[Meters] | type[RunningMeters]
BOTH: list[Kind] = [Meters, RunningMeters]
Rows = tuple[dict[str, Tensor], Tensor, Tensor, Tensor]


def rows(number: int, *, seed: int = 0, tied: bool = False, weighted: bool = False) -> Rows:
    """Two targets; the second one is masked for a third of the rows."""
    chance = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(number, 2, generator=chance) - 1
    logits = logits.round() if tied else logits
    labels = (torch.rand(number, 2, generator=chance) < logits.sigmoid()).float()
    weights = torch.rand(number, 2, generator=chance) * 3 if weighted else torch.ones(number, 2)
    weights[:, 1] *= torch.rand(number, generator=chance) > 1 / 3
    groups = torch.randint(-5, 5, (number,), generator=chance) * 10**15
    return {"click": logits[:, 0], "buy": logits[:, 1]}, labels, weights, groups


def step(logits: dict[str, Tensor], labels: Tensor, weights: Tensor, groups: Tensor) -> StepOutput:
    """What a step with these rows hands to the meters."""
    nothing = KeyedJaggedTensor(keys=[], values=torch.empty(0), lengths=torch.empty(0))
    empty = torch.empty(len(labels), 0)
    cursor, tally = Cursor(0, "monday", 0, 1), Tally.zeros(1)
    batch = Batch(nothing, None, empty, empty, labels, weights, groups, len(labels), cursor, tally)
    return StepOutput(batch, logits, {})


def shown(kind: Kind, *batches: Rows) -> dict[str, dict[str, float]]:
    meters = kind(["click", "buy"])
    for batch in batches:
        meters.update(step(*batch))
    return meters.compute()


def expected(target: int, batch: Rows) -> dict[str, float]:
    """The same by scikit-learn."""
    logits, labels, weights, groups = batch
    seen = weights[:, target] > 0
    score, label = list(logits.values())[target][seen].double().numpy(), labels[seen, target].numpy()
    weight, group = weights[seen, target].double().numpy(), groups[seen].numpy()
    chance = 1 / (1 + np.exp(-score))
    mean = np.average(label, weights=weight)
    inside = [group == one for one in np.unique(group)]
    aucs = [(roc_auc_score(label[g], score[g], sample_weight=weight[g]), weight[g].sum()) for g in inside]
    entropy = -mean * math.log(mean) - (1 - mean) * math.log(1 - mean)
    loss = log_loss(label, chance, sample_weight=weight)
    return {
        "auc": roc_auc_score(label, score, sample_weight=weight),
        "gauc": float(np.average([auc for auc, _ in aucs], weights=[size for _, size in aucs])),
        "logloss": loss,
        "ne": loss / entropy,
        "calibration": np.average(chance, weights=weight) / mean,
        "rows": int(seen.sum()),
    }


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_exact_meters_agree_with_scikit_learn(tied: bool, weighted: bool) -> None:
    batch = rows(3000, tied=tied, weighted=weighted)

    found = shown(Meters, batch)

    for target, name in enumerate(["click", "buy"]):
        assert found[name] == pytest.approx(expected(target, batch), abs=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_running_meters_are_exact_but_for_the_auc_which_keeps_its_bound(weighted: bool) -> None:
    for seed in range(5):
        batch = rows(3000, seed=seed, weighted=weighted)
        exact, running = shown(Meters, batch), shown(RunningMeters, batch)
        for target in ("click", "buy"):
            for metric in ("logloss", "ne", "calibration", "rows"):
                assert running[target][metric] == pytest.approx(exact[target][metric], abs=1e-12)
            assert abs(running[target]["auc"] - exact[target]["auc"]) <= running[target]["auc_error"] < 0.001


def test_the_bound_of_the_running_auc_is_reached_when_a_bin_hides_the_order() -> None:
    half = EDGE / BINS  # two logits of one bin
    logits, labels = torch.tensor([0.1 * half, 1.9 * half]), torch.tensor([[0.0], [1.0]])
    batch = {"click": logits}, labels, torch.ones(2, 1), torch.zeros(2, dtype=torch.int64)
    exact, running = Meters(["click"]), RunningMeters(["click"])
    exact.update(step(*batch))
    running.update(step(*batch))

    assert exact.compute()["click"]["auc"] == 1.0
    assert running.compute()["click"]["auc"] == 0.5
    assert running.compute()["click"]["auc_error"] == 0.5


def test_logits_beyond_the_bins_are_ties_not_errors() -> None:
    running = RunningMeters(["click"])
    logits = torch.tensor([-1e30, -20.0, 20.0, 1e30])  # 64-bit integers end at 9e18
    running.update(step({"click": logits}, torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.ones(4, 1), torch.zeros(4)))

    assert running.compute()["click"]["auc"] == 1.0


AMOUNTS = (
    {"click": torch.tensor([0.2, -0.3, 0.1]), "seconds": torch.tensor([2.0, 0.5, 9.0]).log1p()},
    torch.tensor([[1.0, 4.0], [0.0, 0.0], [1.0, 9.0]]),
)
"""Logits and labels; amounts of 2, .5 and 9 are predicted."""


@pytest.mark.parametrize("kind", BOTH)
def test_amounts_have_errors_instead_of_ranks(kind: Kind) -> None:
    logits, labels = AMOUNTS
    weights, groups = torch.tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 0.0]]), torch.zeros(3, dtype=torch.int64)
    meters, plain = kind(["click", "seconds"], {"click": "sigmoid", "seconds": "expm1"}), kind(["click"])
    meters.update(step(logits, labels, weights, groups))
    plain.update(step({"click": logits["click"]}, labels[:, :1], weights[:, :1], groups))

    found = meters.compute()
    assert found["seconds"] == pytest.approx(
        {"rmse": math.sqrt((4 + 2 * 0.25) / 3), "mae": (2 + 2 * 0.5) / 3, "calibration": 3 / 4, "rows": 2}, rel=1e-6
    )
    assert found["click"] == plain.compute()["click"]

    if kind is RunningMeters:
        resumed = RunningMeters(meters.targets, meters.links)
        resumed.load_state_dict(json.loads(json.dumps(meters.state_dict())))
        assert resumed.compute() == found


@pytest.mark.parametrize("kind", BOTH)
def test_an_amount_that_is_not_finite_stops_the_job(kind: Kind) -> None:
    meters = kind(["seconds"], {"seconds": "exp"})
    meters.update(step({"seconds": torch.tensor([1000.0])}, torch.ones(1, 1), torch.ones(1, 1), torch.zeros(1)))
    with pytest.raises(NotFinite, match="target seconds: 1 of 1 predictions"):
        meters.compute()


def test_calibration_is_also_that_of_the_whole_log() -> None:
    # Of the rows of label 0 a quarter is left: 6 positives and 8 negatives of what were 6 and 32.
    labels, true = torch.tensor([[1.0]] * 6 + [[0.0]] * 8), torch.full((14,), 6 / 38).logit()
    offsets = torch.full((14, 1), math.log(4))
    meters = Meters(["click"])
    output = step({"click": true + offsets[:, 0]}, labels, torch.ones(14, 1), torch.zeros(14))
    output.batch.offsets = offsets
    meters.update(output)
    found = meters.compute()["click"]
    assert found["calibration"] == pytest.approx(1, rel=1e-5), "the odds of the rows as they lie here are 6 to 8"
    assert found["calibration_whole"] == pytest.approx(1, rel=1e-5)

    off = Meters(["click"])
    wrong = step({"click": true + 0.5 + offsets[:, 0]}, labels, torch.ones(14, 1), torch.zeros(14))
    wrong.batch.offsets = offsets
    off.update(wrong)
    assert off.compute()["click"]["calibration_whole"] == pytest.approx(torch.sigmoid(true[0] + 0.5).item() * 38 / 6, rel=1e-5)


def test_the_numbers_worked_out_by_hand() -> None:
    # Group 7: one pair, won. Group 8: one pair won, one tied. Group 9: one class, left out.
    chance = torch.tensor([0.75, 0.25, 0.75, 0.5, 0.5, 0.5])
    labels = torch.tensor([[1.0], [0.0], [1.0], [1.0], [0.0], [1.0]])
    groups = torch.tensor([7, 7, 8, 8, 8, 9])
    meters = Meters(["click"])
    meters.update(step({"click": chance.logit()}, labels, torch.ones(6, 1), groups))

    found = meters.compute()["click"]

    loss = (3 * math.log(4 / 3) + 3 * math.log(2)) / 6
    assert found["logloss"] == pytest.approx(loss)
    assert found["ne"] == pytest.approx(loss / (-4 / 6 * math.log(4 / 6) - 2 / 6 * math.log(2 / 6)))
    assert found["calibration"] == pytest.approx((3.25 / 6) / (4 / 6))
    assert found["auc"] == pytest.approx((2 * 2 + 2 * 1.5) / 8)  # .75 wins both its pairs, .5 wins one and ties one; twice
    assert found["gauc"] == pytest.approx((2 * 1.0 + 3 * 0.75) / 5)
    assert found["rows"] == 6


def test_rows_without_a_group_are_in_no_gauc() -> None:
    logits, labels = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    meters = Meters(["click"])
    meters.update(step({"click": logits}, labels, torch.ones(4, 1), torch.tensor([7, 7, NO_GROUP, NO_GROUP])))

    found = meters.compute()["click"]

    assert found["gauc"] == 1.0, "user 7's rows are in order; who the others are, nobody knows"
    assert found["auc"] == 0.5


def test_a_row_of_weight_two_counts_like_two_rows() -> None:
    logits, labels, weights, groups = rows(400, seed=3, tied=True)
    weights = 1.0 + torch.arange(400)[:, None] % 2 * torch.ones(1, 2)  # 1, 2, 1, 2, …
    twice = torch.arange(400).repeat_interleave(weights[:, 0].long())
    doubled = {target: values[twice] for target, values in logits.items()}, labels[twice], torch.ones(600, 2), groups[twice]

    for kind in BOTH:
        given, expected_ = shown(kind, (logits, labels, weights, groups)), shown(kind, doubled)
        for target in ("click", "buy"):
            assert given[target] | {"rows": 600} == pytest.approx(expected_[target], abs=1e-9)


@pytest.mark.parametrize("kind", BOTH)
def test_how_rows_are_cut_into_batches_changes_nothing(kind: Kind) -> None:
    logits, labels, weights, groups = batch = rows(500, weighted=True)
    cuts = [slice(0, 0), slice(0, 3), slice(3, 300), slice(300, 300), slice(300, 500)]
    batches = [({target: x[cut] for target, x in logits.items()}, labels[cut], weights[cut], groups[cut]) for cut in cuts]

    for target, found in shown(kind, *batches).items():
        assert found == pytest.approx(shown(kind, batch)[target], abs=1e-12)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_only_has_no_auc_and_no_ne(kind: Kind, label: float) -> None:
    logits, _, weights, groups = rows(50)
    found = shown(kind, (logits, torch.full((50, 2), label), weights, groups))["click"]

    undefined = {"auc", "gauc", "auc_error", "ne", *({"calibration"} if label == 0 else set())}
    assert {name for name, value in found.items() if math.isnan(value)} == undefined & found.keys()
    assert found["logloss"] > 0


@pytest.mark.parametrize("kind", BOTH)
def test_no_rows_have_no_metrics(kind: Kind) -> None:
    for found in (shown(kind), shown(kind, rows(0))):
        assert found["buy"]["rows"] == 0
        assert all(math.isnan(value) for name, value in found["buy"].items() if name != "rows")


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_predictions_that_are_not_finite_are_told_with_their_task(kind: Kind, bad: float) -> None:
    logits, labels, weights, groups = rows(30)
    logits["buy"][weights[:, 1].nonzero()[0]] = bad

    with pytest.raises(NotFinite, match=r"target buy: 1 of \d+ predictions are not finite\n  next: "):
        shown(kind, (logits, labels, weights, groups))


@pytest.mark.parametrize("kind", BOTH)
def test_a_masked_row_is_no_row_of_the_task_whatever_it_holds(kind: Kind) -> None:
    logits, labels, weights, groups = batch = rows(300)
    masked = weights[:, 1] == 0
    harmed = {"click": logits["click"], "buy": torch.where(masked, float("nan"), logits["buy"])}, labels, weights, groups

    assert shown(kind, harmed) == shown(kind, batch)
    assert shown(kind, batch)["buy"]["rows"] == int((~masked).sum())


def test_without_weights_the_auc_is_the_one_of_torchmetrics() -> None:
    logits, labels, _, _ = rows(2000, tied=True)

    auc, _ = auc_by_group(logits["click"], labels[:, 0], torch.ones(2000), torch.zeros(2000, dtype=torch.int64))

    assert auc.item() == pytest.approx(float(binary_auroc(logits["click"].double(), labels[:, 0].long())), abs=1e-6)


# Ranks and restarts.


def of_rank(rank: int, ranks: int, batch: Rows) -> Rows:
    """Uneven shares: rank 0 of several has two thirds, rank 1 the rest, the others nothing."""
    logits, labels, weights, groups = batch
    cut = len(groups) * 2 // 3
    mine = [slice(0, cut), slice(cut, None), slice(0, 0)][min(rank, 2)] if ranks > 1 else slice(None)
    return {target: x[mine] for target, x in logits.items()}, labels[mine], weights[mine], groups[mine]


def meter_on_ranks(rank: int) -> dict[str, Any]:
    ranks = dist.get_world_size()
    exact, running = Meters(["click", "buy"]), RunningMeters(["click", "buy"])
    for meters in (exact, running):
        meters.update(step(*of_rank(rank, ranks, rows(999, weighted=True))))
    found = {"exact": exact.compute(), "running": running.compute(), "state": running.state_dict()}

    resumed = RunningMeters(["click", "buy"])
    resumed.load_state_dict(json.loads(json.dumps(found["state"])))
    found["resumed"], found["state again"] = resumed.compute(), resumed.state_dict()
    resumed.update(step(*of_rank(rank, ranks, rows(500, seed=8))))
    found["went on"] = resumed.compute()

    if rank == ranks - 1:
        bad = {"click": torch.tensor([float("nan")]), "buy": torch.ones(1)}
        exact.update(step(bad, torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64)))
    with pytest.raises(NotFinite, match="target click: 1 of 1000"):
        exact.compute()
    return found


def test_every_rank_hears_the_same_whatever_the_number_of_ranks_and_restarts() -> None:
    [alone] = on_ranks(1, meter_on_ranks)
    first, second = on_ranks(2, meter_on_ranks)

    assert first == second
    for name in ("exact", "running", "resumed", "went on"):
        for target in ("click", "buy"):
            assert first[name][target] == pytest.approx(alone[name][target], abs=1e-12)
    for found in (alone, first):
        assert found["resumed"] == found["running"]  # to the bit
        assert found["state again"] == found["state"]
    both = shown(RunningMeters, rows(999, weighted=True), rows(500, seed=8))
    assert alone["went on"]["click"] == pytest.approx(both["click"], abs=1e-12)


def test_the_meters_keep_what_they_say_they_keep() -> None:
    meters = Meters(["click"])
    logits, labels, weights, groups = rows(1000)
    meters.update(step({"click": logits["click"]}, labels[:, :1], weights[:, :1], groups))

    kept = [part for parts in (meters._logits, meters._labels, meters._weights, meters._groups) for part in parts]
    assert sum(part.untyped_storage().nbytes() for part in kept) == 17 * 1000
