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

# Nothing else is imported here: until `__main__` takes Ctrl-C, it would end in a traceback.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from weightmaps.blocks import weight_map_blocks
    from weightmaps.carving import separate_touching
    from weightmaps.class_balance import class_counts, class_map, class_weights
    from weightmaps.formula import border_term, volume_weight_map, weight_map
    from weightmaps.labels import instances_from_mask, merge_instance_masks
    from weightmaps.multiclass import multiclass_weight_map
    from weightmaps.nearest_two import two_nearest_distances, volume_two_nearest_distances
    from weightmaps.reference import two_nearest_distances_reference
    from weightmaps.spec import EPSILON, WeightMapSpec, halo_px

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


_HOME = {
    "blocks": ("weight_map_blocks",),
    "carving": ("separate_touching",),
    "class_balance": (
        "class_counts",
        "class_map",
        "class_weights",
    ),
    "formula": (
        "border_term",
        "volume_weight_map",
        "weight_map",
    ),
    "labels": (
        "instances_from_mask",
        "merge_instance_masks",
    ),
    "multiclass": ("multiclass_weight_map",),
    "nearest_two": (
        "two_nearest_distances",
        "volume_two_nearest_distances",
    ),
    "reference": ("two_nearest_distances_reference",),
    "spec": (
        "EPSILON",
        "WeightMapSpec",
        "halo_px",
    ),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import the module of a public name on first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'weightmaps' has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"weightmaps.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
