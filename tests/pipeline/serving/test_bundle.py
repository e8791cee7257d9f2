"""Law 8: a bundle says what the trainer said; law 9: nothing in it can run; and whatever is done to one is noticed."""

import hashlib
import io
import json
import math
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from data.errors import BadInput
from data.seal import sealed
from pipeline.serving.bundle import Bundle, BundleError, pieces
from pipeline.serving.int8 import dequantised, quantised
from pipeline.serving.parity import parity_bound
from pipeline.serving.scorer import BATCH_ROWS, Scorer
from tests.integration.nightly import Nightly, write_daily
from tests.jobs import command, finish
from tests.tiny import genctr, some

DAY = "2026-11-02"
PRETRAINED = (
    "stages=[{name: pretrain, objective: denoise, data: {days: 2026-11-01}, train: {progressive_validation: false}}, "
    "{name: rank, load: {stage: pretrain}}]"
)
MODELS = {
    "plain": (),
    "sfg": (
        "model.encoder.kind=sfg",
        "model.decoder=dcnv2",
        "model.decoder_options={layers: 2, hidden: [8]}",
        "model.encoder.residual=true",
    ),
    "fp16": ("tables.precision=fp16",),
    "fm": ("model.decoder=fm", "model.decoder_options={}"),
    "ffm": ("model.decoder=ffm", "model.decoder_options={}"),
    "twin": (
        *("model.decoder=tf", "model.losses=[{name: tf}]"),
        "model.decoder_options={easy_hidden: [8], hidden: [8], ssem: ser, batch_norm: true, dropout: 0.1}",
        "model.head_options={fusion: wsf}",
    ),
    "apg": ("model.dense={kind: apg, condition: [tab], rank: 2, factors: 4}",),
    "hetegen": ("model={family: denoiser, balance: progress, dim: 4, hidden: 8, layers: 1}", PRETRAINED),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_daily(tmp_path_factory.mktemp("bundles"), days=2, rows=150)


def trained(config: Path, out: Path, *overrides: str, ranks: int = 1) -> Path:
    """Two days through the daily job; the folder of the current bundle."""
    words = [word for override in (*overrides, "daily.gates={}") for word in ("--set", override)]
    night = Nightly(config, out, *words, ranks=ranks)
    assert night.ended() == 0, night.text
    return out / "published" / json.loads((out / "published" / "current.json").read_text())["bundle"]


@pytest.fixture(scope="module")
def bundle(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(config, tmp_path_factory.mktemp("once") / "run")


def some_rows(config: Path) -> pa.Table:
    """The first rows of a day."""
    return pq.read_table(next((config.parent / "log" / f"day={DAY}").glob("*.parquet")), partitioning=None).slice(0, 5)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / bundle.name))


def assert_says_what_the_trainer_says(config: Path, out: Path, tmp_path: Path, most: float) -> None:
    log = config.parent / "log" / f"day={DAY}"
    done = genctr("evaluate", out, "--days", DAY, "--predictions", tmp_path / "told", "--quiet")
    assert done.code == 0, done.err
    assert genctr("score", out / "published", "--data", log, "--out", tmp_path / "scored").code == 0
    told = pq.read_table(tmp_path / "told", partitioning=None).to_pylist()
    expected = {(Path(row["file"]).name, row["row"]): row["is_click_logit"] for row in told}
    seen = 0
    for file in log.glob("*.parquet"):
        for row in pq.read_table(tmp_path / "scored" / f"{file.name}.scores.parquet").to_pylist():
            assert abs(row["is_click_logit"] - expected[file.name, row["row"]]) <= most
            assert row["is_click"] == pytest.approx(1 / (1 + 2.718281828459045 ** -row["is_click_logit"]), rel=1e-6)
            seen += 1
    assert seen == len(expected)


