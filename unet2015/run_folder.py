"""The folder of a training run: opened, locked, saved to, and resumed exactly.

`recipe.json`, `log.csv`, `last.safetensors`, `best.safetensors`, and `step-001000.safetensors`
where steps are kept. Each file appears complete or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tiling.faults import Fault, InputError, ModelFileError, NumericsError, UsageFault
from tiling.lock import check_held
from tiling.safe_write import remove_stale_beside, write_text
from unet2015 import checkpoint as checkpoints
from unet2015.data import Stack
from unet2015.optimiser import optimiser_tensors, restore_optimiser
from unet2015.provenance import versions
from unet2015.ranks import Ranks
from unet2015.recipe import Recipe
from unet2015.run_names import BEST, LAST, LOCKED, WRITTEN, early_checkpoints, held, refuse_a_run
from unet2015.run_recipe import right_recipe, write_recipe
from unet2015.training_log import Log, read_log

__all__ = [
    "Run",
    "keep_step",
    "kept",
    "opened",
    "save_run",
    "step_file",
    "write_log",
]

SCALER = "scaler."  # prefix of the loss scaler's two numbers among the optimiser's tensors
# What a checkpoint says of its run beside the weights, and how.
_PROGRESS: dict[str, type | tuple[type, ...]] = {
    "data": str, "held_out": str, "versions": dict, "best": (int, float), "measured": int,
    "constant_evaluations": int, "skipped": int,
    "processes": int,
}  # fmt: skip


@dataclass
class Run:
    """A training run: where it is, how far it came, and what it holds.

    Attributes
    ----------
    out
        Folder of the run.
    recipe, stack
        Every number of the experiment; training slices with labels and weights.
    net, optimiser, scaler, averaged
        Network, update rule, fp16 loss scaler, moving average of the weights (or empty).
    ranks
        The processes that train together.
    step
        Updates made so far.
    loss
        Mean energy of the last row of the log.
    log
        One row per `LOG_EVERY` steps and per validation.
    best, measures, measured
        Smallest `wrong_pixels` so far; measures of the last validation, and its step.
    example
        Foreground probability (H, W) of the first held-out slice at the last validation.
    warnings
        Sentences the command line passes on, e.g. a network stuck at the constant solution.
    constant_evaluations, skipped, skipped_in_row
        Evaluations at the constant solution; fp16 updates left out, in all and just now.
    validation
        Held-out slices, if there are any.
    """

    out: Path
    recipe: Recipe
    stack: Stack
    net: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: dict[str, Tensor] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    step: int = 0
    loss: float = math.nan
    log: Log = field(default_factory=Log)
    best: float = math.inf
    measures: dict[str, float] = field(default_factory=dict)
    measured: int = 0
    example: NDArray[np.float32] | None = None
    warnings: list[str] = field(default_factory=list)
    constant_evaluations: int = 0
    skipped: int = 0
    skipped_in_row: int = 0
    validation: Stack | None = None

    def warn(self, sentence: str) -> None:
        """Add a warning, once."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)


@contextmanager
def opened(run: Run, *, resume: bool) -> Iterator[None]:
    """The run in its folder, locked; a stopped one is put back exactly as it was.

    Raises
    ------
    WriteError
        If the folder holds a run and `resume` is not set, or cannot be written.
    LockedError
        If another process trains into the folder.
    UsageFault, InputError, ModelFileError
        If the run was started with another recipe, other data or another network.
    """
    last = run.out / LAST
    if not run.ranks.first:
        _resume(run, last, resume=resume)
        yield
        return
    with held(run.out):
        stale = remove_stale_beside(*(run.out / name for name in WRITTEN))
        if stale:
            run.warn(f"{len(stale)} unfinished file(s) of a killed run were removed")
        _resume(run, last, resume=resume)
        write_recipe(run.out, run.recipe)
        yield


