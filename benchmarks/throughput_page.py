"""Factors of `tiling_throughput.py`: like for like, and at `--precision auto`."""

from __future__ import annotations

from typing import Any

MONAI_DEFAULT = "fp32"  # the network's own format: `sliding_window_inference` has no other choice
DEFAULTS = ("monai defaults", "monai gaussian")  # windows as MONAI's users choose them
UNITS = {"seconds": "seconds", "cpu_seconds": "CPU seconds"}


def measured(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of one number format by name, without those that gave no figures."""
    return {row["row"]: row for row in found["rows"] if "seconds" in row}


def relative_to_ours(rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Unit -> row -> its time divided by ours, in the same number format."""
    if "ours" not in rows:
        return {}
    return {
        unit: {n: row[unit] / rows["ours"][unit] for n, row in rows.items() if n != "ours"}
        for unit in UNITS
    }


def at_auto(report: dict[str, Any]) -> dict[str, Any] | None:
    """Times of MONAI at its defaults divided by ours at `--precision auto`; None: not measured.

    A file that does not name what `auto` is there was made with every format that is fast there.
    """
    formats = report["formats"]
    auto = report.get("auto") or ("bf16" if "bf16" in formats else "fp32")
    if auto not in formats or MONAI_DEFAULT not in formats:
        return None
    mine, theirs = measured(formats[auto]), measured(formats[MONAI_DEFAULT])
    known = [name for name in DEFAULTS if name in theirs]
    if "ours" not in mine or not known:
        return None
    factors = {u: {n: theirs[n][u] / mine["ours"][u] for n in known} for u in UNITS}
    return {"ours": auto, "MONAI": MONAI_DEFAULT, **factors}


def notes(report: dict[str, Any]) -> list[str]:
    """The factors in words."""
    told = []
    for name, found in report["formats"].items():
        ratios = relative_to_ours(measured(found))
        rivals = [row for row in ratios.get("seconds", ()) if row.startswith("monai")]
        if rivals:
            told.append(f"Like for like, both in {name}: {_factors(ratios, rivals)}.")
    found = at_auto(report)
    if found is not None:
        told.append(
            f"Ours at `--precision auto` (here {found['ours']}) beside MONAI as it comes"
            f" ({found['MONAI']}): {_factors(found, list(found['seconds']))}."
        )
    return told


def _factors(ratios: dict[str, Any], rows: list[str]) -> str:
    return "; ".join(
        f"{row.replace('monai', 'MONAI')} takes {ratios['seconds'][row]:.2f} times our seconds"
        f" ({ratios['cpu_seconds'][row]:.2f} of CPU seconds)"
        for row in rows
    )
