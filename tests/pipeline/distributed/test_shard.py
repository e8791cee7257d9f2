"""Law 4 for tables: whatever the plan and the ranks, the run is that of plain torch; what would break it is refused."""

import functools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as functional
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torchrec import EmbeddingBagCollection, EmbeddingCollection, KeyedJaggedTensor
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

import pipeline.distributed.shard
from data.errors import GenctrError
from pipeline.config.tables import InitConfig, TableConfig
from pipeline.distributed.shard import EVERYWHERE, Sharded, shard
from pipeline.training.collapse_monitor import tables_told
from tests.helpers import on_ranks

pytestmark = pytest.mark.filterwarnings("ignore:Please use DTensor:FutureWarning")  # DCP, of its own use of TorchRec's tensors

CPU = torch.device("cpu")
STEPS, HALF, ROWS = 6, 3, 12
MODES = {"user": "mean", "item": "sum", "tags": "sum"}
SIZES = {"users": (23, 8), "goods": (50, 8), "goods_linear": (50, 4), "events": (40, 8)}
READ_BY = {"users": ["user"], "goods": ["item", "tags"], "goods_linear": ["item", "tags"], "events": ["history"]}

# How tables learn. Every table has its own rate; `users` and `events` have no decay, `goods` has what is said here.
RULES: dict[str, dict[str, Any]] = {
    "sgd": {"optimizer": "sgd"},
    "adagrad": {"optimizer": "adagrad", "initial_accumulator": 1e-3},
    "rowwise_adagrad": {"optimizer": "rowwise_adagrad"},
    "rowwise_adagrad, begun": {"optimizer": "rowwise_adagrad", "initial_accumulator": 1e-3},
    "lazy_adam": {"optimizer": "lazy_adam"},
    "lazy_adam, decay": {"optimizer": "lazy_adam", "weight_decay": 0.1},
    "adam": {"optimizer": "adam"},
    "adam, decay of touched": {"optimizer": "adam", "weight_decay": 0.1},
    "adam, decay of table": {"optimizer": "adam", "weight_decay": 0.1, "weight_decay_rows": "table"},
}

DEFAULT = ("rowwise_adagrad", "lazy_adam, decay")
"""The rules that every plan is tried with by default; `lazy_adam, decay` is under the most plans."""

OTHERS = tuple(rule for rule in RULES if rule not in DEFAULT)


def plans_of(rule: str) -> tuple[str, ...]:
    return ("table_wise", "row_wise") if rule.startswith("rowwise_adagrad") else ("table_wise", "row_wise", "column_wise")


# Of two machines or more; here both ranks are on one. Unpooled tables cannot: theirs are row-wise.
HIERARCHICAL = [(rule, "table_row_wise") for rule in RULES] + [
    ("lazy_adam, decay", "table_column_wise"),
    ("lazy_adam, decay", "grid_shard"),
    ("adagrad", "grid_shard"),
    ("lazy_adam", "auto"),
]


def options_of(rule: str, plan: str) -> dict[str, TableConfig]:
    said = {"sharding": plan, "init": InitConfig(kind="uniform", scale=0.5), **RULES[rule]}
    undecayed = {**said, "weight_decay": 0.0, "weight_decay_rows": "touched"}
    return {
        "users": TableConfig(lr=0.1, **undecayed),
        "goods": TableConfig(lr=0.05, **said),
        "events": TableConfig(lr=0.02, **undecayed | ({} if plan in EVERYWHERE else {"sharding": "row_wise"})),
    }


