"""Free memory is the least that the machine and each control group around the process leave."""

from __future__ import annotations

import os

import pytest

from tiling.memory import free_memory

MIB = 1 << 20


@pytest.fixture
def system(tmp_path):
    """Writes a fake system's files; what `free_memory` finds there, in MiB before the fifth."""

    def write(files, cgroup="0::/\n", available=64_000):
        files = {f"groups/{name}": text for name, text in files.items()}
        if available is not None:
            files["proc/meminfo"] = f"MemTotal: 1 kB\nMemAvailable: {available * 1024} kB\n"
        if cgroup is not None:
            files["proc/self/cgroup"] = cgroup
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))
        free = free_memory(proc=tmp_path / "proc", groups=tmp_path / "groups")
        return round(free * 5 / 4 / MIB)

    return write


def v2(place, limit, used, inactive=0, active=0):
    stat = f"anon 5\ninactive_file {inactive * MIB}\nactive_file {active * MIB}\nshmem 7\n"
    limit = limit if limit == "max" else limit * MIB
    return {f"{place}memory.max": f"{limit}\n", f"{place}memory.current": f"{used * MIB}\n",
            f"{place}memory.stat": stat}  # fmt: skip


def v1(place, limit, used, files=0):
    stat = f"inactive_file 9\ntotal_inactive_file {files * MIB}\ntotal_active_file {MIB}\n"
    return {f"memory/{place}memory.limit_in_bytes": f"{limit * MIB}\n",
            f"memory/{place}memory.usage_in_bytes": f"{used * MIB}\n",
            f"memory/{place}memory.stat": stat}  # fmt: skip


def test_without_limits_it_is_what_the_machine_has(system):
    assert system({}) == 64_000
    assert system(v2("", "max", 900)) == 64_000
    assert system({}, cgroup=None) == 64_000


def test_copies_of_files_in_memory_are_free(system):
    assert system(v2("", 8000, 7900, inactive=5000, active=2000)) == 7100
    assert system(v2("", 8000, 7900)) == 256  # the least that is told


def test_the_tightest_of_nested_groups_counts(system):
    job = "slurm/uid_1/job_2/"
    line = f"0::/{job}step_0\n"
    nested = v2(f"{job}step_0/", "max", 100) | v2(job, 4000, 100) | v2("slurm/", 9000, 8000, 7000)
    assert system(nested, line) == 3900
    assert system(v2("slurm/", 9000, 8000), line) == 1000
    # a group beside ours is none of ours
    assert system(v2("slurm/uid_1/job_3/", 500, 100) | v2("slurm/", "max", 0), line) == 3900


def test_version_1_is_read_from_its_own_folder_and_without_limit_it_counts_nothing(system):
    line = "9:name=systemd:/job\n5:cpu,cpuacct:/job\n4:hugetlb,memory:/batch/job\n0::/\n"
    none = (2**63 - 4096) // MIB
    assert system(v1("", none, 70_000) | v1("batch/job/", 3000, 2900, files=1000), line) == 1101
    assert system(v1("batch/job/", none, 100), line) == 64_000
    assert system(v1("batch/", 2000, 100), line) == 1901


def test_a_path_that_is_not_below_the_mounted_folder_leads_to_the_folder_itself(system):
    assert system(v2("", 2000, 500), "0::/docker/0123abcd\n") == 1500
    assert system(v2("", 2000, 600), "0::/../../outside\n") == 1400
    assert system(v1("", 1000, 101), "4:memory:/docker/0123abcd\n") == 900


@pytest.mark.parametrize(
    "broken",
    [{"memory.max": "12 monkeys\n", "memory.current": "5"}, {"memory.max": "5000"},
     {"memory.max": "", "memory.current": ""}, {"memory.max": "\xff", "memory.current": "1"}],
)  # fmt: skip
def test_what_cannot_be_understood_is_no_limit(system, broken):
    assert system(broken) == 64_000
    assert system(broken, "nonsense\n0::/\n") == 64_000


def test_where_nothing_is_told_half_of_the_machine_counts(system, monkeypatch):
    told = {"SC_PHYS_PAGES": 3 << 20, "SC_PAGE_SIZE": 4096}  # 12 GiB
    monkeypatch.setattr(os, "sysconf", told.__getitem__, raising=False)
    assert system({}, cgroup=None, available=None) == 6 * 1024


@pytest.mark.parametrize("error", [ValueError, OSError, AttributeError])
def test_where_nothing_can_be_measured_two_gibibytes_are_assumed(system, monkeypatch, error):
    def unknown(name):
        raise error(name)

    monkeypatch.setattr(os, "sysconf", unknown, raising=False)
    assert system({}, cgroup=None, available=None) == 2048


def test_a_limit_counts_without_its_list_of_kinds(system):
    assert system({"memory.max": 1000 * MIB, "memory.current": 100 * MIB}) == 900
