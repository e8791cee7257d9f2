"""Importers: small files in exactly the published formats become complete days, or an error that names the line."""

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.days import Days
from data.errors import BadInput, GenctrError
from data.importers import IMPORTERS, run_import
from data.importers.raw import Tap, days_of_dates
from data.readers import ParquetReader
from data.schema import Schema
from data.yaml_document import read_document


def days_of(out: Path) -> dict[str, pa.Table]:
    """Every complete day with all its rows, through the reader that training uses."""
    days = Days(str(out), reader=ParquetReader())
    return {name: pq.read_table(out / f"day={name}", partitioning=None) for name in days.list()}


def nothing_is_left(out: Path) -> bool:
    return not out.exists() or not list(out.iterdir())


# --- Criteo ---


def criteo_line(label: int, number: int) -> str:
    """Every third integer and every fifth id is missing; I2 may be negative in the original."""
    ints = ["" if k % 3 == 0 else str(number + k - 3) for k in range(1, 14)]
    ids = ["" if k % 5 == 0 else f"{number * 26 + k:08x}" for k in range(1, 27)]
    return "\t".join([str(label), *ints, *ids]) + "\n"


def test_criteo_of_kaggle_is_cut_by_row_order_into_equal_days(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("".join(criteo_line(int(n % 4 == 0), n) for n in range(23)))

    report = run_import("criteo", str(tmp_path), str(tmp_path / "out"), {"days": 3})

    days = days_of(tmp_path / "out")
    assert list(days) == ["2013-10-01", "2013-10-02", "2013-10-03"]
    assert {name: table.num_rows for name, table in days.items()} == report.days
    assert list(report.days.values()) == [7, 8, 8]
    assert report.rows == 23
    rows = pa.concat_tables(days.values())
    assert rows.column_names == ["label", *(f"I{k}" for k in range(1, 14)), *(f"C{k}" for k in range(1, 27))]
    assert rows["I1"].to_pylist() == [n - 2 for n in range(23)]
    assert rows["label"].to_pylist() == [int(n % 4 == 0) for n in range(23)]
    assert rows["I3"].null_count == rows["C5"].null_count == 23
    assert rows["C1"].to_pylist()[:2] == ["00000001", "0000001b"]


@pytest.mark.parametrize("zipped", [False, True])
def test_criteo_files_of_a_day_become_that_day(zipped: bool, tmp_path: Path) -> None:
    for day in (0, 23):
        text = "".join(criteo_line(0, n) for n in range(day + 2)).encode()
        (tmp_path / f"day_{day}{'.gz' if zipped else ''}").write_bytes(gzip.compress(text) if zipped else text)

    report = run_import("criteo", str(tmp_path), str(tmp_path / "out"))

    assert report.days == {"2013-10-01": 2, "2013-10-24": 25}


@pytest.mark.parametrize("zipped", [False, True])
def test_a_bad_criteo_line_is_named_and_no_day_is_left(zipped: bool, tmp_path: Path) -> None:
    lines = [criteo_line(0, n) for n in range(20)]
    bad = {
        "Expected 40 columns, got 39": lines[0][2:],
        "column 'I1'.*invalid value 'x'": "0\tx" + lines[0][lines[0].index("\t", 2) :],
        "the label is not 0 or 1": criteo_line(7, 0),
        "the label is not": "\n",
    }
    for number, (words, line) in enumerate(bad.items()):
        text = "".join([*lines[:16], line, *lines[17:]]).encode()
        file = tmp_path / f"{number}.txt"
        file.write_bytes(text)
        if zipped:
            file = tmp_path / f"{number}.gz"
            file.write_bytes(gzip.compress(text))

        with pytest.raises(BadInput, match=f"line 17: .*{words}") as error:
            run_import("criteo", str(file), str(tmp_path / "out"), {"days": 2})

        assert str(file) in str(error.value)
        assert "40 tab-separated columns" in str(error.value)
        assert nothing_is_left(tmp_path / "out")


def test_days_written_before_a_bad_line_are_taken_back(tmp_path: Path) -> None:
    (tmp_path / "day_0").write_text(criteo_line(0, 1))
    (tmp_path / "day_1").write_text(criteo_line(9, 1))

    with pytest.raises(BadInput, match="line 1: the label"):
        run_import("criteo", str(tmp_path), str(tmp_path / "out"))
    assert nothing_is_left(tmp_path / "out")


def test_a_file_cut_short_inside_gzip_is_named(tmp_path: Path) -> None:
    text = "".join(criteo_line(0, n) for n in range(1000)).encode()
    (tmp_path / "day_0.gz").write_bytes(gzip.compress(text)[:-1000])

    with pytest.raises(BadInput, match=r"day_0\.gz"):
        run_import("criteo", str(tmp_path), str(tmp_path / "out"))
    assert nothing_is_left(tmp_path / "out")


# --- Avazu ---

AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu_line(hour: int, click: int = 0) -> str:
    return (
        f"10000174058809263569,{click},{hour},1005,0,1fbe01fe,f3845767,28905ebd,ecad2386,7801e8d9,07d7df22,a99f214a,"
        "ddd2926e,44956a24,1,2,15706,320,50,1722,0,35,-1,79"
    )


@pytest.mark.parametrize("zipped", [False, True])
def test_avazu_goes_to_days_by_its_hours_whatever_their_order(zipped: bool, tmp_path: Path) -> None:
    hours = [14102100, 14102123, 14103007, 14102205, 14102101]
    text = "\r\n".join([AVAZU, *(avazu_line(hour, click=n % 2) for n, hour in enumerate(hours))]).encode()
    file = tmp_path / ("train.csv.gz" if zipped else "train.csv")
    file.write_bytes(gzip.compress(text) if zipped else text)

    report = run_import("avazu", str(file), str(tmp_path / "out"))

    assert report.days == {"2014-10-21": 3, "2014-10-22": 1, "2014-10-30": 1}
    days = days_of(tmp_path / "out")
    assert days["2014-10-21"]["hour_of_day"].to_pylist() == [0, 23, 1]
    assert days["2014-10-21"]["click"].to_pylist() == [0, 1, 0]
    assert days["2014-10-21"]["id"].to_pylist() == ["10000174058809263569"] * 3  # beyond int64
    # 21 October 2014 was a Tuesday, the 30th a Thursday.
    assert days["2014-10-21"]["weekday"].to_pylist() == [1, 1, 1]
    assert days["2014-10-30"]["weekday"].to_pylist() == [3]
    assert days["2014-10-30"].column_names == [*AVAZU.split(","), "hour_of_day", "weekday"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([AVAZU.replace("hour", "stunde"), avazu_line(14102100)], "line 1: no column 'hour'"),
        ([AVAZU, avazu_line(14102100), avazu_line(14103124), avazu_line(14103125)], "line 3: the hour is not an hour"),
        ([AVAZU, avazu_line(14102100), avazu_line(14093100)], "line 3: the hour is not an hour"),
        ([AVAZU, avazu_line(14102100).replace(",14102100,", ",,")], "line 2: the hour is not an hour"),
        ([AVAZU, avazu_line(14102100), "a,b"], "line 3: Expected 24 columns, got 2"),
        ([AVAZU, avazu_line(14102100, click=2)], "line 2: click is not 0 or 1"),
        ([AVAZU, avazu_line(14102100).replace(",320,", ",3.5,")], "line 2: column 'C15': .*'3.5'"),
        ([], "empty|no column"),
    ],
)
def test_a_bad_avazu_line_is_named(lines: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("\n".join(lines))

    with pytest.raises(BadInput, match=words):
        run_import("avazu", str(tmp_path), str(tmp_path / "out"))
    assert nothing_is_left(tmp_path / "out")


def test_dates_are_those_of_the_calendar() -> None:
    dates = [19700101, 20240229, 20230229, 20141301, 20140431, 20140400, 0, -5, 20141031]

    days, real = days_of_dates(pa.array(dates).to_numpy())

    assert real.tolist() == [True, True, False, False, False, False, False, False, True]
    assert days[real].tolist() == [0, 19782, 16374]


# --- MovieLens ---

DAY = 86_400


def movielens_100k(root: Path) -> Path:
    (root / "ml-100k").mkdir()
    (root / "ml-100k/u.data").write_text(f"196\t242\t3\t{5 * DAY + 7}\n186\t302\t4\t{3 * DAY}\n196\t302\t5\t{5 * DAY + 3}\n")
    (root / "ml-100k/u.user").write_text("186|39|F|executive|00000\n196|49|M|writer|55105\n")
    items = [
        "242|Kolya (1996)|24-Jan-1997||http://us.imdb.com/M/title-exact?Kolya%20(1996)|0|0|0|0|0|1" + "|0" * 13,
        "302|Cité des enfants perdus, La|||" + "|0|1|1" + "|0" * 16,
    ]
    (root / "ml-100k/u.item").write_bytes("\n".join(items).encode("latin-1"))
    return root / "ml-100k"


def movielens_1m(root: Path) -> Path:
    (root / "ml-1m").mkdir()
    lines = [f"1::{10 + n % 2}::{1 + n % 5}::{(7 - n) * DAY + n}\n" for n in range(7)]
    (root / "ml-1m/ratings.dat").write_text("".join(lines))
    (root / "ml-1m/users.dat").write_text("1::F::1::10::48067-1234\n")
    movies = "10::Misérables, Les: Part 2 (1995)::Drama|Musical\n11::GoldenEye (1995)::Action\n"
    (root / "ml-1m/movies.dat").write_bytes(movies.encode("latin-1"))
    return root / "ml-1m"


def test_movielens_100k_has_its_users_and_movies_and_calendar_days_in_order_of_time(tmp_path: Path) -> None:
    report = run_import("movielens", str(movielens_100k(tmp_path)), str(tmp_path / "out"))

    assert report.days == {"1970-01-04": 1, "1970-01-06": 2}
    days = days_of(tmp_path / "out")
    assert days["1970-01-06"].drop_columns(["zip_code"]).to_pylist() == [
        {
            "user_id": 196, "movie_id": 302, "rating": 5, "timestamp": 5 * DAY + 3, "label": 1, "gender": "M", "age": 49,
            "occupation": "writer", "title": "Cité des enfants perdus, La", "year": None, "genres": ["Action", "Adventure"],
        },
        {
            "user_id": 196, "movie_id": 242, "rating": 3, "timestamp": 5 * DAY + 7, "label": 0, "gender": "M", "age": 49,
            "occupation": "writer", "title": "Kolya (1996)", "year": 1996, "genres": ["Comedy"],
        },
    ]  # fmt: skip
    assert days["1970-01-04"]["zip_code"].to_pylist() == ["00000"]


def test_movielens_1m_reads_double_colons_and_latin_1(tmp_path: Path) -> None:
    run_import("movielens", str(movielens_1m(tmp_path)), str(tmp_path / "out"))

    rows = pa.concat_tables(days_of(tmp_path / "out").values())
    # Written newest first; ratings 1 2 3 4 5 1 2 backwards are 2 1 5 4 3 2 1.
    assert rows["rating"].to_pylist() == [2, 1, 5, 4, 3, 2, 1]
    assert rows["label"].to_pylist() == [0, 0, 1, 1, 0, 0, 0]
    assert rows["timestamp"].to_pylist() == [(7 - n) * DAY + n for n in reversed(range(7))]
    assert rows["title"].to_pylist()[0] == "Misérables, Les: Part 2 (1995)"
    assert rows["genres"].to_pylist()[:2] == [["Drama", "Musical"], ["Action"]]
    assert rows["zip_code"].to_pylist()[0] == "48067-1234"


def test_movielens_in_equal_parts_keeps_the_order_of_time_across_them(tmp_path: Path) -> None:
    report = run_import("movielens", str(movielens_1m(tmp_path)), str(tmp_path / "out"), {"days": 3})

    assert report.days == {"1970-01-02": 2, "1970-01-03": 2, "1970-01-04": 3}
    times = pa.concat_tables(days_of(tmp_path / "out").values())["timestamp"].to_pylist()
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("u.data", "1\t2\t3\n", "u.data.*|line 1: Expected 4 columns"),
        ("u.data", "196\t242\t3\t5\n196\t242\t6\t5\n", "line 2: not a rating of 1 to 5"),
        ("u.data", "196\t242\t3\t5\n\t242\t4\t5\n", "line 2: user_id is not as expected"),
        ("u.data", "196\t9999\t3\t5\n", "no movie_id 9999"),
        ("u.user", "196|49|M|writer|1\nx|49|M|writer|1\n", "line 2: 'x.49.M.writer.1' does not fit"),
        ("u.item", "242|Kolya\n", "line 1: '242.Kolya' does not fit"),
        ("u.item", "242|Kolya|||\n", "line 1: 'Kolya|242.Kolya"),
    ],
)
def test_a_bad_movielens_line_is_named(file: str, text: str, words: str, tmp_path: Path) -> None:
    source = movielens_100k(tmp_path)
    (source / file).write_text(text)

    with pytest.raises(GenctrError, match=words) as error:
        run_import("movielens", str(source), str(tmp_path / "out"))
    assert nothing_is_left(tmp_path / "out")
    assert str(source) in str(error.value)


