"""The three stories on the embedded sample: weights, training, seamless prediction, one report."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling import Summary
from tiling.command import note, tell, tidy
from tiling.faults import UsageFault, WriteError
from tiling.images import read_stack
from tiling.safe_write import write_text
from tiling.signals import Terminated
from unet2015.baselines import baselines
from unet2015.device import choose_device
from unet2015.model import Model, load_model
from unet2015.predict import covering_output, predict_array
from unet2015.predict_file import Settings, predict_file
from unet2015.recipe import Recipe, quick
from unet2015.report import (
    KeyFigure,
    ReportData,
    best_and_worst,
    seam_picture,
    write_report,
)
from unet2015.run_names import WRITTEN, held
from unet2015.run_report import COLUMNS, measures_table, run_report
from unet2015.sample import SAMPLE_FILES, write_sample
from unet2015.score import isbi_scores
from unet2015.training_run import Inputs, run_training
from weightmaps.cli import weights

__all__ = ["demo_recipe", "run_demo"]

HELD_OUT = "4,9"  # one slice of each noise regime
TILE = 196  # output tile: the 900 x 1100 image takes 5 x 6 of them


def demo_recipe() -> Recipe:
    """A still narrower `quick`, trained with the paper's border weights."""
    return replace(
        quick(), name="demo", base_channels=12, steps=1000, class_weights="balanced",
        border_weight=True, validate_every=200, checkpoint_every=500,
    )  # fmt: skip


