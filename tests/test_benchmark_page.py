"""The page of benchmark tables is made from the result files, whatever their shape."""

import json

import pytest

from benchmarks import tables

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