# --- KuaiRand ---

LOG = (
    "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,long_view,play_time_ms,"
    "duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab"
)
USERS = (
    "user_id,user_active_degree,is_lowactive_period,is_live_streamer,is_video_author,follow_user_num,follow_user_num_range,"
    "fans_user_num,fans_user_num_range,friend_user_num,friend_user_num_range,register_days,register_days_range,"
    + ",".join(f"onehot_feat{k}" for k in range(18))
)
VIDEOS = (
    "video_id,author_id,video_type,upload_dt,upload_type,visible_status,video_duration,server_width,server_height,music_id,"
    "music_type,tag"
)


def kuairand(root: Path) -> Path:
    data = root / "KuaiRand-Pure/data"
    data.mkdir(parents=True)

    def line(user: int, video: int, date: int, hourmin: int, time_ms: int) -> str:
        return f"{user},{video},{date},{hourmin},{time_ms},1,0,0,0,0,0,1,61802,49866,0,0,0,0,1"

    first = [LOG, line(0, 7, 20220421, 2300, 1_650_553_200_009), line(0, 8, 20220420, 0, 1_650_384_000_000)]
    second = [LOG, line(1, 7, 20220422, 1200, 5), line(2, 9, 20220422, 100, 3), line(1, 8, 20220422, 1100, 4)]
    (data / "log_standard_4_08_to_4_21_pure.csv").write_text("\n".join(first))
    (data / "log_standard_4_22_to_5_08_pure.csv").write_text("\n".join(second) + "\n")
    (data / "log_random_4_22_to_5_08_pure.csv").write_text("never read")
    features = "0,1,17,638,{},0,1,6,184,1,0,1,{},0.0,0.0,0.0,0.0,1.0"
    users = [
        USERS,
        '0,full_active,0,-124,0,5,"(0,10]",0,0,0,0,107,61-90,' + features.format("2.0", "1.0"),
        '1,high_active,0,-124,0,386,"(250,500]",4,"[1,10)",2,"[1,5)",327,181-365,' + features.format("", ""),
    ]
    (data / "user_features_pure.csv").write_text("\n".join(users))
    videos = [
        VIDEOS,
        "7,5,NORMAL,2022-04-09,Kmovie,0.0,11933.0,544.0,992.0,9146853190,9.0,39",
        '8,6,AD,2022-04-11,Web,0.0,,720.0,1280.0,0,,"12,65"',
    ]
    (data / "video_features_basic_pure.csv").write_text("\n".join(videos))
    return root / "KuaiRand-Pure"


