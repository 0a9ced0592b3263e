"""One self-contained HTML page about a run: measures, pictures, seams, recipe, provenance.

The page loads nothing, runs no script and says so in its content policy: pictures are data URIs
and the one style sheet is allowed by its hash. A section whose data is absent is left out.
The pictures themselves are drawn by `report_pictures`.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from unet2015.report_colours import same_shape, unit_probability
from unet2015.report_numbers import Value, column_texts, is_number, setting_text, text
from unet2015.report_pictures import (
    figure3_panel,
    learning_curves,
    prediction_panel,
    seam_picture,
)

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = [
    "Column",
    "KeyFigure",
    "ReportData",
    "SliceView",
    "Table",
    "best_and_worst",
    "figure3_panel",
    "learning_curves",
    "prediction_panel",
    "report_html",
    "seam_picture",
    "write_report",
]


@dataclass(frozen=True)
class Column:
    """Heading `name` of a column of figures, and which direction is `better`: lower or higher."""

    name: str
    better: Literal["lower", "higher", ""] = ""


@dataclass(frozen=True)
class Table:
    """Figures by name: each row is its name followed by one value per column.

    Parameters
    ----------
    columns, rows
        Headings; rows of a name and as many values, None where there is none.
    caption
        One sentence under the table.

    Raises
    ------
    ValueError
        If a row has another number of values than there are columns.

    Examples
    --------
    >>> table = Table((Column("wrong pixels", "lower"),), (("ours", 0.06), ("constant", 0.2)))
    >>> table.cells()
    [[('0.0600', True)], [('0.2000', False)]]
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Value, ...], ...]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns) + 1:
                raise ValueError(
                    f"row {row[:1]} has {len(row) - 1} values; the table has"
                    f" {len(self.columns)} columns"
                )

    def cells(self) -> list[list[tuple[str, bool]]]:
        """Per row the text of each value, and whether it is the best of its column."""
        columns = []
        for k, column in enumerate(self.columns, start=1):
            values = [row[k] for row in self.rows]
            best = _best(values, column.better)
            columns.append([(words, i in best) for i, words in enumerate(column_texts(values))])
        return [list(row) for row in zip(*columns, strict=True)]


def _best(values: Sequence[Value], better: str) -> set[int]:
    """Places of the best value; none without a direction or something to compare with."""
    numbers = {i: float(v) for i, v in enumerate(values) if v is not None and is_number(v)}
    if not better or len(numbers) < 2:
        return set()
    best = min(numbers.values()) if better == "lower" else max(numbers.values())
    return {i for i, value in numbers.items() if value == best}


@dataclass(frozen=True)
class KeyFigure:
    """One number the reader should see first.

    Parameters
    ----------
    label, value
        What it is, and the number.
    note
        What to compare it with.
    """

    label: str
    value: Value
    note: str = ""


@dataclass(frozen=True)
class SliceView:
    """One held-out slice: title, picture (`prediction_panel`), figures, what is `outside`."""

    title: str
    picture: bytes
    figures: Mapping[str, Value] = field(default_factory=dict)
    outside: str = "membrane"


@dataclass(frozen=True)
class ReportData:
    """All that a report shows; every field but the title may be left empty.

    Attributes
    ----------
    title, lead
        Heading, and one or two sentences under it.
    warnings
        Sentences the reader must not miss.
    key_figures, measures
        The few numbers on top; the table of measures beside the baselines.
    figure3, curves
        PNG bytes of `figure3_panel` and `learning_curves`.
    slices
        Held-out slices, e.g. from `best_and_worst`.
    seams, seam_picture
        The certificate of the tiled prediction, by name; PNG bytes of `seam_picture`.
    recipe, commands, versions, provenance
        Settings of the run, command lines that made it, versions of programs, hashes of inputs.
    """

    title: str
    lead: str = ""
    warnings: Sequence[str] = ()
    key_figures: Sequence[KeyFigure] = ()
    measures: Table | None = None
    figure3: bytes | None = None
    curves: bytes | None = None
    slices: Sequence[SliceView] = ()
    seams: Mapping[str, Value] = field(default_factory=dict)
    seam_picture: bytes | None = None
    recipe: Mapping[str, Value] = field(default_factory=dict)
    commands: Sequence[str] = ()
    versions: Mapping[str, Value] = field(default_factory=dict)
    provenance: Mapping[str, Value] = field(default_factory=dict)