class Net(nn.Module):
    """Pooled (mean, sum), first-order and unpooled look-ups under one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        meta = torch.device("meta")
        pools = {"users": PoolingType.MEAN, "goods": PoolingType.SUM, "goods_linear": PoolingType.SUM}
        self.bags = EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(name=name, num_embeddings=SIZES[name][0], embedding_dim=SIZES[name][1],
                                   feature_names=READ_BY[name], pooling=pool)
                for name, pool in pools.items()
            ],
            device=meta,
        )  # fmt: skip
        events = EmbeddingConfig(name="events", num_embeddings=40, embedding_dim=8, feature_names=READ_BY["events"])
        self.sequences = EmbeddingCollection(tables=[events], device=meta)
        self.dense = nn.Linear(32, 1)
        with torch.no_grad():
            self.dense.weight.copy_(torch.linspace(-1, 1, 32))
            self.dense.bias.fill_(0.1)

    def forward(self, bags: KeyedJaggedTensor, sequences: KeyedJaggedTensor) -> Tensor:
        looked, events = self.bags(bags), self.sequences(sequences)["history"]
        vectors = [looked[key] for key in ("user", "item@goods", "tags@goods")]
        linear = looked["item@goods_linear"][:, 0] + looked["tags@goods_linear"][:, 0]
        owner = torch.repeat_interleave(events.lengths())
        history = torch.zeros_like(vectors[0]).index_add(0, owner, events.values().square())
        return self.dense(torch.cat([*vectors, history], dim=1)).squeeze(1) + linear


@dataclass
class Rows:
    """Some rows of a step: per field a list of ids, and labels."""

    ids: dict[str, list[list[int]]]
    labels: Tensor

    def part(self, start: int, stop: int) -> "Rows":
        return Rows({name: ids[start:stop] for name, ids in self.ids.items()}, self.labels[start:stop])

    def jagged(self, *fields: str) -> KeyedJaggedTensor:
        bags = [bag for field in fields for bag in self.ids[field]]
        values = torch.tensor([value for bag in bags for value in bag], dtype=torch.int64)
        return KeyedJaggedTensor(list(fields), values, lengths=torch.tensor([len(bag) for bag in bags], dtype=torch.int64))


def step_rows(step: int) -> Rows:
    """A step's 12 rows. Small vocabularies, so that ids repeat in a bag and in the step; some bags are empty."""
    generator = torch.Generator().manual_seed(step)

    def bags(rows: int, longest: int) -> list[list[int]]:
        lengths = torch.randint(0, longest + 1, (ROWS,), generator=generator).tolist()
        return [torch.randint(0, rows, (length,), generator=generator).tolist() for length in lengths]

    ids = {"user": bags(23, 2), "item": bags(50, 1), "tags": bags(20, 4), "history": bags(40, 5)}
    return Rows(ids, torch.randint(0, 2, (ROWS,), generator=generator).float())


