"""Look-ups worked out, then under DistributedModelParallel: any plan and any sharing of rows gives the same losses."""

from functools import partial

import pytest
import torch
from torch import distributed, nn
from torchrec import KeyedJaggedTensor

from models.field_embedding import Field, FieldEmbedding
from models.heads.base import LinearHead
from models.inputs import FieldInfo, Inputs
from models.layers import flat
from models.losses.base import Targets
from models.losses.cross_entropy import BCE
from models.ranker import Ranker
from models.registries import DECODERS, ENCODERS
from models.sparse import SparseArch, Table
from pipeline.config.tables import InitConfig, TableConfig
from pipeline.distributed.shard import shard
from tests.helpers import on_ranks
from tests.models.flat import made_of

CPU = torch.device("cpu")


def ids(**rows_of):
    """One key per argument, each a list of rows, each a list of ids."""
    lists = [row for rows in rows_of.values() for row in rows]
    return KeyedJaggedTensor(
        keys=list(rows_of),
        values=torch.tensor([value for row in lists for value in row], dtype=torch.int64),
        lengths=torch.tensor([len(row) for row in lists], dtype=torch.int32),
    )


def count_up(sparse):
    """Fill every table with row number + column / 10, first-order tables with 100 times the row number."""
    with torch.no_grad():
        for name, weight in sparse.named_parameters():
            rows = torch.arange(weight.shape[0], dtype=torch.float32).unsqueeze(1)
            weight.copy_(100 * rows if "_linear" in name else rows + torch.arange(weight.shape[1]) / 10)
    return sparse


def test_bags_are_summed_or_averaged_and_read_by_key():
    tables = [Table("user", 9, 2, ("user",)), Table("tag", 9, 4, ("tags", "cat"), "mean")]
    sparse = count_up(SparseArch(tables, device=CPU))

    looked = sparse(ids(cat=[[5], [6]], tags=[[1, 3], []], user=[[7, 1], [2]]), None)

    torch.testing.assert_close(looked.vectors["user"], torch.tensor([[8.0, 8.2], [2.0, 2.1]]))
    torch.testing.assert_close(looked.vectors["tags"], torch.tensor([[2.0, 2.1, 2.2, 2.3], [0.0] * 4]))
    torch.testing.assert_close(looked.vectors["cat"][:, 0], torch.tensor([5.0, 6.0]))
    assert not looked.linear
    assert sparse.sequences is None


def test_first_order_weights_are_pooled_as_their_table():
    tables = [Table("user", 9, 2, ("user",), linear=True), Table("tag", 9, 4, ("tags", "cat"), "mean", linear=True)]
    sparse = count_up(SparseArch(tables, device=CPU))

    looked = sparse(ids(user=[[7, 1], [2]], tags=[[1, 3], []], cat=[[5], [6]]), None)

    assert looked.linear["user"].tolist() == [[800.0], [200.0]]
    assert looked.linear["tags"].tolist() == [[200.0], [0.0]]
    assert looked.linear["cat"].tolist() == [[500.0], [600.0]]
    assert looked.vectors["user"].shape == (2, 2)


def test_unpooled_tables_keep_every_event_whatever_their_widths():
    tables = [Table("item", 9, 2, ("item", "history"), "none", linear=True), Table("shop", 9, 5, ("shops",), "none")]
    sparse = count_up(SparseArch(tables, device=CPU))

    looked = sparse(None, ids(shops=[[1], []], item=[[4], [5]], history=[[1, 2], [3]]))

    torch.testing.assert_close(looked.events["history"].values, torch.tensor([[1.0, 1.1], [2.0, 2.1], [3.0, 3.1]]))
    assert looked.events["history"].lengths.tolist() == [2, 1]
    assert looked.linear_events["item"].values.tolist() == [[400.0], [500.0]]
    assert looked.events["shops"].values.shape == (1, 5)
    assert set(looked.linear_events) == {"item", "history"}
    assert sparse.bags is None


def test_tables_are_stored_in_multiples_of_four_columns():
    sparse = SparseArch([Table("user", 9, 10, ("user",), linear=True), Table("item", 9, 16, ("item",))], device=CPU)

    shapes = {name.split(".")[-2]: tuple(weight.shape) for name, weight in sparse.named_parameters()}
    assert shapes == {"user": (9, 12), "user_linear": (9, 4), "item": (9, 16)}


def test_columns_that_only_fill_up_get_no_gradient():
    sparse = SparseArch([Table("user", 9, 2, ("user",))], device=CPU)

    sparse(ids(user=[[3]]), None).vectors["user"].sum().backward()

    (weight,) = sparse.parameters()
    assert weight.grad[3].tolist() == [1.0, 1.0, 0.0, 0.0]


