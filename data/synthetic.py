"""A click log whose true click probability is known, so the best reachable score is known too.

U users, I items, K latent directions. The truth of one row is

    logit = bias + taste[u] . shape_d[i] / sqrt(K) + mood[u] + quality[i] + category_hour[c, h] + tab[t] + device[v]
            - price_weight * z(log price) + history_weight * mean over the user's history of (shape_d[j] . shape_d[i])
    is_click ~ Bernoulli(sigmoid(logit))

With `events`, a click may be followed by more: a long view, a like and seconds of watching, which depend on taste and quality
too; and every event of a history says what the user did and of which category the item was.

`shape_d = cos(a d) shape + sin(a d) other_shape` turns slowly with the day d, and new items appear every day, so yesterday's
model is a little wrong today. Ours; nothing is copied from a real log.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data.days import write_day
from data.errors import GenctrError
from data.paths import below, filesystem, write_whole

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DAY_MS = 86_400_000
LATENT, IMAGE, TAGS, TABS, HISTORY = 4, 8, 50, 5, 20
CATEGORIES = pa.array(["books", "cars", "food", "games", "health", "home", "kids", "music", "sports", "tech", "travel"])
DEVICES = pa.array(["android", "ios", "web"])
ROWS_A_FILE = 250_000
NULL_PRICES = 0.02
DRIFT = 0.05
"""[radians a day] by which the items' latent directions turn."""

CLICK, LONG_VIEW, LIKE = 1, 2, 4
"""The bits of what a user did with an item."""

# How far each part of the truth can move the logit: standard deviations. Chosen so that the best reachable AUC is near .78
# and most of it can be learned from a quarter of a million rows.
BIAS, MOOD, QUALITY, TASTE, CATEGORY_HOUR, TAB, DEVICE, PRICE, AFFINITY = -1.3, 0.5, 0.7, 0.35, 0.5, 0.35, 0.25, 0.45, 0.4


@dataclass(frozen=True)
class Events:
    """Clicks of the past, sorted by user and, within a user, by time.

    Shape:
        users, items, times_ms, actions: (clicks,) each. The bits of an action: CLICK, LONG_VIEW, LIKE.
    """

    users: Ints
    items: Ints
    times_ms: Ints
    actions: Ints

    def then(self, later: "Events") -> "Events":
        """These and `later` clicks, keeping the newest `HISTORY` of each user."""
        users = np.concatenate([self.users, later.users])
        order = np.argsort(users, kind="stable")
        users = users[order]
        from_the_end = np.searchsorted(users, users, side="right") - np.arange(len(users))
        order = order[from_the_end <= HISTORY]
        pairs = ((self.items, later.items), (self.times_ms, later.times_ms), (self.actions, later.actions))
        return Events(users[from_the_end <= HISTORY], *(np.concatenate(pair)[order] for pair in pairs))

    def offsets(self, users: int) -> Ints:
        """Where each user's clicks begin, and where the last ends: (users + 1,)."""
        return np.searchsorted(self.users, np.arange(users + 1)).astype(np.int64)


