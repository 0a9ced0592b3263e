"""What a tile needs of memory, and that nothing is held for longer than it is needed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unet2015.net import UNet
from unet2015.predict import geometry_of, tile_bytes
from unet2015.variants.release import ReleaseUNet


class Held(TorchDispatchMode):
    """Counts the bytes of all results that are alive, and keeps the most there ever were."""

    def __init__(self):
        super().__init__()
        self._alive: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                self._alive[StorageWeakRef(storage)] = storage.nbytes()
        self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
        self.peak = max(self.peak, sum(self._alive.values()))
        return made


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


@pytest.mark.parametrize("output", [20, 388, 1540])
@pytest.mark.parametrize(
    "make",
    [
        lambda: UNet(base_channels=8),
        lambda: UNet(base_channels=3, depth=2, in_channels=3),
        lambda: UNet(base_channels=16, depth=1),
        lambda: ReleaseUNet(base_channels=8),
    ],
)
def test_the_estimate_counts_every_map_that_is_held_at_once(make, output):
    """Run without values: 2.5 times what the network holds, and not much more."""
    with torch.device("meta"):
        net = make().eval()
        geometry = geometry_of(net, geometry_of(net, net.period + -net.margin % net.period)
                               .nearest(output)[0])  # fmt: skip
        image = torch.empty(1, net.in_channels, geometry.input, geometry.input)
        with torch.inference_mode(), Held() as held:
            net(image)
    maps = tile_bytes(net, geometry) - (48 << 20)
    weights = 4 * max(one.numel() for one in net.parameters())
    assert 2.3 * held.peak <= maps <= 3.3 * held.peak + weights


def test_half_formats_take_half_and_many_classes_take_more():
    net = UNet(base_channels=8)
    tile = geometry_of(net, 772)
    rest = 48 << 20
    assert tile_bytes(net, tile, precision="bf16") - rest == pytest.approx(
        (tile_bytes(net, tile) - rest) / 2, rel=1e-6
    )
    many = UNet(base_channels=8, classes=20)
    assert tile_bytes(many, tile) > tile_bytes(net, tile)
    assert tile_bytes(many, tile) > 2 * 16 * 20 * 772**2 + rest
