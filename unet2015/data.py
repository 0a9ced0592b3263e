"""The labelled stack: splitting it by slice and drawing training tiles from it.

    stack = read_stack_pair("train-volume.tif", "train-labels.tif")
    train, val = split(stack, "12-14,27-29")
    for step, images, labels, weights in batches(weigh(train, recipe), recipe, first_step=0): ...

Every tile is a function of (seed, step, sample): a resumed run, a run with read-ahead threads and
a plain run see the same tiles to the last bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from unet2015.augment import deform, dtype_range
from unet2015.deformation import draw_deformation
from unet2015.recipe import Recipe
from unet2015.splitting import split
from unet2015.stack import Stack, place
from unet2015.stack_files import read_stack_pair
from unet2015.tile_weights import recomputed_tile
from unet2015.weighing import weigh
from unet2015.weight_files import read_weights

if TYPE_CHECKING:
    from torch import Tensor

    _Held = tuple[Sequence[Any], Sequence[Any], Sequence[Any] | None, str]

__all__ = [
    "Stack",
    "batches",
    "draw_tile",
    "output_px",
    "read_stack_pair",
    "read_weights",
    "split",
    "weigh",
]


def output_px(recipe: Recipe) -> int:
    """Side of the label tile of a depth-d network, `tile_px` - 4 (3 * 2^d - 2).

    Parameters
    ----------
    recipe
        Tile side and depth.

    Raises
    ------
    ValueError
        If nothing is left of the tile; the message names the smallest one.

    Examples
    --------
    >>> from unet2015.recipe import isbi2012
    >>> output_px(isbi2012())
    388
    """
    output = recipe.tile_px - 4 * (3 * (1 << recipe.depth) - 2)
    if output < 1:
        raise ValueError(
            f"recipe: tile_px = {recipe.tile_px} leaves no output at depth {recipe.depth};"
            f" use {recipe.tile_px - output + 4} or more"
        )
    return output


def draw_tile(
    stack: Stack, recipe: Recipe, step: int, sample: int
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """One deformed training tile: image (C, in, in), labels (out, out), weights (out, out).

    The slice, then the pixel in the middle of the tile are drawn uniformly; what the tile lacks
    beyond the slice is mirrored. With `recipe.weights_after_warp = "recomputed"` the weight map
    is made from the deformed cells instead of being deformed.

    Parameters
    ----------
    stack
        Slices with weights (`weigh`).
    recipe
        Sizes, amplitudes and the seed.
    step, sample
        Counters; the same counters give the same tile.

    Raises
    ------
    ValueError
        If the stack has no weights, or its channels are not the recipe's.

    Examples
    --------
    >>> from unet2015.recipe import quick
    >>> stack = Stack(np.zeros((1, 1, 300, 300), np.uint8), np.zeros((1, 300, 300), np.int64),
    ...               np.ones((1, 300, 300), np.float32))
    >>> [part.shape for part in draw_tile(stack, quick(), step=0, sample=0)]
    [(1, 284, 284), (196, 196), (196, 196)]
    """
    _check_drawable(stack, recipe)
    return _draw(stack, recipe, step, sample)


def batches(
    stack: Stack,
    recipe: Recipe,
    first_step: int = 0,
    *,
    workers: int = 0,
    device: str = "cpu",
    part: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Training batches (step, images, labels, weights) for `first_step` .. `recipe.steps` - 1.

    images float32 (N, C, in, in), labels int64 (N, out, out), weights float32 (N, out, out),
    N = `recipe.batch * recipe.accumulate`.

    Parameters
    ----------
    stack
        Slices with weights (`weigh`).
    recipe
        Sizes, amplitudes, seed, number of steps.
    first_step
        Where a resumed run goes on.
    workers
        Threads that draw tiles ahead; the compiled kernel runs outside the interpreter lock, so
        they need no copies of the data and leave no processes behind. 0 draws in place. What
        comes out is the same; an error in a thread is raised here, at once.
    device
        "cpu", or a torch device on which the slices are kept and the tiles are drawn.
    part
        (rank, ranks) of a process that trains with others: it draws the samples
        rank, rank + ranks, ...

    Raises
    ------
    ValueError
        As for `draw_tile`.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from unet2015.recipe import quick
    >>> stack = Stack(np.zeros((1, 1, 300, 300), np.uint8), np.zeros((1, 300, 300), np.int64),
    ...               np.ones((1, 300, 300), np.float32))
    >>> for step, images, labels, weights in batches(stack, replace(quick(), steps=2)):
    ...     print(step, tuple(images.shape), tuple(labels.shape))
    0 (1, 1, 284, 284) (1, 196, 196)
    1 (1, 1, 284, 284) (1, 196, 196)
    """
    _check_drawable(stack, recipe)
    samples = range(recipe.batch * recipe.accumulate)[part[0] :: part[1]]
    if not samples:
        raise ValueError(f"a batch of {recipe.batch} cannot be shared by {part[1]} processes")
    held = None if device == "cpu" else _hold(stack, device)

    def batch(step: int) -> tuple[int, Tensor, Tensor, Tensor]:
        import torch

        tiles = [_draw(stack, recipe, step, sample, held) for sample in samples]
        images, labels, weights = (
            torch.stack(
                [torch.as_tensor(tile[k], device=device.removesuffix("-torch")) for tile in tiles]
            )
            for k in range(3)
        )
        return step, images, labels, weights

    steps = range(first_step, recipe.steps)
    return map(batch, steps) if workers == 0 else _ahead(batch, steps, workers)


