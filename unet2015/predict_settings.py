"""Wishes for a prediction: every option of `unet2015 predict` as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SAVES", "Settings"]

SAVES = ("probability", "label", "logits", "instances")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to predict; every field is an option of `unet2015 predict`.

    Attributes
    ----------
    output_tile
        Side of the output tile in pixels; 0 chooses the largest that helps and fits.
    step
        `exact` (seamless) or `paper` (the output size, out of phase).
    batch
        Tiles per call of the network.
    average, mean_of
        Views averaged (`none`, `flips`, `rotations`, `all`); `probabilities` or `logits` of them
        (always logits where logits are saved).
    save, dtype
        What is written: `probability`, `label`, `logits` or `instances`, and its number type.
    classes
        Class whose map is written; -1 writes all. Default: the foreground of two classes, else all.
    threshold
        Labels and instances: pixels whose probability of the class is larger; None: the most
        probable class.
    connectivity
        Instances: 4 (sides touch) or 8 (corners too).
    device, precision
        Where and in which number format the network runs.
    axes, channel
        Meaning of the file's axes where it does not say ("ZYX"); number or name of the channel
        to use of several.
    normalise, nan_to
        Normalisation as in `unet2015.intensity`, "" as the checkpoint says; value for NaN and Inf.
    region
        (y0, y1, x0, x1) to predict instead of the whole image.
    memory_bytes
        Memory the run may use; 0 measures what is free.
    compression
        Of a TIFF: `deflate`, `zstd` or `none`.
    pyramid
        Whether smaller levels are written for viewers; None: above 4096 px.
    seam_tolerance
        Largest difference accepted between tiles where both computed a pixel: of probabilities or
        logits; for labels and instances the share of pixels that differ. None: see `seam_rule`.
    """

    output_tile: int = 0
    step: Literal["exact", "paper"] = "exact"
    batch: int = 1
    average: str = "none"
    mean_of: Literal["probabilities", "logits"] = "probabilities"
    save: str = "probability"
    dtype: str = ""
    classes: int | None = None
    threshold: float | None = None
    connectivity: int = 4
    device: str = "auto"
    precision: str = "fp32"
    normalise: str = ""
    nan_to: float | None = None
    axes: str = ""
    channel: int | str | None = None
    region: tuple[int, int, int, int] | None = None
    memory_bytes: int = 0
    compression: str = "deflate"
    pyramid: bool | None = None
    seam_tolerance: float | None = None
