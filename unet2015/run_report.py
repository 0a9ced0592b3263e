"""The report of a training run: held-out slices scored, drawn and put on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiling.safe_write import write_text
from unet2015.data import Stack
from unet2015.provenance import versions
from unet2015.report import (
    Column,
    KeyFigure,
    ReportData,
    Table,
    best_and_worst,
    figure3_panel,
    learning_curves,
    write_report,
)
from unet2015.score import isbi_scores
from unet2015.train import Run
from unet2015.validate import probabilities_of, with_weights

__all__ = ["COLUMNS", "measures_table", "run_report", "write_run_report"]

COLUMNS = {
    "wrong_pixels": Column("wrong pixels", "lower"),
    "pixel_error": Column("pixel error, 1 - F", "lower"),
    "v_rand": Column("V_rand", "higher"),
    "v_info": Column("V_info", "higher"),
    "warping_error": Column("warping error", "lower"),
}


def measures_table(rows: Mapping[str, Mapping[str, float]], caption: str = "") -> Table:
    """Table of ISBI measures: one row per name, one column per measure of `COLUMNS`."""
    return Table(
        tuple(COLUMNS.values()),
        tuple((name, *(row.get(key) for key in COLUMNS)) for name, row in rows.items()),
        caption,
    )


def write_run_report(
    run: Run, training: Stack, validation: Stack | None, *, commands: Sequence[str] = ()
) -> None:
    """Write `report.html`, and `scores.json` where two-class slices are held out."""
    import json

    data, scores = run_report(run, training, validation)
    if scores is not None:
        write_text(run.out / "scores.json", json.dumps(scores, indent=1) + "\n", overwrite=True)
    write_report(run.out / "report.html", replace(data, commands=commands), overwrite=True)


def run_report(
    run: Run, training: Stack, validation: Stack | None
) -> tuple[ReportData, dict[str, Any] | None]:
    """Contents of the report of a finished run, and the ISBI scores of its held-out slices.

    Parameters
    ----------
    run
        The finished run.
    training, validation
        Its slices, the training ones with weights.
    """
    recipe = run.recipe
    data = ReportData(
        title=f"Training run {run.out.name}",
        lead=f"Recipe {recipe.name}: {run.step} steps on {len(training)} slices.",
        warnings=tuple(run.warnings),
        figure3=_figure3(training),
        curves=learning_curves(run.log.rows) if run.log.rows else None,
        recipe=recipe.to_dict(),
        versions=versions(),
        provenance={"data_sha256": training.fingerprint},
    )
    if validation is None or recipe.classes != 2 or recipe.ignore_label is not None:
        return data, None
    net = with_weights(run.net, run.averaged)
    maps = [p[1] for p in probabilities_of(net, validation, recipe)]
    scores = _scores(maps, validation)
    at_half, best = ({key: scores[key][kind] for key in COLUMNS} for kind in ("at_0.5", "best"))
    return replace(
        data,
        key_figures=(
            KeyFigure("wrong pixels", best["wrong_pixels"], "held out, best threshold"),
            KeyFigure("V_info", best["v_info"], "held out, best threshold"),
        ),
        measures=measures_table(
            {"best threshold": best, "threshold 0.5": at_half},
            "Held-out slices; measures as the ISBI 2012 challenge computes them.",
        ),
        slices=best_and_worst(
            [image[0] for image in validation.images], maps, validation.labels,
            names=[f"slice {name}" for name in validation.names],
        ),
    ), scores  # fmt: skip


def _figure3(training: Stack) -> bytes | None:
    """Figure 3 for the first training slice, where it has cells and a weight map."""
    if training.instances is None or training.weights is None:
        return None
    ids = np.maximum(training.instances[0], 0)
    return figure3_panel(training.images[0][0], ids, training.labels[0] > 0, training.weights[0])


def _scores(maps: Sequence[NDArray[np.float32]], validation: Stack) -> dict[str, Any]:
    """ISBI measures of slices that may differ in size, as `unet2015 score --json` gives them."""
    if len({p.shape for p in maps}) == 1:
        sweeps = isbi_scores(np.stack(maps), np.stack(list(validation.labels)))
        return {name: sweep.to_dict() for name, sweep in sweeps.items()}
    each = [isbi_scores(p[None], t[None]) for p, t in zip(maps, validation.labels, strict=True)]
    return {
        key: {
            "best": float(np.mean([sweeps[key].best for sweeps in each])),
            "at_0.5": float(np.mean([sweeps[key].at(0.5) for sweeps in each])),
        }
        for key in COLUMNS
    }
