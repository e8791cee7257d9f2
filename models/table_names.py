"""What tables are called: their companions, and the keys of state dicts that are theirs."""

from collections.abc import Container
from itertools import pairwise

LINEAR, SECOND = "_linear", "_second"
"""What the companions of a table are called: its name, and this."""


def owner_of(table: str, owners: Container[str]) -> str:
    """The table among `owners` that a table is, or is a companion of; itself if there is none.

    >>> owner_of("item_linear", {"item"}), owner_of("item_linear", {"item", "item_linear"})
    ('item', 'item_linear')
    """
    return next((own for end in ("", LINEAR, SECOND) if (own := table.removesuffix(end)) in owners), table)


def table_of(key: str) -> str:
    """The table whose weight, or whose optimizer's state, a key of a state dict names; empty if it names none.

    >>> table_of("model.sparse.embedding_bags.item.weight"), table_of("model.head.weight")
    ('item', '')
    """
    return next((name for part, name in pairwise(key.split(".")) if part in ("embedding_bags", "embeddings")), "")
