"""The arrows between the four folders and between the rooms of `pipeline/`, and that the guards of this file bite."""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "launch": {"launch", "pipeline", "data"},
    "pipeline": {"pipeline", "models", "data"},
    "models": {"models"},
    "data": {"data"},
}
"""The folders, and which of them each may know."""

ROOMS = (
    *("daily", "jobs", "serving", "planning", "builders", "training", "checkpoint", "distributed", "run_folder", "config"),
)
"""The rooms of `pipeline/`; each may know those after it."""

MOST_FILES, MOST_LINES = 12, 450

STILL_LARGE = {"data/schema.py"}
"""Files of more than MOST_LINES: none may come to it."""

MAY_USE = {
    "models": {"torch", "torchrec"},
    "data": {"torch", "torchrec", "iopath", "numpy", "pyarrow", "pydantic", "yaml"},
}
"""The libraries of the two lower rooms, in addition to the standard library. The upper ones may use whatever is pinned."""

FILES = sorted(file.relative_to(ROOT) for room in MAY_IMPORT for file in (ROOT / room).rglob("*.py"))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and module of every import, those inside functions and those by a literal name too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def imports_only_downward(room: str, tree: ast.AST) -> list[str]:
    return [
        f"line {line}: {room} imports {module}"
        for line, module in imports(tree)
        if module.partition(".")[0] in MAY_IMPORT.keys() - MAY_IMPORT[room]
    ]


def imports_only_lower_rooms(room: str, tree: ast.AST) -> list[str]:
    """Of a file of `pipeline/`: no room above its own."""
    above = ROOMS[: ROOMS.index(room)] if room in ROOMS else ()
    return [
        f"line {line}: {room} imports {module}"
        for line, module in imports(tree)
        if module.split(".")[0] == "pipeline" and [*module.split("."), ""][1] in above
    ]


def uses_only_its_libraries(room: str, tree: ast.AST) -> list[str]:
    known = MAY_IMPORT.keys() | sys.stdlib_module_names | MAY_USE.get(room, set())
    return [
        f"line {line}: {room} imports {module}"
        for line, module in imports(tree)
        if room in MAY_USE and module.partition(".")[0] not in known
    ]


def names_every_argument(_: str, tree: ast.AST) -> list[str]:
    """No `**kwargs`. A method that overrides a library's may ignore what it does not need as `**_`."""
    overrides = {id(method) for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.bases for method in node.body}
    return [
        f"line {node.lineno}: **{node.args.kwarg.arg}"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and node.args.kwarg
        if not (id(node) in overrides and node.args.kwarg.arg == "_")
    ]


def asks_for_no_family(_: str, tree: ast.AST) -> list[str]:
    """What depends on the family or the objective is what `Family` and `Objective` say of themselves, for outside ones too."""
    kinds = {"Ranker", "Denoiser", "RankerConfig", "DenoiserConfig", "RankObjective", "DenoiseObjective"}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "isinstance":
            found += [(node.lineno, own.id) for own in ast.walk(node.args[1]) if isinstance(own, ast.Name) and own.id in kinds]
        elif isinstance(node, ast.Compare) and getattr(node.left, "attr", None) in ("family", "objective"):
            texts = [own.value for own in ast.walk(node) if isinstance(own, ast.Constant) and isinstance(own.value, str)]
            found += [(node.lineno, text) for text in texts]
    return [f"line {line}: is it {what}?" for line, what in found]


GUARDS = [imports_only_downward, uses_only_its_libraries, names_every_argument, asks_for_no_family]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_every_file(guard) -> None:
    complaints = {str(file): guard(file.parts[0], ast.parse((ROOT / file).read_text())) for file in FILES}
    assert {file: found for file, found in complaints.items() if found} == {}


def test_every_room_imports_lower_ones_only() -> None:
    files = [file for file in FILES if file.parts[0] == "pipeline"]
    complaints = {str(file): imports_only_lower_rooms(file.parts[1], ast.parse((ROOT / file).read_text())) for file in files}
    assert {file: found for file, found in complaints.items() if found} == {}


