"""A training run from files to report: what `unet2015 train` does."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from tiling.apart import check_apart
from tiling.command import tell
from tiling.faults import InputError, UsageFault
from tiling.input_file import as_input_error
from tiling.signals import Terminated
from unet2015.data import Stack, read_stack_pair, split, weigh
from unet2015.device import choose_device, choose_precision, describe_device
from unet2015.fitting import as_memory_fault
from unet2015.intensity import FAR_FROM_1, note_on_floats
from unet2015.label_values import Meaning, parse_label_values
from unet2015.progress import Bar, bar
from unet2015.ranks import joined, ranks_now
from unet2015.recipe import Recipe
from unet2015.run_names import LAST, WRITTEN, check_folder
from unet2015.run_report import write_run_report
from unet2015.scaled_stack import scaled_stack
from unet2015.splitting import about_ignored, held_out_slices
from unet2015.train import Run, check_tile, train
from unet2015.watching import Events, progress_on, require_tensorboard
from unet2015.weighing import without_unlabelled

__all__ = ["Inputs", "read_inputs", "run_training"]

SHOWN = 8  # names of held-out slices that are told


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
        Mask values of class 0, 1, ... ("0,255"; "0-127=0,128-255=1"), or None for the usual ones.
    meaning
        What the other label values are, see `label_values.as_class_labels`.
    unlabelled_value
        Label value of pixels without annotation, or None for the recipe's ignore label.
    alone
        What happens to images of a folder that have no label file.
    """

    images: Path
    labels: Path
    weights: Path | None = None
    val: str | None = None
    label_values: str | None = None
    meaning: Meaning = "auto"
    unlabelled_value: int | None = None
    alone: Literal["refused", "left out"] = "refused"


def read_inputs(inputs: Inputs, recipe: Recipe) -> tuple[Stack, Stack | None]:
    """Training stack with weights, and held-out stack.

    Raises
    ------
    InputError
        If files or labels do not fit together or do not fit the recipe.
    UsageFault
        If `inputs.val` or `inputs.label_values` cannot be read.
    """
    stack, validation = _scaled(inputs, recipe), None
    held_out = _held_out(stack, inputs.val)
    try:
        if held_out:
            stack, validation = split(stack, held_out, ignore_label=recipe.ignore_label)
            validation = without_unlabelled(validation, recipe)
        if inputs.weights is None:
            stack = weigh(stack, recipe)
    except ValueError as error:
        raise InputError(inputs.labels, str(error)) from error
    if inputs.weights is not None:
        from unet2015.weight_files import read_weights

        try:
            stack = read_weights(inputs.weights, stack, recipe)
        except ValueError as error:
            raise UsageFault(f"--weights {inputs.weights}: {error}") from error
    _refuse_nothing_to_learn(stack, inputs, recipe)
    return stack, validation


def _scaled(inputs: Inputs, recipe: Recipe) -> Stack:
    """All labelled slices, their images scaled by the rule of the recipe."""
    label_values = _label_values(inputs.label_values)
    if inputs.weights is not None:
        _refuse_other_readings(inputs, recipe, label_values)
    stack = read_stack_pair(
        inputs.images,
        inputs.labels,
        classes=recipe.classes,
        channels=recipe.in_channels,
        label_values=label_values,
        meaning=inputs.meaning,
        ignore_label=recipe.ignore_label,
        unlabelled_value=inputs.unlabelled_value,
        alone=inputs.alone,
    )
    if stack.channels != recipe.in_channels:
        raise InputError(
            inputs.images,
            f"has {stack.channels} channel(s), the network takes {recipe.in_channels}; train with"
            f" --set in_channels={stack.channels}",
        )
    try:
        stack = scaled_stack(stack, recipe.scale)
    except ValueError as error:
        raise InputError(inputs.images, str(error)) from error
    return _with_note_on_floats(stack, recipe)


def _refuse_nothing_to_learn(stack: Stack, inputs: Inputs, recipe: Recipe) -> None:
    """Refuse training slices of one class, and weights that are all 0."""
    values = {int(k) for labels in stack.labels for k in np.unique(labels)}
    found = values - {recipe.ignore_label}
    if len(found) < 2:
        doubt = about_ignored(recipe.ignore_label) if recipe.ignore_label in values else ""
        kind = f"is of class {found.pop()}" if found else "has the ignore label"
        raise InputError(
            inputs.labels,
            f"every labelled pixel for training {kind}; there is nothing to tell apart{doubt}",
        )
    if not any(weights.any() for weights in stack.weights or ()):
        raise InputError(
            inputs.weights or inputs.labels, "gives every pixel the weight 0: nothing to learn"
        )