def my_rows(step: int) -> Rows:
    """This rank's rows: unequal parts, and none at all for rank 1 in step 4."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    edges = [0, ROWS] if ranks == 1 else [0, 7, ROWS] if step != 4 else [0, ROWS, ROWS]
    return step_rows(step).part(edges[rank], edges[rank + 1])


def scale_of(step: int) -> float:
    return 1 / (1 + step)


def whole_tables(sharded: Sharded) -> dict[str, Tensor]:
    """Every table, put together from all ranks."""
    mine = [
        (key.split(".")[-2], value.metadata().size, local.metadata.shard_offsets, local.tensor.clone())
        for key, value in sharded.model.state_dict().items()
        if isinstance(value, ShardedTensor)
        for local in value.local_shards()
    ]
    everyones: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyones, mine)
    tables: dict[str, Tensor] = {}
    for name, size, (top, left), part in (piece for pieces in everyones for piece in pieces):
        table = tables.setdefault(name, torch.full(tuple(size), torch.nan))
        table[top : top + part.shape[0], left : left + part.shape[1]] = part
    return tables


@dataclass
class Run:
    losses: list[float]
    tables: dict[str, Tensor]
    dense: Tensor


class Training:
    """A sharded Net and its optimizers, as a trainer would hold them."""

    def __init__(self, rule: str, plan: str) -> None:
        self.sharded = shard(Net(), tables=options_of(rule, plan), device=CPU, batch_rows=ROWS, seed=7)
        self.dense = KeyedOptimizerWrapper(self.sharded.dense_parameters, lambda dense: torch.optim.Adam(dense, lr=0.01))
        self.optimizer = CombinedOptimizer([("sparse", self.sharded.fused), ("dense", self.dense)])

    def states(self) -> dict[str, Any]:
        return {"model": self.sharded.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, folder: str) -> None:
        self.dense.init_state()
        states = self.states()
        dcp.load(states, checkpoint_id=folder)
        self.sharded.model.load_state_dict(states["model"])
        self.optimizer.load_state_dict(states["optimizer"])

    def run(self, start: int = 0, save_at_half: str | None = None) -> Run:
        losses = []
        for step in range(start, STEPS):
            if step == HALF and save_at_half:
                dcp.save(self.states(), checkpoint_id=save_at_half)
            rows = my_rows(step)
            self.sharded.set_lr(scale_of(step))
            self.optimizer.zero_grad()
            logits = self.sharded.model(rows.jagged("user", "item", "tags"), rows.jagged("history"))
            loss = functional.binary_cross_entropy_with_logits(logits, rows.labels, reduction="sum") / ROWS
            (loss * dist.get_world_size()).backward()
            self.optimizer.step()
            total = loss.detach().clone()
            dist.all_reduce(total)
            losses.append(float(total))
        return Run(losses, whole_tables(self.sharded), self.sharded.dense_parameters["dense.weight"].detach().clone())


def continued(rule: str, plan: str, folder: str) -> Run:
    training = Training(rule, plan)
    training.restore(folder)
    return training.run(start=HALF)


def auto_plans() -> list[str]:
    """Of a table of 80 bytes, with room for it and without."""
    found = []
    for memory in (1000, 90):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline.distributed.shard, "_memory", lambda device, memory=memory: memory)
            plan = events_only(optimizer="sgd").plan.get_plan_for_module("0")
            found.append(plan["events"].sharding_type)
    return found


def all_runs(
    rank: int, rules: tuple[str, ...], own: str, other: str | None
) -> tuple[dict[tuple[str, ...], Run], list[Tensor], list[str]]:
    """Rules under every plan: unbroken; continued half-way from the same plan; continued from another world and plan."""
    runs = {}
    for rule in rules:
        for plan in plans_of(rule):
            runs[rule, plan, "unbroken"] = Training(rule, plan).run(save_at_half=f"{own}/{rule}/{plan}")
        for place, plan in enumerate(plans_of(rule)):
            another = plans_of(rule)[place - 1]
            runs[rule, plan, "same plan"] = continued(rule, plan, f"{own}/{rule}/{plan}")
            if other:
                runs[rule, plan, "another"] = continued(rule, plan, f"{other}/{rule}/{another}")
    for rule, plan in [case for case in HIERARCHICAL if case[0] in rules and dist.get_world_size() > 1]:
        runs[rule, plan, "unbroken"] = Training(rule, plan).run(save_at_half=f"{own}/{rule}/{plan}")
        runs[rule, plan, "another"] = continued(rule, "row_wise", f"{own}/{rule}/{plan}")
    return runs if rank == 0 else {}, first_values(), auto_plans() if other else []


def from_another_world(rank: int, rules: tuple[str, ...], other: str) -> dict[tuple[str, ...], Run]:
    return {
        (rule, plan, "another"): continued(rule, plan, f"{other}/{rule}/{plans_of(rule)[place - 1]}")
        for rule in rules
        for place, plan in enumerate(plans_of(rule))
    }


@dataclass
class Worlds:
    runs: dict[int, dict[tuple[str, ...], Run]]
    first_values: list[Tensor]
    auto_plans: list[str]


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Worlds]:
    """All runs of a rule and its like, on one rank and on two; each world also continues what the other one saved."""

    @functools.cache
    def made(rules: tuple[str, ...]) -> Worlds:
        one, two = str(tmp_path_factory.mktemp("one")), str(tmp_path_factory.mktemp("two"))
        [(alone, values_alone, _)] = on_ranks(1, all_runs, rules, one, None)
        (together, values, plans), _ = on_ranks(2, all_runs, rules, two, one)
        alone |= on_ranks(1, from_another_world, rules, two)[0]
        return Worlds({1: alone, 2: together}, values_alone + values, plans)

    return lambda rule: made(DEFAULT if rule in DEFAULT else OTHERS)


def first_values() -> list[Tensor]:
    """A table of three blocks under three plans; the border between two ranks, row 75,000, lies inside one."""
    rows = 150_000
    tables = []
    for plan in ("table_wise", "row_wise", "column_wise"):
        config = EmbeddingConfig(name="events", num_embeddings=rows, embedding_dim=8, feature_names=["history"])
        model = EmbeddingCollection(tables=[config], device=torch.device("meta"))
        options = {"events": TableConfig(optimizer="sgd", sharding=plan, init=InitConfig(kind="normal", scale=2.0))}
        tables.append(whole_tables(shard(nn.Sequential(model), tables=options, device=CPU, batch_rows=1, seed=7))["events"])
    return tables


def plain_run(rule: str, first: Mapping[str, Tensor]) -> Run:
    """The same run in plain torch: whole tables, dense gradients, torch's own optimizers."""
    tables = {name: table.clone().requires_grad_() for name, table in first.items()}
    options = options_of(rule, "auto")
    options["goods_linear"] = options["goods"]
    movers = {name: Mover(table, options[name]) for name, table in tables.items()}
    dense = Net().dense
    adam = torch.optim.Adam(dense.parameters(), lr=0.01)
    losses = []
    for step in range(STEPS):
        rows = step_rows(step)
        looked = {field: pooled(rows, field, tables["users" if field == "user" else "goods"]) for field in MODES}
        history = rows.jagged("history")
        owner = torch.arange(ROWS).repeat_interleave(history.lengths())
        events = functional.embedding(history.values(), tables["events"]).square()
        vectors = [*looked.values(), torch.zeros(ROWS, 8).index_add(0, owner, events)]
        linear = sum(pooled(rows, field, tables["goods_linear"])[:, 0] for field in ("item", "tags"))
        logits = dense(torch.cat(vectors, dim=1)).squeeze(1) + linear
        loss = functional.binary_cross_entropy_with_logits(logits, rows.labels)
        adam.zero_grad()
        loss.backward()
        adam.step()
        for name, mover in movers.items():
            mover.move(rows.jagged(*READ_BY[name]).values().unique(), scale_of(step))
        losses.append(loss.item())
    return Run(losses, {name: table.detach() for name, table in tables.items()}, dense.weight.detach())


