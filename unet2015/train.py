"""Training as in section 3 of the paper: one large tile, one weighted energy, one update at a time.

`train` is read from top to bottom. Every random number is a function of (seed, step, sample), so
that a run killed at any moment and resumed ends with the weights of an uninterrupted run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tiling.faults import Fault, NumericsError, UsageFault
from tiling.signals import Terminated, undisturbed
from unet2015.data import Stack, batches
from unet2015.device import choose_precision
from unet2015.net import UNet, init_paper_weights, output_side
from unet2015.networks import describe_network
from unet2015.optimiser import learning_rate, make_optimiser
from unet2015.ranks import ranks_now
from unet2015.recipe import Recipe
from unet2015.run_folder import Run, keep_step, kept, opened, save_run, step_file, write_log
from unet2015.step import dropout_seed, gradients, repeatable, shared_network, update
from unet2015.validate import BEST_BY, evaluate

__all__ = ["Run", "check_tile", "network_of", "train"]

LOG_EVERY = 10  # steps whose mean loss makes one row of log.csv
MAX_SKIPPED = 20  # fp16 steps left out in a row before training stops


def network_of(recipe: Recipe) -> UNet:
    """The paper's network with the recipe's sizes and the paper's initialisation.

    >>> from unet2015.recipe import quick
    >>> network_of(quick()).margin
    44
    """
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
    on_step: Callable[[Run], None] | None = None,
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
        Where the network runs, and on a GPU where tiles are deformed.
    resume
        Continue from `last.safetensors` in `out`, if there is one.
    workers
        Threads that draw tiles ahead; 0 draws them in this one. The result is the same.
    on_step
        Called after every update with the run; pictures and figures are at hand there.

    Raises
    ------
    WriteError
        If `out` already holds a run and `resume` is not set.
    NumericsError
        If the loss or the weights stop being finite; the last good checkpoint stays.
    UsageFault
        If a resumed run was started with another recipe, or the tile does not fit the network.
    ValueError
        If every weight is 0, so that there is nothing to learn.

    Notes
    -----
    Source: Ronneberger et al. 2015, section 3; open choices are named in `Recipe`. The same bits
    come out on the same torch, device, number of threads and number of processes.
    """
    device = torch.device(device)
    run = _new_run(recipe, stack, Path(out), net, device)
    run.validation = validation
    with opened(run, resume=resume), repeatable(recipe, device):
        shared = shared_network(run)
        losses: list[Tensor] = []
        drawn = batches(
            stack, recipe, run.step, workers=workers, part=(run.ranks.rank, run.ranks.count),
            device=str(device) if device.type == "cuda" else "cpu",
        )  # fmt: skip
        try:
            _make_up(run, validation)
            with _closed(drawn):
                for step, *tiles in drawn:
                    torch.manual_seed(dropout_seed(recipe, step, run.ranks.rank))
                    for group in run.optimiser.param_groups:
                        group["lr"] = learning_rate(recipe, step)
                    loss = gradients(run, shared, tiles, device)
                    with undisturbed():
                        updated = update(run)
                        run.step = step + 1
                    losses += [loss] if updated else []
                    _book_keeping(run, validation, losses)
                    if on_step is not None:
                        on_step(run)
        except (KeyboardInterrupt, Terminated) as stop:
            _save_what_is_there(run, losses, stop)
            raise
    return run


def _new_run(
    recipe: Recipe, stack: Stack, out: Path, net: nn.Module | None, device: torch.device
) -> Run:
    """Run at step 0, its network on the device; what cannot be trained is refused."""
    ranks = ranks_now()
    if recipe.batch * recipe.accumulate < ranks.count:
        raise UsageFault(
            f"{ranks.count} processes share batches of {recipe.batch * recipe.accumulate} tile(s);"
            " raise --set batch"
        )
    if stack.weights is not None and not any(w.any() for w in stack.weights):
        raise ValueError("every weight of the training slices is 0: there is nothing to learn")
    check_tile(recipe)
    net = network_of(recipe) if net is None else net
    try:
        describe_network(net)
    except TypeError as error:  # not when the first checkpoint is due
        raise UsageFault(str(error)) from error
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    vars(net)["scale"] = recipe.scale  # as `build_network` leaves it
    fp16 = choose_precision(recipe.precision, device) == "fp16"
    run = Run(
        out, recipe, stack, net,
        make_optimiser(recipe, net),
        torch.amp.GradScaler(device.type, enabled=fp16),
        {k: v.clone() for k, v in net.state_dict().items()} if recipe.average_decay else {},
        ranks,
    )  # fmt: skip
    if recipe.learning_rate == 0:
        run.warn("the learning rate is 0: the network will stay as it is")
    return run


