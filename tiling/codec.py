"""A stored tile and its bytes, by the name of a compression."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy.typing as npt

from tiling.faults import UsageFault

__all__ = ["codec"]

_LEVEL = 1  # of deflate and of zstd: the fastest


def codec(
    compression: str,
) -> tuple[Callable[[npt.NDArray[Any]], bytes], Callable[[bytes], bytes]]:
    """Functions from one tile, C-contiguous, to its stored bytes, and from those to its own.

    Parameters
    ----------
    compression
        "deflate", "zstd" or "none".

    Raises
    ------
    UsageFault
        "zstd" without the package imagecodecs.

    Examples
    --------
    >>> import numpy as np
    >>> encode, decode = codec("deflate")
    >>> list(decode(encode(np.array([1, 2], np.uint8))))
    [1, 2]
    """
    if compression == "zstd":
        try:
            from imagecodecs import zstd_decode, zstd_encode
        except ImportError as error:
            raise UsageFault(
                "zstd needs the package imagecodecs; install it or use deflate"
            ) from error
        return (
            lambda tile: bytes(zstd_encode(tile, level=_LEVEL)),
            lambda data: bytes(zstd_decode(data)),
        )
    if compression == "deflate":
        return _deflate(), zlib.decompress
    return lambda tile: tile.tobytes(), bytes


def _deflate() -> Callable[[npt.NDArray[Any]], bytes]:
    """Deflate by libdeflate, which takes a third of the time of zlib, or by zlib where it lacks."""
    with contextlib.suppress(ImportError):
        from imagecodecs import DEFLATE, deflate_encode

        if DEFLATE.available:
            return partial(cast("Callable[..., bytes]", deflate_encode), level=_LEVEL)
    return lambda tile: zlib.compress(tile.data, _LEVEL)
