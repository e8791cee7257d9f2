"""The command: what it prints, what it leaves, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from data.paths import PATHS
from data.schema import Schema
from data.yaml_document import read_document
from launch import cli
from pipeline.run_folder.lease import Lease
from tests.helpers import SERVER
from tests.jobs import assert_every_row_once, events, finish, start
from tests.tiny import DAYS, ROOT, Done, genctr, train, write_log

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("cli"))


@pytest.fixture(scope="module")
def trained(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert train(config, out).code == 0
    return out


def shell(*words: object, cwd: Path = ROOT) -> Done:
    """`python -m launch`, as a person runs it."""
    line = [sys.executable, "-m", "launch", *map(str, words)]
    done = subprocess.run(line, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=300)
    return Done(done.returncode, done.stdout, done.stderr)


# --- train and evaluate ---


def test_train_prints_a_line_for_every_scored_day_and_says_where_the_run_is(config: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run", "train.progressive_validation=true")

    headings, (second, test) = (
        done.out.splitlines()[1],
        [line for line in done.out.splitlines() if line.startswith("│")],
    )
    reachable = json.loads((config.parent / "log" / "synthetic.json").read_text())["days"][DAYS[1]]
    assert done.code == 0
    assert headings.replace("┃", " ").split() == [
        *("day", "of", "rows", "auc", "gauc", "logloss", "ne", "calibration", "best", "auc", "rows/s")
    ]
    cells = [cell.strip() for cell in second.strip("│").split("│")]
    assert cells[:3] == [DAYS[1], "is_click", str(reachable["rows"])]
    assert cells[8] == f"{reachable['auc']:.4f}"
    assert test.startswith("│ test ")
    rows = sum(event["rows"] for event in events(tmp_path / "run", "trained"))
    steps = events(tmp_path / "run", "tested")[0]["step"]
    assert done.out.splitlines()[-1] == f"{rows} rows trained in {steps} steps; the run is in {tmp_path / 'run'}"


def test_without_out_the_run_is_called_as_its_file_says(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    done = genctr("train", config, "--quiet", "--set", "train.max_steps=1", "--set", "data.test=[]")

    assert done.out == "16 rows trained in 1 steps; the run is in runs/tiny\n"
    assert (tmp_path / "runs" / "tiny" / "config.yaml").is_file()


def test_evaluate_prints_and_logs_every_day(config: Path, trained: Path) -> None:
    done = genctr("evaluate", trained, "--days", f"{DAYS[0]}..{DAYS[3]}", "--quiet")

    evaluated = events(trained, "evaluated")
    assert done.code == 0
    assert [event["day"] for event in evaluated] == list(DAYS)
    for event in evaluated:
        line = next(line for line in done.out.splitlines() if event["day"] in line)
        assert f"{event['metrics']['is_click']['auc']:.4f}" in line
        assert f"{event['metrics']['is_click']['logloss']:.4f}" in line
    tested = events(trained, "tested")[0]
    assert evaluated[-1]["metrics"] == tested["metrics"]
    assert evaluated[-1]["step"] == tested["step"]


# --- the other commands ---


def test_python_m_launch_makes_a_log(tmp_path: Path) -> None:
    done = shell("synth", "--out", tmp_path / "log", "--days", 2, "--rows", 50, "--seed", 3)

    assert (done.code, done.out, done.err) == (0, f"2 days in {tmp_path / 'log'}\n", "")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        *(f"day={day}" for day in DAYS[:2]),
        "synthetic.json",
    ]


def test_the_schema_that_inspect_suggests_trains_the_log(config: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.yaml"

    done = genctr("inspect", config.parent / "log", "--schema", schema)

    assert done.code == 0
    assert done.out.endswith(f"schema to start from: {schema}\n")
    assert {"user_id", "item_id", "price", "history"} <= {field.name for field in read_document(str(schema), Schema).fields}
    assert train(config, tmp_path / "run", f"schema={schema}", "train.max_steps=2").code == 0


def test_inspect_never_writes_over_a_schema(config: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")

    done = genctr("inspect", config.parent / "log", "--schema", tmp_path / "mine.yaml")

    assert done.code == 2
    assert "mine.yaml is there already\n  next: delete it, or name another file" in done.err
    assert (tmp_path / "mine.yaml").read_text() == "mine"


def test_inspect_prints_json_for_machines(config: Path, tmp_path: Path) -> None:
    done = genctr("inspect", config.parent / "log" / f"day={DAYS[0]}", "--json", "--schema", tmp_path / "own.yaml")

    assert done.code == 0
    assert "own.yaml" in done.err
    assert "user_id" in json.dumps(json.loads(done.out))


def libfm(rows: int, first: int) -> str:
    """Frappe's original form: a label and ten indices."""
    lines = []
    for row in range(first, first + rows):
        values = " ".join(f"{1 + (row * (field + 3)) % 7 + 10 * field}:1" for field in range(10))
        lines.append(f"{1 if row % 3 == 0 else -1} {values}")
    return "\n".join(lines) + "\n"


