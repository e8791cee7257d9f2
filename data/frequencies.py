"""How often every value of a field occurs: the unigram that sampled softmaxes draw from and losses are compared with."""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from data.batch import Batch
from data.errors import GenctrError
from data.features import Features
from data.paths import PATHS, write_whole

MOST_BUCKETS = 2**20
"""[buckets] a field is counted in at most: row r of a larger table counts in bucket r modulo this."""


@dataclass(frozen=True)
class Frequencies:
    """Counts per field, and per target of the labels 0 and 1.

    Args:
        counts: field -> (min(V, MOST_BUCKETS),) int64, missing and unseen ids not counted; target -> (2,).
    """

    counts: dict[str, NDArray[np.int64]]

    @classmethod
    def count(cls, features: Features, batches: Iterable[Batch], *, positives: bool = False) -> "Frequencies":
        """Count the rows of `batches`, made by `features`; with `positives`, of ids those of rows whose first target is 1."""
        tables = {field: table for table in features.tables for field in table.fields}
        counts = {field: np.zeros(min(table.rows, MOST_BUCKETS), dtype=np.int64) for field, table in tables.items()}
        targets = features.schema.target_names
        counts |= {target: np.zeros(2, dtype=np.int64) for target in targets}
        for batch in batches:
            for jagged in (batch.bags, batch.sequences):
                for field in jagged.keys() if jagged is not None else ():
                    assert jagged is not None
                    ids = jagged[field].values().numpy()
                    if positives:
                        ids = ids[np.repeat(batch.positive.numpy(), jagged[field].lengths().numpy())]
                    ids = ids[ids >= tables[field].reserved] % len(counts[field])
                    counts[field] += np.bincount(ids, minlength=len(counts[field]))
            for target, labels, weights in zip(targets, batch.labels.numpy().T, batch.weights.numpy().T, strict=True):
                counts[target] += np.bincount(labels[weights > 0].astype(np.int64), minlength=2)
        return cls(counts)

    def are_of(self, features: Features) -> bool:
        """Whether these are counts of these fields, tables and targets: a schema may have grown since."""
        sizes = {field: min(table.rows, MOST_BUCKETS) for table in features.tables for field in table.fields}
        sizes |= dict.fromkeys(features.schema.target_names, 2)
        return {name: len(counts) for name, counts in self.counts.items()} == sizes

    def entropy(self, name: str) -> float:
        """[nats] of one field or target; of the buckets, where the table has more rows than those."""
        share = self.counts[name][self.counts[name] > 0] / max(self.counts[name].sum(), 1)
        return float(-(share * np.log(share)).sum())

    def save(self, path: str) -> None:
        """Store as one file of plain arrays; on disk whole or not at all."""
        content = io.BytesIO()
        np.savez(content, **self.counts)  # type: ignore[arg-type]  # numpy types a flag that is not passed
        PATHS.mkdirs(path.rpartition("/")[0])
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: str) -> "Frequencies":
        """What `save` stored.

        Raises:
            GenctrError: it is not there, or damaged.
        """
        try:
            with PATHS.open(path, "rb") as file:
                stored = np.load(io.BytesIO(file.read()), allow_pickle=False)
            return cls({name: stored[name] for name in stored.files})
        except (OSError, ValueError, BadZipFile) as error:
            raise GenctrError(f"{path}: no usable frequencies: {error}\n  next: delete it; they are counted again") from error