def _ahead(batch: Any, steps: range, workers: int) -> Iterator[Any]:
    """The batches in order, at most `workers` + 1 of them drawn ahead."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="tiles")
    pending: deque[Future[Any]] = deque()
    coming = iter(steps)
    try:
        while True:
            while len(pending) <= workers and (step := next(coming, None)) is not None:
                pending.append(pool.submit(batch, step))
            if not pending:
                return
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _draw(
    stack: Stack, recipe: Recipe, step: int, sample: int, held: _Held | None = None
) -> tuple[Any, Any, Any]:
    """One tile, from the stack itself or from its copy on a device."""
    index, centre = place(stack, recipe, step, sample)
    deformation = draw_deformation(recipe, recipe.seed, step, sample)
    if deformation.divisor is None:
        deformation = replace(deformation, divisor=dtype_range(stack.images[index].dtype))
    recomputed = recipe.weights_after_warp == "recomputed"
    images, labels, weights, device = held or (stack.images, stack.labels, stack.weights, "cpu")
    if recomputed:
        tile = recomputed_tile(
            images[index], stack, index, recipe, deformation,
            centre=centre, output_px=output_px(recipe), device=device,
        )  # fmt: skip
    else:
        tile = deform(
            images[index], labels[index], weights[index] if weights else None, deformation,
            centre=centre, input_px=recipe.tile_px, output_px=output_px(recipe), device=device,
        )  # fmt: skip
    if recipe.ignore_label is not None:
        tile[2][tile[1] == recipe.ignore_label] = 0
    return tile


def _hold(stack: Stack, device: str) -> _Held:
    """The stack's arrays as tensors on a device; uint16 as float32, which holds it exactly."""
    import torch

    def held(arrays: Sequence[NDArray[Any]]) -> list[Any]:
        on = device.removesuffix("-torch")
        return [
            torch.as_tensor(
                np.array(a, np.float32 if a.dtype == np.uint16 else a.dtype.newbyteorder("="))
            ).to(on)
            for a in arrays
        ]

    return held(stack.images), held(stack.labels), held(stack.weights or ()), device


def _check_drawable(stack: Stack, recipe: Recipe) -> None:
    if stack.weights is None:
        raise ValueError("the stack has no weights yet; make them with weigh(stack, recipe)")
    if stack.channels != recipe.in_channels:
        raise ValueError(
            f"the images have {stack.channels} channels, the recipe says in_channels ="
            f" {recipe.in_channels}; change one of them"
        )
    if recipe.scale not in ("dtype-range", "none", stack.scale):
        raise ValueError(
            f"the images are not scaled by {recipe.scale!r} yet; call scaled_stack(stack,"
            " recipe.scale) before the stack is split"
        )
    output_px(recipe)
