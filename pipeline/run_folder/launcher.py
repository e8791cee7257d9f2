"""What a launcher tells a rank, in the environment of its process."""

import os

STORE = "GENCTR_STORE"
"""The file in which the ranks of one machine meet, if a launcher of ours started them."""


def launched() -> bool:
    """Whether a launcher (ours, torchrun, TorchX) already started one process per rank."""
    return "WORLD_SIZE" in os.environ and "RANK" in os.environ