@pytest.mark.parametrize("model", some(MODELS, "sfg"))
def test_serving_says_what_training_said(config: Path, tmp_path: Path, model: str) -> None:
    path = trained(config, tmp_path / "run", *MODELS[model])
    bound = parity_bound(Scorer(Bundle(str(path))))
    assert bound < 1e-4
    assert_says_what_the_trainer_says(config, tmp_path / "run", tmp_path, most=bound)


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["row_wise", "table_wise"])
def test_shards_of_two_ranks_make_one_bundle(config: Path, tmp_path: Path, sharding: str) -> None:
    path = trained(config, tmp_path / "run", f"tables.sharding={sharding}", ranks=2)
    if sharding == "row_wise":
        assert any(len(own) == 2 for own in Bundle(str(path)).tables.values())
    words = ["evaluate", tmp_path / "run", "--days", DAY, "--predictions", tmp_path / "told", "--quiet"]
    finish(command(list(map(str, words)), 2))
    log = config.parent / "log" / f"day={DAY}"
    assert genctr("score", path, "--data", log, "--out", tmp_path / "scored").code == 0
    rows = pq.read_table(tmp_path / "told", partitioning=None).to_pylist()
    expected = {(Path(row["file"]).name, row["row"]): row["is_click_logit"] for row in rows}
    scored = {
        (file.name, row["row"]): row["is_click_logit"]
        for file in log.glob("*.parquet")
        for row in pq.read_table(tmp_path / "scored" / f"{file.name}.scores.parquet").to_pylist()
    }
    assert scored == pytest.approx(expected, abs=1e-6)


def test_bytes_are_a_quarter_and_stay_close(config: Path, bundle: Path, tmp_path: Path) -> None:
    small = trained(config, tmp_path / "run", "daily.bundle_precision=int8")
    sizes = [sum(file.stat().st_size for file in own.glob("table.*")) for own in (small, bundle)]
    assert sizes[0] < sizes[1]  # four columns take 4 + 8 bytes; at 16 they take 24 instead of 64
    assert 0 < Scorer(Bundle(str(small))).parity() < 0.1
    assert_says_what_the_trainer_says(config, tmp_path / "run", tmp_path, most=0.1)


def test_quantised_rows_are_within_half_a_step() -> None:
    rows = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    back = dequantised(quantised(rows))
    step = (rows.max(1).values - rows.min(1).values) / 255
    assert ((back - rows).abs() <= 0.5001 * step[:, None]).all()


def test_the_sample_scores_what_the_manifest_says(bundle: Path) -> None:
    own = Bundle(str(bundle))
    assert Scorer(own).parity() <= 1e-6
    assert len(own.manifest["expected"]["is_click"]) >= 50
    assert own.verify() > 1000


def test_parity_notices_other_weights(copy: Path) -> None:
    from safetensors.torch import load, save

    dense = load((copy / "dense.safetensors").read_bytes())
    name = max(dense, key=lambda key: dense[key].numel())
    dense[name] += 0.01
    rewrite(copy, "dense.safetensors", save(dense))
    assert Scorer(Bundle(str(copy))).parity() > 1e-6


