"""Weight maps made by `unet2015 weights`, accepted only if they belong to the labels and recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.faults import InputError
from tiling.strict_tiff import read_stack
from unet2015.recipe import Recipe
from unet2015.stack import Stack
from unet2015.weighing import IGNORED, annotation

__all__ = ["read_weights"]

# Fields of a recipe as options of `unet2015 weights`.
_OPTION = {
    "w0": "--w0",
    "sigma_px": "--sigma",
    "class_weights": "--class-weights",
    "where": "--where",
    "separate": "--separate",
    "ignore_label": "--ignore-label",
}
_SEPARATE = {
    "watershed": "--border watershed",
    "watershed-before": "--separate before --border watershed",
}


def read_weights(folder: str | Path, stack: Stack, recipe: Recipe) -> Stack:
    """The stack with the weight maps that `unet2015 weights` wrote for its label files.

    Parameters
    ----------
    folder
        The folder given to `unet2015 weights --out`, or the one map of a single label file.
    stack
        From `read_stack_pair`, or a part of it.
    recipe
        Its w0, sigma, class weights, place, separation and ignore label must be those of the
        maps. The class weights are those of all files the maps were made from together.

    Raises
    ------
    InputError
        If a map is missing, damaged, or was made from other labels or with other parameters;
        the message names them.
    ValueError
        If the stack was not read from files, or the recipe has no use for such maps.

    Examples
    --------
    ::

        stack = read_stack_pair("volume.tif", "labels.tif")
        stack = read_weights("maps", stack, isbi2012())  # unet2015 weights labels.tif --out maps
    """
    if recipe.classes > 2 or recipe.weights_after_warp == "recomputed":
        raise ValueError(
            "weight map files hold two classes and are warped with the image; leave them out"
            f" with classes = {recipe.classes}, weights_after_warp = {recipe.weights_after_warp!r}"
        )
    if not stack.sources:
        raise ValueError("the stack was not read from files, so no weight map files belong to it")
    maps: dict[str, NDArray[Any]] = {}
    for path, _ in stack.sources:
        if path not in maps:
            kind = "mask" if stack.instances is None else "instances"
            maps[path] = _read_map(Path(folder), Path(path), recipe, kind)
    ids, _, carved = annotation(stack, recipe)
    weights = []
    for name, (path, page), cells in zip(stack.names, stack.sources, ids, strict=True):
        pages = maps[path]
        if page >= len(pages) or pages[page].shape != cells.shape:
            raise InputError(folder, f"the map of {path} does not fit slice {name!r}")
        weights.append(np.where(cells == IGNORED, 0, pages[page]).astype(np.float32))
    return replace(stack, labels=carved, weights=weights, instances=ids)


def _read_map(folder: Path, labels: Path, recipe: Recipe, kind: str) -> NDArray[Any]:
    """Pages of the map of one label file, checked against file and recipe."""
    from weightmaps.annotations import MAP_ENDING, find_label_files
    from weightmaps.label_reader import LabelReader
    from weightmaps.label_rule import LabelRule
    from weightmaps.map_file import intact

    file = find_label_files([labels])[0]
    path = folder if folder.is_file() else folder / f"{file.stem}{MAP_ENDING}"
    if not path.exists():
        raise InputError(
            path, f"is missing; make it with: unet2015 weights {labels} --out {folder}"
        )
    found = intact(path)
    if found is None:
        raise InputError(path, "is no weight map of this program")
    history, whole = found
    if not whole:
        raise InputError(path, "is damaged: its pixels do not have their recorded hash")
    source = history.get("labels", {})
    with LabelReader(file, LabelRule()) as reader:
        if source.get("sha256") != reader.sha256():
            raise InputError(path, f"was made from other labels than {labels}; make it anew")
    made = history.get("parameters", {}) | {"labels": source.get("taken_as")}
    wanted = _wanted(recipe, kind)
    other = _differing(made, wanted)
    if other:
        name = other[0]
        raise InputError(
            path,
            f"was made with {name} = {made.get(name)!r}, not {wanted[name]!r} as the recipe"
            f" {recipe.name!r} wants; {_remedy(made, recipe, kind)}",
        )
    return read_stack(path)


def _remedy(made: dict[str, Any], recipe: Recipe, kind: str) -> str:
    """How map and recipe can be made to agree: by the recipe where it can say the same."""
    changes = {name: made.get(name) for name in _differing(made, _wanted(recipe, kind))}
    if "w0" in changes and not recipe.border_weight:
        changes = {"border_weight": True} | changes
    if changes.get("w0") == recipe.w0:
        del changes["w0"]
    try:
        agreeing = Recipe.from_dict(recipe.to_dict() | changes)
    except ValueError:
        agreeing = recipe
    if not _differing(made, _wanted(agreeing, kind)):
        words = " ".join(f"--set {name}={str(value).lower()}" for name, value in changes.items())
        return f"train with {words}, or without --weights"
    return (
        "make the maps anew (unet2015 weights LABELS --out DIR --overwrite"
        f" {_options(_wanted(recipe, kind))}), or train without --weights"
    )


def _differing(made: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Names of parameters that differ and matter: without a border term two of them do not."""
    flat = made.get("w0") == wanted["w0"] == 0
    idle = ("sigma_px", "where") if flat else ()
    return [name for name, value in wanted.items() if made.get(name) != value and name not in idle]


def _options(wanted: dict[str, Any]) -> str:
    """Options of `unet2015 weights` for such maps, as far as they are not its defaults."""
    from weightmaps import WeightMapSpec

    words = [f"--labels {wanted['labels']}"]
    for name, usual in WeightMapSpec().to_dict().items():
        if wanted[name] != usual:
            words.append(_SEPARATE.get(wanted[name]) or f"{_OPTION[name]} {wanted[name]}")
    return " ".join(words)


def _wanted(recipe: Recipe, kind: str) -> dict[str, Any]:
    """Parameters that a map for this recipe, of labels of this kind, has in its history."""
    ids = kind == "instances" and (recipe.ignore_label or 0) > 0  # a positive id is always a cell
    return {
        "w0": recipe.w0 if recipe.border_weight else 0.0,
        "sigma_px": recipe.sigma_px,
        "class_weights": recipe.class_weights,
        "where": recipe.where,
        "separate": recipe.separate,
        "ignore_label": None if ids else recipe.ignore_label,
        "spacing": None,
        "volume": False,
        "connectivity": 4,
        "inside": "nonzero",
        "labels": kind,
    }