def test_kuairand_is_joined_cut_by_date_and_ordered_by_time(tmp_path: Path) -> None:
    report = run_import("kuairand", str(kuairand(tmp_path)), str(tmp_path / "out"))

    assert report.days == {"2022-04-20": 1, "2022-04-21": 1, "2022-04-22": 3}
    days = days_of(tmp_path / "out")
    last = days["2022-04-22"]
    assert last["time_ms"].to_pylist() == [3, 4, 5]
    assert last["user_id"].to_pylist() == [2, 1, 1]
    assert last["hour"].to_pylist() == [1, 11, 12]
    # User 2 and video 9 are in no table; user 1 and video 8 have gaps.
    assert last["follow_user_num_range"].to_pylist() == [None, "(250,500]", "(250,500]"]
    assert last["onehot_feat4"].to_pylist() == [None, None, None]
    assert last["video_duration"].to_pylist() == [None, None, 11933.0]
    assert last["tag"].to_pylist() == [None, "12,65", "39"]
    assert days["2022-04-21"]["onehot_feat4"].to_pylist() == [2]


def test_imported_kuairand_and_frappe_are_what_the_ready_schemas_say(tmp_path: Path) -> None:
    run_import("kuairand", str(kuairand(tmp_path)), str(tmp_path / "out/kuairand"))
    run_import("frappe", str(frappe(tmp_path)), str(tmp_path / "out/frappe"))

    for name in ("kuairand", "frappe"):
        schema = read_document(f"launch/configs/{name}.schema.yaml", Schema)
        for file in (tmp_path / "out" / name).rglob("*.parquet"):
            schema.check(pq.read_schema(file), str(file))


