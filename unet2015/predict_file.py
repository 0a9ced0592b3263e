"""Prediction from file to file: any size, constant memory, resumable."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tiling import Summary, label_bands, open_sink, open_source, stitch
from tiling.disk import beside, real_target, remove, writing
from tiling.faults import InputError, LockedError, UsageFault, WriteError
from tiling.formats import is_zarr_name
from tiling.lock import holding
from tiling.ome import checked_for_ome, is_ome_name
from tiling.replacing import clear_folders, hidden_predecessor, new_folder
from tiling.safe_write import check_output
from tiling.unfinished import discard_partial, unfinished_identity
from unet2015.intensity import FAR_FROM_1, note_on_floats
from unet2015.model import Model, load_model
from unet2015.planes import ALPHA
from unet2015.predict import geometry_of
from unet2015.predict_history import (
    certificate,
    check_input,
    classes_file,
    damage_of,
    finished,
    last_change_ns,
    made_alike,
    provenance,
    seam_rule,
    tile_begun_with,
)
from unet2015.predict_job import Job, Settings, prepare
from unet2015.watched import Watched

__all__ = ["ENDINGS", "Job", "Model", "Settings", "load_model", "predict_file", "prepare"]

ENDINGS = (".tif", ".tiff", ".btf", ".tf8", ".zarr")
"""Of the names of files that are written."""

Progress = Callable[[Job, int, int, int], None]

_QUICK_PX = 100_000_000  # values that are read in some seconds

# What may lie beside an output whose run was killed.
_LEFT = (".part", ".part.journal", ".part.zarr", ".old.zarr", ".trash.zarr", ".lock")


def predict_file(
    model: Model,
    image: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Summary]:
    """Segment every plane of `image` into `out` (tiled BigTIFF, or OME-Zarr for `.zarr`).

    Memory is bounded by one row of tiles and the tiles in flight. `out` appears when complete.
    Instances are labelled from a file of class labels beside `out`, which is removed at the end.

    Parameters
    ----------
    model
        Network, normalisation and hash.
    image, out
        Input and output file.
    settings
        See `Settings`.
    overwrite
        Replace an existing output.
    resume
        Take up the unfinished output of an interrupted run. An output that is complete and was made
        with the same settings is left as it is.
    progress
        Called as `progress(job, plane, tiles_done, tiles_in_all)`.
    say
        Told what is worth knowing beside the result: a constant image, the number of objects.

    Returns
    -------
    list of Summary
        One per plane, with its seam certificate; none where nothing was left for the network.

    Raises
    ------
    InputError, UsageFault, WriteError, MemoryFault, LockedError, InputChangedError, SeamError
        As docs/reliability.md says; nothing appears under the output's name.
    """
    settings, name, say = settings or Settings(), os.fsdecode(image), say or _nobody
    _check_name(out)
    inputs = [name, *model.files]
    if not resume or finished(out) is None:
        check_output(out, overwrite=overwrite, inputs=inputs)
    if resume and not settings.output_tile:
        tile = tile_begun_with(out, instances=settings.save == "instances")
        settings = replace(settings, output_tile=tile if _is_legal(model, tile) else 0)
    changed_ns = last_change_ns(name)
    with open_source(image) as source:
        job = prepare(model, source, name, settings)
        made_by = provenance(job, job.scale)
        for doubt in source.doubts:
            say(f"{name}: {doubt}")
        if ALPHA in job.planes.picked:
            say(f"{name}: its fourth channel is left out as alpha, if it is the same everywhere")
        if job.normalise == "dtype-range" and job.scale.largest > FAR_FROM_1:
            remedy = "if training saw others, --normalise percentile"
            say(f"{name}: {note_on_floats(job.scale.largest, remedy)}")
        if resume and _complete(out, made_by):
            there = os.fsdecode(out)
            if math.prod(job.shape) > _QUICK_PX:
                say(f"{there}: is there; each of its stored tiles is read to see that it is whole")
            damage = damage_of(out)
            if not damage:
                _clear_left(out)
                say(f"{there}: is complete, made with these settings; nothing was left to do")
                return []
            say(f"{there}: is no longer whole: {damage}")
        _check_format(job, out)
        with holding(out):
            # Once more: another run may have completed it since.
            check_output(out, overwrite=overwrite, inputs=inputs)
            order = _Order(
                job, made_by, partial(check_input, job, made_by, changed_ns), progress, say
            )
            if is_zarr_name(out) and _comes_back(real_target(out)):
                say(
                    f"{os.fsdecode(out)}: a run was killed while it replaced it; the earlier result"
                    " gets its name back until this one is complete"
                )
            if settings.save != "instances":
                _forget_classes(classes_file(out))
                return _write(order, out, overwrite=overwrite, resume=resume)
            return _write_instances(order, out, overwrite=overwrite, resume=resume)


@dataclass(frozen=True)
class _Order:
    """What is to be written, whatever the file: `check` raises where the input has changed."""

    job: Job
    made_by: Mapping[str, Any]
    check: Callable[[], None]
    progress: Progress | None
    say: Callable[[str], None]


def _complete(out: str | os.PathLike[str], made_by: Mapping[str, Any]) -> bool:
    """Whether `out` is there, made in this way, and nothing to replace it is begun."""
    target = real_target(out)
    begun = new_folder(target) if is_zarr_name(target) else beside(target, ".part")
    unfinished = begun.exists() and unfinished_identity(target) is not None
    found = finished(out)
    if found is not None and is_zarr_name(target):  # no setting decides how it is packed
        found["compression"] = made_by["compression"]
    return made_alike(found, made_by) and not unfinished


def _comes_back(target: Path) -> bool:
    """Whether the sink will put a predecessor back that a killed run had moved out of the way."""
    return hidden_predecessor(target) is not None and new_folder(target).is_dir()


def _clear_left(out: str | os.PathLike[str]) -> None:
    """Remove what a run that was killed after publishing `out` left beside it."""
    target = real_target(out)
    # What cannot be removed, or is another run's, does no harm: the output is complete.
    with contextlib.suppress(LockedError, WriteError), writing(target):
        left = [*(beside(target, ending) for ending in _LEFT), *_of_classes(classes_file(target))]
        if any(os.path.lexists(path) for path in left):
            with holding(target):
                discard_partial(target)
                if is_zarr_name(target):
                    clear_folders(target)
                _forget_classes(classes_file(target))


def _of_classes(classes: Path) -> list[Path]:
    """The file of class labels, and what lies beside it while it is made."""
    return [classes, *(beside(classes, ending) for ending in (".part", ".part.journal", ".lock"))]


def _forget_classes(classes: Path) -> None:
    """Remove what a run that wanted objects left when it was killed."""
    if any(os.path.lexists(path) for path in _of_classes(classes)):
        discard_partial(classes)
        with writing(classes):
            remove(classes)


def _is_legal(model: Model, tile: int) -> bool:
    """Whether a tile that some file names is one of this network."""
    with contextlib.suppress(ValueError):
        geometry_of(model.net, tile)
        return True
    return False


def _check_name(out: str | os.PathLike[str]) -> None:
    """Refuse a name that says another format; a link may have any."""
    ending = Path(os.fsdecode(out)).suffix.lower()
    if ending not in ENDINGS and real_target(out).suffix.lower() not in ENDINGS:
        raise UsageFault(
            f"{os.fsdecode(out)}: results are TIFF (.tif, .ome.tif) or OME-Zarr (.zarr), not "
            f"{ending or 'files without an ending'}; choose one of them (a slash at the end "
            "makes a folder, --overlay a PNG to look at)"
        )


def _check_format(job: Job, out: str | os.PathLike[str]) -> None:
    """Refuse what the format cannot hold before the work, not after it."""
    unfit = checked_for_ome(np.dtype(job.dtype), job.axes) if is_ome_name(os.fsdecode(out)) else ""
    if unfit:
        raise UsageFault(f"{os.fsdecode(out)}: {unfit}")


def _nobody(_line: str) -> None:
    pass


def _write(
    order: _Order, out: str | os.PathLike[str], *, overwrite: bool, resume: bool
) -> list[Summary]:
    """Every plane through the network into `out`."""
    job, progress = order.job, order.progress
    settings = job.settings
    watched = Watched(job.function(job.scale))
    rule = seam_rule(job)
    summaries = []
    with open_sink(
        out, job.shape, job.wanted.dtype, provenance=order.made_by, overwrite=overwrite,
        resume=resume, **_options(job, out, pyramid=settings.save != "instances"),
    ) as sink:  # fmt: skip
        for number, plane in enumerate(job.planes):
            summaries.append(
                stitch(
                    plane, watched, sink.page(number), job.geometry,
                    batch=settings.batch, step=settings.step, region=job.region, seams=rule,
                    progress=progress and (lambda d, n, p=number: progress(job, p, d, n)),
                )
            )  # fmt: skip
        order.check()
        # Written only now: a file that exists is one whose seams were compared and held.
        sink.provenance["seams"] = certificate(job, rule, sink.notes)
        sink.provenance["compression"] = sink.compression  # a Zarr has its own
    all_seen = not any(summary.rows_kept for summary in summaries)
    if watched.constant is not None and all_seen:
        order.say(f"{job.image}: every pixel is {watched.constant:g}; the result means little")
    return summaries


def _write_instances(
    order: _Order, out: str | os.PathLike[str], *, overwrite: bool, resume: bool
) -> list[Summary]:
    """Every plane through the network, and its objects numbered into `out`."""
    classes = classes_file(out)
    summaries: list[Summary] = []
    if not (resume and made_alike(finished(classes), order.made_by)):
        summaries = _write(order, classes, overwrite=True, resume=resume)
    try:
        _label(order, classes, out, overwrite=overwrite)
    except InputError as error:
        if error.path != os.fsdecode(classes):
            raise
        with writing(real_target(out)):
            if isinstance(error.__cause__, OSError):  # it is out of reach, not damaged
                raise error.__cause__ from error
            remove(classes)
        reason = f"the classes found so far ({classes.name}) are damaged; run again"
        raise WriteError(os.fsdecode(out), reason) from error
    with writing(real_target(out)):
        remove(classes)
    return summaries


def _label(order: _Order, classes: Path, out: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Connected components of the class labels in `classes`, plane by plane, into `out`."""
    job = order.job
    with open_source(classes) as labels, open_sink(
        out, job.shape, "uint32", provenance=order.made_by, overwrite=overwrite,
        **_options(job, out, pyramid=True),
    ) as sink:  # fmt: skip
        for number in range(len(job.planes)):
            eight = job.settings.connectivity == 8
            found = label_bands(labels.page(number), sink.page(number), eight=eight)
            order.say(f"{os.fsdecode(out)}: plane {number} holds {found} objects")
        order.check()
        sink.provenance["seams"] = labels.provenance["seams"]
        sink.provenance["compression"] = sink.compression


def _options(job: Job, out: str | os.PathLike[str], *, pyramid: bool) -> dict[str, Any]:
    """How the file is written, beside its pixels."""
    found: dict[str, Any] = {"meaning": job.meaning, "pyramid": job.pyramid if pyramid else ""}
    return found if is_zarr_name(out) else found | {"compression": job.settings.compression}