def run_demo(out: Path, *, overwrite: bool = False, steps: int | None = None, device: str) -> None:
    """Write the sample, its weight maps, a trained network, a prediction and `report.html`.

    Parameters
    ----------
    out
        Folder of the demo.
    overwrite
        Replace an earlier demo, file by file: its checkpoints go before there are new ones.
    steps
        Length of the training; by default the recipe's.
    device
        As `unet2015 train --device`.

    Raises
    ------
    WriteError
        If `out` holds something already and `overwrite` is not set.
    LockedError
        If another demo writes into `out`.
    UsageFault
        If `steps` or `device` cannot be.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise WriteError(out, "already exists; use --overwrite to replace it, or another --out")
    try:
        recipe = demo_recipe() if steps is None else replace(demo_recipe(), steps=steps)
    except ValueError as error:
        raise UsageFault(str(error)) from error
    choose_device(device)  # an unknown one is refused before anything is written
    try:
        with held(out / "run"):  # before the first file: a second demo leaves this one alone
            _tell(out, recipe, overwrite=overwrite, device=device)
    except (KeyboardInterrupt, Terminated) as stop:
        # The note of the training would name `--resume`, which a demo does not have.
        stop.__notes__ = ["a demo is not resumed; start it again with --overwrite"]
        raise


def _tell(out: Path, recipe: Recipe, *, overwrite: bool, device: str) -> None:
    """The three stories one after the other, each with the command that tells it alone."""
    sample, maps, run_folder = out / "sample", out / "weights", out / "run"
    tidy("unet2015", out / "report.html", sample / SAMPLE_FILES[0])
    note("1/5  the embedded sample: 10 labelled slices, one larger image of other tissue")
    write_sample(sample, overwrite=overwrite)
    commands = [["sample", str(sample)]]

    note("2/5  border weight maps (w0 = 10, sigma = 5 px)")
    weights([str(sample / "labels.tif")], out=maps, preview=True, overwrite=True)
    words = ["weights", str(sample / "labels.tif"), "--out", str(maps)]
    commands.append([*words, "--preview", "--overwrite"])

    note(f"3/5  training a narrow U-Net: {recipe.steps} steps")
    for name in WRITTEN:
        (run_folder / name).unlink(missing_ok=True)
    inputs = Inputs(sample / "images.tif", sample / "labels.tif", maps, HELD_OUT)
    train_words = ["train", str(inputs.images), str(inputs.labels), "--val", HELD_OUT]
    train_words += ["--weights", str(maps), *_as_words(recipe), "--out", str(run_folder)]
    run = run_training(recipe, inputs, run_folder, device=device, words=train_words)
    commands.append(train_words)

    note("4/5  tile-stitched prediction of a held-out image larger than one tile")
    target = out / "large-probability.tif"
    model = load_model(run_folder / "last.safetensors")
    settings = Settings(device=device, output_tile=TILE, dtype="uint8")
    (summary,) = predict_file(model, sample / "large.tif", target, settings, overwrite=True)
    words = ["predict", str(run_folder / "last.safetensors"), str(sample / "large.tif")]
    commands.append([*words, "--output-tile", str(TILE), "--out", str(target)])

    note("5/5  scores and report")
    image, truth = (read_stack(sample / f)[0] for f in ("large.tif", "large-labels.tif"))
    stitched = read_stack(target)[0]
    rows, scores = _large_scores(sample, image, truth, stitched)
    data, _ = run_report(run, run.stack, run.validation)
    lines = [shlex.join(["unet2015", *words]) for words in commands]
    data = replace(_with_large_image(data, rows, scores, image, truth, stitched), commands=lines)
    difference = _difference(model, image, stitched)
    data = _with_seams(data, summary, stitched, difference)
    write_text(out / "scores.json", json.dumps(scores, indent=1) + "\n", overwrite=True)
    write_report(out / "report.html", data, overwrite=True)
    for name, row in rows.items():
        figures = "  ".join(f"{key} {row[key]:.4f}" for key in ("wrong_pixels", "v_info", "v_rand"))
        tell(f"{name:24s} {figures}")
    tell(f"open {out / 'report.html'}")


def _as_words(recipe: Recipe) -> list[str]:
    """The recipe as options of `train`: what differs from `quick`."""
    words, usual = ["--recipe", "quick"], quick().to_dict()
    for name, value in recipe.to_dict().items():
        if value != usual[name]:
            text = str(value).lower() if isinstance(value, bool) else str(value)
            words += ["--set", f"{name}={text}"]
    return words


def _with_large_image(
    data: ReportData,
    rows: dict[str, dict[str, float]],
    scores: dict[str, Any],
    image: NDArray[Any],
    truth: NDArray[Any],
    stitched: NDArray[Any],
) -> ReportData:
    """The report of the training run, opened by what became of the large image."""
    return replace(
        data,
        title="unet2015 demo",
        lead="Weights, a short training on two CPU cores and a seamless prediction, on synthetic"
        " tissue. Everything below comes from this run.",
        key_figures=tuple(
            KeyFigure(name, scores[key]["best"], "large held-out image, best threshold")
            for name, key in (("wrong pixels", "wrong_pixels"), ("V_info", "v_info"))
        ),
        measures=measures_table(rows, "The large image, which the network has never seen."),
        slices=(
            *best_and_worst([image], [stitched / 255.0], [truth], names=["large image"]),
            *data.slices,
        ),
    )


def _with_seams(
    data: ReportData, summary: Summary, stitched: NDArray[Any], difference: NDArray[np.float64]
) -> ReportData:
    """The report with the seam check of the large image."""
    largest = KeyFigure("seams", summary.seam_max_difference, "largest difference, grey levels")
    return replace(
        data,
        key_figures=(*data.key_figures, largest),
        seams=_seams(summary),
        seam_picture=seam_picture(
            stitched / 255.0, summary.step,
            difference=difference, difference_name="|tiled - one pass|, grey levels",
        ),
    )  # fmt: skip


def _large_scores(
    sample: Path, image: NDArray[Any], truth: NDArray[Any], stitched: NDArray[Any]
) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Rows of the table: ours at two thresholds, the tuned blur, the constant; ours in full."""
    scores = {k: v.to_dict() for k, v in isbi_scores(stitched[None], truth[None]).items()}
    images, labels = (
        _mosaic(read_stack(sample / name), image.shape) for name in ("images.tif", "labels.tif")
    )
    tuned = baselines(
        np.stack([images, image]), np.stack([labels, truth]), train=[0], held_out=[1],
        measures=list(COLUMNS),
    )  # fmt: skip
    rows = {
        "U-Net, best threshold": {k: scores[k]["best"] for k in COLUMNS},
        "U-Net, threshold 0.5": {k: scores[k]["at_0.5"] for k in COLUMNS},
        "tuned blur + threshold": {k: tuned["blur"][k].value for k in COLUMNS},
        "constant": {k: tuned["white"][k].value for k in COLUMNS},
    }
    return rows, scores


def _mosaic(stack: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Six training slices of both noise regimes side by side, cut to the large image's size."""
    rows = [np.concatenate(list(stack[k : k + 3]), axis=1) for k in (0, 5)]
    return np.concatenate(rows)[: shape[0], : shape[1]]


def _seams(summary: Summary) -> dict[str, Any]:
    """The certificate of the stitched image, in words and figures."""
    return {
        "tiles": summary.tiles,
        "output tile (px)": summary.output,
        "step (px)": summary.step,
        "values computed twice": summary.seam_compared,
        "of them different": summary.seam_differing,
        "largest difference (grey levels)": summary.seam_max_difference,
        "probe tile across a corner (grey levels)": summary.probe_difference,
    }


def _difference(model: Model, image: NDArray[Any], stitched: NDArray[Any]) -> NDArray[np.float64]:
    """Tiled result against one pass over the whole image, in grey levels."""
    whole = covering_output(model.net, image.shape)
    probability = predict_array(model.net, image, output=whole, scale=model.scale)[1]
    difference: NDArray[np.float64] = np.abs(np.rint(probability * 255.0) - stitched)
    return difference
