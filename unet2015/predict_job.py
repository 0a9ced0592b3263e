"""What a prediction will do, decided and refused before the first tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from tiling import Geometry
from tiling.faults import InputError, MemoryFault, ModelFileError, UsageFault
from tiling.meaning import Meaning
from unet2015.device import choose_device, choose_precision, memory_at_hand
from unet2015.intensity import (
    Scale,
    blocks_of,
    check_normalisation,
    measure_scale,
    without_range,
)
from unet2015.model import Model
from unet2015.planes import Planes, planes_of
from unet2015.predict import default_output, geometry_of, tile_bytes
from unet2015.predict_settings import SAVES, Settings
from unet2015.tile_function import TileFunction, Wanted, as_tile_function

__all__ = ["Job", "Settings", "prepare"]

LARGE = 4096  # px; above this a viewer is glad of smaller levels


@dataclass(frozen=True, kw_only=True)
class Job:
    """A prediction that has been checked and planned but not begun.

    Attributes
    ----------
    image, model, settings
        What is predicted with what, and how.
    planes, geometry
        Planes of the image; sizes of a tile.
    device, precision
        As chosen.
    wanted
        What the tiles hold: labels where `settings.save` is "instances".
    dtype, shape, axes
        Of the file to write.
    normalise
        The normalisation that is used.
    network_bytes, pipeline_bytes
        Upper estimates of the memory of the network's tiles, and of rows, bands and batches.
    meaning
        Axes, pixel size and names of the channels of the file to write.
    pyramid
        How its smaller levels are made: "mean", "mode" or "" for none.
    """

    image: str
    model: Model
    planes: Planes
    geometry: Geometry
    settings: Settings
    device: torch.device
    precision: str
    wanted: Wanted
    dtype: str
    shape: tuple[int, ...]
    axes: str
    normalise: str
    network_bytes: int
    pipeline_bytes: int
    meaning: Meaning
    pyramid: str

    @property
    def region(self) -> tuple[int, int, int, int]:
        """(y0, y1, x0, x1) that is predicted of every plane."""
        return self.settings.region or (0, self.planes.height, 0, self.planes.width)

    @property
    def megapixels(self) -> float:
        """Pixels of one plane that are predicted, in millions."""
        y0, y1, x0, x1 = self.region
        return (y1 - y0) * (x1 - x0) / 1e6

    @functools.cached_property
    def scale(self) -> Scale:
        """Scaling of this image, measured over the whole file where it depends on the pixels.

        Raises
        ------
        InputError
            If the image holds NaN or Inf and `nan_to` does not say what to put there.
        """
        source = self.planes.source
        try:
            return measure_scale(
                self.normalise, np.dtype(source.dtype), lambda: blocks_of(self.planes),
                nan_to=self.settings.nan_to,
            )  # fmt: skip
        except ValueError as error:
            raise InputError(self.image, str(error)) from error

    def function(self, scale: Scale) -> TileFunction:
        """The network as a function of tiles."""
        return as_tile_function(
            self.model.net, self.wanted, scale=scale, device=self.device, precision=self.precision,
            average=self.settings.average, mean_of=self.settings.mean_of,
        )  # fmt: skip


def prepare(model: Model, source: Any, image: str, settings: Settings) -> Job:
    """Everything that can be decided and refused before the first tile.

    Parameters
    ----------
    model, settings
        Network and wishes.
    source, image
        The open image, and its name for messages.

    Raises
    ------
    InputError, UsageFault
        If the image does not fit the network, or a setting does not fit the image.
    ModelFileError
        If the model names a normalisation that there is not.
    MemoryFault
        If the run would need more memory than there is.
    """
    if settings.nan_to is not None and not abs(settings.nan_to) < 1e30:
        raise UsageFault(f"--nan-to {settings.nan_to}: give a number nearer to 0 than 1e30, e.g. 0")
    net = model.net
    channels = int(getattr(net, "in_channels", 1))
    planes = planes_of(source, image, channels, axes=settings.axes, channel=settings.channel)
    size = _region_size(settings, planes.height, planes.width)
    normalise = _normalisation(model, settings, np.dtype(source.dtype), image)
    wanted, dtype = _wanted(model, settings)
    maps = model.classes if wanted.only is None and wanted.save != "label" else 1
    device = choose_device(settings.device)
    precision = choose_precision(settings.precision, device)
    read = channels * np.dtype(source.dtype).itemsize
    made = maps * np.dtype(wanted.dtype).itemsize

    def pipeline_bytes(geometry: Geometry) -> int:
        """Rows and batches read ahead; a band that is filled, one written, pixels to be packed."""
        rows = (geometry.input + geometry.step) * planes.width * read
        bands = 3 * geometry.output * size[1] * made
        tiles = geometry.input**2 * (3 * read + 4 * channels) + geometry.output**2 * made
        return int(rows + bands + settings.batch * tiles)

    memory = settings.memory_bytes or memory_at_hand(device)
    beside = pipeline_bytes if device.type == "cpu" else None
    if settings.output_tile:
        geometry = _asked_for(net, settings, memory, precision, beside)
    else:
        geometry = default_output(
            net, size, memory, precision=precision, batch=settings.batch, beside=beside
        )
    axes = planes.axes + ("YX" if maps == 1 else "CYX")
    names = (settings.save,) if wanted.save == "label" else model.names
    names = names if wanted.only is None or wanted.save == "label" else (names[wanted.only],)
    return Job(
        image=image,
        model=model,
        planes=planes,
        geometry=geometry,
        settings=settings,
        device=device,
        precision=precision,
        wanted=wanted,
        dtype=dtype,
        shape=(*planes.shape, *(size if maps == 1 else (maps, *size))),
        axes=axes,
        normalise=normalise,
        network_bytes=tile_bytes(net, geometry, precision=precision) * settings.batch,
        pipeline_bytes=pipeline_bytes(geometry),
        meaning=replace(source.meaning, axes=axes, channels=names),
        pyramid=_pyramid(settings, size),
    )


def _normalisation(model: Model, settings: Settings, dtype: np.dtype[Any], image: str) -> str:
    """The normalisation that is used; one that does not exist or suits no such image is refused."""
    text = settings.normalise or model.scale
    try:
        check_normalisation(text)
    except ValueError as error:
        if settings.normalise:
            raise UsageFault(f"--normalise: {error}") from error
        raise ModelFileError(model.path, f"was trained with {error}; give --normalise") from error
    reason = without_range(dtype) if text == "dtype-range" else ""
    if reason:
        raise InputError(
            image, f"{reason}; add --normalise percentile (or min-max, median, fixed:LOW:HIGH, none"
            "), or convert it to uint8, uint16 or float32",
        )  # fmt: skip
    return text


def _pyramid(settings: Settings, size: tuple[int, int]) -> str:
    """How smaller levels are made for viewers: labels are never mixed."""
    wanted = max(size) > LARGE if settings.pyramid is None else settings.pyramid
    if not wanted:
        return ""
    return "mode" if settings.save in ("label", "instances") else "mean"


def _region_size(settings: Settings, height: int, width: int) -> tuple[int, int]:
    """Rows and columns that are predicted of planes of (height, width)."""
    y0, y1, x0, x1 = settings.region or (0, height, 0, width)
    if not (0 <= y0 < y1 <= height and 0 <= x0 < x1 <= width):
        raise UsageFault(
            f"--region {y0}:{y1},{x0}:{x1} is not inside {height} x {width} pixels; give Y0 < Y1 of"
            f" 0 to {height} and X0 < X1 of 0 to {width}"
        )
    return y1 - y0, x1 - x0


def _asked_for(
    net: nn.Module,
    settings: Settings,
    memory: int,
    precision: str,
    beside: Callable[[Geometry], int] | None,
) -> Geometry:
    """The tile of --output-tile; `beside` (None on a GPU) is the memory that it needs besides."""
    try:
        geometry = geometry_of(net, settings.output_tile)
    except ValueError as error:
        raise UsageFault(f"--output-tile: {error}") from error
    if beside is None:  # a GPU steps down by itself, a CPU process would be killed
        return geometry
    need = tile_bytes(net, geometry, precision=precision) * settings.batch + beside(geometry)
    if need > memory:
        raise MemoryFault(
            f"--output-tile {geometry.output} needs about {need / 2**30:.2f} GiB and "
            f"{memory / 2**30:.2f} GiB may be used; leave it out (then the best tile that fits "
            "is taken), or allow more with --memory"
        )
    return geometry


def _wanted(model: Model, settings: Settings) -> tuple[Wanted, str]:
    """What the tiles hold, and the number type of the file."""
    save, only, threshold = settings.save, settings.classes, settings.threshold
    if save not in SAVES:
        raise UsageFault(f"--save {save}: choose from {', '.join(SAVES)}")
    if only is None and model.classes == 2 and (save == "probability" or threshold is not None):
        only = 1
    only = None if only == -1 else only
    if only is not None and not 0 <= only < model.classes:
        raise UsageFault(
            f"--class {only}: the network has classes 0 to {model.classes - 1}; give one of them"
        )
    labels = save in ("label", "instances")
    if labels and only is not None and threshold is None:
        raise UsageFault(f"--class {only}: labels of one class need --threshold, e.g. 0.5")
    if threshold is not None and only is None:
        raise UsageFault(f"--threshold {threshold}: say which class with --class")
    written = {"instances": "uint32", "label": "uint8", "logits": "float32"}.get(save, "uint8")
    if save == "instances" and settings.dtype:
        raise UsageFault(f"--dtype {settings.dtype}: instances are always uint32; leave it out")
    made = "uint8" if labels else settings.dtype or written
    wanted = Wanted(
        save="label" if labels else save,
        dtype=settings.dtype if save == "label" and settings.dtype else made,
        only=only,
        threshold=threshold,
    )
    return wanted, written if labels else made
