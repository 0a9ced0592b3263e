"""The embedded sample: a synthetic membrane stack, a larger held-out image, two real images.

Everything is written offline. The synthetic part is painted by `synthetic_stack` (its own file,
`synthetic.py`); the real images and their licence texts ship in `unet2015/samples/`.
"""

from __future__ import annotations

import io
import os
from importlib import resources
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from unet2015.synthetic import SyntheticStack, synthetic_stack

__all__ = ["SAMPLE_FILES", "SHIPPED_FILES", "SyntheticStack", "synthetic_stack", "write_sample"]

SYNTHETIC_FILES = ("images.tif", "labels.tif", "instances.tif", "large.tif", "large-labels.tif")
SHIPPED_FILES = (
    "nuclei.png",
    "nuclei-instances.png",
    "axons.png",
    "axons-classes.png",
    "axons-instances.png",
    "LICENSE-nuclei-CC0.txt",
    "LICENSE-axons-MIT.txt",
    "README.md",
)
SAMPLE_FILES = SYNTHETIC_FILES + SHIPPED_FILES

STACK_SLICES, STACK_PX = 10, 512
LARGE_SHAPE = (900, 1100)


def write_sample(
    directory: str | os.PathLike[str], *, overwrite: bool = False, seed: int = 2015
) -> list[Path]:
    """Paths of the sample files, written into `directory`.

    `images.tif`, `labels.tif` and `instances.tif` are 10 slices of 512 x 512; `large.tif` and
    `large-labels.tif` are one slice of 900 x 1100 of other tissue; the rest is described in the
    `README.md` written beside them. Each file appears complete or not at all.

    Parameters
    ----------
    directory
        Folder to write into; made if it does not exist.
    overwrite
        Replace existing files of these names. Otherwise those that hold the sample's own bytes
        stay, as a run that met a full disk left them, and any other stops everything before
        anything is written.
    seed
        Seed of the synthetic stack; the larger image takes ``seed + 1``.

    Raises
    ------
    tiling.faults.WriteError
        If another file of one of these names exists and `overwrite` is not set, or the folder
        cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in write_sample(folder)][:2]
    ['images.tif', 'labels.tif']
    """
    from tiling.faults import WriteError
    from tiling.safe_write import check_output, write_bytes

    folder = Path(directory)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made a folder ({error.strerror}); choose another one"
        raise WriteError(folder, reason) from error
    targets = [folder / name for name in SAMPLE_FILES]
    for target in targets:
        check_output(target, overwrite=overwrite or target.exists())
    shipped = _missing(folder, _shipped_files(), overwrite=overwrite)  # told before seconds pass
    synthetic = _missing(folder, _synthetic_files(seed), overwrite=overwrite)
    for name, data in (shipped | synthetic).items():
        write_bytes(folder / name, data, overwrite=overwrite)
    return targets


def _missing(folder: Path, files: dict[str, bytes], *, overwrite: bool) -> dict[str, bytes]:
    """The files that are to be written; another one of such a name is refused, or replaced."""
    from tiling.safe_write import check_output

    if overwrite:
        return files
    missing = {name: data for name, data in files.items() if not _is_there(folder, name, data)}
    for name in missing:
        check_output(folder / name)
    return missing


def _is_there(folder: Path, name: str, data: bytes) -> bool:
    """Whether a file of the folder holds exactly these bytes."""
    from tiling.disk import holds

    try:
        return holds(folder / name, data)
    except OSError:
        return False


def _shipped_files() -> dict[str, bytes]:
    shipped = resources.files("unet2015") / "samples"
    return {name: (shipped / name).read_bytes() for name in SHIPPED_FILES}


def _synthetic_files(seed: int) -> dict[str, bytes]:
    return {name: _tiff_bytes(array) for name, array in _synthetic_arrays(seed).items()}


def _synthetic_arrays(seed: int) -> dict[str, NDArray[Any]]:
    stack = synthetic_stack(seed, slices=STACK_SLICES, size=STACK_PX)
    large = synthetic_stack(seed + 1, slices=1, size=LARGE_SHAPE)
    arrays = (stack.images, stack.mask, stack.instances, large.images[0], large.mask[0])
    return dict(zip(SYNTHETIC_FILES, arrays, strict=True))


def _tiff_bytes(array: NDArray[Any]) -> bytes:
    """TIFF file of a slice (H, W) or a stack (S, H, W): one page a slice, deflate, strips."""
    import tifffile

    buffer = io.BytesIO()
    # Spelt out: tifffile would store a stack of three or four slices as planar RGB.
    tifffile.imwrite(
        buffer,
        array,
        photometric="minisblack",
        compression="zlib",
        rowsperstrip=64,
        software="unet2015",
        metadata={"axes": "ZYX"[-array.ndim :]},
    )
    return buffer.getvalue()
