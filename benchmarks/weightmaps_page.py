"""Tables and notes of `weightmaps_speed.py`, made from its rows."""

from __future__ import annotations

from typing import Any

from benchmarks.rivals.weightmaps import PLAIN
from weightmaps.fast_term import _scratch_bytes, plan_for
from weightmaps.spec import WeightMapSpec
from weightmaps.threads import THREAD_PIXELS

# What we aim at, one thread: our CPU time divided by that of one plain transform where cells are
# crowded and where they are sparse; CPU milliseconds per megapixel, and of one map of 512 x 512.
CROWDED, SPARSE, PER_MPX, AT_512 = 0.8, 1.5, 35.0, 4.5


def name_of(row: dict[str, Any]) -> str:
    """The scene in a few words."""
    height, width = row["shape"]
    size = f"{height}²" if height == width else f"{height} x {width}"
    return f"{row['scene']}, {size}, {100 * row['background']:.0f} % background"


def ratio_of(row: dict[str, Any]) -> float:
    """Our time, one thread, divided by that of one plain transform; 0 where it is not installed.

    Wall times, of rounds taken in turn: the least of thousands of CPU times may be a slip of the
    clock that counts them.
    """
    plain = row["rivals"][PLAIN]
    return row["ours"]["1"]["wall_s"] / plain["wall_s"] if isinstance(plain, dict) else 0.0


def ms_per_mpx(row: dict[str, Any]) -> float:
    """CPU milliseconds per megapixel, one thread."""
    return 1e9 * row["ours"]["1"]["cpu_s"] / (row["shape"][0] * row["shape"][1])


def tables(rows: list[dict[str, Any]], choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the page shows."""
    speed, rivalry = [], []
    names = [name for name in rows[0]["rivals"] if name != PLAIN]
    for row in rows:
        one, two = row["ours"]["1"], row["ours"]["2"]
        plain = row["rivals"][PLAIN]
        pixels = row["shape"][0] * row["shape"][1]
        speed.append([
            name_of(row), row["cells"], f"{1e3 * one['cpu_s']:.2f}", f"{ms_per_mpx(row):.1f}",
            f"{1e9 * plain['wall_s'] / pixels:.1f}" if isinstance(plain, dict) else plain,
            f"{ratio_of(row):.2f}",
            f"{one['wall_s'] / two['wall_s']:.2f}" if pixels > THREAD_PIXELS else "",
            f"{two['cpu_s'] / one['cpu_s']:.2f}" if pixels > THREAD_PIXELS else "",
            f"{row['scratch_bytes'] / 1e6:.2f}",
        ])  # fmt: skip
        told = [row["rivals"][name] for name in names]
        rivalry.append([name_of(row), row["cells"], *(
            f"{t['cpu_s'] / one['cpu_s']:,.0f} x (off by {t['largest_error']:.1g})"
            if isinstance(t, dict) else t for t in told
        )])  # fmt: skip
    return [
        {
            "caption": "One thread, the whole map",
            "columns": ["image", "cells", "ms", "ms/Mpx", "plain edt, ms/Mpx", "ratio",
                        "speed-up of 2 threads", "their CPU time, of 1", "scratch, MB"],
            "rows": speed,
        },
        {
            "caption": "How many times slower the others are",
            "columns": ["image", "cells", *names],
            "rows": rivalry,
        },
        {
            "caption": "What the choices cost, 2048², CPU ms per megapixel",
            "columns": list(choices[0]),
            "rows": [list(choice.values()) for choice in choices],
        },
    ]  # fmt: skip


def notes(rows: list[dict[str, Any]], first: dict[str, float]) -> list[str]:
    """Targets met and missed, and where we lose, in words made from the figures."""
    told = [
        f"Start-up: import {first['import_s']:.2f} s; the first map of a process takes"
        f" {first['cached_s']:.2f} s ({first['cached_cpu_s']:.2f} s CPU) with the compiled code"
        f" from the disk cache and {first['compiling_s']:.1f} s ({first['compiling_cpu_s']:.1f} s"
        " CPU) once, when there is none yet."
    ]
    for row in rows:
        target = SPARSE if row["scene"] == "sparse" else CROWDED
        if ratio_of(row) > target:
            told.append(
                f"Above the target ({target} plain transforms): {ratio_of(row):.2f} on"
                f" {name_of(row)}."
            )
    told += [
        f"Above the target ({PER_MPX:.0f} ms/Mpx): {ms_per_mpx(row):.1f} on {name_of(row)}."
        for row in rows
        if ms_per_mpx(row) > PER_MPX
    ]
    told += [
        f"Above the target ({AT_512} ms for 512 x 512):"
        f" {1e3 * row['ours']['1']['cpu_s']:.2f} ms on {name_of(row)}."
        for row in rows
        if row["shape"] == [512, 512] and 1e3 * row["ours"]["1"]["cpu_s"] > AT_512
    ]
    return told + where_we_lose(rows, first) + about_cost(rows)


def where_we_lose(rows: list[dict[str, Any]], first: dict[str, float]) -> list[str]:
    """Maps that a rival has finished before our compiled code is loaded."""
    ahead = []
    for row in rows:
        known = {n: t for n, t in row["rivals"].items() if n != PLAIN and isinstance(t, dict)}
        name = min(known, key=lambda n: known[n]["cpu_s"], default="")
        if name and known[name]["cpu_s"] < first["cached_cpu_s"]:
            ahead.append(f"{name_of(row)}: {1e3 * known[name]['cpu_s']:.0f} ms ({name})")
    if not ahead:
        return []
    return [
        "Where we lose: a process that makes one small map and ends, because loading compiled"
        f" code takes {first['cached_cpu_s']:.2f} s. Faster there: {'; '.join(ahead)}."
    ]


def about_cost(rows: list[dict[str, Any]]) -> list[str]:
    """What more cells, more threads and memory cost."""
    told = []
    by_cells = {r["cells"]: r for r in rows if r["shape"][0] == 2048 and r["scene"] == "crowded"}
    if len(by_cells) == 2:
        few, many = (by_cells[c]["ours"]["1"]["cpu_s"] for c in sorted(by_cells))
        told.append(f"From 1,000 to 5,000 cells at 2048²: {100 * (many / few - 1):+.0f} % time.")
    told.append(
        "On a machine that others use, two threads wait for a core: what they can reach at best is"
        " 2 divided by their CPU time relative to one thread's."
    )
    plan = plan_for(WeightMapSpec())
    if plan is not None:
        size = _scratch_bytes(plan.rows, plan.columns, plan.margins)
        told.append(f"Scratch of a thread: {size / 1e6:.2f} MB, none per cell.")
    return told
