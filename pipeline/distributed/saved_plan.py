"""Sharding plans in a file that a job is held to."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.distributed._shard.metadata import ShardMetadata
from torch.distributed._shard.sharding_spec.api import EnumerableShardingSpec
from torchrec.distributed.sharding_plan import placement
from torchrec.distributed.types import (
    CacheParams,
    EmbeddingModuleShardingPlan,
    ParameterSharding,
    ShardingPlan,
)
from torchrec.modules.embedding_configs import DataType

from data.errors import GenctrError
from data.paths import PATHS, write_whole
from data.yaml_document import finite
from pipeline.distributed.planner import TableConstraints, TablePlan, table_plan, tables_of

FORMAT = 1
Stages = Mapping[str, Mapping[str, TablePlan]]


@dataclass(frozen=True)
class SavedPlan:
    """A plan in a file: JSON, for the ranks it was made for and no others.

    Args:
        device: what torch calls it. name: what it was planned for. ranks, hosts: of the cluster.
        stages: of every stage of the run, its tables by name.
    """

    device: str
    name: str
    ranks: int
    hosts: int
    stages: Stages

    def save(self, path: str) -> None:
        """Write it, whole or not at all."""
        values = {"format": FORMAT, "shard": "rank, first row, first column, rows, columns", **asdict(self)}
        if "/" in path:
            PATHS.mkdirs(path.rpartition("/")[0])
        text = json.dumps(finite(values), indent=1, allow_nan=False)
        write_whole(
            path, re.sub(r"\[\s*([\d,\s]+?)\s*\]", lambda found: f"[{' '.join(found[1].split())}]", text) + "\n"
        )  # a shard a line

    @classmethod
    def load(cls, path: str) -> "SavedPlan":
        """What `save` wrote.

        Raises:
            GenctrError: it is not there, or is not a plan.
        """
        try:
            with PATHS.open(path, "r") as file:
                values = json.load(file)
            if values.pop("format") != FORMAT:
                raise ValueError("it is of another version of genctr")
            del values["shard"]
            stages = {
                stage: {name: table_plan(own) for name, own in tables.items()} for stage, tables in values["stages"].items()
            }
            return cls(**{**values, "stages": stages})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise GenctrError(
                f"train.sharding_plan: {path} cannot be read as a plan: {error}\n  next: genctr plan RUN.yaml --save {path}"
            ) from error

    def check_cluster(self, path: str, *, device: str, ranks: int, hosts: int) -> None:
        """See that a job's ranks are those of the plan.

        Raises:
            GenctrError: they are not.
        """
        job = {"device": device, "ranks": ranks, "hosts": hosts}
        wrong = [
            f"{key}: the plan has {getattr(self, key)}, this job {value}"
            for key, value in job.items()
            if getattr(self, key) != value
        ]
        if wrong:
            card = self.name if self.device == device else "CARD"
            raise another_cluster(path, wrong, "cpu" if device == "cpu" else card, ranks, hosts)

    def tables(self, path: str, stage: str, model: nn.Module, wishes: Mapping[str, TableConstraints]) -> ShardingPlan:
        """The plan of one stage, as DistributedModelParallel takes it.

        Raises:
            GenctrError: the stage's tables are not those of the plan.
        """
        known = self.stages.get(stage, {})
        found = {name: (place, parameter.shape[0]) for place, name, parameter in tables_of(model)}
        wrong = [f"stage {stage}: the plan has {', '.join(self.stages) or 'none'}"] if stage not in self.stages else []
        if not wrong:
            wrong = [f"table {name}: not in the plan" for name in found if name not in known]
            wrong += [f"table {name}: only in the plan" for name in known if name not in found]
        for name, own in known.items():
            if name in found:
                other = own.differences(name, found[name][1], wishes[name], ranks=self.ranks, hosts=self.hosts)
                wrong += other or _holes(name, own, self.ranks)
        if wrong:
            raise another_cluster(path, wrong, self.name, self.ranks, self.hosts)
        plan: dict[str, Any] = {}
        for name, (place, _) in found.items():
            module = plan.setdefault(place, EmbeddingModuleShardingPlan())
            module[name] = self._sharding(known[name])
        return ShardingPlan(plan)

    def _sharding(self, own: TablePlan) -> ParameterSharding:
        local = self.ranks // self.hosts
        return ParameterSharding(
            sharding_type=own.sharding,
            compute_kernel=own.kernel,
            ranks=[shard[0] for shard in own.shards],
            sharding_spec=EnumerableShardingSpec(
                [
                    ShardMetadata([top, left], [rows, columns], placement(self.device, rank, local))
                    for rank, top, left, rows, columns in own.shards
                ]
            ),
            cache_params=CacheParams(load_factor=own.cache, prefetch_pipeline=own.prefetch) if own.cache is not None else None,
            output_dtype=DataType.FP32 if own.precision == "fp16" else None,
        )


def _holes(name: str, own: TablePlan, ranks: int) -> list[str]:
    """What of a table no rank holds, or no rank of this world."""
    held = sum(rows * columns for _, _, _, rows, columns in own.shards)
    wrong = [] if held == own.rows * own.width else [f"table {name}: its shards have {held} of {own.rows * own.width} numbers"]
    return wrong + [
        f"table {name}: a shard is on rank {shard[0]} of {ranks}" for shard in own.shards if not 0 <= shard[0] < ranks
    ]


def another_cluster(path: str, wrong: list[str], device: str, ranks: int, hosts: int) -> GenctrError:
    """The error that a plan was made for another job."""
    shown = "\n".join(f"  {line}" for line in wrong[:10]) + (f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else "")
    return GenctrError(
        f"train.sharding_plan: {path} was made for another job\n{shown}\n"
        f"  next: genctr plan RUN.yaml --ranks {ranks} --hosts {hosts} --device {device} --save {path}"
    )
