"""A checkpoint is whole or absent, gives back the bits that were saved, and never runs what a file says."""

import enum
import errno
import hashlib
import io
import json
import logging
import os
import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import IO, Any

import pytest
import torch
import torch.distributed as dist
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from iopath.common.file_io import PathHandler
from torch import Tensor, nn
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharded_tensor.api import ShardedTensor
from torch.distributed._shard.sharded_tensor.shard import Shard
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingType
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

import pipeline.checkpoint.dcp
import pipeline.checkpoint.manager
from data.paths import PATHS, filesystem
from data.seal import sealed
from pipeline.checkpoint.dcp import PIECE_BYTES, Reader
from pipeline.checkpoint.errors import CheckpointError, Damaged
from pipeline.checkpoint.manager import Checkpoints
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.distributed.cpu_fp16 import untouched
from pipeline.distributed.world import PATIENCE
from tests.helpers import SERVER

pytestmark = pytest.mark.usefixtures("world_of_one")


def joined(rank: int, ranks: int, store: str, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    work(*arguments)
    dist.destroy_process_group()


def started(ranks: int, store: Path, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """One process a rank, running `work` in a gloo world of their own. They end with pytest, however it ends."""
    processes = [
        SERVER.Process(target=joined, args=(rank, ranks, str(store), work, arguments), daemon=True) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def kill(processes: list[Any]) -> None:
    for process in processes:
        os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.join()


def run(ranks: int, store: Path, work: Callable[..., None], *arguments: Any) -> None:
    processes = started(ranks, store, work, *arguments)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * ranks


# What is saved is what comes back.


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Every leaf of nested state dicts; of a sharded tensor, a copy of this rank's shards."""
    if isinstance(value, dict):
        return {name: leaf for key, part in value.items() for name, leaf in leaves(part, f"{path}/{key}").items()}
    if isinstance(value, ShardedTensor):
        return {f"{path}@{s.metadata.shard_offsets}": s.tensor.detach().clone() for s in value.local_shards()}
    return {path: value.detach().clone() if isinstance(value, Tensor) else value}


def assert_same_bits(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert given.keys() == expected.keys()
    for name, leaf in expected.items():
        assert torch.equal(given[name], leaf) if isinstance(leaf, Tensor) else given[name] == leaf, name


class RowWiseToo(EmbeddingBagCollectionSharder):
    """The stock sharder leaves row-wise out on CPU."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return [kind.value for kind in ShardingType]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(name=f"t{i}", embedding_dim=8, num_embeddings=51 + i, feature_names=[f"f{i}"]) for i in range(2)
        ]
        self.tables = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.over = nn.Linear(16, 1)

    def forward(self, bags: KeyedJaggedTensor) -> Tensor:
        looked_up = self.tables(bags)
        scores: Tensor = self.over(torch.cat([looked_up["f0"], looked_up["f1"]], 1))
        return scores.square().sum()


class SmallRun:
    """Two sharded tables, row-wise and table-wise, row-wise Adagrad; a dense layer on top, Adam."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        net = Net()
        sharders = [RowWiseToo(fused_params={"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.1})]
        ranks = dist.get_world_size()
        plan = EmbeddingShardingPlanner(
            topology=Topology(world_size=ranks, local_world_size=ranks, compute_device="cpu"),
            constraints={
                "t0": ParameterConstraints(sharding_types=["row_wise"], compute_kernels=["fused"]),
                "t1": ParameterConstraints(sharding_types=["table_wise"], compute_kernels=["fused"]),
            },
        ).plan(net, sharders)
        self.model = DistributedModelParallel(net, device=torch.device("cpu"), plan=plan, sharders=sharders)
        trained = dict(in_backward_optimizer_filter(self.model.named_parameters()))
        dense = KeyedOptimizerWrapper(trained, lambda parameters: torch.optim.Adam(parameters, lr=0.01))
        dense.init_state()
        self.optimizer = CombinedOptimizer([("sparse", self.model.fused_optimizer), ("dense", dense)])

    def train(self, steps: int) -> None:
        for _ in range(steps):
            bags = KeyedJaggedTensor.from_lengths_sync(
                keys=["f0", "f1"], values=torch.randint(51, (32,)), lengths=torch.ones(32, dtype=torch.int64)
            )
            self.optimizer.zero_grad()
            self.model(bags).backward()
            self.optimizer.step()

    def state(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}


def train_save_train_restore(folder: str, asynchronous: bool, in_pieces: bool = False) -> None:
    if in_pieces:  # this process is ours alone
        pipeline.checkpoint.dcp.PIECE_BYTES = 640  # twenty rows of t0 and t1
        pipeline.checkpoint.dcp.PAGE_BYTES = 2
    first = SmallRun(seed=dist.get_rank())
    first.train(3)
    saved = leaves(first.state())
    checkpoints = Checkpoints(folder, keep=1, asynchronous=asynchronous)

    mark = checkpoints.save(3, tensors=first.state(), meta={"cursor": {"day": "2026-11-01", "row": 96}})
    first.train(3)  # while the former state is being written
    checkpoints.wait()

    with pytest.raises(AssertionError):
        assert_same_bits(leaves(first.state()), saved)  # training did change what it trained
    second = SmallRun(seed=99 + dist.get_rank())
    tensors = second.state()
    assert checkpoints.restore(mark, tensors) == {"cursor": {"day": "2026-11-01", "row": 96}, "step": 3}
    assert_same_bits(leaves(tensors), saved)
    second.model.load_state_dict(tensors["model"])
    second.optimizer.load_state_dict(tensors["optimizer"])
    assert_same_bits(leaves(second.state()), saved)
    dist.barrier()


def restore_on_one_rank(folder: str) -> None:
    checkpoints = Checkpoints(folder, keep=1, asynchronous=False)
    mark = str(checkpoints.latest())
    resharded = SmallRun(seed=5).state()
    checkpoints.restore(mark, resharded)
    # The tables as plain tensors, the way export reads them.
    whole = {"model": {f"tables.embedding_bags.t{i}.weight": torch.zeros(51 + i, 8) for i in range(2)}}
    whole["model"] |= {"over.weight": torch.zeros(1, 16), "over.bias": torch.zeros(1)}
    checkpoints.restore(mark, whole)
    given = {name.split("@")[0]: leaf for name, leaf in leaves(resharded["model"]).items()}
    assert_same_bits(given, leaves(whole["model"]))
    assert whole["model"]["tables.embedding_bags.t0.weight"].abs().sum(1).all()  # every row was read


@pytest.mark.parametrize(
    ("ranks", "asynchronous", "in_pieces"),
    [
        case if case in {(1, True, True), (2, False, True), (2, True, False)} else pytest.param(*case, marks=pytest.mark.slow)
        for case in product([1, 2], [False, True], [False, True])
    ],
)
def test_the_bits_that_were_saved_come_back_though_training_went_on(
    tmp_path: Path, ranks: int, asynchronous: bool, in_pieces: bool
) -> None:
    run(ranks, tmp_path / "store", train_save_train_restore, str(tmp_path / "run"), asynchronous, in_pieces)


@pytest.mark.parametrize("in_pieces", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_checkpoint_of_two_ranks_loads_on_one_and_into_plain_tensors(tmp_path: Path, in_pieces: bool) -> None:
    run(2, tmp_path / "two", train_save_train_restore, str(tmp_path / "run"), False, in_pieces)
    run(1, tmp_path / "one", restore_on_one_rank, str(tmp_path / "run"))


# Tables of any size.


def table_of(rows: Tensor) -> dict[str, Any]:
    return {
        "model": {"table": sharded_tensor.init_from_local_shards([Shard.from_tensor_and_offsets(rows, [0, 0], 0)], rows.shape)}
    }


def taken() -> int:
    """[bytes] of memory this process takes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_table_is_written_and_read_in_pieces_and_what_is_zero_takes_no_memory(tmp_path: Path) -> None:
    """A table of 400 MB of which 100 MB are not zero."""
    before = untouched(200_000_000, torch.half).view(-1, 4)
    before[10_000_000:22_500_000] = 1
    after = untouched(200_000_000, torch.half).view(-1, 4)
    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=False)
    mark = checkpoints.save(1, tensors=table_of(before), meta={})
    since = taken()

    checkpoints.restore(mark, table_of(after))

    assert taken() - since < 100e6 + 2 * PIECE_BYTES + 20e6
    assert after[10_000_000:22_500_000].eq(1).all()
    assert not after[:10_000_000].any()
    assert not after[22_500_000:].any()
    metadata = Reader(f"{tmp_path}/{mark}").read_metadata()
    assert len(metadata.state_dict_metadata["model.table"].chunks) == 6  # of 67 MB at most


def test_what_was_there_gives_way_to_zeros_of_the_checkpoint(tmp_path: Path) -> None:
    zeros, ones = torch.zeros(300_000, 4), torch.ones(300_000, 4)
    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=False)
    checkpoints.restore(checkpoints.save(1, tensors=table_of(zeros), meta={}), table_of(ones))

    assert not ones.any()


def test_where_a_copy_does_not_fit_training_waits_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The copy: 1 GiB of zeros, which is not to take more than half of what is free."""
    table = untouched(2**29, torch.half).view(-1, 4)
    copied = []
    monkeypatch.setattr(pipeline.checkpoint.manager, "dcp_save", lambda tensors, **_: copied.append(False))
    monkeypatch.setattr(pipeline.checkpoint.manager, "dcp_async_save", lambda tensors, **_: copied.append(True))
    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=True)
    for free in (1.9, 1.9, 2.1):
        checkpoints._running = None
        monkeypatch.setattr(pipeline.checkpoint.manager, "free_memory", lambda free=free: free * 2**30)
        checkpoints.save(1, tensors=table_of(table), meta={})
    checkpoints._running = None

    assert copied == [False, False, True]
    assert capsys.readouterr().err == (
        "genctr: training waits for every save: to go on it would copy 1.0 GiB on a machine, and 1.9 GiB are free\n"
    )


# Killed at any moment.


def state_of(step: int) -> dict[str, Any]:
    """A megabyte a rank that says which step it is, sharded and plain."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    rows = torch.full((1000, 125), float(step))
    shard = Shard.from_tensor_and_offsets(rows, [1000 * rank, 0], rank)
    table = sharded_tensor.init_from_local_shards([shard], [1000 * ranks, 125])
    return {"model": {"table": table, "dense": torch.full((1000, 125), float(step))}, "optimizer": {"lr": step}}


def save_until_killed(folder: str, asynchronous: bool) -> None:
    checkpoints = Checkpoints(folder, keep=1, asynchronous=asynchronous)
    newest = checkpoints.latest()
    step = checkpoints.read_meta(newest)["step"] if newest else 0
    while True:
        step += 1
        checkpoints.save(step, tensors=state_of(step), meta={"cursor": step})


@pytest.mark.parametrize(
    ("ranks", "asynchronous"),
    [pytest.param(1, False, marks=pytest.mark.slow), (1, True), pytest.param(2, True, marks=pytest.mark.slow)],
)
def test_a_kill_at_any_moment_leaves_the_former_or_the_new_checkpoint_whole(
    tmp_path: Path, ranks: int, asynchronous: bool
) -> None:
    reader, chance, last = Checkpoints(str(tmp_path / "run"), keep=1, asynchronous=False), random.Random(ranks), 0
    for attempt in range(6):
        processes = started(ranks, tmp_path / f"store{attempt}", save_until_killed, str(tmp_path / "run"), asynchronous)
        try:
            while (newest := reader.latest()) is None or newest <= f"step-{last:07d}":
                assert all(process.is_alive() for process in processes)
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
        finally:
            kill(processes)

        mark = reader.latest()
        assert mark is not None
        step = reader.read_meta(mark)["step"]
        wanted = {"table": torch.zeros(1000 * ranks, 125), "dense": torch.zeros(1000, 125)}
        tensors = {"model": wanted, "optimizer": {"lr": 0}}
        assert reader.restore(mark, tensors) == {"cursor": step, "step": step}
        assert all((tensor == step).all() for tensor in wanted.values())
        assert tensors["optimizer"] == {"lr": step}
        assert step > last
        last = step


# Keeping and pinning.


def small(value: float = 1.0) -> dict[str, Any]:
    return {"model": {"weight": torch.full((2, 3), value), "bias": torch.full((2,), value)}, "optimizer": {"lr": 0.5}}


def saved(folder: Path, steps: int = 1, keep: int = 3) -> Checkpoints:
    checkpoints = Checkpoints(str(folder), keep=keep, asynchronous=False)
    for step in range(1, steps + 1):
        checkpoints.save(step, tensors=small(step), meta={})
    return checkpoints


def test_the_newest_are_kept_and_the_pinned(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=2, asynchronous=True)
    for step, pin in [(1, None), (2, "best"), (3, None), (4, None), (5, None)]:
        checkpoints.save(step, tensors=small(step), meta={}, pin=pin)

    assert checkpoints.marks() == ["step-0000002", "step-0000004", "step-0000005"]
    assert checkpoints.pinned("best") == "step-0000002"
    assert checkpoints.pinned("worst") is None
    tensors = small(0)
    checkpoints.restore("step-0000002", tensors)
    assert (tensors["model"]["weight"] == 2).all()

    checkpoints.save(6, tensors=small(6), meta={}, pin="best")
    assert checkpoints.marks() == ["step-0000005", "step-0000006"]
    assert sorted(os.listdir(tmp_path)) == ["best.json", "step-0000005", "step-0000006"]


def test_a_save_that_was_killed_before_it_had_pinned_is_pinned(tmp_path: Path) -> None:
    saved(tmp_path).save(2, tensors=small(), meta={}, pin="best")
    (tmp_path / "best.json").unlink()  # what a kill leaves once the checkpoint is whole

    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=False)
    assert checkpoints.pinned("best") == "step-0000002"
    for step in (3, 4):
        checkpoints.save(step, tensors=small(), meta={})
        assert checkpoints.pins() == {"best": "step-0000002"}
    assert checkpoints.marks() == ["step-0000002", "step-0000004"]
    checkpoints.unpin(["best"])
    assert checkpoints.pins() == {}


def test_saving_a_step_again_never_touches_the_checkpoint_that_is_there(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, steps=1, keep=1)

    assert checkpoints.save(1, tensors=small(7), meta={"day": "done"}) == "step-0000001-2"
    assert checkpoints.latest() == "step-0000001-2"
    assert checkpoints.save(1, tensors=small(8), meta={}) == "step-0000001-3"
    assert checkpoints.marks() == ["step-0000001-3"]


def test_steps_are_ordered_by_number_when_they_outgrow_their_digits(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=3, asynchronous=False)
    for step in (9_999_999, 10_000_000, 100_000_000):
        checkpoints.save(step, tensors=small(), meta={})

    assert [checkpoints.read_meta(mark)["step"] for mark in checkpoints.marks()] == [9_999_999, 10_000_000, 100_000_000]


def test_a_half_written_folder_is_no_checkpoint_and_is_gone_after_the_next_save(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, steps=1)
    (tmp_path / "step-0000002").mkdir()
    (tmp_path / "step-0000002" / "__0_0.distcp").write_bytes(b"half")

    assert checkpoints.latest() == "step-0000001"
    checkpoints.save(2, tensors=small(2), meta={})
    assert checkpoints.marks() == ["step-0000001", "step-0000002"]
    tensors = small(0)
    checkpoints.restore("step-0000002", tensors)
    assert (tensors["model"]["bias"] == 2).all()


def test_a_run_that_has_not_begun_has_no_checkpoint(tmp_path: Path) -> None:
    assert Checkpoints(str(tmp_path / "new"), keep=1, asynchronous=False).latest() is None


def test_what_is_not_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path, steps=1)

    with pytest.raises(TypeError, match="not JSON serializable"):
        checkpoints.save(2, tensors=small(), meta={"cursor": object()})
    assert os.listdir(tmp_path) == ["step-0000001"]


# A company's own store, and a store that is full.


class Vault(PathHandler):
    """A store with a prefix of its own, and nothing but what iopath asks for."""

    def __init__(self, prefix: str, folder: Path) -> None:
        super().__init__()
        self.prefix, self.folder, self.full = prefix, folder, threading.Event()

    def _get_supported_prefixes(self) -> list[str]:
        return [self.prefix]

    def _at(self, path: str) -> Path:
        return self.folder / path.removeprefix(self.prefix)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **_: Any) -> IO[Any]:
        full = self.full.is_set() and "w" in mode and path.endswith(".distcp")
        return open("/dev/full" if full else self._at(path), mode)

    def _exists(self, path: str, **_: Any) -> bool:
        return self._at(path).exists()

    def _ls(self, path: str, **_: Any) -> list[str]:
        return os.listdir(self._at(path))

    def _mkdirs(self, path: str, **_: Any) -> None:
        self._at(path).mkdir(parents=True, exist_ok=True)

    def _rm(self, path: str, **_: Any) -> None:
        self._at(path).unlink()

    def _copy(self, src_path: str, dst_path: str, overwrite: bool = False, **_: Any) -> bool:
        self._at(dst_path).write_bytes(self._at(src_path).read_bytes())
        return True


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    handler = Vault(f"vault-{tmp_path.name}://", tmp_path)
    PATHS.register_handler(handler)
    return handler


def test_checkpoints_live_in_any_store_that_is_registered(vault: Vault) -> None:
    checkpoints = Checkpoints(f"{vault.prefix}run/", keep=1, asynchronous=True)
    for step in (1, 2):
        checkpoints.save(step, tensors=small(step), meta={"cursor": step}, pin="best")

    tensors = small(0)
    assert checkpoints.restore(str(checkpoints.pinned("best")), tensors) == {"cursor": 2, "step": 2}
    assert (tensors["model"]["weight"] == 2).all()
    assert checkpoints.marks() == ["step-0000002"]
    assert sorted(os.listdir(vault.folder / "run" / "step-0000002")) == [".metadata", "__0_0.distcp", "checkpoint.json"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty bucket of a local S3 server."""
    moto = pytest.importorskip("moto.server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    files, _ = filesystem("s3://runs?allow_bucket_creation=true")
    files.create_dir("runs")
    yield "s3://runs"
    server.stop()


def test_checkpoints_live_in_s3(bucket: str) -> None:
    checkpoints = Checkpoints(f"{bucket}/feed/checkpoints", keep=1, asynchronous=True)
    for step in (1, 2, 3):
        checkpoints.save(step, tensors=small(step), meta={"cursor": step}, pin="best" if step == 2 else None)

    assert checkpoints.marks() == ["step-0000002", "step-0000003"]
    assert sorted(PATHS.ls(f"{bucket}/feed/checkpoints")) == ["best.json", "step-0000002", "step-0000003"]
    tensors = small(0)
    assert checkpoints.restore(str(checkpoints.pinned("best")), tensors) == {"cursor": 2, "step": 2}
    assert (tensors["model"]["weight"] == 2).all()


def test_a_file_uri_is_a_folder_whatever_its_name(tmp_path: Path) -> None:
    uri = (tmp_path / "run of 7 %").as_uri()

    Checkpoints(uri, keep=1, asynchronous=False).save(1, tensors=small(), meta={})

    assert os.listdir(tmp_path / "run of 7 %") == ["step-0000001"]


def save_and_wait(checkpoints: Checkpoints, step: int, size: int = 6) -> None:
    checkpoints.save(step, tensors={"model": torch.full((size,), float(step))}, meta={})
    checkpoints.wait()


@pytest.mark.parametrize("size", [6, 1_000_000])  # the disk is full when the file is closed; amid a tensor
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_full_disk_is_told_and_the_former_checkpoint_stays(vault: Vault, asynchronous: bool, size: int) -> None:
    checkpoints = Checkpoints(f"{vault.prefix}run", keep=1, asynchronous=asynchronous)
    save_and_wait(checkpoints, 1)

    vault.full.set()
    with pytest.raises(CheckpointError, match=r"step-0000002 could not be saved: the disk is full\n(.|\n)*next: make room"):
        save_and_wait(checkpoints, 2, size)
    vault.full.clear()

    assert checkpoints.marks() == ["step-0000001"]
    assert not any(name.endswith(".distcp") for _, _, files in os.walk(vault.folder / "run/step-0000002") for name in files)
    checkpoints.save(3, tensors=small(3), meta={})
    assert checkpoints.marks() == ["step-0000003"]


def test_the_error_of_a_save_in_the_background_is_raised_by_the_next_call_whichever_it_is(vault: Vault) -> None:
    calls: list[Callable[[Checkpoints], Any]] = [
        lambda checkpoints: checkpoints.save(3, tensors=small(), meta={}),
        lambda checkpoints: checkpoints.latest(),
        lambda checkpoints: checkpoints.pinned("best"),
        lambda checkpoints: checkpoints.read_meta("step-0000001"),
    ]
    for call in calls:
        checkpoints = Checkpoints(f"{vault.prefix}run", keep=1, asynchronous=True)
        save_and_wait(checkpoints, 1)
        vault.full.set()
        checkpoints.save(2, tensors=small(), meta={})
        with pytest.raises(CheckpointError, match="the disk is full"):
            call(checkpoints)
        vault.full.clear()


def fill_the_disk_of_rank_1(folder: str) -> None:
    checkpoints = Checkpoints(folder, keep=1, asynchronous=True)
    checkpoints.save(1, tensors=state_of(1), meta={})
    checkpoints.wait()
    if dist.get_rank() == 1:

        def full(path: str, mode: str) -> IO[Any]:
            raise OSError(errno.ENOSPC, "No space left on device")

        PATHS.open = full
    checkpoints.save(2, tensors=state_of(2), meta={})
    with pytest.raises(CheckpointError, match=r"the disk is full\n.*written by rank 1"):
        checkpoints.wait()
    assert checkpoints.marks() == ["step-0000001"]


def test_every_rank_hears_of_the_full_disk_of_one(tmp_path: Path) -> None:
    run(2, tmp_path / "store", fill_the_disk_of_rank_1, str(tmp_path / "run"))
    assert os.listdir(tmp_path / "run") == ["step-0000001"]


# What cannot be read.


def test_a_rank_waits_for_a_slow_save_of_another_as_long_as_for_anything(tmp_path: Path) -> None:
    group = Checkpoints(str(tmp_path), keep=1, asynchronous=True)._group

    assert group is not None
    assert group._get_backend(torch.device("cpu")).options._timeout == PATIENCE


def test_a_run_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    checkpoints = Checkpoints(str(tmp_path / "run"), keep=1, asynchronous=False)

    with pytest.raises(CheckpointError, match=f"cannot be read: .*\n  where: {tmp_path}/run\n  next: give the run a folder"):
        checkpoints.latest()
    with pytest.raises(CheckpointError, match=r"cannot be (read|written)"):
        checkpoints.save(1, tensors=small(), meta={})


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    other: dict[str, Any] = {"model": {"weight": torch.zeros(2, 4), "gamma": torch.zeros(1)}, "optimizer": {"lr": 1.0}}

    with pytest.raises(CheckpointError) as told:
        checkpoints.restore("step-0000001", other)

    assert str(told.value).splitlines() == [
        "checkpoint step-0000001 is of another model",
        "  the model has, the checkpoint does not: 1",
        "    model.gamma",
        "  the checkpoint has, the model does not: 1",
        "    model.bias",
        "  another size: 1",
        "    model.weight: model [2, 4], checkpoint [2, 3]",
        f"  where: {tmp_path}/step-0000001",
        "  next: train with the schema, model and tables this run began with, or name a new run folder",
    ]
    assert not other["model"]["weight"].any()  # nothing was loaded


def test_of_many_differences_the_first_few_are_shown(tmp_path: Path) -> None:
    many = {"model": {**small()["model"], **{f"extra{i}": torch.zeros(1) for i in range(9)}}}

    with pytest.raises(CheckpointError, match=r"does not: 9\n    model.extra0\n(.*\n)*    … and 4 more"):
        saved(tmp_path).restore("step-0000001", many)


def test_only_the_parts_that_are_asked_for_are_read(tmp_path: Path) -> None:
    tensors = {"model": small(0)["model"]}

    saved(tmp_path).restore("step-0000001", tensors)

    assert (tensors["model"]["weight"] == 1).all()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def flip(file: Path, at: int) -> None:
    """Flip the lowest bit of one byte."""
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(bytes(content))


ONES = small(1)["model"]["weight"].numpy().tobytes()


def last(folder: Path, numbers: bytes) -> int:
    """Where the last byte of these numbers is in the folder's one file of tensors."""
    return (folder / "__0_0.distcp").read_bytes().index(numbers) + len(numbers) - 1


def test_no_flipped_bit_of_a_checkpoint_gives_other_numbers(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    folder, good = tmp_path / "step-0000001", small()
    checkpoints.restore("step-0000001", good)
    for file in ("__0_0.distcp", ".metadata", "checkpoint.json"):
        content = (folder / file).read_bytes()
        for at in range(0, len(content), 17):
            flip(folder / file, at)
            tensors = small()
            with suppress(Damaged):
                checkpoints.restore("step-0000001", tensors)
                assert_same_bits(leaves(tensors), leaves(good))
            (folder / file).write_bytes(content)


def test_what_is_damaged_is_set_aside_and_is_no_checkpoint_any_more(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=5, asynchronous=False)
    for step in (1, 2, 3):
        save_and_wait(checkpoints, step)
    checkpoints.pin("best", "step-0000003")
    checkpoints.pin("day", "step-0000001")
    flip(tmp_path / "step-0000003" / ".metadata", 40)
    flip(tmp_path / "day.json", 12)

    told = checkpoints.sift()

    assert len(told) == 2
    assert all(name in "\n".join(told) for name in ("step-0000003/.metadata", "day.json.damaged"))
    assert checkpoints.marks() == ["step-0000001", "step-0000002"]
    assert (checkpoints.damaged(), checkpoints.pins()) == (["step-0000003"], {})
    save_and_wait(checkpoints, 3)
    assert checkpoints.latest() == "step-0000003-2"
    assert (tmp_path / "step-0000003" / "__0_0.distcp").exists(), "set aside, not removed"
    assert checkpoints.sift() == []


def test_a_checkpoint_of_a_later_version_is_refused_and_stays_where_it_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=5, asynchronous=False)
    for step in (1, 2):
        save_and_wait(checkpoints, step)
    (tmp_path / "step-0000002" / "checkpoint.json").write_text(sealed({"format": 9, "step": 2, "meta": {}}))

    with pytest.raises(CheckpointError, match="format 9 is not known, this version reads 2") as refused:
        checkpoints.sift()
    assert not isinstance(refused.value, Damaged)
    assert checkpoints.latest() == "step-0000002", "not set aside: the run would go back by a day"


def test_a_checkpoint_from_before_digests_is_read_and_said_to_be_unverified(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    file = tmp_path / "step-0000001" / "checkpoint.json"
    values = json.loads(file.read_text())
    del values["sha256"], values["metadata"]
    file.write_text(json.dumps(values | {"format": 1}))

    checkpoints.restore("step-0000001", small())

    (told,) = checkpoints.sift()
    assert "step-0000001 was saved before checkpoints carried digests" in told
    assert checkpoints.latest() == "step-0000001"


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "__0_0.distcp").unlink(), r"is damaged: .*No such file.*__0_0\.distcp"),
        (lambda folder: cut(folder / "__0_0.distcp"), "is damaged"),
        (lambda folder: cut(folder / ".metadata"), "SHA-256"),
        (lambda folder: flip(folder / ".metadata", 40), "not what was written: its content and its SHA-256 in checkpoint.json"),
        (lambda folder: flip(folder / "checkpoint.json", 20), "not what was written: its content and its SHA-256"),
        (
            lambda folder: flip(folder / "__0_0.distcp", last(folder, ONES)),
            r"model\.weight .* in __0_0\.distcp: the numbers",
        ),
        (lambda folder: (folder / ".metadata").unlink(), r"No such file.*\.metadata"),
        (lambda folder: (folder / "checkpoint.json").unlink(), "not a whole checkpoint"),
        (lambda folder: cut(folder / "checkpoint.json"), "not a whole checkpoint"),
        (lambda folder: (folder / "checkpoint.json").write_text('{"format": 9}'), "format 9 is not known"),
    ],
    ids=[
        "no shard",
        "cut shard",
        "cut metadata",
        "bit of metadata",
        "bit of marker",
        "bit of shard",
        "no metadata",
        "no marker",
        "cut marker",
        "later format",
    ],
)
def test_a_damaged_checkpoint_is_told(tmp_path: Path, harm: Callable[[Path], None], message: str) -> None:
    checkpoints = saved(tmp_path)
    harm(tmp_path / "step-0000001")

    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore("step-0000001", small())


@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata"])
def test_a_checkpoint_whose_store_is_away_is_not_called_damaged(
    vault: Vault, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_and_wait(Checkpoints(f"{vault.prefix}run", keep=1, asynchronous=False), 1)
    opened = vault._open

    def away(path: str, mode: str = "r", *rest: Any, **options: Any) -> IO[Any]:
        if path.endswith(name):
            raise TimeoutError("the store did not answer")
        return opened(path, mode, *rest, **options)

    monkeypatch.setattr(vault, "_open", away)
    monkeypatch.setattr("data.paths.WAIT", 0.0)
    checkpoints = Checkpoints(f"{vault.prefix}run", keep=1, asynchronous=False)
    with pytest.raises(CheckpointError, match="be read: the store did not answer") as caught:
        checkpoints.restore("step-0000001", {"model": torch.zeros(6)})
    assert caught.value.hint.startswith("see that its store answers")
    with (
        pytest.raises(CheckpointError, match="the store did not answer") as caught,
        CheckpointReader(checkpoints, "step-0000001") as pieces,
    ):
        pieces.rows("model", 0, 6)
    assert caught.value.hint.startswith("see that its store answers")


# Nothing is run from a file.


class Bomb:
    """Unpickling it makes a file: what an attacker would do is worse."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


def forge(folder: Path, metadata: bytes) -> None:
    """Put other metadata into a checkpoint and have its marker agree: what only somebody who means it would do."""
    (folder / ".metadata").write_bytes(metadata)
    marker = json.loads((folder / "checkpoint.json").read_text())
    marker["metadata"] = hashlib.sha256(metadata).hexdigest()
    (folder / "checkpoint.json").write_text(sealed(marker))


def test_a_bomb_in_the_metadata_is_refused_and_does_not_go_off(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "run")
    forge(tmp_path / "run" / "step-0000001", pickle.dumps(Bomb(tmp_path / "boom")))

    with pytest.raises(CheckpointError, match=r"names posix\.mkdir, which no checkpoint needs"):
        checkpoints.restore("step-0000001", small())
    assert not (tmp_path / "boom").exists()


def test_a_bomb_inside_a_well_formed_metadata_is_refused_too(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path / "run")
    file = tmp_path / "run" / "step-0000001" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    metadata.planner_data["model.weight"] = Bomb(tmp_path / "boom")
    forge(file.parent, pickle.dumps(metadata))

    with pytest.raises(CheckpointError, match="which no checkpoint needs"):
        checkpoints.restore("step-0000001", small())
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("name", ["optimizer.lr", "model.weight"])
def test_a_bomb_in_place_of_a_stored_value_does_not_go_off(tmp_path: Path, name: str) -> None:
    checkpoints = saved(tmp_path / "run")
    folder = tmp_path / "run" / "step-0000001"
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    stored = next(info for index, info in metadata.storage_data.items() if index.fqn == name)
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "boom"), bomb)
    (folder / "bomb").write_bytes(bomb.getvalue())
    stored.relative_path, stored.offset, stored.length = "bomb", 0, len(bomb.getvalue())
    forge(folder, pickle.dumps(metadata))

    with pytest.raises(CheckpointError, match=r"is damaged: .*"):
        checkpoints.restore("step-0000001", small())
    assert not (tmp_path / "boom").exists()


def test_any_reader_of_dcp_can_read_a_checkpoint(tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = small(0)

    load(tensors, checkpoint_id=str(tmp_path / "step-0000001"))

    assert (tensors["model"]["weight"] == 1).all()
    assert json.loads((tmp_path / "step-0000001" / "checkpoint.json").read_text())["step"] == 1


class ByName(pickle.Pickler):
    """Pickles as Python 3.11.0 to 3.11.3 do: the members of an enum by `getattr`."""

    def reducer_override(self, obj: Any) -> Any:
        return (getattr, (type(obj), obj.name)) if isinstance(obj, enum.Enum) else NotImplemented


class Attribute:
    """Unpickling it asks a class that metadata may name for something that is not a member of an enum."""

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Metadata, "__init__")


def test_metadata_written_by_a_python_that_pickles_enums_by_name_is_read(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    file = tmp_path / "step-0000001" / ".metadata"
    content = io.BytesIO()
    ByName(content).dump(pickle.loads(file.read_bytes()))
    assert b"getattr" in content.getvalue()
    forge(file.parent, content.getvalue())

    checkpoints.restore("step-0000001", small())


def test_by_name_nothing_else_is_reached(tmp_path: Path) -> None:
    checkpoints = saved(tmp_path)
    file = tmp_path / "step-0000001" / ".metadata"
    metadata = pickle.loads(file.read_bytes())
    metadata.planner_data["model.weight"] = Attribute()
    forge(file.parent, pickle.dumps(metadata))

    with pytest.raises(CheckpointError, match="for '__init__', which no checkpoint needs"):
        checkpoints.restore("step-0000001", small())
