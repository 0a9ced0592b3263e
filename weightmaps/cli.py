"""The verb `weights`: label files in, weight maps out. Runs without torch."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tiling.command import answer, deferred, note, run_app, tell, tidy
from tiling.faults import UsageFault, WriteError
from tiling.remedies import of_writing
from tiling.signals import Terminated

if TYPE_CHECKING:
    from weightmaps.spec import WeightMapSpec
    from weightmaps.survey import Request

__all__ = ["LEAST_MIB", "main", "weights"]

LEAST_MIB = 480
"""Address space that the smallest task takes with two threads, measured."""


def weights(
    labels: Annotated[
        list[str],
        typer.Argument(
            metavar="LABELS",
            help="label files in any mix: TIFF stacks, PNG images, folders of them, folders with"
            " one mask per cell (masks/*.png), patterns",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="folder of the maps, made if missing; without it each is beside its labels",
        ),
    ] = None,
    w0: Annotated[float, typer.Option("--w0", help="height of the border term")] = 10.0,
    sigma: Annotated[
        float, typer.Option("--sigma", help="its width in pixels, or in the unit of --spacing")
    ] = 5.0,
    class_weights: Annotated[
        str,
        typer.Option(
            "--class-weights",
            metavar="balanced|per-image|falk2019|none|B,C",
            help="balanced: over all files named here; B,C: the weights of background and cells, or"
            " one number per class with --labels classes",
        ),
    ] = "balanced",
    where: Annotated[
        Literal["background", "everywhere"], typer.Option("--where", help="pixels with border term")
    ] = "background",
    separate: Annotated[
        Literal["after", "before", "none"],
        typer.Option("--separate", help="distances after or before carving touching cells apart"),
    ] = "after",
    border: Annotated[
        Literal["authors", "watershed"],
        typer.Option("--border", help="line between touching cells: scan-line rule, or minimal"),
    ] = "authors",
    labels_are: Annotated[
        Literal["auto", "mask", "instances", "classes"],
        typer.Option(
            "--labels",
            help="auto: values 0 and one of 1, 255, largest are a mask; classes: values 0 .. K-1,"
            " cells are the components of each class",
        ),
    ] = "auto",
    connectivity: Annotated[
        Literal["4", "8"], typer.Option("--connectivity", help="neighbours in one cell of a mask")
    ] = "4",
    inside: Annotated[
        Literal["nonzero", "zero"], typer.Option("--inside", help="which part of a mask is cell")
    ] = "nonzero",
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", help="take grey mask values >= T as non-zero"),
    ] = None,
    ignore_label: Annotated[
        int | None, typer.Option("--ignore-label", help="label value that gets weight 0")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option("--spacing", metavar="Y,X", help="pixel size (Z,Y,X with --3d)"),
    ] = None,
    volume: Annotated[bool, typer.Option("--3d", help="stacks are volumes, not slices")] = False,
    dtype: Annotated[Literal["float32", "float16"], typer.Option("--dtype")] = "float32",
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=256, help="processes")] = 1,
    block_rows: Annotated[
        int | None,
        typer.Option(
            "--block-rows",
            min=1,
            help="rows of a block for pages larger than memory; by default pages above 67 million"
            " pixels are cut into blocks of 2 million pixels",
        ),
    ] = None,
    block_px: Annotated[int | None, typer.Option("--block-px", min=1, hidden=True)] = None,
    preview: Annotated[bool, typer.Option("--preview", help="also a heat map as PNG")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace other maps")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="only say what would be done")] = False,
) -> None:
    """Precompute the border weight maps of Eq. 2 as float TIFF files.

    Writes NAME.weights.tif for each annotation, into OUT or beside it. Maps that are up to date
    are skipped.
    """
    from weightmaps.label_rule import LabelRule
    from weightmaps.spec import WeightMapSpec
    from weightmaps.survey import Request

    rows = block_px if block_rows is None else block_rows  # --block-px: as it was called once
    if volume and rows is not None:
        raise UsageFault(
            "--block-rows cuts single pages; a volume (--3d) is computed in slabs of pages"
        )
    try:
        chosen = _class_weights(class_weights)
        apart, size = _separation(separate, border), _spacing(spacing, volume=volume)
        spec = WeightMapSpec(
            w0=w0, sigma_px=sigma, class_weights=chosen, where=where, separate=apart, spacing=size,
            ignore_label=ignore_label,
        )  # fmt: skip
        spec.check_range(dtype)
        _check_classes(spec, labels_are)
        rule = LabelRule(labels_are, int(connectivity), inside, threshold, ignore_label)
    except ValueError as error:
        raise UsageFault(str(error)) from error
    request = Request(spec, rule, dtype, volume, rows, out)
    _run(labels, request, _Manner(jobs=jobs, overwrite=overwrite, preview=preview, plan=plan))


@dataclass(frozen=True)
class _Manner:
    """How the work is done; changes no byte of the maps."""

    jobs: int
    overwrite: bool
    preview: bool
    plan: bool


def _run(names: Sequence[str], request: Request, manner: _Manner) -> None:
    from tiling.apart import check_apart
    from weightmaps.annotations import find_label_files, refuse_same_names
    from weightmaps.batch import make_maps
    from weightmaps.orders import check_outputs, orders
    from weightmaps.room import check_room
    from weightmaps.sentences import balance, planned, summary
    from weightmaps.survey import survey
    from weightmaps.workers import ordered_map

    files = find_label_files(names)
    refuse_same_names(files, request.out)
    outputs = [request.output(file) for file in files]
    outputs += [request.picture(file) for file in files if manner.preview]
    check_apart(outputs, [file for label in files for file in label.files])
    folders = sorted({request.folder(file) for file in files})
    for folder in () if manner.plan else folders:
        _prepare(folder)
    if not manner.plan:
        tidy("unet2015", *outputs)
    with _progress("reading labels", len(files)) as advance:
        surveys = []
        for one in ordered_map(survey, [(file, request) for file in files], manner.jobs):
            surveys.append(one)
            advance(1)
    for one in surveys:
        for doubt in one.doubts:
            note(f"{one.file.path}: {doubt}")
    todo = orders(surveys, request, overwrite=manner.overwrite or manner.plan,
                  preview=manner.preview)  # fmt: skip
    if request.spec.class_weights == "balanced":
        (answer if manner.plan else tell)(balance(surveys, todo))
    if manner.plan:
        for order in todo:
            answer(planned(order, overwrite=manner.overwrite))
        return
    check_outputs(todo, overwrite=manner.overwrite)
    check_room(todo)
    pages = sum(o.survey.shape.pages for o in todo if not o.current)
    with _progress("weight maps", pages) as advance:
        made = make_maps(todo, jobs=manner.jobs, overwrite=manner.overwrite, advance=advance)
        try:
            for one_map in made:
                tell(summary(one_map))
        except (KeyboardInterrupt, Terminated) as stop:
            stop.add_note("finished maps stay; run the same command again for the rest")
            raise


def _prepare(out: Path) -> None:
    """Make the folder of the maps."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            out, f"cannot be used as output folder: {error.strerror}; {of_writing(error)}"
        ) from error


