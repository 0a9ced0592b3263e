"""U-Nets as most people meet them: padded convolutions, normalisation, output as large as input.

padded, batch norm   3x3 convolutions with padding 1, each followed by batch normalisation and
                     ReLU; 2x2 up-convolutions; the form of the most used PyTorch repository
MONAI BasicUNet      the same shape with instance normalisation and leaky ReLU
MONAI UNet           strided convolutions instead of pooling, one convolution per level

All have the widths of ours, base, 2 base, ... at each level.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def _block(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class PaddedUNet(nn.Module):
    """Logits (N, classes, H, W) of images (N, 1, H, W) whose sides are multiples of 2^depth."""

    def __init__(self, classes: int, base: int, depth: int) -> None:
        super().__init__()
        widths = [base << level for level in range(depth + 1)]
        self.down = nn.ModuleList(_block(a, b) for a, b in zip([1, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in widths[-2::-1])
        self.merge = nn.ModuleList(_block(2 * w, w) for w in widths[-2::-1])
        self.last = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for level, block in enumerate(self.down):
            x = block(nn.functional.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)


def rivals(classes: int, base: int, depth: int) -> dict[str, nn.Module | str]:
    """Networks by name, or why there is none: not installed, or not of this depth."""
    found: dict[str, nn.Module | str] = {"padded, batch norm": PaddedUNet(classes, base, depth)}
    widths = [base << level for level in range(depth + 1)]
    try:
        from monai.networks.nets import BasicUNet, UNet
    except ImportError:
        return found | dict.fromkeys(("MONAI UNet", "MONAI BasicUNet"), "not installed")
    found["MONAI UNet"] = UNet(2, 1, classes, widths, [2] * depth)
    found["MONAI BasicUNet"] = "has depth 4 only"
    if depth == 4:
        found["MONAI BasicUNet"] = BasicUNet(2, 1, classes, (*widths, base))
    return found