class World:
    """Who and what there is: drawn once from the seed, the same for any number of days.

    Args:
        seed: of everything. The first items of a world with more items are those of a world with fewer.
        users: [users] U.
        items: [items] on sale on day 0; one in a hundred more appears on every later day.
        days: [days] the world lasts.
        cold: [1] share of a day's rows that show items which appeared on that day.
    """

    def __init__(self, *, seed: int, users: int, items: int, days: int, cold: float = 0.0) -> None:
        self.cold = cold
        self.seed, self.users, self.items, self.new_items = seed, users, items, max(1, items // 100)
        total = items + self.new_items * days

        def draw(part: int, *shape: int) -> Floats:
            return np.random.default_rng([seed, part]).standard_normal(shape)

        self.taste_UK, self.mood_U = draw(0, users, LATENT), draw(1, users)
        self.user_weights_U = np.exp(1.3 * draw(2, users))
        self.shape_IK, self.other_shape_IK = draw(3, total, LATENT), draw(4, total, LATENT)
        self.quality_I, self.log_price_I = draw(5, total), 3.0 + 0.8 * draw(6, total)
        self.fame_I = draw(7, total)
        # Every category has its hour of the day.
        peak_C = np.random.default_rng([seed, 8]).uniform(0, 24, len(CATEGORIES))
        self.category_hour_CH = math.sqrt(2) * np.cos((np.arange(24) - peak_C[:, None]) * math.pi / 12)
        self.tab_T, self.device_V = draw(9, TABS), draw(10, len(DEVICES))
        categories = np.random.default_rng([seed, 11]).integers(len(CATEGORIES), size=total)
        self.category_I = categories.astype(np.int64)
        # The picture shows the item's latent direction through a fixed random lens, with noise: it helps with new items.
        self.image_I8 = (self.shape_IK @ draw(12, LATENT, IMAGE) + 0.5 * draw(13, total, IMAGE)).astype(np.float32)
        counts = np.random.default_rng([seed, 14]).integers(0, 4, size=total)
        tag_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        tags = np.random.default_rng([seed, 15]).integers(TAGS, size=int(tag_offsets[-1])).astype(np.int32)
        self.tags_I = pa.ListArray.from_arrays(tag_offsets, tags)

    def on_sale(self, day: int) -> int:
        """[items] a user may be shown on `day`."""
        return self.items + self.new_items * max(day, 0)

    def shapes(self, day: int) -> Floats:
        """The items' latent directions on `day`, (I, K)."""
        return math.cos(DRIFT * day) * self.shape_IK + math.sin(DRIFT * day) * self.other_shape_IK

    def item_chances(self, day: int) -> Floats:
        """How likely each item on sale is to be shown: Zipf over the ranks of their fame, (items on sale,)."""
        ranks = np.argsort(np.argsort(-self.fame_I[: self.on_sale(day)]))
        weights = 1.0 / (ranks + 10.0)
        if self.cold and day > 0:
            new = np.arange(len(weights)) >= self.on_sale(day - 1)
            weights *= np.where(new, self.cold / weights[new].sum(), (1 - self.cold) / weights[~new].sum())
        return np.asarray(weights / weights.sum())


@dataclass(frozen=True)
class DayPlan:
    """How many rows a day gets, and where its files end.

    `rows` is prime, so that no batch size, rank count or file count ever divides it.
    """

    name: str
    start_ms: int
    rows: int
    cuts: tuple[int, ...]


def plan_day(*, seed: int, day: int, rows: int, start: datetime) -> DayPlan:
    """Draw the row count (within 10 % of `rows`) and the uneven files of one day."""
    rng = np.random.default_rng([seed, 1_000_000 + day])
    total = next_prime(max(2, round(rows * rng.uniform(0.9, 1.1))))
    files = max(min(3, total), math.ceil(total / ROWS_A_FILE))
    shares = np.cumsum(rng.uniform(0.6, 1.4, files))
    cuts = np.unique([0, *np.floor(total * shares[:-1] / shares[-1]).astype(int), total])
    date = start + timedelta(days=day)
    return DayPlan(f"{date:%Y-%m-%d}", int(date.timestamp()) * 1000, total, tuple(int(cut) for cut in cuts))


def next_prime(number: int) -> int:
    """The smallest prime not below `number`."""
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number


@dataclass(frozen=True)
class Drawn:
    """What is drawn of some rows before their labels.

    Shape:
        (B,) each. `ms` is [ms since midnight]; `tab` and `device` are numbers of theirs; without a price, `log_price` is not
        told.
    """

    user: Ints
    item: Ints
    ms: Ints
    tab: Ints
    device: Ints
    log_price: Floats
    no_price: NDArray[np.bool_]

    @property
    def hour(self) -> Ints:
        """The hour of the day, 0 to 23."""
        return self.ms // 3_600_000


class DayMaker:
    """Makes the rows of one day, file by file, and remembers its clicks and its truth.

    Args:
        world: who and what there is.
        day: 0 for the first; -1 for the unwritten one that fills the first histories.
        plan: rows and files of the day.
        past: the clicks before midnight. A row's history is what was known at midnight, so it never shows the row's own day.
        events: also make what follows a click.
    """

    def __init__(self, *, world: World, day: int, plan: DayPlan, past: Events, events: bool = False) -> None:
        self.events, self.after = events, np.random.default_rng([world.seed, 3_000_000 + day])
        self.world, self.day, self.plan, self.past = world, day, plan, past
        self.rng = np.random.default_rng([world.seed, 2_000_000 + day])
        self.shape_IK = world.shapes(day)
        self.user_cdf = np.cumsum(world.user_weights_U / world.user_weights_U.sum())
        self.item_cdf = np.cumsum(world.item_chances(day))
        # Busy evenings, quiet nights.
        hours = 1.2 + np.sin((np.arange(24) - 13) * math.pi / 12)
        self.hour_cdf = np.concatenate([[0.0], np.cumsum(hours / hours.sum())])
        offsets = past.offsets(world.users)
        self.history_U = pa.ListArray.from_arrays(offsets.astype(np.int32), past.items)
        self.history_ms_U = pa.ListArray.from_arrays(offsets.astype(np.int32), past.times_ms)
        self.history_action_U = pa.ListArray.from_arrays(offsets.astype(np.int32), past.actions)
        categories = CATEGORIES.take(pa.array(world.category_I[past.items]))
        self.history_category_U = pa.ListArray.from_arrays(offsets.astype(np.int32), categories)
        liked_UK = np.zeros((world.users, LATENT))
        np.add.at(liked_UK, past.users, self.shape_IK[past.items])
        self.liked_UK = liked_UK / np.maximum(np.diff(offsets), 1)[:, None]
        self.clicks: list[Events] = []
        self.truth: list[NDArray[np.float32]] = []
        self.labels: list[NDArray[np.int8]] = []

    def tables(self) -> Iterator[pa.Table]:
        """The day's rows in time order, one table a file."""
        for begin, end in zip(self.plan.cuts, self.plan.cuts[1:], strict=False):
            yield self.rows(begin, end)

    def rows(self, begin: int, end: int) -> pa.Table:
        """Rows `begin` to `end` of the day."""
        drawn = self._draw(begin, end)
        true_ctr = (1.0 / (1.0 + np.exp(-self._logit(drawn)))).astype(np.float32)
        label = (self.rng.random(end - begin, dtype=np.float32) < true_ctr).astype(np.int8)
        clicked = label == 1
        action, seconds = self._after_clicks(drawn, clicked)
        times_ms = self.plan.start_ms + drawn.ms
        self.clicks.append(Events(drawn.user[clicked], drawn.item[clicked], times_ms[clicked], action[clicked]))
        self.truth.append(true_ctr)
        self.labels.append(label)
        table = self._table(drawn, label, true_ctr)
        if not self.events:
            return table
        columns = {
            "is_long_view": (action & LONG_VIEW > 0).astype(np.int8),
            "is_like": (action & LIKE > 0).astype(np.int8),
            "watch_seconds": seconds.astype(np.float32),
            "history_action": self.history_action_U.take(pa.array(drawn.user)),
            "history_category": self.history_category_U.take(pa.array(drawn.user)),
        }
        for name, column in columns.items():
            table = table.append_column(name, pa.array(column))
        return table

    def _after_clicks(self, drawn: Drawn, clicked: NDArray[np.bool_]) -> tuple[Ints, Floats]:
        """What users did, as bits, and [s] how long they watched, (B,) each; nothing without a click.

        long view ~ Bernoulli(sigmoid(.6 + taste . shape / sqrt(K) + quality)), like ~ Bernoulli(sigmoid(-2 + mood + quality)),
        seconds = exp(1.5 + .3 quality + 1.5 long view + .5 noise)
        """
        if not self.events:
            return clicked.astype(np.int64), np.zeros(len(clicked))
        world, rng = self.world, self.after
        quality = world.quality_I[drawn.item]
        liking = np.einsum("bk,bk->b", world.taste_UK[drawn.user], self.shape_IK[drawn.item]) / math.sqrt(LATENT)
        long_view = clicked & (rng.random(len(clicked)) < 1 / (1 + np.exp(-(0.6 + liking + quality))))
        like = clicked & (rng.random(len(clicked)) < 1 / (1 + np.exp(2 - world.mood_U[drawn.user] - quality)))
        seconds = np.exp(1.5 + 0.3 * quality + 1.5 * long_view + 0.5 * rng.standard_normal(len(clicked)))
        return clicked * CLICK + long_view * LONG_VIEW + like * LIKE, np.where(clicked, seconds, 0.0)

    def _draw(self, begin: int, end: int) -> Drawn:
        # The order of the draws is part of the log: another one makes another log of the same seed.
        world, rng, count = self.world, self.rng, end - begin
        user = np.minimum(np.searchsorted(self.user_cdf, rng.random(count)), world.users - 1)
        item = np.minimum(np.searchsorted(self.item_cdf, rng.random(count)), len(self.item_cdf) - 1)
        # One uniform draw inside each of the day's equal slices comes out sorted, whatever file is made first.
        quantile = (np.arange(begin, end) + rng.random(count)) / self.plan.rows
        ms = np.minimum(np.interp(quantile, self.hour_cdf, np.arange(25) * 3_600_000.0), DAY_MS - 1).astype(np.int64)
        tab = rng.integers(TABS, size=count)
        device = np.searchsorted([0.55, 0.85], rng.random(count))
        log_price = world.log_price_I[item] + 0.3 * rng.standard_normal(count)
        return Drawn(user, item, ms, tab, device, log_price, no_price=rng.random(count) < NULL_PRICES)

    def _logit(self, drawn: Drawn) -> Floats:
        """The truth, (B,): the formula at the top of this file."""
        world, shape_BK = self.world, self.shape_IK[drawn.item]
        logit: Floats = (
            BIAS
            + MOOD * world.mood_U[drawn.user]
            + QUALITY * world.quality_I[drawn.item]
            + TASTE * np.einsum("bk,bk->b", world.taste_UK[drawn.user], shape_BK) / math.sqrt(LATENT)
            + AFFINITY * np.einsum("bk,bk->b", self.liked_UK[drawn.user], shape_BK)
            + CATEGORY_HOUR * world.category_hour_CH[world.category_I[drawn.item], drawn.hour]
            + TAB * world.tab_T[drawn.tab]
            + DEVICE * world.device_V[drawn.device]
            - PRICE * np.where(drawn.no_price, 0.0, drawn.log_price - 3.0) / 0.85
        )
        return logit

    def _table(self, drawn: Drawn, label: NDArray[np.int8], true_ctr: NDArray[np.float32]) -> pa.Table:
        world, item = self.world, drawn.item
        return pa.table(
            {
                "user_id": drawn.user.astype(np.int64),
                "item_id": item.astype(np.int64),
                "tab": drawn.tab.astype(np.int8),
                "hour": drawn.hour.astype(np.int8),
                "device": DEVICES.take(pa.array(drawn.device)),
                "category": CATEGORIES.take(pa.array(world.category_I[item])),
                "price": pa.array(np.exp(drawn.log_price).astype(np.float32), mask=drawn.no_price),
                "tags": world.tags_I.take(pa.array(item)),
                "history": self.history_U.take(pa.array(drawn.user)),
                "history_time_ms": self.history_ms_U.take(pa.array(drawn.user)),
                "image": pa.FixedSizeListArray.from_arrays(world.image_I8[item].ravel(), IMAGE),
                "time_ms": self.plan.start_ms + drawn.ms,
                "is_click": label,
                "true_ctr": true_ctr,
            }
        )

    def events_after(self) -> Events:
        """The newest clicks of every user once the day is over."""
        events = self.past
        for clicks in self.clicks:
            events = events.then(clicks)
        return events

    def summary(self) -> dict[str, float]:
        """Rows, click rate, and the best score any model can reach on this day."""
        truth, labels = np.concatenate(self.truth), np.concatenate(self.labels)
        return {"rows": len(labels), "ctr": float(labels.mean()), **scores(truth, labels)}


def write(
    out: str,
    days: int,
    rows: int,
    seed: int,
    start: str = "2026-11-01",
    *,
    users: int = 2_000,
    items: int = 1_000,
    events: bool = False,
    cold: float = 0.0,
) -> dict[str, Any]:
    """Write `days` complete day folders under `out` and a manifest `synthetic.json`; return the manifest.

    The same arguments give the same bytes; fewer days give the same first days. Memory holds one file's rows.

    Args:
        out: a folder or URI; the folders are `day=YYYY-MM-DD` (UTC), with `_SUCCESS`.
        days: [days] to write.
        rows: [rows] a day, about: the counts vary by 10 % and are prime.
        seed: of everything.
        start: the first day.
        users, items: how many there are on the first day.
        events: also write what follows a click, and what the events of histories were.
        cold: [1] share of a day's rows that show items which appeared on that day; 0: they appear and are shown as any others.

    Columns: user_id, item_id (int64), tab, hour (int8), device, category (string), price (float, 2 % null), tags (list of
    int32), history, history_time_ms (lists of int64, oldest first, at most 20: clicks before midnight), image (8 floats),
    time_ms (int64), is_click (int8), true_ctr (float: the true probability of the label, never a feature); with `events` also
    is_long_view, is_like (int8), watch_seconds (float; 0 without a click), history_action (list of int64 bits: 1 click,
    2 long view, 4 like) and history_category (list of string), as long as the history.
    """
    if not 0 <= cold < 1:
        raise GenctrError(f"cold: {cold} is not a share of the rows; expected 0 or more and less than 1")
    try:
        first = datetime.strptime(start, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError as error:
        raise GenctrError(f"start: {start!r} is not a date: {error}") from error
    world = World(seed=seed, users=users, items=items, days=days, cold=cold)
    nothing = np.zeros(0, np.int64)
    past = Events(nothing, nothing, nothing, nothing)
    manifest: dict[str, Any] = {"seed": seed, "start": start, "users": users, "items": items, "days": {}}
    for day in range(-1, days):
        wanted = rows if day >= 0 else min(rows, 15 * users)
        plan = plan_day(seed=seed, day=day, rows=wanted, start=first)
        maker = DayMaker(world=world, day=day, plan=plan, past=past, events=events)
        if day >= 0:
            group = max(1_000, min(65_536, plan.rows // 9))
            write_day(below(out, f"day={plan.name}"), maker.tables(), row_group_rows=group)
            manifest["days"][plan.name] = maker.summary()
        else:
            for _ in maker.tables():
                pass
        past = maker.events_after()
    write_whole(below(out, "synthetic.json"), json.dumps(manifest, indent=1) + "\n")
    return manifest


def scores(truth: NDArray[Any], labels: NDArray[Any]) -> dict[str, float]:
    """AUC (ties count half) and mean log loss of probabilities `truth` against 0/1 `labels`.

    Shape:
        truth (rows,), labels (rows,) -> {"auc": ..., "logloss": ...}; auc is nan where only one label occurs.
    """
    labels = labels.astype(np.float64)
    values, group = np.unique(truth, return_inverse=True)
    counts = np.bincount(group, minlength=len(values))
    mean_rank = np.cumsum(counts) - (counts - 1) / 2
    clicks, others = labels.sum(), (1 - labels).sum()
    auc = math.nan
    if clicks and others:
        auc = float(((mean_rank[group] * labels).sum() - clicks * (clicks + 1) / 2) / (clicks * others))
    p = np.clip(truth.astype(np.float64), 1e-12, 1 - 1e-12)
    return {"auc": auc, "logloss": float(-(labels * np.log(p) + (1 - labels) * np.log1p(-p)).mean())}


def best_reachable(log: str | pa.Table) -> dict[str, float]:
    """What the truth itself scores on a synthetic day: no model can be better but by luck.

    Args:
        log: a table, a Parquet file or a day folder with the columns `true_ctr` and `is_click`.

    Returns:
        {"auc": ..., "logloss": ...} of `true_ctr` against `is_click`.
    """
    if isinstance(log, str):
        system, path = filesystem(log)
        log = pq.read_table(path, filesystem=system, columns=["true_ctr", "is_click"], partitioning=None)
    return scores(log["true_ctr"].to_numpy(), log["is_click"].to_numpy())
