"""From config to how every table learns, where it lives, and who has which of its rows."""

from collections.abc import Mapping, Sequence

from data.errors import GenctrError
from data.features import Features
from data.schema import Schema
from pipeline.config.run import RunConfig
from pipeline.config.tables import TableConfig
from pipeline.distributed.managed_ids import ManagedIds
from pipeline.distributed.shard import Sharded, ShardingOptions


def build_table_configs(config: RunConfig, features: Features) -> dict[str, TableConfig]:
    """How every table learns and where it lives.

    Raises:
        GenctrError: a managed table is to be kept on the GPU in part: what is written to a row that another id gets would pass
            by the part that is there.
    """
    options = {spec.name: config.tables.of(spec.name) for spec in features.tables}
    for name in (field.name for field in features.schema.managed):
        if options[name].compute_kernel == "fused_uvm_caching":
            raise GenctrError(
                f"table {name!r}: ids: managed cannot be with compute_kernel fused_uvm_caching\n  next: set it to "
                "fused or fused_uvm"
            )
        if options[name].compute_kernel == "auto":
            options[name] = options[name].model_copy(update={"compute_kernel": "fused"})
    return options


def build_spread(config: RunConfig, features: Features) -> ShardingOptions:
    """What the config says of all tables together."""
    train = config.train
    return ShardingOptions(lookups=features.lengths, communication=train.comm_precision, prefetch=train.pipeline == "prefetch")


def build_ids(
    schema: Schema, sharded: Sharded, tables: Mapping[str, TableConfig], *, seed: int, freeze: Sequence[str]
) -> ManagedIds:
    """The maps of managed tables, empty."""
    inits = {name: options.init for name, options in tables.items()}
    return ManagedIds(schema, sharded, inits=inits, seed=seed, device=sharded.model.device, frozen="tables" in freeze)
