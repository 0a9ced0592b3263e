"""Prediction from file to file: any size, constant memory, resumable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import nn

from tiling import Geometry, SeamRule, Summary, open_sink, open_source, stitch
from tiling.faults import InputError, UsageFault
from tiling.safe_write import check_output
from unet2015.device import choose_device, choose_precision, memory_at_hand
from unet2015.planes import Planes, planes_of
from unet2015.predict import default_output, geometry_of, tile_bytes
from unet2015.provenance import versions
from unet2015.tile_function import as_tile_function, scale_for_dtype

__all__ = ["Job", "Model", "Settings", "predict_file", "prepare"]

SAMPLED = 64 << 20  # files up to this size are hashed whole, larger ones at 66 places


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to predict; every field is an option of `unet2015 predict`.

    Attributes
    ----------
    output_tile
        Side of the output tile in pixels; 0 chooses the largest that helps and fits.
    step
        `exact` (seamless) or `paper` (the output size, out of phase).
    save, dtype
        What is written: `probability`, `label` or `logits`, and its number type.
    classes
        Class whose map is written; -1 writes all. Default: the foreground of two classes, else all.
    region
        (y0, y1, x0, x1) to predict instead of the whole image.
    memory_bytes
        Memory the network may use; 0 measures what is free.
    """

    output_tile: int = 0
    step: Literal["exact", "paper"] = "exact"
    batch: int = 1
    average: str = "none"
    mean_of: Literal["probabilities", "logits"] = "probabilities"
    save: str = "probability"
    dtype: str = ""
    classes: int | None = None
    device: str = "auto"
    precision: str = "fp32"
    axes: str = ""
    channel: int | None = None
    region: tuple[int, int, int, int] | None = None
    memory_bytes: int = 0
    compression: str = "deflate"


@dataclass(frozen=True)
class Model:
    """A network with what its checkpoint says about images."""

    net: nn.Module
    scale: str
    sha256: str
    path: str = "network"

    @property
    def classes(self) -> int:
        """Number of classes of the logits."""
        return int(self.net.classes)  # type: ignore[arg-type]

    @property
    def files(self) -> list[str]:
        """The file the network came from, if any."""
        return [self.path] if Path(self.path).is_file() else []


