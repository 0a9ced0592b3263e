"""A stored tile and its bytes, by the name of a compression."""

from __future__ import annotations

import contextlib
import functools
import zlib
from collections.abc import Callable
from typing import Any, cast

import numpy.typing as npt

from tiling.faults import UsageFault

__all__ = ["codec", "deflate_by", "libdeflate"]

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
        encode = libdeflate("deflate_encode")
        if encode is None:
            return lambda tile: zlib.compress(tile.data, _LEVEL), zlib.decompress
        return functools.partial(encode, level=_LEVEL), zlib.decompress
    return lambda tile: tile.tobytes(), bytes


def deflate_by() -> str:
    """Name of the library that packs deflate here: each makes other bytes of the same pixels."""
    return "zlib" if libdeflate("deflate_encode") is None else "libdeflate"


def libdeflate(name: str) -> Callable[..., Any] | None:
    """A function of imagecodecs that takes a third of the time of zlib, or None where it lacks.

    Parameters
    ----------
    name
        "deflate_encode" or "deflate_decode".
    """
    with contextlib.suppress(ImportError):
        import imagecodecs

        if imagecodecs.DEFLATE.available:
            return cast("Callable[..., Any]", getattr(imagecodecs, name))
    return None