def test_no_ready_schema_reads_what_happens_after_the_exposure() -> None:
    schema = read_document("launch/configs/kuairand.schema.yaml", Schema)
    feedback = {
        "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view", "play_time_ms", "profile_stay_time",
        "comment_stay_time", "is_profile_enter",
    }  # fmt: skip

    assert not feedback & set(schema.columns())


def test_a_bad_kuairand_line_is_named(tmp_path: Path) -> None:
    source = kuairand(tmp_path)
    log = source / "data/log_standard_4_22_to_5_08_pure.csv"
    log.write_text(log.read_text().replace("20220422,100", "20220432,100"))

    with pytest.raises(BadInput, match="line 3: date is not a date") as error:
        run_import("kuairand", str(source), str(tmp_path / "out"))

    assert log.name in str(error.value)
    assert nothing_is_left(tmp_path / "out")


# --- Frappe ---


def frappe(root: Path) -> Path:
    (root / "frappe").mkdir()
    for part, rows in {"train": 5, "validation": 2, "test": 1}.items():
        lines = [f"{1 if n % 2 else -1} " + " ".join(f"{n + k}:1" for k in range(10)) for n in range(rows)]
        (root / f"frappe/frappe.{part}.libfm").write_text("\n".join(lines) + "\n")
    return root / "frappe"


