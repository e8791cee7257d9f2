"""Diagnostics while training: spectra of what enters the products, correlation of its two sides, health of the tables."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.diagnostics import Moments, TableHealth, correlation, directions, random_vectors, redundancy, spectrum
from pipeline.config.family import Observed
from pipeline.distributed.shard import Sharded
from pipeline.run_folder.log import RunLog
from pipeline.training.loop import Callback, TrainState
from pipeline.training.objective import StepOutput

TABLE_ROWS = 262_144
"""[rows] of a shard that are looked at, evenly spaced, so that the cost does not grow with the table."""

BANDS = {"low": (0, 100), "mid": (100, 10_000), "high": (10_000, 2**63)}
"""[values] of a field's cardinality, from … to below."""

MOST_COORDINATES = 2048
"""[columns] of a representation that are looked at: its outer product is as wide and as high. Of a wider one, whole fields,
evenly spaced."""


class RepresentationStats:
    """What was seen of the representations so far, on this rank.

    Args:
        observed: what there is to see; None: nothing.
    """

    def __init__(self, observed: Observed | None) -> None:
        names, cardinalities = (observed.names, observed.cardinalities) if observed is not None else ((), ())
        count = min(max(MOST_COORDINATES // observed.width, 1), len(names)) if observed is not None else 0
        self.fields = torch.linspace(0, len(names) - 1, count).round().long()
        self.names = tuple(names[at] for at in self.fields)
        self.cardinalities = tuple(cardinalities[at] for at in self.fields)
        self._moments: dict[str, Tensor] = {}

    @property
    def rows(self) -> int:
        """[rows] seen on this rank."""
        return int(next(iter(self._moments.values()))[0]) if self._moments else 0

    @torch.no_grad()
    def add(self, seen: dict[str, Tensor]) -> None:
        """Add a batch's vectors; `generated` and `raw` are looked at side by side, for their correlation."""
        known = {name: seen[name] for name in ("emb", "generated", "raw") if name in seen and self.names}
        looked = {name: vectors_BFD[:, self.fields].flatten(1) for name, vectors_BFD in known.items()}
        views = {"emb": looked["emb"]} if "emb" in looked else {}
        if "emb" in looked:
            emb_BFD = known["emb"][:, self.fields]
            tables = torch.tensor(self.cardinalities, device=emb_BFD.device).gt(1)[:, None]
            views["allowed"] = torch.where(tables, random_vectors(emb_BFD), emb_BFD.double()).flatten(1)
        if "generated" in looked:
            views["operands"] = torch.cat([looked["generated"], looked["raw"]], dim=1)
        for name, vectors_BX in views.items():
            packed = Moments.of(vectors_BX).packed().cpu()
            self._moments[name] = self._moments[name] + packed if name in self._moments else packed

    def totals(self) -> dict[str, Moments]:
        """The moments over all ranks, by representation. Collective; every rank has seen the same representations."""
        found = {}
        for name, packed in self._moments.items():
            total = packed.clone()
            if dist.is_initialized():
                dist.all_reduce(total)
            found[name] = Moments.unpacked(total)
        if "operands" in found:
            both = found["operands"]
            width = len(both.sums) // 2
            found["generated"], found["raw"] = both.part(slice(width)), both.part(slice(width, None))
        return found

    def summary(self) -> dict[str, Any]:
        """The scalars, by representation, field and band of cardinality. Collective."""
        totals = self.totals()
        allowed = totals.pop("allowed", None)
        most = directions(allowed) if allowed is not None else None
        told: dict[str, Any] = {
            name: spectrum(moments, allowed=None if name == "generated" else most)
            for name, moments in totals.items()
            if name != "operands"
        }
        fields = len(self.names)
        if "operands" in totals:
            told["correlation"] = redundancy(correlation(totals["operands"]), fields)
        if allowed is None:
            return told
        told["emb"]["allowed"] = most
        width = len(totals["emb"].sums) // fields
        parts = {name: slice(at * width, (at + 1) * width) for at, name in enumerate(self.names)}
        per_field = {
            name: spectrum(totals["emb"].part(own), allowed=directions(allowed.part(own))) for name, own in parts.items()
        }
        told["fields"] = {name: own["rankme_share"] for name, own in per_field.items()}
        for band, (least, most) in BANDS.items():
            inside = [
                told["fields"][name] for name, own in zip(self.names, self.cardinalities, strict=True) if least <= own < most
            ]
            if inside:
                told.setdefault("bands", {})[band] = sum(inside) / len(inside)
        return told


class CollapseMonitor(Callback):
    """A callback that looks every so many steps, for as many steps as give enough rows, and writes a `diagnosed` line.

    Args:
        model: inside of `sharded`. observed: what of it is looked at, in addition to the tables.
        every_steps: [steps] between two looks; 0 never looks. batch_rows: [rows] of a step over all ranks. rows: [rows] of one
            look, over all ranks.

    Attributes:
        steps: [steps] that a look takes; it begins so many before the line is due.
    """

    def __init__(
        self,
        model: nn.Module,
        sharded: Sharded,
        observed: Observed | None,
        log: RunLog,
        *,
        every_steps: int,
        batch_rows: int,
        rows: int = 4096,
    ) -> None:
        self._model, self._sharded, self._observed, self._log, self._every = model, sharded, observed, log, every_steps
        self.steps = max(-(-rows // batch_rows), 1)
        self._sight = RepresentationStats(observed)

    def on_step_begin(self, state: TrainState) -> None:
        """Have the model report the sides of its product in the steps that are looked at."""
        set_watch(self._model, on=self._is_looking(state.step + 1))

    def on_step_end(self, state: TrainState, output: StepOutput) -> None:
        """Look; at the end of a look write what was seen. Every rank does so in the same step."""
        if not self._is_looking(state.step):
            return
        self._sight.add(output.observed)
        if state.step % self._every == 0:
            weights = {"weights": own} if (own := _weights(output)) else {}
            told = {**self._sight.summary(), **weights, "tables": tables_told(self._sharded)}
            self._log.write("diagnosed", state.step, told)
            self._sight = RepresentationStats(self._observed)

    def _is_looking(self, step: int) -> bool:
        return bool(self._every) and (step - 1) % self._every >= self._every - self.steps


@torch.no_grad()
def tables_told(sharded: Sharded) -> dict[str, dict[str, float]]:
    """The health of every table, of at most TABLE_ROWS evenly spaced rows of each shard, without gathering any. Collective.

    Where a table is split by columns, a row's norm is its parts', and rankme is left out: it needs whole rows.
    """
    told = {}
    moments = _moments(sharded)
    for table in sharded.tables():
        name, (rows, width), placed = table.name, table.size, table.whole.metadata().shards_metadata
        columns = {own.shard_sizes[1] for own in placed}
        whole, part = columns == {width}, min(columns)
        total = torch.zeros(4 + part * part, dtype=torch.float64)
        for at, shard in enumerate(table.shards):
            step = max(-(-len(shard.values) // TABLE_ROWS), 1)
            numbers = torch.arange(shard.row, shard.row + len(shard.values), step)
            seen = sharded.rows_as_read(name, shard.values[::step, :part], numbers, shard.column)
            moment = moments.get((table.key, at))
            total += TableHealth.of(
                seen, _moved(moment[::step], sharded.accumulators.get(name, 0.0)) if moment is not None else None
            ).packed()
        if dist.is_initialized():
            dist.all_reduce(total)
        told[name] = {k: v for k, v in TableHealth.summary(total, part).items() if whole or k != "rankme"}
        told[name]["rows"] /= len({own.shard_offsets[1] for own in placed})  # a part is not a row
        told[name]["of_rows"] = float(rows)
    return told


def _weights(output: StepOutput) -> dict[str, list[float]]:
    """What the model weighs its parts with, by what it calls them."""
    return {name.partition("/")[2]: own.tolist() for name, own in output.observed.items() if name.startswith("weights/")}


def _moved(moment: Tensor, begun: float) -> Tensor:
    """Which rows the optimizer has moved: those whose accumulator is not what it began with."""
    return moment.reshape(len(moment), -1).ne(begun).any(1).cpu()


def _moments(sharded: Sharded) -> dict[tuple[str, int], Tensor]:
    """The accumulators of this rank's shards."""
    return {
        (moment.key, at): shard.values
        for name, moment in sharded.moments()
        if not name.endswith("exp_avg")
        for at, shard in enumerate(moment.shards)
    }


def set_watch(model: nn.Module, *, on: bool) -> None:
    """Have the model report what only diagnostics read, or no longer; one that has nothing to report does not ask."""
    setattr(model, "watch", on)  # noqa: B010 - torch declares attributes of a module to be tensors or modules
