"""Names of the files of a Zarr array: which of its chunks are there, and what else is.

A chunk that is missing is the fill value. But where none is there under the name that the metadata
imply, and other files are, the chunks bear other names and would all be read as zeros; and where a
copy was broken off, a temporary file lies in place of a chunk.
Sources: Zarr v2 and v3 core specifications; rsync(1), `--partial-dir` and its temporary names.
"""

from __future__ import annotations

import math
import operator
import os
import re
from collections.abc import Callable
from typing import Any

from tiling.faults import InputError
from tiling.zarr_checks import METADATA

__all__ = ["ChunkNames"]

_MARK = 900_000_001  # numbers that are found again in a name
_NUMBER = "(0|[1-9][0-9]*)"
_TEMPORARY = re.compile(
    r".+\.(partial|part|tmp|temp|filepart|crdownload)|.+~|\.(?!nfs).+\.[A-Za-z0-9]{6}"
    r"|.*\d.*(conflict|copy|\(\d+\)).*",  # what programs that keep folders alike call a second one
    re.IGNORECASE,
)
_NO_CONCERN = re.compile(r"\.ds_store|\._.*|\.nfs.*|thumbs\.db|desktop\.ini", re.IGNORECASE)
_LIKE_A_CHUNK = re.compile(r"c?[0-9./_-]+")
_KEPT = 64  # names of temporary files that are looked at


class ChunkNames:
    """A look at the files of a Zarr array while its folder is listed.

    Parameters
    ----------
    root, array
        Folder of the Zarr, and an array in it.

    Examples
    --------
    >>> import tempfile, zarr
    >>> with tempfile.TemporaryDirectory() as root:
    ...     array = zarr.create_array(root, shape=(4, 4), chunks=(2, 4), dtype="u1")
    ...     array[:2] = 1
    ...     names = ChunkNames(root, array)
    ...     names.see("c/0/0")
    ...     names.see("c/1/0.tmp")
    ...     try:
    ...         names.doubts()
    ...     except InputError as error:
    ...         error.reason.partition(";")[0]
    'lacks its chunk c/1/0, and c/1/0.tmp lies there: it was not copied or written to its end'
    """

    def __init__(self, root: str, array: Any) -> None:
        inside = [name for name in array.path.split("/") if name]
        self._folder = os.path.join(root, *inside)  # noqa: PTH118 - as they are listed
        self._prefix = len(os.path.join(self._folder, ""))  # noqa: PTH118
        cells = getattr(array, "shards", None) or array.chunks
        self._counts = [-(-side // cell) for side, cell in zip(array.shape, cells, strict=True)]
        encoded: Callable[[tuple[int, ...]], str] = array.metadata.encode_chunk_key
        self._first = encoded((0,) * len(cells))
        pattern = re.escape(encoded(tuple(_MARK + n for n in range(len(cells)))))
        for n in range(len(cells)):
            pattern = pattern.replace(str(_MARK + n), _NUMBER)
        self._whole, self._begun = re.compile(pattern), re.compile(f"{pattern}(?=[.~ (]|$)")
        self._version = int(array.metadata.zarr_format)
        self._found, self._linked = 0, False
        self._left: list[str] = []
        self._other = ""

    def see_entry(self, entry: os.DirEntry[str]) -> None:
        """Take account of a file in the folder."""
        if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 - also of a loop
            self._linked = True  # chunks may lie there; nobody lists it
        else:
            name = entry.path[self._prefix :]
            self.see(name if os.sep == "/" else name.replace(os.sep, "/"))

    def see(self, name: str) -> None:
        """Take account of a file of this name, told from the folder of the array, with slashes."""
        found = self._whole.fullmatch(name)
        if found and self._in_the_array(found):
            self._found += 1
            return
        *folders, last = name.split("/")
        if last in METADATA or _NO_CONCERN.fullmatch(last):
            return
        hidden = any(folder.startswith(".") for folder in folders)
        temporary = not hidden and _TEMPORARY.fullmatch(last)
        if temporary or ((hidden or last.startswith(".")) and self._chunk_of(name)):
            self._left += [name] if len(self._left) < _KEPT else []
        elif not hidden and not last.startswith("."):
            self._other = min(self._other or name, name, key=_unlike_a_chunk)

    def _in_the_array(self, found: re.Match[str]) -> bool:
        return all(map(operator.lt, map(int, found.groups()), self._counts))

    def _chunk_of(self, name: str) -> str:
        """Name of the chunk that a temporary file is to become; "" where it does not tell."""
        *folders, last = name.split("/")
        plain = [folder for folder in folders if not folder.startswith(".")]
        found = self._begun.match("/".join([*plain, last.lstrip(".")]))
        return found[0] if found and self._in_the_array(found) else ""

    def doubts(self) -> tuple[str, ...]:
        """What the user is to know of the files that are there; mostly nothing.

        Raises
        ------
        InputError
            Chunks are missing, and what is there instead says that this is no gap.
        """
        expected = math.prod(self._counts)
        other = self._other
        in_the_way = self._first.startswith(f"{other}/")  # of a folder: found when it is read
        if self._linked or self._found >= expected or in_the_way:
            return ()
        if other and not self._found:
            raise self._misnamed(other)
        for name in sorted(self._left):
            chunk = self._chunk_of(name)
            if chunk and not os.path.lexists(os.path.join(self._folder, chunk)):  # noqa: PTH118
                raise InputError(
                    self._folder, f"lacks its chunk {chunk}, and {name[:80]} lies there: it was "
                    "not copied or written to its end; copy the folder again from where it came",
                )  # fmt: skip
        odd = min(self._left, default="" if _unlike_a_chunk(other)[0] else other)
        if odd and not self._found:
            raise self._misnamed(odd)
        if not odd:
            return ()
        return (
            f"lacks {expected - self._found} of its {expected} chunks, read as the fill value, and "
            f"holds {odd[:80]}, which is none: make sure that it was copied and written to its end",
        )

    def _misnamed(self, odd: str) -> InputError:
        key, file = "dimension_separator", ".zarray"
        if self._version > 2:
            key, file = "chunk_key_encoding", "zarr.json"
        return InputError(
            self._folder, "holds none of its chunks under the names that its metadata imply "
            f"({self._first} was looked for, {odd[:80]} is there); correct {key!r} in its {file}, "
            "copy the folder again from where it came, or save the image anew",
        )  # fmt: skip


def _unlike_a_chunk(name: str) -> tuple[bool, str]:
    return _LIKE_A_CHUNK.fullmatch(name) is None, name
