"""What is to be done for each annotation: make its map, leave it, or refuse."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tiling.faults import InputError, UsageFault, WriteError
from tiling.safe_write import check_output
from weightmaps.blocks import added_counts
from weightmaps.class_balance import class_weights
from weightmaps.history import FORMAT
from weightmaps.label_rule import LabelRule
from weightmaps.multiclass import class_table
from weightmaps.preview import shows
from weightmaps.spec import WeightMapSpec
from weightmaps.survey import Request, Survey

__all__ = ["Order", "check_outputs", "orders"]


@dataclass(frozen=True)
class Order:
    """One map to make, or to leave as it is.

    Parameters
    ----------
    survey
        The annotation.
    spec
        Parameters with the class weights of the data set filled in.
    parameters
        What the history of the map says it was made with.
    output, preview
        The map, and its picture (None: not wanted).
    current
        The map is already there.
    """

    survey: Survey
    spec: WeightMapSpec
    parameters: dict[str, Any]
    output: Path
    preview: Path | None
    current: bool

    @property
    def volume(self) -> bool:
        """The stack is a true volume."""
        return bool(self.parameters["volume"])

    @property
    def streamed(self) -> bool:
        """The pages are too large to be sent from process to process."""
        return not self.volume and self.survey.rows < self.survey.shape.height

    @property
    def pictured(self) -> bool:
        """The picture that is wanted is already there, and shows this map."""
        if self.preview is None:
            return True
        known = (self.survey.found or {}).get("pixels_sha256")
        return self.current and isinstance(known, str) and shows(self.preview, known)

    @property
    def rule(self) -> LabelRule:
        """How label values are taken."""
        said = self.parameters
        return LabelRule(
            said["labels"], said["connectivity"], said["inside"], said["threshold"],
            self.spec.ignore_label,
        )  # fmt: skip


def orders(
    surveys: Sequence[Survey], request: Request, *, overwrite: bool, preview: bool
) -> list[Order]:
    """Return what is to be done for each annotation.

    Raises
    ------
    WriteError
        An output exists that was made from other labels or with other parameters, is damaged, or
        is no map of ours, and must not be overwritten.
    """
    spec, parameters = request.spec, request.parameters()
    if spec.class_weights == "balanced":
        total = functools.reduce(added_counts, (s.counts for s in surveys), np.zeros(2, np.int64))
        spec = replace(spec, class_weights=tuple(class_weights(total).tolist()))
        parameters["dataset_counts"] = total.tolist()
        try:
            spec.check_range(request.dtype)
        except ValueError as error:
            raise UsageFault(f"{error}, or other --class-weights") from error
    for one in surveys:
        if one.kind == "classes":
            _check_classes(one, spec)
    result = []
    for one in surveys:
        output = request.output(one.file)
        why = _why_not_current(one, parameters)
        picture = request.picture(one.file) if preview else None
        if one.found is not None and why and not overwrite:
            raise WriteError(output, f"exists and {why}; use --overwrite to replace it")
        result.append(Order(one, spec, parameters, output, picture, not why))
    return result


def _check_classes(one: Survey, spec: WeightMapSpec) -> None:
    """Refuse a file with a class that has no weight."""
    try:
        class_table(spec, len(one.counts))
    except ValueError as error:
        raise InputError(one.file.path, f"{error}; give one number per class") from error


def check_outputs(todo: Iterable[Order], *, overwrite: bool) -> None:
    """Refuse outputs that cannot be written, before any map is made."""
    for order in todo:
        if not order.current:
            check_output(order.output, overwrite=overwrite, inputs=order.survey.file.parts)
        if order.preview is not None and not order.pictured:
            check_output(order.preview, overwrite=overwrite)


def _why_not_current(one: Survey, parameters: dict[str, Any]) -> str:
    """Why the map that is there will not do; '' if it will."""
    found = one.found
    if found is None:
        return "missing"
    if one.damaged:
        return "is damaged (its pixels do not have their recorded hash)"
    if found.get("format") != FORMAT:
        return "is no weight map of this program"
    if found.get("labels", {}).get("sha256") != one.sha256:
        return "was made from other labels"
    old = found.get("parameters", {})
    other = sorted(k for k in parameters.keys() | old.keys() if parameters.get(k) != old.get(k))
    if other == ["dataset_counts"]:
        return "was balanced over another set of files"
    return f"was made with other parameters ({', '.join(other)})" if other else ""