def test_parity_is_no_number_where_the_trainer_said_none_and_nothing_where_no_row_is_good(copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["expected"]["is_click"][0] = None  # as nan is stored
    (copy / "manifest.json").write_text(sealed(manifest))
    assert math.isnan(Scorer(Bundle(str(copy))).parity())

    empty = io.BytesIO()
    pq.write_table(pq.read_table(copy / "sample.parquet").slice(0, 0), empty)
    rewrite(copy, "sample.parquet", empty.getvalue())
    assert Scorer(Bundle(str(copy))).parity() == 0


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Change a file and have the manifest agree: what only somebody who means it would do."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(sealed(manifest))


def flip(path: Path, at: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def name_in_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(sealed(manifest))

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (lambda own: flip(next(own.glob("table.*"))), "cut short or altered"),
    "a cut file": (lambda own: (own / "dense.safetensors").write_bytes(b"12"), "cut short or altered"),
    "a missing file": (lambda own: (own / "dense.safetensors").unlink(), "missing"),
    "a file that came later": (lambda own: (own / "extra.safetensors").write_bytes(b""), "does not belong"),
    "a pickle beside": (lambda own: (own / "model.pkl").write_bytes(pickle.dumps([])), "does not belong"),
    "no manifest": (lambda own: (own / "manifest.json").unlink(), "cannot be read"),
    "a flipped bit of the manifest": (lambda own: flip(own / "manifest.json", at=40), "its content and its SHA-256 disagree"),
    "half a manifest": (lambda own: (own / "manifest.json").write_text("{"), "makes no sense"),
    "a manifest of something else": (lambda own: (own / "manifest.json").write_text("[1]"), "makes no sense"),
    "another format": (name_in_manifest(lambda own: own.update(format=99)), "format 99"),
    "a file outside": (name_in_manifest(lambda own: own["files"].update({"../x.json": {}})), r"\.\./x\.json"),
    "an absolute file": (name_in_manifest(lambda own: own["files"].update({"/etc/x.json": {}})), "/etc/x.json"),
    "a pickle in the manifest": (name_in_manifest(lambda own: own["files"].update({"x.pkl": {}})), "x.pkl"),
    "tables from elsewhere": (
        name_in_manifest(lambda own: next(iter(own["tables"].values()))[0].update(file="../../secret.safetensors")),
        "does not list",
    ),
    "a step without an end": (name_in_manifest(lambda own: own.update(step=float("inf"))), "makes no sense"),
    "a manifest of brackets": (lambda own: (own / "manifest.json").write_text("[" * 200_000), "makes no sense"),
    "a table without files": (name_in_manifest(lambda own: own["tables"][max(own["tables"])].clear()), "0 in the files"),
    "a table with a hole": (
        name_in_manifest(lambda own: own["tables"][max(own["tables"])][0]["rows"].__setitem__(0, 1)),
        "the files of the bundle",
    ),
    "a piece of another size": (
        name_in_manifest(lambda own: own["tables"][max(own["tables"])][0].update(rows=[0, 7])),
        "7 in the files",
    ),
    "a table of another size": (
        name_in_manifest(lambda own: next(f for f in own["schema"]["fields"] if f.get("rows")).update(rows=77)),
        "77 rows by the schema",
    ),
    "a network of another size": (
        name_in_manifest(lambda own: own["model"].update(decoder_options={"hidden": [9]})),
        "do not fit together",
    ),
    "statistics of nonsense": (lambda own: rewrite(own, "statistics.json", b"[]"), "do not fit together"),
    "a schema of nonsense": (name_in_manifest(lambda own: own.update(schema={"name": 1})), "makes no sense"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_spoilt_bundle_is_refused(copy: Path, kind: str) -> None:
    spoil, told = SPOILT[kind]
    spoil(copy)
    with pytest.raises(BundleError, match=told):
        Scorer(Bundle(str(copy)))


def test_a_pickle_under_a_listed_name_is_not_unpickled(copy: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "gone off",)

    rewrite(copy, "dense.safetensors", pickle.dumps(Bomb()))
    with pytest.raises(BundleError, match="not a safetensors file"):
        Scorer(Bundle(str(copy)))
    assert not (tmp_path / "gone off").exists()


def test_current_cannot_leave_its_folder_and_knows_the_manifest(bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle.parent, tmp_path / "published"))
    current = json.loads((folder / "current.json").read_text())
    (folder / "current.json").write_text(json.dumps(current | {"bundle": "../elsewhere"}))
    with pytest.raises(BundleError, match="makes no sense"):
        Bundle(str(folder))
    (folder / "current.json").write_text(json.dumps(current | {"sha256": "0" * 64}))
    with pytest.raises(BundleError, match="not the one that was published"):
        Bundle(str(folder))


def test_rows_without_labels_are_scored(bundle: Path, config: Path, tmp_path: Path) -> None:
    file = next((config.parent / "log" / f"day={DAY}").glob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.drop_columns(["is_click"]), tmp_path / "rows.parquet")
    assert genctr("score", bundle, "--data", tmp_path / "rows.parquet", "--out", tmp_path / "a").code == 0
    assert genctr("score", bundle, "--data", file, "--out", tmp_path / "b").code == 0
    one, other = (pq.read_table(next((tmp_path / name).glob("*"))) for name in "ab")
    assert one["is_click_logit"].to_pylist() == other["is_click_logit"].to_pylist()


def test_a_day_of_folders_is_scored_as_it_lies(bundle: Path, config: Path, tmp_path: Path) -> None:
    file = next((config.parent / "log" / f"day={DAY}").glob("*.parquet"))
    for name in ("hour=00/a.parquet", "hour=01/a.parquet", "hour=01/_temporary/b.parquet"):
        (tmp_path / "day" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "day" / name)
    assert genctr("score", bundle, "--data", tmp_path / "day", "--out", tmp_path / "out").code == 0
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.parquet"))
    assert written == ["hour=00/a.parquet.scores.parquet", "hour=01/a.parquet.scores.parquet"]


@pytest.mark.slow
def test_times_that_python_does_not_have_travel_with_the_bundle(tmp_path: Path) -> None:
    """A nanosecond, for one."""
    config = write_daily(tmp_path, days=1)

    def exactly(times: pa.Array) -> pa.Array:
        return pa.array(times.to_numpy() * 10**6 + 1).cast(pa.timestamp("ns", "UTC"))

    for file in (tmp_path / "log" / "day=2026-11-01").glob("*.parquet"):
        table = pq.read_table(file, partitioning=None).combine_chunks()
        past = table["history_time_ms"].chunk(0)
        events = pa.ListArray.from_arrays(past.offsets, exactly(past.values))
        columns = {"time_ms": exactly(table["time_ms"].chunk(0)), "history_time_ms": events}
        for name, column in columns.items():
            table = table.set_column(table.column_names.index(name), name, column)
        pq.write_table(table, file)
    assert Scorer(Bundle(str(trained(config, tmp_path / "run")))).parity() <= 1e-6


def test_what_only_training_reads_is_not_looked_at(copy: Path, bundle: Path, config: Path) -> None:
    """Labels and whether they count, weights and groups: rows to be scored may have none of them, or none yet."""

    def change(manifest: dict) -> None:
        label = {"target": "is_click", "column": "is_click", "valid_where": "seen"}
        manifest["schema"] |= {"label": label, "weight": "importance", "group": "session"}

    name_in_manifest(change)(copy)
    file = next((config.parent / "log" / f"day={DAY}").glob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    expected = Scorer(Bundle(str(bundle))).rows(table.to_batches()[0])["is_click"]
    scorer, rows = Scorer(Bundle(str(copy))), table.drop_columns(["is_click"])
    assert torch.equal(scorer.rows(rows.to_batches()[0])["is_click"], expected)
    for name in ("is_click", "importance", "seen", "session"):
        rows = rows.append_column(name, pa.nulls(len(rows), pa.float32()))
    assert torch.equal(scorer.rows(rows.combine_chunks().to_batches()[0])["is_click"], expected)


def test_the_scores_of_a_file_are_there_when_all_of_its_rows_are_scored(bundle: Path, config: Path, tmp_path: Path) -> None:
    file = next((config.parent / "log" / f"day={DAY}").glob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    pq.write_table(table.slice(0, 0), tmp_path / "nothing.parquet")
    assert genctr("score", bundle, "--data", tmp_path / "nothing.parquet", "--out", tmp_path / "out").code == 0
    scores = pq.read_table(tmp_path / "out" / "nothing.parquet.scores.parquet")
    assert (len(scores), scores.column_names) == (0, ["row", "is_click", "is_click_logit"])

    table = pa.concat_tables([table] * (BATCH_ROWS // len(table) + 2))
    pq.write_table(table, tmp_path / "bad.parquet", row_group_size=BATCH_ROWS, write_page_checksum=True)
    content = bytearray((tmp_path / "bad.parquet").read_bytes())
    last = pq.read_metadata(tmp_path / "bad.parquet").row_group(1).column(0)
    content[last.data_page_offset + last.total_compressed_size // 2] ^= 1
    (tmp_path / "bad.parquet").write_bytes(content)
    done = genctr("score", bundle, "--data", tmp_path / "bad.parquet", "--out", tmp_path / "out")
    assert done.code == 2
    assert "row group 1" in done.err
    assert "Traceback" not in done.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["nothing.parquet.scores.parquet"]


def test_a_bad_row_of_a_file_has_no_score_and_the_others_have_theirs(bundle: Path, config: Path, tmp_path: Path) -> None:
    table = some_rows(config)
    prices = table["price"].to_pylist()
    bad = table.set_column(table.schema.get_field_index("price"), "price", pa.array([prices[0], math.nan, *prices[2:]]))
    for name, rows in {"good": table, "bad": bad}.items():
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    done = genctr("score", bundle, "--data", tmp_path / "bad.parquet", "--out", tmp_path / "scores")
    assert genctr("score", bundle, "--data", tmp_path / "good.parquet", "--out", tmp_path / "scores").code == 0

    found, right = (
        pq.read_table(tmp_path / "scores" / f"{name}.parquet.scores.parquet").to_pydict() for name in ("bad", "good")
    )
    assert done.code == 0
    assert "1 rows have no score: the number, column 'price'" in done.err
    for name in ("is_click", "is_click_logit"):
        assert found[name] == [right[name][0], None, *right[name][2:]]
    assert found["row"] == right["row"]


def test_a_request_of_no_rows_has_no_scores(bundle: Path, config: Path) -> None:
    rows = some_rows(config).to_batches()[0]

    assert Scorer(Bundle(str(bundle))).rows(rows.slice(0, 0))["is_click"].tolist() == []


def test_a_bad_row_of_a_request_says_what_its_sender_can_do(bundle: Path, config: Path) -> None:
    rows = some_rows(config).to_batches()[0]
    rows = rows.set_column(rows.schema.get_field_index("price"), "price", pa.array([math.inf] * rows.num_rows))

    with pytest.raises(BadInput, match="take it out of the request"):
        Scorer(Bundle(str(bundle))).rows(rows)


def test_a_column_that_is_there_twice_is_told(bundle: Path, config: Path, tmp_path: Path) -> None:
    table = some_rows(config)
    pq.write_table(table.append_column("user_id", table["user_id"]), tmp_path / "twice.parquet")
    done = genctr("score", bundle, "--data", tmp_path / "twice.parquet", "--out", tmp_path / "scores")

    assert (done.code, "column 'user_id' is there twice" in done.err) == (2, True)


def test_a_missing_column_is_told(bundle: Path, config: Path, tmp_path: Path) -> None:
    file = next((config.parent / "log" / f"day={DAY}").glob("*.parquet"))
    pq.write_table(pq.read_table(file, partitioning=None).drop_columns(["price"]), tmp_path / "rows.parquet")
    done = genctr("score", bundle, "--data", tmp_path / "rows.parquet", "--out", tmp_path / "out")
    assert done.code == 2
    assert "column price" in done.err


def test_tables_are_cut_into_pieces_of_bounded_size() -> None:
    assert list(pieces(10, 4, numbers=12)) == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert list(pieces(0, 4)) == []


@pytest.mark.parametrize(
    "change",
    [{"reader": {}}, {"reader": []}, {"targets": []}, {"targets": [1]}, {"links": [1]}, {"files": [1]}, {"tables": []}],
    ids=str,
)
def test_a_manifest_of_other_shapes_is_refused(copy: Path, tmp_path: Path, change: dict, config: Path) -> None:
    name_in_manifest(lambda manifest: manifest.update(change))(copy)
    pq.write_table(some_rows(config), tmp_path / "rows.parquet")
    done = genctr("score", copy, "--data", tmp_path / "rows.parquet", "--out", tmp_path / "scores")

    assert (done.code, "manifest" in done.err) == (2, True)


def test_a_pipe_in_a_bundle_is_not_waited_for(copy: Path) -> None:
    (copy / "sample.parquet").unlink()
    os.mkfifo(copy / "sample.parquet")

    with pytest.raises(BundleError, match="pipe"):
        Bundle(str(copy)).verify()


def test_keys_are_written_next_to_the_scores(bundle: Path, config: Path, tmp_path: Path) -> None:
    rows = some_rows(config).append_column("request", pa.array([f"r{n}" for n in range(5)]))
    pq.write_table(rows, tmp_path / "rows.parquet")
    words = ("score", bundle, "--data", tmp_path / "rows.parquet", "--out", tmp_path / "out", "--keys")

    assert genctr(*words, "request,user_id").code == 0

    scores = pq.read_table(tmp_path / "out" / "rows.parquet.scores.parquet")
    assert scores.column_names == ["request", "user_id", "row", "is_click", "is_click_logit"]
    assert scores.select(["request", "user_id"]).to_pydict() == rows.select(["request", "user_id"]).to_pydict()
    assert "where: file" in genctr(*words, "requests").err
    assert "would be there twice" in genctr(*words, "is_click").err
