"""A name finds our own part or an installed package's, and what is wrong with a name or an option is told."""

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from data.errors import BadInput, GenctrError
from pipeline.config.registry import bind, find

OWN = MappingProxyType({"square": abs, "circle": max})
GROUP = "genctr.shapes"


def install(folder: Path, points: str, code: str, group: str = GROUP) -> None:
    """A package with entry points, as pip leaves it."""
    info = folder / "shapes-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shapes\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{points}\n")
    (folder / "outside_shapes.py").write_text(code)
    sys.modules.pop("outside_shapes", None)  # another test's


def area(*, width: int, height: int = 2, fields: int = 1) -> int:
    if height < 0:
        raise ValueError(f"height is {height}; expected 0 or more")
    return width * height * fields


def test_our_own_are_found_by_name() -> None:
    assert find(GROUP, "circle", OWN) is max


def test_an_installed_package_adds_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "hexagon = outside_shapes:hexagon", "def hexagon():\n    return 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert find(GROUP, "hexagon", OWN)() == 6
    assert find(GROUP, "circle", OWN) is max


def test_a_package_that_is_not_asked_for_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "hexagon = outside_shapes:hexagon", "raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert find(GROUP, "square", OWN) is abs


def test_installed_packages_are_read_once_and_not_for_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scans: list[int] = []
    real = importlib.metadata.distributions
    monkeypatch.setattr(importlib.metadata, "distributions", lambda **path: scans.append(1) or real(**path))
    install(tmp_path, "hexagon = outside_shapes:hexagon", "def hexagon():\n    return 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    for name in ("hexagon", "circle", "square"):
        find(GROUP, name, OWN)

    assert len(scans) == 1


@pytest.mark.parametrize(
    ("point", "why"),
    [("no_such_module:hexagon", "No module named 'no_such_module'"), ("outside_shapes:hexagn", "has no attribute 'hexagn'")],
)
def test_a_package_that_cannot_be_loaded_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, why: str
) -> None:
    install(tmp_path, f"hexagon = {point}", "def hexagon():\n    return 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(GenctrError, match=f"^genctr.shapes: hexagon = {point} of shapes 1 cannot be loaded: .*{why}"):
        find(GROUP, "hexagon", OWN)


def test_a_package_never_replaces_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "circle = outside_shapes:hexagon", "def hexagon():\n    return 6\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(GenctrError, match=r"^genctr.shapes: an installed package reuses our names \['circle'\]"):
        find(GROUP, "square", OWN)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sqare", "genctr.shapes: no 'sqare', nearest 'square'; choose from ['circle', 'hexagon', 'square']"),
        ("zzz", "genctr.shapes: no 'zzz'; choose from ['circle', 'hexagon', 'square']"),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_and_all_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, told: str
) -> None:
    install(tmp_path, "hexagon = outside_shapes:hexagon", "")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(GenctrError) as error:
        find(GROUP, name, OWN)
    assert str(error.value) == told


def test_options_become_arguments_beside_what_is_given() -> None:
    assert bind("shape", area, {"height": 5}, given={"width": 3, "fields": 2}) == 30


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"heigth": 5}, "shape: unknown option 'heigth', nearest 'height'; it has ['height', 'width']"),
        ({"zzz": 5}, "shape: unknown option 'zzz'; it has ['height', 'width']"),
        # What the builder gives is not for the file to say.
        ({"fields": 7}, "shape: unknown option 'fields'; it has ['height', 'width']"),
        ({"height": -1}, "shape: height is -1; expected 0 or more"),
        ({"height": "high"}, "shape: '<' not supported between instances of 'str' and 'int'"),
    ],
)
def test_a_wrong_option_or_value_is_the_users_mistake(options: dict[str, object], told: str) -> None:
    with pytest.raises(GenctrError) as error:
        bind("shape", area, {"width": 1, **options}, given={"fields": 1})
    assert str(error.value) == told


@dataclass(frozen=True)
class Paint:
    colour: str = "red"
    coats: int = 1


def painted(*, width: int, paint: Paint = Paint(coats=2)) -> tuple[int, Paint]:
    return width, paint


def test_an_argument_whose_default_is_a_dataclass_holds_the_options_that_are_its_fields() -> None:
    assert bind("shape", painted, {"width": 3}) == (3, Paint("red", 2))
    assert bind("shape", painted, {"colour": "blue", "width": 3}) == (3, Paint("blue", 2))
    assert bind("shape", painted, {"colour": "blue", "coats": 0}, given={"width": 3}) == (3, Paint("blue", 0))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("color", "shape: unknown option 'color', nearest 'colour'; it has ['coats', 'colour', 'width']"),
        ("paint", "shape: unknown option 'paint'; it has ['coats', 'colour', 'width']"),
    ],
)
def test_the_group_is_no_option_and_a_misspelt_field_of_it_is_told_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(GenctrError) as error:
        bind("shape", painted, {"width": 3, name: "blue"})
    assert str(error.value) == told


def test_an_option_that_must_be_said_and_is_not() -> None:
    with pytest.raises(GenctrError, match=r"^shape: area\(\) missing 1 required keyword-only argument: 'width'$"):
        bind("shape", area, {})


def test_a_mistake_that_is_told_already_is_told_as_it_is() -> None:
    def refuse() -> None:
        raise BadInput("no such file", file="x")

    with pytest.raises(BadInput, match=r"^no such file\n  where: file x$"):
        bind("reader", refuse, {})
