"""Border weight maps of the 2015 U-Net paper (Eq. 2), exact and fast.

>>> import weightmaps
>>> weightmaps.weight_map([[1, 0, 2]], class_weights="none").round(3)
array([[ 1.   , 10.231,  1.   ]], dtype=float32)

Annotations to instances: `instances_from_mask`, `merge_instance_masks`, `separate_touching`.
Distances: `two_nearest_distances`, and the slow `two_nearest_distances_reference`.
Maps: `weight_map`, `multiclass_weight_map`, `volume_weight_map`, `border_term`;
`class_weights`, `class_counts`, `class_map`; `WeightMapSpec`, `halo_px`.
Larger than memory: `weight_map_blocks`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from weightmaps.carving import separate_touching
from weightmaps.class_balance import class_counts, class_map, class_weights
from weightmaps.formula import border_term, volume_weight_map, weight_map
from weightmaps.labels import instances_from_mask, merge_instance_masks
from weightmaps.multiclass import multiclass_weight_map
from weightmaps.nearest_two import two_nearest_distances, volume_two_nearest_distances
from weightmaps.reference import two_nearest_distances_reference
from weightmaps.spec import EPSILON, WeightMapSpec, halo_px

if TYPE_CHECKING:
    from weightmaps.blocks import weight_map_blocks

__all__ = [
    "EPSILON",
    "WeightMapSpec",
    "border_term",
    "class_counts",
    "class_map",
    "class_weights",
    "halo_px",
    "instances_from_mask",
    "merge_instance_masks",
    "multiclass_weight_map",
    "separate_touching",
    "two_nearest_distances",
    "two_nearest_distances_reference",
    "volume_two_nearest_distances",
    "volume_weight_map",
    "weight_map",
    "weight_map_blocks",
]


def __getattr__(name: str) -> Any:
    """Import `weight_map_blocks` on first use: it needs the file layer."""
    if name == "weight_map_blocks":
        from weightmaps.blocks import weight_map_blocks

        return weight_map_blocks
    raise AttributeError(f"module 'weightmaps' has no attribute {name!r}")
