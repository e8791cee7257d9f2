"""Losses of amounts: formulas worked out, and that the least of each is what it says it predicts."""

import math

import pytest
import torch

from models.losses.base import LINKS, LossTerm, Targets, links_of
from models.losses.cross_entropy import BCE
from models.losses.regression import SquaredError, SquaredLogError, WeightedLogistic
from models.losses.within_groups import BPR
from models.output import Output
from models.registries import LOSSES


def seconds(labels: list[float], weights: list[float]) -> Targets:
    columns = torch.tensor(labels)[:, None], torch.tensor(weights)[:, None]
    return Targets(("seconds",), *columns, len(labels), torch.zeros(len(labels), dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("mse", [(0.5 - 3) ** 2, (-1.0) ** 2]),
        ("log_mse", [(0.5 - math.log(4)) ** 2, (-1.0) ** 2]),
        ("weighted_logistic", [3 * math.log1p(math.exp(-0.5)) + math.log1p(math.exp(0.5)), math.log1p(math.exp(-1))]),
    ],
)
def test_by_hand(name: str, rows: list[float]) -> None:
    loss = LOSSES[name]()(Output({"seconds": torch.tensor([0.5, -1.0])}), seconds([3.0, 0.0], [1.0, 2.0]))
    assert loss["seconds"].item() == pytest.approx((rows[0] + 2 * rows[1]) / 2, rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [(SquaredError(), 4.0), (SquaredLogError(), math.exp((math.log(2) + math.log(12)) / 3) - 1), (WeightedLogistic(), 4.0)],
)
def test_the_best_constant_is_the_mean_that_it_predicts(loss: SquaredError, expected: float) -> None:
    logit = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([logit], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        found = loss(Output({"seconds": logit.expand(3)}), seconds([1.0, 0.0, 11.0], [1.0, 1.0, 1.0]))["seconds"]
        found.backward()
        return found

    optimizer.step(closure)
    assert LINKS[loss.link](logit.detach()).item() == pytest.approx(expected, rel=1e-4)


def test_losses_of_a_target_agree_on_what_its_logit_means() -> None:
    click, watch = LossTerm("bce", BCE(), targets=("click",)), LossTerm("log_mse", SquaredLogError(), targets=("seconds",))
    order = LossTerm("bpr", BPR())
    assert links_of([click, watch, order], ("click", "seconds")) == {"click": "sigmoid", "seconds": "expm1"}
    with pytest.raises(ValueError, match="bce and log_mse read a logit of seconds differently"):
        links_of([LossTerm("bce", BCE()), watch], ("click", "seconds"))