def _resume(run: Run, last: Path, *, resume: bool) -> None:
    """Put back the state of `last`, if there is one."""
    refuse_a_run(run.out, resume=resume)  # again: now it is locked
    if not last.exists():
        for early in early_checkpoints(run.out):  # begun again, it writes these very files again
            _check_same_run(run, checkpoints.load(early), early)
        return
    state = checkpoints.load(last)
    _check_same_run(run, state, last)
    checkpoints.copy_weights(run.net, state.weights)
    scaled = {k: v for k, v in state.optimiser.items() if k.startswith(SCALER)}
    moments = {k: v for k, v in state.optimiser.items() if k not in scaled}
    restore_optimiser(run.optimiser, run.net, moments)
    if scaled:
        run.scaler.load_state_dict(
            {k.removeprefix(SCALER): v.item() for k, v in scaled.items()}
            | {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        )
    for name, value in run.averaged.items():
        value.copy_(state.averaged[name])
    run.step, run.measures, progress = state.step, dict(state.measures), state.provenance
    run.measured = int(progress.get("measured", run.step if run.measures else 0))
    run.best = float(progress.get("best", math.inf))
    run.constant_evaluations = int(progress.get("constant_evaluations", 0))
    run.skipped = int(progress.get("skipped", 0))
    _check_best(run)
    log = read_log(run.out / "log.csv", up_to=run.step)
    if log is None:
        run.warn("log.csv of the steps so far is lost; it begins anew")
    run.log = log or Log()


def _check_best(run: Run) -> None:
    """Let the best from here on take the place of a best checkpoint that is gone or not ours."""
    best = run.out / BEST
    if not math.isfinite(run.best):
        return
    try:
        _check_same_run(run, checkpoints.load(best), best)
    except Fault as fault:
        cause = fault.__cause__
        if isinstance(cause, OSError | MemoryError) and not isinstance(cause, FileNotFoundError):
            raise  # it is there, and may be whole
        run.best = math.inf
        run.warn(f"the best checkpoint so far is lost ({fault}); the best from here on replaces it")


def _check_same_run(run: Run, state: checkpoints.Checkpoint, last: Path) -> None:
    """Refuse a checkpoint of another recipe, data, network or scaling of image values."""
    then, now = Recipe.from_dict(state.recipe or {}), run.recipe
    other = [
        f"{f.name} {getattr(then, f.name)!r} -> {getattr(now, f.name)!r}"
        for f in fields(Recipe)
        if f.name != "steps" and getattr(then, f.name) != getattr(now, f.name)
    ]
    if other:
        raise UsageFault(
            f"{run.out} was started with another recipe ({'; '.join(other)}); "
            + right_recipe(run.out, then, last)
        )
    if state.preprocessing.get("scale") != now.scale:
        raise ModelFileError(last, f"trained on images scaled by {state.preprocessing['scale']!r}")
    if state.network != checkpoints.describe_network(run.net):
        raise ModelFileError(last, f"holds another network: {state.network}")
    for name, kind in _PROGRESS.items():
        if name in state.provenance and not isinstance(state.provenance[name], kind):
            raise ModelFileError(last, f"{name} = {state.provenance[name]!r} was not written by us")
    held_out = {state.provenance.get("held_out")} - {None}  # old checkpoints do not say
    if run.validation is not None:
        held_out.add(run.validation.fingerprint)
    if state.provenance.get("data") != run.stack.fingerprint or len(held_out) > 1:
        raise InputError(
            run.out,
            "was started on other images, labels or weights; name the same files and the same"
            " --val, --weights and label options, or another --out",
        )
    if state.step > now.steps:
        raise UsageFault(
            f"{run.out} has {state.step} steps already; --steps {now.steps} is less: give more"
        )
    if set(state.averaged) != set(run.averaged):
        raise ModelFileError(last, "its moving average of the weights is missing")
    keeps_moments = now.optimiser != "sgd" or now.momentum > 0
    if state.step and keeps_moments and not state.optimiser:
        raise ModelFileError(last, "holds no state of the optimiser; it cannot be resumed")
    if then.steps != now.steps and now.schedule != "constant":
        run.warn(f"steps {then.steps} -> {now.steps}: the learning rate follows another curve now")
    was = state.provenance.get("versions", {})
    if was.get("torch") != versions()["torch"]:
        run.warn(f"started with torch {was.get('torch')}: the same bits cannot be expected")
    processes = state.provenance.get("processes", run.ranks.count)
    if processes != run.ranks.count:
        run.warn(f"started in {processes} process(es): the same bits cannot be expected")


def save_run(run: Run, name: str = LAST) -> None:
    """Write one checkpoint of the run, atomically, replacing the one before.

    Raises
    ------
    NumericsError
        If something in it is NaN or Inf; the checkpoint before stays.
    """
    if not run.ranks.first:
        return
    check_held(run.out / LOCKED)
    state = optimiser_tensors(run.optimiser, run.net)
    if run.scaler.is_enabled():
        said = run.scaler.state_dict()
        state |= {f"{SCALER}{k}": torch.tensor(said[k]) for k in ("scale", "_growth_tracker")}
    provenance: dict[str, Any] = {
        "data": run.stack.fingerprint,
        "versions": versions(),
        "constant_evaluations": run.constant_evaluations,
        "skipped": run.skipped,
        "measured": run.measured,
        "processes": run.ranks.count,
    }
    if run.validation is not None:
        provenance["held_out"] = run.validation.fingerprint
    if math.isfinite(run.best):
        provenance["best"] = run.best
    try:
        checkpoints.save(
            run.out / name,
            checkpoints.Checkpoint(
                network=checkpoints.describe_network(run.net),
                weights={k: v.detach() for k, v in run.net.state_dict().items()},
                recipe=run.recipe.to_dict(),
                preprocessing={"scale": run.recipe.scale},
                step=run.step,
                measures=run.measures,
                provenance=provenance,
                optimiser=state,
                averaged=run.averaged,
            ),
            overwrite=True,
        )
    except NumericsError as error:
        raise NumericsError(f"step {run.step}: {error}; {kept(run)}") from error


def kept(run: Run) -> str:
    """What is left of a run that stops: its last good checkpoint, if it has one."""
    last = run.out / LAST
    return f"{last} of an earlier step is untouched" if last.exists() else "nothing was saved yet"


def write_log(run: Run) -> None:
    """Write `log.csv`."""
    if run.ranks.first:
        check_held(run.out / LOCKED)
        write_text(run.out / "log.csv", run.log.to_csv(), overwrite=True)


def keep_step(run: Run) -> None:
    """Write the checkpoint of this step under its own name."""
    save_run(run, step_file(run).name)


def step_file(run: Run) -> Path:
    """Where the checkpoint of this step is kept."""
    return run.out / f"step-{run.step:06d}.safetensors"
