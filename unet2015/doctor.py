"""Is this machine ready? Versions, device, codecs, memory, one tile, and what is wrong."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable

from tiling.command import answer
from tiling.faults import Fault

__all__ = ["examine"]


def examine() -> int:
    """Print the findings on standard output; exit code 0, or 1 where something is wrong."""
    wrong: list[str] = []
    for name, look in _LOOKS.items():
        try:
            finding = look(wrong)
        except Exception as error:  # noqa: BLE001 - a broken part is the finding
            finding = f"broken: {type(error).__name__}: {error}"
            wrong.append(f"{name}: {error}")
        answer(f"{name:<12} {finding}")
    for line in wrong:
        answer(f"WRONG        {line}")
    if not wrong:
        answer("everything is in order")
    return 1 if wrong else 0


def _versions(_wrong: list[str]) -> str:
    from unet2015.provenance import versions

    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _torch(wrong: list[str]) -> str:
    import torch

    from unet2015.checkpoint import require_safe_torch

    try:
        require_safe_torch()
    except Fault as fault:
        wrong.append(str(fault))
    return f"{torch.__version__}, {torch.get_num_threads()} threads"


def _device(_wrong: list[str]) -> str:
    from unet2015.device import choose_device, describe_device, has_fast_bf16, memory_at_hand

    device = choose_device()
    bf16 = "bf16 in hardware" if has_fast_bf16(device) else "no fast bf16"
    return f"{describe_device(device)}, {bf16}, {memory_at_hand(device) / 2**30:.1f} GiB to use"


def _codecs(wrong: list[str]) -> str:
    try:
        codecs = importlib.import_module("imagecodecs")
    except ImportError:
        wrong.append("LZW, PackBits and zstd TIFFs cannot be read; pip install imagecodecs")
        return "imagecodecs is absent"
    return f"imagecodecs {codecs.__version__}: deflate, LZW, PackBits, zstd"


def _compiler(wrong: list[str]) -> str:
    import numpy as np

    from weightmaps import weight_map

    labels = np.zeros((64, 64), np.int32)
    labels[8:24, 8:24], labels[8:24, 27:40] = 1, 2
    start = time.perf_counter()
    largest = float(weight_map(labels).max())
    if not largest > 5:
        wrong.append(f"the weight map of two close cells reaches only {largest:.2f}")
    return f"first weight map in {time.perf_counter() - start:.2f} s"


def _disk(wrong: list[str]) -> str:
    free = shutil.disk_usage(os.curdir).free / 2**30
    if free < 1:
        wrong.append(f"only {free:.2f} GiB are free in this folder")
    return f"{free:.0f} GiB free in this folder"


def _tile(_wrong: list[str]) -> str:
    import numpy as np

    from unet2015.device import choose_device
    from unet2015.net import UNet
    from unet2015.predict import predict_array

    device = choose_device()
    net, image = UNet().to(device), np.zeros((388, 388), np.uint8)
    seconds = []
    for _ in range(2):  # the first call warms up
        start = time.perf_counter()
        predict_array(net, image, output=388)
        seconds.append(time.perf_counter() - start)
    return f"full-width network, 572 -> 388 px: {min(seconds):.2f} s on {device.type}"


_LOOKS: dict[str, Callable[[list[str]], str]] = {
    "versions": _versions,
    "torch": _torch,
    "device": _device,
    "codecs": _codecs,
    "weight map": _compiler,
    "disk": _disk,
    "one tile": _tile,
}
