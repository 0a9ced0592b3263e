"""An OME-Zarr image as a sink, written band by band and resumable.

One row of whole shards is written at a time, never a part of a shard: two writers inside one shard
silently lose data. The folder grows beside its final name and appears by a rename.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import zarr

from tiling.disk import (
    StrPath,
    check_descriptors,
    fsync_folder,
    real_target,
    remove,
    remove_folder,
    writing,
)
from tiling.faults import WriteError
from tiling.journal import numbered_records
from tiling.lock import OutputLock
from tiling.meaning import Meaning
from tiling.ngff import ORDER, ome_attributes
from tiling.paged_rows import Key
from tiling.paged_sink import PagedSink
from tiling.partial import Partial
from tiling.replacing import new_folder, put_back, replace_folder
from tiling.safe_write import check_zarr_target
from tiling.unfinished import discard_partial
from tiling.zarr_checks import COMPRESSED, check_codecs
from tiling.zarr_growing import GrowingStore

__all__ = ["CHUNK", "ZarrSink", "holds_all_shards"]

CHUNK = 128
_SHARD_COLUMNS = 4096
_BLOCK = 1 << 22
_METADATA = "metadata"  # note with the hash of what the arrays say about themselves


class ZarrSink(PagedSink):
    """An OME-Zarr 0.5 image (Zarr v3, sharded) that is written band by band.

    Parameters are those of `tiling.tiff_sink.TiffSink` without `compression`: the codec is zarr's
    own choice. The axes are stored in the order that OME-NGFF asks for (T, C, Z, Y, X). The pixels
    are the array "0" in the folder, the smaller levels "1", "2", ...
    """

    def __init__(
        self,
        path: StrPath,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        meaning: Meaning = Meaning(),  # noqa: B008 - frozen
        provenance: Mapping[str, Any] | None = None,
        pyramid: str = "",
        overwrite: bool = False,
        resume: bool = False,
    ) -> None:
        self.shape = tuple(int(side) for side in shape)
        self.dtype = np.dtype(dtype).newbyteorder("=")
        self._lay_out(
            self._write_shards, CHUNK, meaning=meaning, provenance=provenance, pyramid=pyramid
        )
        self.stored_axes = "".join(sorted(self.axes, key=_place))
        self._arrays: list[Any] = []
        self._bytes: list[int] = []  # of the files of each row of shards
        self.target, self._overwrite, self._resume = real_target(path), overwrite, resume
        self._folder = new_folder(self.target)
        self._store = GrowingStore(self._folder)
        check_zarr_target(self.target, overwrite=overwrite)
        self._partial = Partial(path, identity=self._identity(chunk=CHUNK), overwrite=overwrite)

    @property
    def compression(self) -> str:
        """Name of the codec that packs the chunks, zarr's own choice; known once it is entered."""
        return "".join(sorted(check_codecs(self.target, self._arrays[0].metadata) & COMPRESSED))

    def _begin_band(self, page: int, key: Key, block: npt.NDArray[Any]) -> None:
        """Shards are as wide as several tiles of a network: all of a row is waited for."""

    def _write_shards(self, number: int, group: npt.NDArray[Any]) -> None:
        """Write one row of whole shards of each channel, and the smaller ones that are now due."""
        page, row = divmod(number, self._rows.down)
        files = list(self._shards(number))
        with self._writing():
            for file in files:
                remove(file)  # what a killed run left may be torn, and zarr reads it at the edges
            for level, down, pixels in self._pyramid.add(row, group):
                whole = pixels if "C" in self.axes else pixels[0]
                self._arrays[level][self._where(page, level, down)] = whole
            for file in files:
                _fsync(file)
            for folder in {file.parent for file in files}:
                fsync_folder(folder)
            digest, size = _hash(files), _size(files)
        self._partial.append({"n": number, "sha256": digest})
        self._bytes.append(size)

    def _writing(self) -> AbstractContextManager[None]:
        """`writing`, with the bytes of the pixels that are still to come; packing needs fewer."""
        rows = self._rows.pages * self._rows.down
        area = sum(-(-h // CHUNK) * CHUNK * _padded(w) for h, w in self._pyramid.sizes)
        whole = area * self._rows.pages * self._rows.channels * self.dtype.itemsize
        left = -(-whole * max(1, rows - self._rows.done) // rows)
        return writing(self.target, left, bound="up to")

    def _where(self, page: int, level: int, down: int) -> tuple[Any, ...]:
        """Place of a row of shards in the array of its level."""
        rows = slice(down * CHUNK, min((down + 1) * CHUNK, self._pyramid.sizes[level][0]))
        return (*self._indices(page, slice(None)), rows, slice(None))

    def _indices(self, page: int, channels: Any) -> tuple[Any, ...]:
        """Place of a page in the stored axes before rows and columns."""
        where = np.unravel_index(page, self._rows.page_shape)
        place = dict(zip(self._rows.page_axes, where, strict=True))
        return tuple(channels if a == "C" else int(place[a]) for a in self.stored_axes[:-2])

    def _shards(self, number: int) -> Iterator[Path]:
        """Files that are written with one row of shards of the finest level."""
        page, row = divmod(number, self._rows.down)
        for level, down in self._pyramid.due(row):
            width = self._pyramid.sizes[level][1]
            across = -(-width // _shard_columns(width))
            for channel, column in itertools.product(range(self._rows.channels), range(across)):
                place = (*self._indices(page, channel), down, column)
                yield self._folder.joinpath(str(level), "c", *map(str, place))

    def __enter__(self) -> Self:
        with OutputLock(self.target), writing(self.target):
            check_descriptors()
            put_back(self.target)
            check_zarr_target(self.target, overwrite=self._overwrite)
        if not self._resume:
            discard_partial(self.target)
        self._partial.__enter__()
        try:
            with self._writing():
                self._take_up()
        except BaseException as error:
            self._partial.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def _take_up(self) -> None:
        """Open the unfinished array, or make a new one, and count the rows that are whole."""
        folders = [self._folder / str(level) for level in range(self._pyramid.levels + 1)]
        said = [folder / "zarr.json" for folder in folders]
        total = self._rows.pages * self._rows.down
        latest = numbered_records([r for r in self._partial.records if "n" in r], total)
        if latest and self.notes.get(_METADATA) == _hash(said):
            for torn in list(self._folder.rglob("*.partial")):
                torn.unlink()  # zarr's temporary files of a run that was killed
            with zarr.config.set({"array.write_empty_chunks": True}):  # no file remembers it
                self._arrays = [
                    zarr.open_array(self._store, path=folder.name, mode="r+") for folder in folders
                ]
            for record in latest:
                if _hash(self._shards(record["n"])) != record.get("sha256"):
                    break
                self._bytes.append(_size(self._shards(record["n"])))
                self._rows.done += 1
        else:
            remove_folder(self._folder)
            self._folder.mkdir(exist_ok=True)
            group = zarr.create_group(self._store, zarr_format=3)
            self._arrays = [self._created(group, level) for level in range(len(folders))]
            for file in said:
                _fsync(file)
            self._partial.note(_METADATA, _hash(said))
        page, row = divmod(self._rows.done, self._rows.down)
        self._pyramid.take_up(row, lambda level, down: self._read_back(page, level, down))

    def _read_back(self, page: int, level: int, down: int) -> npt.NDArray[Any]:
        """Pixels (K, h, W) of a row of shards that is written already."""
        found = np.asarray(self._arrays[level][self._where(page, level, down)])
        return found if "C" in self.axes else found[None]

    def _created(self, group: Any, level: int) -> Any:
        sizes = dict(zip(self.axes, self.shape, strict=True))
        ones = (1,) * (len(self.shape) - 2)
        height, width = self._pyramid.sizes[level]
        return group.create_array(
            str(level),
            shape=(*(sizes[axis] for axis in self.stored_axes[:-2]), height, width),
            dtype=self.dtype,
            chunks=(*ones, CHUNK, CHUNK),
            shards=(*ones, CHUNK, _shard_columns(width)),
            dimension_names=tuple(self.stored_axes.lower()),
            config={"write_empty_chunks": True},
        )

    def _forget(self) -> None:
        remove_folder(self._folder)
        super()._forget()

    def _finish(self) -> None:
        self._rows.check_complete()
        with self._writing():
            remove(self._folder / "zarr.json")  # made anew: it may have been damaged since
            attributes = {"ome": self._metadata(), "unet2015": self.provenance}
            zarr.create_group(self._store, zarr_format=3, attributes=attributes)
            for file in self._folder.glob("**/zarr.json"):
                _fsync(file)
            for place, _, _ in os.walk(self._folder, topdown=False):
                fsync_folder(Path(place))  # the names of files and of folders made on the way
        check_zarr_target(self.target, overwrite=self._overwrite)  # after the wait
        self._partial.check_publishable()
        self._check_whole()
        with self._writing():
            replace_folder(self.target, overwrite=self._overwrite)
        self._partial.discard()

    def _check_whole(self) -> None:
        """Refuse a folder of which something was taken away: zarr makes what is missing anew."""
        said = [self._folder / str(level) / "zarr.json" for level in range(len(self._arrays))]
        sizes = [_size(self._shards(row)) for row in range(len(self._bytes))]
        if self.notes.get(_METADATA) != _hash(said) or sizes != self._bytes:
            reason = f"{self._folder.name} was removed, moved or changed meanwhile; run again"
            raise WriteError(self.target, reason)

    def _metadata(self) -> dict[str, Any]:
        """OME-NGFF description of the levels."""
        whole = self.dtype.kind in "ui" and self.dtype.itemsize < 4
        top = float(np.iinfo(self.dtype).max) if whole else 1.0
        return ome_attributes(self.stored_axes, len(self._arrays), self._meaning, top)


def holds_all_shards(folder: Path) -> bool:
    """Whether no file of pixels is missing in a folder that `ZarrSink` wrote.

    Parameters
    ----------
    folder
        The complete image.

    Returns
    -------
    bool
        A reader would take the pixels of a missing file for zeros.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = Path(place, "a.zarr")
    ...     with ZarrSink(folder, (4, 5), "uint8") as sink:
    ...         sink[..., 0:4, 0:5] = np.zeros((4, 5), np.uint8)
    ...     whole = holds_all_shards(folder)
    ...     (folder / "0" / "c" / "0" / "0").unlink()
    ...     whole, holds_all_shards(folder)
    (True, False)
    """
    for name, array in zarr.open_group(str(folder), mode="r").arrays():
        steps = array.shards or array.chunks
        expected = math.prod(-(-n // step) for n, step in zip(array.shape, steps, strict=True))
        found = sum(file.is_file() for file in (folder / name / "c").rglob("*"))
        if found != expected:
            return False
    return True


def _place(letter: str) -> int:
    return ORDER.find(letter) if letter in ORDER else 0


def _shard_columns(width: int) -> int:
    return -(-min(width, _SHARD_COLUMNS) // CHUNK) * CHUNK


def _padded(width: int) -> int:
    """Width of the shards of a row, as stored."""
    return -(-width // _shard_columns(width)) * _shard_columns(width)


def _fsync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDWR)  # Windows syncs no file opened for reading only
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(files: Iterable[Path]) -> int:
    """Bytes of these files together; -1 where one is missing or none."""
    found = 0
    for file in files:
        if not file.is_file():
            return -1
        found += file.stat().st_size
    return found


def _hash(files: Any) -> str:
    found = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    found.update(block)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            found.update(b"missing")
    return found.hexdigest()
