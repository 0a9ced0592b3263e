"""Fault C1: ImageJ shows other numbers than those that are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from tiling.strict_tiff import open_tiff, read_stack

SIGNED = "ImageJ=1.54f\nimages=2\nslices=2\ncf=0\nc0=-32768.0\nc1=1.0\nvunit=Gray Value\n"
LOOSE = "ImageJ=1.54f\rimages=2\rslices=2\rc0 = -32768\rc1=1\rcf=0\r"
VALUES = np.random.default_rng(0).integers(-32768, 32768, (2, 30, 40)).astype(np.int16)
VALUES[0, 0, :3] = -32768, 0, 32767


def written(path: Path, pixels: npt.NDArray[Any], text: str, **told: Any) -> Path:
    told = {"photometric": "minisblack", "metadata": None, **told}
    tifffile.imwrite(path, pixels, description=text, **told)
    return path


@pytest.mark.parametrize("text", [SIGNED, LOOSE])
@pytest.mark.parametrize(
    "told",
    [
        {},
        {"compression": "zlib", "predictor": 2, "byteorder": ">"},
        {"compression": "lzw", "tile": (16, 16)},
        {"compression": "zlib", "rowsperstrip": 7},
        {"byteorder": ">", "bigtiff": True, "tile": (16, 16)},
    ],
)
def test_c1_signed_numbers_of_imagej_are_what_it_shows(
    tmp_path: Path, text: str, told: dict[str, Any]
) -> None:
    stored = (VALUES.astype(int) + 32768).astype(np.uint16)
    path = written(tmp_path / "a.tif", stored, text, **told)
    with open_tiff(path) as image:
        assert (image.dtype, image.axes, image.doubts) == (np.dtype(np.int16), "ZYX", ())
        np.testing.assert_array_equal(image.read_rows(1, 5, 9)[0], VALUES[1, 5:9])
    np.testing.assert_array_equal(read_stack(path), VALUES)


def test_signed_numbers_that_are_stored_as_such_stay(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tif", VALUES, SIGNED)
    np.testing.assert_array_equal(read_stack(path), VALUES)
    with open_tiff(path) as image:
        assert image.doubts == ()


@pytest.mark.parametrize(
    ("kind", "lines", "words"),
    [
        ("u2", "cf=0\nc0=5\nc1=0.5\nvunit=HU", "cf 0, c0 5, c1 0.5"),
        ("u2", "cf=3\nc0=1\nc1=2\nc2=3\nc3=4\nc4=5", "cf 3, c0 1, c1 2, c2 3, c3 4, c4 5"),
        ("u1", "cf=0\nc0=-128\nc1=1", "cf 0, c0 -128, c1 1"),
        ("u1", "cf=21\nvunit=Uncalibrated OD", "cf 21"),
        ("i2", "cf=0\nc0=-1000\nc1=1", "cf 0, c0 -1000, c1 1"),
    ],
)
def test_numbers_calibrated_in_another_manner_are_a_doubt(
    tmp_path: Path, kind: str, lines: str, words: str
) -> None:
    pixels = np.arange(48, dtype=kind).reshape(6, 8)
    path = written(tmp_path / "a.tif", pixels, f"ImageJ=1.54f\n{lines}\n")
    with open_tiff(path) as image:
        doubt = f"is calibrated by ImageJ ({words}); its numbers are read as stored"
        assert (image.doubts, image.dtype) == ((doubt,), np.dtype(kind))
    np.testing.assert_array_equal(read_stack(path)[0], pixels)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("u2", "ImageJ=1.54f\nmin=0\nmax=9"),
        ("u2", "ImageJ=1.54f\ncf=20\nc0=5\nc1=3"),
        ("u2", "ImageJ=1.54f\ncf=0\nc0=0.0\nc1=1.0"),
        ("u2", "ImageJ=1.54f\ncf=0\nvunit=Gray Value"),
        ("u2", "ImageJ=1.54f\ncf=0\nc0=many\nc1=1"),
        ("u2", "ImageJ=1.54f\ncf=nan\nc0=1\nc1=1"),
        ("f4", "ImageJ=1.54f\ncf=0\nc0=-32768\nc1=1"),
        ("u2", "cf=0\nc0=-32768\nc1=1"),
    ],
)
def test_numbers_without_a_calibration_are_read_as_stored(
    tmp_path: Path, kind: str, text: str
) -> None:
    pixels = np.arange(48, dtype=kind).reshape(6, 8)
    path = written(tmp_path / "a.tif", pixels, text)
    with open_tiff(path) as image:
        assert (image.doubts, image.dtype) == ((), np.dtype(kind))
    np.testing.assert_array_equal(read_stack(path)[0], pixels)
