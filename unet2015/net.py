"""Figure 1 as code: the U-Net of Ronneberger, Fischer and Brox, 2015 (arXiv 1505.04597).

23 convolution layers: 18 of 3x3, unpadded, each followed by a ReLU; four up-convolutions of 2x2
with stride 2; one of 1x1. No normalisation layers. The numbers at the ends of the lines are
channels x side of the paper's example, a 572 x 572 input.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["UNet", "centre_crop", "init_paper_weights", "margin", "output_side"]


def margin(depth: int) -> int:
    """Pixels lost on each side by `depth` poolings and their unpadded 3x3 convolutions.

    >>> [margin(depth) for depth in (1, 2, 3, 4)]
    [8, 20, 44, 92]
    """
    return 2 * (3 * int(2**depth) - 2)


def output_side(side: int, depth: int, name: str = "input side") -> int:
    """Output side of a U-Net for the input side `side`, both in pixels.

    Every pooling must see an even side, hence side = -4 modulo 2^depth. `ValueError` names the
    nearest legal sides.

    >>> output_side(572, depth=4)
    388
    >>> output_side(570, depth=4, name="input height")
    Traceback (most recent call last):
        ...
    ValueError: input height 570 does not fit a depth-4 U-Net (legal sizes are 16k + 12); nearest:
    556 or 572
    """
    period, shrink = int(2**depth), 2 * margin(depth)
    smallest = shrink + (-4 - shrink - 1) % period + 1
    if side >= smallest and (side + 4) % period == 0:
        return side - shrink
    rest = -4 % period
    law = f"{period}k + {rest}" if rest else f"{period}k"
    if side < smallest:
        law, nearest = f"{law}, from {smallest}", f"{smallest}"
    else:
        below = side - (side + 4) % period
        nearest = f"{below} or {below + period}"
    raise ValueError(
        f"{name} {side} does not fit a depth-{depth} U-Net (legal sizes are {law}); "
        f"nearest: {nearest}"
    )


def centre_crop(skip: Tensor, like: Tensor) -> Tensor:
    """Centre of `skip` with the height and width of `like`; all differences are even.

    >>> centre_crop(torch.arange(6).expand(6, 6), torch.zeros(2, 2))[0]
    tensor([2, 3])
    """
    height, width = like.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]


def _two_convs(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels_in, channels_out, 3),
            relu1=nn.ReLU(inplace=True),
            conv2=nn.Conv2d(channels_out, channels_out, 3),
            relu2=nn.ReLU(inplace=True),
        )
    )


class UNet(nn.Module):
    """The paper's network: logits (N, classes, h, w) from images (N, in_channels, H, W).

    h = H - 2 * margin and w = W - 2 * margin; 572 gives 388. The weights are torch's until
    `init_paper_weights` or a checkpoint replaces them.

    Parameters
    ----------
    in_channels, classes
        Channels of the image and of the logits; the paper: 1 and 2.
    base_channels
        Feature channels of the first level, doubled at each level below; the paper: 64.
    depth
        Number of 2x2 max-poolings; the paper: 4.
    dropout
        Probability of zeroing a value at the end of the two deepest contracting levels. The
        place is the paper's ("at the end of the contracting path"), 0.5 the authors' release.

    Raises
    ------
    ValueError
        If an argument is out of its range, or an image has an illegal size.

    Examples
    --------
    >>> net = UNet(base_channels=2)
    >>> net.margin, net.period, net.output_size(572)
    (92, 16, 388)
    >>> net(torch.zeros(1, 1, 188, 204)).shape
    torch.Size([1, 2, 4, 20])
    """

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        *,
        base_channels: int = 64,
        depth: int = 4,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(in_channels, classes, base_channels, depth) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"UNet(in_channels={in_channels}, classes={classes}, base_channels={base_channels},"
                f" depth={depth}, dropout={dropout}): counts are >= 1 and dropout is in [0, 1)"
            )
        self.in_channels, self.classes = in_channels, classes
        self.base_channels, self.depth = base_channels, depth
        widths = [base_channels * 2**level for level in range(depth + 1)]  # 64 128 256 512 1024
        self.contracting = nn.ModuleList(
            _two_convs(before, after)
            for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.dropout = nn.Dropout(dropout)
        self.up_convs = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, 2, stride=2) for width in widths[-2::-1]
        )
        self.expansive = nn.ModuleList(_two_convs(2 * width, width) for width in widths[-2::-1])
        self.score = nn.Conv2d(base_channels, classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes, h, w) of the centre of `image` (N, in_channels, H, W)."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(f"image {tuple(image.shape)} is not (N, {self.in_channels}, H, W)")
        output_side(image.shape[-2], self.depth, "input height")
        output_side(image.shape[-1], self.depth, "input width")
        skips: list[Tensor] = []
        x = image  # 1x572
        for level, two_convs in enumerate(self.contracting):
            if level > 0:
                x = F.max_pool2d(x, 2)  # .......... 64x284   128x140   256x68   512x32
            x = two_convs(x)  # ........... 64x568  128x280   256x136   512x64  1024x28
            if level >= self.depth - 1:
                x = self.dropout(x)  # .................................512x64  1024x28
            skips.append(x)
        skips.pop()  # the deepest level has no skip
        for up_conv, two_convs in zip(self.up_convs, self.expansive, strict=True):
            x = up_conv(x)  # ......................... 512x56   256x104  128x200   64x392
            skip = centre_crop(skips.pop(), like=x)  # from 64x, 136x, 280x, 568x: 4, 16, 40, 88 off
            x = torch.cat([x, skip], dim=1)  # ....... 1024x56   512x104  256x200  128x392
            del skip  # it is in x: without gradients, a fifth less memory at the last level
            x = two_convs(x)  # ....................... 512x52   256x100  128x196   64x388
        logits: Tensor = self.score(x)  # 2x388
        return logits

    @property
    def margin(self) -> int:
        """Pixels lost on each side: 92 for the paper's network."""
        return margin(self.depth)

    @property
    def period(self) -> int:
        """Shift in pixels with which the network commutes: 2^depth, 16 for the paper's."""
        return int(2**self.depth)

    def output_size(self, side: int) -> int:
        """Output side for an input side; `ValueError` names the nearest legal ones."""
        return output_side(side, self.depth)

    def trace(self, side: int) -> list[tuple[str, int, int]]:
        """(name, channels, side) of every blob of Figure 1, named as in the authors' release.

        >>> UNet(base_channels=1).trace(572)[:3]
        [('d0b', 1, 570), ('d0c', 1, 568), ('d1a', 1, 284)]
        """
        output_side(side, self.depth)
        blobs: list[tuple[str, int, int]] = []
        for level in range(self.depth + 1):
            width = self.base_channels * 2**level
            if level > 0:
                side //= 2
                blobs += [(f"d{level}a", width // 2, side)]
            blobs += [(f"d{level}b", width, side - 2), (f"d{level}c", width, side - 4)]
            side -= 4
        for level in reversed(range(self.depth)):
            width, side = self.base_channels * 2**level, side * 2
            blobs += [(f"u{level}a", width, side), (f"u{level}b", 2 * width, side)]
            blobs += [(f"u{level}c", width, side - 2), (f"u{level}d", width, side - 4)]
            side -= 4
        return [*blobs, ("score", self.classes, side)]


def init_paper_weights(net: nn.Module, seed: int) -> None:
    """Draw the weights of `net` as in section 3, in place: Gaussian, std sqrt(2 / N), biases 0.

    N is the number of incoming nodes of one neuron: 9 x channels of a 3x3 convolution. A pixel
    of a 2x2 up-convolution with stride 2 sees one pixel of each incoming channel, so N is their
    number, which keeps the variance (Caffe's and torch's fan-in would halve it).

    Parameters
    ----------
    net
        Any network of `Conv2d` and stride-2 `ConvTranspose2d` layers.
    seed
        Seed of the generator; the same weights on every device.

    Examples
    --------
    >>> net = UNet(base_channels=4)
    >>> init_paper_weights(net, seed=0)
    >>> bool(net.score.bias.abs().sum() == 0)
    True
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                up_conv = isinstance(layer, nn.ConvTranspose2d)
                incoming = layer.weight.shape[0] if up_conv else layer.weight[0].numel()
                drawn = torch.randn(layer.weight.shape, generator=generator)
                layer.weight.copy_(drawn * math.sqrt(2 / incoming))
                if layer.bias is not None:
                    layer.bias.zero_()
