"""The tables of docs/results.md are made from records, and stand where the page wants them."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import time_to_quality
from benchmarks.record import machine
from benchmarks.result_tables import TABLES
from benchmarks.results_page import markdown, put_on_page, with_table
from unet2015.recipe import Recipe

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def record(name, figures):
    """A record of one row with a run for each seed's figure, and a baseline."""
    table = TABLES[name]
    row = next(iter(table.rows))

    def run(seed, figure):
        score = {
            m: {"best": figure, "threshold": 0.4, "at_0.5": figure / 2} for m in table.measures
        }
        return {
            "row": row, "seed": seed, "seconds": 10.0 * seed, "date": f"2026-01-0{seed + 1}",
            "machine": machine() | {"commit": f"c{seed // 2}"}, "scores": {"6 images": score},
            "mean_weight": {"background": 2.0, "foreground": 1.0},
        }  # fmt: skip

    constant = {m: {"best": 0.75} for m in table.measures}
    return {
        "rows": [run(seed, figure) for seed, figure in enumerate(figures)],
        "command": f"python benchmarks/isbi_results.py --table {name}",
        "baselines": {"constant": {"6 images": constant}},
    }


@pytest.mark.parametrize("name", ["hela", "weights"])
def test_a_row_is_the_median_of_its_seeds_beside_the_baselines(name):
    text = markdown(name, record(name, [0.5, 0.25, 0.125]))
    row = next(iter(TABLES[name].rows))
    cells = " | ".join(["0.2500 (0.1250)"] * len(TABLES[name].measures))
    assert f"| {row} | 6 images | {cells} | 0, 1, 2 | 10 |" in text
    assert "| constant | 6 images | 0.7500" in text
    assert f"`python benchmarks/isbi_results.py --table {name}`, measured 2026-01-01 to" in text
    assert "commit c0, c1." in text
    assert ("Mean weight of background and foreground" in text) == (name == "weights")


def test_the_page_has_a_place_for_every_table(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE.read_text("utf-8"), "utf-8")
    (tmp_path / "results_dsb.json").write_text(json.dumps(record("dsb", [0.5])), "utf-8")
    put_on_page(page, tmp_path)
    first = page.read_text("utf-8")
    assert "0.5000 (0.2500)" in first
    assert first.count("_No run of `python benchmarks/isbi_results.py --table") == len(TABLES) - 1
    put_on_page(page, tmp_path)
    assert page.read_text("utf-8") == first
    assert json.loads((tmp_path / "results_dsb.json").read_text())["tables"][0]["rows"]
    page.write_text("no tables", "utf-8")
    with pytest.raises(SystemExit, match="has no lines <!-- table"):
        put_on_page(page, tmp_path)


def test_the_table_of_a_record_is_that_of_the_page():
    found = with_table("quick", record("quick", [0.5]))
    (shown,) = found["tables"]
    text = markdown("quick", found)
    assert all(f"| {' | '.join(row)} |" in text for row in shown["rows"])
    assert all(note in text for note in found["notes"])


def test_every_row_is_another_training():
    for name, table in TABLES.items():
        assert all(isinstance(recipe, Recipe) for recipe in table.rows.values())
        assert len(set(table.rows.values())) == len(table.rows), name
    assert re.search(r"<!-- table time -->", PAGE.read_text("utf-8"))


def test_a_target_is_reached_by_the_fastest_length_whose_median_does():
    rows = [
        {"steps": steps, "seed": seed, "seconds": steps / 10, "wrong pixels": wrong, "V_info": 0.96}
        for steps, errors in (
            (100, (0.2, 0.085, 0.2)),
            (300, (0.085, 0.2, 0.08)),
            (900, (0.05,) * 3),
        )
        for seed, wrong in enumerate(errors)
    ]
    found = {(r["measure"], r["target"]): r["steps"] for r in time_to_quality.records(rows)}
    assert found["wrong pixels", 0.12] == found["wrong pixels", 0.09] == 300
    assert found["wrong pixels", 0.06] == 900
    assert ("wrong pixels", 0.045) not in found
    assert found["V_info", 0.95] == 100
