"""Prediction from file to file: any size, constant memory, resumable."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling import SeamRule, Summary, label_bands, open_sink, open_source, stitch
from tiling.disk import beside, real_target, remove
from tiling.faults import InputError, WriteError
from tiling.partial import unfinished_identity
from tiling.safe_write import check_output
from unet2015.intensity import Scale
from unet2015.predict_job import Job, Model, Settings, prepare
from unet2015.provenance import versions

__all__ = ["Job", "Model", "Settings", "predict_file", "prepare"]

SAMPLED = 64 << 20  # files up to this size are hashed whole, larger ones at 66 places
PROBE_OUTPUT = 132  # px

Progress = Callable[[Job, int, int, int], None]


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
        Take up the unfinished output of an interrupted run.
    progress
        Called as `progress(job, plane, tiles_done, tiles_in_all)`.
    say
        Told what is worth knowing beside the result: a constant image, the number of objects.

    Returns
    -------
    list of Summary
        One per plane, with its seam certificate.

    Raises
    ------
    InputError, UsageFault, WriteError, MemoryFault, LockedError, InputChangedError, SeamError
        As FAULTS describes; nothing appears under the output's name.
    """
    settings, name = settings or Settings(), os.fsdecode(image)
    if not _is_zarr(out):
        check_output(out, overwrite=overwrite, inputs=[image, *model.files])
    elif real_target(out) == real_target(name):
        raise WriteError(out, "is also the input; choose another output name")
    if resume and not settings.output_tile:
        settings = replace(settings, output_tile=_tile_begun_with(out, settings))
    with open_source(image) as source:
        job = prepare(model, source, name, settings)
        scale = job.scale
        made_by = provenance(job, scale)
        if settings.save != "instances":
            return _write(
                job, scale, out, made_by, overwrite=overwrite, resume=resume,
                progress=progress, say=say,
            )  # fmt: skip
        classes = _classes_file(out)
        summaries: list[Summary] = []
        if not (resume and _is_complete(classes, made_by)):
            summaries = _write(
                job, scale, classes, made_by, overwrite=True, resume=resume,
                progress=progress, say=say,
            )  # fmt: skip
        _label(job, classes, out, made_by, overwrite=overwrite, say=say or _nobody)
        source.check_unchanged()
    remove(classes)
    return summaries


def _classes_file(out: str | os.PathLike[str]) -> Path:
    """Where the classes lie until their objects are numbered."""
    return beside(real_target(out), ".classes.tif")


def _tile_begun_with(out: str | os.PathLike[str], settings: Settings) -> int:
    """The output tile of an unfinished run, which free memory may not change; 0 for none."""
    begun = unfinished_identity(_classes_file(out) if settings.save == "instances" else out) or {}
    made_by = begun.get("provenance")
    tile = made_by.get("output_tile") if isinstance(made_by, dict) else None
    return tile if isinstance(tile, int) and tile > 0 else 0


def _nobody(_line: str) -> None:
    pass


def _write(
    job: Job,
    scale: Scale,
    out: str | os.PathLike[str],
    made_by: Mapping[str, Any],
    *,
    overwrite: bool,
    resume: bool,
    progress: Progress | None,
    say: Callable[[str], None] | None,
) -> list[Summary]:
    """Every plane through the network into `out`."""
    settings, source = job.settings, job.planes.source
    watched = _Watched(job.function(scale))
    options = {"compression": settings.compression} if not _is_zarr(out) else {}
    rule = _seam_rule(job)
    summaries = []
    with open_sink(
        out, job.shape, job.wanted.dtype, axes=job.axes, resolution=source.resolution,
        provenance=made_by, overwrite=overwrite, resume=resume, **options,
    ) as sink:  # fmt: skip
        for number, plane in enumerate(job.planes):
            summaries.append(
                stitch(
                    plane, watched, sink.page(number), job.geometry,
                    batch=settings.batch, step=settings.step, region=job.region, seams=rule,
                    progress=progress and (lambda d, n, p=number: progress(job, p, d, n)),
                )
            )  # fmt: skip
        source.check_unchanged()
        # Written only now: a file that exists is one whose seams were compared and held.
        sink.provenance["seams"] = certificate(job, rule)
    if watched.constant is not None and say is not None:
        say(f"{job.image}: every pixel is {watched.constant:g}; the result means little")
    return summaries


def _label(
    job: Job,
    classes: Path,
    out: str | os.PathLike[str],
    made_by: Mapping[str, Any],
    *,
    overwrite: bool,
    say: Callable[[str], None],
) -> None:
    """Connected components of the class labels in `classes`, plane by plane, into `out`."""
    options = {"compression": job.settings.compression} if not _is_zarr(out) else {}
    with open_source(classes) as labels, open_sink(
        out, job.shape, "uint32", axes=job.axes, resolution=job.planes.source.resolution,
        provenance=made_by, overwrite=overwrite, **options,
    ) as sink:  # fmt: skip
        for number in range(len(job.planes)):
            eight = job.settings.connectivity == 8
            found = label_bands(labels.page(number), sink.page(number), eight=eight)
            say(f"{os.fsdecode(out)}: plane {number} holds {found} objects")
        sink.provenance["seams"] = certificate(job, _seam_rule(job))


