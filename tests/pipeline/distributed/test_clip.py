"""Gradients of looked-up vectors are clipped before they reach a table, the same under any sharding."""

import pytest
import torch
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType

from data.errors import GenctrError
from pipeline.config.tables import TableConfig
from pipeline.distributed.shard import Sharded, shard
from tests.helpers import on_ranks

CPU, META = torch.device("cpu"), torch.device("meta")
GRADIENT = torch.tensor([3.0, 0.1, -2.0, 0.2])
CLIPPED = torch.tensor([0.25, 0.1, -0.25, 0.2])


def bags(pooling: PoolingType) -> nn.Module:
    config = EmbeddingBagConfig(name="t", num_embeddings=6, embedding_dim=4, feature_names=["f"], pooling=pooling)
    return nn.Sequential(EmbeddingBagCollection(tables=[config], device=META))


def events() -> nn.Module:
    config = EmbeddingConfig(name="t", num_embeddings=6, embedding_dim=4, feature_names=["f"])
    return nn.Sequential(EmbeddingCollection(tables=[config], device=META))


def sharded(model: nn.Module, **said: object) -> Sharded:
    return shard(model, tables={"t": TableConfig(gradient_clip_value=0.25, **said)}, device=CPU, batch_rows=1, seed=7)


def first_rows(own: Sharded) -> Tensor:
    [(_, table)] = [(key, value) for key, value in own.model.state_dict().items() if key.endswith("t.weight")]
    return table.local_shards()[0].tensor.clone()


def moves(rank: int, kind: str, optimizer: str, sharding: str) -> Tensor:
    """What a step with rate 1 takes off row 1, which is looked up in two rows: once alone, once next to row 2."""
    own = sharded(bags(PoolingType.SUM) if kind == "bags" else events(), optimizer=optimizer, lr=1.0, sharding=sharding)
    before = first_rows(own)
    looked = own.model(KeyedJaggedTensor(["f"], torch.tensor([1, 1, 2]), lengths=torch.tensor([1, 2])))
    vectors = looked["f"] if kind == "bags" else looked["f"].values()
    (vectors * GRADIENT).sum().backward()
    return (before - first_rows(own))[1]


@pytest.mark.parametrize("sharding", ["table_wise", "row_wise", "column_wise"])
@pytest.mark.parametrize("kind", ["bags", "events"])
def test_no_coordinate_of_a_looked_up_vectors_gradient_is_larger(kind: str, sharding: str) -> None:
    [moved] = on_ranks(1, moves, kind, "sgd", sharding)

    torch.testing.assert_close(moved, 2 * CLIPPED)


def first_moment(rank: int, kind: str) -> Tensor:
    own = sharded(bags(PoolingType.SUM) if kind == "bags" else events(), optimizer="lazy_adam")
    looked = own.model(KeyedJaggedTensor(["f"], torch.tensor([1]), lengths=torch.tensor([1])))
    ((looked["f"] if kind == "bags" else looked["f"].values()) * GRADIENT).sum().backward()
    [state] = own.fused.state_dict()["state"].values()
    [moment] = [value for name, value in state.items() if name.endswith("momentum1")]  # TorchRec's name of it
    return moment.local_shards()[0].tensor[1].clone()


@pytest.mark.parametrize("kind", ["bags", "events"])
def test_adams_moments_are_of_the_clipped_gradient(kind: str) -> None:
    [moment] = on_ranks(1, first_moment, kind)

    torch.testing.assert_close(moment, (1 - 0.9) * CLIPPED)


def refusal(rank: int) -> str:
    with pytest.raises(GenctrError) as error:
        sharded(bags(PoolingType.MEAN), sharding="row_wise")
    return str(error.value)


def test_a_mean_over_ranks_would_be_clipped_elsewhere_and_is_refused() -> None:
    assert on_ranks(1, refusal) == [
        (
            "table 't': gradient_clip_value and a mean do not go together under row_wise: set sharding to table_wise, or "
            "gradient_clip_value to null"
        )
    ]


def planned(rank: int) -> str:
    return sharded(bags(PoolingType.MEAN)).plan.get_plan_for_module("0")["t"].sharding_type


def test_left_to_the_planner_a_clipped_mean_stays_whole() -> None:
    assert on_ranks(1, planned) == ["table_wise"]
