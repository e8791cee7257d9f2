"""Documents: what a user wrote, or a message that says which line to fix.

Run: pytest tests/data/test_yaml_document.py
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from data.errors import BadDocument
from data.yaml_document import BadValue, Section, read_document, write_document


class Circle(Section):
    """Round."""

    kind: Literal["circle"]
    """circle"""

    radius: float = Field(gt=0)
    """[cm] from the middle to the rim."""


class Square(Section):
    """Angular. Its kind is also the name of a key, as with the schema's `ids`."""

    kind: Literal["side"]
    """side"""

    side: int
    """[cm] of an edge."""

    @model_validator(mode="after")
    def _is_not_thirteen(self) -> "Square":
        if self.side == 13:
            raise BadValue("13 brings bad luck", "side")
        return self


class Paper(Section):
    """What shapes are drawn on."""

    colour: Literal["white", "yellow"] = "white"
    """Of the paper."""

    days: str | list[str] | None = None
    """When to draw."""

    scale: float = 1.0
    """[1] of the drawing."""

    shapes: tuple[Annotated[Circle | Square, Field(discriminator="kind")], ...] = ()
    """What to draw."""


class Drawing(Section):
    """The whole."""

    title: str
    """What it is called."""

    paper: Paper = Paper()
    """What it is drawn on."""

    named: dict[str, Circle] = Field(default_factory=dict)
    """Shapes with names."""


@pytest.fixture
def drawing(tmp_path: Path) -> str:
    path = tmp_path / "drawing.yaml"
    path.write_text(
        "title: Two shapes\n"
        "paper:\n"
        "  colour: white\n"
        "  shapes:\n"
        "    - {kind: circle, radius: 2}\n"
        "    - kind: side\n"
        "      side: 3\n"
    )
    return str(path)


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "written.yaml"
    path.write_text(text)
    return str(path)


def refusal(path: str, *overrides: str) -> str:
    with pytest.raises(BadDocument) as caught:
        read_document(path, Drawing, overrides)
    return str(caught.value)


def test_a_document_is_read_with_its_defaults(drawing: str) -> None:
    read = read_document(drawing, Drawing)

    assert read.paper.shapes == (Circle(kind="circle", radius=2), Square(kind="side", side=3))
    assert read.paper.scale == 1


def test_a_document_cannot_be_changed(drawing: str) -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_document(drawing, Drawing).title = "Another"


def test_what_is_written_reads_back_as_the_same(drawing: str, tmp_path: Path) -> None:
    first = read_document(drawing, Drawing, ["paper.days=[2026-11-01, '7', '1e3', 'no']", "paper.scale=1e-7"])
    write_document(str(tmp_path / "again.yaml"), first)

    assert read_document(str(tmp_path / "again.yaml"), Drawing) == first