def pooled(rows: Rows, field: str, table: Tensor) -> Tensor:
    jagged = rows.jagged(field)
    return functional.embedding_bag(jagged.values(), table, jagged.offsets()[:-1], mode=MODES[field])


class Mover:
    """Moves one whole table as its options say."""

    def __init__(self, table: Tensor, options: TableConfig) -> None:
        self.table, self.options, self.sums, self.steps = (
            table,
            options,
            torch.full((len(table),), options.initial_accumulator),
            0,
        )
        whole_decay = options.weight_decay if options.weight_decay_rows == "table" else 0.0
        self.torch = {
            "sgd": lambda: torch.optim.SGD([table]),
            "adagrad": lambda: torch.optim.Adagrad(
                [table], eps=options.eps, initial_accumulator_value=options.initial_accumulator
            ),
            "rowwise_adagrad": lambda: None,
            "lazy_adam": lambda: torch.optim.SparseAdam([table], eps=options.eps),
            "adam": lambda: torch.optim.Adam([table], eps=options.eps, weight_decay=whole_decay),
        }[options.optimizer]()

    def move(self, touched: Tensor, scale: float) -> None:
        table, options, lr = self.table, self.options, self.options.lr * scale
        self.steps += 1
        with torch.no_grad(), torch.sparse.check_sparse_tensor_invariants():
            if options.optimizer == "lazy_adam":
                # SparseAdam adds eps to the root before it corrects the bias, FBGEMM (and torch's Adam) after.
                self.torch.param_groups[0]["eps"] = options.eps * (1 - options.beta2**self.steps) ** 0.5
                table[touched] *= 1 - lr * options.weight_decay
                table.grad = torch.sparse_coo_tensor(touched[None], table.grad[touched], table.shape)
            elif options.optimizer == "adam" and options.weight_decay_rows == "touched":
                table.grad[touched] += options.weight_decay * table[touched]
            elif options.optimizer == "rowwise_adagrad":
                self.sums += table.grad.square().mean(1)
                table -= lr * table.grad / (self.sums.sqrt() + options.eps)[:, None]
            if self.torch:
                self.torch.param_groups[0]["lr"] = lr
                self.torch.step()
        table.grad = None


def assert_same(run: Run, expected: Run, tolerance: float) -> None:
    length = len(run.losses)
    torch.testing.assert_close(run.losses, expected.losses[-length:], rtol=0, atol=tolerance)
    torch.testing.assert_close(run.tables, expected.tables, rtol=0, atol=tolerance)
    torch.testing.assert_close(run.dense, expected.dense, rtol=0, atol=tolerance)


def first_tables(rank: int) -> dict[str, Tensor]:
    return whole_tables(Training("sgd", "table_wise").sharded)


@pytest.fixture(scope="module")
def plain() -> dict[str, Run]:
    [first] = on_ranks(1, first_tables)
    return {rule: plain_run(rule, first) for rule in RULES}


