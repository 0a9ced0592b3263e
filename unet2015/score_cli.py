"""The verb `unet2015 score`: a table or JSON of the measures of a prediction."""

from __future__ import annotations

import json as json_text
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from tiling.command import answer, answering, note

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from unet2015.score_files import ScoredPair

__all__ = ["score"]


class Measure(StrEnum):
    """What `--measure` accepts."""

    ISBI = "isbi"
    PIXEL_ERROR = "pixel_error"
    RAND_ERROR = "rand_error"
    V_RAND = "v_rand"
    V_INFO = "v_info"
    WARPING_ERROR = "warping_error"
    WRONG_PIXELS = "wrong_pixels"
    SEG = "seg"
    AP = "ap"
    IOU = "iou"


_COMPARED = {Measure.SEG: "objects", Measure.AP: "objects", Measure.IOU: "classes"}  # else a map


def score(
    prediction: Annotated[
        Path, typer.Argument(metavar="PREDICTION", help="probability map, labels or class map")
    ],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="annotation; > 0 is interior")],
    measure: Annotated[
        Optional[list[Measure]],  # noqa: UP045 - typer reads it
        typer.Option("--measure", help="isbi (default: all of 2012), one of them, seg, ap or iou"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
    slices: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option("--slices", help="pages of TRUTH to score, e.g. 12-14,27-29"),
    ] = None,
    class_index: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--class", help="class of a multi-channel prediction; default 1 of 2"),
    ] = None,
    ignore: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option("--ignore", help="truth label that counts nowhere (--measure iou)"),
    ] = None,
) -> None:
    """Score a segmentation: ISBI 2012 measures, CTC SEG, DSB average precision, mean IoU.

    ISBI measures read PREDICTION as the probability of cell interior (uint8 / 255, uint16 /
    65535), sweep eleven thresholds (the warping error ten, to 0.9) and report the best one and
    0.5. seg and ap compare instance labels, iou compares class maps. Of a mask (0 and 255, or 0
    and 1) seg and ap take each piece as an object, and the others take it as certain.
    """
    from tiling.faults import InputError, MemoryFault, UsageFault
    from unet2015.score_files import read_pair
    from unet2015.truth import TruthError

    wanted = list(dict.fromkeys(measure or [Measure.ISBI]))
    if ignore is not None and Measure.IOU not in wanted:
        raise UsageFault(
            f"--ignore {ignore}: of the measures only iou can leave pixels out; add --measure iou,"
            " or leave --ignore out"
        )
    pair = read_pair(prediction, truth, slices=slices, class_index=class_index)
    for line in pair.notes:
        _note(line)
    record: dict[str, Any] = {
        "prediction": str(prediction),
        "truth": str(truth),
        "shape": list(pair.truth.shape),
        "slices": list(pair.slices),
    }
    try:
        for name, (found, true) in _read_for(wanted, pair, ignore):
            record.update(_measured(name, found, true, pair.slices))
    except TruthError as error:
        page = None if error.index is None else pair.slices[error.index]
        raise InputError(truth, error.reason, page=page) from error
    except (TypeError, ValueError) as error:
        raise InputError(prediction, f"against {truth}: {error}") from error
    except MemoryError as error:
        raise MemoryFault(
            f"{prediction}: scoring needs more memory than there is; score fewer slices at a time"
            " (--slices), or cut both files into smaller images"
        ) from error
    if json:
        answer(*json_text.dumps(record, indent=1).splitlines())
    else:
        with answering():
            _print_tables(record, pair.slices)


def _note(text: str) -> None:
    note(f"note: {text}")


def _read_for(
    wanted: Sequence[Measure], pair: ScoredPair, ignore: int | None
) -> Iterator[tuple[Measure, tuple[NDArray[Any], NDArray[Any]]]]:
    """Each measure with the values that it compares; what is to be said of them is said once."""
    from unet2015.score_readings import as_classes, as_map, as_objects

    readers: dict[str, Callable[[ScoredPair], tuple[NDArray[Any], NDArray[Any], list[str]]]]
    readers = {"objects": as_objects, "map": as_map, "classes": partial(as_classes, ignore=ignore)}
    read: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    for name in wanted:
        kind = _COMPARED.get(name, "map")
        if kind not in read:
            found, true, notes = readers[kind](pair)
            for line in notes:
                _note(line)
            read[kind] = found, true
        yield name, read[kind]


