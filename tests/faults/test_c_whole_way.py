"""C22, C25: arrays of any layout, and an image larger than any memory."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.faults.killing import MAKE_MODEL
from tests.faults.warm import Warm
from tiling import Geometry, stitch
from tiling.mirror import read_mirrored
from weightmaps import border_term, two_nearest_distances, weight_map

LAYOUTS = {
    "Fortran order": np.asfortranarray,
    "negative strides": lambda a: np.ascontiguousarray(a[..., ::-1, ::-1])[..., ::-1, ::-1],
    "every second": lambda a: np.repeat(np.repeat(a, 2, -1), 2, -2)[..., ::2, ::2],
    "foreign byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "inside a larger array": lambda a: np.pad(a, 3)[3:-3, 3:-3],
}


def read_only(array: np.ndarray) -> np.ndarray:
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("layout", LAYOUTS)
def test_c22_weight_maps_of_any_layout(layout: str) -> None:
    draw = np.random.default_rng(2)
    labels = np.kron(draw.integers(0, 5, (6, 7), dtype=np.int32), np.ones((5, 5), np.int32))
    given = read_only(LAYOUTS[layout](labels))
    before = given.tobytes()
    for function in (weight_map, border_term, two_nearest_distances):
        expected, found = np.asarray(function(labels)), np.asarray(function(given))
        assert expected.tobytes() == found.tobytes()
    assert given.tobytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_c22_tiles_of_any_layout(layout: str) -> None:
    image = np.random.default_rng(3).integers(0, 9999, (33, 41), dtype=np.uint16)
    given = read_only(LAYOUTS[layout](image))
    before = given.tobytes()
    for window in ((-20, 12, -3, 50), (4, 20, 8, 24)):
        expected = read_mirrored(image, *window)
        assert (read_mirrored(given, *window) == expected).all()
    found = np.zeros((33, 41))
    stitch(given, lambda tiles: tiles[..., 2:-2, 2:-2].astype(float), found, Geometry(2, 1, 8))
    assert (found == image).all()
    assert given.tobytes() == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_c22_predictions_of_any_layout(layout: str) -> None:
    torch = pytest.importorskip("torch")
    from unet2015.net import UNet, init_paper_weights
    from unet2015.predict import predict_array

    net = UNet(base_channels=2, depth=1)
    init_paper_weights(net, 0)
    image = np.random.default_rng(4).integers(0, 65535, (30, 26), dtype=np.uint16)
    given = read_only(LAYOUTS[layout](image))
    before = given.tobytes()
    with torch.inference_mode():
        expected = predict_array(net, image, output=20)
        found = predict_array(net, given, output=20)
    assert expected.tobytes() == found.tobytes()
    assert given.tobytes() == before


HEIGHT, WIDTH, TILE = 150_000, 140_000, 1000


def sparse_tiff(path: Path) -> None:
    """A BigTIFF of 21 GB, nearly all of it a hole in the file that reads as zeros."""
    count = (HEIGHT // TILE) * (WIDTH // TILE)
    table = 16 + 8 + 9 * 20 + 8
    data = table + 16 * count
    offsets = data + np.arange(count, dtype="<u8") * TILE**2
    sizes = np.full(count, TILE**2, "<u8")
    tags = [(256, 3 + 1, 1, WIDTH), (257, 4, 1, HEIGHT), (258, 3, 1, 8), (259, 3, 1, 1),
            (262, 3, 1, 1), (322, 3, 1, TILE), (323, 3, 1, TILE),
            (324, 16, count, table), (325, 16, count, table + 8 * count)]  # fmt: skip
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + struct.pack("<Q", len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHQQ", *tag))
        file.write(bytes(8))
        assert file.tell() == table
        file.write(offsets.tobytes() + sizes.tobytes())
        file.truncate(data + count * TILE**2)


MEASURED = """
import resource, sys
from unet2015.cli import main

before = resource.getrusage(resource.RUSAGE_SELF)
code = main(sys.argv[1:])
after = resource.getrusage(resource.RUSAGE_SELF)
seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print("used", after.ru_maxrss - before.ru_maxrss, seconds)
raise SystemExit(code)
"""


def test_c25_a_sparse_image_of_20_gb_starts_at_once_in_little_memory(
    warm: Warm, tmp_path: Path
) -> None:
    image = tmp_path / "huge.tif"
    try:
        sparse_tiff(image)
    except OSError as error:
        pytest.skip(f"this disk cannot hold a sparse file of 21 GB: {error.strerror}")
    if os.stat(image).st_blocks * 512 > 1 << 28:
        pytest.skip("this file system does not keep holes")
    assert warm.run(tmp_path / "model", "1", code=MAKE_MODEL).code == 0
    line = ("predict", tmp_path / "model", image, "--out", tmp_path / "out.tif",
            "--output-tile", "60")  # fmt: skip
    planned = warm.run(*line, "--plan", code=MEASURED)
    assert planned.code == 0, planned.err
    assert "150000 x 140000" in planned.out
    part = warm.run(*line, "--region", "75000:75100,2000:2300", code=MEASURED)
    assert part.code == 0, part.err
    for run in (planned, part):
        kibibytes, seconds = map(float, run.out.split("used")[1].split())
        assert kibibytes < 256 * 1024
        assert seconds < 2  # of work, not of waiting: 0.1 s on a machine at rest
