"""Half-precision tables: rounding worked out, initial values that take no memory, one run under any plan and after a
restart."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType, SparseType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    EmbeddingLocation,
    PoolingMode,
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor
from torchrec.distributed.types import ShardedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from data.errors import GenctrError
from pipeline.checkpoint.manager import Checkpoints
from pipeline.config.tables import InitConfig, TableConfig
from pipeline.distributed.cpu_fp16 import FirstValues, Fp16Tables, StochasticFp16, rounded, untouched
from pipeline.distributed.planner import TablePlan
from pipeline.distributed.saved_plan import SavedPlan
from pipeline.distributed.shard import Sharded, ShardingOptions, shard
from tests.helpers import on_ranks

LOTS = (torch.arange(65_536) + 0.5) / 65_536
"""Every number that a lot can be."""

SPACING = 2.0**-10
"""Between two fp16 numbers from 1 to 2."""

FIRST = FirstValues("uniform", 0.5, seed=7)


def tables(optimizer: Any = "sgd", *, lr: float = 0.5, pool: PoolingMode = PoolingMode.SUM, top: int = 0) -> Fp16Tables:
    """Two tables of five rows, read by a field each. A learning rate of .5, epsilon 0."""
    rule = StochasticFp16(optimizer, 0.0, FIRST)
    specs = [(5, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)] * 2
    made = SplitTableBatchedEmbeddingBagsCodegen(
        specs,
        optimizer=rule.base_optimizer,
        learning_rate=lr,
        pooling_mode=pool,
        weights_precision=SparseType.FP16,
        preallocated_host_buffers=rule.memory(40, 10),
        device=torch.device("cpu"),
    )
    return Fp16Tables(made, rule, names=["left", "right"], tops=[top, top], lefts=[0, 0])


def look_up(made: Fp16Tables, *bags: list[int]) -> Tensor:
    lengths = torch.tensor([0] + [len(bag) for bag in bags])
    looked: Tensor = made(torch.tensor([value for bag in bags for value in bag], dtype=torch.int64), lengths.cumsum(0))
    return looked


def test_a_number_is_rounded_up_as_often_as_it_is_near_the_upper_one() -> None:
    """1 + a quarter of the spacing."""
    up = rounded(torch.full((65_536, 1), 1 + SPACING / 4), LOTS.unsqueeze(1))

    assert (up == 1 + SPACING).sum() == 16_384
    assert (up == 1).sum() == 49_152


@pytest.mark.parametrize("value", [1e-8, 2.9e-5, -2.9e-5, 0.1, -3.14159, 1000.1, -65_000.0])
def test_the_mean_of_all_roundings_is_the_number(value: float) -> None:
    """To a lot's own 16 bits. Below 6e-5 the numbers of fp16 are evenly spaced, 6e-8 apart."""
    values = rounded(torch.full((65_536, 1), value), LOTS.unsqueeze(1)).double()

    spacing = 2.0 ** (max(math.floor(math.log2(abs(value))), -14) - 10)
    assert values.unique().numel() == 2
    assert abs(values.mean().item() - torch.tensor(value).double().item()) <= spacing * 2**-16


def test_a_number_of_fp16_is_never_moved_by_rounding() -> None:
    numbers = torch.arange(65_536, dtype=torch.int32).to(torch.int16).view(torch.half)
    numbers = numbers[numbers.isfinite()]

    for u in (LOTS[0], LOTS[-1]):
        assert torch.equal(rounded(numbers.float().unsqueeze(1), u).squeeze(1), numbers)


def test_what_fp16_cannot_hold_is_its_largest_and_no_number_stays_none() -> None:
    values = rounded(torch.tensor([[1e6, -math.inf, math.nan]]), torch.tensor(0.5))

    assert values[0, :2].tolist() == [65504, -65504]
    assert values[0, 2].isnan()


