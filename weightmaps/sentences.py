"""What the verb `weights` says of its work, one line each."""

from __future__ import annotations

from collections.abc import Sequence

from weightmaps.batch import Made
from weightmaps.orders import Order
from weightmaps.survey import Survey

__all__ = ["balance", "planned", "summary"]


def balance(surveys: Sequence[Survey], todo: Sequence[Order]) -> str:
    """Over what the class weights are balanced, and what they are."""
    weights = [float(part) for part in todo[0].spec.class_weights]
    names = ["background", "cells"]
    if surveys[0].kind == "classes":
        names = ["background", *(f"class {k}" for k in range(1, len(weights)))]
    files = f"{len(surveys)} files" if len(surveys) > 1 else "1 file"
    told = ", ".join(f"{n} {w:.4g}" for n, w in zip(names, weights, strict=True))
    return f"class weights balanced over all of {files}: {told}"


def planned(order: Order, *, overwrite: bool) -> str:
    """What `--plan` says of an order."""
    survey, shape = order.survey, order.survey.shape
    size = f"{shape.pages} x {shape.height} x {shape.width} {shape.dtype}"
    blocks = ""
    if order.streamed:
        blocks = f", blocks of {survey.rows} rows + 2 x {order.spec.halo_px} rows of context"
    if order.current:
        verb = "up to date"
    else:
        verb = "would be replaced" if overwrite else "would need --overwrite"
        verb = "would be written" if survey.found is None else verb
    return (
        f"{order.output}: {verb}, {size}, {shape.nbytes / 1e6:.1f} MB before compression, "
        f"labels taken as {survey.kind}, {_cells(survey)}{blocks}"
    )


def _cells(survey: Survey) -> str:
    text = f"{_count(survey.cells, 'cell')}, {_count(survey.pairs, 'touching pair')}"
    if survey.inverted:
        text += ", stored as MinIsWhite: its zeros are white (--inside zero for the opposite)"
    if survey.overlap_px:
        text += f", {survey.overlap_px} px in several masks (the first by name has them)"
    return text


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def summary(made: Made) -> str:
    """What came of an order."""
    order = made.order
    if order.current:
        return f"{order.output}: up to date"
    pages = order.survey.shape.pages
    slices = f"{pages} slices, " if pages > 1 else ""
    return (
        f"{order.output}: {slices}{_cells(order.survey)}, "
        f"max weight {made.largest:.3f}, {made.seconds:.2f} s"
    )