@dataclass(frozen=True)
class Job:
    """A prediction that has been checked and planned but not begun."""

    image: str
    planes: Planes
    geometry: Geometry
    settings: Settings
    device: Any
    precision: str
    dtype: str
    shape: tuple[int, ...]
    axes: str
    tile_bytes: int
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def region(self) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) that is predicted of every plane."""
        return self.settings.region or (0, self.planes.height, 0, self.planes.width)


def prepare(model: Model, source: Any, image: str, settings: Settings) -> Job:
    """Everything that can be decided and refused before the first tile.

    Raises
    ------
    InputError, UsageFault
        If the image does not fit the network, or a setting does not fit the image.
    """
    net = model.net
    channels = int(getattr(net, "in_channels", 1))
    planes = planes_of(source, image, channels, axes=settings.axes, channel=settings.channel)
    device = choose_device(settings.device)
    height, width = planes.height, planes.width
    y0, y1, x0, x1 = settings.region or (0, height, 0, width)
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise UsageFault(f"--region {y0}:{y1},{x0}:{x1} is not inside {height} x {width} pixels")
    if settings.output_tile:
        try:
            geometry = geometry_of(net, settings.output_tile)
        except ValueError as error:
            raise UsageFault(f"--output-tile: {error}") from error
    else:
        memory = settings.memory_bytes or memory_at_hand(device)
        geometry = default_output(net, (y1 - y0, x1 - x0), memory)
    dtype = settings.dtype or {"probability": "uint8", "label": "uint8"}.get(
        settings.save, "float32"
    )
    maps = 1 if settings.save == "label" or _selected(model, settings) else model.classes
    size = (y1 - y0, x1 - x0) if maps == 1 else (maps, y1 - y0, x1 - x0)
    axes = planes.axes + ("YX" if maps == 1 else "CYX")
    return Job(
        image, planes, geometry, settings, device,
        choose_precision(settings.precision, device), dtype, (*planes.shape, *size), axes,
        tile_bytes(net, geometry),
    )  # fmt: skip


def _selected(model: Model, settings: Settings) -> slice | None:
    """Classes to write as a slice, or None for all."""
    wanted = settings.classes
    if wanted is None:
        wanted = 1 if model.classes == 2 and settings.save == "probability" else -1
    if wanted == -1 or settings.save == "label":
        return None
    if not 0 <= wanted < model.classes:
        raise UsageFault(f"--class {wanted}: the network has classes 0 to {model.classes - 1}")
    return slice(wanted, wanted + 1)


def predict_file(
    model: Model,
    image: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Callable[[Job, int, int, int], None] | None = None,
) -> list[Summary]:
    """Segment every plane of `image` into `out` (tiled BigTIFF, or OME-Zarr for `.zarr`).

    Memory is bounded by one row of tiles and the tiles in flight. `out` appears when complete.

    Parameters
    ----------
    model
        Network, scaling and hash.
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
    check_output(out, overwrite=overwrite, inputs=[image, *model.files])
    with open_source(image) as source:
        job = prepare(model, source, name, settings)
        provenance = _provenance(model, job)
        sink_options = {"compression": settings.compression} if not _is_zarr(out) else {}
        function = _function(model, job)
        with open_sink(
            out, job.shape, job.dtype, axes=job.axes, resolution=source.resolution,
            provenance=provenance, overwrite=overwrite, resume=resume, **sink_options,
        ) as sink:  # fmt: skip
            summaries = []
            for number, plane in enumerate(job.planes):
                summaries.append(
                    stitch(
                        plane, function, sink.page(number), job.geometry,
                        batch=settings.batch, step=settings.step, region=job.region,
                        progress=progress and (lambda d, n, p=number: progress(job, p, d, n)),
                        seams=SeamRule(tolerance=_tolerance(job)),
                    )
                )  # fmt: skip
            source.check_unchanged()
    return summaries


def _function(model: Model, job: Job) -> Callable[[Any], Any]:
    """The network as a function of tiles, with NaN and Inf in the image refused."""
    settings = job.settings
    selected = _selected(model, settings)
    run = as_tile_function(
        model.net,
        scale=scale_for_dtype(job.planes.source.dtype, model.scale),
        device=job.device,
        precision=job.precision,
        average=settings.average,
        mean_of=settings.mean_of,
        save=settings.save,
        dtype=job.dtype,
        only=selected,
    )
    if np.dtype(job.planes.source.dtype).kind != "f":
        return run

    def checked(tiles: Any) -> Any:
        if not np.isfinite(tiles).all():
            count = int(np.count_nonzero(~np.isfinite(tiles)))
            raise InputError(
                job.image, f"holds {count} NaN or infinite values in one tile; replace them first"
            )
        return run(tiles)

    return checked


def _tolerance(job: Job) -> float | None:
    """Largest difference accepted between tiles where both computed the same pixels."""
    if job.settings.step == "paper" or job.settings.save == "label":
        return None
    loose = 1e-4 if job.precision == "fp32" else 0.05
    if job.settings.save == "logits":
        return None if job.precision != "fp32" else 1e-2
    full = {"uint8": 255, "uint16": 65535}.get(job.dtype)
    return loose if full is None else float(np.ceil(loose * full))


def _provenance(model: Model, job: Job) -> dict[str, Any]:
    """What made the output, as far as it decides its bytes."""
    settings = job.settings
    return {
        "made_by": "unet2015 predict",
        "model_sha256": model.sha256,
        "image": Path(job.image).name,
        "image_sha256": _fingerprint(job.image),
        "scale": model.scale,
        "save": settings.save,
        "classes": "all" if (only := _selected(model, settings)) is None else only.start,
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
