"""Rows of the tables of docs/results.md: each is a recipe, each table has its data and measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.result_data import (
    ISBI,
    OBJECTS,
    Scores,
    from_dsb,
    from_hela,
    from_isbi,
    isbi_baselines,
    object_baselines,
    score_isbi,
    score_objects,
)
from unet2015 import recipe as recipes
from unet2015.data import Stack
from unet2015.recipe import Recipe
from unet2015.train import Run


@dataclass(frozen=True)
class Table:
    """Rows by name, each a recipe; where the data are; how a trained run is scored."""

    rows: Mapping[str, Recipe]
    data: Callable[[Recipe], tuple[Stack, Stack]] = from_isbi
    score: Callable[[Run, Stack], dict[str, Scores]] = score_isbi
    baselines: Callable[[], dict[str, Any]] = isbi_baselines
    baselines_of: str = "isbi"
    measures: tuple[str, ...] = ISBI


QUICK = recipes.quick()
EQ2 = replace(QUICK, border_weight=True, class_weights="balanced")
HALF = replace(QUICK, steps=1000)
SGD = replace(
    HALF, optimiser="sgd", momentum=0.99, learning_rate=1e-3, schedule="constant"
)  # fmt: skip
RIGID = replace(QUICK, displacement_std_px=0.0)
FIXED = replace(RIGID, rotation_deg=0.0, mirror=False)
CELLS = replace(
    QUICK, name="cells", border_weight=True, class_weights="balanced", steps=1000,
    learning_rate=1e-3,
)  # fmt: skip
FULL = replace(recipes.isbi2012(), precision="bf16")

TABLES: dict[str, Table] = {
    "quick": Table({"quick": QUICK}),
    "weights": Table(
        {
            "no weights (quick)": QUICK,
            "class balance": replace(QUICK, class_weights="balanced"),
            "border, w0 = 10": replace(QUICK, border_weight=True),
            "Eq. 2: balance + border, w0 = 10": EQ2,
            "Falk et al. 2019": replace(EQ2, class_weights="falk2019", w0=50.0, sigma_px=6.0),
        }
    ),
    "deform": Table(
        {
            "std 4 px (quick)": QUICK,
            "std 10 px": replace(QUICK, displacement_std_px=10.0),
            "no displacement": RIGID,
            "no displacement, rotation, mirroring": FIXED,
            "nor grey values": replace(FIXED, grey_gain=0.0, grey_shift=0.0, grey_gamma=0.0),
        }
    ),
    "optimiser": Table(
        {
            "Adam, one cycle (quick, half as long)": HALF,
            "the paper's: SGD, momentum 0.99": SGD,
            "SGD, momentum 0.99, cosine": replace(SGD, schedule="cosine"),
            "modern: AdamW, warm-up, cosine, average": replace(
                HALF, optimiser="adamw", weight_decay=1e-4, schedule="cosine",
                warmup_steps=100, average_decay=0.99,
            ),
        }
    ),
    "hela": Table(
        {
            "Eq. 2: balance + border": CELLS,
            "balance alone": replace(CELLS, border_weight=False),
            "no weights": replace(CELLS, border_weight=False, class_weights="none"),
        },
        from_hela, score_objects, lambda: object_baselines(from_hela), "hela", OBJECTS,
    ),
    "dsb": Table(
        {
            "Eq. 2: balance + border": replace(CELLS, in_channels=3),
            "no weights": replace(
                CELLS, in_channels=3, border_weight=False, class_weights="none"
            ),
        },
        from_dsb, score_objects, lambda: object_baselines(from_dsb), "dsb", OBJECTS,
    ),
    "full": Table(
        {
            "isbi2012, bf16": FULL,
            "isbi2012-modern": recipes.isbi2012_modern(),
            "isbi2012, no elastic deformation": replace(FULL, displacement_std_px=0.0),
            "isbi2012, no border weights": replace(FULL, border_weight=False),
        }
    ),
}  # fmt: skip