def test_every_folder_has_its_place() -> None:
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)
    assert {file.parent.name for file in (ROOT / "pipeline").glob("*/__init__.py")} == set(ROOMS)
    assert [file.name for file in (ROOT / "pipeline").glob("*.py")] == ["__init__.py"]


def test_no_room_has_more_than_a_dozen_files() -> None:
    counts = Counter(str(file.parent) for file in FILES if file.parts[0] == "pipeline" and file.name != "__init__.py")
    assert {room: count for room, count in counts.items() if count > MOST_FILES} == {}


def test_one_file_says_what_the_fork_server_of_all_tests_preloads() -> None:
    """The last one to say it wins, and each job of a test would import for itself what the others had preloaded."""
    said = "set_forkserver_" + "preload("
    assert [file.name for file in (ROOT / "tests").rglob("*.py") if said in file.read_text()] == ["helpers.py"]


def test_no_file_has_more_than_450_lines() -> None:
    lines = {str(file): len((ROOT / file).read_text().splitlines()) for file in FILES}
    assert {file for file, count in lines.items() if count > MOST_LINES} == STILL_LARGE


@pytest.mark.parametrize(
    ("guard", "room", "code"),
    [
        (imports_only_downward, "models", "from data.batch import Batch"),
        (imports_only_downward, "models", "import pipeline.config.run"),
        (imports_only_downward, "data", "def f():\n    import models.ranker"),
        (imports_only_downward, "data", "import json, models"),
        (imports_only_downward, "pipeline", "if True:\n    from launch import cli"),
        (imports_only_downward, "launch", "from models.ranker import Ranker"),
        (imports_only_downward, "models", "importlib.import_module('data.batch')"),
        (imports_only_downward, "models", "__import__('data')"),
        (imports_only_lower_rooms, "jobs", "from pipeline.daily.job import Daily"),
        (imports_only_lower_rooms, "config", "def f():\n    import pipeline.builders"),
        (imports_only_lower_rooms, "checkpoint", "importlib.import_module('pipeline.training.loop')"),
        (uses_only_its_libraries, "models", "import numpy as np"),
        (uses_only_its_libraries, "models", "from pyarrow import parquet"),
        (uses_only_its_libraries, "data", "def f():\n    import pandas"),
        (names_every_argument, "models", "def f(a, **options): ..."),
        (names_every_argument, "data", "class A:\n    def __init__(self, **kwargs): ..."),
        (names_every_argument, "data", "class A(B):\n    def read(self, **options): ..."),
        (names_every_argument, "data", "class A:\n    def read(self, **_): ..."),
        (names_every_argument, "data", "class A(B):\n    def read(self):\n        def f(**_): ..."),
        (names_every_argument, "launch", "f = lambda **k: k"),
        (asks_for_no_family, "pipeline", "if stage.objective == 'denoise': ..."),
        (asks_for_no_family, "launch", "x = 1 if config.model.family in ('ranker',) else 2"),
        (asks_for_no_family, "pipeline", "isinstance(job.objective.model, (Other, Denoiser))"),
    ],
)
def test_the_guards_bite(guard, room: str, code: str) -> None:
    assert len(guard(room, ast.parse(code))) == 1


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("launch", "from pipeline.config.run import load\nfrom data.errors import GenctrError\nimport rich"),
        ("pipeline", "import models.ranker, data.batch, fbgemm_gpu"),
        ("models", "import math\nimport torch.nn.functional as F\nfrom torchrec.sparse.jagged_tensor import KeyedJaggedTensor"),
        ("data", "from data import cursor\nimport pyarrow.parquet as pq\n\ndef f(*names, key=1): ..."),
        ("pipeline", "if stage.objective != last.objective: ...\nisinstance(model, nn.Module)"),
        ("data", "class Handler(PathHandler):\n    def _open(self, path, **_): ..."),
    ],
)
def test_the_guards_let_through_what_is_right(room: str, code: str) -> None:
    assert [complaint for guard in GUARDS for complaint in guard(room, ast.parse(code))] == []