def test_an_unknown_key_is_told_with_its_line_and_the_nearest_valid_key(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  color: white\n")

    assert refusal(path) == f"{path}, line 3: paper.color: unknown key\n  did you mean 'colour'?"


def test_a_key_like_no_other_is_told_with_all_valid_ones(tmp_path: Path) -> None:
    assert "valid: named, paper, title" in refusal(written(tmp_path, "title: x\nqqq: 1\n"))


def test_an_unknown_key_below_a_choice_of_sections_gets_the_keys_of_the_chosen_one(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  shapes:\n    - {kind: circle, radius: 1}\n    - kind: side\n      sied: 3\n")

    message = refusal(path)

    assert f"{path}, line 6: paper.shapes.1.sied: unknown key\n  did you mean 'side'?" in message
    assert f"{path}, line 5: paper.shapes.1.side: this key is missing\n  [cm] of an edge." in message


def test_an_unknown_key_below_a_free_name_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\nnamed:\n  sun:\n    kind: circle\n    radius: 1\n    radios: 2\n")

    assert f"{path}, line 6: named.sun.radios: unknown key\n  did you mean 'radius'?" in refusal(path)


def test_a_missing_key_is_told_with_what_it_means(tmp_path: Path) -> None:
    assert "line 1: title: this key is missing\n  What it is called." in refusal(written(tmp_path, "paper: {}\n"))


def test_an_empty_file_is_told_what_it_lacks(tmp_path: Path) -> None:
    assert "title: this key is missing" in refusal(written(tmp_path, ""))


def test_a_value_that_is_not_on_the_list_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper: {colour: yelow}\n")

    assert refusal(path) == f"{path}, line 2: paper.colour: no 'yelow'\n  did you mean 'yellow'?"


def test_an_unknown_kind_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  shapes:\n    - {kind: circel, radius: 1}\n    - {radius: 1}\n")

    message = refusal(path)

    assert f"{path}, line 4: paper.shapes.0.kind: no 'circel'\n  did you mean 'circle'?" in message
    assert f"{path}, line 5: paper.shapes.1.kind: this key is missing\n  valid: circle, side" in message


def test_a_value_out_of_range_is_told_with_what_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\nnamed:\n  sun: {kind: circle, radius: -1}\n")

    assert refusal(path) == f"{path}, line 3: named.sun.radius: Input should be greater than 0, got -1"


def test_a_value_that_fits_no_alternative_is_told_for_each(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  days: [a, [b]]\n")

    message = refusal(path)

    assert f"{path}, line 3: paper.days: Input should be a valid string" in message
    assert f"{path}, line 3: paper.days.1: Input should be a valid string, got ['b']" in message


def test_a_validator_can_name_the_key(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  shapes:\n    - kind: side\n      side: 13\n")

    assert refusal(path) == f"{path}, line 5: paper.shapes.0.side: 13 brings bad luck"


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, "titel: x\npaper: {color: 1, scale: big}\n"))

    assert message.count("line ") == 4, "titel, title, color, scale"


def test_a_key_written_twice_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  scale: 1\n  colour: white\n  scale: 2\n")

    assert refusal(path) == f"{path}, line 5: paper.scale: written twice, first on line 3"


@pytest.mark.parametrize("key", ["no", "5", "on", "1e-3", "~"])
def test_a_key_that_yaml_takes_for_something_else_is_told_with_its_line(key: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"title: x\nnamed:\n  sun: {{kind: circle, radius: 1}}\n  {key}: {{kind: circle, radius: 1}}\n")
    quoted = written(tmp_path / "..", f"title: x\nnamed:\n  '{key}': {{kind: circle, radius: 1}}\n")

    assert refusal(path) == f"{path}, line 4: named.{key}: YAML does not take this key for text: write {key!r}, with the quotes"
    assert list(read_document(quoted, Drawing).named) == [key]


def test_a_list_is_not_called_too_short_for_its_bad_elements(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  shapes:\n    - {kind: circel, radius: 1}\n")

    assert refusal(path) == f"{path}, line 4: paper.shapes.0.kind: no 'circel'\n  did you mean 'circle'?"


def test_what_is_not_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper: [1, 2\n")

    assert refusal(path).startswith(f"{path}, line 3: not valid YAML")


def test_a_list_is_not_a_document(tmp_path: Path) -> None:
    assert "expected keys and values, got a list" in refusal(written(tmp_path, "- 1\n"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(f"{tmp_path}/nothing.yaml") == f"{tmp_path}/nothing.yaml: there is no such file"


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xd8\xff\xe0")

    assert "picture.yaml: cannot be read as text" in refusal(f"{tmp_path}/picture.yaml")


def test_no_object_is_made_from_a_document(tmp_path: Path) -> None:
    assert "not valid YAML" in refusal(written(tmp_path, "title: !!python/object/apply:os.getcwd []\n"))


def test_a_day_is_a_name_and_an_exponent_makes_a_number(tmp_path: Path) -> None:
    path = written(tmp_path, "title: 12:30:45\npaper: {days: 2026-11-20, scale: 1e-3}\n")

    read = read_document(path, Drawing)

    assert (read.title, read.paper.days, read.paper.scale) == ("12:30:45", "2026-11-20", 0.001)


def test_an_alias_reads_as_what_it_stands_for(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\nnamed:\n  sun: &sun {kind: circle, radius: 1}\n  moon: *sun\n")

    assert read_document(path, Drawing).named["moon"].radius == 1


def test_an_override_wins_over_the_file(drawing: str) -> None:
    read = read_document(drawing, Drawing, ["title=Mine", "paper.shapes.1.side=5", "named.sun={kind: circle, radius: 1}"])

    assert (read.title, read.paper.shapes[1], read.named["sun"].radius) == ("Mine", Square(kind="side", side=5), 1)


def test_an_override_leaves_the_other_places_of_an_anchor_alone(tmp_path: Path) -> None:
    shapes = "[&one {kind: side, side: 3}, *one]"
    (tmp_path / "drawing.yaml").write_text(f"title: Twins\npaper: {{shapes: {shapes}}}\n")

    drawing = read_document(str(tmp_path / "drawing.yaml"), Drawing, ["paper.shapes.0.side=4"])

    assert [own.side for own in drawing.paper.shapes if isinstance(own, Square)] == [4, 3]


def test_of_two_overrides_of_one_key_the_last_wins(drawing: str) -> None:
    assert read_document(drawing, Drawing, ["title=a", "title=b"]).title == "b"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("paper.colr=white", "override 'paper.colr=white': paper.colr: unknown key\n  did you mean 'colour'?"),
        ("papr.colour=white", "override 'papr.colour=white': papr: unknown key\n  did you mean 'paper'?"),
        ("paper.colour=yelow", "override 'paper.colour=yelow': paper.colour: no 'yelow'\n  did you mean 'yellow'?"),
        ("paper.shapes.1.sde=4", "override 'paper.shapes.1.sde=4': paper.shapes.1.sde: unknown key\n  did you mean 'side'?"),
        ("paper.shapes.2.side=4", "paper.shapes is a list of 2: expected a number from 0 to 1, got '2'"),
        ("paper.shapes.one.side=4", "paper.shapes is a list of 2: expected a number from 0 to 1, got 'one'"),
        ("title.first=x", "override 'title.first=x': title is the value 'Two shapes', it has no key 'first'"),
        ("paper", "override 'paper': expected key.path=value"),
        ("title=[", "override 'title=[', line 1: not valid YAML"),
    ],
)
def test_a_wrong_override_is_told_as_such(drawing: str, override: str, message: str) -> None:
    assert message in refusal(drawing, override)


def test_a_mistake_of_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    path = written(tmp_path, "title: x\npaper:\n  color: white\n")

    assert refusal(path, "paper.scale=2").startswith(f"{path}, line 3: paper.color: unknown key")


NINE_TIMES = (f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghij"))
BOMB = "a: &a [x, x]\n" + "".join(NINE_TIMES)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BOMB, "aliases"),
        ("a: " + "[" * 20_000 + "]" * 20_000, "nested too deeply"),
        ("a: " + "[" * 20_000, "nested too deeply"),
        ("a: &a [*a]", "aliases"),
    ],
    ids=["bomb", "deep", "deep and not closed", "of itself"],
)
def test_a_document_that_grows_without_end_is_refused_at_once(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.yaml").write_text(text)

    with pytest.raises(BadDocument, match=told):
        read_document(str(tmp_path / "x.yaml"), Section)
