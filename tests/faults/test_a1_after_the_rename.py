"""A1, B5, B8, B12: what a run meets, or leaves, once its output or a part of it is published."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from tests.faults.killing import MAKE_MODEL, Command, content, count_calls, hidden
from tests.faults.warm import Warm
from tiling import open_sink, replacing, zarr_sink
from tiling.disk import remove_folder
from tiling.faults import Fault, InputChangedError, InputError, LockedError, WriteError
from tiling.lock import OutputLock, holding
from tiling.zarr_sink import ZarrSink
from unet2015 import predict_file as product
from unet2015.info import describe
from unet2015.model import load_model
from unet2015.predict_file import Settings, predict_file

Forked = Callable[[Callable[[], object], str], int]
SMALL = Settings(output_tile=60, save="instances", device="cpu")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, warm: Warm) -> Path:
    """A tiny network."""
    folder = tmp_path_factory.mktemp("after")
    assert warm.run(folder / "model.safetensors", "1", code=MAKE_MODEL).code == 0
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(7).integers(0, 256, (150, 40), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "image.tif", pixels, photometric="minisblack", metadata=None)
    return tmp_path / "image.tif"


def command(place: Path, image: Path, name: str, *options: str) -> Command:
    out = image.with_name(name)
    words = ("predict", place / "model.safetensors", image, "--out", out, "--output-tile", "60")
    return Command((*words, *options), out)


def lay(folder: Path, value: str) -> None:
    (folder / "0").mkdir(parents=True)
    (folder / "zarr.json").write_text(value)
    (folder / "0" / "zarr.json").write_text(value)


def half(path: Path) -> None:
    """A deletion that stops half-way."""
    if Path(path).is_dir():
        shutil.rmtree(Path(path) / "0")


def test_a1_a_predecessor_half_deleted_never_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "o.zarr"
    lay(target, "old")
    lay(replacing.new_folder(target), "new")
    with monkeypatch.context() as patch:
        patch.setattr(replacing, "remove_folder", half)
        replacing.replace_folder(target, overwrite=True)
    assert hidden(tmp_path) == [".o.zarr.trash.zarr"]
    target.rename(tmp_path / "kept.zarr")
    replacing.put_back(target)
    assert os.listdir(tmp_path) == ["kept.zarr"]


def test_b5_a_predecessor_that_could_not_be_deleted_goes_with_a_later_run(
    place: Path, image: Path, warm: Warm
) -> None:
    run = command(place, image, "o.zarr")
    assert run.run(warm).code == 0
    lay(image.with_name(".o.zarr.old.zarr"), "old")
    lay(image.with_name(".o.zarr.trash.zarr"), "older")
    assert run.run(warm, "--resume").code == 0
    assert hidden(image.parent) == []


def test_a1_a_predecessor_under_its_hidden_name_is_told(
    place: Path, image: Path, warm: Warm
) -> None:
    """As a kill between the two renames leaves it."""
    run = command(place, image, "o.zarr", "--overwrite")
    assert run.run(warm).code == 0
    before = content(run.out)
    run.out.rename(image.with_name(".o.zarr.old.zarr"))
    with pytest.raises(InputError, match=r"earlier result is \.o\.zarr\.old\.zarr beside it; run"):
        describe(run.out)
    replacing.new_folder(run.out).mkdir()
    ended = run.run(warm, "--resume")
    assert (ended.code, content(run.out), hidden(image.parent)) == (0, before, [])
    assert "the earlier result gets its name back until this one is complete" in ended.err
    assert "gets its name back" not in run.run(warm, "--resume").err
    with pytest.raises(InputError, match="does not exist; check the name"):
        describe(image.with_name("p.zarr"))


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_b1_a_picture_without_room_leaves_a_whole_result_and_says_so(
    place: Path, image: Path, warm: Warm, shim: Any, name: str
) -> None:
    picture = image.with_name("p.png")
    run = command(place, image, name, "--overlay", str(picture))
    calls = count_calls(warm, run, image.with_name("log"), shim.log_of)
    whole, drawn = content(run.out), content(picture)
    at = next(n for n, (_, file) in enumerate(calls, 1) if ".p.png" in file)
    picture.unlink()
    shutil.rmtree(run.out) if run.out.is_dir() else run.out.unlink()
    ended = run.run(warm, fault=f"full:{at}")
    assert (ended.code, content(run.out), picture.exists()) == (5, whole, False)
    (line,) = (text for text in ended.err.splitlines() if text.startswith("unet2015: "))
    assert line.startswith(f"unet2015: {picture}: cannot write: No space left on device (")
    assert line.endswith(
        f"; the result {run.out} is written and whole, only this picture of it is missing: "
        "the same command with --resume draws it"
    )
    assert run.run(warm, "--resume").code == 0
    assert (content(run.out), content(picture)) == (whole, drawn)


@pytest.mark.parametrize("call", ["unlink", "rmdir"])
def test_a9_ctrl_c_while_a_folder_is_deleted_is_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Whatever it meets; a deletion that could not go on is finished by the next run."""
    target, real, calls = tmp_path / "o.zarr", getattr(os, call), 0

    def interrupted(*words: Any, **options: Any) -> Any:
        nonlocal calls
        found = real(*words, **options)
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return found

    lay(target, "old")
    lay(replacing.new_folder(target), "new")
    monkeypatch.setattr(os, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        replacing.replace_folder(target, overwrite=True)
    assert (target / "0" / "zarr.json").read_text() == "new"
    replacing.put_back(target)
    assert os.listdir(tmp_path) == ["o.zarr"]


def test_a9_no_signal_makes_a_deletion_close_a_file_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `shutil.rmtree` of Python 3.11 does, which then tells of a bad descriptor instead."""
    lay(tmp_path / "o.zarr", "old")
    real = os.close

    def interrupted(descriptor: int) -> None:
        real(descriptor)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "close", interrupted)
        remove_folder(tmp_path / "o.zarr")


def test_b7_links_in_a_folder_are_deleted_and_not_followed(tmp_path: Path) -> None:
    lay(tmp_path / "theirs", "kept")
    lay(tmp_path / "ours", "old")
    (tmp_path / "ours" / "link").symlink_to(tmp_path / "theirs", target_is_directory=True)
    (tmp_path / "ours" / "nowhere").symlink_to(tmp_path / "nothing")
    remove_folder(tmp_path / "ours")
    remove_folder(tmp_path / "ours")  # there is none
    assert os.listdir(tmp_path) == ["theirs"]
    assert (tmp_path / "theirs" / "0" / "zarr.json").read_text() == "kept"


def test_a6_folders_of_a_zarr_are_synced_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a folder's own file synced, its name in the folder above need not be."""
    done: list[Path] = []
    real_sync, real_replace = zarr_sink.fsync_folder, os.replace

    def synced(folder: Path) -> None:
        done.append(Path(folder))
        real_sync(folder)

    def renamed(source: Any, target: Any, **options: Any) -> None:
        if str(target).endswith("o.zarr"):
            folders = {Path(place) for place, _, _ in os.walk(source)}
            assert folders <= set(done)
        real_replace(source, target, **options)

    monkeypatch.setattr(zarr_sink, "fsync_folder", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with ZarrSink(tmp_path / "o.zarr", (300, 40), "uint8") as sink:
        sink[:, 0:300, 0:40] = np.ones((1, 300, 40), np.uint8)
    assert (tmp_path / "o.zarr" / "0" / "c" / "2" / "0").is_file()


@pytest.mark.parametrize("damage", ["zeroed", "cut off", "longer", "changed"])
@pytest.mark.parametrize(
    "torn", ["0/c/2/0", "1/c/1/0", "0/zarr.json", "1/zarr.json", "zarr.json"]
)  # fmt: skip
def test_a6_what_a_power_cut_tore_in_a_zarr_is_made_again(
    tmp_path: Path, torn: str, damage: str
) -> None:
    """Shards that the journal does not speak of, and what the arrays say about themselves."""
    image = np.random.default_rng(1).integers(0, 256, (1, 290, 140), dtype=np.uint8)

    def write(name: str, *, until: int = 290, resume: bool = False) -> str:
        options: dict[str, Any] = {"pyramid": "mean", "resume": resume}
        with contextlib.suppress(InterruptedError):  # noqa: SIM117
            with open_sink(tmp_path / name, (290, 140), "uint8", **options) as sink:
                for top in range(sink.rows_done, until, 128):
                    sink[:, top : min(290, top + 128), 0:140] = image[:, top : top + 128]
                if until < 290:
                    raise InterruptedError
        return content(tmp_path / name)

    whole = write("whole.zarr")
    write("o.zarr", until=256)
    data = bytearray((tmp_path / "whole.zarr" / torn).read_bytes())
    if damage == "zeroed":
        data[5:] = bytes(len(data) - 5)
    elif damage == "changed":
        data[-40] ^= 4
    elif damage == "cut off":
        del data[len(data) // 2 :]
    else:
        data += b"more"
    file = tmp_path / ".o.zarr.part.zarr" / torn
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    assert write("o.zarr", resume=True) == whole


def test_b3_a_shard_that_cannot_be_read_back_is_a_failing_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    def write() -> None:
        with ZarrSink(tmp_path / "o.zarr", (9, 9), "uint8") as sink:
            monkeypatch.setattr(Path, "read_bytes", fails)
            sink[:, 0:9, 0:9] = np.ones((1, 9, 9), np.uint8)

    with pytest.raises(WriteError, match="disk may be failing"):
        write()


def begin_another(out: Path) -> None:
    """Somebody takes the lock of a running run for a leftover, deletes it, and starts another."""
    out.with_name(f".{out.name}.lock").unlink()
    with contextlib.suppress(InterruptedError), open_sink(out, (300, 40), "uint8") as second:
        second[:, 0:150, 0:40] = np.full((1, 150, 40), 2, np.uint8)
        raise InterruptedError


def take_away(out: Path) -> None:
    """Somebody tidies up."""
    out.with_name(f".{out.name}.part").unlink()


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
@pytest.mark.parametrize("meanwhile", [begin_another, take_away])
def test_b8_data_that_are_no_longer_ours_are_not_published(
    tmp_path: Path, name: str, meanwhile: Callable[[Path], None]
) -> None:
    out, half = tmp_path / name, np.ones((1, 150, 40), np.uint8)

    def write() -> None:
        with open_sink(out, (300, 40), "uint8") as sink:
            sink[:, 0:150, 0:40] = half
            meanwhile(out)
            sink[:, 150:300, 0:40] = half

    with pytest.raises(WriteError, match="removed, moved or replaced"):
        write()
    assert not out.exists()


def test_b5_a_file_that_came_while_the_disk_was_waited_for_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, real = tmp_path / "o.tif", os.fsync
    band = np.ones((1, 9, 9), np.uint8)

    def slow(descriptor: int) -> None:
        real(descriptor)
        out.write_bytes(b"theirs")

    def write() -> None:
        with open_sink(out, (9, 9), "uint8") as sink:
            sink[:, 0:9, 0:9] = band
            monkeypatch.setattr(os, "fsync", slow)

    with pytest.raises(WriteError, match="already exists"):
        write()
    assert out.read_bytes() == b"theirs"


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_a1_instances_killed_about_their_publication_are_complete_or_taken_up(
    place: Path, image: Path, warm: Warm, shim: Any, name: str
) -> None:
    run = command(
        place, image, name, "--save", "instances", "--overlay", str(image.with_name("p.png"))
    )
    calls = count_calls(warm, run, image.with_name("log"), shim.log_of)
    whole = content(run.out)
    last = max(n for n, (call, _) in enumerate(calls, 1) if call == "replace")  # the overlay
    for n in range(last - 5, len(calls) + 1, 1 if name == "o.zarr" else 3):
        for path in (run.out, image.with_name("p.png")):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        assert run.run(warm, fault=f"kill:{n}").code == -9
        again = run.run(warm, "--resume")
        assert again.code == 0, (calls[n - 1], again.err)
        assert content(run.out) == whole
        assert image.with_name("p.png").exists()
        assert hidden(image.parent) in ([], [p for p in hidden(image.parent) if "-tmp" in p])


def test_b5_another_picture_is_kept_when_a_complete_run_is_repeated(
    place: Path, image: Path, warm: Warm
) -> None:
    picture = image.with_name("p.png")
    run = command(place, image, "o.tif", "--overlay", str(picture))
    assert run.run(warm).code == 0
    drawn = picture.read_bytes()
    assert run.run(warm, "--resume").code == 0
    assert picture.read_bytes() == drawn
    picture.write_bytes(b"mine")
    again = run.run(warm, "--resume")
    assert again.code == 5
    assert "p.png: already exists" in again.err
    assert picture.read_bytes() == b"mine"


def rewrite(image: Path) -> None:
    """Other pixels in place, under the old time of writing."""
    before = image.stat()
    data = bytearray(image.read_bytes())
    data[-500:] = bytes(500)
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("save", ["instances", "probability"])
def test_b12_an_input_rewritten_under_its_old_time_is_noticed_before_publishing(
    place: Path, image: Path, monkeypatch: pytest.MonkeyPatch, save: Any
) -> None:
    name = "label_bands" if save == "instances" else "stitch"
    real = getattr(product, name)

    def meanwhile(*args: Any, **keywords: Any) -> Any:
        found = real(*args, **keywords)
        rewrite(image)
        return found

    monkeypatch.setattr(product, name, meanwhile)
    model, out = load_model(place / "model.safetensors"), image.with_name("o.tif")
    with pytest.raises(InputChangedError, match="changed while it was being read"):
        predict_file(model, image, out, Settings(output_tile=60, save=save, device="cpu"))
    assert not out.exists()


def test_b12_a_permission_or_a_second_name_is_no_change(
    place: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = product.label_bands

    def meanwhile(*args: Any, **keywords: Any) -> Any:
        image.chmod(0o600)
        os.link(image, image.with_name("second.tif"))
        return real(*args, **keywords)

    monkeypatch.setattr(product, "label_bands", meanwhile)
    predict_file(load_model(place / "model.safetensors"), image, image.with_name("o.tif"), SMALL)
    assert image.with_name("o.tif").exists()


def test_b8_nobody_takes_the_classes_from_a_run_that_numbers_them(
    place: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, met = load_model(place / "model.safetensors"), image.with_name("o.tif"), []
    real = product._label

    def other() -> None:
        for settings in (SMALL, Settings(output_tile=60, save="label", device="cpu")):
            try:
                predict_file(model, image, out, settings, resume=True)
            except Fault as error:
                met.append(type(error))

    def meanwhile(*args: Any, **keywords: Any) -> Any:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return real(*args, **keywords)

    monkeypatch.setattr(product, "_label", meanwhile)
    predict_file(model, image, out, SMALL)
    assert met == [LockedError, LockedError]
    assert out.exists()
    assert hidden(image.parent) == []


@pytest.mark.parametrize("name", ["o.tif", "o.zarr"])
def test_b8_an_output_that_another_run_completed_meanwhile_stops_before_the_work(
    place: Path, image: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    model, out = load_model(place / "model.safetensors"), image.with_name(name)

    def late(path: Path) -> Any:
        monkeypatch.undo()
        predict_file(model, image, out, SMALL)
        return holding(path)

    monkeypatch.setattr(product, "holding", late)
    shown: list[object] = []
    with pytest.raises(WriteError, match="already exists"):
        predict_file(model, image, out, SMALL, progress=lambda *told: shown.append(told))
    assert shown == []
    assert hidden(image.parent) == []


def test_b8_a_held_output_is_held_against_other_threads_until_the_end(tmp_path: Path) -> None:
    met: list[str] = []

    def other() -> None:
        try:
            with OutputLock(tmp_path / "o.tif"):
                met.append("taken")
        except LockedError:
            met.append("refused")

    with holding(tmp_path / "o.tif"):
        with OutputLock(tmp_path / "o.tif"):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    other()
    assert met == ["refused", "taken"]
    assert hidden(tmp_path) == []


def test_b1_a_full_disk_is_told_with_the_bytes_of_the_zarr_to_come(
    tmp_path: Path, faulty: Any
) -> None:
    with (
        pytest.raises(WriteError, match=r"\(up to 65536 bytes needed, \d+ bytes free\)"),
        ZarrSink(tmp_path / "o.zarr", (200, 150), np.uint8) as sink,
        faulty("full:1"),
    ):
        sink[..., 0:200, 0:150] = np.zeros((200, 150), np.uint8)
