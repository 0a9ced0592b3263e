"""The 2015 U-Net done exactly: border weight maps, training on cell stacks, seamless prediction.

net         Figure 1: the network                     `UNet`, `init_paper_weights`
energy      Eq. 1: the weighted soft-max energy       `unet2015.energy.energy`
augment     section 3.1: one smooth deformation       `Deformation`, `draw_deformation`, `deform`
recipe      every number of an experiment             `Recipe`, `isbi2012`, `quick`, ...
data        the labelled stack and its tiles          `Stack`, `read_stack_pair`, `split`, `weigh`,
                                                      `draw_tile`, `batches`
train       section 3, from top to bottom             `unet2015.train.train`
checkpoint  one file, loaded without trusting it      `Checkpoint`, `save`, `load`, `build_network`
caffe       the authors' `.caffemodel`                `load_caffemodel`
predict     Figure 2: arrays of any size              `predict_array`, `as_tile_function`
predict_file  from file to file                       `unet2015.predict_file.predict_file`
score       the challenges' measures                  `isbi_scores`, `ctc_seg`, `dsb_ap`, `mean_iou`
sample      the embedded sample                       `synthetic_stack`, `write_sample`
variants    other architectures, one file each        `unet2015.variants.release.ReleaseUNet`

Names are imported on first use, so that `import unet2015` loads no torch. `energy`, `train` and
`predict_file` are modules as well as functions and therefore taken from their modules.

>>> import unet2015
>>> unet2015.UNet(base_channels=2).output_size(572)
388
"""

from __future__ import annotations

# Nothing else is imported here: until `__main__` takes Ctrl-C, it would end in a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from unet2015.augment import Deformation, deform, draw_deformation
    from unet2015.caffe import load_caffemodel
    from unet2015.checkpoint import Checkpoint, build_network, load, save
    from unet2015.data import Stack, batches, draw_tile, read_stack_pair, split, weigh
    from unet2015.net import UNet, init_paper_weights
    from unet2015.predict import as_tile_function, predict_array
    from unet2015.recipe import Recipe, dic_hela, isbi2012, isbi2012_modern, phc_u373, quick
    from unet2015.sample import synthetic_stack, write_sample
    from unet2015.score import ctc_seg, dsb_ap, isbi_scores, mean_iou

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "Deformation",
    "Recipe",
    "Stack",
    "UNet",
    "as_tile_function",
    "batches",
    "build_network",
    "ctc_seg",
    "deform",
    "dic_hela",
    "draw_deformation",
    "draw_tile",
    "dsb_ap",
    "init_paper_weights",
    "isbi2012",
    "isbi2012_modern",
    "isbi_scores",
    "load",
    "load_caffemodel",
    "mean_iou",
    "phc_u373",
    "predict_array",
    "quick",
    "read_stack_pair",
    "save",
    "split",
    "synthetic_stack",
    "weigh",
    "write_sample",
]

_HOME = {
    "augment": ("Deformation", "deform", "draw_deformation"),
    "caffe": ("load_caffemodel",),
    "checkpoint": ("Checkpoint", "build_network", "load", "save"),
    "data": ("Stack", "batches", "draw_tile", "read_stack_pair", "split", "weigh"),
    "net": ("UNet", "init_paper_weights"),
    "predict": ("as_tile_function", "predict_array"),
    "recipe": ("Recipe", "dic_hela", "isbi2012", "isbi2012_modern", "phc_u373", "quick"),
    "sample": ("synthetic_stack", "write_sample"),
    "score": ("ctc_seg", "dsb_ap", "isbi_scores", "mean_iou"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'unet2015' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"unet2015.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
