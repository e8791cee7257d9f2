"""A run folder belongs to one config and schema: stored at the first start, compared at every later one."""

import hashlib
import json
from collections.abc import Sequence

from data.errors import GenctrError, OldKeys
from data.paths import PATHS
from data.schema import AnyIds, NumberField, Schema, VectorField
from data.statistics import FILE
from data.yaml_document import write_document
from pipeline.config.run import RunConfig, Stage, load

MAY_CHANGE = {
    *("schema_file", "data.root", "data.lanes", "data.prefetch_batches"),
    *("data.check", "data.bad_files", "data.bad_rows", "data.max_bad_rows_share"),  # what helps at night must not ask for more
    *("train.ranks", "train.device", "train.epochs", "train.max_steps", "train.sharding_plan", "train.pipeline"),
}
"""Keys that may change when a run is resumed, in addition to `checkpoint.*`, `daily.*`, and each table's sharding and
kernel."""

STATISTICS = f"statistics/{FILE}"


def load_run(folder: str) -> tuple[RunConfig, Schema]:
    """The config and schema a run folder was made with.

    Raises:
        GenctrError: the folder holds no run.
    """
    if not PATHS.exists(f"{folder}/config.yaml"):
        raise GenctrError(f"{folder}: no config.yaml there, so this is not a run folder: give the --out of a `genctr train`")
    try:
        return load(f"{folder}/config.yaml")
    except OldKeys as error:
        lines = str(error).splitlines()
        more = f"\n  and {len(lines) - 3} more" if len(lines) > 3 else ""
        old = "\n".join(f"  {line}" for line in lines[:3])
        raise GenctrError(
            f"{folder} was begun by an earlier version, which called settings otherwise:\n{old}{more}\n"
            "  next: give a new --out, or train on with the version that began it"
        ) from error


def stage_schema(schema: Schema, stage: Stage, stages: Sequence[Stage]) -> Schema:
    """The schema as a stage reads it: its fields, and numbers as buckets if any stage of the run reads them so.

    Raises:
        GenctrError: the stage names a field that is not there, or not its table.
    """
    schema = bucketed(schema, stages)
    try:
        return schema.reading(stage.fields) if stage.fields else schema
    except ValueError as error:
        raise GenctrError(f"stage {stage.name}: fields: {error}") from error


def bucketed(schema: Schema, stages: Sequence[Stage]) -> Schema:
    """The schema with numbers as buckets, if the model of any stage reads them so."""
    models = [(stage.config.model, stage.config.family.reads.buckets) for stage in stages]
    counts = [buckets(model) for model, buckets in models if buckets is not None]
    return schema.bucketed(counts[0]) if counts else schema


def frequencies_file(folder: str, stage: Stage) -> str:
    """Where the counts of a stage's values are."""
    return f"{folder}/statistics/frequencies.{stage.name}.npz"


def check_changes(folder: str, config: RunConfig, schema: Schema) -> bool:
    """Whether anything would change what the folder was begun with before it has saved something.

    Raises:
        GenctrError: it has, and what changes was not accepted, or would have the saved model take one thing for another.
    """
    if not PATHS.exists(f"{folder}/config.yaml"):
        return False
    changed = _changes(folder, config, schema)
    trained = PATHS.exists(f"{folder}/checkpoints")
    begun, begun_schema = load_run(folder)
    mistaken = [*_moved_stages(begun, config), *changes_of_meaning(begun_schema, schema)]
    if mistaken and trained:
        told = "\n".join(f"  {line}" for line in mistaken)
        raise GenctrError(
            f"{folder} has a model that would take one thing for another:\n{told}\n  next: set these back (what is new goes to "
            "the end, or where something is gone; a field with a new name starts over), or give a new --out"
        )
    refused = [line for line in changed if line not in config.daily.accept_changes]
    if refused and trained:
        told = "\n".join(f"  {line}" for line in refused)
        raise GenctrError(
            f"{folder} was begun with another config:\n{told}\n  next: set these back, give a new --out, "
            f"or confirm them and keep what fits:\n  daily.accept_changes: {json.dumps(refused, ensure_ascii=False)}"
        )
    return bool(changed) and not trained


