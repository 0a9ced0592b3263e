"""The command line as its reader meets it: help that can be read, refusals that come at once."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.tiny_run import write_tiny
from tiling import command
from tiling.command import answer, finish, note, tell
from tiling.disk import writing
from tiling.faults import WriteError
from tiling.process import machine
from tiling.signals import leave
from unet2015.checkpoint import Checkpoint, describe_network, save
from unet2015.cli import main
from unet2015.info import describe
from unet2015.net import UNet
from unet2015.progress import bar
from weightmaps.cli import main as weights_main

ROOT = Path(__file__).parents[1]
NARROW = [
    "--recipe", "quick", "--steps", "1", "--device", "cpu", "--set", "base_channels=2",
    "--set", "depth=1", "--set", "tile_px=44",
]  # fmt: skip
USAGES = {
    "weights": "LABELS...",
    "train": "IMAGES LABELS",
    "predict": "CHECKPOINT IMAGE...",
    "score": "PREDICTION TRUTH",
    "info": "FILE",
    "export": "CHECKPOINT",
    "import-caffe": "FILE",
    "sample": "DIR",
}


@pytest.mark.parametrize("verb", USAGES)
def test_a_usage_line_names_what_to_type(verb, capsys):
    assert main([verb, "--help"]) == 0
    usage = capsys.readouterr().out.splitlines()[0]
    assert usage == f"Usage: unet2015 {verb} [OPTIONS] {USAGES[verb]}"


def test_weightmaps_has_the_same_usage_line(capsys):
    assert weights_main(["--help"]) == 0
    usage = capsys.readouterr().out.splitlines()[0]
    assert usage == "Usage: weightmaps [OPTIONS] LABELS..."


def test_no_line_of_the_help_is_cut_off(capsys):
    assert main(["--help"]) == 0
    commands = capsys.readouterr().out.split("Commands:\n")[1].split("\n\n")[0]
    lines = re.findall(r"^  [\w-]+ +(\S.+)$", commands, re.MULTILINE)
    assert len(lines) == 10
    assert all(line.endswith((".", "?")) and not line.endswith("...") for line in lines), lines


def test_info_refuses_what_it_cannot_describe_at_once(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photo.jpg")
    (tmp_path / "empty.tif").touch()
    for name, reason in (
        ("pipe", "is a pipe or device"),
        ("photo.jpg", "a JPEG image, whose compression has changed the pixels"),
        ("empty.tif", "is empty"),
        ("absent.tif", "does not exist"),
    ):
        assert main(["info", str(tmp_path / name)]) == 3, name
        assert reason in capsys.readouterr().err


def test_info_knows_a_png_by_its_content(tmp_path):
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "x.tif")
    assert describe(tmp_path / "x.tif")["kind"] == "PNG"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "not stated"),
        ({"resolution": (250, 500), "resolutionunit": "CENTIMETER"}, "250 x 500 pixels per"),
    ],
)
def test_info_says_the_resolution_in_words(options, words, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((8, 9), np.uint8), **options)
    assert describe(tmp_path / "x.tif")["resolution"].startswith(words)


def test_a_file_name_is_printed_as_it_is_where_it_can_be(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False)
    with bar("tiles") as show:
        show.say("naïve ☃.tif")
    assert capsys.readouterr().err == "naïve ☃.tif\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_file_name_steers_no_terminal(terminal, capsys, monkeypatch):
    name, safe = "[/b]\x1b[2J\n\u202ea.tif", r"[/b]\x1b[2J\n\u202ea.tif"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with bar("tiles") as show:
        show.say(name)
        show.update(1, 2, name)
    tell(name)
    note(name)
    said = capsys.readouterr()
    assert said.out == f"{safe}\n"
    assert said.err.count(f"{safe}\n") == 2
    assert "\x1b[2J" not in said.err
    assert "\u202e" not in said.err


def test_f9_what_nobody_reads_ends_no_work(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, Closed())
    work = []
    assert finish("demo", lambda: [(tell("x"), note("y"), work.append(k)) for k in range(3)]) == 0
    assert work == [0, 1, 2]


def test_f9_a_library_that_leaves_because_nobody_reads_is_no_failure():
    def leaving():
        try:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        except BrokenPipeError:
            raise SystemExit(1)  # noqa: B904 - as rich and click do

    assert finish("demo", leaving) == 0


def test_signals_are_the_callers_again_when_a_command_has_ended():
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    numbers = [n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN]  # as under nohup
    before, within = [signal.getsignal(n) for n in numbers], []
    assert finish("demo", lambda: within.extend(signal.getsignal(n) for n in numbers)) == 0
    assert all(ours is not plain for ours, plain in zip(within, before, strict=True))
    assert [signal.getsignal(n) for n in numbers] == before


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are not asked for room there")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("full", ["stdout", "stderr"])
def test_a10_a_full_pipe_that_nobody_reads_does_not_keep_a_program_from_ending(name, full):
    """Its last words, or what it has not written yet, would stand still in it."""
    other = {"stdout": "stderr", "stderr": "stdout"}[full]
    source = (
        "import sys, time; from tiling.command import finish; from tiling.signals import leave;"
        f" say = lambda: (print(file=sys.{other}, flush=True), sys.{full}.write('x'),"
        " time.sleep(60)); leave(lambda: finish('demo', say))"
    )
    here, there = os.pipe()
    os.set_blocking(there, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(there, b"x" * 256)
    os.set_blocking(there, True)
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, **{full: there, other: subprocess.PIPE},
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    ) as run:  # fmt: skip
        os.close(there)
        getattr(run, other).readline()  # it works
        number = getattr(signal, name)
        run.send_signal(number)
        try:
            assert run.wait(30) == 128 + number
        finally:
            run.kill()
    os.close(here)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        ImportError("libfoo.so: failed to map segment from shared object"),
        RuntimeError("libdeflate_alloc_compressor returned 'NULL'"),
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
    ],
)
def test_limits_of_the_system_are_no_bug_of_ours(error, capsys):
    def starting():
        raise error

    assert finish("demo", starting) == 6
    assert "raise the limits of files (ulimit -n), processes (-u)" in capsys.readouterr().err


def test_b1_too_many_open_files_are_no_failing_disk(tmp_path):
    with (
        pytest.raises(WriteError, match=r"Too many open files; raise the limit \(ulimit -n\)"),
        writing(tmp_path / "a"),
    ):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def refusing(stream_errno, lines=False):
    """Standard output on a full disk, or on a descriptor that is for reading only."""

    class Refusing(io.StringIO):
        def write(self, text):
            if lines:
                self.flush()
            return super().write(text)

        def flush(self):
            raise OSError(stream_errno, os.strerror(stream_errno))

    return Refusing()


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EBADF, errno.EIO])
def test_f9_results_that_cannot_be_printed_stop_no_work(error, lines, monkeypatch, capsys):
    """The files are the work: one note, and the exit code is that of the work."""
    monkeypatch.setattr(sys, "stdout", refusing(error, lines))
    work = []

    def command():
        tell("made a file")
        work.append(1)
        raise SystemExit(7)

    assert finish("demo", command) == 7
    assert work == [1]
    said = capsys.readouterr().err
    assert f"standard output cannot be written ({os.strerror(error)})" in said
    assert "bug" not in said


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EBADF])
def test_f9_what_is_only_printed_has_failed_where_it_cannot_be(error, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", refusing(error))
    assert finish("demo", lambda: answer("the only result")) == 5
    assert f"cannot be written ({os.strerror(error)})" in capsys.readouterr().err
    monkeypatch.setattr(sys, "stdout", refusing(error))
    assert main(["--help"]) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("out", [("/dev/full", os.O_WRONLY), (os.devnull, os.O_RDONLY)])
def test_f9_a_map_is_made_where_its_line_cannot_be_printed(out, tmp_path):
    _, labels = write_tiny(tmp_path)
    words = [sys.executable, "-m", "weightmaps", str(labels)]
    descriptor = os.open(*out)
    try:
        done = subprocess.run(
            words, stdout=descriptor, stderr=subprocess.PIPE, text=True, cwd=ROOT, check=False
        )
    finally:
        os.close(descriptor)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("standard output cannot be written (")
    assert (tmp_path / "labels.weights.tif").is_file()


def test_a_recipe_nested_too_deeply_is_bad_input(tmp_path, capsys):
    images, labels = write_tiny(tmp_path)
    (tmp_path / "deep.json").write_text("[" * 100_000)
    words = ["train", str(images), str(labels), "--out", str(tmp_path / "run")]
    assert main([*words, "--recipe", str(tmp_path / "deep.json")]) == 3
    assert "nested too deeply" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, 255])
def test_labels_with_one_value_are_refused(value, tmp_path, capsys):
    images, labels = write_tiny(tmp_path)
    tifffile.imwrite(labels, np.full((4, 48, 48), value, np.uint8), photometric="minisblack")
    out = tmp_path / "run"
    assert main(["train", str(images), str(labels), "--out", str(out), *NARROW]) == 3
    error = capsys.readouterr().err
    assert f"every labelled pixel for training is of class {int(value > 0)}" in error
    assert not out.exists()


def test_quick_says_how_to_use_border_weights(tmp_path, capsys):
    images, labels = write_tiny(tmp_path)
    maps, out = tmp_path / "maps", tmp_path / "run"
    assert main(["weights", str(labels), "--out", str(maps)]) == 0
    words = ["train", str(images), str(labels), "--weights", str(maps), "--out", str(out), *NARROW]
    assert main(words) == 3
    error = capsys.readouterr().err
    remedy = "train with --set border_weight=true --set class_weights=balanced"
    assert remedy in error
    assert main([*words, *remedy.split()[2:]]) == 0


def test_a_png_is_not_to_be_renamed_to_png(tmp_path, capsys):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "cells.png")
    (tmp_path / "cells.png").rename(tmp_path / "cells.tif")
    assert main(["weights", str(tmp_path / "cells.tif"), "--out", str(tmp_path / "maps")]) == 3
    assert "a PNG image (convert it to TIFF)" in capsys.readouterr().err


def test_f9_standard_streams_that_are_closed_are_nowhere(monkeypatch):
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert finish("demo", lambda: sys.stdout.write(sys.stdin.read() + "heard by nobody\n")) == 0
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        assert stream.name == os.devnull
        stream.close()


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "{}/real"],
        ["export", "no.safetensors", "--to", "pt2", "--out", "{}/link"],
        ["import-caffe", "no.caffemodel", "--out", "{}/link"],
        ["predict", "{}/net.safetensors", "no.tif", "--out", "{}/p.tif", "--overlay", "{}/link"],
        ["weights", "{}/labels.tif"],
        ["train", "{}/images.tif", "{}/labels.tif", "--out", "{}/run", *NARROW],
    ],
)
def test_a8_every_verb_tidies_the_folders_it_writes(words, tmp_path, capsys):
    """What a kill left goes, however the verb ends: beside a picture, and behind a link."""
    (tmp_path / "real").mkdir()
    write_tiny(tmp_path)
    (tmp_path / "real" / "images.tif").touch()  # in the way of the sample
    net = UNet(base_channels=1, depth=1)
    content = Checkpoint(network=describe_network(net), weights=net.state_dict())
    save(tmp_path / "net.safetensors", content)
    (tmp_path / "run").mkdir()
    for link in ("link", "link.png", "labels.weights.tif", "run/log.csv"):
        (tmp_path / link).symlink_to(tmp_path / "real" / f"{Path(link).name}.target")
    stale = tmp_path / "real" / f".b.{os.getpid()}-1-{machine()}-3.unet2015-tmp"
    stale.touch()
    words = [word.format(tmp_path) for word in words]
    if words[-2] == "--overlay":
        words[-1] += ".png"
    main(words)
    assert not stale.exists()
    assert "removed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "run", [lambda word: main(["info", word]), lambda word: weights_main([word])]
)
def test_a_command_in_a_folder_that_was_deleted_says_so(run, tmp_path, monkeypatch, capsys):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert run(str(tmp_path / "labels.tif")) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "has been deleted; change to one that exists" in said
    assert main(["--help"]) == 0


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("first", [True, False])
def test_a9_a_signal_while_the_program_leaves_ends_it_without_a_traceback(number, first):
    """First: a signal was told of already, and this is the second one."""
    script = """if True:
        import atexit, os, signal, sys
        from tiling.command import finish
        from tiling.signals import leave

        number, first = int(sys.argv[1]), sys.argv[2] == "True"
        atexit.register(lambda: [os.kill(os.getpid(), number), [0 for _ in range(10**7)]])
        work = (lambda: os.kill(os.getpid(), number)) if first else (lambda: None)
        leave(lambda: finish("program", work))
    """
    words = [sys.executable, "-c", script, str(int(number)), str(first)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == -number
    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert done.stderr == (f"program: {word}\n" if first else "")


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a9_a_signal_while_another_is_told_changes_nothing(number, code, monkeypatch):
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}

    def told(_text):
        os.kill(os.getpid(), number)

    def work():
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "note", told)
    try:
        with pytest.raises(SystemExit) as left:
            leave(lambda: command.finish("program", work))
        assert left.value.code == code
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


@pytest.mark.parametrize("words", [("labels.tif", "--out", ""), ("labels.tif", "--out="), ("",)])
def test_an_empty_word_is_no_name_of_a_file(words, tmp_path, monkeypatch, capsys):
    """As a shell makes one of a variable that is not set: "" would be the current folder."""
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("labels.tif", np.zeros((4, 4), np.uint8))
    assert weights_main(list(words)) == 2
    assert "is empty; was a variable of the shell not set?" in capsys.readouterr().err
    assert os.listdir() == ["labels.tif"]