def check_tile(recipe: Recipe) -> None:
    """Refuse a tile that does not fit the network, naming the nearest sizes that do.

    >>> from unet2015.recipe import isbi2012
    >>> check_tile(isbi2012())

    Raises
    ------
    UsageFault
        If `recipe.tile_px` is not legal at `recipe.depth`.
    """
    try:
        output_side(recipe.tile_px, recipe.depth, "recipe: tile_px")
    except ValueError as error:
        raise UsageFault(str(error)) from error


def _book_keeping(run: Run, validation: Stack | None, losses: list[Tensor]) -> None:
    """Log, validation and checkpoints that fall due after the step just made."""
    recipe, last = run.recipe, run.step == run.recipe.steps
    if run.skipped_in_row >= MAX_SKIPPED:
        raise NumericsError(
            f"step {run.step}: gradients overflowed in fp16 {MAX_SKIPPED} times in a row on"
            f" {_slices(run, run.step - 1)}; {kept(run)}; use --precision bf16"
        )
    validates = validation is not None and _validates(run)
    saves = last or run.step % recipe.checkpoint_every == 0
    keeps = _keeps(run)
    if not (saves or keeps or validates or run.step % LOG_EVERY == 0):
        return
    _log_losses(run, losses)
    if validates and validation is not None and run.ranks.first:
        evaluate(run, validation)
    if saves or validates or run.step % (10 * LOG_EVERY) == 0:
        write_log(run)  # before the checkpoint: a log that is ahead is cut, a gap would stay
    if keeps:
        keep_step(run)
    if saves:
        save_run(run)


def _validates(run: Run) -> bool:
    return run.step == run.recipe.steps or run.step % run.recipe.validate_every == 0


def _keeps(run: Run) -> bool:
    return run.recipe.keep_every > 0 and run.step % run.recipe.keep_every == 0


def _log_losses(run: Run, losses: list[Tensor]) -> None:
    """A row with the mean of the losses since the last row, all of them finite."""
    if not losses:
        return
    values = torch.stack(losses).tolist()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = run.step - len(values) + offset
            raise NumericsError(
                f"step {step}: the loss is {value} on {_slices(run, step)}; {kept(run)};"
                " lower the learning rate or use --precision fp32"
            )
    losses.clear()
    run.loss = sum(values) / len(values)
    rate = learning_rate(run.recipe, run.step - 1)
    run.log.add(run.step, loss=run.loss, learning_rate=rate)


def _slices(run: Run, step: int) -> str:
    """Names of the slices a step's tiles come from."""
    names = dict.fromkeys(run.stack.drawn(run.recipe, step))
    return f"slice{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _make_up(run: Run, validation: Stack | None) -> None:
    """Do what a stopped run still owed at the step it was saved at: validation, kept checkpoint."""
    due = validation if run.step and run.ranks.first and _validates(run) else None
    measured = run.measured == run.step and math.isfinite(run.best)
    logged = BEST_BY in run.log.rows.get(run.step, {})
    if due is not None and not (measured and logged):
        if measured:
            run.log.add(run.step, **run.measures)
        else:
            evaluate(run, due)
        write_log(run)
    if run.step and _keeps(run) and not step_file(run).exists():
        keep_step(run)
    if due is not None and not measured:
        save_run(run)


def _save_what_is_there(run: Run, losses: list[Tensor], stop: BaseException) -> None:
    """Save an interrupted run, and tell how to go on; a state that is not finite is left out."""
    try:
        if run.ranks.count == 1:
            _log_losses(run, losses)
        write_log(run)
        save_run(run)
        saved = f"{run.step} of {run.recipe.steps} steps are saved; " if run.ranks.first else ""
        stop.add_note(f"{saved}add --resume to go on")
    except Fault as fault:
        stop.add_note(f"not saved: {fault}")


def _closed(drawn: Any) -> Any:
    """Context that ends the threads drawing tiles ahead, if there are any."""
    return closing(drawn) if hasattr(drawn, "close") else nullcontext()
