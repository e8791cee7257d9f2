"""The GAUC of a score that knows nothing of the row: the share of clicks among the user's events before it, on KuaiRand.

    python benchmarks/clicks_of_the_day.py

Of the events of the test day itself, of older ones, and of both. Clicks of a user and day are drawn without replacement, so to
speak: of two rows with one click the second one's share is the higher if the click was the first, and the pair is wrong either
way. GAUC over users of one day therefore falls with whatever reads that day's clicks, useful or not.
"""

import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from grid import DATA, ROOT

sys.path.insert(0, str(ROOT))

from pipeline.training.metrics import auc_by_group

DAY = "2022-05-08"
CLICK = 1
"""The bit of a click in `history_actions`."""


def main() -> None:
    """Print the table."""
    files = sorted((DATA / "kuairand-history" / f"day={DAY}").glob("*.parquet"))
    columns = ["user_id", "is_click", "history_ms", "history_actions"]
    table = pa.concat_tables(pq.read_table(file, columns=columns, partitioning=None) for file in files).combine_chunks()
    rows = np.repeat(np.arange(len(table)), pc.list_value_length(table["history_ms"]).fill_null(0).to_numpy())
    began = datetime.fromisoformat(DAY).replace(tzinfo=UTC).timestamp() * 1000 - 8 * 3_600_000  # the log's days are Beijing's
    of_day = pc.list_flatten(table["history_ms"]).to_numpy() >= began
    clicked = pc.list_flatten(table["history_actions"]).to_numpy() & CLICK
    users = torch.from_numpy(np.unique(table["user_id"].to_numpy(), return_inverse=True)[1])
    labels, ones = torch.tensor(table["is_click"].to_numpy(), dtype=torch.float32), torch.ones(len(table))
    print("| events | of a row | AUC of their clicks | GAUC |\n|---|---|---|---|")
    for name, keep in (("all", np.ones_like(of_day)), ("of the day", of_day), ("older", ~of_day)):
        events = np.bincount(rows[keep], minlength=len(table))
        clicks = np.bincount(rows[keep], clicked[keep], minlength=len(table))
        share = torch.from_numpy((clicks + 1) / (events + 2))
        auc = float(auc_by_group(share, labels, ones, torch.zeros_like(users))[0])
        own, weight = auc_by_group(share, labels, ones, users)
        known = ~own.isnan()
        gauc = float((own * weight)[known].sum() / weight[known].sum())
        print(f"| {name} | {events.mean():.1f} | {auc:.4f} | {gauc:.4f} |")


if __name__ == "__main__":
    main()
