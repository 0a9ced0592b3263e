"""Eq. 1: the pixel-wise soft-max energy, weighted pixel by pixel.

E = - sum over x of w(x) log p_l(x)(x), with p the soft-max over the channels of the logits.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

__all__ = ["energy"]

# A label no image can hold: torch's own default, -100, would hide such labels without a word.
_NOTHING_IGNORED = -(2**63)


def energy(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    normalisation: Literal["weights", "mean", "sum"] = "weights",
    ignore_label: int | None = None,
) -> Tensor:
    """Energy E of the logits against the labels, a scalar float32 (float64 for float64 logits).

    Parameters
    ----------
    logits
        (N, K, h, w), floating; half precision is raised to float32 first.
    labels
        (N, h, w), integer, class of each pixel in 0 .. K - 1, or `ignore_label`.
    weights
        (N, h, w), floating, w(x) >= 0; `None` counts every pixel once.
    normalisation
        "sum": the plain sum, as the paper writes Eq. 1. "mean": divided by the number of pixels
        that are not ignored. "weights": divided by the sum of their weights, as in the authors'
        later code; a sum of 0 gives an energy of 0 and gradients of 0.
    ignore_label
        Pixels with this label add nothing to energy, gradient and divisor, whatever their weight.

    Returns
    -------
    torch.Tensor
        Scalar; the pixels are summed in float64 where the device has it.

    Raises
    ------
    ValueError, TypeError
        If shapes, types or the name of the normalisation do not fit.

    Examples
    --------
    Two pixels at p = 1/2 cost log 2 each; the second counts three times:

    >>> import math
    >>> logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])
    >>> weights = torch.tensor([[[1.0, 3.0]]])
    >>> [round(float(energy(logits, labels, weights, normalisation=name)) / math.log(2), 6)
    ...  for name in ("sum", "mean", "weights")]
    [4.0, 2.0, 1.0]
    """
    _check(logits, labels, weights)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    nothing = _NOTHING_IGNORED if ignore_label is None else ignore_label
    labels = labels.long()  # in a narrower type `nothing` would wrap round to a class
    minus_log_p = cross_entropy(logits, labels, reduction="none", ignore_index=nothing)
    counted = labels != nothing
    w = counted.to(logits.dtype)
    if weights is not None:
        w = torch.where(counted, weights.to(logits.dtype), 0.0)
    wide = torch.float32 if logits.device.type == "mps" else torch.float64
    total = (w * minus_log_p).sum(dtype=wide)
    if normalisation == "sum":
        divisor = torch.ones_like(total)
    elif normalisation == "mean":
        divisor = counted.sum(dtype=wide)
    elif normalisation == "weights":
        divisor = w.sum(dtype=wide)
    else:
        raise ValueError(f"normalisation {normalisation!r}; choose one of weights, mean, sum")
    return (total / torch.where(divisor > 0, divisor, 1.0)).to(logits.dtype)


def _check(logits: Tensor, labels: Tensor, weights: Tensor | None) -> None:
    if logits.ndim != 4 or not logits.is_floating_point():
        raise ValueError(f"logits {tuple(logits.shape)}, {logits.dtype}: not floating (N, K, h, w)")
    pixels = (logits.shape[0], *logits.shape[2:])
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels are {labels.dtype}; classes are integers")
    for name, given in (("labels", labels), ("weights", weights)):
        if given is not None and given.shape != pixels:
            raise ValueError(
                f"{name} are {tuple(given.shape)} but the logits {tuple(logits.shape)} need "
                f"{pixels}; crop them by the network's margin"
            )
    if weights is not None and not weights.is_floating_point():
        raise TypeError(f"weights are {weights.dtype}; floating point was expected")