def _with_note_on_floats(stack: Stack, recipe: Recipe) -> Stack:
    """The stack, with a note where floating-point values far from 0 .. 1 stay as they are."""
    if recipe.scale != "dtype-range" or stack.images[0].dtype.kind != "f":
        return stack
    largest = max(float(np.abs(image).max()) for image in stack.images)
    if largest <= FAR_FROM_1:
        return stack
    return replace(stack, notes=(*stack.notes, note_on_floats(largest, "--set scale=percentile")))


def _refuse_other_readings(
    inputs: Inputs, recipe: Recipe, label_values: list[int] | dict[int, int] | None
) -> None:
    """Refuse maps from files where label values mean something else than they did for the maps."""
    if inputs.unlabelled_value not in (None, recipe.ignore_label):
        raise UsageFault(
            f"--ignore {inputs.unlabelled_value}: maps from files mark pixels without annotation"
            f" with {recipe.ignore_label}; leave --weights out, and the maps are computed"
        )
    if not isinstance(label_values, dict):
        label_values = {value: k for k, value in enumerate(label_values or ())}
    if any((value > 0) != (k > 0) for value, k in label_values.items()):
        raise UsageFault(
            f"--label-values {inputs.label_values}: maps from files take 0 as background and every"
            " other value as cells; leave --weights out, and the maps are computed"
        )


def _held_out(stack: Stack, val: str | None) -> list[int]:
    if val is None:
        return []
    try:
        return held_out_slices(stack, val)
    except ValueError as error:
        raise UsageFault(f"--val {val}: {error}") from error


def _label_values(text: str | None) -> list[int] | dict[int, int] | None:
    if text is None:
        return None
    try:
        return parse_label_values(text)
    except ValueError as error:
        raise UsageFault(
            f"--label-values {text}: {error}; give e.g. 0,255 or 0-127=0,128-255=1"
        ) from error


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

    Started by `torchrun`, the processes share the batches and the first one writes.

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
    if tensorboard:
        require_tensorboard()
    check_tile(recipe)
    check_apart([out / name for name in WRITTEN], _files_of(inputs))
    check_folder(out, resume=resume)
    reached: list[Run] = []
    with _resumable(out, reached):
        with joined(choose_device(device)) as place, bar("tiles") as show:
            first = ranks_now().first
            training, validation = read_inputs(inputs, recipe)
            if first:
                _introduce(show, recipe, training, validation, place)
            progress = progress_on(show, place)
            writes = tensorboard and first
            with closing(Events(validation)) if writes else nullcontext() as events:

                def on_step(run: Run) -> None:
                    reached[:] = [run]
                    if first:
                        progress(run)
                    if events is not None:
                        events(run)

                with as_memory_fault("use a smaller --set tile_px or --set batch"):
                    run = train(
                        recipe, training, out, validation=validation, device=place, resume=resume,
                        workers=workers, on_step=on_step,
                    )  # fmt: skip
            if not first:
                return run
        reached[:] = [run]
        write_run_report(run, training, validation, commands=["unet2015 " + shlex.join(words)])
        figures = ", ".join(f"{k} {v:.4f}" for k, v in run.measures.items())
        tell(f"{out}: {run.step} steps{'; held out: ' if figures else ''}{figures}")
    return run


@contextmanager
def _resumable(out: Path, reached: Sequence[Run]) -> Iterator[None]:
    """Tell whoever stops the block, beyond what `train` tells, that `--resume` goes on."""
    try:
        yield
    except (KeyboardInterrupt, Terminated) as stop:
        if not hasattr(stop, "__notes__") and (out / LAST).exists():
            done = [f"{run.step} of {run.step}" for run in reached if run.step == run.recipe.steps]
            saved = f"{done[0]} steps are saved; " if done else ""
            stop.add_note(f"{saved}add --resume to go on")
        raise


def _files_of(inputs: Inputs) -> Iterator[Path]:
    """The files that training reads; in a folder, all but those a run writes into its own."""
    for path in filter(None, (inputs.images, inputs.labels, inputs.weights)):
        with as_input_error(path):
            files = list(path.iterdir()) if path.is_dir() else [path]
        yield from (file for file in files if file == path or file.name not in WRITTEN)


def _introduce(
    show: Bar, recipe: Recipe, training: Stack, validation: Stack | None, place: torch.device
) -> None:
    """Say what is about to happen, and what reading did to the data."""
    ranks = ranks_now().count
    show.say(
        f"{recipe.name}: {len(training)} slices, {len(validation or ())} held out,"
        f" {recipe.steps} steps of {recipe.batch * recipe.accumulate} tile(s) {recipe.tile_px} px"
        f" on {describe_device(place)}{f' in {ranks} processes' if ranks > 1 else ''}"
        f" in {choose_precision(recipe.precision, place)}"
    )
    if validation is not None:
        names, more = validation.names[:SHOWN], ", ..." if len(validation) > SHOWN else ""
        show.say(f"held out: {', '.join(names)}{more}")
    for note in training.notes:
        show.say(note)
