"""A training run from files to report: what `unet2015 train` does."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiling.faults import InputError, UsageFault
from unet2015.data import Stack, read_stack_pair, split, weigh
from unet2015.device import choose_device, choose_precision, describe_device
from unet2015.progress import bar
from unet2015.recipe import Recipe
from unet2015.run_report import write_run_report
from unet2015.train import Run, train

__all__ = ["Inputs", "read_inputs", "run_training"]


@dataclass(frozen=True)
class Inputs:
    """Files of a training run, and which slices are held out.

    Attributes
    ----------
    images, labels
        Stack files or folders.
    weights
        Folder of maps written by `unet2015 weights`, or None to compute them.
    val
        Held-out slices ("12-14,27-29"), a fraction ("0.2"), or None.
    label_values
        Mask values of class 0, 1, ... ("0,255"), or None for the usual ones.
    """

    images: Path
    labels: Path
    weights: Path | None = None
    val: str | None = None
    label_values: str | None = None


def read_inputs(inputs: Inputs, recipe: Recipe) -> tuple[Stack, Stack | None]:
    """Training stack with weights, and held-out stack.

    Raises
    ------
    InputError
        If files or labels do not fit together or do not fit the recipe.
    """
    stack = read_stack_pair(
        inputs.images,
        inputs.labels,
        classes=recipe.classes,
        channels=recipe.in_channels,
        label_values=_label_values(inputs.label_values),
        ignore_label=recipe.ignore_label,
    )
    validation: Stack | None = None
    try:
        if inputs.val is not None:
            stack, validation = split(stack, inputs.val, ignore_label=recipe.ignore_label)
        if inputs.weights is None:
            return weigh(stack, recipe), validation
    except ValueError as error:
        raise InputError(inputs.labels, str(error)) from error
    from unet2015.weight_files import read_weights

    return read_weights(inputs.weights, stack, recipe), validation


def _label_values(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageFault(f"--label-values {text}: give whole numbers, e.g. 0,255") from error


def run_training(
    recipe: Recipe,
    inputs: Inputs,
    out: Path,
    *,
    device: str = "auto",
    workers: int = 0,
    resume: bool = False,
    tensorboard: bool = False,
    words: Sequence[str] = (),
) -> Run:
    """Read, train with progress, write the report; the folder `out` holds everything.

    Parameters
    ----------
    recipe, inputs, out
        What to train, on what, into which folder.
    device, workers, resume
        See `train`.
    tensorboard
        Also write event files for TensorBoard.
    words
        The command line, for the report.
    """
    place = choose_device(device)
    training, validation = read_inputs(inputs, recipe)
    writer = _event_writer(out) if tensorboard else None
    with bar("steps") as show:
        show.say(
            f"{recipe.name}: {len(training)} slices, {len(validation or ())} held out,"
            f" {recipe.steps} steps of {recipe.batch} tile(s) {recipe.tile_px} px on"
            f" {describe_device(place)} in {choose_precision(recipe.precision, place)}"
        )
        for note in training.notes:
            show.say(note)
        told: list[str] = []

        def on_step(run: Run, loss: float) -> None:
            show.update(run.step, recipe.steps, f"loss {loss:.4f}")
            if writer is not None and run.step in run.log.rows:
                for name, value in run.log.rows[run.step].items():
                    writer.add_scalar(name, value, run.step)
            for warning in run.warnings[len(told) :]:
                told.append(warning)
                show.say(f"warning: {warning}")

        run = train(
            recipe, training, out, validation=validation, device=place, resume=resume,
            workers=workers, on_step=on_step,
        )  # fmt: skip
    if writer is not None:
        writer.close()
    command = "unet2015 " + shlex.join(words)
    write_run_report(run, training, validation, commands=[command])
    figures = ", ".join(f"{k} {v:.4f}" for k, v in run.measures.items())
    sys.stdout.write(f"{out}: {run.step} steps{'; held out: ' if figures else ''}{figures}\n")
    return run


def _event_writer(out: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageFault("--tensorboard needs: pip install 'unet2015[tensorboard]'") from error
    return SummaryWriter(out / "tensorboard")
