"""The loss of a step is the mean over all its rows, however they fall on the ranks."""

import math

import pytest
import torch
from torch import nn
from torchrec import KeyedJaggedTensor

from data.batch import Batch, Tally
from data.cursor import Cursor
from models.decoders import FM
from models.field_embedding import Field, FieldEmbedding
from models.heads.base import LinearHead
from models.inputs import FieldInfo, Inputs
from models.layers import Flat
from models.losses.base import Loss, LossTerm
from models.losses.cross_entropy import BCE
from models.output import Output
from models.ranker import Ranker
from models.sparse import SparseArch
from pipeline.training.rank import RankObjective

PLAIN = (LossTerm("bce", BCE()),)
LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


class OneNumber(Ranker):
    """A real model small enough for a head: logit = w x, the same for every task; w is 1 at first."""

    def __init__(self, *tasks: str) -> None:
        super().__init__(
            sparse=SparseArch([], device=torch.device("cpu")),
            embed=FieldEmbedding([Field("x", "number")], width=4, linear=True),
            decoder=FM(fields=[FieldInfo("x")], width=4, generate=nn.Identity),
            head=LinearHead(features=Flat(1), targets=tasks),
        )
        nn.init.ones_(self.w)

    @property
    def w(self) -> nn.Parameter:
        return self.embed.linear_numbers_N


class WithPenalty(OneNumber):
    """The same with a loss of its own."""

    def forward(self, inputs: Inputs) -> Output:
        output = super().forward(inputs)
        output.aux["penalty"] = (self.w.sum() * inputs.numbers_BN[:, 0], 0.5)
        return output


def batch(x: list[float], labels: list[list[float]], weights: list[list[float]], *, rows: int) -> Batch:
    """One rank's rows of a step that has `rows`."""
    here = len(x)
    return Batch(
        bags=KeyedJaggedTensor(keys=[], values=torch.zeros(0), lengths=torch.zeros(0)),
        sequences=None,
        numbers=torch.tensor(x).view(here, 1),
        vectors=torch.zeros(here, 0),
        labels=torch.tensor(labels).view(here, -1 if here else 1),
        weights=torch.tensor(weights).view(here, -1 if here else 1),
        groups=torch.zeros(here, dtype=torch.int64),
        rows=rows,
        cursor=Cursor(0, "monday", rows, 1),
        tally=Tally.zeros(1),
    )


# The logarithm's losses: logit 0 costs ln 2 whatever the label; logit ln 3 is a probability of 3/4,
# so it costs ln 4/3 where the label is 1 and ln 4 where it is 0.
LEFT = batch([0.0, LN3, LN3], [[1.0], [1.0], [0.0]], [[1.0]] * 3, rows=4)
RIGHT = batch([LN3], [[0.0]], [[1.0]], rows=4)
NOBODY = batch([], [], [], rows=4)


def test_one_rank_has_the_mean_over_its_rows() -> None:
    loss, output = RankObjective(OneNumber("click"), targets=("click",), losses=PLAIN, ranks=1)(
        batch([0.0, LN3, LN3, LN3], [[1.0], [1.0], [0.0], [0.0]], [[1.0]] * 4, rows=4)
    )

    assert loss.item() == pytest.approx((LN2 + LN4 - LN3 + LN4 + LN4) / 4)
    assert output.losses["click"].item() == pytest.approx(loss.item())
    assert output.logits["click"].tolist() == pytest.approx([0, LN3, LN3, LN3])


def test_ranks_with_uneven_rows_average_to_the_mean_over_all_rows_and_so_do_their_gradients() -> None:
    task = RankObjective(OneNumber("click"), targets=("click",), losses=PLAIN, ranks=3)
    losses, gradients, shares = [], [], []
    for rows in (LEFT, RIGHT, NOBODY):
        loss, output = task(rows)
        task.zero_grad()
        loss.backward()
        losses.append(loss.item())
        gradients.append(task.model.w.grad.item())
        shares.append(output.losses["click"].item())

    assert sum(losses) / 3 == pytest.approx((LN2 + LN4 - LN3 + LN4 + LN4) / 4)
    # d/dw BCE(y, sigmoid(w x)) = (p - y) x: nothing where x is 0, then -1/4 ln 3, 3/4 ln 3 and 3/4 ln 3.
    assert sum(gradients) / 3 == pytest.approx((-0.25 + 0.75 + 0.75) * LN3 / 4)
    assert losses[2] == gradients[2] == 0, "a rank without rows"
    assert sum(shares) == pytest.approx((LN2 + LN4 - LN3 + LN4 + LN4) / 4), "the shares add up to the loss"


