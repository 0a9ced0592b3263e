"""Can a network be run tile by tile at all, and with how much context? Told, or measured.

A layer that looks at the whole tile at once (statistics over space, global pooling, attention,
corner-aligned interpolation) gives each tile another function; no margin helps. Layers are known by
their type; what hides in a `forward` is found by `measured_reach`, which also shows the network the
same pixels elsewhere in a tile of another size, and in a run by the seam certificate.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from tiling.faults import UsageFault

__all__ = ["Trimmed", "measured_reach", "refuse_tile_dependence", "trimmed"]

_ROUNDING = 1e-9  # of the largest value, in float64; what depends on the tile is far above
_LARGEST = 2048  # px; a network that reaches further than half of this is taken to see everything


def refuse_tile_dependence(net: nn.Module) -> None:
    """Refuse a network in which a layer sees the whole tile at once.

    Raises
    ------
    UsageFault
        Naming the layer and the reason.

    Examples
    --------
    >>> refuse_tile_dependence(nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4)))
    Traceback (most recent call last):
        ...
    tiling.faults.UsageFault: layer 1 (GroupNorm) takes its mean and variance over the tile, so
    tiles would not fit together; use a network with fixed statistics
    """
    for name, layer in net.named_modules():
        reason = _reason(layer)
        if reason:
            raise UsageFault(
                f"layer {name or 'itself'} ({type(layer).__name__}) {reason}, so tiles would not "
                "fit together; use a network with fixed statistics"
            )


def _reason(layer: nn.Module) -> str:
    """Why this layer depends on the tile, or ''."""
    if isinstance(layer, _BatchNorm | _InstanceNorm):
        if layer.training or layer.running_mean is None:
            return "takes its mean and variance from what it is shown"
        return ""
    if isinstance(layer, nn.GroupNorm):
        return "takes its mean and variance over the tile"
    if isinstance(layer, nn.LayerNorm) and len(layer.normalized_shape) > 1:
        return "takes its mean and variance over the tile"
    pools: tuple[type[nn.Module], ...] = (
        nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d,
    )  # fmt: skip
    if isinstance(layer, pools):
        return "pools over the whole tile"
    if isinstance(layer, nn.MultiheadAttention):
        return "attends to the whole tile"
    if isinstance(layer, nn.Upsample) and getattr(layer, "align_corners", False):
        return "interpolates between the corners of the tile (align_corners)"
    if isinstance(layer, nn.Dropout | nn.Dropout2d | nn.AlphaDropout) and layer.training:
        return "is random (training mode)"
    return ""


def measured_reach(net: nn.Module, *, in_channels: int, period: int, seed: int = 0) -> int:
    """How far a pixel's influence reaches, in px, measured by perturbation in float64.

    In a strip of noise one row (then one column) is replaced by much larger noise, at each phase of
    the period; the reach is the distance of the furthest output row that changes at all. Strips are
    made longer until the change ends inside them. Then the same noise is shown in a tile that
    begins one period later and is one period shorter: beyond the reach nothing may differ.

    Parameters
    ----------
    net
        Network whose output has the size of its input ("same" padding).
    in_channels, period
        Channels of the image; the shift in px with which the network commutes.
    seed
        Of the noise.

    Raises
    ------
    UsageFault
        If the change never ends: the output depends on the whole tile. If the answer changes with
        the tile's place or size: it depends on positions, or on statistics over the tile or batch.
    ValueError
        If the output has another size than the input.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 5, padding=2))
    >>> measured_reach(net, in_channels=1, period=1)
    3
    """
    probe = copy.deepcopy(net).to("cpu", torch.float64).eval()
    random = torch.Generator().manual_seed(seed)
    length = -(-max(64, 4 * period) // period) * period
    while length <= _LARGEST:
        reaches = [
            _reach_in_strip(probe, in_channels, period, length, random, columns=columns)
            for columns in (False, True)
        ]
        if None not in reaches:
            reach = max(reach for reach in reaches if reach is not None)
            for columns in (False, True):
                _check_shift(probe, in_channels, period, reach, random, columns=columns)
            return reach
        length *= 2
    raise UsageFault(
        f"the output of {type(net).__name__} at one pixel still depends on pixels "
        f"{_LARGEST // 2} px away: statistics or attention over the tile; tiles would not fit "
        "together"
    )


def _answer(net: nn.Module, image: Tensor, *, columns: bool) -> Tensor:
    """What `net` makes of (C, length, width), the strip lying down if `columns`."""
    with torch.inference_mode():
        result: Tensor = net(image[None].transpose(-1, -2) if columns else image[None])[0]
    return result.transpose(-1, -2) if columns else result


def _check_shift(
    net: nn.Module,
    channels: int,
    period: int,
    reach: int,
    random: torch.Generator,
    *,
    columns: bool,
) -> None:
    """Refuse a network that answers otherwise where a tile begins elsewhere, or is shorter."""
    edge = -(-reach // period) * period
    size = channels, 2 * edge + 4 * period, _width(period)
    strip = torch.randn(size, generator=random, dtype=torch.float64)
    whole = _answer(net, strip, columns=columns)[:, period + edge : size[1] - edge]
    part = _answer(net, strip[:, period:], columns=columns)[:, edge : size[1] - period - edge]
    apart = float((whole - part).abs().max())
    if not apart <= _ROUNDING * float(whole.abs().max()):
        raise UsageFault(
            f"the output of {type(net).__name__} changes by {apart:.3g} when the tile begins "
            f"{period} px later and is as much shorter: positions or statistics of the tile, or "
            "another period; tiles would not fit together"
        )


def _width(period: int) -> int:
    """Pixels across a strip."""
    return -(-max(32, 2 * period) // period) * period


def _reach_in_strip(
    net: nn.Module,
    channels: int,
    period: int,
    length: int,
    random: torch.Generator,
    *,
    columns: bool,
) -> int | None:
    """Reach along a strip, or None where it goes to the strip's end."""
    width = _width(period)
    middle = length // 2 // period * period
    base = torch.randn((channels, length, width), generator=random, dtype=torch.float64)
    images = base.repeat(1 + period, 1, 1, 1)
    for phase in range(period):
        louder = torch.randn((channels, width), generator=random, dtype=torch.float64)
        images[1 + phase, :, middle + phase] = 10 * louder
    # One at a time: statistics over a batch would be the same for all of it.
    results = [_answer(net, image, columns=columns) for image in images]
    if results[0].shape[-2:] != images.shape[-2:]:
        raise ValueError(
            f"the network makes {tuple(results[0].shape[-2:])} of {tuple(images.shape[-2:])} px; "
            "only networks that keep the size have a reach to measure"
        )
    reach = 0
    for phase in range(period):
        changed = (results[1 + phase] != results[0]).any(dim=0).any(dim=-1).nonzero()[:, 0]
        if changed.numel() == 0:
            continue
        first, last = int(changed[0]), int(changed[-1])
        if first == 0 or last == length - 1:
            return None
        reach = max(reach, middle + phase - first, last - middle - phase)
    return reach


