"""The log of a run: rows of numbers with a step, written as CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from tiling.input_file import as_input_error

__all__ = ["Log", "read_log"]

MOST_BYTES = 1 << 26
"""Of a log; 64 MiB are the rows of more than five million steps."""


@dataclass
class Log:
    """Rows of figures, each with the step it belongs to; absent figures stay empty.

    Examples
    --------
    >>> log = Log()
    >>> log.add(10, loss=0.5)
    >>> log.add(10, wrong_pixels=0.2)
    >>> print(log.to_csv())
    step,loss,wrong_pixels
    10,0.5,0.2
    <BLANKLINE>
    >>> log.column("loss")
    ([10], [0.5])
    """

    rows: dict[int, dict[str, float]] = field(default_factory=dict)

    def add(self, step: int, **figures: float) -> None:
        """Put figures into the row of `step`."""
        self.rows.setdefault(step, {}).update({k: float(v) for k, v in figures.items()})

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of the rows that have the figure `name`."""
        pairs = [(step, row[name]) for step, row in sorted(self.rows.items()) if name in row]
        return [step for step, _ in pairs], [value for _, value in pairs]

    def to_csv(self) -> str:
        """CSV text with a header, one line per step in ascending order."""
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["step", *names])
        for step, row in sorted(self.rows.items()):
            table.writerow([step, *(repr(row[n]) if n in row else "" for n in names)])
        return text.getvalue()

    @staticmethod
    def from_csv(text: str, *, up_to: int) -> Log:
        """Log from `to_csv` text without the rows after step `up_to`; bad lines are dropped.

        A last line without its end is one: its last number may have been cut short.
        """
        whole = text[: text.rfind("\n") + 1]
        log, lines = Log(), csv.DictReader(io.StringIO(whole))
        while True:
            try:
                row = next(lines)
                step = int(row.pop("step"))
                figures = {k: float(v) for k, v in row.items() if v}
            except StopIteration:
                return log
            except (TypeError, ValueError, KeyError, csv.Error):
                continue
            if step <= up_to and all(math.isfinite(v) for v in figures.values()):
                log.rows.setdefault(step, {}).update(figures)


def read_log(path: Path, *, up_to: int) -> Log | None:
    """Log of a run that goes on at step `up_to`; None where it is lost: absent, or without a row.

    Raises
    ------
    InputError
        If it is there and cannot be read.
    """
    with as_input_error(path):
        if not path.is_file() or path.stat().st_size > MOST_BYTES:
            return None
        text = path.read_text("utf-8-sig", "replace")
    log = Log.from_csv(text, up_to=up_to)
    return log if log.rows or text == "step\n" else None
