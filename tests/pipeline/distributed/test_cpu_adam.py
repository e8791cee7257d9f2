"""Adam on CPU tables: worked out, and against torch's own on whole tables."""

import pytest
import torch
import torch.nn.functional as functional
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torchrec.distributed import embedding_lookup
from torchrec.distributed.batched_embedding_kernel import BatchedFusedEmbeddingBag

from pipeline.distributed.cpu_adam import Adam, AdamTables
from pipeline.distributed.cpu_kernels import PooledKernel, our_kernels

LAZY = Adam(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, moves="touched", decays="touched")
WHOLE = Adam(beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, moves="all", decays="touched")
LR = 0.1


def tables(
    rule: Adam, *, rows: tuple[int, ...] = (5,), fields: tuple[int, ...] = (0,), pool: PoolingMode = PoolingMode.SUM
) -> AdamTables:
    """Tables 4 wide; `fields` says which table each field reads. Weights count up from 1."""
    specs = [(height, 4, EmbeddingLocation.HOST, ComputeDevice.CPU) for height in rows]
    made = AdamTables(
        SplitTableBatchedEmbeddingBagsCodegen(
            specs,
            feature_table_map=list(fields),
            optimizer=EmbOptimType.EXACT_ADAGRAD,
            learning_rate=LR,
            pooling_mode=pool,
            device=torch.device("cpu"),
        ),
        rule,
    )
    for table in made.split_embedding_weights():
        table.copy_(torch.arange(1.0, table.numel() + 1).view_as(table))
    return made


def look_up(made: AdamTables, *bags: list[int]) -> Tensor:
    values = torch.tensor([value for bag in bags for value in bag], dtype=torch.int64)
    lengths = torch.tensor([0] + [len(bag) for bag in bags], dtype=torch.int64)
    looked: Tensor = made(values, lengths.cumsum(0))
    return looked


def moves(made: AdamTables, *bags: list[int], gradient: float = 1.0) -> Tensor:
    """By how much the first column of the first table falls in a step in which every bag's gradient is `gradient`."""
    before = made.split_embedding_weights()[0].clone()
    (gradient * look_up(made, *bags)).sum().backward()
    return (before - made.split_embedding_weights()[0])[:, 0]


def test_the_first_step_moves_a_row_by_the_learning_rate_whatever_its_gradient() -> None:
    """m / (1 - beta1) = g and the root of v / (1 - beta2) = |g|."""
    torch.testing.assert_close(moves(tables(LAZY), [3], gradient=7.0), torch.tensor([0, 0, 0, 0.1, 0]))


def test_a_row_that_is_not_looked_up_stays_bit_for_bit_under_lazy_adam() -> None:
    made = tables(LAZY)
    moves(made, [3])
    before = [made.split_embedding_weights()[0].clone(), *(state.clone() for state in made.split_optimizer_states()[0])]

    moves(made, [1])

    for state, was in zip([*made.split_embedding_weights(), *made.split_optimizer_states()[0]], before, strict=True):
        assert torch.equal(state[3], was[3])
        assert not torch.equal(state[1], was[1])


def test_a_row_that_is_not_looked_up_goes_on_moving_under_adam() -> None:
    """Step 2 without it: m = .9 x .1, v = .999 x .001, so .09 / .19 over the root of .000999 / .001999, times .1."""
    made = tables(WHOLE)
    moves(made, [3])

    expected = 0.1 * (0.09 / 0.19) / (0.000999 / 0.001999) ** 0.5
    torch.testing.assert_close(moves(made, [1])[3].item(), expected, rtol=1e-4, atol=0)


def test_lazy_adam_corrects_the_bias_by_the_count_of_all_steps() -> None:
    """A row first seen in step 2: m = .1, v = .001, corrected by .19 and .001999."""
    made = tables(LAZY)
    moves(made, [3])

    expected = 0.1 * (0.1 / 0.19) / (0.001 / 0.001999) ** 0.5
    torch.testing.assert_close(moves(made, [1])[1].item(), expected, rtol=1e-4, atol=0)


def test_a_rows_look_ups_are_summed_before_the_moments() -> None:
    """Row 2: twice in one bag, once in another, gradient 1 each: g = 3, v = .001 x 9."""
    made = tables(LAZY)
    moves(made, [2, 2, 4], [2])

    first, second = made.split_optimizer_states()[0]
    torch.testing.assert_close(first[:, 0], torch.tensor([0, 0, 0.3, 0, 0.1]))
    torch.testing.assert_close(second[:, 0], torch.tensor([0, 0, 0.009, 0, 0.001]))


def test_a_mean_hands_each_of_its_rows_its_share_of_the_gradient() -> None:
    made = tables(LAZY, pool=PoolingMode.MEAN)
    moves(made, [0, 1], [4], [])

    torch.testing.assert_close(made.split_optimizer_states()[0][0][:, 0], torch.tensor([0.05, 0.05, 0, 0, 0.1]))


