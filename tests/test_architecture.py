"""The arrows between the four rooms, and that the guards of this file bite."""

import ast
import sys
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
"""The rooms, and which of them each may know."""

MAY_USE = {
    "models": {"torch", "torchrec"},
    "data": {"torch", "torchrec", "iopath", "numpy", "pyarrow", "pydantic", "yaml"},
}
"""The libraries of the two lower rooms, beside Python's own. The upper ones may use whatever is pinned."""

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


GUARDS = [imports_only_downward, uses_only_its_libraries, names_every_argument]


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
@pytest.mark.parametrize("file", FILES, ids=str)
def test_every_file(guard, file: Path) -> None:
    assert guard(file.parts[0], ast.parse((ROOT / file).read_text())) == []


def test_every_package_is_a_room() -> None:
    assert {file.parent.name for file in ROOT.glob("*/__init__.py")} == set(MAY_IMPORT)


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
        (uses_only_its_libraries, "models", "import numpy as np"),
        (uses_only_its_libraries, "models", "from pyarrow import parquet"),
        (uses_only_its_libraries, "data", "def f():\n    import pandas"),
        (names_every_argument, "models", "def f(a, **options): ..."),
        (names_every_argument, "data", "class A:\n    def __init__(self, **kwargs): ..."),
        (names_every_argument, "data", "class A(B):\n    def read(self, **options): ..."),
        (names_every_argument, "data", "class A:\n    def read(self, **_): ..."),
        (names_every_argument, "data", "class A(B):\n    def read(self):\n        def f(**_): ..."),
        (names_every_argument, "launch", "f = lambda **k: k"),
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
        ("data", "class Handler(PathHandler):\n    def _open(self, path, **_): ..."),
    ],
)
def test_the_guards_let_through_what_is_right(room: str, code: str) -> None:
    assert [complaint for guard in GUARDS for complaint in guard(room, ast.parse(code))] == []
