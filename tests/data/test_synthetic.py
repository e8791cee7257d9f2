"""The synthetic log: its truth is the truth, its bytes depend on the arguments alone, its histories never tell the future."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.days import Days
from data.errors import GenctrError
from data.readers import ParquetReader
from data.schema import Schema
from data.synthetic import World, best_reachable, scores, write
from data.yaml_document import read_document

ROWS = 4_000
DAY_MS = 86_400_000


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("log")
    write(str(out), 3, ROWS, 7)
    return out


def read(day: Path) -> pa.Table:
    return pq.read_table(day, partitioning=None)


def digests(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file()}


def is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def test_the_same_arguments_give_the_same_bytes_and_another_seed_gives_others(log: Path, tmp_path: Path) -> None:
    write(str(tmp_path / "again"), 3, ROWS, 7)
    write(str(tmp_path / "other"), 3, ROWS, 8)

    assert digests(tmp_path / "again") == digests(log)
    assert not set(digests(tmp_path / "other").values()) & {v for k, v in digests(log).items() if k.endswith(".parquet")}


def test_fewer_days_are_the_first_of_more(log: Path, tmp_path: Path) -> None:
    write(str(tmp_path), 1, ROWS, 7)

    assert digests(tmp_path / "day=2026-11-01") == digests(log / "day=2026-11-01")


def test_days_are_complete_and_have_several_files_and_row_groups_that_nothing_divides(log: Path) -> None:
    days = Days(str(log), reader=ParquetReader())

    assert days.list() == ["2026-11-01", "2026-11-02", "2026-11-03"]
    opened = [days.open(name, ["user_id"]) for name in days.list()]
    for day in opened:
        assert is_prime(day.rows)
        assert 0.9 * ROWS <= day.rows <= 1.1 * ROWS + 50  # the next prime is near
        assert len(day.files) == 3
        assert len({file.rows for file in day.files}) == 3
        assert all(len(file.units) > 1 for file in day.files)
    assert len({day.rows for day in opened}) == 3


def test_the_log_is_what_the_demo_schema_says(log: Path) -> None:
    schema = read_document("launch/configs/demo.schema.yaml", Schema)
    file = next(log.rglob("*.parquet"))

    schema.check(pq.read_schema(file), str(file))
    assert "true_ctr" not in schema.columns()


def test_the_true_probability_is_the_rate_of_clicks(tmp_path: Path) -> None:
    write(str(tmp_path), 1, 40_000, 0)
    table = read(tmp_path / "day=2026-11-01")
    truth, clicks = table["true_ctr"].to_numpy().astype(float), table["is_click"].to_numpy()

    for tenth in np.array_split(np.argsort(truth), 10):
        deviation = math.sqrt((truth[tenth] * (1 - truth[tenth])).sum())
        assert abs(clicks[tenth].sum() - truth[tenth].sum()) < 4 * deviation


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_best_reachable_auc_is_worth_a_model_and_no_model_is_perfect(seed: int, tmp_path: Path) -> None:
    write(str(tmp_path), 1, 20_000, seed)

    assert 0.75 <= best_reachable(str(tmp_path / "day=2026-11-01"))["auc"] <= 0.80


def test_the_manifest_says_rows_and_best_scores_of_every_day(log: Path) -> None:
    manifest = json.loads((log / "synthetic.json").read_text())

    assert manifest["seed"] == 7
    for name, said in manifest["days"].items():
        table = read(log / f"day={name}")
        assert said["rows"] == table.num_rows
        assert said["ctr"] == pytest.approx(table["is_click"].to_numpy().mean())
        assert {"auc": said["auc"], "logloss": said["logloss"]} == pytest.approx(best_reachable(table))


def test_a_history_holds_clicks_of_earlier_days_oldest_first(log: Path) -> None:
    first, third = read(log / "day=2026-11-01"), read(log / "day=2026-11-03")
    midnight = int(np.datetime64("2026-11-03", "ms").astype(np.int64))
    clicked = first.filter(first["is_click"].to_numpy() == 1)
    known = set(zip(*(clicked[name].to_pylist() for name in ("user_id", "item_id", "time_ms")), strict=True))

    seen = set()
    rows = zip(*(third[name].to_pylist() for name in ("user_id", "history", "history_time_ms")), strict=True)
    for user, items, times in rows:
        assert len(items) == len(times) <= 20
        assert times == sorted(times)
        assert not times or times[-1] < midnight
        seen |= {(user, item, time) for item, time in zip(items, times, strict=True)}

    seen = {event for event in seen if midnight - 2 * DAY_MS <= event[2] < midnight - DAY_MS}
    assert seen, "no history reaches back to the first day: this test proves nothing"
    assert seen <= known


def test_rows_come_in_the_order_of_their_time_and_the_hour_is_that_of_the_time(log: Path) -> None:
    for day in sorted(log.glob("day=*")):
        table = read(day)
        times = table["time_ms"].to_numpy()
        midnight = int(np.datetime64(day.name.removeprefix("day="), "ms").astype(np.int64))

        assert (np.diff(times) >= 0).all()
        assert midnight <= times[0] <= times[-1] < midnight + DAY_MS
        np.testing.assert_array_equal(table["hour"].to_numpy(), (times - midnight) // 3_600_000)


def test_new_items_appear_every_day_and_old_ones_change_slowly() -> None:
    world = World(seed=0, users=10, items=200, days=5)

    assert [world.on_sale(day) for day in range(3)] == [200, 202, 204]
    assert [len(world.item_chances(day)) for day in range(3)] == [200, 202, 204]
    np.testing.assert_array_equal(world.shapes(0), world.shape_IK)
    # cos(0.05 * 20) = 0.54 of the old direction is left after twenty days.
    left = (world.shapes(20) * world.shape_IK).sum() / (world.shape_IK**2).sum()
    assert left == pytest.approx(0.54, abs=0.1)


def test_scores_are_those_worked_out_by_hand() -> None:
    # Of the 4 pairs of a click and another row, 3 are in the right order.
    assert scores(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))["auc"] == pytest.approx(0.75)
    # One pair right, one tie: 1.5 of 2.
    assert scores(np.array([0.2, 0.5, 0.5]), np.array([0, 0, 1]))["auc"] == pytest.approx(0.75)
    assert scores(np.array([0.5, 0.25]), np.array([1, 0]))["logloss"] == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert math.isnan(scores(np.array([0.5, 0.25]), np.array([1, 1]))["auc"])


def test_more_rows_than_a_file_holds_give_more_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.synthetic.ROWS_A_FILE", 500)
    write(str(tmp_path), 1, 4_000, 0)

    assert len(list(tmp_path.glob("day=*/*.parquet"))) >= 8


def test_an_impossible_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match="2026-11-31"):
        write(str(tmp_path), 1, 100, 0, "2026-11-31")
