"""What made a file: versions of programs and machine, without names of people or paths."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

__all__ = ["versions"]

PACKAGES = ("unet2015", "torch", "numpy", "scipy", "numba", "scikit-image", "tifffile", "zarr")


def versions() -> dict[str, str]:
    """Versions of Python, the platform and the packages that shape a result.

    Examples
    --------
    >>> sorted(versions())[:2]
    ['numba', 'numpy']
    """
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    """Looked up once: every checkpoint records them."""
    found = {"python": platform.python_version(), "platform": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "absent" if package != "unet2015" else "source tree"
    return found
