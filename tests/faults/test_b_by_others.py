"""B5, B8, B12: what other programs do to an output while it grows, or as it gets its name."""

from __future__ import annotations

import errno
import functools
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, content, hidden
from tests.faults.warm import Warm
from tiling import lock, open_sink, open_source, renaming, zarr_sink
from tiling.command import finish
from tiling.disk import explained, remove_folder
from tiling.faults import InputError, WriteError
from tiling.input_file import as_input_error
from tiling.lock import OutputLock
from tiling.safe_write import write_bytes
from unet2015 import predict_file as product
from unet2015.model import load_model
from unet2015.predict_file import Settings, predict_file

HALF = np.full((1, 150, 40), 7, np.uint8)
FOREIGN = b"somebody else's"


def write(out: Path, meanwhile: Callable[[], object] = lambda: None) -> None:
    """Two bands, and something that happens between them."""
    if out.suffix == ".bin":
        meanwhile()
        write_bytes(out, b"ours")
        return
    with open_sink(out, (300, 40), "uint8") as sink:
        sink[:, 0:150, 0:40] = HALF
        meanwhile()
        sink[:, 150:300, 0:40] = HALF


def at_the_rename(monkeypatch: pytest.MonkeyPatch, what: Callable[[Path, Path], object]) -> None:
    """Something happens after the last look at the names and just before the rename."""
    real = renaming.rename_to_free_name

    def late(path: Path, target: Path) -> bool:
        monkeypatch.undo()
        what(path, target)
        return real(path, target)

    monkeypatch.setattr(renaming, "rename_to_free_name", late)


@pytest.mark.parametrize("name", ["o.bin", "o.tif", "o.zarr"])
def test_b5_what_takes_the_name_at_the_very_last_moment_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if renaming._renameat2() is None:
        pytest.skip("this system has no rename that takes only a free name")
    out = tmp_path / name
    at_the_rename(monkeypatch, lambda _, target: target.write_bytes(FOREIGN))
    with pytest.raises(WriteError, match="exists since a moment ago; use --overwrite"):
        write(out)
    assert out.read_bytes() == FOREIGN


@pytest.mark.parametrize("name", ["o.bin", "o.tif", "o.zarr"])
def test_b5_where_the_system_knows_no_such_rename_the_plain_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(renaming, "_renameat2", lambda: None)
    write(tmp_path / name)
    assert (tmp_path / name).exists()
    assert hidden(tmp_path) == []


