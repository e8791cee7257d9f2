"""`genctr plan`: what it prints, for people and for programs, and how it ends."""

import json
from pathlib import Path

import pytest
import yaml

from data.errors import GenctrError
from launch.plans import rank_ranges, vocabulary_sizes
from tests.tiny import Done, genctr

FIELDS = [{"name": "user", "kind": "id", "ids": "hash", "rows": 10**6}, {"name": "tab", "kind": "id", "ids": "vocab"}]


def plan(folder: Path, *words: object, **model: object) -> Done:
    (folder / "schema.yaml").write_text(yaml.safe_dump({"name": "s", "label": {"column": "y"}, "fields": FIELDS}))
    run = {"schema": "schema.yaml", "data": {"root": "/log", "days": ["2026-11-01"]}, "model": model or {"decoder": "fm"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(run))
    return genctr("plan", folder / "run.yaml", *words)


def test_json_says_what_the_tables_say(tmp_path: Path) -> None:
    done = plan(tmp_path, "--ranks", 2, "--device", "a100", "--vocab-rows", 98, "--usd-per-hour", 20, "--json")

    [paper] = json.loads(done.out)
    assert done.code == 0
    assert paper["fits"]
    assert (paper["device"], paper["ranks"], paper["hosts"]) == ("a100", 2, 1)
    assert paper["tables"]["user"]["bytes"] == 10**6 * (16 * 4 + 4)
    assert paper["tables"]["tab"]["rows"] == 100
    assert len(paper["per_rank"]) == 2
    assert paper["usd_per_billion_rows"] == pytest.approx(1e9 / paper["rows_per_second"] / 3600 * 20)
    assert paper["milliseconds"]["step"] == pytest.approx(4096 / paper["rows_per_second"] * 1e3)


def test_what_does_not_fit_ends_with_1_and_saves_nothing(tmp_path: Path) -> None:
    words = ("--vocab-rows", "1", "--set", "train.hardware.ddr_gib=0.05", "--save", tmp_path / "plan.json")

    done = plan(tmp_path, *words)

    assert done.code == 1
    assert "it does not fit; each of these by itself:" in done.out
    assert "hosts" in done.out
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--device", "h1000"), "no device 'h1000'; did you mean 'h100'?"),
        (("--ranks", 3, "--hosts", 2), "3 ranks do not divide by 2 hosts"),
        (("--ranks", 8), "8 ranks cannot share 4 lanes"),
        ((), "tab: a vocabulary has no size before it is fitted"),
        (("--vocab-rows", "many"), "--vocab-rows 'many': write a number"),
        (("--out", "nowhere"), "nowhere/statistics/statistics.json: no usable statistics"),
        (("--set", "train.comm_precision=bf16"), "gloo cannot add bf16 numbers up"),
        (("--set", "tables.compute_kernel=magic"), "tables.compute_kernel"),
    ],
)
def test_bad_questions_end_with_2(tmp_path: Path, words: tuple[object, ...], told: str) -> None:
    done = plan(tmp_path, *words)

    assert done.code == 2
    assert told in done.err


def test_a_denoisers_stages_are_planned_one_after_the_other(tmp_path: Path) -> None:
    done = plan(tmp_path, "--vocab-rows", 5, family="denoiser")

    assert done.code == 0
    assert "stage pretrain: 1 ranks" in done.out
    assert "stage rank: 1 ranks" in done.out


@pytest.mark.parametrize(
    ("text", "sizes"),
    [("", {}), ("5", {"": 5}), ("tab=5, city=1_000", {"tab": 5, "city": 1000}), ("tab=5,7", {"tab": 5, "": 7})],
)
def test_sizes_are_read(text: str, sizes: dict[str, int]) -> None:
    assert vocabulary_sizes(text) == sizes


@pytest.mark.parametrize("text", ["tab", "tab=", "tab=x", "-1", "0", "_1", "²", "1e6"])
def test_sizes_that_are_none_are_told(text: str) -> None:
    with pytest.raises(GenctrError, match="write a number for all vocabularies, or TABLE=NUMBER"):
        vocabulary_sizes(text)


@pytest.mark.parametrize(
    ("ranks", "text"), [([0], "0"), ([0, 1, 2, 3], "0-3"), ([0, 3], "0, 3"), ([1, 2, 5, 6, 7], "1-2, 5-7")]
)
def test_ranks_next_to_each_other_are_one_word(ranks: list[int], text: str) -> None:
    assert rank_ranges(ranks) == text