def _class_weights(text: str) -> str | tuple[float, ...]:
    if "," not in text:
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageFault(
            f"--class-weights {text} must be a name or two numbers: background,cells"
        ) from None


def _check_classes(spec: WeightMapSpec, labels_are: str) -> None:
    """Refuse class weights that are for another number of classes than the labels have."""
    if labels_are == "classes":
        if spec.class_weights == "falk2019":
            raise UsageFault(
                "--class-weights falk2019 is for background and cells, not --labels classes"
            )
    elif not isinstance(spec.class_weights, str) and len(spec.class_weights) != 2:
        raise UsageFault(
            f"--class-weights has {len(spec.class_weights)} numbers, two are wanted: background and"
            " cells; for more classes say --labels classes"
        )


def _separation(separate: str, border: str) -> str:
    if border == "authors":
        return separate
    if separate == "none":
        raise UsageFault("--border says how cells are carved apart; --separate none carves nothing")
    return {"after": "watershed", "before": "watershed-before"}[separate]


def _spacing(text: str | None, *, volume: bool) -> tuple[float, ...] | None:
    if text is None:
        return None
    axes = "Z,Y,X" if volume else "Y,X"
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != axes.count(",") + 1:
        raise UsageFault(f"--spacing {text} must be {axes.count(',') + 1} numbers: {axes}")
    return numbers


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on standard error if somebody looks at it; gives the function to advance."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)


app = typer.Typer(
    help="Border weight maps of the 2015 U-Net.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)
app.command("weights")(deferred(weights, LEAST_MIB))


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code of the command line `argv` (by default this process's)."""
    return run_app("weightmaps", app, argv)