def test_an_imported_public_set_trains_with_its_ready_config(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for number, (part, rows) in enumerate({"train": 90, "validation": 30, "test": 20}.items()):
        (raw / f"frappe.{part}.libfm").write_text(libfm(rows, 1000 * number))

    imported = genctr("import", "frappe", "--from", raw, "--out", tmp_path / "log")
    ready = ROOT / "launch" / "configs" / "frappe.yaml"
    done = train(ready, tmp_path / "run", f"data.root={tmp_path / 'log'}", "train.epochs=2", "train.device=cpu")

    assert (imported.code, imported.out) == (0, f"140 rows in 3 days in {tmp_path / 'log'}\n")
    assert done.code == 0, done.err
    assert "180 rows trained in 2 steps" in done.out


def test_an_option_of_an_import_may_be_a_date(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\t".join(["1", *["2"] * 13, *["ab"] * 26]) + "\n")
    options = ("--set", "days=1", "--set", "start=2014-01-01")

    done = genctr("import", "criteo", "--from", tmp_path / "train.txt", "--out", tmp_path / "log", *options)

    assert done.code == 0, done.err
    assert (tmp_path / "log" / "day=2014-01-01" / "_SUCCESS").exists()


# --- mistakes ---

MISTAKES = {
    "no run file": (["train", "nowhere.yaml"], "nowhere.yaml: there is no such file"),
    "no run folder": (["evaluate", "nowhere", "--days", DAYS[0]], "nowhere: no config.yaml there"),
    "no log": (["inspect", "nowhere"], "nowhere"),
    "an option without a value": (["import", "frappe", "--from", "a", "--out", "b", "--set", "days"], "write OPTION=VALUE"),
    "no importer": (["import", "frape", "--from", "a", "--out", "b"], "no importer 'frape'; did you mean 'frappe'?"),
    "a folder that cannot be": (["synth", "--out", "/dev/null/log", "--days", "1"], "/dev/null"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_on_standard_error_without_a_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, told = MISTAKES[name]
    monkeypatch.chdir(tmp_path)

    done = genctr(*words)

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("genctr: ")
    assert told in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_full_disk_is_told_with_the_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "synthetic.json.tmp").symlink_to("/dev/full")

    done = genctr("synth", "--out", tmp_path, "--days", "1", "--rows", "9")

    assert (done.code, done.out) == (2, "")
    assert done.err == (
        f"genctr: [Errno 28] No space left on device: '{tmp_path}/synthetic.json'\n"
        "  next: make room, and run the same command again\n"
    )


@pytest.fixture
def no_more_threads() -> Iterator[None]:
    """The system gives this process no thread more: none has room for a stack of this size."""
    usual = threading.stack_size(1 << 46)
    yield
    threading.stack_size(usual)


@pytest.mark.usefixtures("no_more_threads")
def test_a_system_without_room_for_threads_is_told_with_what_to_do(config: Path, tmp_path: Path) -> None:
    done = train(config, tmp_path / "run")

    assert done.code == 2
    assert done.err.startswith("genctr: can't start new thread\n")
    assert "next: end other processes of this user, or raise the limit (`ulimit -u`" in done.err


def test_an_impossible_day_is_told_before_anything_is_loaded(trained: Path) -> None:
    before = (trained / "log.jsonl").read_text()

    done = genctr("evaluate", trained, "--days", "2026-02-30")

    assert (done.code, done.out) == (2, "")
    assert "'2026-02-30' is not a date" in done.err
    assert (trained / "log.jsonl").read_text() == before


def test_days_without_an_end_are_not_cut_to_their_first(trained: Path) -> None:
    before = (trained / "log.jsonl").read_text()

    done = genctr("evaluate", trained, "--days", f"{DAYS[2]}..", "--quiet")

    assert (done.code, done.out) == (2, "")
    assert f"days '{DAYS[2]}..' have no end\n  next: name the last one" in done.err
    assert (trained / "log.jsonl").read_text() == before


def test_without_a_ledger_nothing_is_proven(trained: Path) -> None:
    done = genctr("verify", trained)

    assert (done.code, done.out) == (2, "")
    assert f"{trained} has no ledger, so nothing can be proven" in done.err


def test_a_device_that_is_not_there(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    done = train(config, tmp_path / "run", "train.device=cuda")

    assert done.code == 2
    assert "train.device is cuda, but torch finds none here" in done.err


@pytest.mark.parametrize("words", [[], ["tarin"], ["train"], ["train", "run.yaml", "--st", "a=b"]])
def test_words_that_are_no_command_end_with_the_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        cli.main(words)
    assert capsys.readouterr().err.startswith("usage: genctr")


def test_a_second_job_refuses_at_once_and_names_the_first(config: Path, tmp_path: Path) -> None:
    with Lease(str(tmp_path / "run"), seconds=60):
        done = train(config, tmp_path / "run")

        assert (done.code, done.out) == (5, "")
        assert f"lease.json: process {os.getpid()} on " in done.err
        assert "works on this run\n  next: let it finish" in done.err
        assert not (tmp_path / "run" / "config.yaml").exists()


def test_who_only_looks_may_do_so_beside_a_job_and_leaves_the_log_alone(trained: Path) -> None:
    before = {own.name: own.read_bytes() for own in trained.iterdir() if own.is_file()}
    with Lease(str(trained), seconds=60):
        done = genctr("evaluate", trained, "--days", DAYS[2], "--quiet")

    assert done.code == 0, done.err
    assert DAYS[2] in done.out
    assert f"what was found is not in {trained}/log.jsonl, which another job is writing" in done.err
    assert {own.name: own.read_bytes() for own in trained.iterdir() if own.name in before} == before


def test_a_mistake_of_ours_keeps_its_traceback(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> bool:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(PATHS, "exists", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        train(config, tmp_path / "run")


# --- stopped by a person, and more ranks than one ---


@pytest.mark.parametrize(
    "said", ["[pair.cc:536] Connection closed by peer [10.0.0.2]:41", "writev [10.0.0.2]:41: Connection reset by peer",
             "writev [10.0.0.2]:41: Broken pipe"]
)  # fmt: skip
def test_a_rank_that_lost_another_says_so_and_lets_that_one_speak(
    said: str, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(path: str) -> bool:
        raise RuntimeError(said)

    monkeypatch.setattr(PATHS, "exists", lost)
    monkeypatch.setattr(cli, "YIELD", 0.0)

    done = train(config, tmp_path / "run")

    assert (done.code, done.err) == (1, "genctr: lost another rank; see what it said\n")


def _main(words: list[str], told: str) -> None:
    os.dup2(os.open(told, os.O_CREAT | os.O_WRONLY), 2)
    sys.exit(cli.main(words))


def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(config: Path, tmp_path: Path) -> None:
    out, told = tmp_path / "run", tmp_path / "told"
    line = ["train", str(config), "--out", str(out), "--quiet", "--set", "train.epochs=1000"]
    child = SERVER.Process(target=_main, args=(line, str(told)))
    child.start()
    while not (out / "log.jsonl").exists() or len(events(out, "trained")) < 3:
        time.sleep(0.02)
        assert child.is_alive(), told.read_text()
    os.kill(child.pid, signal.SIGINT)
    child.join(300)

    assert child.exitcode == 130
    assert "genctr: stopped; run the same command again to go on from the last checkpoint" in told.read_text()
    assert "Traceback" not in told.read_text()
    reached = events(out, "trained")[-1]["epoch"]
    assert train(config, out, f"train.epochs={reached + 2}").code == 0
    assert events(out, "resumed")


def launched(*words: str, cwd: Path, **variables: str) -> Done:
    """A rank of its own for the command, as the installed `genctr` starts it: without this folder among Python's."""
    line = "import sys; from launch.ranks import on_ranks; sys.exit(on_ranks(1, sys.argv[1:], {}))"
    command = [sys.executable, "-P", "-c", line, *words]
    done = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT | variables, capture_output=True, text=True, check=False, timeout=300
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_ranks_take_no_file_of_the_folder_they_are_started_in_for_ours_and_leave_no_folder_of_torchruns(tmp_path: Path) -> None:
    (tmp_path / "data.py").touch()

    done = launched("status", "nowhere", cwd=tmp_path, TMPDIR=str(tmp_path))

    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("genctr: nowhere: no config.yaml there")
    assert not list(tmp_path.glob("torchelastic*"))


def rank_of(process: int) -> str | None:
    """The RANK that a launcher gave to a process of this machine."""
    variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next((variable[5:].decode() for variable in variables if variable.startswith(b"RANK=")), None)


@pytest.mark.slow
def test_two_ranks_train_through_torchrun_and_go_on_when_one_was_killed(config: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    line = ["train", str(config), "--out", str(out), "--quiet", "--set", "train.ranks=2"]
    endless = [sys.executable, "-m", "launch", *line, "--set", "train.epochs=1000"]
    with subprocess.Popen(endless, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as command:
        while len(events(out, "trained")) < 3:
            time.sleep(0.05)
            assert command.poll() is None
        ranks = map(int, Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split())
        os.kill(next(process for process in ranks if rank_of(process) == "1"), signal.SIGKILL)
        told = command.stderr.read()

    assert command.returncode == 1
    assert "genctr: rank 1 died of SIGKILL; run the same command again to go on from the last checkpoint" in told
    assert "Traceback" not in told

    finish(start(config, out, 2, f"train.epochs={events(out, 'trained')[-1]['epoch'] + 1}"))
    assert events(out, "resumed")[0]["ranks"] == 2
    assert_every_row_once(config, out)
    assert [event["rows"] for event in events(out, "tested")] == [event["rows"] for event in events(trained, "tested")]
    assert json.loads(max((out / "checkpoints").glob("step-*/checkpoint.json")).read_text())["meta"]["ranks"] == 2


@pytest.mark.slow
def test_a_rank_with_a_bad_row_ends_all_of_them_and_its_message_is_what_is_read(config: Path, tmp_path: Path) -> None:
    part = next((config.parent / "log" / f"day={DAYS[0]}").glob("part-00002.parquet"))
    days = tmp_path / "log" / f"day={DAYS[0]}"
    days.mkdir(parents=True)
    for file in part.parent.iterdir():
        (days / file.name).write_bytes(file.read_bytes())
    table = pq.read_table(part)
    labels = table["is_click"].to_pylist()
    labels[-1] = 7  # at the end of the last lane, which the second rank reads
    pq.write_table(table.set_column(table.schema.get_field_index("is_click"), "is_click", pa.array(labels, pa.int8())),
                   days / part.name)  # fmt: skip
    run = yaml.safe_load(config.read_text())
    run["data"] |= {"root": str(tmp_path / "log"), "days": [DAYS[0]], "validation": [], "test": [], "shuffle_buffer_rows": 0}
    run["train"] |= {"ranks": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))

    line = [sys.executable, "-m", "launch", "train", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "run"), "--quiet"]
    told, when = "", {}
    with subprocess.Popen(line, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as command:
        for said in command.stderr:
            told += said
            when[said.rstrip()] = time.monotonic()
    ended = time.monotonic()

    assert command.returncode == 2
    assert ended - when["genctr (rank 1): the label of target 'is_click' is 7"] < 30, "no rank waits for the other"
    assert f"file {days / part.name}, row {len(labels) - 1}, column is_click" in told
    assert "Traceback" not in told


def test_an_error_of_all_ranks_is_printed_once_and_another_one_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "FIRST", 0.0)
    monkeypatch.setenv("GENCTR_STORE", str(tmp_path / "store"))
    said = []
    for rank, run in (("0", "nowhere"), ("1", "nowhere"), ("1", "elsewhere")):
        monkeypatch.setenv("RANK", rank)
        done = genctr("status", tmp_path / run)
        assert done.code == 2
        said.append(done.err.partition(":")[0])

    assert said == ["genctr", "", "genctr (rank 1)"]
    monkeypatch.delenv("GENCTR_STORE")
    assert genctr("status", tmp_path / "nowhere").err.startswith("genctr (rank 1): ")
