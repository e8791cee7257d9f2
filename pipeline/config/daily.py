"""What the daily job does with each day."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from data.yaml_document import BadValue, Section
from pipeline.config.registry import named


class HooksConfig(Section):
    """Who is notified of what happened to a day. A hook that fails is reported on standard error and changes nothing."""

    events: tuple[Literal["published", "held", "failed"], ...] = ("held", "failed")
    """What to notify of."""

    webhook: str | None = None
    """URL that gets the news as JSON: {event, run, day, text}. `${NAME}` in it is that variable of the environment, of
    which the run folder has the name only."""

    command: str | None = None
    """Command that gets the same JSON on standard input; words as a shell splits them, but no shell."""


class DailyConfig(Section):
    """The daily job: which days it takes up, when a model is published, what is kept."""

    on_late_files: Literal["hold", "append", "ignore"] = "hold"
    """Files that appear in a day after it was trained: stop and ask, train them as a part of that day, or leave them."""

    on_changed_files: Literal["refuse", "retrain_from"] = "refuse"
    """A trained day whose files are gone or have another size: stop and ask, or go back to before it and train from there."""

    file_identity: Literal["size", "rows"] = "size"
    """How a trained day's files are recognised: by name and size, or also by the number of rows, which opens them all.
    What they contain is compared by `genctr verify`."""

    on_missing_day: Literal["wait", "skip", "stop"] = "wait"
    """A day that is missing while a later one is there: wait until `missing_day_grace_hours` after its end and then stop, skip
    it then, or stop at once."""

    missing_day_grace_hours: float = Field(default=12.0, ge=0)
    """[h] after a day's end (UTC) until which it may still come."""

    holdout_fraction: float = Field(default=0.1, gt=0, le=0.5)
    """[1] share of a day's steps, the last ones, that the new model and the serving one are compared on before they train."""

    gates: dict[Annotated[str, named("genctr.gates")], float | tuple[float, float]] = {
        "auc": -0.002,
        "calibration": (0.9, 1.1),
        "rows": (0.5, 2.0),
        "nulls": 0.1,
        "psi": 0.25,
    }
    """Limits of the gates, by name; see `pipeline/daily/gates.py`. Predictions that are not finite, and a bundle that scores
    otherwise than the trainer, are never published."""

    first_gates: dict[Literal["auc", "ne", "calibration"], float | tuple[float, float]] = {
        "auc": 0.5,
        "ne": 1.1,
        "calibration": (0.5, 2.0),
    }
    """Limits of a model that nothing serves to compare with, asked in place of the gates that compare, if `gates` has any:
    least AUC, most NE, calibration from … to. Held if surely beyond, or if nothing can be measured; the next night asks
    again."""

    publish: str | None = None
    """Folder or URI of the bundles and of `current`; null is `published` in the run folder."""

    keep: int = Field(default=7, ge=2)
    """[bundles] newest ones kept; the current one, and the one that served before it, are kept besides."""

    keep_days: int = Field(default=3, ge=1)
    """[days] whose last checkpoint is kept, to go back to."""

    bundle_precision: Literal["fp32", "int8"] = "fp32"
    """How a bundle holds tables: as they are, or a byte a number with a scale and a bias per row."""

    optimizer: Literal["keep", "reset_dense", "reset_all"] = "keep"
    """Optimizer state when a new day begins: keep all of it, reset the network's, or reset all."""

    table_decay: dict[str, float] = {}
    """[1] factor of every row of a table when a new day begins, by table name: .99 decays by a third in forty days."""

    lease_seconds: float = Field(default=60.0, gt=0)
    """[s] after which another machine's silent job counts as dead, one of `genctr train` too; on this machine it is seen at
    once."""

    poll_seconds: float = Field(default=60.0, gt=0)
    """[s] before --follow looks again; doubled while nothing comes, up to `max_poll_seconds`."""

    max_poll_seconds: float = Field(default=900.0, gt=0)
    """[s] at most between two looks."""

    accept_changes: tuple[str, ...] = ()
    """Config or schema changes to accept when a run is resumed. Copy each line from the message that refuses them."""

    hooks: HooksConfig = HooksConfig()
    """Who is notified."""

    @model_validator(mode="after")
    def _decays_are_factors(self) -> "DailyConfig":
        for table, factor in self.table_decay.items():
            if not 0 < factor <= 1:
                raise BadValue(f"{factor} is not a factor between 0 and 1", "table_decay", table)
        return self
