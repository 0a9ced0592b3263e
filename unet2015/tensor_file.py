"""One file of named tensors and one JSON object, in which no single bit can change unnoticed.

It is a plain safetensors file that any reader of that format opens: eight bytes of header length,
a JSON header, then the tensors without gaps. On top of the format: every tensor's SHA-256 stands
in the JSON, the header's own SHA-256 in the header (computed with zeros in its place), the order
is fixed, so equal content gives equal bytes, and every size is checked before memory is asked
for. Nothing in the file is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from typing import Any, BinaryIO, NoReturn

import torch
from torch import Tensor

from tiling.faults import ModelFileError

__all__ = ["FORMAT", "open_regular", "read", "write"]

FORMAT = "unet2015/1"
MAX_BYTES = 16 * 2**30
MAX_HEADER_BYTES = 4 * 2**20
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_PREFIX = f'{{"__metadata__":{{"format":"{FORMAT}","header_sha256":"'.encode()
_NO_HASH = "0" * 64
_FLAGS = os.O_RDONLY
for _name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"):  # each is missing on some system
    _FLAGS |= getattr(os, _name, 0)
_TORCH = (
    "a torch (pickle) file, which can run code when opened; it was not opened. Load it in a Python "
    "process you trust and store its state_dict with unet2015.checkpoint.save"
)
_FOREIGN = (
    (b"PK\x03\x04", _TORCH),
    (b"PK\x05\x06", _TORCH),
    (b"\x80", _TORCH),
    (b"\x89HDF", "an HDF5 (Keras) file; only checkpoints of unet2015 are read"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"<", "an HTML or XML page, not a checkpoint; was the download complete?"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (b"II*\0", "a TIFF image, not a checkpoint"),
    (b"MM\0*", "a TIFF image, not a checkpoint"),
    (b"II+\0", "a TIFF image, not a checkpoint"),
    (b"MM\0+", "a TIFF image, not a checkpoint"),
    (b"\x89PNG", "a PNG image, not a checkpoint"),
)


def write(stream: BinaryIO, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write `tensors` and the JSON object `content`; equal arguments give equal bytes.

    Parameters
    ----------
    stream
        Binary file open for writing.
    tensors
        Up to 4096 dense tensors of any device, by name; sorted here, so their order is free.
    content
        JSON values only; "sha256" is added here.

    Raises
    ------
    ValueError
        If `content` is not JSON (NaN and Inf are not), or a limit is exceeded.
    TypeError
        If a tensor's dtype has no place in the format.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise TypeError(f"tensor {name} is {tensor.dtype}, which safetensors cannot hold")
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    data = {name: _raw(tensors[name]) for name in order}
    hashes = {name: hashlib.sha256(data[name]).hexdigest() for name in order}
    metadata = {
        "format": FORMAT,
        "header_sha256": _NO_HASH,
        "content": _dumps({**content, "sha256": hashes}),
    }
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        begin, end = end, end + len(data[name])
        shape = list(tensors[name].shape)
        dtype = _NAMES[tensors[name].dtype]
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES or len(order) > MAX_TENSORS:
        raise ValueError(f"{len(order)} tensors and a header of {len(text)} bytes are too many")
    header = len(text).to_bytes(8, "little") + text
    digest = hashlib.sha256(header).hexdigest().encode()
    at = 8 + len(_PREFIX)
    stream.write(header[:at] + digest + header[at + len(digest) :])
    for name in order:
        stream.write(data[name])


def read(
    path: str | os.PathLike[str], digest: hashlib._Hash | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (on the CPU) and JSON object of a file made by `write`.

    Parameters
    ----------
    path
        The file.
    digest
        Is given every byte of the file as it is read, so that it tells what was loaded, also
        where the name soon stands for another file.

    Raises
    ------
    ModelFileError
        If the file is anything else, or a single bit of it differs from what was written.
    """
    with open_regular(path) as stream:
        try:
            return _read(path, stream, os.fstat(stream.fileno()).st_size, digest)
        except (OSError, MemoryError) as error:
            raise ModelFileError(path, f"cannot be read: {error or 'out of memory'}") from error


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a directory, device or FIFO raises `ModelFileError`."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        remedy = "check the name" if gone else "copy it again from where it came"
        raise ModelFileError(path, f"cannot be opened: {error.strerror}; {remedy}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ModelFileError(path, "is not a regular file; give the model file itself")
    return os.fdopen(descriptor, "rb")


def foreign(first_bytes: bytes) -> str | None:
    """What a file is, when its first bytes tell that it is another kind of file."""
    if not first_bytes:
        return "an empty file; was the copy or download complete?"
    if not first_bytes.strip(b"\0"):
        return "zeros where its header should be; was the disk cut off, the download complete?"
    if first_bytes[257:262] == b"ustar":
        return _TORCH
    for magic, sentence in _FOREIGN:
        if first_bytes.lstrip().startswith(magic):
            return sentence
    return None


def _read(
    path: str | os.PathLike[str], stream: BinaryIO, size: int, digest: hashlib._Hash | None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    def refuse(reason: str) -> NoReturn:
        raise ModelFileError(path, reason)

    first = stream.read(512)
    length = int.from_bytes(first[:8], "little")
    if first[8:9] != b"{" or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        refuse(foreign(first) or "not a checkpoint of unet2015, or a damaged or truncated one")
    if size > MAX_BYTES:
        refuse(f"{size} bytes exceed the limit of {MAX_BYTES} for a checkpoint")
    stream.seek(0)
    header = stream.read(8 + length)
    if digest is not None:
        digest.update(header)
    if not header[8:].startswith(_PREFIX):
        refuse(_other_format(header[8:]))
    at = 8 + len(_PREFIX)
    without = header[:at] + _NO_HASH.encode() + header[at + 64 :]
    if hashlib.sha256(without).hexdigest().encode() != header[at : at + 64]:
        refuse("its header is damaged (SHA-256 differs); use another copy of the file")
    try:
        entries = _loads(header[8:])
        content = _loads(entries.pop("__metadata__")["content"])
        layout = _layout(entries, size - 8 - length)
        hashes = content.pop("sha256")
        if not isinstance(hashes, dict) or sorted(hashes) != sorted(layout):
            raise ValueError("hashes and tensors do not belong together")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelFileError(path, f"its header breaks the format: {str(error)[:200]}") from error
    tensors = {}
    for name, (dtype, shape, count) in layout.items():
        data = bytearray(count)
        if stream.readinto(data) != count:  # type: ignore[attr-defined]
            refuse(f"truncated inside tensor {name}")
        if hashlib.sha256(data).hexdigest() != hashes[name]:
            refuse(f"tensor {name} is damaged (SHA-256 differs); use another copy of the file")
        if digest is not None:
            digest.update(data)
        flat = torch.frombuffer(data, dtype=dtype) if count else torch.empty(0, dtype=dtype)
        tensors[name] = flat.reshape(shape)
    return tensors, content


def _layout(
    entries: dict[str, Any], data_bytes: int
) -> dict[str, tuple[torch.dtype, list[int], int]]:
    """Dtype, shape and byte count of each tensor, or `ValueError`; nothing is allocated."""
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"{len(entries)} tensors, at most {MAX_TENSORS} are allowed")
    layout = {}
    end = 0
    for name, entry in entries.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {name!r} needs dtype, shape and data_offsets")
        shape, dtype = entry["shape"], _DTYPES.get(str(entry["dtype"]))
        sides_fit = isinstance(shape, list) and len(shape) <= MAX_DIMENSIONS
        if dtype is None or not sides_fit or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"tensor {name!r} has dtype {entry['dtype']!r}, shape {shape!r}")
        count = math.prod(shape) * dtype.itemsize
        if entry["data_offsets"] != [end, end + count]:
            raise ValueError(f"tensor {name!r} is not at {[end, end + count]}")
        end += count
        layout[name] = (dtype, shape, count)
    if end != data_bytes:
        raise ValueError(f"the tensors need {end} bytes, the file holds {data_bytes}")
    return layout


def _other_format(text: bytes) -> str:
    try:
        known = _loads(text).get("__metadata__", {}).get("format")
    except (ValueError, AttributeError, RecursionError):
        return "its header is damaged; use another copy of the file"
    if isinstance(known, str) and known.startswith("unet2015/"):
        return f"format {known[:40]!r} is not {FORMAT!r}: written by another version of unet2015"
    return f"a safetensors file, but not a checkpoint of unet2015 (no format {FORMAT!r} in it)"


def _raw(tensor: Tensor) -> memoryview:
    """Bytes of a tensor in C order, without a copy where it is already dense on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


def _dumps(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _loads(text: str | bytes) -> Any:
    """JSON without repeated keys, NaN or Infinity, each of which would be read as a guess."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice")
        return found

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
