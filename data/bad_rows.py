"""Rows that are not what the schema says: which, why, and the message about them."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data.errors import BadInput
from data.schema import Label

UNIT_HINT = "write all times as timestamps, or as integers in one unit, and set `unit` of the schema's time to it."


class BadRows(Exception):
    """Some rows are not what the schema says.

    Args:
        mask: (B,) which ones.
        what: what is wrong with them. column: where. expected: what there should be.
        measure: what a list has too many or too few of; the message gives its length instead of its values.
        hint: what to do; None: fix the log, or skip them.
    """

    def __init__(
        self,
        mask: NDArray[np.bool_],
        what: str,
        column: str,
        expected: str,
        measure: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.mask, self.what, self.column, self.expected, self.measure = mask, what, column, expected, measure
        self.hint = hint

    @property
    def reason(self) -> str:
        """What is wrong with all of them, in one line."""
        advice = f" ({self.hint})" if self.hint else ""
        return f"{self.what}, column {self.column!r}, is not {self.expected}{advice}"

    def as_bad_input(self, columns: Mapping[str, pa.Array], at: int, file: str) -> BadInput:
        """The error that the user sees, for one of the rows."""
        value = columns[self.column][at]
        try:
            has = f"has {len(value)} {self.measure}" if self.measure else f"is {value.as_py()!r}"
        except (ValueError, OverflowError):  # a list of times that Python does not have: nanoseconds, the year 10000
            has = f"has {len(value)} values"
        return BadInput(
            f"{self.what} {has}",
            file=file,
            row=columns["_row"][at].as_py(),
            column=self.column,
            expected=self.expected,
            hint=self.hint or "fix the log, or leave such rows out with data.bad_rows: skip; they are counted.",
        )


def refuse(
    wrong: NDArray[np.bool_], what: str, column: str, expected: str, *, measure: str | None = None, hint: str | None = None
) -> None:
    """Check that no row is wrong.

    Raises:
        BadRows: some are.
    """
    if wrong.any():
        raise BadRows(wrong, what, column, expected, measure, hint)


def label_hint(label: Label) -> str:
    """What to do about labels that are not 0 or 1."""
    return (
        "if the column holds other numbers by design, such as -1 and 1 or a count, set `positive_above` of the label in the "
        f"schema: {{column: {label.column}, positive_above: 0}} has 1 for what is above 0, else 0. Fix the log otherwise; "
        "data.bad_rows: skip leaves such rows out, up to data.max_bad_rows_share."
    )
