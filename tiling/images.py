"""Any image file this project reads, by its content and not by its name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.disk import StrPath
from tiling.faults import InputError
from tiling.ifd import Limits
from tiling.input_file import InputFile
from tiling.png import SIGNATURE, read_png
from tiling.strict_tiff import read_stack

__all__ = ["check_finite", "read_image", "read_stack"]


def read_image(path: StrPath, *, limits: Limits | None = None) -> npt.NDArray[Any]:
    """Pixels of a TIFF or PNG file, recognised by its first bytes.

    Parameters
    ----------
    path
        An ordinary file.
    limits
        Largest size accepted.

    Returns
    -------
    ndarray
        Shape (pages, H, W), or (pages, C, H, W) for RGB(A); bool for 1-bit masks.

    Raises
    ------
    InputError
        The file is damaged, or of a kind that is not read.

    Examples
    --------
    >>> import numpy, os, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "a.png")
    ...     Image.fromarray(numpy.eye(2, dtype="uint8")).save(path)
    ...     read_image(path)
    array([[[1, 0],
            [0, 1]]], dtype=uint8)
    """
    limits = limits or Limits()
    with InputFile(path) as file:
        is_png = file.read(0, min(len(SIGNATURE), file.size)) == SIGNATURE
    return read_png(path, limits=limits) if is_png else read_stack(path, limits=limits)


def check_finite(
    path: StrPath,
    pixels: npt.NDArray[Any],
    *,
    nan_to: float | None = None,
    page: int | None = None,
    first_row: int = 0,
) -> npt.NDArray[Any]:
    """The pixels, all of them finite.

    Parameters
    ----------
    path, page, first_row
        Where they come from, for the error text.
    pixels
        Any shape (..., H, W), any type; not modified.
    nan_to
        Value to put in the place of NaN and infinity (`--nan-to`); None: refuse them.

    Returns
    -------
    ndarray
        `pixels` itself where nothing had to be replaced.

    Raises
    ------
    InputError
        A value is NaN or infinite; their number and the first place are in the text.

    Examples
    --------
    >>> import numpy as np
    >>> check_finite("a.tif", np.array([[1, np.nan]], np.float32), nan_to=0.0)
    array([[1., 0.]], dtype=float32)
    """
    if pixels.dtype.kind not in "fc":
        return pixels
    bad = ~np.isfinite(pixels)
    count = int(np.count_nonzero(bad))
    if not count:
        return pixels
    if nan_to is not None:
        return np.where(bad, np.asarray(nan_to, pixels.dtype), pixels)
    *_, row, column = np.unravel_index(int(bad.argmax()), bad.shape)
    raise InputError(
        path,
        f"has {count} values that are NaN or infinite, the first in row {row + first_row}, "
        f"column {column}; use --nan-to VALUE to replace them",
        page=page,
    )
