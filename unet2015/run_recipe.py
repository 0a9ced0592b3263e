"""`recipe.json` in the folder of a run: written where it is needed, named where it helps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tiling.disk import holds
from tiling.input_file import as_input_error
from tiling.safe_write import write_text
from unet2015.recipe import MOST_BYTES, Recipe

__all__ = ["right_recipe", "write_recipe"]

_NAME = "recipe.json"


def write_recipe(out: Path, recipe: Recipe) -> None:
    """Write the recipe where the file does not say it; a run that goes on may have more steps.

    Raises
    ------
    WriteError, InputError
        If the file cannot be written, or one that is there cannot be read.
    """
    path, text = out / _NAME, recipe.to_json() + "\n"
    with as_input_error(path):
        current = holds(path, text.encode())
    if not current:
        write_text(path, text, overwrite=True)


def right_recipe(out: Path, then: Recipe, last: Path) -> str:
    """How to resume with the recipe `then` that the run was started with, for a sentence.

    Parameters
    ----------
    out, last
        The folder of the run, and its last checkpoint.
    then
        What the checkpoint says.
    """
    path = out / _NAME
    try:
        small = path.is_file() and path.stat().st_size <= MOST_BYTES
        said = Recipe.from_json(path.read_text("utf-8")) if small else None
    except (OSError, ValueError):
        said = None
    if said is not None and replace(said, steps=then.steps) == then:
        return f"resume it with --recipe {path}"
    return (
        f"its {path.name} has been changed or lost since: put back the values that `unet2015 info "
        f"{last}` shows, or name another folder for a new run"
    )
