"""Where predictions go, and which wishes would change nothing: refused before any work."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tiling.disk import real_target
from tiling.faults import UsageFault, WriteError
from tiling.formats import is_zarr_name
from tiling.input_file import as_input_error
from tiling.remedies import of_writing
from tiling.safe_write import check_output
from unet2015.predict_file import ENDINGS
from unet2015.predict_history import finished
from unet2015.predict_settings import Settings

__all__ = ["check_targets", "make_folder", "refuse_idle", "targets_of"]


def targets_of(images: Sequence[Path], out: str, save: str) -> list[tuple[Path, Path]]:
    """Input and output of every image; several go into a folder under their own names.

    Parameters
    ----------
    images
        The inputs.
    out
        What the user gave: a file, or a folder where there are several images, where it is one, or
        where it ends in a slash.
    save
        What is written, for the names in a folder.

    Raises
    ------
    UsageFault
        If a file is named for several images, or two images would have one output.

    Examples
    --------
    >>> [(_, target)] = targets_of([Path("cells.ome.tif")], "maps/", "probability")
    >>> target.as_posix()
    'maps/cells.prob.tif'
    """
    path, several = Path(out), len(images) > 1
    is_file = path.suffix.lower() == ".zarr"
    there = real_target(path).is_dir()
    if not several and (is_file or not (there or out.endswith(("/", os.sep)))):
        return [(images[0], path)]
    if is_file or (path.suffix.lower() in ENDINGS and not there):
        what = "several images go into a folder" if several else "a slash ends a folder's name"
        raise UsageFault(
            f"--out {out}: is the name of a file, and {what}; give the name of a folder (it is made"
            " where it is missing)"
        )
    kind = "prob" if save == "probability" else save
    targets = [(image, path / f"{image.stem.removesuffix('.ome')}.{kind}.tif") for image in images]
    names = [target for _, target in targets]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UsageFault(f"two images would both be written to {min(twice)}; predict them apart")
    return targets


def check_targets(
    targets: Sequence[tuple[Path, Path]], checkpoint: Path, *, overwrite: bool, resume: bool
) -> None:
    """Refuse images that are absent and outputs that are there, all before the first is begun.

    With `resume`, a complete prediction is kept or refused in its turn, by how it was made.

    Parameters
    ----------
    targets, checkpoint
        Inputs and outputs; the file of the network.
    overwrite
        Outputs that are there are replaced.
    resume
        Complete predictions are passed over.

    Raises
    ------
    InputError
        If an image is not there.
    WriteError
        If an output is there and may not be replaced.
    """
    for image, target in targets:
        with as_input_error(image):
            image.stat()
        if os.path.lexists(target) and not (resume and finished(target) is not None):
            check_output(target, overwrite=overwrite, inputs=[image, checkpoint])


def make_folder(folder: Path) -> None:
    """The folder of several outputs, made where it is missing.

    Raises
    ------
    WriteError
        If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made a folder ({error.strerror}); {of_writing(error)}"
        raise WriteError(folder, reason) from error


def refuse_idle(
    settings: Settings, targets: Sequence[tuple[Path, Path]], given: Mapping[str, object]
) -> None:
    """Refuse options that were given and would change nothing.

    Parameters
    ----------
    settings, targets
        What is wanted.
    given
        Options and their values; None where they were not given.

    Raises
    ------
    UsageFault
        With the option, and what it needs.
    """
    of_logits = settings.save == "logits" and settings.mean_of == "probabilities"
    zarr = any(is_zarr_name(target) for _, target in targets)
    needs = {
        "--connectivity": (settings.save != "instances", "only objects have neighbours; add --save "
                           "instances"),
        "--mean-of": (settings.average == "none" or of_logits,
                      "saved logits are averaged as logits; save something else" if of_logits else
                      "nothing is averaged; add --average flips, rotations or all"),
        "--compression": (zarr, "a Zarr has a compression of its own; write a TIFF"),
        "--seam-tolerance": (settings.step == "paper", "with --step paper no seam is compared; "
                             "take --step exact"),
    }  # fmt: skip
    for option, value in given.items():
        idle, remedy = needs[option]
        if idle and value is not None:
            raise UsageFault(f"{option} {value}: {remedy}, or leave it out")