def best_and_worst(
    images: ArrayLike,
    probabilities: ArrayLike,
    truths: ArrayLike,
    *,
    names: Sequence[str] = (),
    outside: str = "membrane",
) -> tuple[SliceView, ...]:
    """The held-out slices with the smallest and the largest share of wrong pixels.

    Parameters
    ----------
    images, probabilities, truths
        Stacks (S, H, W): grey values; probability of the inside class (floating 0 .. 1 or
        integers over their range); labels, > 0 = inside. Lists of slices of other sizes work too.
    names, outside
        What to call the slices, by default "slice 0", "slice 1", ...; and what is not inside.

    Returns
    -------
    tuple of SliceView
        Best and worst; only one view where there is only one slice.

    Raises
    ------
    ValueError
        If the stacks differ in length or shape, or hold no slice.

    Examples
    --------
    >>> truth = np.ones((2, 4, 4))
    >>> truth[:, 0] = 0
    >>> probability = np.stack([truth[0], 1 - truth[1]])
    >>> [view.title for view in best_and_worst(truth, probability, truth)]
    ['Best: slice 0', 'Worst: slice 1']
    """
    slices = [
        same_shape(image=image, probability=probability, truth=truth)
        for image, probability, truth in zip(images, probabilities, truths, strict=True)  # type: ignore[arg-type]
    ]
    if not slices:
        raise ValueError("no held-out slice to show; hold out at least one")
    called = [unit_probability(probability) > 0.5 for _, probability, _ in slices]
    merging = [float(np.mean(c & (t <= 0))) for c, (_, _, t) in zip(called, slices, strict=True)]
    splitting = [float(np.mean(~c & (t > 0))) for c, (_, _, t) in zip(called, slices, strict=True)]
    wrong = [a + b for a, b in zip(merging, splitting, strict=True)]
    best, worst = int(np.argmin(wrong)), int(np.argmax(wrong))
    chosen = {"Best": best, "Worst": worst} if len(slices) > 1 else {"Held out": best}
    return tuple(
        SliceView(
            f"{word}: {names[k] if names else f'slice {k}'}",
            prediction_panel(*slices[k], outside=outside),
            {
                f"wrong pixels, {outside} or inside": wrong[k],
                f"{outside} called inside": merging[k],
                f"inside called {outside}": splitting[k],
            },
            outside,
        )
        for word, k in chosen.items()
    )


def report_html(data: ReportData) -> str:
    """The page of `data` as one HTML text that needs nothing else.

    Examples
    --------
    >>> page = report_html(ReportData("A <run>", commands=["unet2015 demo"]))
    >>> "A &lt;run&gt;" in page, "<script" in page
    (True, False)
    """
    style = _resource("report.css")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    template = _environment().get_template("report.html.j2")
    return template.render(data=data, style=style, style_hash=f"sha256-{digest}")


def write_report(
    path: str | os.PathLike[str], data: ReportData, *, overwrite: bool = False
) -> None:
    """Write the page of `data`; it appears complete or not at all.

    Raises
    ------
    tiling.faults.WriteError
        If `path` exists and `overwrite` is not set, or cannot be written.
    """
    from tiling.safe_write import write_bytes

    # File names may hold bytes that are no text; they must not stop the report.
    page = report_html(data).encode("utf-8", errors="backslashreplace")
    write_bytes(path, page, overwrite=overwrite)


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    environment = Environment(
        loader=DictLoader({"report.html.j2": _resource("report.html.j2")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        shown=lambda value: _raised(text(value)),
        setting=setting_text,
        raised=_raised,
        data_uri=_data_uri,
        png_size=_png_size,
    )
    return environment


def _resource(name: str) -> str:
    return (resources.files("unet2015") / "templates" / name).read_text(encoding="utf-8")


def _raised(text_with_powers: str) -> Markup:
    """HTML of a text, its powers raised."""
    from markupsafe import Markup, escape

    parts = re.split(r"\^\{([^{}]*)\}", text_with_powers)
    raised = Markup("<sup>{}</sup>")
    return Markup("").join(
        raised.format(part) if k % 2 else escape(part) for k, part in enumerate(parts)
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _png_size(png: bytes) -> tuple[int, int]:
    """Width and height in px from a PNG's header."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or len(png) < 24:
        raise ValueError(
            "a picture of the report is not PNG bytes; pass what report_pictures returns"
        )
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
