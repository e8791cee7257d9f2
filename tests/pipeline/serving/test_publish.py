import hashlib
import json
from pathlib import Path

import pytest

from data.errors import GenctrError
from pipeline.serving.bundle import BUNDLE_NAME, FORMAT, Bundle, BundleError, bundle_name, bundles, read_current
from pipeline.serving.publish import before, prune, switch
from tests.helpers import SERVER


def make(folder: Path, name: str) -> None:
    """The smallest whole bundle: a model of no weights."""
    own = folder / name
    own.mkdir(parents=True)
    content = name.encode() * 1000
    (own / "dense.safetensors").write_bytes(content)
    manifest = {
        "format": FORMAT,
        "bundle": name,
        "day": name,
        "step": 1,
        "targets": ["click"],
        "schema": {"name": "s", "label": {"column": "y"}, "fields": [{"name": "a", "kind": "number"}]},
        "model": {"family": "ranker"},
        "tables": {},
        "files": {"dense.safetensors": {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}},
    }
    (own / "manifest.json").write_text(json.dumps(manifest))


def publish(folder: str, uri: str) -> None:
    for number in range(100):
        name = f"day-{number:03}"
        make(Path(folder), name)
        switch(uri, name)
        prune(uri, keep=3, needed={name}, known=[f"day-{own:03}" for own in range(number + 1)])
    (Path(folder) / "done").touch()


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_reader_never_sees_half_a_model_or_none(tmp_path: Path, scheme: str) -> None:
    make(tmp_path, "day-")
    switch(str(tmp_path), "day-")
    writer = SERVER.Process(target=publish, args=(str(tmp_path), f"{scheme}{tmp_path}"))
    writer.start()
    seen, reads = [], 0
    while not (tmp_path / "done").exists():
        for again in range(3):  # a bundle may be let go of while it is read: the current one is another by then
            try:
                own = Bundle(str(tmp_path))
                assert own.verify() == len(own.name) * 1000
                break
            except BundleError:
                assert again < 2, "current names a bundle that is not whole"
        seen.append(own.name)
        reads += 1
    writer.join()
    assert writer.exitcode == 0
    assert reads > 20
    assert seen == sorted(seen), "never back"
    assert read_current(str(tmp_path))["bundle"] == "day-099"
    assert bundles(str(tmp_path)) == ["day-", "day-097", "day-098", "day-099"], "the first is not the run's"


def test_only_whole_bundles_are_switched_to(tmp_path: Path) -> None:
    make(tmp_path, "one")
    switch(str(tmp_path), "one")
    make(tmp_path, "two")
    (tmp_path / "two" / "dense.safetensors").write_bytes(b"short")
    with pytest.raises(BundleError):
        switch(str(tmp_path), "two")
    assert read_current(str(tmp_path))["bundle"] == "one"


def test_what_is_needed_stays(tmp_path: Path) -> None:
    for number in range(6):
        make(tmp_path, f"b{number}")
    (tmp_path / "b1" / "manifest.json").unlink()  # half removed by a kill
    known = [f"b{number}" for number in range(6)]
    prune(str(tmp_path), keep=2, needed={"b0"}, known=known)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b0", "b4", "b5"]


def test_what_current_names_and_what_another_run_has_published_stay(tmp_path: Path) -> None:
    for name in ("a", "b", "c", "theirs"):
        make(tmp_path, name)
    switch(str(tmp_path), "a")  # approved by a person; a kill came before the ledger's entry
    prune(str(tmp_path), keep=1, needed=[], known=["a", "b", "c"])
    assert bundles(str(tmp_path)) == ["a", "c", "theirs"]


def test_the_newest_are_those_that_were_judged_last_whatever_day_they_are_of(tmp_path: Path) -> None:
    order = ["2026-11-02-0000020", "2026-11-03-0000030", "2026-11-01+1-0000031"]
    for name in order:
        make(tmp_path, name)
    prune(str(tmp_path), keep=2, needed=[], known=order)
    assert sorted(bundles(str(tmp_path))) == sorted(order[1:])


def test_a_current_that_makes_no_sense_is_fixed_by_the_next_switch(tmp_path: Path) -> None:
    make(tmp_path, "one")
    (tmp_path / "current.json").write_text("{")
    switch(str(tmp_path), "one")
    assert read_current(str(tmp_path))["bundle"] == "one"


def test_the_way_back(tmp_path: Path) -> None:
    for name in "abcd":
        make(tmp_path, name)
    assert before(str(tmp_path), ["a", "b", "c"], []) == "b"
    assert before(str(tmp_path), ["a", "b", "c", "b"], ["c"]) == "a"
    assert before(str(tmp_path), ["a", "b", "c", "b", "d"], ["c"]) == "b"
    with pytest.raises(GenctrError, match="no earlier bundle"):
        before(str(tmp_path), ["a"], [])


@pytest.mark.parametrize("day", ["2026-11-01", "2026-11-01+1", "week 1", "2026周一", "-1", "a/b", "a\nb", "ä"])
def test_a_bundle_of_any_day_has_a_name_that_readers_take(day: str) -> None:
    assert BUNDLE_NAME.fullmatch(bundle_name(day, 7))
    assert BUNDLE_NAME.fullmatch(bundle_name(day, 7, 2))


def test_a_bundle_of_a_date_is_called_by_it() -> None:
    assert bundle_name("2026-11-01+1", 14, 2) == "2026-11-01+1-0000014-2"