def fbgemms_own() -> SplitTableBatchedEmbeddingBagsCodegen:
    return SplitTableBatchedEmbeddingBagsCodegen(
        [(5, 4, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=EmbOptimType.EXACT_SGD,
        learning_rate=1e-4,
        weights_precision=SparseType.FP16,
        stochastic_rounding=True,
        device=torch.device("cpu"),
    )


def after_200_small_steps(made: Any, fields: int) -> float:
    """A row of ones after 200 steps of 1e-4, a tenth of the spacing."""
    made.split_embedding_weights()[0].fill_(1.0)
    for _ in range(200):
        (-made(torch.tensor([3] * fields), torch.arange(fields + 1))[:, :4]).sum().backward()
    return made.split_embedding_weights()[0][3].float().mean().item()


def test_small_steps_are_not_lost() -> None:
    """1 + 200 x 1e-4 = 1.02. The deviation of four numbers' mean is below sqrt(200 x .1 x .9 / 4) spacings, .002."""
    assert after_200_small_steps(fbgemms_own(), fields=1) == 1.0
    assert abs(after_200_small_steps(tables(lr=1e-4), fields=2) - 1.02) < 0.008


def test_sgd_moves_a_row_by_the_sum_of_its_gradients() -> None:
    """Row 2 of the left table twice in a bag: .5 x 2; row 2 of the right one once: .5."""
    made = tables()
    for table in made.split_embedding_weights():
        table.fill_(3.0)
    look_up(made, [2, 2], [2]).sum().backward()

    assert [table[2].tolist() for table in made.split_embedding_weights()] == [[2.0] * 4, [2.5] * 4]
    assert made.split_embedding_weights()[0][[0, 1, 3, 4]].eq(3).all()


def test_rowwise_adagrad_divides_by_the_root_of_the_rows_mean_squares() -> None:
    """Gradient 2: m = 4, so a step of .5 x 2 / 2; then m = 8."""
    made = tables("rowwise_adagrad")
    made.split_embedding_weights()[0].fill_(3.0)
    for expected in (2.5, 2.5 - 1 / math.sqrt(8)):
        (2 * look_up(made, [4], [])[:, :4]).sum().backward()
        assert (made.split_embedding_weights()[0][4] - expected).abs().max() <= 2 * SPACING

    assert made.momentum1_host[:5].tolist() == [0, 0, 0, 0, 8]


def test_a_mean_hands_each_of_its_rows_its_share() -> None:
    made = tables(pool=PoolingMode.MEAN)
    made.split_embedding_weights()[0].fill_(3.0)
    look_up(made, [0, 1], [], [], [])[:, :4].sum().backward()

    assert made.split_embedding_weights()[0][:3, 0].tolist() == [2.75, 2.75, 3.0]


def test_a_row_is_looked_up_as_it_begins_and_written_when_it_is_trained() -> None:
    made = tables()
    with torch.no_grad():
        first = look_up(made, [3], [3])
        again = look_up(made, [3], [3])

    assert torch.equal(first, again)
    assert first.abs().min() > 0
    assert not torch.equal(first[:, :4], first[:, 4:])  # the tables differ
    assert not any(table.any() for table in made.split_embedding_weights())

    look_up(made, [3], [])[:, :4].sum().backward()
    assert (made.split_embedding_weights()[0][3] - (first[0, :4] - 0.5)).abs().max() <= SPACING
    assert made.split_embedding_weights()[0].any(1).tolist() == [False, False, False, True, False]
    assert not made.split_embedding_weights()[1].any()


def test_a_row_that_is_trained_to_zero_does_not_begin_again() -> None:
    made = tables()
    made.split_embedding_weights()[0][3] = 0.5
    look_up(made, [3], [])[:, :4].sum().backward()

    assert look_up(made, [3], [])[:, :4].eq(0).all()


def test_a_gradient_of_zero_leaves_a_row_as_it_was() -> None:
    made = tables("sgd")
    before = look_up(made, [1], [2])
    (0 * look_up(made, [1], [2])).sum().backward()

    assert torch.equal(look_up(made, [1], [2]), before)


def test_a_step_without_ids_or_without_rows_is_a_step() -> None:
    for bags in ([[], []], []):
        made = tables("rowwise_adagrad")
        looked = look_up(made, *bags)
        looked.sum().backward()

        assert looked.shape == (len(bags) // 2, 8)
        assert made.iter.item() == 1


def test_an_id_out_of_bounds_is_row_0_in_look_up_and_update_alike() -> None:
    made = tables()
    made.split_embedding_weights()[0].fill_(3.0)
    looked = made(torch.tensor([7]), torch.tensor([0, 1, 1]))
    looked[:, :4].sum().backward()

    assert looked[0, :4].eq(3).all()
    assert made.split_embedding_weights()[0][0].eq(2.5).all()
    assert not made.split_embedding_weights()[1].any()


def test_first_values_are_spread_as_said() -> None:
    """A uniform one has the deviation scale / sqrt(3)."""
    rows, keys = torch.arange(50_000), torch.full((50_000,), FIRST.key("t"))
    uniform = FIRST(keys, rows, 8).float()
    normal = FirstValues("normal", 0.5, seed=7)(keys, rows, 8).float()

    assert uniform.abs().max() <= 0.5
    assert abs(uniform.std().item() - 0.5 / math.sqrt(3)) < 0.002
    assert abs(normal.std().item() - 0.5) < 0.004
    assert max(abs(uniform.mean().item()), abs(normal.mean().item())) < 0.002
    assert torch.corrcoef(uniform.T).fill_diagonal_(0).abs().max() < 0.02
    assert abs(torch.corrcoef(torch.stack([uniform[1:, 0], uniform[:-1, 0]]))[0, 1].item()) < 0.02


def test_columns_of_a_row_do_not_depend_on_how_it_is_split() -> None:
    rows, keys = torch.tensor([3, 10**9]), torch.full((2,), FIRST.key("t"))

    whole = FIRST(keys, rows, 12)

    assert torch.equal(whole[:, 4:], FIRST(keys, rows, 8, column=4))


def resident() -> int:
    """[bytes] of memory this process takes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def test_memory_is_taken_when_it_is_written_not_when_it_is_read() -> None:
    before = resident()
    zeros = untouched(250_000_000, torch.half)  # 500 MB

    assert not zeros[::2048].any()
    assert resident() - before < 20e6
    zeros[:50_000_000] = 1
    assert resident() - before > 90e6


ROWS, STEPS, HALF_WAY = 1000, 6, 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        configs = [
            EmbeddingBagConfig(name=name, num_embeddings=ROWS, embedding_dim=8, feature_names=[f"f_{name}"])
            for name in ("a", "b")
        ]
        self.bags = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        looked = self.bags(ids)
        return (looked["f_a"] * looked["f_b"]).sum(1)


def sharded(plan: Any, optimizer: Any = "sgd") -> Sharded:
    options = TableConfig(
        optimizer=optimizer, lr=0.1, init=InitConfig(kind="normal", scale=0.5), sharding=plan, precision="fp16"
    )
    return shard(Net(), tables={"a": options, "b": options}, device=torch.device("cpu"), batch_rows=8, seed=7)


def my_ids(step: int) -> KeyedJaggedTensor:
    """Eight rows of two ids a step; rank 1 has the last three, and none in step 4."""
    ids = torch.randint(0, 40, (2, 8), generator=torch.Generator().manual_seed(step)) * 25
    border = 8 if step == 4 or dist.get_world_size() == 1 else 5
    mine = ids[:, :border] if dist.get_rank() == 0 else ids[:, border:]
    return KeyedJaggedTensor(["f_a", "f_b"], mine.flatten(), lengths=torch.ones(mine.numel(), dtype=torch.int64))


def run(made: Sharded, start: int, stop: int) -> None:
    for step in range(start, stop):
        loss = ((made.model(my_ids(step)) - 1) ** 2).sum() / 8
        (loss * dist.get_world_size()).backward()


def stored(made: Sharded) -> dict[str, Tensor]:
    """Every table as it is stored, put together from all ranks."""
    whole = {}
    for key, value in made.model.state_dict().items():
        assert isinstance(value, ShardedTensor)
        table = torch.zeros(ROWS, 8)
        for local in value.local_shards():
            (top, left), (height, width) = local.metadata.shard_offsets, local.metadata.shard_sizes
            table[top : top + height, left : left + width] = local.tensor.float()
        dist.all_reduce(table)
        whole[key.split(".")[-2]] = table
    return whole


def under_all_plans(rank: int, folder: str, other: str | None) -> dict[tuple[str, ...], dict[str, Tensor]]:
    """Unbroken; broken and gone on with under the same plan; and from a checkpoint of another world."""
    ends = {}
    checkpoints = {name: Checkpoints(name, keep=9, asynchronous=False) for name in (folder, other) if name}
    for optimizer in ("sgd", "rowwise_adagrad"):
        for at, plan in enumerate(("table_wise", "row_wise", "column_wise")):
            if optimizer == "rowwise_adagrad" and plan == "column_wise":
                continue
            made = sharded(plan, optimizer)
            run(made, 0, HALF_WAY)
            states = {"model": made.model.state_dict(), "optimizer": made.fused.state_dict()}
            step = 10 * at + (optimizer == "sgd")
            checkpoints[folder].save(step, tensors=states, meta={})
            run(made, HALF_WAY, STEPS)
            ends[optimizer, plan, "unbroken"] = stored(made)
            for name, saved in checkpoints.items():
                made = sharded(plan, optimizer)
                states = {"model": made.model.state_dict(), "optimizer": made.fused.state_dict()}
                saved.restore(f"step-{step:07d}", states)
                made.model.load_state_dict(states["model"])
                made.fused.load_state_dict(states["optimizer"])
                run(made, HALF_WAY, STEPS)
                ends[optimizer, plan, "same" if name == folder else "other"] = stored(made)
    return ends if rank == 0 else {}


@pytest.mark.filterwarnings("ignore:Please use DTensor:FutureWarning")
def test_neither_plans_nor_ranks_nor_restarts_change_a_run(tmp_path: Path) -> None:
    """A restart in the same world: the same bits. Else sums in another order may round to a neighbouring number: 2^-10 of
    it."""
    [alone] = on_ranks(1, under_all_plans, str(tmp_path / "one"), None)
    together, _ = on_ranks(2, under_all_plans, str(tmp_path / "two"), str(tmp_path / "one"))

    assert len(alone) == 10
    assert len(together) == 15
    for (optimizer, plan, how), end in (alone | together).items():
        reference = alone[optimizer, "table_wise", "unbroken"]
        for name, table in end.items():
            assert 20 <= table.any(1).sum() <= 40  # of the rows that were looked up, and of no other
            assert torch.equal(table.any(1), reference[name].any(1))
            torch.testing.assert_close(table, reference[name], rtol=2e-3, atol=1e-4, msg=f"{optimizer} {plan} {how}")
    for world in (alone, together):
        for (optimizer, plan, how), end in world.items():
            if how == "same":
                assert all(torch.equal(end[name], world[optimizer, plan, "unbroken"][name]) for name in end)


def whole_and_halves(rank: int) -> list[dict[str, Tensor]]:
    """Tables whole, and as two halves of their columns in one group of a rank, as a plan may have it where others hold more."""
    ends = []
    halves = ((0, 0, 0, ROWS, 4), (0, 0, 4, ROWS, 4))
    for sharding, shards in (("table_wise", ((0, 0, 0, ROWS, 8),)), ("column_wise", halves)):
        own = TablePlan(ROWS, 8, "fp16", "sgd", sharding, "fused", None, False, shards)
        spread = ShardingOptions(saved=SavedPlan("cpu", "cpu", 1, 1, {"rank": {"a": own, "b": own}}), stage="rank")
        options = TableConfig(
            optimizer="sgd", lr=0.1, init=InitConfig(kind="normal", scale=0.5), sharding=sharding, precision="fp16"
        )
        cpu = torch.device("cpu")
        made = shard(Net(), tables={"a": options, "b": options}, device=cpu, batch_rows=8, seed=7, spread=spread)
        run(made, 0, STEPS)
        ends.append(stored(made))
    return ends


def test_halves_of_a_tables_columns_may_be_on_one_rank() -> None:
    [[whole, halves]] = on_ranks(1, whole_and_halves)

    for name, table in halves.items():
        assert table.any(1).sum() >= 20
        torch.testing.assert_close(table, whole[name], rtol=2e-3, atol=1e-4)


def refusal(rank: int, said: dict[str, Any]) -> str:
    with pytest.raises(GenctrError) as refused:
        shard(Net(), tables=dict.fromkeys("ab", TableConfig(**said)), device=torch.device("cpu"), batch_rows=8, seed=7)
    return str(refused.value)


@pytest.mark.parametrize("optimizer", ["adagrad", "adam", "lazy_adam"])
def test_an_optimizer_without_half_tables_is_refused(optimizer: str) -> None:
    [message] = on_ranks(1, refusal, {"precision": "fp16", "optimizer": optimizer})

    assert message == (
        f"table 'a': {optimizer} has no fp16 tables on a CPU: set precision to fp32, or optimizer to sgd or rowwise_adagrad"
    )
