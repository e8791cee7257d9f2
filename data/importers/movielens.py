"""MovieLens (grouplens.org): ml-100k and ml-1m, ratings joined with users and movies and ordered by time."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from data.errors import GenctrError
from data.importers.raw import DayBuckets, RawFile, Tap, day_name, find

GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]  # fmt: skip
YEAR = re.compile(r"\((\d{4})\)\s*$")
DAY_SECONDS = 86_400


def user_100k(cells: list[str]) -> dict[str, object]:
    """user id | age | gender | occupation | zip code."""
    user, age, gender, occupation, zip_code = cells
    return {"user_id": int(user), "gender": gender, "age": int(age), "occupation": occupation, "zip_code": zip_code}


def user_1m(cells: list[str]) -> dict[str, object]:
    """UserID::Gender::Age::Occupation::Zip-code."""
    user, gender, age, occupation, zip_code = cells
    return {"user_id": int(user), "gender": gender, "age": int(age), "occupation": occupation, "zip_code": zip_code}


def movie_100k(cells: list[str]) -> dict[str, object]:
    """movie id | title | release date | video release date | IMDb URL | 19 flags of genres."""
    movie, title, _, _, _, *flags = cells
    genres = [genre for genre, flag in zip(GENRES_100K, flags, strict=True) if int(flag)]
    return {"movie_id": int(movie), "title": title, "year": _year(title), "genres": genres}


def movie_1m(cells: list[str]) -> dict[str, object]:
    """MovieID::Title::Genre|Genre|…."""
    movie, title, genres = cells
    return {"movie_id": int(movie), "title": title, "year": _year(title), "genres": genres.split("|")}


def _year(title: str) -> int | None:
    found = YEAR.search(title)
    return int(found[1]) if found else None


@dataclass(frozen=True)
class Edition:
    """How one of the published sets writes its three files."""

    ratings: str
    ratings_form: str
    ratings_delimiter: str
    ratings_columns: tuple[str, ...]
    users: str
    movies: str
    delimiter: str
    user: Callable[[list[str]], dict[str, object]]
    movie: Callable[[list[str]], dict[str, object]]


EDITIONS = {
    "ml-100k": Edition(
        ratings="u.data",
        ratings_form="user id, item id, rating and timestamp, separated by tabs",
        ratings_delimiter="\t",
        ratings_columns=("user_id", "movie_id", "rating", "timestamp"),
        users="u.user",
        movies="u.item",
        delimiter="|",
        user=user_100k,
        movie=movie_100k,
    ),
    "ml-1m": Edition(
        ratings="ratings.dat",
        ratings_form="UserID::MovieID::Rating::Timestamp",
        # Split at every colon, "::" has an empty column inside.
        ratings_delimiter=":",
        ratings_columns=("user_id", "_1", "movie_id", "_2", "rating", "_3", "timestamp"),
        users="users.dat",
        movies="movies.dat",
        delimiter="::",
        user=user_1m,
        movie=movie_1m,
    ),
}
USER_TYPES = pa.schema(
    {"user_id": pa.int64(), "gender": pa.string(), "age": pa.int32(), "occupation": pa.string(), "zip_code": pa.string()}
)
MOVIE_TYPES = pa.schema({"movie_id": pa.int64(), "title": pa.string(), "year": pa.int32(), "genres": pa.list_(pa.string())})


class MovieLens:
    """Columns user_id, movie_id, rating, timestamp [s], label (1 for ratings of 4 and 5), and the user's and movie's columns.

    `rating` is what the label is made of, never a feature. Rows are ordered by time. Memory: the users, the movies, and the
    ratings of one calendar day.

    Args:
        source: the unpacked ml-100k or ml-1m folder.
        days: "calendar" for the UTC dates of the ratings; a number to cut them into as many parts of equal rows, which are
            named as consecutive dates from that of the first rating.
    """

    def __init__(self, source: str, *, days: str | int = "calendar") -> None:
        if days != "calendar" and not (isinstance(days, int) and days >= 1):
            raise GenctrError(f"days: expected calendar or a number of 1 or more, got {days!r}")
        self._days = days
        expected = "the unpacked folder of ml-100k or ml-1m"
        ratings = find(source, [edition.ratings for edition in EDITIONS.values()], expected)
        if len(ratings) > 1 or not Path(source).is_dir():
            raise GenctrError(f"{source}: expected {expected}, found {', '.join(map(str, ratings))}")
        self._edition = next(edition for edition in EDITIONS.values() if edition.ratings == ratings[0].name)
        names = (self._edition.ratings, self._edition.users, self._edition.movies)
        self.files = [RawFile(find(source, [name], expected)[0]) for name in names]

    def days(self, scratch: Path) -> Iterator[tuple[str, Iterator[pa.Table]]]:
        """Every day's name and rows."""
        ratings, users_file, movies_file = self.files
        users = _side(users_file, self._edition.delimiter, self._edition.user, USER_TYPES)
        movies = _side(movies_file, self._edition.delimiter, self._edition.movie, MOVIE_TYPES)
        buckets = DayBuckets(scratch)
        for table in Tap(self._ratings(ratings)).pour():
            buckets.add(table["timestamp"].to_numpy() // DAY_SECONDS, table)

        def rows(day: int) -> Iterator[pa.Table]:
            table = buckets.sorted(day, "timestamp")
            yield _join(_join(table, users, "user_id", users_file), movies, "movie_id", movies_file)

        dates = buckets.days
        if self._days == "calendar":
            yield from ((day_name(day), Tap(rows(day)).pour()) for day in dates)
            return
        parts, total = int(self._days), ratings.rows
        if total < parts:
            raise GenctrError(f"{ratings.path} has {total} rows: too few for {parts} days")
        tap = Tap(table for day in dates for table in rows(day))
        for part in range(parts):
            yield day_name(dates[0] + part), tap.pour(total * (part + 1) // parts - total * part // parts)

    def _ratings(self, file: RawFile) -> Iterator[pa.Table]:
        edition, form = self._edition, self._edition.ratings_form
        types = {name: pa.string() if name.startswith("_") else pa.int64() for name in edition.ratings_columns}
        for line, batch in file.batches(types, delimiter=edition.ratings_delimiter, form=form):
            table = pa.Table.from_batches([batch])
            file.insist(pc.is_in(table["rating"], value_set=pa.array(range(1, 6))), line, "not a rating of 1 to 5", form)
            for name in types:
                right = pc.is_null(table[name]) if name.startswith("_") else pc.is_valid(table[name])
                file.insist(right, line, f"{name.strip('_')} is not as expected", form)
            table = table.select(["user_id", "movie_id", "rating", "timestamp"])
            table = table.set_column(2, "rating", table["rating"].cast(pa.int8()))
            yield table.append_column("label", pc.greater_equal(table["rating"], 4).cast(pa.int8()))


def _side(file: RawFile, delimiter: str, parse: Callable[[list[str]], dict[str, object]], schema: pa.Schema) -> pa.Table:
    """A whole side table: a few thousand lines, in latin-1 as published."""
    rows = []
    with file.bytes() as lines:
        for number, line in enumerate(lines, start=1):
            text = line.decode("latin-1").rstrip("\r\n")
            try:
                rows.append(parse(text.split(delimiter)))
            except ValueError as error:
                raise file.refuse(number, f"{text[:80]!r} does not fit", (parse.__doc__ or "").rstrip(".")) from error
    file.rows = len(rows)
    return pa.Table.from_pylist(rows, schema=schema).combine_chunks()


def _join(rows: pa.Table, side: pa.Table, key: str, file: RawFile) -> pa.Table:
    """The columns of `side` behind those of `rows`, in the order of `rows`."""
    places = pc.index_in(rows[key].combine_chunks(), value_set=side[key].combine_chunks())
    if places.null_count:
        missing = rows[key].filter(pc.is_null(places))[0]
        raise GenctrError(f"{file.path} has no {key} {missing}, which the ratings name\n  next: get the original files again")
    found = side.drop_columns(key).take(places)
    for name in found.column_names:
        rows = rows.append_column(name, found[name])
    return rows
