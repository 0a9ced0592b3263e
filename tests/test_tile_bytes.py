"""What a tile needs of memory, and that nothing is held for longer than it is needed."""

from __future__ import annotations

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from unet2015.net import UNet


def test_without_gradients_a_skip_is_freed_as_soon_as_it_is_concatenated():
    """The widest one would otherwise lie beside the concatenation at the peak of memory."""
    net, held = UNet(base_channels=1).eval(), []
    net.contracting[0].register_forward_hook(
        lambda _m, _i, out: held.append(StorageWeakRef(out.untyped_storage()))
    )
    freed = []
    for block in net.expansive:
        block.register_forward_pre_hook(lambda _m, _i: freed.append(held[0].expired()))
    with torch.inference_mode():
        net(torch.zeros(1, 1, 188, 188))
    assert freed == [False, False, False, True]