def test_frappe_has_its_three_parts_as_days(tmp_path: Path) -> None:
    report = run_import("frappe", str(frappe(tmp_path)), str(tmp_path / "out"))

    assert report.days == {"test": 1, "train": 5, "valid": 2}
    train = days_of(tmp_path / "out")["train"]
    assert train["label"].to_pylist() == [0, 1, 0, 1, 0]
    assert train["user"].to_pylist() == [0, 1, 2, 3, 4]
    assert train["city"].to_pylist() == [9, 10, 11, 12, 13]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 " + " ".join(f"{k}:1" for k in range(9)), "line 3: Expected 11 columns, got 10"),
        ("1 " + " ".join(f"{k}:1" for k in range(9)) + " 9:0.5", "line 3: city is not an index:1"),
        ("3 " + " ".join(f"{k}:1" for k in range(10)), "line 3: the label is not 1, 0 or -1"),
    ],
)
def test_a_bad_frappe_line_is_named(line: str, words: str, tmp_path: Path) -> None:
    source = frappe(tmp_path)
    train = (source / "frappe.train.libfm").read_text().splitlines()
    (source / "frappe.train.libfm").write_text("\n".join([*train[:2], line, *train[3:]]))

    with pytest.raises(BadInput, match=words):
        run_import("frappe", str(source), str(tmp_path / "out"))
    assert nothing_is_left(tmp_path / "out")


# --- every importer ---


