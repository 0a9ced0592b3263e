"""Training as in section 3 of the paper: one large tile, one weighted energy, one update at a time.

`train` is read from top to bottom. Every random number is a function of (seed, step, sample), so
that a run killed at any moment and resumed ends with the weights of an uninterrupted run.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from tiling.command import Terminated
from tiling.faults import InputError, NumericsError, UsageFault, WriteError
from tiling.safe_write import OutputLock, remove_stale, write_text
from unet2015 import checkpoint as checkpoints
from unet2015.data import Stack, batches
from unet2015.device import choose_precision
from unet2015.energy import energy
from unet2015.net import UNet, init_paper_weights
from unet2015.optimiser import (
    learning_rate,
    make_optimiser,
    optimiser_tensors,
    restore_optimiser,
)
from unet2015.provenance import versions
from unet2015.recipe import Recipe
from unet2015.training_log import Log
from unet2015.validate import BEST_BY, is_constant, validate

__all__ = ["Run", "network_of", "train"]

LOG_EVERY = 10  # steps whose mean loss makes one row of log.csv
PATIENCE = 3  # evaluations at the constant solution before it is called out
MAX_OVERFLOWS = 50  # fp16 steps skipped in a row before training stops

CONSTANT = (
    "the network predicts the same class everywhere since {n} evaluations; usual causes: learning"
    " rate too high or far too low, labels of one class, a weight map that drowns the other class,"
    " images that are not scaled, default initialisation instead of the paper's"
)


@dataclass
class Run:
    """A training run: where it is, how far it came, and what it holds.

    Attributes
    ----------
    out
        Folder with `recipe.json`, `log.csv`, `last.safetensors` and `best.safetensors`.
    step
        Updates made so far.
    log
        One row per `LOG_EVERY` steps and per validation.
    warnings
        Sentences the command line passes on, e.g. a network stuck at the constant solution.
    """

    out: Path
    recipe: Recipe
    stack: Stack
    net: nn.Module
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    averaged: dict[str, Tensor]
    step: int = 0
    log: Log = field(default_factory=Log)
    best: float = math.inf
    measures: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    constant_evaluations: int = 0


def network_of(recipe: Recipe) -> UNet:
    """The paper's network with the recipe's sizes and the paper's initialisation."""
    net = UNet(
        recipe.in_channels,
        recipe.classes,
        base_channels=recipe.base_channels,
        depth=recipe.depth,
        dropout=recipe.dropout,
    )
    init_paper_weights(net, recipe.seed)
    return net


def train(
    recipe: Recipe,
    stack: Stack,
    out: str | Path,
    net: nn.Module | None = None,
    *,
    validation: Stack | None = None,
    device: str | torch.device = "cpu",
    resume: bool = False,
    workers: int = 0,
    on_step: Callable[[Run, float], None] | None = None,
) -> Run:
    """Trained run of `recipe` on `stack`; the folder `out` holds checkpoints and log.

    Parameters
    ----------
    recipe
        Every number of the experiment.
    stack
        Training slices, labels and weights.
    out
        Folder of the run; made if absent. A folder that already holds a run is refused unless
        `resume` continues it.
    net
        Network to train; by default the paper's with the recipe's sizes.
    validation
        Held-out slices, measured every `recipe.validate_every` steps; `best.safetensors` is the
        checkpoint with the smallest share of wrong pixels on them.
    device
        Where the network runs.
    resume
        Continue from `last.safetensors` in `out`, if there is one.
    workers
        Processes that draw tiles ahead; 0 draws them in this one. The result is the same.
    on_step
        Called after every update with the run and the loss of that step.

    Raises
    ------
    WriteError
        If `out` already holds a run and `resume` is not set.
    NumericsError
        If the loss or the weights stop being finite; the last good checkpoint stays.
    UsageFault
        If a resumed run was started with another recipe.

    Notes
    -----
    Source: Ronneberger et al. 2015, section 3; open choices are named in `Recipe`.
    """
    out, device = Path(out), torch.device(device)
    precision = choose_precision(recipe.precision, device)
    net = network_of(recipe) if net is None else net
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = make_optimiser(recipe, net)
    averaged = {k: v.clone() for k, v in net.state_dict().items()} if recipe.average_decay else {}
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    run = Run(out, recipe, stack, net, optimiser, scaler, averaged)
    out.mkdir(parents=True, exist_ok=True)
    with OutputLock(out / "run"):
        _open_run(run, resume=resume)
        losses: list[Tensor] = []
        try:
            for step, images, labels, weights in batches(stack, recipe, run.step, workers=workers):
                torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout: a function of the step
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(recipe, step)
                loss = _gradients(run, images, labels, weights, device, precision)
                with _undisturbed():
                    _update(run)
                    run.step = step + 1
                losses.append(loss)
                if on_step is not None:
                    on_step(run, float(loss) if device.type == "cpu" else math.nan)
                _book_keeping(run, validation, losses)
        except (KeyboardInterrupt, Terminated) as stop:
            _save(run)
            stop.add_note(f"{run.step} of {recipe.steps} steps are saved; add --resume to go on")
            raise
    return run


def _gradients(
    run: Run,
    images: Tensor,
    labels: Tensor,
    weights: Tensor,
    device: torch.device,
    precision: str,
) -> Tensor:
    """Gradients of one step, summed over `recipe.accumulate` parts; returns the mean energy."""
    recipe, net = run.recipe, run.net
    net.train()
    net.zero_grad(set_to_none=True)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    total = torch.zeros((), device=device)
    parts = [part.split(recipe.batch) for part in (images, labels, weights)]
    for image, label, weight in zip(*parts, strict=True):
        image = image.to(device, non_blocking=True, memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=half, enabled=half is not None):
            logits = net(image)
        loss = energy(
            logits.float(),
            label.to(device, non_blocking=True),
            weight.to(device, non_blocking=True),
            normalisation=recipe.normalisation,
            ignore_label=recipe.ignore_label,
        )
        run.scaler.scale(loss / recipe.accumulate).backward()
        total += loss.detach() / recipe.accumulate
    return total


