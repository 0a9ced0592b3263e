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
from unet2015.recipe import MOST_BYTES, Recipe

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
        If it cannot be made or written, holds a run that `resume` does not continue, or files of
        somebody else under a run's names.
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
    foreign = [] if (out / LAST).exists() else [name for name in WRITTEN if _is_foreign(out / name)]
    if foreign:
        raise WriteError(
            out, f"holds {foreign[0]} and no run; move that file away, or name another folder"
        )


def _is_foreign(file: Path) -> bool:
    """Whether no run left this file, in a folder that has no checkpoint.

    One that was killed before its first checkpoint leaves its recipe, and perhaps a log beside it.
    """
    if file.name in (LAST, BEST) or not file.exists():
        return False
    if file.name == "log.csv":
        return not file.with_name("recipe.json").exists()
    if file.name != "recipe.json":
        return True
    try:
        if file.stat().st_size <= MOST_BYTES:
            Recipe.from_json(file.read_text("utf-8"))
            return False
    except OSError:
        return False  # whoever writes it says so
    except ValueError:
        pass
    return True


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