CASES = [(ranks, rule, plan) for ranks in (1, 2) for rule in RULES for plan in plans_of(rule)]
CASES, ALL = (
    [case if case[1] in DEFAULT else pytest.param(*case, marks=pytest.mark.slow) for case in cases]
    for cases in (CASES, CASES + [(2, rule, plan) for rule, plan in HIERARCHICAL])
)


@pytest.mark.parametrize(("ranks", "rule", "plan"), ALL)
def test_a_run_is_that_of_plain_torch_on_any_ranks_under_any_plan(
    worlds: Callable[[str], Worlds], plain: dict[str, Run], ranks: int, rule: str, plan: str
) -> None:
    assert_same(worlds(rule).runs[ranks][rule, plan, "unbroken"], plain[rule], 2e-6)


@pytest.mark.parametrize(("ranks", "rule", "plan"), CASES)
def test_a_run_continued_under_the_same_plan_is_the_unbroken_one_bit_for_bit(
    worlds: Callable[[str], Worlds], ranks: int, rule: str, plan: str
) -> None:
    assert_same(worlds(rule).runs[ranks][rule, plan, "same plan"], worlds(rule).runs[ranks][rule, plan, "unbroken"], 0.0)


@pytest.mark.parametrize(("ranks", "rule", "plan"), ALL)
def test_a_run_continues_from_another_plan_and_another_number_of_ranks(
    worlds: Callable[[str], Worlds], ranks: int, rule: str, plan: str
) -> None:
    assert_same(worlds(rule).runs[ranks][rule, plan, "another"], worlds(rule).runs[ranks][rule, plan, "unbroken"], 1e-6)


def test_the_rules_tell_themselves_apart(plain: dict[str, Run]) -> None:
    """Or the equalities above would hold for a decay or an optimizer that does nothing."""
    ends = [run.tables["goods"] for run in plain.values()]

    for place, end in enumerate(ends):
        assert all((end - another).abs().max() > 1e-4 for another in ends[:place])


def test_first_values_depend_on_neither_plan_nor_ranks(worlds: Callable[[str], Worlds]) -> None:
    tables = worlds(DEFAULT[0]).first_values

    assert len(tables) == 6
    assert all(torch.equal(table, tables[0]) for table in tables)
    assert tables[0].mean().abs() < 0.01
    assert (tables[0].std() - 2).abs() < 0.01
    assert not torch.equal(tables[0][:1000], tables[0][65_536:66_536])


def events_only(**said: Any) -> Sharded:
    config = EmbeddingConfig(name="events", num_embeddings=5, embedding_dim=4, feature_names=["history"])
    model = nn.Sequential(EmbeddingCollection(tables=[config], device=torch.device("meta")))
    return shard(model, tables={"events": TableConfig(**said)}, device=CPU, batch_rows=1, seed=7)


def test_auto_splits_a_table_on_cpu_only_if_it_does_not_fit_whole(worlds: Callable[[str], Worlds]) -> None:
    assert worlds(DEFAULT[0]).auto_plans == ["table_wise", "row_wise"]


def moves_under_sgd(rank: int) -> list[float]:
    sharded = events_only(optimizer="sgd", lr=0.5)
    moves = []
    for scale in (1.0, 0.1, 0.1):
        sharded.set_lr(scale)
        before = whole_tables(sharded)["events"]
        looked = sharded.model(KeyedJaggedTensor(["history"], torch.tensor([3]), lengths=torch.tensor([1])))
        (2 * looked["history"].values()).sum().backward()
        moves.append((before - whole_tables(sharded)["events"])[3, 0].item())
    return moves


def test_set_lr_scales_the_own_rate_and_not_the_last_one() -> None:
    [moves] = on_ranks(1, moves_under_sgd)

    torch.testing.assert_close(moves, [1.0, 0.1, 0.1])  # .5 x 1 x gradient 2, .5 x .1 x 2, again


def read_row(sharded: Sharded) -> float:
    """The first number of row 3, as look-ups see it."""
    [table] = sharded.tables()
    [shard] = table.shards
    return sharded.rows_as_read("events", shard.values[3:4], torch.tensor([3]))[0, 0].item()