def test_weights_count_and_the_mask_of_a_task_takes_rows_out_of_it_alone() -> None:
    task = RankObjective(OneNumber("click", "buy"), targets=("click", "buy"), losses=PLAIN, ranks=1)

    # Row 1 weighs 2. Only row 2 counts for `buy`, whatever the label of the others says there.
    loss, output = task(batch([0.0, LN3], [[1.0, 1.0], [0.0, 1.0]], [[2.0, 0.0], [1.0, 1.0]], rows=2))

    assert output.losses["click"].item() == pytest.approx((2 * LN2 + LN4) / 2)
    assert output.losses["buy"].item() == pytest.approx((LN4 - LN3) / 2)
    assert loss.item() == pytest.approx(output.losses["click"].item() + output.losses["buy"].item())


def test_a_loss_of_the_model_itself_is_added_with_its_weight_and_named() -> None:
    loss, output = RankObjective(WithPenalty("click"), targets=("click",), losses=PLAIN, ranks=1)(RIGHT)

    assert output.losses["penalty"].item() == pytest.approx(0.5 * LN3 / 4), "a row of four"
    assert loss.item() == pytest.approx(LN4 / 4 + 0.5 * LN3 / 4)


def test_what_a_step_leaves_behind_holds_no_graph() -> None:
    loss, output = RankObjective(OneNumber("click"), targets=("click",), losses=PLAIN, ranks=1)(LEFT)

    assert loss.requires_grad
    assert output.batch is LEFT
    assert not any(tensor.requires_grad for tensor in [*output.logits.values(), *output.losses.values()])


def test_in_bf16_products_are_rounded_and_everything_that_is_summed_up_is_not() -> None:
    """1.00390625 is 1 + 2^-8: bf16 has seven digits after the first, so it becomes 1, where fp32 keeps it."""
    model = OneNumber("click")
    with torch.no_grad():
        model.w.fill_(1.00390625)
    rows = batch([1.0], [[1.0]], [[1.0]], rows=1)
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, 1.00390625)
    model.decoder.forward = lambda x: linear(rows.numbers)

    for bf16, logit in ((None, 1.00390625), ("cpu", 1.0)):
        loss, output = RankObjective(model, targets=("click",), losses=PLAIN, ranks=1, bf16=bf16)(rows)
        assert output.logits["click"].tolist() == [logit]
        assert loss.item() == pytest.approx(math.log1p(math.exp(-logit)), rel=1e-6)
        assert {loss.dtype, output.logits["click"].dtype, output.losses["click"].dtype} == {torch.float32}
        loss.backward()
        assert linear.weight.grad is not None
        assert linear.weight.grad.dtype == torch.float32


# --- several losses, and losses of other packages ---


class Length(Loss):
    """A loss of another package: the mean length of a row's vectors, which no logit says."""

    reads = ("emb",)

    def __call__(self, output, targets):
        return {"length": output.representations["emb"].square().sum() / targets.rows}


def test_a_loss_reads_representations_and_its_gradient_reaches_what_made_them() -> None:
    model = OneNumber("click")
    numbers = model.embed.numbers_ND
    task = RankObjective(model, targets=("click",), losses=[LossTerm("length", Length(), 0.5)], ranks=1)
    loss, output = task(LEFT)
    loss.backward()

    squares = sum(x * x for x in (0.0, LN3, LN3)) * numbers.detach().square().sum().item()
    assert output.losses["length"].item() == pytest.approx(0.5 * squares / 4)
    torch.testing.assert_close(numbers.grad, 0.5 * 2 * numbers.detach() * 2 * LN3**2 / 4)
    assert model.w.grad is None or not model.w.grad.any(), "it reads no logit"


def test_several_losses_have_their_weights_targets_and_names() -> None:
    terms = [LossTerm("bce", BCE()), LossTerm("bce", BCE(), 0.25, ("buy",)), LossTerm("length", Length(), 0.5)]
    task = RankObjective(OneNumber("click", "buy"), targets=("click", "buy"), losses=terms, ranks=1)

    loss, output = task(batch([0.0, LN3], [[1.0, 1.0], [0.0, 1.0]], [[1.0, 1.0]] * 2, rows=2))

    assert list(output.losses) == ["bce/click", "bce/buy", "bce-2/buy", "length/length"]
    buy = (LN2 + LN4 - LN3) / 2
    assert output.losses["bce/buy"].item() == pytest.approx(buy)
    assert output.losses["bce-2/buy"].item() == pytest.approx(buy / 4)
    assert loss.item() == pytest.approx(sum(own.item() for own in output.losses.values()))


def test_one_loss_of_weight_one_is_the_same_bits_as_it_was_alone() -> None:
    model = OneNumber("click")
    loss, _ = RankObjective(model, targets=("click",), losses=PLAIN, ranks=1)(LEFT)
    logits_B = model.w.item() * LEFT.numbers[:, 0]

    expected = nn.functional.binary_cross_entropy_with_logits(logits_B, LEFT.labels[:, 0], LEFT.weights[:, 0], reduction="sum")
    assert loss.item() == (expected / 4).item()