def test_rows_without_ids_are_zero():
    sparse = SparseArch([Table("user", 9, 2, ("user",), "mean"), Table("item", 9, 2, ("item",), "none")], device=CPU)

    looked = sparse(ids(user=[[]]), ids(item=[[]]))

    assert looked.vectors["user"].tolist() == [[0.0, 0.0]]
    assert looked.events["item"].values.shape == (0, 2)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([Table("a", 9, 4, ("x",)), Table("a", 9, 4, ("y",))], r"table names \['a'\] occur twice"),
        ([Table("a", 9, 4, ("x",), linear=True), Table("a_linear", 9, 4, ("y",))], r"table names \['a_linear'\] occur twice"),
        ([Table("a", 9, 4, ("x",)), Table("b", 9, 4, ("x",))], r"field names \['x'\] occur twice"),
        ([Table("a.b", 9, 4, ("x",)), Table("type", 9, 4, ("y",))], r"torch cannot name tables \['a.b', 'type'\]"),
    ],
)
def test_names_that_would_clash_are_told(tables, message):
    with pytest.raises(ValueError, match=message):
        SparseArch(tables, device=CPU)


# under DistributedModelParallel

ROWS, STEPS = 12, 3
TABLES = [
    Table("user", 20, 10, ("user",), linear=True),
    Table("tag", 7, 10, ("tags", "cat"), "mean", linear=True),
    Table("item", 30, 6, ("item", "history"), "none", linear=True),
]
FIELDS = [
    Field("user", "table", 10),
    Field("item", "table", 6),
    Field("price", "number"),
    Field("history", "table", 6, "attention", "item"),
    Field("tags", "table", 10),
    Field("cat", "table", 10),
    Field("image", "vector", 3),
]
CASES = [("deepfm", "sfg", "table_wise"), ("deepfm", "sfg", "row_wise"), ("dcnv2", "none", "row_wise")]
SHARES = [(6, 6), (1, 11), (0, 12), (12, 0)]


class Task(nn.Module):
    """A ranker and its loss, so that DistributedDataParallel sees one module."""

    def __init__(self, ranker):
        super().__init__()
        self.ranker = ranker

    def forward(self, bags, sequences, numbers, vectors, labels):
        output = self.ranker(Inputs(bags, sequences, numbers, vectors))
        labels_B1 = labels[:, None]
        share = BCE()(output, Targets(("click",), labels_B1, torch.ones_like(labels_B1), ROWS, labels.long()))["click"]
        return share, share * distributed.get_world_size()


def batch(start, stop):
    """Rows start .. stop of the one global batch."""
    draw = torch.Generator().manual_seed(7)

    def some(rows, most):
        lists = [torch.randint(0, rows, (r * 5 % (most + 1),), generator=draw).tolist() for r in range(ROWS)]
        return lists[start:stop]

    one = [[int(i)] for i in torch.randint(0, 7, (ROWS,), generator=draw)]
    bags = ids(cat=one[start:stop], user=[[2 * row[0]] for row in one[start:stop]], tags=some(7, 3))
    sequences = ids(history=some(30, 4), item=[[3 * row[0]] for row in one[start:stop]])
    numbers, vectors = torch.randn(ROWS, 1, generator=draw), torch.randn(ROWS, 3, generator=draw)
    labels = (torch.arange(ROWS) % 2).float()
    return bags, sequences, numbers[start:stop], vectors[start:stop], labels[start:stop]


def build(decoder, encoder, kind):
    """The same model with the same weights, spread over the ranks as `kind` says."""
    torch.manual_seed(0)
    generate = partial(ENCODERS[encoder], fields=len(FIELDS), width=10)
    made = made_of(
        DECODERS[decoder],
        fields=[FieldInfo(field.name) for field in FIELDS],
        width=10,
        generate=generate,
        hidden=[8, 8],
        batch_norm=True,
    )
    tables = [Table(t.name, t.rows, t.dim, t.fields, t.pool, linear=made.needs_linear) for t in TABLES]
    embed = FieldEmbedding(FIELDS, width=10, linear=made.needs_linear)
    task = Task(
        Ranker(
            sparse=SparseArch(tables, device=torch.device("meta")),
            embed=embed,
            decoder=made,
            head=LinearHead(features=flat(made.out), targets=["click"]),
        )
    )

    options = {table.name: TableConfig(lr=0.05, init=InitConfig(kind="normal", scale=0.3), sharding=kind) for table in tables}
    return shard(task, tables=options, device=CPU, batch_rows=ROWS, seed=3)


def losses(start, stop, case):
    """The loss over all ranks in every step."""
    sharded = build(*case)
    dense = torch.optim.SGD(sharded.dense_parameters.values(), lr=0.1)
    found = []
    for _ in range(STEPS):
        dense.zero_grad()
        share, loss = sharded.model(*batch(start, stop))
        loss.backward()
        dense.step()
        share = share.detach()
        distributed.all_reduce(share)
        found.append(share.item())
    return found


def all_losses(rank, shares):
    return {(case, share): losses(sum(share[:rank]), sum(share[: rank + 1]), case) for case in CASES for share in shares}


@pytest.fixture(scope="module")
def of_one_and_of_two_ranks():
    return on_ranks(1, all_losses, [(ROWS,)])[0], on_ranks(2, all_losses, SHARES)[0]


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_every_plan_and_every_sharing_of_rows_gives_the_losses_of_one_rank(of_one_and_of_two_ranks, case):
    of_one, of_two = of_one_and_of_two_ranks

    assert of_one[case, (ROWS,)][-1] < 0.7 * of_one[case, (ROWS,)][0], "a model that does not learn proves nothing"
    for share in SHARES:
        assert of_two[case, share] == pytest.approx(of_one[case, (ROWS,)], rel=1e-4), share