def test_import_json_says_where_the_rows_are_from(tmp_path: Path) -> None:
    source = frappe(tmp_path)
    run_import("frappe", str(source), str(tmp_path / "out"))

    said = json.loads((tmp_path / "out/import.json").read_text())

    content = (source / "frappe.train.libfm").read_bytes()
    assert said["importer"] == "frappe"
    assert said["rows"] == 8
    assert said["source"][0] == {
        "file": "frappe.train.libfm", "rows": 5, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()
    }  # fmt: skip
    assert not list((tmp_path / "out").glob(".scratch*"))


def test_an_import_never_mixes_with_what_is_there(tmp_path: Path) -> None:
    source = frappe(tmp_path)
    run_import("frappe", str(source), str(tmp_path / "out"))

    with pytest.raises(GenctrError, match="is not empty"):
        run_import("frappe", str(source), str(tmp_path / "out"))
    assert len(days_of(tmp_path / "out")) == 3


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("criteoo", {}, "did you mean 'criteo'"),
        ("criteo", {"day": 3}, "no option 'day'; did you mean 'days'"),
        ("criteo", {"days": 0}, "days: expected 1 or more"),
        ("criteo", {"days": "two"}, "days: expected 1 or more, got 'two'"),
        ("criteo", {"start": 2014}, "start: 2014 is not a date"),
        ("criteo", {"start": "2013-13-01"}, "'2013-13-01' is not a date"),
        ("criteo", {"days": 9}, "too few for 9 days"),
        ("movielens", {"days": "weekly"}, "expected calendar or a number"),
        ("kuairand", {}, "no such files"),
    ],
)
def test_a_wrong_request_is_answered_with_the_right_one(name: str, options: dict[str, Any], words: str, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text(criteo_line(0, 1))

    with pytest.raises(GenctrError, match=words):
        run_import(name, str(tmp_path), str(tmp_path / "out"), options)


@pytest.mark.parametrize("name", IMPORTERS)
def test_a_source_that_is_not_there_is_named_with_what_is_expected(name: str, tmp_path: Path) -> None:
    with pytest.raises(GenctrError, match=r"nowhere is not there\n.*expected: "):
        run_import(name, str(tmp_path / "nowhere"), str(tmp_path / "out"))


# --- memory ---

PEAK = """
import resource, sys
import data.importers.raw as raw
from data.importers import run_import

raw.FILE_ROWS = 5_000
run_import(sys.argv[1], sys.argv[2], sys.argv[3])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def write_criteo(folder: Path, rows: int) -> None:
    block = "".join(criteo_line(0, n) for n in range(1000))
    with (folder / "day_0").open("w") as file:
        for _ in range(rows // 1000):
            file.write(block)


def write_movielens(folder: Path, rows: int) -> None:
    source = movielens_1m(folder)
    with (source / "ratings.dat").open("w") as file:
        for n in range(rows):
            file.write(f"1::10::4::{900_000_000 + n * 7919 % rows * 8}\n")  # in no order; the more rows, the more days


@pytest.mark.slow
@pytest.mark.parametrize(("name", "make"), [("criteo", write_criteo), ("movielens", write_movielens)])
def test_a_file_six_times_as_big_needs_no_more_memory(name: str, make: Callable[[Path, int], None], tmp_path: Path) -> None:
    peaks = []
    for rows in (100_000, 600_000):
        folder = tmp_path / str(rows)
        folder.mkdir()
        make(folder, rows)
        command = [sys.executable, "-c", PEAK, name, str(folder), str(tmp_path / f"out{rows}")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))

    # Half a million rows are 60 MiB and more, whatever the set.
    small, big = peaks
    assert big - small < 45, f"peaks of {small} and {big} MiB"


def test_a_tap_draws_no_more_than_it_has_to_pour() -> None:
    drawn = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal drawn
        for start in range(0, 700, 7):
            drawn += 7
            yield pa.table({"n": range(start, start + 7)})

    tap, poured = Tap(tables()), []
    for rows in [3, 1, 4, 100, 50, 250]:
        poured += [row for table in tap.pour(rows) for row in table["n"].to_pylist()]
        assert drawn - len(poured) < 7
    poured += [row for table in tap.pour() for row in table["n"].to_pylist()]

    assert poured == list(range(700))
