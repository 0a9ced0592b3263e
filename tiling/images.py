"""Any image file this project reads, by its content and not by its name."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from tiling.disk import StrPath
from tiling.ifd import Limits
from tiling.png import is_png, read_png
from tiling.strict_tiff import read_stack

__all__ = ["read_image", "read_stack"]


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
    return read_png(path, limits=limits) if is_png(path) else read_stack(path, limits=limits)
