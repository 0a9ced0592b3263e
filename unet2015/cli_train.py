"""`unet2015 train`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from unet2015.recipe import Recipe

__all__ = ["RECIPES", "train"]

RECIPES = ("isbi2012", "isbi2012-modern", "dic-hela", "phc-u373", "quick")


def train(
    images: Annotated[Path, typer.Argument(metavar="IMAGES", help="stack, or folder of images")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="stack, or folder of labels")],
    out: Annotated[Path, typer.Option("--out", help="folder of the run")],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="maps of `unet2015 weights` (else computed)")
    ] = None,
    recipe: Annotated[str, typer.Option("--recipe", help=" | ".join(RECIPES))] = "isbi2012",
    val: Annotated[
        str | None, typer.Option("--val", help="held-out slices: 12-14,27-29, names, or 0.2")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="updates")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="seed of all randomness")] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, mps")] = "auto",
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"] | None,
        typer.Option("--precision", help="number format of the convolutions"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="any recipe field, e.g. --set learning_rate=1e-4"),
    ] = None,
    label_values: Annotated[
        str | None,
        typer.Option("--label-values", help="values of class 0, 1, ..: 0,255 or 0-9=0,255=1"),
    ] = None,
    labels_are: Annotated[
        Literal["auto", "mask", "classes", "instances"],
        typer.Option("--labels", help="what label values are; auto asks back where in doubt"),
    ] = "auto",
    ignore: Annotated[
        int | None, typer.Option("--ignore", help="label value of pixels without annotation")
    ] = None,
    only_labelled: Annotated[
        bool, typer.Option("--only-labelled", help="leave images without a label file out")
    ] = False,
    workers: Annotated[
        int, typer.Option("--workers", min=0, max=256, help="threads that draw ahead")
    ] = 0,
    keep_every: Annotated[
        int | None, typer.Option("--keep-every", help="keep the checkpoint of every N steps")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on where OUT stopped")] = False,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="write event files (extra: tensorboard)")
    ] = False,
) -> None:
    """Train the U-Net on a labelled stack; OUT gets checkpoints, log.csv and report.html."""
    from tiling.faults import UsageFault
    from unet2015 import training_run
    from unet2015.host_memory import keep_freed_memory

    keep_freed_memory()
    given = {"steps": steps, "seed": seed, "precision": precision, "keep_every": keep_every}
    found = find_recipe(recipe)
    chosen = replace_fields(found, set_ or [], given)
    if ignore is not None and chosen.ignore_label is None:
        chosen = replace_fields(chosen, ["ignore_label=255"], {})
    if recipe.endswith(".json") and not resume and chosen != found:
        from tiling.apart import check_apart

        check_apart([out / "recipe.json"], [recipe])  # the changed one would replace it
    if label_values is not None and labels_are != "auto":
        raise UsageFault(
            f"--labels {labels_are}: --label-values {label_values} says what each value is; leave "
            "one of the two out"
        )
    alone: Literal["refused", "left out"] = "left out" if only_labelled else "refused"
    training_run.run_training(
        chosen,
        training_run.Inputs(images, labels, weights, val, label_values, labels_are, ignore, alone),
        out,
        device=device,
        workers=workers,
        resume=resume,
        tensorboard=tensorboard,
        words=sys.argv[1:],
    )


def find_recipe(name: str) -> Recipe:
    """Recipe of this name, or the one a `recipe.json` holds.

    Raises
    ------
    UsageFault
        If there is no such recipe.
    """
    from tiling.faults import InputError, UsageFault
    from unet2015 import recipe as recipes

    named = {
        "isbi2012": recipes.isbi2012,
        "isbi2012-modern": recipes.isbi2012_modern,
        "dic-hela": recipes.dic_hela,
        "phc-u373": recipes.phc_u373,
        "quick": recipes.quick,
    }
    if name in named:
        return named[name]()
    if name.endswith(".json"):
        try:
            if not Path(name).is_file():  # a pipe would hang
                raise InputError(name, "is no recipe: there is no such file")
            if Path(name).stat().st_size > recipes.MOST_BYTES:
                raise InputError(name, "is no recipe: larger than 1 MB")
            return recipes.Recipe.from_json(Path(name).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(name, f"is no recipe that can be read ({error})") from error
    raise UsageFault(f"--recipe {name}: unknown; choose {', '.join(named)} or a recipe.json")


_IDLE = (
    ("momentum", "optimiser", "adam", "sgd"),
    ("momentum", "optimiser", "adamw", "sgd"),
    ("warmup_steps", "schedule", "one-cycle", "constant (or cosine)"),  # it rises by itself
    ("w0", "border_weight", False, "true"),
    ("sigma_px", "border_weight", False, "true"),
    ("where", "border_weight", False, "true"),
    ("displacement_grid", "displacement", "bspline", "interpolate"),
    ("displacement_spacing_px", "displacement", "interpolate", "bspline"),
)
"""Field, and the value of another with which it does nothing; a value with which it does."""


def replace_fields(recipe: Recipe, settings: Sequence[str], given: Mapping[str, object]) -> Recipe:
    """The recipe with the fields of `--set`, then those of options of their own (None: not given).

    Raises
    ------
    UsageFault
        If a field is unknown, its value breaks its rule, or would do nothing.
    """
    from tiling.faults import UsageFault

    values: dict[str, object] = {}
    present = recipe.to_dict()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or name not in present:
            near = [] if name in present else get_close_matches(name, present, n=1)
            doubt = f", perhaps {near[0]}" if near else ""
            raise UsageFault(
                f"--set {setting}: give FIELD=VALUE with a field of recipe.json{doubt}"
            )
        values[name] = _value(text, present[name])
    options = {name: value for name, value in given.items() if value is not None}
    for name in values.keys() & options.keys():
        raise UsageFault(
            f"--set {name} beside --{name.replace('_', '-')}: leave one of the two out"
        )
    values |= options
    try:
        changed = type(recipe).from_dict(present | values) if values else replace(recipe)
    except ValueError as error:
        raise UsageFault(str(error)) from error
    for name, other, idle, wanted in _IDLE:
        given_for_nothing = name in values and (values[name] or name != "warmup_steps")
        if given_for_nothing and getattr(changed, other) == idle:
            raise UsageFault(
                f"--set {name}={getattr(changed, name)}: does nothing with"
                f" {other}={str(idle).lower()}; leave it out, or add --set {other}={wanted}"
            )
    return changed


def _value(text: str, like: object) -> object:
    """`text` as the type of the field's present value, or as it stands where it does not fit."""
    if isinstance(like, bool):
        return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)
    if isinstance(like, str):
        return text
    if text.lower() == "none":
        return None
    for kind in (int, float):
        if isinstance(like, kind) or like is None:
            try:
                return kind(text)
            except ValueError:
                continue
    return text