def first_moves(rank: int, optimizer: str, precision: str) -> tuple[list[float], float]:
    """How far the first look-up moves a row, by gradients of .002 and of 2, with a sum of 1 to begin with; and the
    share of moved rows."""
    found = []
    for gradient in (0.002, 2.0):
        sharded = events_only(optimizer=optimizer, precision=precision, lr=0.5, initial_accumulator=1.0, eps=1e-12)
        before = read_row(sharded)
        looked = sharded.model(KeyedJaggedTensor(["history"], torch.tensor([3]), lengths=torch.tensor([1])))
        (gradient * looked["history"].values()).sum().backward()
        found.append(before - read_row(sharded))
    return found, tables_told(sharded)["events"]["moved"] * 5


@pytest.mark.parametrize(
    ("optimizer", "precision"), [("rowwise_adagrad", "fp32"), ("adagrad", "fp32"), ("rowwise_adagrad", "fp16")]
)
def test_a_sum_to_begin_with_makes_first_steps_as_small_as_their_gradients(optimizer: str, precision: str) -> None:
    [(moves, moved)] = on_ranks(1, first_moves, optimizer, precision)

    expected = [0.5 * 0.002 / (1 + 0.002**2) ** 0.5, 0.5 * 2 / (1 + 4) ** 0.5]
    assert moves == pytest.approx(expected, rel=1e-4 if precision == "fp32" else 0.3)
    assert moved == pytest.approx(1), "and only what was looked up has moved"


def refusal(rank: int, said: dict[str, Any]) -> str:
    with pytest.raises(GenctrError) as refused:
        events_only(**said)
    return str(refused.value)


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            {"optimizer": "lazy_adam", "weight_decay": 0.1, "weight_decay_rows": "table"},
            "set weight_decay_rows to touched, or optimizer to adam",
        ),
        ({"optimizer": "sgd", "weight_decay": 0.1}, "sgd has no weight decay"),
        ({"optimizer": "adagrad", "weight_decay": 0.1}, "adagrad has no weight decay"),
        ({"optimizer": "rowwise_adagrad", "weight_decay": 0.1}, "ignores weight decay on CPU"),
        ({"optimizer": "rowwise_adagrad", "sharding": "column_wise"}, "set sharding to row_wise"),
        (
            {"optimizer": "lazy_adam", "initial_accumulator": 0.1},
            "sums no squared gradients",
        ),
        ({"optimizer": "sgd", "sharding": "grid_shard"}, "choose from table_wise, row_wise, column_wise"),
    ],
)
def test_what_would_be_ignored_or_change_with_the_plan_is_refused(said: dict[str, Any], sentence: str) -> None:
    [message] = on_ranks(1, refusal, said)

    assert message.startswith("table 'events': ")
    assert sentence in message


def without_settings(rank: int) -> str:
    with pytest.raises(GenctrError) as refused:
        shard(Net(), tables={"users": TableConfig()}, device=CPU, batch_rows=1, seed=7)
    return str(refused.value)


def test_a_table_without_settings_is_named() -> None:
    assert on_ranks(1, without_settings) == ["table 'goods' has no settings\n  expected: one of ['users']"]


def too_large(rank: int, memory: int, optimizer: str, precision: str = "fp32") -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.distributed.shard, "_memory", lambda device: memory)
        try:
            events_only(optimizer=optimizer, precision=precision)
        except GenctrError as error:
            return str(error)
    return ""


def test_tables_that_do_not_fit_into_memory_are_refused_with_their_moments_counted() -> None:
    """5 rows x 4 columns x 4 bytes are 80 bytes, Adam's moments 160 more; the planner adds 24 for the batch."""
    assert on_ranks(1, too_large, 150, "sgd") == [""]
    [message] = on_ranks(1, too_large, 150, "lazy_adam")

    assert message.startswith("the tables cannot be spread over 1 ranks")


def test_the_moment_of_a_half_row_is_counted_whole() -> None:
    """40 bytes of numbers, 20 of moments; the planner adds 24 for the batch, an id and a vector of four fp32 numbers."""
    assert on_ranks(1, too_large, 84, "rowwise_adagrad", "fp16") == [""]
    [message] = on_ranks(1, too_large, 83, "rowwise_adagrad", "fp16")

    assert message.startswith("the tables cannot be spread over 1 ranks")


def warned(rank: int) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        events_only(optimizer="lazy_adam")
    return [str(warning.message) for warning in caught]


def test_sharding_says_nothing() -> None:
    assert on_ranks(1, warned) == [[]]
