"""The network of the authors' 2015-10-02 Caffe release (`phseg_v5`), which is not the paper's.

Three differences from Figure 1: a ReLU after every up-convolution, a last up-convolution that
keeps its 128 channels, and therefore 31,100,354 parameters instead of 31,030,658. Each layer is
an attribute with the release's name, `-` written as `_`. The release fed it `im2double` images
(value / range of the type) and averaged the logits of four flips; its biases learned twice as
fast and without decay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from unet2015.net import centre_crop, margin, output_side

__all__ = ["ReleaseUNet"]


class ReleaseUNet(nn.Module):
    """Logits (N, classes, h, w) from images (N, in_channels, H, W), as `phseg_v5` computes them.

    Parameters
    ----------
    in_channels, classes
        Channels of the image and of the logits; the release: 1 and 2.
    base_channels
        Feature channels of the first level; the release: 64.
    dropout
        Probability of zeroing a value after `d3c` and `d4c`; the release: 0.5.

    Raises
    ------
    ValueError
        If an argument is out of its range, or an image has an illegal size.

    Examples
    --------
    >>> net = ReleaseUNet(base_channels=2)
    >>> net(torch.zeros(1, 1, 188, 188)).shape
    torch.Size([1, 2, 4, 4])
    >>> net.get_parameter("upconv_u1d_u0a.weight").shape
    torch.Size([4, 4, 2, 2])
    """

    depth = 4

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        *,
        base_channels: int = 64,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if min(in_channels, classes, base_channels) < 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"ReleaseUNet(in_channels={in_channels}, classes={classes}, "
                f"base_channels={base_channels}, dropout={dropout}): counts are >= 1 and dropout "
                "is in [0, 1)"
            )
        self.in_channels, self.classes = in_channels, classes
        self.base_channels = base_channels
        w0, w1, w2, w3, w4 = (base_channels * 2**level for level in range(5))  # 64 ... 1024
        self.conv_d0a_b = nn.Conv2d(in_channels, w0, 3)
        self.conv_d0b_c = nn.Conv2d(w0, w0, 3)
        self.conv_d1a_b = nn.Conv2d(w0, w1, 3)
        self.conv_d1b_c = nn.Conv2d(w1, w1, 3)
        self.conv_d2a_b = nn.Conv2d(w1, w2, 3)
        self.conv_d2b_c = nn.Conv2d(w2, w2, 3)
        self.conv_d3a_b = nn.Conv2d(w2, w3, 3)
        self.conv_d3b_c = nn.Conv2d(w3, w3, 3)
        self.conv_d4a_b = nn.Conv2d(w3, w4, 3)
        self.conv_d4b_c = nn.Conv2d(w4, w4, 3)
        self.upconv_d4c_u3a = nn.ConvTranspose2d(w4, w3, 2, stride=2)
        self.conv_u3b_c = nn.Conv2d(w4, w3, 3)
        self.conv_u3c_d = nn.Conv2d(w3, w3, 3)
        self.upconv_u3d_u2a = nn.ConvTranspose2d(w3, w2, 2, stride=2)
        self.conv_u2b_c = nn.Conv2d(w3, w2, 3)
        self.conv_u2c_d = nn.Conv2d(w2, w2, 3)
        self.upconv_u2d_u1a = nn.ConvTranspose2d(w2, w1, 2, stride=2)
        self.conv_u1b_c = nn.Conv2d(w2, w1, 3)
        self.conv_u1c_d = nn.Conv2d(w1, w1, 3)
        self.upconv_u1d_u0a = nn.ConvTranspose2d(w1, w1, 2, stride=2)  # 128 -> 128
        self.conv_u0b_c = nn.Conv2d(w1 + w0, w0, 3)
        self.conv_u0c_d = nn.Conv2d(w0, w0, 3)
        self.conv_u0d_score = nn.Conv2d(w0, classes, 1)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, classes, h, w) of the centre of `image` (N, in_channels, H, W)."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ValueError(f"image {tuple(image.shape)} is not (N, {self.in_channels}, H, W)")
        output_side(image.shape[-2], self.depth, "input height")
        output_side(image.shape[-1], self.depth, "input width")
        relu = self.relu
        d0c = relu(self.conv_d0b_c(relu(self.conv_d0a_b(image))))  # 64x568
        d1c = relu(self.conv_d1b_c(relu(self.conv_d1a_b(max_pool2d(d0c, 2)))))  # 128x280
        d2c = relu(self.conv_d2b_c(relu(self.conv_d2a_b(max_pool2d(d1c, 2)))))  # 256x136
        d3c = relu(self.conv_d3b_c(relu(self.conv_d3a_b(max_pool2d(d2c, 2)))))  # 512x64
        d3c = self.dropout(d3c)
        d4c = relu(self.conv_d4b_c(relu(self.conv_d4a_b(max_pool2d(d3c, 2)))))  # 1024x28
        d4c = self.dropout(d4c)
        x = relu(self.upconv_d4c_u3a(d4c))  # 512x56
        x = torch.cat([x, centre_crop(d3c, like=x)], dim=1)  # 1024x56
        del d3c, d4c  # without gradients its memory is free now
        x = relu(self.conv_u3c_d(relu(self.conv_u3b_c(x))))  # 512x52
        x = relu(self.upconv_u3d_u2a(x))  # 256x104
        x = torch.cat([x, centre_crop(d2c, like=x)], dim=1)  # 512x104
        del d2c
        x = relu(self.conv_u2c_d(relu(self.conv_u2b_c(x))))  # 256x100
        x = relu(self.upconv_u2d_u1a(x))  # 128x200
        x = torch.cat([x, centre_crop(d1c, like=x)], dim=1)  # 256x200
        del d1c
        x = relu(self.conv_u1c_d(relu(self.conv_u1b_c(x))))  # 128x196
        x = relu(self.upconv_u1d_u0a(x))  # 128x392
        x = torch.cat([x, centre_crop(d0c, like=x)], dim=1)  # 192x392
        x = relu(self.conv_u0c_d(relu(self.conv_u0b_c(x))))  # 64x388
        logits: Tensor = self.conv_u0d_score(x)  # 2x388
        return logits

    @property
    def margin(self) -> int:
        """Pixels lost on each side: 92."""
        return margin(self.depth)

    @property
    def period(self) -> int:
        """Shift in pixels with which the network commutes: 16."""
        return int(2**self.depth)

    def output_size(self, side: int) -> int:
        """Output side for an input side; `ValueError` names the nearest legal ones."""
        return output_side(side, self.depth)