def _measured(
    name: Measure, found: NDArray[Any], true: NDArray[Any], slices: Sequence[int]
) -> dict[str, Any]:
    from unet2015 import score as measures
    from unet2015.objects import ctc_jaccards, dsb_image_ap

    if name is Measure.SEG:
        value = measures.ctc_seg(found, true)
        return {"seg": {"value": value, "objects": len(ctc_jaccards(found, true))}}
    if name is Measure.AP:
        images = dsb_image_ap(found, true)
        return {"ap": {"value": float(images.mean()), "per_slice": images.tolist()}}
    if name is Measure.IOU:
        return {"iou": _class_scores(found, true)}
    if name is Measure.ISBI:
        sweeps = measures.isbi_scores(found, true)
    else:
        sweeps = {name.value: getattr(measures, name.value)(found, true)}
    return {key: _with_slices(sweep.to_dict(), slices) for key, sweep in sweeps.items()}


def _with_slices(record: dict[str, Any], slices: Sequence[int]) -> dict[str, Any]:
    rows = zip(slices, record["per_slice"], strict=True)
    return {**record, "per_slice": [{"slice": number, **row} for number, row in rows]}


def _class_scores(found: NDArray[Any], true: NDArray[Any]) -> dict[str, Any]:
    """Confusion of arbitrary label values, as codes 0 .. K - 1 of the values that occur."""
    import numpy as np

    from unet2015.score import ClassScores, confusion

    # As Python's integers: numpy knows no integer type for int64 and uint64 together.
    apart = [np.unique(array, return_inverse=True) for array in (found, true)]
    labels = sorted({value for values, _ in apart for value in values.tolist()})
    place = {label: number for number, label in enumerate(labels)}
    found, true = (np.array([place[v] for v in values.tolist()])[at] for values, at in apart)
    scores = ClassScores(confusion(found, true, len(labels)))
    return {"labels": [int(label) for label in labels], **scores.to_dict()}


def _print_tables(record: dict[str, Any], slices: Sequence[int]) -> None:
    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 100)
    sweeps = {name: value for name, value in record.items() if _is_sweep(value)}
    if sweeps:
        console.print(_stack_table(sweeps))
        if len(slices) > 1:
            console.print(_slice_table(sweeps, slices))
    for name in ("seg", "ap"):
        if name in record:
            console.print(f"{name.upper()} {record[name]['value']:.6f}", highlight=False)
    if "iou" in record:
        console.print(_class_table(record["iou"]))


def _is_sweep(value: object) -> bool:
    return isinstance(value, dict) and "curve" in value


def _stack_table(sweeps: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title="over the stack", box=box.SIMPLE, title_justify="left")
    for heading in ("measure", "best", "at threshold", "at 0.5", "better"):
        table.add_column(heading, justify="left" if heading == "measure" else "right")
    for name, sweep in sweeps.items():
        threshold = f"{sweep['threshold']:.1f}"
        better = "lower" if sweep["better"] == "smallest" else "higher"
        table.add_row(name, f"{sweep['best']:.6f}", threshold, f"{sweep['at_0.5']:.6f}", better)
    return table


def _slice_table(sweeps: dict[str, Any], slices: Sequence[int]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(title="per slice, at threshold 0.5", box=box.SIMPLE, title_justify="left")
    table.add_column("slice", justify="right")
    shown = [name for name in sweeps if name not in ("v_rand_micro", "warping_classic")]
    for name in shown:
        table.add_column(name, justify="right")
    for index, number in enumerate(slices):
        values = [sweeps[name]["per_slice"][index]["at_0.5"] for name in shown]
        table.add_row(str(number), *(f"{value:.6f}" for value in values))
    return table


def _class_table(scores: dict[str, Any]) -> Any:
    from rich import box
    from rich.table import Table

    title = f"mean IoU {scores['mean_iou']:.6f}, accuracy {scores['accuracy']:.6f}"
    caption = "rows: truth, columns: prediction, pixels"
    table = Table(title=title, caption=caption, box=box.SIMPLE, title_justify="left")
    labels = scores["labels"]
    for heading in ("class", "IoU", "Dice", "precision", "recall", *map(str, labels)):
        table.add_column(heading, justify="right")
    for index, label in enumerate(labels):
        figures = (scores[key][index] for key in ("iou", "dice", "precision", "recall"))
        cells = ["-" if value is None else f"{value:.6f}" for value in figures]
        table.add_row(str(label), *cells, *map(str, scores["confusion"][index]))
    return table