def _is_complete(classes: Path, made_by: Mapping[str, Any]) -> bool:
    """Whether an interrupted run of the same settings had finished its class labels."""
    if not classes.is_file():
        return False
    try:
        with open_source(classes) as labels:
            found = json.loads(labels.image.description)["unet2015"]  # type: ignore[union-attr]
    except (InputError, ValueError, KeyError, TypeError):
        return False
    found.pop("seams", None)
    return bool(found == json.loads(json.dumps(made_by)))


class _Watched:
    """A tile function that notices whether all pixels it is shown are one value."""

    def __init__(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._function = function
        self._low: float | None = None
        self._varied = False

    def __call__(self, tiles: NDArray[Any]) -> NDArray[Any]:
        if not self._varied:
            low, high = float(tiles.min()), float(tiles.max())
            self._varied = low != high or low != (low if self._low is None else self._low)
            self._low = low
        return self._function(tiles)

    @property
    def constant(self) -> float | None:
        """The one value, or None."""
        return None if self._varied else self._low


def _seam_rule(job: Job) -> SeamRule:
    """Tolerance, and a small probe tile: it costs a few percent of a large one."""
    probe = job.geometry.nearest(min(PROBE_OUTPUT, job.geometry.output))[0]
    return SeamRule(tolerance=_tolerance(job), probe_output=probe)


def _tolerance(job: Job) -> float | None:
    """Largest difference accepted between tiles where both computed the same pixels."""
    if job.settings.step == "paper" or job.wanted.save == "label":
        return None
    loose = 1e-4 if job.precision == "fp32" else 0.05
    if job.wanted.save == "logits":
        return None if job.precision != "fp32" else 1e-2
    full = {"uint8": 255, "uint16": 65535}.get(job.dtype)
    return loose if full is None else float(np.ceil(loose * full))


def certificate(job: Job, rule: SeamRule) -> dict[str, Any]:
    """What a finished file says about its seams; the same however often the run was interrupted.

    The largest differences are in the run's summary: an interrupted run would have others.
    """
    geometry, exact = job.geometry, job.settings.step == "exact"
    return {
        "exact": exact,
        "step": geometry.step if exact else geometry.output,
        "margin": geometry.margin,
        "period": geometry.period,
        "compared_px": geometry.overlap if exact else 0,
        "tolerance": rule.tolerance,
        "held": True if rule.tolerance is not None else None,
    }


def provenance(job: Job, scale: Scale) -> dict[str, Any]:
    """What made the output, as far as it decides its bytes."""
    settings, model, wanted = job.settings, job.model, job.wanted
    found: dict[str, Any] = {
        "made_by": "unet2015 predict",
        "model_sha256": model.sha256,
        "image": Path(job.image).name,
        "image_sha256": _fingerprint(job.image),
        "normalise": job.normalise,
        "offset": scale.offset,
        "gain": scale.gain,
        "save": settings.save,
        "classes": "all" if wanted.only is None else wanted.only,
        "output_tile": job.geometry.output,
        "step": settings.step,
        "batch": settings.batch,
        "average": settings.average,
        "mean_of": settings.mean_of,
        "precision": job.precision,
        "device": job.device.type,
        "region": list(job.region),
        "versions": versions(),
    }
    if settings.nan_to is not None:
        found["nan_to"] = settings.nan_to
    if settings.threshold is not None:
        found["threshold"] = settings.threshold
    if settings.save == "instances":
        found["connectivity"] = settings.connectivity
    return found


def _fingerprint(path: str) -> str:
    """SHA-256 of a file; of a large one its size and 66 places; of a folder its metadata."""
    target = Path(path)
    if target.is_dir():
        names = sorted(p for p in target.rglob("zarr.json")) + sorted(target.rglob(".z*"))
        return hashlib.sha256(b"".join(p.read_bytes() for p in names[:1000])).hexdigest()
    size = target.stat().st_size
    digest = hashlib.sha256(str(size).encode() if size > SAMPLED else b"")
    with target.open("rb") as file:
        if size <= SAMPLED:
            digest.update(file.read())
            return digest.hexdigest()
        for place in range(66):
            file.seek((size - (1 << 16)) * place // 65)
            digest.update(file.read(1 << 16))
    return digest.hexdigest()


def _is_zarr(path: str | os.PathLike[str]) -> bool:
    return os.fsdecode(path).lower().endswith(".zarr")
