"""Every fault has a test that carries its id, and every id on a test is a fault."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings

from tests.faults.catalogue import COUNTS, FAULTS, found_tests, ids_of
from tests.faults.invariants import found_invariants


def test_there_are_89_faults_in_eight_groups() -> None:
    assert len(FAULTS) == 89
    assert dict(Counter(fault[0] for fault in FAULTS)) == COUNTS
    for group, count in COUNTS.items():
        assert {f"{group}{n}" for n in range(1, count + 1)} <= set(FAULTS)
    assert all(what and answer for what, answer in FAULTS.values())


def test_every_fault_has_a_test_and_every_id_is_a_fault() -> None:
    found = found_tests()
    assert [fault for fault in FAULTS if not found[fault]] == []
    assert sorted(set(found) - set(FAULTS)) == []


def test_ids_are_read_from_names() -> None:
    assert ids_of("test_a10_sigterm") == ["A10"]
    assert ids_of("test_a1") == ["A1"]
    assert ids_of("test_a9_a10_stopped") == ["A9", "A10"]
    assert ids_of("test_c17_to_c20_odd_shapes_come_out_right") == ["C17", "C18", "C19", "C20"]
    for name in ("test_d_nan", "test_every_file", "test_a_4_cell_map", "helper_a1"):
        assert ids_of(name) == []


def test_at_least_30_invariants_are_properties_of_200_examples() -> None:
    found = found_invariants()
    assert len(found) >= 30
    assert [one.test for one in found if not one.is_property or one.limited] == []
    assert len({one.says for one in found}) == len(found)
    assert settings.default is not None
    assert settings.default.max_examples >= 200
