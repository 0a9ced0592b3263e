"""A3 and its neighbours: the verb `weights` killed, starved, interrupted at each of its writes."""

import contextlib
import errno
import io
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import types
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
import tifffile

import weightmaps.batch
import weightmaps.room
from tiling.faults import MemoryFault
from weightmaps.blocks import _blocks  # noqa: F401 - imported before any fork
from weightmaps.cli import main
from weightmaps.map_file import intact
from weightmaps.workers import _end_with_parent, ordered_map

ROOT = Path(__file__).parents[2]
STACKS = 5


def cells(seed, side=24):
    small = np.random.default_rng(seed).integers(0, 4, (side // 4, side // 4), dtype=np.uint8)
    return np.kron(small, np.ones((4, 4), np.uint8))


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    for k in range(STACKS):
        stack = np.stack([cells(10 * k), cells(10 * k + 1)])
        tifffile.imwrite(folder / f"s{k}.tif", stack, photometric="minisblack", metadata=None)
    return folder


@pytest.fixture
def _fake(monkeypatch):
    """A cheap map in place of the compiled one: writing is what is tested here."""

    def blocks(source, _spec, *, block_rows, dtype, **_more):
        height, width = source.shape
        for top in range(0, height, block_rows):
            rows = source[..., top : min(height, top + block_rows), 0:width]
            yield top, (rows + 1).astype(dtype)

    monkeypatch.setattr(weightmaps.batch, "weight_map_blocks", blocks)


def run(labels, out):
    """Exit code of the verb, its words thrown away."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main([str(labels), "--out", str(out), "--class-weights", "none"])


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.endswith(".lock")}


def check_whole(out, expected):
    """Under a final name there is only what an uninterrupted run writes."""
    found = {name: data for name, data in contents(out).items() if not name.startswith(".")}
    assert found.items() <= expected.items()
    return len(found)


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize(("fault", "step"), [("kill", 1), ("torn", 4)])
def test_a3_killed_at_each_write_finished_maps_stay_the_rest_is_redone(
    labels, tmp_path, forked, fault, step, record_property
):
    assert run(labels, tmp_path / "whole") == 0
    expected = contents(tmp_path / "whole")
    assert len(expected) == STACKS
    kept = []
    for n in range(1, 1000, step):
        out = tmp_path / f"{fault}{n}"
        code = forked(lambda out=out: run(labels, out), f"{fault}:{n}")
        if code == 0:
            break
        assert code == -signal.SIGKILL
        before = {p: p.stat().st_ino for p in out.glob("*.tif")} if out.exists() else {}
        kept.append(check_whole(out, expected) if out.exists() else 0)
        assert run(labels, out) == 0
        assert contents(out) == expected  # and no temporary file is left
        assert {p: p.stat().st_ino for p in before} == before  # not made again
    assert code == 0
    assert kept == sorted(kept)
    assert {0, STACKS - 1} <= set(kept) <= set(range(STACKS + 1))
    assert n > 5 * STACKS
    record_property("kill_points", len(kept))


@pytest.mark.usefixtures("_fake")
def test_a5_killed_while_redoing_and_a_second_time(labels, tmp_path, forked):
    assert run(labels, tmp_path / "whole") == 0
    expected = contents(tmp_path / "whole")
    out = tmp_path / "w"
    for n in (9, 4, 12, 2):
        assert forked(lambda: run(labels, out), f"kill:{n}") == -signal.SIGKILL
        check_whole(out, expected)
    assert run(labels, out) == 0
    assert contents(out) == expected


@pytest.mark.usefixtures("_fake")
def test_a6_bytes_reach_the_disk_before_the_name(labels, tmp_path, forked):
    log = tmp_path / "calls.txt"
    assert forked(lambda: run(labels, tmp_path / "w"), f"log:{log}") == 0
    calls = [line.split(" ", 2)[1:] for line in log.read_text().splitlines()]
    names = [name for name, path in calls if not path.endswith(".lock")]
    at = [k for k, name in enumerate(names) if name == "replace"]
    assert len(at) == STACKS
    for k in at:
        assert names[k - 1] == "fsync"
        assert names[k + 1] == "fsync"


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize(("fault", "step"), [("enospc", 3), ("eio", 5)])
def test_b1_b3_a_failing_disk_is_told_and_nothing_is_lost(
    labels, tmp_path, faulty, fault, step, record_property
):
    assert run(labels, tmp_path / "whole") == 0
    expected = contents(tmp_path / "whole")
    for n in range(1, 1000, step):
        out = tmp_path / f"{n}"
        with faulty(f"{fault}:{n}") as counter:
            code = run(labels, out)
        if counter.calls < n:
            break
        assert code == 5
        check_whole(out, expected)
        assert not [p for p in out.iterdir() if p.name.endswith("tmp")]
        assert run(labels, out) == 0
        assert contents(out) == expected
    assert n > 5 * STACKS
    record_property("kill_points", (n - 1) // step)


@pytest.mark.parametrize("options", [(), ("--3d",), ("--labels", "mask", "--threshold", "2")])
def test_b2_a_disk_too_small_for_the_maps_is_told_before_the_first(
    labels, tmp_path, capsys, monkeypatch, options
):
    arguments = [str(labels), "--out", str(tmp_path / "w"), *options]
    assert main([*arguments[:2], str(tmp_path / "whole"), *options]) == 0
    needed = sum(p.stat().st_size for p in (tmp_path / "whole").iterdir())
    monkeypatch.setattr(weightmaps.room, "free_bytes", lambda _: needed // 10)
    capsys.readouterr()
    assert main(arguments) == 5
    assert f"bytes, {needed // 10} bytes are free" in capsys.readouterr().err
    assert not list((tmp_path / "w").glob("*.tif"))
    monkeypatch.setattr(weightmaps.room, "free_bytes", lambda _: needed)  # uncompressed: more
    assert main(arguments) == 0


def test_b4_a_file_in_the_place_of_the_folder(labels, tmp_path, capsys):
    (tmp_path / "w").write_text("")
    assert main([str(labels), "--out", str(tmp_path / "w")]) == 5
    assert "cannot be used as output folder" in capsys.readouterr().err


def test_b6_the_labels_are_never_the_output(labels, tmp_path, capsys):
    path = tmp_path / "x.tif"
    path.write_bytes((labels / "s0.tif").read_bytes())
    for link in (os.link, os.symlink):
        target = tmp_path / "x.weights.tif"
        link(path, target)
        before = path.read_bytes()
        assert main([str(path), "--out", str(tmp_path), "--overwrite"]) == 5
        assert "is also the input" in capsys.readouterr().err
        assert path.read_bytes() == before
        target.unlink()


@pytest.mark.parametrize("ending", [".weights.tif", ".weights.png"])
def test_b6_no_map_or_preview_is_any_label_file(labels, tmp_path, capsys, ending):
    first, second = tmp_path / "x.tif", tmp_path / f"x{ending}"
    first.write_bytes((labels / "s0.tif").read_bytes())
    second.write_bytes((labels / "s1.tif").read_bytes())
    before = second.read_bytes()
    for where in ([], ["--out", str(tmp_path)]):
        assert main([str(first), str(second), *where, "--preview", "--overwrite"]) == 5
        assert f"is also the input {second}" in capsys.readouterr().err
        assert second.read_bytes() == before
    assert sorted(p.name for p in tmp_path.glob("x*")) == sorted([first.name, second.name])


@pytest.mark.usefixtures("_fake")
def test_b8_the_second_run_is_told_the_first_ones_number(labels, tmp_path, capsys):
    from tiling.lock import OutputLock

    (tmp_path / "w").mkdir()
    with OutputLock(tmp_path / "w" / "s2.weights.tif"):
        assert main([str(labels), "--out", str(tmp_path / "w")]) == 7
    assert f"process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.usefixtures("_fake")
def test_b12_labels_that_change_meanwhile_give_no_map(labels, tmp_path, capsys, monkeypatch):
    path = tmp_path / "x.tif"
    path.write_bytes((labels / "s0.tif").read_bytes())
    real = weightmaps.batch.weight_map_blocks

    def meddling(source, spec, *, block_rows, dtype, **more):
        path.write_bytes((labels / "s1.tif").read_bytes())
        return real(source, spec, block_rows=block_rows, dtype=dtype, **more)

    monkeypatch.setattr(weightmaps.batch, "weight_map_blocks", meddling)
    assert main([str(path), "--out", str(tmp_path / "w")]) == 7
    assert "changed while it was being read" in capsys.readouterr().err
    assert not list((tmp_path / "w").glob("*.tif"))


@pytest.mark.usefixtures("_fake")
@pytest.mark.parametrize("when", ["make_maps", "weight_map_blocks"])
@pytest.mark.parametrize("kind", ["file", "masks"])
def test_b12_labels_rewritten_under_their_old_time_give_no_map(
    labels, tmp_path, capsys, monkeypatch, when, kind
):
    folder = tmp_path / "x" / "masks" if kind == "masks" else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    path, out = folder / "x.tif", tmp_path / "w"
    first = tifffile.imread(labels / "s0.tif")
    first = first if kind == "file" else (first[0] == first.max()).astype(np.uint8)
    tifffile.imwrite(path, first, metadata=None)
    before, real = path.stat(), getattr(weightmaps.batch, when)

    def meddling(*args, **options):
        tifffile.imwrite(path, first[..., ::-1, :], metadata=None)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return real(*args, **options)

    given = [str(tmp_path / "x" if kind == "masks" else path), "--out", str(out)]
    with monkeypatch.context() as patched:
        patched.setattr(weightmaps.batch, when, meddling)
        assert main(given) == 7
        assert path.stat().st_size == before.st_size
    assert "changed while it was being read; run again on a file at rest" in capsys.readouterr().err
    assert not list(out.glob("*.tif"))
    assert main(given) == 0


@pytest.mark.usefixtures("_fake")
def test_b12_a_permission_is_no_change_of_labels(labels, tmp_path, monkeypatch):
    path, real = labels / "s0.tif", weightmaps.batch.weight_map_blocks

    def meddling(*args, **options):
        path.chmod(0o600)
        return real(*args, **options)

    monkeypatch.setattr(weightmaps.batch, "weight_map_blocks", meddling)
    assert main([str(path), "--out", str(tmp_path / "w")]) == 0


# -- real processes ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Label files that keep the verb busy for seconds."""
    folder = tmp_path_factory.mktemp("many")
    big = np.kron(cells(3), np.ones((60, 60), np.uint8))
    for k in range(120):
        tifffile.imwrite(folder / f"m{k:03}.tif", big, compression="zlib", metadata=None)
    return folder


def begin(many, out, *options):
    """The verb as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "weightmaps", many, "--out", out, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def children(process):
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True, check=False
    )
    return [int(pid) for pid in found.stdout.split()]


def wait_for(condition, seconds=60):
    for _ in range(int(seconds * 50)):
        if condition():
            return True
        time.sleep(0.02)
    return False


def lives(process):
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc and ps")


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a9_a10_interrupted_no_temporary_file_no_orphan(many, tmp_path, number, code, jobs):
    with begin(many, tmp_path / "w", "--jobs", jobs) as run:
        assert wait_for(lambda: list((tmp_path / "w").glob("*.weights.tif")))
        workers = children(run.pid)
        run.send_signal(number)
        _, err = run.communicate(timeout=30)
    assert run.returncode == code, err
    assert err.count("\n") == 1
    assert "run the same command again" in err
    assert not [p for p in (tmp_path / "w").iterdir() if p.name.endswith("tmp")]
    assert all(intact(p)[1] for p in (tmp_path / "w").glob("*.tif"))
    assert wait_for(lambda: not any(lives(w) for w in workers), 5)


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a9_a10_a_worker_that_hears_nothing_is_killed(many, tmp_path, number, code):
    with begin(many, tmp_path / "w", "--jobs", "2") as run:
        assert wait_for(lambda: list((tmp_path / "w").glob("*.weights.tif")))
        workers = children(run.pid)
        os.kill(workers[-1], signal.SIGSTOP)
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
    assert run.returncode == code, err
    assert wait_for(lambda: not any(lives(w) for w in workers), 5)


@needs_proc
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a9_a10_a_stopped_job_of_which_only_the_parent_goes_on_ends(many, tmp_path, number, code):
    """The signal may go to a thread that waits for a worker, while the main thread sleeps."""
    with begin(many, tmp_path / "w", "--jobs", "2") as run:
        assert wait_for(lambda: list((tmp_path / "w").glob("*.weights.tif")))
        workers = children(run.pid)
        for process in (run.pid, *workers):
            os.kill(process, signal.SIGSTOP)
        run.send_signal(number)
        run.send_signal(signal.SIGCONT)
        assert run.wait(timeout=60) == code
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)
    assert wait_for(lambda: not any(lives(w) for w in workers), 5)


@needs_proc
def test_a9_ctrl_c_of_a_terminal_hits_no_worker_that_starts(tmp_path):
    script = (
        "import os, signal, time\n"
        "from weightmaps.workers import _Worker\n"
        "signal.signal(signal.SIGINT, lambda *_: None)\n"
        "worker = _Worker()\n"
        "for _ in range(40):\n"
        "    os.killpg(0, signal.SIGINT)\n"
        "    time.sleep(0.005)\n"
        "print(worker.do(abs, -3))\n"
        "worker.process.terminate()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60,
        start_new_session=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("3\n", "")


def _dies(task):
    """Die `task.deaths` times (counted in a folder), then return the number of the task."""
    folder, number, deaths = task
    seen = len(list(folder.glob(f"{number}-*")))
    if seen < deaths:
        (folder / f"{number}-{seen}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@needs_proc
def test_f1_a_task_whose_worker_was_killed_is_tried_once_more(tmp_path):
    tasks = [(tmp_path, number, number == 1) for number in range(9)]
    assert list(ordered_map(_dies, tasks, 2)) == list(range(9))


def _dies_sending(task):
    """Return the number of the task; the first time, die halfway through sending it."""
    folder, number = task
    if number == 1 and not (folder / "died").exists():
        (folder / "died").touch()
        Connection._send_bytes = _half  # in this worker
    return number


def _half(pipe, data):
    os.write(pipe.fileno(), struct.pack("!i", len(data)) + bytes(data[: len(data) // 2]))
    os.kill(os.getpid(), signal.SIGKILL)


@needs_proc
def test_f1_a_worker_killed_while_it_sends_is_noticed(tmp_path):
    tasks = [(tmp_path, number) for number in range(6)]
    assert list(ordered_map(_dies_sending, tasks, 2)) == list(range(6))
    assert (tmp_path / "died").exists()


@needs_proc
def test_f1_a_task_that_kills_two_workers_ends_the_run(tmp_path):
    tasks = [(tmp_path, number, 2 * (number == 1)) for number in range(9)]
    with pytest.raises(MemoryFault, match="killed twice, probably out of memory"):
        list(ordered_map(_dies, tasks, 2))


@needs_proc
def test_f1_a_run_goes_on_after_a_killed_worker(many, tmp_path):
    with begin(many, tmp_path / "w", "--jobs", "2") as run:
        assert wait_for(lambda: list((tmp_path / "w").glob("*.weights.tif")))
        for worker in children(run.pid):
            if b"spawn_main" in Path(f"/proc/{worker}/cmdline").read_bytes():
                os.kill(worker, signal.SIGKILL)
        _, err = run.communicate(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert len(list((tmp_path / "w").glob("*.tif"))) == len(list(many.iterdir()))
    assert all(intact(p)[1] for p in (tmp_path / "w").glob("*.tif"))


@needs_proc
@pytest.mark.parametrize("stopped", [False, True])
def test_f2_no_worker_outlives_its_parent(many, tmp_path, stopped):
    if stopped and sys.platform != "linux":
        pytest.skip("only Linux kills a stopped process with its parent")
    with begin(many, tmp_path / "w", "--jobs", "2") as run:
        assert wait_for(lambda: list((tmp_path / "w").glob("*.weights.tif")))
        workers = children(run.pid)
        if stopped:
            os.kill(workers[-1], signal.SIGSTOP)
        run.kill()
        run.communicate(timeout=30)
    assert len(workers) >= 2
    assert wait_for(lambda: not any(lives(w) for w in workers), 5)


def test_f9_a_closed_pipe_is_no_error(many, tmp_path):
    with begin(many, tmp_path / "w") as run:
        assert run.stdout.readline()
        run.stdout.close()
        err = run.stderr.read()
        run.wait(timeout=60)
    assert (run.returncode, err) == (0, "")
    assert len(list((tmp_path / "w").glob("*.tif"))) == len(list(many.iterdir()))


def test_f2_a_worker_that_cannot_watch_its_parent_ends(monkeypatch):
    def fails(_sentinels):
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def leaves(code):
        raise SystemExit(code)

    monkeypatch.setattr(
        multiprocessing, "parent_process", lambda: types.SimpleNamespace(sentinel=9)
    )
    monkeypatch.setattr(multiprocessing.connection, "wait", fails)
    monkeypatch.setattr(os, "_exit", leaves)
    with pytest.raises(SystemExit) as caught:
        _end_with_parent()
    assert caught.value.code == 1