def _update(run: Run) -> None:
    """One step of the optimiser and of the moving average of the weights."""
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if run.averaged:
        weights = run.net.state_dict()
        for name, value in run.averaged.items():
            value.lerp_(weights[name], 1 - run.recipe.average_decay)


def _book_keeping(run: Run, validation: Stack | None, losses: list[Tensor]) -> None:
    """Log, validation and checkpoints that fall due after the step just made."""
    recipe, last = run.recipe, run.step == run.recipe.steps
    validates = validation is not None and (last or run.step % recipe.validate_every == 0)
    saves = last or run.step % recipe.checkpoint_every == 0
    if not (saves or validates or run.step % LOG_EVERY == 0):
        return
    if run.scaler.is_enabled() and float(run.scaler.get_scale()) < 2.0**-MAX_OVERFLOWS:
        raise NumericsError(
            f"step {run.step}: gradients overflow in fp16 again and again; use bf16"
        )
    values = torch.stack(losses).tolist()
    _refuse_not_finite(run, values)
    losses.clear()
    rate = learning_rate(recipe, run.step - 1)
    run.log.add(run.step, loss=sum(values) / len(values), learning_rate=rate)
    if validates and validation is not None:
        _evaluate(run, validation)
        if run.measures[BEST_BY] < run.best:
            run.best = run.measures[BEST_BY]
            _save(run, "best.safetensors")
    if saves:
        _save(run)
    if saves or validates or run.step % (10 * LOG_EVERY) == 0:
        write_text(run.out / "log.csv", run.log.to_csv(), overwrite=True)


def _evaluate(run: Run, validation: Stack) -> None:
    """Measure the held-out slices and notice a network that says the same everywhere."""
    run.measures = validate(run.net, validation, run.recipe, run.averaged)
    run.log.add(run.step, **run.measures)
    run.constant_evaluations = run.constant_evaluations + 1 if is_constant(run.measures) else 0
    if run.constant_evaluations == PATIENCE:
        run.warnings.append(CONSTANT.format(n=PATIENCE))


def _refuse_not_finite(run: Run, values: list[float]) -> None:
    """Stop at the first loss that is NaN or Inf, naming the step and its slices."""
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = run.step - len(values) + offset
            names = ", ".join(run.stack.drawn(run.recipe, step))
            raise NumericsError(
                f"step {step}: the loss is {value} on {names}; the last good checkpoint is kept;"
                " lower the learning rate or use --precision fp32"
            )


def _open_run(run: Run, *, resume: bool) -> None:
    """Start a run in its folder, or put a stopped one back exactly as it was."""
    last = run.out / "last.safetensors"
    remove_stale(run.out)
    if not resume or not last.exists():
        if last.exists():
            raise WriteError(run.out, "already holds a run; add --resume to go on, or name another")
        write_text(run.out / "recipe.json", run.recipe.to_json() + "\n", overwrite=True)
        return
    state = checkpoints.load(last)
    then = Recipe.from_dict(state.recipe or {})
    if replace(then, steps=run.recipe.steps) != run.recipe:
        raise UsageFault(f"{run.out} was started with another recipe; resume it with the same one")
    if state.provenance.get("data") != run.stack.fingerprint:
        raise InputError(run.out, "was started on other images, labels or weights")
    run.net.load_state_dict(state.weights)
    scaled = {k: v for k, v in state.optimiser.items() if k.startswith("scaler.")}
    moments = {k: v for k, v in state.optimiser.items() if k not in scaled}
    restore_optimiser(run.optimiser, run.net, moments)
    if scaled:
        run.scaler.load_state_dict(
            {k.removeprefix("scaler."): v.item() for k, v in scaled.items()}
            | {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000}
        )
    for name, value in run.averaged.items():
        value.copy_(state.averaged[name])
    run.step, run.measures = state.step, dict(state.measures)
    run.best = float(state.provenance.get("best", math.inf))
    run.constant_evaluations = int(state.provenance.get("constant_evaluations", 0))
    if (run.out / "log.csv").exists():
        run.log = Log.from_csv((run.out / "log.csv").read_text("utf-8"), up_to=run.step)


def _save(run: Run, name: str = "last.safetensors") -> None:
    """Write one checkpoint of the run, atomically, replacing the one before."""
    recipe = run.recipe
    state = optimiser_tensors(run.optimiser, run.net)
    if run.scaler.is_enabled():
        state |= {
            f"scaler.{k}": torch.tensor(v)
            for k, v in run.scaler.state_dict().items()
            if k in ("scale", "_growth_tracker")
        }
    provenance: dict[str, Any] = {"data": run.stack.fingerprint, "versions": versions()}
    provenance["constant_evaluations"] = run.constant_evaluations
    if math.isfinite(run.best):
        provenance["best"] = run.best
    checkpoints.save(
        run.out / name,
        checkpoints.Checkpoint(
            network=checkpoints.describe_network(run.net),
            weights={k: v.detach() for k, v in run.net.state_dict().items()},
            recipe=recipe.to_dict(),
            preprocessing={"scale": recipe.scale},
            step=run.step,
            measures=run.measures,
            provenance=provenance,
            optimiser=state,
            averaged=run.averaged,
        ),
        overwrite=True,
    )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while the weights and the step counter change together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(signum: int, _frame: FrameType | None) -> None:
        held.append(signum)

    before = {number: signal.signal(number, hold) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