def claim(folder: str, config: RunConfig, schema: Schema) -> RunConfig:
    """Store the resolved config, and return it; where a run has saved something, refuse what would make it another run.

    What was accepted once stays accepted: checkpoints from before may still be there to go on from.
    """
    try:
        if check_changes(folder, config, schema):
            counted = [f"{folder}/{STATISTICS}", *(frequencies_file(folder, stage) for stage in config.resolved())]
            for path in filter(PATHS.exists, counted):
                PATHS.rm(path)
        if PATHS.exists(f"{folder}/config.yaml"):
            accept = dict.fromkeys([*load_run(folder)[0].daily.accept_changes, *config.daily.accept_changes])
            config = config.model_copy(update={"daily": config.daily.model_copy(update={"accept_changes": tuple(accept)})})
        stages = config.resolved()
        read = stage_schema(schema, stages[-1], stages)
        PATHS.mkdirs(folder)
        PATHS.mkdirs(f"{folder}/schemas/")
        write_document(f"{folder}/schemas/{digest(read)}.yaml", read)  # what days before a change were read with
        write_document(f"{folder}/schema.yaml", schema)
        write_document(f"{folder}/config.yaml", config.model_copy(update={"schema_file": "schema.yaml"}))
    except OSError as error:
        raise GenctrError(f"the run folder cannot be written: {error}\n  next: fix {folder}, or give another --out") from error
    return config


def _changes(folder: str, config: RunConfig, schema: Schema) -> list[str]:
    """What would make this another run than the one the folder was begun with, a line each."""
    begun, begun_schema = load_run(folder)
    before, now = _flat(begun.model_dump()), _flat(config.model_dump())
    changed = sorted(
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and key not in MAY_CHANGE
        and not key.startswith(("checkpoint.", "daily.", "train.hardware."))
        and not key.endswith((".sharding", ".compute_kernel", ".cache_load_factor"))
    )
    lines = [f"{key}: begun with {before.get(key)!r}, now {now.get(key)!r}" for key in changed]
    return [*lines, *schema_changes(begun_schema, schema)]


def schema_changes(before: Schema, now: Schema) -> list[str]:
    """What is new, gone or other in a schema, a line each."""
    lines = []
    for kind, old, new in (
        ("field", {own.name: own for own in before.fields}, {own.name: own for own in now.fields}),
        ("label", {own.target: own for own in before.targets}, {own.target: own for own in now.targets}),
    ):
        lines += [f"{kind} {name}: new" for name in new if name not in old]
        lines += [f"{kind} {name}: gone" for name in old if name not in new]
        for name in (own for own in new if own in old):
            left, right = _flat(old[name].model_dump(mode="json")), _flat(new[name].model_dump(mode="json"))
            keys = sorted(key for key in left.keys() | right.keys() if left.get(key) != right.get(key))
            lines += [f"{kind} {name}.{key}: begun with {left.get(key)!r}, now {right.get(key)!r}" for key in keys]
        if [name for name in old if name in new] != [name for name in new if name in old]:
            lines.append(f"schema: {kind}s in another order")
    rest = [schema.model_dump(mode="json", exclude={"fields", "label", "labels"}) for schema in (before, now)]
    lines += [
        f"schema {key}: begun with {rest[0].get(key)!r}, now {own!r}" for key, own in rest[1].items() if rest[0].get(key) != own
    ]
    return lines or ([] if before == now else ["schema: the same in other words"])


def changes_of_meaning(before: Schema, now: Schema) -> list[str]:
    """What nobody can confirm, a line each: rows of a table that were other ids', weights of a place that was another's.

    A network and its heads know fields and labels by their places; with another number of fields it starts over.
    """
    old, new = ({field.name: field.ids for field in own.fields if isinstance(field, AnyIds)} for own in (before, now))
    both = [(name, old[name], new[name]) for name in new if name in old and old[name] and new[name]]
    lines = [f"field {name}.ids: begun with {left!r}, now {right!r}" for name, left, right in both if left != right]
    places = []
    for kinds in ((AnyIds, NumberField, VectorField), NumberField, VectorField):
        first, second = ([field.name for field in own.fields if isinstance(field, kinds)] for own in (before, now))
        places += [("field", first, second)] if len(first) == len(second) else []
    first, second = ([label.target for label in own.targets] for own in (before, now))
    places += [("label", first, second)] if len(first) <= len(second) else []
    for kind, first, second in places:
        moved = [name for name in second if name in first and first.index(name) != second.index(name)]
        lines += [f"{kind} {name}: in another place" for name in moved]
    return list(dict.fromkeys(lines))


def _moved_stages(begun: RunConfig, config: RunConfig) -> list[str]:
    """What nobody can confirm of the stages, a line each: a checkpoint knows its own by its place."""
    old, new = ([stage.name for stage in own.resolved()] for own in (begun, config))
    moved = [name for name in new if name in old and old.index(name) != new.index(name)]
    gone = [name for name in old[len(new) :] if name not in new]
    return [*(f"stage {name}: in another place" for name in moved), *(f"stage {name}: gone" for name in gone)]


def digest(schema: Schema) -> str:
    """A name for what a schema says."""
    return hashlib.sha256(json.dumps(schema.model_dump(mode="json", by_alias=True), sort_keys=True).encode()).hexdigest()[:16]


def _flat(tree: object, prefix: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {k: v for name, branch in tree.items() for k, v in _flat(branch, f"{prefix}.{name}" if prefix else name).items()}
    return {prefix: tree}
