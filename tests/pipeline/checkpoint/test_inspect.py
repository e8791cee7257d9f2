"""What is missing, twice or altered in a checkpoint is found and named; two checkpoints are compared number by number."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, TensorProperties, TensorStorageMetadata

from data.errors import GenctrError
from data.seal import sealed, unsealed
from pipeline.checkpoint import inspect as ckpt
from pipeline.checkpoint import reader
from pipeline.checkpoint import writer as writing
from pipeline.checkpoint.coverage import gaps
from pipeline.checkpoint.errors import CheckpointError
from pipeline.checkpoint.inspect import Difference, compare, find, listed, open_named, unfinished, verify, verify_pins
from pipeline.checkpoint.manager import Checkpoints
from pipeline.checkpoint.markers import MARKER
from pipeline.checkpoint.reader import CheckpointReader
from pipeline.checkpoint.rewrite import Grown
from pipeline.checkpoint.writer import write
from pipeline.config.run import RunConfig

MARK = "step-0000003"


pytestmark = pytest.mark.usefixtures("world_of_one")


def nothing(_: int) -> None:
    """Progress that is not shown."""


# What covers a tensor.


def chunked(size: list[int], *chunks: tuple[list[int], list[int]]) -> TensorStorageMetadata:
    return TensorStorageMetadata(
        TensorProperties(), torch.Size(size), [ChunkStorageMetadata(torch.Size(at), torch.Size(by)) for at, by in chunks]
    )


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        (chunked([10, 4], ([0, 0], [10, 4])), []),
        (chunked([10, 4], ([6, 0], [4, 4]), ([0, 0], [6, 4])), []),
        (chunked([10, 4], ([0, 0], [10, 1]), ([0, 1], [10, 3])), []),
        (chunked([10, 4], ([0, 0], [5, 4]), ([5, 0], [5, 2]), ([5, 2], [5, 2])), []),
        (chunked([10], ([0], [7]), ([7], [3])), []),
        (chunked([], ([], [])), []),
        (chunked([0, 4], ([0, 0], [0, 4])), []),
        (chunked([10, 4], ([0, 0], [6, 4])), ["rows 6 … 9 are missing"]),
        (chunked([10, 4], ([0, 0], [2, 4]), ([5, 0], [5, 4])), ["rows 2 … 4 are missing"]),
        (chunked([10, 4], ([0, 0], [6, 4]), ([5, 0], [5, 4])), ["rows 5 … 5 are there twice"]),
        (chunked([10], ([0], [6]), ([5], [5])), ["rows 5 … 5 are there twice"]),
        (chunked([10, 4], ([0, 0], [10, 3])), ["rows 0 … 9 are there in part"]),
        (chunked([10, 4], ([0, 0], [10, 2]), ([0, 0], [10, 2])), ["rows 0 … 9 are there twice"]),
        (chunked([10, 4], ([0, 0], [12, 4])), ["rows 0 … 11 of it lie outside of [10, 4]", "rows 0 … 9 are missing"]),
        (chunked([], ([], []), ([], [])), ["2 pieces for one number"]),
        (chunked([4, 4]), ["rows 0 … 3 are missing"]),
    ],
)
def test_pieces_must_cover_a_tensor_each_number_once(stored: TensorStorageMetadata, told: list[str]) -> None:
    assert gaps(stored) == told


# What is damaged.


TENSORS: dict[str, dict[str, Any]] = {
    "model": {"table": torch.arange(4000.0).view(1000, 4), "bias": torch.zeros(3)},
    "rest": {"name": "plain"},
}


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoints:
    """A checkpoint in two files, pinned as best."""
    monkeypatch.setattr(writing, "LEAST", 16)
    one = Checkpoints(str(tmp_path / "one"), keep=1, asynchronous=False)
    one.save(3, tensors=TENSORS, meta={})
    two = Checkpoints(str(tmp_path / "two" / "checkpoints"), keep=1, asynchronous=False)
    with CheckpointReader(one, MARK) as source:
        _, writer = two.beside(3, meta={"ranks": 2, "state": {"cursor": {"day": "2026-11-01", "row": 5, "lanes": 2}}})
        write(source, writer, ranks=2, advance=nothing)
    two.pin("best", MARK)
    return two


def rewrite_metadata(checkpoints: Checkpoints, content: bytes) -> None:
    """Replace the metadata, and its digest in the marker: what is wrong with it has been so since it was written."""
    folder = Path(checkpoints.root) / MARK
    (folder / ".metadata").write_bytes(content)
    marker = unsealed((folder / MARKER).read_bytes())
    (folder / MARKER).write_text(sealed({**marker, "metadata": hashlib.sha256(content).hexdigest()}))


def change_metadata(checkpoints: Checkpoints, change: Callable[[Metadata], None]) -> None:
    metadata = checkpoints.metadata(MARK)
    change(metadata)
    rewrite_metadata(checkpoints, pickle.dumps(metadata))


def test_a_whole_checkpoint_has_no_problems(saved: Checkpoints) -> None:
    read: list[int] = []
    found = verify(saved, MARK, advance=read.append)
    assert (found.problems, found.tensors, found.pieces, found.bytes) == ([], 2, 4, 16012)
    assert sum(read) == 16012
    assert not found.not_finite
    assert verify_pins(saved) == []


def test_a_missing_file_is_told_with_all_that_was_in_it(saved: Checkpoints) -> None:
    (Path(saved.root) / MARK / "__1_0.distcp").unlink()
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert problem == "the file __1_0.distcp is not there: it holds rows 500 … 999 of model.table"


def test_a_file_cut_short_is_told_with_the_rows_that_are_lost(saved: Checkpoints) -> None:
    file = Path(saved.root) / MARK / "__1_0.distcp"
    file.write_bytes(file.read_bytes()[:-100])
    size = file.stat().st_size
    first, second = verify(saved, MARK, advance=nothing).problems
    assert first == f"the file __1_0.distcp has {size:,} bytes, and should have {size + 100:,}"
    assert second.startswith("rows 500 … 999 of model.table cannot be read from __1_0.distcp: ")


def test_one_altered_bit_is_found(saved: Checkpoints) -> None:
    file = Path(saved.root) / MARK / "__1_0.distcp"
    content = bytearray(file.read_bytes())
    content[content.index(torch.tensor([3000.0, 3001.0]).numpy().tobytes())] ^= 1
    file.write_bytes(content)
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert problem == (
        "rows 500 … 999 of model.table cannot be read from __1_0.distcp: the numbers are not those that were written"
    )


def test_metadata_without_a_piece_or_its_file_is_told(saved: Checkpoints) -> None:
    change_metadata(saved, lambda metadata: metadata.state_dict_metadata["model.table"].chunks.pop())
    assert verify(saved, MARK, advance=nothing).problems == ["model.table: rows 500 … 999 are missing"]
    with (
        CheckpointReader(saved, MARK) as opened,
        pytest.raises(CheckpointError, match=r"rows 499 … 500 of model\.table are not all in it"),
    ):
        opened.rows("model.table", 499, 501)

    change_metadata(saved, lambda metadata: metadata.storage_data.clear())
    problems = verify(saved, MARK, advance=nothing).problems
    assert "its metadata names no file for rows 0 … 499 of model.table" in problems


def test_a_piece_of_another_size_than_the_metadata_says_is_told(saved: Checkpoints) -> None:
    def change(metadata: Metadata) -> None:
        table = metadata.state_dict_metadata["model.table"]
        table.chunks[0] = ChunkStorageMetadata(torch.Size([0, 0]), torch.Size([499, 4]))

    change_metadata(saved, change)
    told = "rows 0 … 498 of model.table cannot be read from __0_0.distcp: it holds another tensor than the metadata says"
    assert verify(saved, MARK, advance=nothing).problems == ["model.table: rows 499 … 499 are missing", told]


def test_metadata_that_is_cut_is_told_and_nothing_it_names_is_run(saved: Checkpoints) -> None:
    path = Path(saved.root) / MARK / ".metadata"
    cut = path.read_bytes()[:200]
    path.write_bytes(cut)
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert "its content and its SHA-256 in checkpoint.json disagree" in problem

    rewrite_metadata(saved, cut)
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert problem.startswith("the checkpoint cannot be read: pickle data was truncated (")

    rewrite_metadata(saved, b"cos\nsystem\n(S'false'\ntR.")
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert "it names os.system, which no checkpoint needs; it is not run" in problem


@pytest.mark.parametrize("name", [".metadata", MARKER])
def test_every_flipped_bit_of_what_describes_a_checkpoint_is_told(saved: Checkpoints, name: str) -> None:
    path = Path(saved.root) / MARK / name
    content = path.read_bytes()
    unnoticed = []
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        unnoticed += [at] if not verify(saved, MARK, advance=nothing).problems else []
    assert unnoticed == []


def test_numbers_that_are_not_finite_are_counted_and_are_no_damage(tmp_path: Path) -> None:
    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=False)
    table = torch.zeros(10, 2)
    table[3, 1], table[7] = float("nan"), float("inf")
    checkpoints.save(3, tensors={"model": {"table": table, "ids": torch.arange(3)}}, meta={})
    found = verify(checkpoints, MARK, advance=nothing)
    assert (found.problems, found.not_finite) == ([], {"model.table": 3})


def test_a_plain_value_that_would_run_something_is_told(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, Any]:
            return (exec, ("raise SystemExit",))

    checkpoints = Checkpoints(str(tmp_path), keep=1, asynchronous=False)
    checkpoints.save(3, tensors={"rest": {"name": Runs()}}, meta={})
    assert verify(checkpoints, MARK, advance=nothing).problems == [
        "rest.name: a plain value that cannot be read (UnpicklingError)"
    ]


def test_pins_must_name_whole_checkpoints(saved: Checkpoints) -> None:
    saved.pin("day-2026-11-01", "step-0000002")
    assert verify_pins(saved) == ["pin day-2026-11-01 names step-0000002, which is not a whole checkpoint"]
    Path(saved.root, "best.json").write_text("{")
    (problem,) = verify_pins(saved)
    assert problem.startswith("a pin cannot be read: ")
    Path(saved.root, "best.json").write_text("{}")
    (problem,) = verify_pins(saved)
    assert problem.startswith("a pin cannot be read: ")


# Which.


def test_checkpoints_are_listed_with_where_they_stand(saved: Checkpoints) -> None:
    Path(saved.root, "step-0000004").mkdir()
    (own,) = listed(saved)
    assert (own.mark, own.step, own.day, own.row, own.ranks, own.files, own.pins) == (
        MARK,
        3,
        "2026-11-01",
        10,
        2,
        2,
        ("best",),
    )
    assert own.bytes == sum(file.stat().st_size for file in Path(saved.root, MARK).iterdir())
    assert own.saved is not None
    assert unfinished(saved) == ["step-0000004"]


def test_a_checkpoint_is_found_by_its_name_its_pin_and_its_folder(saved: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {find(saved, name) for name in (MARK, "best", "best.json", "newest")} == {MARK}
    run = saved.root.removesuffix("/checkpoints")
    for path in (run, f"{run}/", saved.root + f"/{MARK}/", f"{saved.root}/best"):
        with open_named(path) as opened:
            assert opened.folder == f"{saved.root}/{MARK}"
    monkeypatch.chdir(run)
    with open_named(f"checkpoints/{MARK}") as opened:
        assert opened.mark == MARK
    with pytest.raises(GenctrError, match=r"there is no whole checkpoint worst\n  there are: best, step-0000003"):
        find(saved, "worst")
    with pytest.raises(GenctrError, match="no whole checkpoint in "):
        open_named(f"{run}/..")


# Two of them.


def saved_as(folder: Path, tensors: dict[str, Any], meta: dict[str, Any]) -> Checkpoints:
    checkpoints = Checkpoints(str(folder), keep=1, asynchronous=False)
    checkpoints.save(3, tensors=tensors, meta=meta)
    return checkpoints


def test_two_checkpoints_are_compared_by_names_sizes_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "BLOCK", 64)
    monkeypatch.setattr(ckpt, "FEW", 8)
    table = torch.arange(80.0).view(20, 4)
    table[19] = float("nan")
    other = table.clone()
    other[2, 1] += 3
    other[11, 0] -= 4
    other[11, 3] = float("inf")
    both = {"same": torch.ones(3), "long": torch.zeros(4), "ids": torch.arange(5), "name": "a"}
    left = saved_as(
        tmp_path / "a", {"m": {**both, "table": table, "here": torch.zeros(1)}}, {"state": {"row": 3}, "tally": [1] * 99}
    )
    right = {**both, "table": other, "long": torch.zeros(5), "ids": torch.arange(5) + (torch.arange(5) == 2), "name": "b"}
    right |= {"there": torch.zeros(1)}
    again = saved_as(tmp_path / "b", {"m": right}, {"state": {"row": 4}, "tally": [2] * 99})

    with CheckpointReader(left, MARK) as a, CheckpointReader(again, MARK) as b:
        told = compare(a, b, advance=nothing)
    assert (told.left, told.right) == (["m.here"], ["m.there"])
    assert told.sizes == ["m.long: [4] float32, [5] float32"]
    assert told.values == ["m.name"]
    assert told.same == 1
    assert {own.name: own for own in told.differences} == {
        "m.table": Difference("m.table", rows=20, differ=2, largest=4.0, rms=(25 / 80) ** 0.5),
        "m.ids": Difference("m.ids", rows=5, differ=1, largest=1.0, rms=(1 / 5) ** 0.5),
    }
    assert told.facts == ["state.row: 3, 4", "tally: …, …"]
    assert not told.equal
    with CheckpointReader(left, MARK) as a, CheckpointReader(left, MARK) as b:
        assert compare(a, b, advance=nothing).equal


def test_a_marker_of_another_version_or_without_its_digest_is_told(saved: Checkpoints) -> None:
    marker = Path(saved.root, MARK, MARKER)
    marker.write_text(sealed({"format": 3}))
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert problem.startswith("checkpoint format 3 is not known, this version reads 2")

    marker.write_text(json.dumps({"format": 2}))
    (problem,) = verify(saved, MARK, advance=nothing).problems
    assert "its format and its SHA-256 do not fit together" in problem


# A larger table.


def test_a_table_called_as_if_it_were_the_companion_of_another_does_not_grow_with_it(tmp_path: Path) -> None:
    tables = {f"embedding_bags.{name}.weight": torch.zeros(3, 4) for name in ("t", "t_linear", "t_second")}
    config = RunConfig.model_validate({"name": "r", "schema": "s.yaml", "data": {"root": "log", "days": ["a"]}})
    with CheckpointReader(saved_as(tmp_path, {"model": tables}, {}), MARK) as source:
        grown = Grown(source, config, "t", owners={"t", "t_linear"}, kind="identity", rows=5).grown
    assert grown == ["model.embedding_bags.t.weight", "model.embedding_bags.t_second.weight"]


def test_new_rows_of_half_precision_are_blank_so_that_look_ups_begin_them(tmp_path: Path) -> None:
    name, table = "model.embedding_bags.t.weight", torch.ones(3, 4).half()
    config = RunConfig.model_validate({"name": "r", "schema": "s.yaml", "data": {"root": "log", "days": ["a"]}})
    with CheckpointReader(saved_as(tmp_path, {"model": {name.removeprefix("model."): table}}, {}), MARK) as source:
        grown = Grown(source, config, "t", owners={"t"}, kind="identity", rows=5)

        assert torch.equal(grown.rows(name, 0, 5), torch.cat([table, torch.zeros(2, 4).half()]))
