"""The same input, model and machine give the same bytes; ways of working change no pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, content
from tests.faults.warm import Warm


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network, an image of two pages, three label files."""
    folder = tmp_path_factory.mktemp("determinism")
    assert warm.run(folder / "model.safetensors", "2", code=MAKE_MODEL).code == 0
    draw = np.random.default_rng(10)
    image = draw.integers(0, 256, (2, 150, 170), dtype=np.uint8)
    tifffile.imwrite(folder / "image.tif", image, photometric="minisblack", metadata=None)
    (folder / "labels").mkdir()
    for k in range(3):
        cells = np.kron(draw.integers(0, 4, (6, 6), dtype=np.uint8), np.ones((7, 7), np.uint8))
        tifffile.imwrite(folder / "labels" / f"l{k}.tif", cells, photometric="minisblack",
                         metadata=None)  # fmt: skip
    return folder


def predicted(warm: Warm, place: Path, out: Path, *options: str, cwd: Path | None = None) -> Path:
    ended = warm.run(
        "predict", place / "model.safetensors", place / "image.tif", "--out", out, *options,
        cwd=cwd or place,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    return out


@pytest.mark.parametrize("ending", ["tif", "zarr"])
def test_a_prediction_is_the_same_file_wherever_it_is_made(
    place: Path, warm: Warm, tmp_path: Path, ending: str
) -> None:
    first = predicted(warm, place, tmp_path / f"first.{ending}", "--output-tile", "36")
    (tmp_path / "elsewhere").mkdir()
    second = predicted(warm, place, tmp_path / "elsewhere" / f"another name.{ending}",
                       "--output-tile", "36", cwd=tmp_path)  # fmt: skip
    assert content(first) == content(second)


@pytest.mark.parametrize("save", ["probability", "label"])
def test_batches_and_tiles_change_no_pixel(
    place: Path, warm: Warm, tmp_path: Path, save: str
) -> None:
    ways = (("36", "1"), ("36", "5"), ("20", "3"), ("100", "1"), ("172", "2"))
    found = [
        tifffile.imread(
            predicted(warm, place, tmp_path / f"{n}.tif", "--output-tile", tile, "--batch", batch,
                      "--save", save)
        )
        for n, (tile, batch) in enumerate(ways)
    ]  # fmt: skip
    for other in found[1:]:
        assert (other == found[0]).all()


def test_weight_maps_are_the_same_files_wherever_they_are_made(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    for n, labels in enumerate((place / "labels", Path("labels"))):
        ended = warm.run("weights", labels, "--out", tmp_path / str(n), cwd=place)
        assert ended.code == 0, ended.err
    assert content(tmp_path / "0") == content(tmp_path / "1")
    again = warm.run("weights", place / "labels", "--out", tmp_path / "0")
    assert again.out.count("up to date") == 3
    assert content(tmp_path / "0") == content(tmp_path / "1")


def test_checkpoints_of_equal_content_are_equal_files(
    place: Path, warm: Warm, tmp_path: Path
) -> None:
    assert warm.run(tmp_path / "again", "2", code=MAKE_MODEL).code == 0
    assert content(tmp_path / "again") == content(place / "model.safetensors")
