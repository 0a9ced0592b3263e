"""The second pass: the maps of pages, and their files in order.

Small pages are computed by worker processes and arrive as compressed strips; pages larger than
memory are computed block by block in this process. The bytes are the same either way.
"""

from __future__ import annotations

import contextlib
import itertools
import operator
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy.typing as npt

from tiling.faults import InputChangedError, InputError
from tiling.lock import OutputLock
from tiling.strict_tiff import open_tiff
from weightmaps.blocks import weight_map_blocks
from weightmaps.class_balance import class_weights
from weightmaps.history import FORMAT
from weightmaps.instance_source import InstanceSource
from weightmaps.label_reader import LabelReader, changes_ns
from weightmaps.map_file import Outcome, packed_strips, pixels_hash, write_maps
from weightmaps.orders import Order
from weightmaps.preview import Thumbnail, panel_pages, write_preview
from weightmaps.volumes import slab_pages, volume_of, volume_pages
from weightmaps.workers import ordered_map

__all__ = ["Made", "make_maps"]

_TASK_PX = 1 << 21
Advance = Callable[[int], None]


@dataclass(frozen=True)
class Made:
    """What came of an order: largest weight and seconds of work (both passes)."""

    order: Order
    largest: float
    seconds: float


def make_maps(
    todo: Sequence[Order], *, jobs: int, overwrite: bool, advance: Advance
) -> Iterator[Made]:
    """Make the maps that are missing and yield each order when it is done, in order.

    Parameters
    ----------
    todo
        From `orders`.
    jobs
        Processes.
    overwrite
        Replace files that exist.
    advance
        Called with the number of pages just finished.
    """
    tasks = [task for order in todo if not order.current for task in _tasks(order)]
    with contextlib.closing(ordered_map(make_pages, tasks, jobs)) as results:
        for order in todo:
            if order.current:
                largest, seconds = float(order.survey.found["max_weight"]), 0.0  # type: ignore[index]
                _picture_of_existing(order, overwrite)
            else:
                largest, seconds = _make(order, results, overwrite, advance)
            yield Made(order, largest, seconds + order.survey.seconds)


@dataclass(frozen=True)
class PageTask:
    """Pages `first` to `last` of an order, to be computed in one go."""

    order: Order
    first: int
    last: int


@dataclass(frozen=True)
class Page:
    """A finished page: its strips, and what was seen of it."""

    strips: list[bytes]
    digest: bytes
    largest: float
    thumbnail: npt.NDArray[Any] | None
    seconds: float


