"""The page of benchmark tables is made from the result files, whatever their shape."""

import json

import pytest

from benchmarks import tables, throughput_page

RESULTS = sorted((tables.HERE / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_every_result_file_becomes_a_section(path):
    text = tables.section(path, tables.HERE)
    assert text.startswith("## ")
    assert f"results/{path.name}" in text
    assert "| --" in text  # a table


def test_records_and_groups_of_values_become_tables(tmp_path):
    (tmp_path / "speed.py").write_text('"""How fast it is.\n\n    usage\n"""\n')
    (tmp_path / "results").mkdir()
    found = {
        "machine": {"cpu": "a", "cores": 2, "versions": {"numpy": "2"}},
        "seconds": {"ours": 0.51234, "theirs": 12345.678},
        "rows": [{"size": [2, 3], "ms": 1}, {"size": [4, 5], "peak": {"mb": None}}],
        "side": 512,
        "notes": ["They win on | small images."],
    }
    (tmp_path / "results" / "speed_cpu.json").write_text(json.dumps(found))
    text = tables.page(tmp_path)
    for line in (
        "## Speed cpu", "`speed.py`: How fast it is.", "a; cores 2; numpy 2",
        "| ours | 0.5123 |", "| theirs | 12,346 |", "| size | ms | peak: mb |",
        "| 2 x 3 | 1 |  |", "| side | 512 |", "- They win on | small images.",
    ):  # fmt: skip
        assert line in text.splitlines(), line


def test_records_within_records_become_rows_not_columns():
    nested = {
        "a": {"6 images": {"v_info": {"best": 1, "at": 2}, "iou": {"best": 3}}},
        "b": {"n": 4},
    }
    (table,) = tables.plain_tables({"cells": nested})
    assert table["columns"] == ["", "best", "at", "n"]
    assert table["rows"] == [
        ["a: 6 images: v info", 1, 2, ""], ["a: 6 images: iou", 3, "", ""], ["b", "", "", 4],
    ]  # fmt: skip


def test_bytes_are_told_in_megabytes():
    rows = [["ours", 2_437_038_080, 3], ["theirs", None, 4]]
    text = tables.markdown(["row", "peak_bytes", "ms"], rows)
    assert text.splitlines() == [
        "| row | peak MB | ms |", "| --- | ---: | ---: |",
        "| ours | 2437 | 3 |", "| theirs |  | 4 |",
    ]  # fmt: skip


def test_older_names_of_the_processor_are_known():
    for found in ({"machine": {"cpu": "a"}}, {"machine": "a"}, {"machine": {"processor": "a"}}):
        assert tables.machine_line(found) == "a"
    assert tables.machine_line({"machine": "a", "device": "cuda"}) == "a; device cuda"


def throughput(auto, **formats):
    """A report with seconds of ours and of MONAI's defaults in each format."""
    rows = {
        name: {"rows": [
            {"row": "ours", "seconds": ours, "cpu_seconds": 2 * ours},
            {"row": "monai defaults", "seconds": theirs, "cpu_seconds": theirs},
            {"row": "monai grid", "failed": "not installed"},
        ]}
        for name, (ours, theirs) in formats.items()
    }  # fmt: skip
    return {"formats": rows} | ({"auto": auto} if auto else {})


@pytest.mark.parametrize("auto", ["bf16", None])  # None: as older files have it
def test_the_factor_at_auto_is_that_of_its_number_format(auto):
    report = throughput(auto, fp32=(4.0, 8.0), bf16=(2.0, 5.0))
    *alike, last = throughput_page.notes(report)
    assert [note.split(";")[0].split(": ")[1][:36] for note in alike] == [
        "MONAI defaults takes 2.00 times our ", "MONAI defaults takes 2.50 times our ",
    ]  # fmt: skip
    assert (
        "auto` (here bf16) beside MONAI as it comes (fp32): MONAI defaults takes 4.00 times" in last
    )
    assert "(2.00 of CPU seconds)" in last


def test_where_auto_is_fp32_both_factors_are_the_same():
    alike, last = throughput_page.notes(throughput("fp32", fp32=(4.0, 8.0)))
    assert "(here fp32)" in last
    assert alike.partition(": ")[2] == last.partition("): ")[2]


def test_what_was_not_measured_has_no_factor():
    assert throughput_page.at_auto(throughput("bf16", fp32=(4.0, 8.0))) is None
    assert throughput_page.at_auto(throughput("bf16", bf16=(4.0, 8.0))) is None
    assert throughput_page.notes({"formats": {"fp32": {"rows": []}}}) == []


def test_the_page_shows_the_factors_of_a_throughput_file(tmp_path):
    (tmp_path / "results").mkdir()
    path = tmp_path / "results" / "tiling_throughput_gpu.json"
    path.write_text(json.dumps(throughput("bf16", fp32=(4.0, 8.0), bf16=(2.0, 5.0))))
    assert "- Ours at `--precision auto`" in tables.section(path, tmp_path)
