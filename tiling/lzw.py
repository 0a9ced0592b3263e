"""How much of an LZW stream is sound, so that the fast decoder never meets a wild code.

The decoder of imagecodecs 2026.3.6 crashes the process (a read outside its table) on a stream
whose first code after a Clear is above 255. Here the codes are looked at first, a table's worth at
a time: between two Clear codes the width of each code is known beforehand, because it depends on
nothing but the number of codes since the Clear.
Source: TIFF 6.0 section 13 (codes most significant bit first, "early change").
"""

from __future__ import annotations

import numpy as np

__all__ = ["sound_bytes"]

_CLEAR, _END, _FIRST = 256, 257, 258
# Code number k after a Clear may name any entry below 257 + k, or the one being made.
_COUNT = 4096 - _FIRST + 1
_NUMBER = np.arange(_COUNT)
_WIDTH = np.select([_NUMBER < 254, _NUMBER < 766, _NUMBER < 1790], [9, 10, 11], 12)
_START = np.concatenate(([0], np.cumsum(_WIDTH)))
_LARGEST = np.where(_NUMBER == 0, 255, 257 + _NUMBER)
_FEWEST_BYTES = 3000  # decoded bytes between two Clears of any encoder that fills its table


def sound_bytes(data: bytes, length: int) -> int:
    """Number of leading bytes of an LZW stream that hold only codes that make sense.

    Parameters
    ----------
    data
        The stream; it must begin with a Clear code.
    length
        Decoded bytes expected: a stream that clears its table too often for them ends there.

    Examples
    --------
    >>> sound_bytes(bytes([0b10000000, 0b00100000, 0b11000000, 0b10000000]), 1)  # Clear 65 End
    4
    >>> sound_bytes(bytes([0b10000000, 0b01001000, 0b00100000]), 1)  # Clear 288
    2
    """
    bits = 8 * len(data)
    stream = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    if bits < 9 or (stream[0] << 1 | stream[1] >> 7) != _CLEAR:
        return 0
    place = 9
    tables = length // _FEWEST_BYTES + 16
    while place < bits and tables:
        count = int(np.searchsorted(_START, bits - place, side="right")) - 1
        at = place + _START[:count]
        width = _WIDTH[:count]
        byte = at >> 3
        codes = (stream[byte] << 16) | (stream[byte + 1] << 8) | stream[byte + 2]
        codes = (codes >> (24 - (at & 7) - width).astype(np.uint32)) & ((1 << width) - 1)
        special = (codes == _CLEAR) | (codes == _END)
        stops = np.flatnonzero(special | (codes > _LARGEST[:count]))
        if not stops.size:  # the data end here, or the table is full without a Clear
            return _whole(place + int(_START[count]), bits)
        stop = int(stops[0])
        if codes[stop] == _END:
            return len(data)
        if codes[stop] != _CLEAR:
            return _whole(int(at[stop]), bits)
        place = int(at[stop] + width[stop])
        tables -= 1
    return _whole(place, bits)


def _whole(place: int, bits: int) -> int:
    return min(place + 7, bits) // 8