@pytest.mark.parametrize(
    ("rule", "fall"),
    [
        # A gradient of 0. Lazy: apart from the moments, .1 x .5 of the rows looked up, 2 and 4 (first columns 9 and 17).
        (Adam(0.9, 0.999, 1e-8, weight_decay=0.5, moves="touched", decays="touched"), [0, 0, 0.45, 0, 0.85]),
        # Into the gradient, so that the first step is the learning rate: of the rows looked up, or of all.
        (Adam(0.9, 0.999, 1e-8, weight_decay=0.5, moves="all", decays="touched"), [0, 0, 0.1, 0, 0.1]),
        (Adam(0.9, 0.999, 1e-8, weight_decay=0.5, moves="all", decays="all"), [0.1, 0.1, 0.1, 0.1, 0.1]),
    ],
)
def test_weights_decay_as_the_rule_says(rule: Adam, fall: list[float]) -> None:
    torch.testing.assert_close(moves(tables(rule), [2], [4], gradient=0.0), torch.tensor(fall))


@pytest.mark.parametrize("rule", [LAZY, WHOLE])
def test_a_step_without_ids_or_without_rows_is_a_step(rule: Adam) -> None:
    for bags in ([[], []], []):
        made = tables(rule, rows=(5, 3), fields=(0, 1))
        looked = look_up(made, *bags)
        looked.sum().backward()

        assert looked.shape == (len(bags) // 2, 8)
        assert made.iter.item() == 1


def test_looking_without_training_neither_moves_nor_counts() -> None:
    made = tables(WHOLE)
    moves(made, [3])
    before = made.split_embedding_weights()[0].clone()
    with torch.no_grad():
        look_up(made, [3])

    assert torch.equal(made.split_embedding_weights()[0], before)
    assert made.iter.item() == 1


def test_the_rate_can_change_between_steps() -> None:
    made = tables(LAZY)
    made.set_learning_rate(0.02)

    torch.testing.assert_close(moves(made, [3])[3].item(), 0.02, rtol=1e-4, atol=0)


def test_an_id_out_of_bounds_is_row_0_in_look_up_and_update_alike() -> None:
    """As FBGEMM has it; the neighbouring table in the same memory is not touched."""
    made = tables(LAZY, rows=(5, 5), fields=(0, 1))
    second = made.split_embedding_weights()[1].clone()
    values, offsets = torch.tensor([7]), torch.tensor([0, 1, 1])
    looked = made(values, offsets)
    looked[:, :4].sum().backward()

    torch.testing.assert_close(looked[0, :4], torch.tensor([1.0, 2.0, 3.0, 4.0]))
    torch.testing.assert_close(made.split_embedding_weights()[0][0, 0].item(), 0.9)
    assert torch.equal(made.split_embedding_weights()[1], second)


@pytest.mark.parametrize("pool", [PoolingMode.SUM, PoolingMode.MEAN, PoolingMode.NONE])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_whole_table_adam_is_torchs_own(pool: PoolingMode, decay: float) -> None:
    """Three fields over two tables, random ragged bags, ten steps."""
    generator = torch.Generator().manual_seed(1)
    made = tables(
        Adam(0.8, 0.95, 1e-6, weight_decay=decay, moves="all", decays="all"), rows=(7, 9), fields=(0, 0, 1), pool=pool
    )
    twins = [table.clone().requires_grad_() for table in made.split_embedding_weights()]
    optimizer = torch.optim.Adam(twins, lr=LR, betas=(0.8, 0.95), eps=1e-6, weight_decay=decay)
    for _ in range(10):
        lengths = torch.randint(0, 4, (3, 6), generator=generator)
        offsets = functional.pad(lengths.flatten().cumsum(0), (1, 0))
        counts = zip((7, 7, 9), lengths.sum(1).tolist(), strict=True)
        ids = [torch.randint(0, rows, (count,), generator=generator) for rows, count in counts]
        looked = made(torch.cat(ids), offsets)
        expected = torch.cat(
            [twin_look_up(twins[table], ids[field], lengths[field], pool) for field, table in enumerate((0, 0, 1))],
            dim=0 if pool == PoolingMode.NONE else 1,
        )
        torch.testing.assert_close(looked, expected, rtol=1e-5, atol=1e-5)
        weights = torch.randn(expected.shape, generator=generator)
        (looked * weights).sum().backward()
        optimizer.zero_grad()
        (expected * weights).sum().backward()
        optimizer.step()

        torch.testing.assert_close(made.split_embedding_weights(), [twin.detach() for twin in twins], rtol=0, atol=1e-5)


def twin_look_up(table: Tensor, ids: Tensor, lengths: Tensor, pool: PoolingMode) -> Tensor:
    if pool == PoolingMode.NONE:
        return functional.embedding(ids, table)
    mode = "sum" if pool == PoolingMode.SUM else "mean"
    return functional.embedding_bag(ids, table, lengths.cumsum(0) - lengths, mode=mode)


def test_torchrec_has_its_own_kernels_back_after_the_block() -> None:
    with our_kernels():
        assert embedding_lookup.BatchedFusedEmbeddingBag is PooledKernel

    assert embedding_lookup.BatchedFusedEmbeddingBag is BatchedFusedEmbeddingBag
