"""One update of the weights: the gradients of Eq. 1 and the optimiser's step.

The energy is that of all tiles of the step together, whether they pass the network at once, in
`recipe.accumulate` parts, or in several processes: its divisor is known before the first part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from unet2015.counter import generator
from unet2015.device import choose_precision
from unet2015.energy import energy
from unet2015.optimiser import follow
from unet2015.recipe import Recipe
from unet2015.run_folder import Run

__all__ = ["dropout_seed", "gradients", "repeatable", "shared_network", "update"]

DROPOUT = 4  # stream of the counter-based generator; `deformation` has 1 to 3
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shared_network(run: Run) -> nn.Module:
    """The network to call in training: shared by the processes, compiled where asked for."""
    shared = run.ranks.shared(run.net)
    return torch.compile(shared) if run.recipe.compile else shared  # type: ignore[return-value]


def gradients(run: Run, net: nn.Module, tiles: Sequence[Tensor], device: torch.device) -> Tensor:
    """Energy of one step on `tiles`, whose gradients lie in the parameters afterwards.

    Parameters
    ----------
    run
        Recipe, loss scaler and the processes of the run.
    net
        What `shared_network` gave.
    tiles
        images (N, C, H, W), labels (N, h, w), weights (N, h, w).
    device
        Where the network is.

    Returns
    -------
    torch.Tensor
        Scalar float32 on the device, the same in every process.
    """
    recipe, ranks = run.recipe, run.ranks
    half = HALF.get(choose_precision(recipe.precision, device))
    images, labels, weights = (part.to(device, non_blocking=True) for part in tiles)
    divisor = _divisor(labels, weights, recipe)
    if recipe.normalisation != "sum":  # which divides by nothing, however many share the tiles
        divisor = ranks.total(divisor)
    divisor = torch.where(divisor > 0, divisor, 1.0)
    total = torch.zeros((), device=device)
    net.train()
    net.zero_grad(set_to_none=True)
    parts = list(
        zip(*(torch.split(p, recipe.batch) for p in (images, labels, weights)), strict=True)
    )
    for k, (image, label, weight) in enumerate(parts):
        with _sharing(net, last=k == len(parts) - 1):
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                logits = net(image.contiguous(memory_format=torch.channels_last))
            part = energy(
                logits.float(), label, weight, normalisation="sum",
                ignore_label=recipe.ignore_label,
            ) / divisor  # fmt: skip
            # DistributedDataParallel averages gradients over the processes; we want their sum.
            torch.autograd.backward(run.scaler.scale(part * ranks.count))
        total += part.detach()
    return ranks.total(total)


def _sharing(net: Any, *, last: bool) -> Any:
    """Accumulated gradients go to the other processes once, with the last part."""
    return nullcontext() if last or not hasattr(net, "no_sync") else net.no_sync()


def _divisor(labels: Tensor, weights: Tensor, recipe: Recipe) -> Tensor:
    """What the plain sum of Eq. 1 is divided by, float32, as `energy` does it."""
    if recipe.normalisation == "sum":
        return torch.ones((), device=weights.device)
    counted = torch.ones_like(weights)
    if recipe.ignore_label is not None:
        counted = (labels != recipe.ignore_label).to(weights.dtype)
    pixels = counted if recipe.normalisation == "mean" else weights * counted
    wide = torch.float32 if weights.device.type == "mps" else torch.float64
    return pixels.sum(dtype=wide).float()


def update(run: Run) -> bool:
    """One step of the optimiser and of the average of the weights; False where fp16 skips it."""
    scale = run.scaler.get_scale()
    run.scaler.step(run.optimiser)
    run.scaler.update()
    if run.scaler.get_scale() < scale:
        run.skipped += 1
        run.skipped_in_row += 1
        return False
    run.skipped_in_row = 0
    follow(run.averaged, run.net, run.recipe.average_decay, run.step)
    return True


def dropout_seed(recipe: Recipe, step: int, rank: int) -> int:
    """Seed of a step's dropout masks: a function of counters, like all other randomness."""
    return int(generator(recipe.seed, step, rank, DROPOUT).integers(2**63))


@contextmanager
def repeatable(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Algorithms that give the same bits each time; on a GPU, fp32 that means 32 bits."""
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    cudnn.deterministic = True
    if choose_precision(recipe.precision, device) == "fp32":
        cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.conv.fp32_precision = before  # type: ignore[attr-defined]
