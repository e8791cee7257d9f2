"""Frequencies: counted as collated, without what stands for no value, stored whole."""

from pathlib import Path

import numpy as np
import pytest

from data.errors import GenctrError
from data.features import Features
from data.frequencies import Frequencies
from pipeline.builders.source import build_source
from pipeline.config.run import load
from tests.tiny import DAYS, built, write_log


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Features, Frequencies, float]:
    config = write_log(tmp_path_factory.mktemp("frequencies"))
    with built(config, config.parent / "run"):
        pass
    run, schema = load(str(config))
    source = build_source(run, schema, str(config.parent / "run"))
    stream = source.stream(source.open(DAYS[0]))
    batches = list(stream.batches(stream.start()))
    clicks = sum(float(batch.labels.sum()) for batch in batches)
    return source.features, Frequencies.count(source.features, batches), clicks


def test_every_row_of_a_field_without_missing_ids_is_counted(counted: tuple[Features, Frequencies, float]) -> None:
    features, frequencies, clicks = counted
    rows = frequencies.counts["is_click"].sum()

    assert rows > 100
    assert frequencies.counts["is_click"][1] == clicks
    assert frequencies.counts["tab"].sum() == rows
    assert frequencies.counts.keys() == {*features.bag_keys, *features.sequence_keys, "is_click"}


def test_what_stands_for_no_value_is_not_counted(counted: tuple[Features, Frequencies, float]) -> None:
    features, frequencies, _ = counted
    for table in features.tables:
        for field in table.fields:
            assert frequencies.counts[field][: table.reserved].sum() == 0


def test_the_entropy_is_that_of_the_shares() -> None:
    frequencies = Frequencies(
        {"even": np.array([0, 5, 5, 5, 5]), "sure": np.array([0, 9]), "none": np.zeros(3, dtype=np.int64)}
    )

    assert frequencies.entropy("even") == pytest.approx(np.log(4))
    assert frequencies.entropy("sure") == frequencies.entropy("none") == 0


def test_what_is_stored_is_loaded_and_what_is_not_is_told(tmp_path: Path) -> None:
    frequencies = Frequencies({"a": np.array([1, 2, 3])})
    frequencies.save(str(tmp_path / "statistics" / "f.npz"))

    assert Frequencies.load(str(tmp_path / "statistics" / "f.npz")).counts["a"].tolist() == [1, 2, 3]
    assert [file.name for file in (tmp_path / "statistics").iterdir()] == ["f.npz"]
    with pytest.raises(GenctrError, match="no usable frequencies"):
        Frequencies.load(str(tmp_path / "nothing.npz"))
    (tmp_path / "half.npz").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(GenctrError, match="no usable frequencies"):
        Frequencies.load(str(tmp_path / "half.npz"))


def test_counts_that_are_taken_anew_replace_the_old_ones(tmp_path: Path) -> None:
    path = str(tmp_path / "statistics" / "f.npz")
    Frequencies({"a": np.array([1, 2, 3])}).save(path)
    Frequencies({"a": np.array([1, 2, 3]), "new": np.array([4, 5])}).save(path)

    assert Frequencies.load(path).counts.keys() == {"a", "new"}
    assert [file.name for file in (tmp_path / "statistics").iterdir()] == ["f.npz"]


def test_counts_are_of_the_fields_tables_and_tasks_they_were_counted_for(
    counted: tuple[Features, Frequencies, float],
) -> None:
    features, frequencies, _ = counted
    _, *others = sorted(frequencies.counts)
    shorter = {**frequencies.counts, "tab": frequencies.counts["tab"][:-1]}

    assert frequencies.are_of(features)
    assert not Frequencies({name: frequencies.counts[name] for name in others}).are_of(features)
    assert not Frequencies(shorter).are_of(features)
