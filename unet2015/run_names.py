"""What the files of a training run are called, and which folder can take one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tiling.faults import WriteError
from tiling.lock import holding
from tiling.remedies import of_writing
from tiling.safe_write import check_output

__all__ = [
    "BEST",
    "LAST",
    "LOCKED",
    "WRITTEN",
    "check_folder",
    "early_checkpoints",
    "held",
    "refuse_a_run",
]

LAST, BEST = "last.safetensors", "best.safetensors"
LOCKED = "run"  # the name whose lock holds the folder
# What a run writes under names that are known beforehand.
WRITTEN = (LAST, BEST, "recipe.json", "log.csv", "report.html", "scores.json")


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Hold the folder of a run, made if absent; training into it in the block is part of this.

    Raises
    ------
    WriteError
        If the folder cannot be made or written.
    LockedError
        If another process trains into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made a folder ({error.strerror}); {of_writing(error)}"
        raise WriteError(out, reason) from error
    with holding(out / LOCKED):
        yield


def check_folder(out: Path, *, resume: bool) -> None:
    """Refuse a folder that cannot take a run, before anything is read; nothing is made yet.

    Raises
    ------
    WriteError
        If it cannot be made or written, or holds a run that `resume` does not continue.
    """
    refuse_a_run(out, resume=resume)
    try:
        folders = (out, *out.absolute().parents)
    except OSError as error:
        raise WriteError(
            out,
            f"cannot be made: the current folder is gone ({error.strerror}); change to one that"
            " exists, or give the whole path",
        ) from error
    nearest = next(folder for folder in folders if folder.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise WriteError(
            out, f"cannot be made a folder: {nearest} is no folder one can write to; choose another"
        )
    for name in WRITTEN if nearest == out else ():
        check_output(out / name, overwrite=True)  # no file, or a link to nowhere: said now


def refuse_a_run(out: Path, *, resume: bool) -> None:
    """Refuse a folder with a checkpoint of another run; `resume` goes on with its run."""
    if resume:
        return
    if (out / LAST).exists():
        raise WriteError(out, "already holds a run; add --resume to go on, or name another")
    left = early_checkpoints(out)
    if left:
        raise WriteError(
            out,
            f"already holds a run, killed after {left[0].name} and before its first {LAST};"
            " add --resume to run it again, or name another",
        )


def early_checkpoints(out: Path) -> list[Path]:
    """What a run may leave without `LAST`: the checkpoints that it writes before that one."""
    return [p for p in (out / BEST, *sorted(out.glob("step-*.safetensors"))) if p.exists()]
