"""The sound part of an LZW stream, so that the fast decoder never meets a wild or torn code.

The decoder of imagecodecs 2026.3.6 crashes the process (a read outside its table) on a stream
whose first code after a Clear is above 255, and loses bits of the last code where no End follows
it. Here the codes are looked at first, a table's worth at a time: between two Clear codes the width
of each code is known beforehand, because it depends on nothing but the number of codes since the
Clear.
Source: TIFF 6.0 section 13 (codes most significant bit first, "early change").
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["sound_stream", "without_last_code"]

_CLEAR, _END, _FIRST = 256, 257, 258
# Code number k after a Clear may name any entry below 257 + k, or the one being made.
_COUNT = 4096 - _FIRST + 1
_NUMBER = np.arange(_COUNT)
_WIDTH = np.select([_NUMBER < 254, _NUMBER < 766, _NUMBER < 1790], [9, 10, 11], 12)
_START = np.concatenate(([0], np.cumsum(_WIDTH)))
_LARGEST = np.where(_NUMBER == 0, 255, 257 + _NUMBER)
_SHORT = 253  # most codes between two Clears that are all of nine bits, the second Clear too
_WINDOW = 4096  # codes of nine bits that are looked at together
_SURPLUS = 4096  # codes beyond the pixels: one for each byte that some encoders add, and more
_EMPTY = 16  # Clears that follow a Clear


def sound_stream(data: bytes, length: int) -> bytes:
    """The codes of an LZW stream up to the first that makes no sense, and an End code.

    Parameters
    ----------
    data
        The stream; it must begin with a Clear code.
    length
        Decoded bytes expected: each code stands for a byte at least, so no more codes are looked
        at than that and some; and few Clears that follow one another at once.

    Returns
    -------
    bytes
        The stream itself, where it ends with an End code.

    Examples
    --------
    >>> stream = bytes.fromhex("80106020")  # Clear 65 End
    >>> sound_stream(stream, 1) == stream, sound_stream(stream[:3], 1)[:4] == stream
    (True, True)
    >>> sound_stream(bytes([0b10000000, 0b01001000, 0b00100000]), 1)[:3].hex()  # Clear 288
    '804040'
    """
    return _scanned(data, length)[0]


def without_last_code(data: bytes, length: int) -> bytes:
    """The sound codes of a stream but the last that stands for pixels, and an End code.

    Parameters
    ----------
    data, length
        As in `sound_stream`.

    Examples
    --------
    >>> without_last_code(bytes.fromhex("8010485010"), 2)[:4].hex()  # Clear 65 66 End
    '80106020'
    """
    _, place, width = _scanned(data, length)
    return _ended(data, place, width)


def _scanned(data: bytes, length: int) -> tuple[bytes, int, int]:
    """The sound stream; first bit and width of the last code that stands for pixels."""
    bits = 8 * len(data)
    stream = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    last = 0, 9
    if bits < 9 or (stream[0] << 1 | stream[1] >> 7) != _CLEAR:
        return b"", *last
    place, left, empty = 9, length + _SURPLUS, _EMPTY
    short = False
    while place < bits and left > 0 and empty:
        if short:  # an encoder that clears its table early does so again and again
            read, made = _short_tables(stream, place, bits)
            last = (place + 9 * (read - 2), 9) if read else last
            place, left = place + 9 * read, left - made
        count = int(np.searchsorted(_START, bits - place, side="right")) - 1
        at = place + _START[:count]
        width = _WIDTH[:count]
        codes = _codes(stream, at, width)
        special = (codes == _CLEAR) | (codes == _END)
        stops = np.flatnonzero(special | (codes > _LARGEST[:count]))
        stop = int(stops[0]) if stops.size else count
        last = (int(at[stop - 1]), int(width[stop - 1])) if stop else last
        if not stops.size:  # the data end here, or the table is full without a Clear
            end = place + int(_START[count])
            return _ended(data, end, int(_WIDTH[min(count, _COUNT - 1)])), *last
        if codes[stop] == _END:
            return data, *last
        if codes[stop] != _CLEAR:
            return _ended(data, int(at[stop]), int(width[stop])), *last
        place = int(at[stop] + width[stop])
        left, empty, short = left - stop, empty - (not stop), stop <= _SHORT
    return _ended(data, place, 9), *last


def _codes(
    stream: npt.NDArray[np.uint32], at: npt.NDArray[np.int64], width: npt.NDArray[np.int64] | int
) -> npt.NDArray[np.uint32]:
    """Codes of `width` bits that begin at the bits `at`."""
    byte = at >> 3
    three = (stream[byte] << 16) | (stream[byte + 1] << 8) | stream[byte + 2]
    shift = np.asarray(24 - (at & 7) - width, np.uint32)
    return np.asarray((three >> shift) & ((1 << width) - 1), np.uint32)


def _short_tables(stream: npt.NDArray[np.uint32], place: int, bits: int) -> tuple[int, int]:
    """Sound tables of at most `_SHORT` codes that follow one another from bit `place` on.

    Returns
    -------
    int
        Number of codes that they take, each table's Clear at its end among them.
    int
        Number of codes that stand for pixels.
    """
    at = place + 9 * np.arange(min((bits - place) // 9, _WINDOW))
    codes = _codes(stream, at, 9)
    clears = np.flatnonzero(codes == _CLEAR)
    made = np.diff(clears, prepend=-1) - 1
    odd = np.flatnonzero((made > _SHORT) | (made < 1))  # left to the caller, like all behind it
    if odd.size:
        clears, made = clears[: odd[0]], made[: odd[0]]
    if not clears.size:
        return 0, 0
    codes = codes[: clears[-1] + 1]
    number = np.arange(codes.size) - np.repeat(clears - made, made + 1)
    wrong = np.flatnonzero((codes != _CLEAR) & ((codes == _END) | (codes > _LARGEST[number])))
    sound = int(np.searchsorted(clears, wrong[0])) if wrong.size else clears.size
    return (int(clears[sound - 1]) + 1, int(made[:sound].sum())) if sound else (0, 0)


def _ended(data: bytes, place: int, width: int) -> bytes:
    """The codes before bit `place`, which are whole, an End code of `width` bits, and zeros."""
    whole, spare = divmod(place, 8)
    begun = data[whole] >> (8 - spare) if spare else 0
    tail = (begun << width | _END) << (-(spare + width) % 8)
    return data[:whole] + tail.to_bytes((spare + width + 7) // 8, "big") + bytes(4)
