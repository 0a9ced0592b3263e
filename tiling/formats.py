"""Files as sources and sinks, their format chosen by the ending of their name."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiling.disk import StrPath
from tiling.meaning import Meaning
from tiling.png import is_png
from tiling.png_source import PngSource
from tiling.tiff import TiffSource
from tiling.tiff_sink import TiffSink
from tiling.zarr_checks import is_zarr_folder

if TYPE_CHECKING:
    import numpy.typing as npt

    from tiling.zarr import ZarrSource
    from tiling.zarr_sink import ZarrSink

__all__ = ["is_zarr_name", "open_sink", "open_source"]


def open_source(path: StrPath, **options: Any) -> TiffSource | PngSource | ZarrSource:
    """An image file as a source for `stitch`: TIFF or PNG, or a Zarr folder or an array in one.

    Parameters
    ----------
    path
        The file or folder.
    **options
        `page` (default 0) and `limits`. See `TiffSource`, `PngSource`, `ZarrSource`.

    Returns
    -------
    TiffSource, PngSource or ZarrSource
        A context manager with `.shape`, `.dtype`, `.axes`, `.pages`, `.page(i)`, `.resolution`,
        `.meaning`, `.provenance`.

    Raises
    ------
    InputError
        If the file is absent, damaged, of a kind that is not read, beyond the limits, or has no
        such page.
    """
    if _is_zarr(path):
        from tiling.zarr import ZarrSource

        return ZarrSource(path, **options)
    return PngSource(path, **options) if is_png(path) else TiffSource(path, **options)


def _is_zarr(path: StrPath) -> bool:
    """Whether a folder is a Zarr, by its name or by what lies in it."""
    folder = Path(os.fsdecode(path))
    try:
        return is_zarr_folder(folder) or (is_zarr_name(path) and not folder.is_file())
    except (OSError, ValueError):
        return False  # told where it is opened


def open_sink(
    path: StrPath, shape: tuple[int, ...], dtype: npt.DTypeLike, *, axes: str = "", **options: Any
) -> TiffSink | ZarrSink:
    """An image file to write as a sink for `stitch`: TIFF, or OME-Zarr for `.zarr`.

    Parameters
    ----------
    path
        Final name; it appears when the `with` block ends in good order.
    shape, dtype
        (H, W), (K, H, W) or (pages..., K, H, W), and the type of a pixel.
    axes
        One letter per axis, ending in "YX" or "CYX".
    **options
        `resolution`, `z_step`, `channels` as in `Meaning`, or a `meaning` with all of them;
        `provenance`, `pyramid`, `overwrite`, `resume`; for TIFF also `compression`. See
        `TiffSink`, `ZarrSink`.

    Returns
    -------
    TiffSink or ZarrSink
        A context manager; `sink.page(i)` is the sink of one page, the object itself that of
        page 0.

    Raises
    ------
    WriteError
        If the output exists and `overwrite` is not set, or cannot be written.
    LockedError
        If another run is writing it.
    UsageFault
        If an OME-TIFF cannot hold the type or an axis, or zstd lacks the package imagecodecs.
    ValueError
        If shape, axes, type or compression make no file.
    TypeError
        If an option is not one of this format: `compression` of a Zarr.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> with open_sink(f"{folder.name}/a.tif", (2, 3), "uint8") as sink:
    ...     sink[..., 0:2, 0:3] = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
    >>> with open_source(f"{folder.name}/a.tif") as source:
    ...     print(source[..., 0:2, 0:3])
    [[1 2 3]
     [4 5 6]]
    >>> folder.cleanup()
    """
    told = {
        name: options.pop(name) for name in ("resolution", "z_step", "channels") if name in options
    }
    if axes or told:
        options["meaning"] = replace(options.pop("meaning", Meaning()), axes=axes, **told)
    if is_zarr_name(path):
        from tiling.zarr_sink import ZarrSink

        return ZarrSink(path, shape, dtype, **options)
    return TiffSink(path, shape, dtype, **options)


def is_zarr_name(path: StrPath) -> bool:
    """Whether an image of this `path` is a Zarr folder.

    Examples
    --------
    >>> is_zarr_name("out.ome.zarr/"), is_zarr_name("zarr.tif")
    (True, False)
    """
    return Path(os.fsdecode(path)).name.lower().endswith(".zarr")