def test_b8_what_was_put_in_place_of_the_data_at_the_last_moment_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swap(path: Path, _target: Path) -> None:
        path.unlink()
        path.write_bytes(FOREIGN)

    at_the_rename(monkeypatch, swap)
    with pytest.raises(WriteError, match="another program put something else in its place"):
        write(tmp_path / "o.tif")


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_b8_data_that_go_at_the_last_moment_are_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    at_the_rename(monkeypatch, lambda path, _: path.rename(path.with_name("elsewhere")))
    with pytest.raises(WriteError, match="what was written of it was moved or removed"):
        write(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("length", [0, 10])
def test_b8_data_that_somebody_cuts_are_not_published(tmp_path: Path, length: int) -> None:
    out = tmp_path / "o.tif"
    part = tmp_path / ".o.tif.part"
    with pytest.raises(WriteError, match="was cut off by another program meanwhile; run again"):
        write(out, lambda: os.truncate(part, length))
    assert not out.exists()
    with open_sink(out, (300, 40), "uint8", resume=True) as sink:
        assert sink.rows_done == 0
        for top in (0, 150):
            sink[:, top : top + 150, 0:40] = HALF
    np.testing.assert_array_equal(tifffile.imread(out), 7)


def test_b8_data_cut_before_any_write_of_them_are_not_published(tmp_path: Path) -> None:
    """Whatever the buffer above still holds: a write beyond the cut would hide it with zeros."""
    ended = False
    for n in range(1, 99):
        folder = tmp_path / str(n)
        folder.mkdir()
        calls, real = 0, {name: getattr(os, name) for name in ("write", "ftruncate", "fsync")}

        def cut(name: str, part: Path, *words: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == n and part.exists() and part.stat().st_size:  # noqa: B023
                os.truncate(part, part.stat().st_size // 2)
            return real[name](*words)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            for name in real:
                patch.setattr(os, name, functools.partial(cut, name, folder / ".o.tif.part"))
            try:
                write(folder / "o.tif")
            except WriteError as error:
                assert "was cut off by another program" in error.reason  # noqa: PT017
                assert not (folder / "o.tif").exists()
                continue
        np.testing.assert_array_equal(tifffile.imread(folder / "o.tif"), 7)
        ended = calls < n
        if ended:
            break
    assert ended


def test_b8_data_that_somebody_cuts_while_the_disk_is_waited_for_are_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "o.tif", os.fsync

    def cut(descriptor: int) -> None:
        real(descriptor)
        if (tmp_path / ".o.tif.part").stat().st_size > 1000:  # the directory is there
            os.truncate(tmp_path / ".o.tif.part", 10)

    monkeypatch.setattr(os, "fsync", cut)
    with pytest.raises(WriteError, match="was cut off by another program meanwhile"):
        write(out)
    assert not out.exists()


def test_b8_a_shard_that_somebody_cuts_is_not_published(tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    shard = zarr_sink.new_folder(out) / "0" / "c" / "0" / "0"
    with pytest.raises(WriteError, match="was removed, moved or changed meanwhile"):
        write(out, lambda: os.truncate(shard, 10))
    assert not out.exists()


def test_b8_a_lock_that_is_a_second_name_of_a_file_is_not_written_into(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.link(victim, tmp_path / ".o.tif.lock")
    with pytest.raises(WriteError, match="is no lock file of ours; remove it"):
        OutputLock(tmp_path / "o.tif").acquire()
    assert victim.read_bytes() == b"precious"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Any:
    """A tiny network."""
    path = tmp_path_factory.mktemp("others") / "model.safetensors"
    assert warm.run(path, "1", code=MAKE_MODEL).code == 0
    return load_model(path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(7).integers(0, 256, (150, 40), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="minisblack", metadata=None)
    return tmp_path / "image.tif"


def damage(path: Path) -> None:
    """Other bytes in the middle of the pixels."""
    if path.is_dir():
        path = path / "0" / "c" / "0" / "0"
        path.write_bytes(path.read_bytes()[:-9])
        return
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(path.read_bytes())
    data[start + count // 2 : start + count // 2 + 8] = bytes(8)
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_a1_a_result_that_was_damaged_since_is_not_called_complete(
    model: Any, image: Path, name: str
) -> None:
    out, settings, told = image.with_name(name), Settings(output_tile=60, device="cpu"), []
    predict_file(model, image, out, settings)
    whole = content(out)
    assert predict_file(model, image, out, settings, resume=True, say=told.append) == []
    assert "is complete" in told.pop()
    damage(out)
    with pytest.raises(WriteError, match="already exists; use --overwrite"):
        predict_file(model, image, out, settings, resume=True, say=told.append)
    assert "is no longer whole: " in told[0]
    predict_file(model, image, out, settings, resume=True, overwrite=True)
    assert content(out) == whole


def test_a1_classes_that_were_damaged_since_are_computed_again(
    model: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = image.with_name("o.tif")
    settings = Settings(output_tile=60, save="instances", device="cpu")
    predict_file(model, image, out, settings)
    whole = content(out)
    out.unlink()
    real = product.label_bands

    def stopped(*_args: Any, **_keywords: Any) -> Any:
        monkeypatch.undo()
        assert product.label_bands is real
        raise KeyboardInterrupt

    monkeypatch.setattr(product, "label_bands", stopped)
    with pytest.raises(KeyboardInterrupt):
        predict_file(model, image, out, settings)
    damage(image.with_name(".o.tif.classes.tif"))
    with pytest.raises(WriteError, match=r"found so far \(.*\) are damaged; run again"):
        predict_file(model, image, out, settings, resume=True)
    predict_file(model, image, out, settings, resume=True)
    assert content(out) == whole
    assert hidden(image.parent) == []


def test_a1_what_sets_an_unfinished_output_apart_is_told_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.tif"

    def begin(**options: Any) -> None:
        with open_sink(out, (300, 40), "uint8", resume=True, **options) as sink:
            sink[:, 0:150, 0:40] = HALF
            raise InterruptedError

    first = {"image_sha256": "05ac", "gain": 1.0}
    with pytest.raises(InterruptedError):
        begin(provenance=first)
    for options, words in (
        ({"provenance": {"image_sha256": "f3e1", "gain": 2.0}}, r"\(another image\)"),
        ({"provenance": first, "pyramid": "mode"}, "smaller levels: 0, now 1"),
        ({"provenance": first, "z_step": 2.0}, "step in z: 0.0, now 2.0"),
    ):
        with pytest.raises(WriteError, match=words):
            begin(**options)  # type: ignore[arg-type]
    monkeypatch.setattr("tiling.tiff_sink.deflate_by", lambda: "another library")
    with pytest.raises(WriteError, match=r"packed by: [a-z]*, now another library"):
        begin(provenance=first)


def test_b3_a_disk_that_fails_after_the_name_is_given_says_that_the_file_is_whole(
    model: Any, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, settings = image.with_name("o.tif"), Settings(output_tile=60, device="cpu")
    real = os.fsync

    def full(descriptor: int) -> None:
        if out.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="it is whole and has its name; --resume tidies up"):
        predict_file(model, image, out, settings)
    monkeypatch.undo()
    assert predict_file(model, image, out, settings, resume=True) == []
    assert hidden(image.parent) == []


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENODEV])
def test_b3_a_disk_that_fails_at_a_look_is_told_in_words(
    number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def look() -> None:
        raise OSError(number, os.strerror(number), "out.tif")

    assert finish("program", look) == 5
    told = capsys.readouterr().err
    assert "out.tif" in told
    assert "bug" not in told


@pytest.mark.parametrize(
    ("number", "reading", "writing", "unforeseen"),
    [
        (errno.ENOENT, "check the name", "its folder was moved or removed meanwhile", 1),
        (errno.EACCES, "ask its owner", "choose a folder that you may write to", 5),
        (errno.EPERM, "ask its owner", "choose a folder that you may write to", 1),
        (errno.EROFS, "copy it again", "choose a folder that you may write to", 5),
        (errno.ENOSPC, "copy it again", "(9 bytes needed, unknown bytes free); free some", 5),
        (errno.EDQUOT, "copy it again", "(9 bytes needed, unknown bytes free); free some", 5),
        (errno.EFBIG, "copy it again", " (9 bytes needed); raise the file size limit", 5),
        (errno.EMFILE, "raise the limit (ulimit -n)", "raise the limit (ulimit -n)", 6),
        (errno.EIO, "the disk may be failing: copy it", "the disk may be failing", 5),
        (errno.ESTALE, "mount the network disk again", "mount the network disk again", 5),
        (errno.ENOTCONN, "mount it again", "mount it again", 5),
        (errno.ENODEV, "was it unplugged?", "was it unplugged?", 5),
        (errno.EINVAL, "copy it again", "choose another name, or disk", 1),
        (errno.EILSEQ, "copy it again", "choose another name, or disk", 1),
        (errno.EXDEV, "copy it again", "remove it, then run again with --resume", 1),
        (errno.EBUSY, "copy it again", "choose another name", 1),
        (errno.ERANGE, "copy it again", "choose another folder or disk", 1),
    ],
)
def test_b3_an_error_of_the_system_has_one_remedy_wherever_it_is_told(
    number: int, reading: str, writing: str, unforeseen: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails() -> None:
        raise OSError(number, os.strerror(number), "o.tif")

    error = OSError(number, os.strerror(number))
    with pytest.raises(InputError) as caught, as_input_error("o.tif"):
        raise error
    assert f"cannot be read: {os.strerror(number)}; {reading}" in caught.value.reason
    told = explained(error, Path("/nowhere/at/all/o.tif"), 9, bound="just").replace("just ", "")
    assert told.startswith(f"cannot write: {os.strerror(number)}")
    assert writing in told
    assert finish("program", fails) == unforeseen
    if unforeseen == 5:
        assert told.split("; ")[-1] in capsys.readouterr().err


def test_f_no_folder_for_temporary_files_is_told_in_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/none"])
    assert finish("program", tempfile.gettempdir) == 5
    assert "set TMPDIR to one that can" in capsys.readouterr().err


@pytest.mark.parametrize("what", [KeyboardInterrupt, OSError(errno.EIO, "broken")])
@pytest.mark.parametrize("call", ["rename_to_free_name", "exchange_names"])
def test_a9_a_folder_that_cannot_be_replaced_keeps_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: Any, call: str
) -> None:
    out = tmp_path / "o.zarr"
    real = getattr(renaming, call)
    if call == "rename_to_free_name":
        monkeypatch.setattr(renaming, "can_exchange", lambda: False)
    elif not renaming.can_exchange():
        pytest.skip("this system has no exchange of two names")
    write(out)
    before = content(out)

    def stopped(path: Path, target: Path) -> bool:
        monkeypatch.undo()
        if isinstance(what, OSError):
            raise what
        signal.raise_signal(signal.SIGINT)
        return bool(real(path, target))

    monkeypatch.setattr(renaming, call, stopped)
    with (
        pytest.raises((KeyboardInterrupt, WriteError)),
        open_sink(out, (300, 40), "uint8", overwrite=True) as sink,
    ):
        sink[:, 0:300, 0:40] = np.full((1, 300, 40), 9, np.uint8)
    assert (content(out) == before) == isinstance(what, OSError)
    assert out.exists()


def test_f_too_few_files_for_zarr_is_told_in_words(tmp_path: Path) -> None:
    out = tmp_path / "o.zarr"
    write(out)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/dev/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, limits[1]))
    try:
        with pytest.raises(WriteError, match=r"raise the limit \(ulimit -n\)"):
            write(tmp_path / "p.zarr")
        with pytest.raises(InputError, match=r"raise the limit \(ulimit -n\)"):
            open_source(out)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
@pytest.mark.parametrize("how", ["moved", "removed", "another", "link to nothing"])
def test_b8_a_folder_that_goes_during_a_run_is_not_made_anew(
    tmp_path: Path, name: str, how: str
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()

    def gone() -> None:
        folder.rename(tmp_path / "e")
        if how == "removed":
            remove_folder(tmp_path / "e")
        elif how == "another":
            folder.mkdir()
        elif how == "link to nothing":
            folder.symlink_to(tmp_path / "nowhere")

    told = (
        "moved" if name == "o.zarr" else "removed, moved|folder .* does not exist|moved or removed"
    )
    with pytest.raises(WriteError, match=told):
        write(folder / name, gone)
    assert os.path.lexists(folder) == (how in ("another", "link to nothing"))
    assert not folder.is_dir() or os.listdir(folder) == []
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("moment", ["begun", "resumed", "finished"])
def test_b8_nor_where_it_goes_before_the_first_row_or_after_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    out = folder / "o.zarr"
    if moment == "resumed":
        with pytest.raises(KeyboardInterrupt):
            write(out, stopped)
    late = {"begun": "remove_folder", "resumed": "_size", "finished": "remove"}[moment]
    real = getattr(zarr_sink, late)

    def gone(*words: Any) -> Any:
        found = real(*words)
        if moment != "finished" or words[0].name == "zarr.json":
            remove_folder(folder)
        return found

    monkeypatch.setattr(zarr_sink, late, gone)
    with pytest.raises(WriteError, match="its folder was moved or removed"):
        rest(out, resume=moment == "resumed")
    assert not folder.exists()


def stopped() -> None:
    raise KeyboardInterrupt


def rest(out: Path, *, resume: bool) -> None:
    with open_sink(out, (300, 40), "uint8", resume=resume) as sink:
        for top in range(sink.rows_done, 300, 150):
            sink[:, top : min(top + 150, 300), 0:40] = HALF[:, : min(150, 300 - top)]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="nobody else to be")
@pytest.mark.parametrize(
    ("out", "left"),
    [("o.tif", "lock"), ("o.tif", "part"), ("o.tif", "part.journal"), ("o.zarr", "part.zarr")],
)
@pytest.mark.parametrize("resume", [False, True])
def test_b8_what_another_users_run_left_is_named(out: str, left: str, resume: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)  # everybody may write, nobody may remove another's file
        there = Path(folder, f".{out}.{left}")
        if left == "part.zarr":
            there.mkdir(0o755)
        else:
            there.write_bytes(b"" if left == "lock" else FOREIGN)
            there.chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(WriteError) as found, open_sink(
                Path(folder, out), (300, 40), "uint8", resume=resume
            ):  # fmt: skip
                pass
        finally:
            os.seteuid(0)
        assert f"{there.name} beside it belongs to another user: have it removed" in str(
            found.value
        )
        assert there in list(Path(folder).iterdir())


@pytest.mark.parametrize(
    ("moment", "how"),
    [
        ("_label", "file"),
        ("_label", "gone"),
        ("_label", "link"),
        ("remove", "file"),
        ("remove", "link"),
    ],
)
@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_b8_a_folder_that_goes_while_objects_are_numbered(
    model: Any, image: Path, monkeypatch: pytest.MonkeyPatch, how: str, moment: str, name: str
) -> None:
    folder, elsewhere = image.parent / "d", image.parent / "e"
    folder.mkdir()
    real = getattr(product, moment)

    def meanwhile(*words: Any, **options: Any) -> Any:
        monkeypatch.undo()
        folder.rename(elsewhere)
        if how == "file":
            folder.write_bytes(FOREIGN)
        elif how == "link":
            folder.symlink_to(elsewhere)
        return real(*words, **options)

    monkeypatch.setattr(product, moment, meanwhile)
    settings = Settings(output_tile=60, save="instances", device="cpu")
    if how == "link":
        predict_file(model, image, folder / name, settings)
        assert os.listdir(elsewhere) == [name]
        return
    with pytest.raises(WriteError, match="its folder was moved or removed meanwhile"):
        predict_file(model, image, folder / name, settings)
    assert not folder.is_dir()
    assert how != "file" or folder.read_bytes() == FOREIGN


def test_b8_a_file_system_without_locks_keeps_no_lock_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_descriptor: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_take", refuses)
    with pytest.raises(WriteError, match="its file system cannot lock files"):
        write(tmp_path / "o.tif")
    assert list(tmp_path.iterdir()) == []