def _tasks(order: Order) -> list[PageTask]:
    shape = order.survey.shape
    if order.streamed:
        return []
    if order.volume:
        return [PageTask(order, 0, shape.pages)]
    some = max(1, _TASK_PX // max(1, shape.height * shape.width))
    return [
        PageTask(order, first, min(shape.pages, first + some))
        for first in range(0, shape.pages, some)
    ]


def make_pages(task: PageTask) -> list[Page]:
    """Return some finished pages (in a worker process)."""
    order = task.order
    start = time.perf_counter()
    pages = []
    with _opened(order) as reader:
        if order.volume:
            blocks: Iterable[Iterable[npt.NDArray[Any]]] = _volume_blocks(reader, order)
        else:
            blocks = (_page_blocks(reader, page, order) for page in range(task.first, task.last))
        for number, rows in zip(range(task.first, task.last), blocks, strict=True):
            outcome, thumbnail = Outcome(), _thumbnail(order, number)
            seen = rows if thumbnail is None else thumbnail.watching(rows)
            strips = list(packed_strips(seen, order.survey.shape, outcome))
            now = time.perf_counter()
            pages.append(
                Page(
                    strips, outcome.digest.digest(), outcome.largest,
                    None if thumbnail is None else thumbnail.pixels, now - start,
                )
            )  # fmt: skip
            start = now
        reader.check_unchanged()
    return pages


@contextlib.contextmanager
def _opened(order: Order) -> Iterator[LabelReader]:
    """The labels, if they are still those of the first pass."""
    with LabelReader(order.survey.file, order.rule) as reader:
        if reader.identity != order.survey.identity:
            raise InputChangedError(
                order.survey.file.path, "changed since it was counted; run again on a file at rest"
            )
        yield reader


def _check_content(order: Order) -> None:
    """Raise `InputChangedError` if the labels are no longer those that were counted.

    Read again are only files that changed in whatever way since, also under their old time.
    """
    survey = order.survey
    if changes_ns(survey.file) == survey.changes_ns:
        return
    with _opened(order) as reader:
        if reader.sha256() != survey.sha256:
            raise InputChangedError(
                survey.file.path, "changed while it was being read; run again on a file at rest"
            )


def _page_blocks(reader: LabelReader, page: int, order: Order) -> Iterator[npt.NDArray[Any]]:
    survey = order.survey
    source = InstanceSource(reader, page, survey.kind, survey.rows)
    dtype = survey.shape.dtype
    try:
        blocks = weight_map_blocks(
            source, order.spec, classes=source.classes, block_rows=survey.rows, dtype=dtype
        )
        yield from map(operator.itemgetter(1), blocks)
    except ValueError as error:  # weights of a single image that the type cannot hold
        raise InputError(survey.file.path, str(error), page=page) from error


def _volume_blocks(reader: LabelReader, order: Order) -> Iterator[list[npt.NDArray[Any]]]:
    spec, shape = order.spec, order.survey.shape
    if spec.class_weights == "per-image":
        spec = replace(spec, class_weights=tuple(class_weights(order.survey.counts).tolist()))
    size = shape.pages, shape.height, shape.width
    try:
        labels, classes = volume_of(reader, order.survey.kind)
        for page in volume_pages(labels, classes, spec, shape.dtype, slab_pages(size, spec)):
            yield [page]
    except ValueError as error:
        raise InputError(order.survey.file.path, str(error)) from error


def _thumbnail(order: Order, page: int) -> Thumbnail | None:
    shape = order.survey.shape
    if order.preview is None or page not in panel_pages(shape.pages):
        return None
    return Thumbnail(shape.height, shape.width)


def _make(
    order: Order, results: Iterator[list[Page]], overwrite: bool, advance: Advance
) -> tuple[float, float]:
    """Write one map and its picture; return its largest weight and the seconds it took."""
    survey = order.survey
    done: list[Page] = []

    def from_workers() -> Generator[Iterable[bytes], None, None]:
        for page in itertools.chain.from_iterable(itertools.islice(results, len(_tasks(order)))):
            done.append(replace(page, strips=[]))
            yield page.strips
            advance(1)

    def from_blocks() -> Generator[Iterable[bytes], None, None]:
        with _opened(order) as reader:
            for number in range(survey.shape.pages):
                start = time.perf_counter()
                outcome, thumbnail = Outcome(), _thumbnail(order, number)
                rows = _page_blocks(reader, number, order)
                yield packed_strips(
                    rows if thumbnail is None else thumbnail.watching(rows), survey.shape, outcome
                )
                picture = None if thumbnail is None else thumbnail.pixels
                seconds = time.perf_counter() - start
                done.append(Page([], outcome.digest.digest(), outcome.largest, picture, seconds))
                advance(1)
            reader.check_unchanged()

    def finished() -> dict[str, Any]:
        _check_content(order)
        return _history(order, done)

    pages = from_blocks() if order.streamed else from_workers()
    with OutputLock(order.output), contextlib.closing(pages):
        write_maps(
            order.output, survey.shape, pages, finished,
            resolution=survey.resolution, overwrite=overwrite,
        )  # fmt: skip
    largest = max(page.largest for page in done)
    pixels = pixels_hash(page.digest for page in done)
    _picture(order, [page.thumbnail for page in done], largest, pixels, overwrite)
    return largest, sum(page.seconds for page in done)


def _history(order: Order, done: list[Page]) -> dict[str, Any]:
    survey, weights = order.survey, order.spec.class_weights
    return {
        "format": FORMAT,
        "program": f"unet2015 {_version()}",
        "parameters": order.parameters,
        "labels": survey.labels_history,
        "class_weights": weights if isinstance(weights, str) else list(weights),
        "cells": survey.cells,
        "touching_pairs": survey.pairs,
        "max_weight": max(page.largest for page in done),
        "pixels_sha256": pixels_hash(page.digest for page in done),
    }


def _version() -> str:
    try:
        return metadata.version("unet2015")
    except metadata.PackageNotFoundError:
        return "from source"


def _picture(
    order: Order,
    pages: Sequence[npt.NDArray[Any] | None],
    largest: float,
    pixels_sha256: str,
    overwrite: bool,
) -> None:
    if order.preview is not None:
        shown = {k: page for k, page in enumerate(pages) if page is not None}
        shape = order.survey.shape
        write_preview(
            order.preview, shown, title=order.output.name, size=(shape.height, shape.width),
            largest=largest, pixels_sha256=pixels_sha256, overwrite=overwrite,
        )  # fmt: skip


def _picture_of_existing(order: Order, overwrite: bool) -> None:
    """Draw the picture of a map that is up to date, if there is none that shows it."""
    if order.pictured:
        return
    shape = order.survey.shape
    pages: list[npt.NDArray[Any] | None] = [None] * shape.pages
    with open_tiff(order.output) as image:
        for page in panel_pages(shape.pages):
            thumbnail = Thumbnail(shape.height, shape.width)
            step = max(1, (1 << 22) // max(1, shape.width))
            for top in range(0, shape.height, step):
                rows = image.read_rows(page, top, min(shape.height, top + step))[0]
                thumbnail.add(rows)
            pages[page] = thumbnail.pixels
    known = order.survey.found or {}
    _picture(order, pages, float(known["max_weight"]), known["pixels_sha256"], overwrite)