class Trimmed(nn.Module):
    """A network that keeps the size, with its outer `margin` pixels cut off: valid for tiling.

    Parameters
    ----------
    net
        The network.
    margin
        A multiple of `period` that is at least its reach.
    period
        The shift in px with which it commutes.
    """

    def __init__(self, net: nn.Module, margin: int, period: int) -> None:
        super().__init__()
        if margin % period or margin < 0:
            raise ValueError(f"margin {margin} is not a multiple of the period {period}")
        self.net, self.margin, self.period = net, margin, period
        for name in ("in_channels", "classes", "base_channels"):
            if hasattr(net, name):
                setattr(self, name, getattr(net, name))

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the centre of `image`."""
        logits: Tensor = self.net(image)
        edge = self.margin
        return logits[..., edge : logits.shape[-2] - edge, edge : logits.shape[-1] - edge]


def trimmed(net: nn.Module, *, in_channels: int, period: int, **options: Any) -> Trimmed:
    """A padded network made valid: its reach is measured and rounded up to the period.

    Parameters
    ----------
    net, in_channels, period, **options
        As for `measured_reach`.

    Examples
    --------
    >>> pooled = nn.Sequential(nn.MaxPool2d(4), nn.Upsample(scale_factor=4))
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), pooled)
    >>> trimmed(net, in_channels=1, period=4).margin
    4
    """
    was_training = net.training
    net.eval()
    refuse_tile_dependence(net)
    net.train(was_training)
    reach = measured_reach(net, in_channels=in_channels, period=period, **options)
    return Trimmed(net, -(-reach // period) * period, period)
