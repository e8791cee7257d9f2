"""The vocabularies of a run that has not begun: as large as they are known or guessed to be."""

from collections.abc import Iterable, Mapping

from data.errors import GenctrError
from data.schema import AnyIds, Schema
from data.yaml_document import nearest


def check_guesses(schema: Schema, guessed: Iterable[str]) -> None:
    """See that guesses are of vocabularies there are; "" stands for all.

    Raises:
        GenctrError: no vocabulary is called so.
    """
    vocabularies = [own.name for own in schema.fields if isinstance(own, AnyIds) and own.ids == "vocab"]
    for name in filter(None, guessed):
        if name not in vocabularies:
            raise GenctrError(f"--vocab-rows {name}: no vocabulary is called so; {nearest(name, vocabularies)}")


def sized(schema: Schema, known: Mapping[str, int], guessed: Mapping[str, int]) -> Schema:
    """The schema with vocabularies as tables of so many rows.

    Raises:
        GenctrError: the size of one is neither known nor guessed.
    """
    tables = [own.name for own in schema.fields if isinstance(own, AnyIds) and own.table is None and own.ids == "vocab"]
    sizes = {name: known.get(name, guessed.get(name, guessed.get(""))) for name in tables}
    if missing := [name for name, size in sizes.items() if size is None]:
        raise GenctrError(
            f"{', '.join(missing)}: a vocabulary has no size before it is fitted\n"
            f"  next: give the run folder of a job that has begun (--out DIR), or guess (--vocab-rows {missing[0]}=1000000)"
        )
    reserved = 2  # missing, and not in the vocabulary
    fields = [
        own.model_copy(update={"ids": "hash", "rows": size + reserved, "min_count": None})
        if (size := sizes.get(own.name)) is not None
        else own
        for own in schema.fields
    ]
    return schema.model_copy(update={"fields": tuple(fields)})
