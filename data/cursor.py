"""Where reading stands: four numbers that mean the same on every rank."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cursor:
    """A position in the log.

    Args:
        epoch: [passes] over the training days already finished.
        day: the day being read.
        row: [rows] of every lane of `day` already handed out.
        lanes: [lanes] the day is cut into. A day that was begun is finished with the lanes it began with.
    """

    epoch: int
    day: str
    row: int
    lanes: int

    def to_json(self) -> dict[str, Any]:
        """The cursor as a checkpoint stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Cursor":
        """The cursor a checkpoint stored."""
        return cls(**values)
