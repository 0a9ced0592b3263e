"""Small damage to a file: bits, bytes, numbers, blocks, digits. A function of its generator."""

from __future__ import annotations

import random
from collections.abc import Sequence

_EDGES = (0, 1, 2, 7, 8, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31,
          2**32 - 1, 2**63 - 1, 2**64 - 1)  # fmt: skip
_WORDS = (b"null", b"true", b"NaN", b"1e999", b"-1", b'""', b"[]", b"{}", b"[[[[", b"9" * 30,
          b"\x00", b"\xff\xfe", b"\n", b"\\ud800", b"0.5")  # fmt: skip
_LONGEST = 1 << 17


def mutated(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds` with one to eight wounds."""
    data = bytearray(draw.choice(seeds))
    for _ in range(min(8, 1 + int(draw.expovariate(0.7)))):
        draw.choice(_WOUNDS)(draw, data, seeds)
        if not data:
            data += b"\0"
    return bytes(data[:_LONGEST])


def _place(draw: random.Random, data: bytearray) -> int:
    """Anywhere, but rather near the ends, where headers and directories lie."""
    near = draw.randrange(min(len(data), 400))
    return draw.choice((near, len(data) - 1 - near, draw.randrange(len(data))))


def _flip(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    data[_place(draw, data)] ^= 1 << draw.randrange(8)


def _byte(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    data[_place(draw, data)] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))


def _number(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    width = draw.choice((2, 4, 8))
    at = _place(draw, data)
    order = draw.choice(("little", "big"))
    number = draw.choice(_EDGES)
    if draw.random() < 0.4:  # a little more or less than what stands there
        number = int.from_bytes(data[at : at + width], order) + draw.choice((-2, -1, 1, 2, 16))
    data[at : at + width] = (number % 256**width).to_bytes(width, order)


def _cut(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    del data[_place(draw, data) :]


def _drop(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(draw, data)
    del data[at : at + draw.randrange(1, 40)]


def _repeat(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at, length = _place(draw, data), draw.randrange(1, 60)
    data[at:at] = data[at : at + length] * draw.choice((1, 2, 50))


def _splice(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = draw.choice(seeds)
    start = draw.randrange(len(other))
    at = _place(draw, data)
    data[at : at + draw.choice((0, 20))] = other[start : start + draw.randrange(1, 200)]


def _word(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    at = _place(draw, data)
    data[at : at + draw.choice((0, 1, 4))] = draw.choice(_WORDS)


def _digit(draw: random.Random, data: bytearray, _seeds: Sequence[bytes]) -> None:
    places = [n for n, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if places:
        data[draw.choice(places)] = draw.choice(b"0123456789-.e")


_WOUNDS = (_flip, _flip, _byte, _byte, _number, _number, _number, _cut, _drop, _repeat, _splice,
           _word, _digit)  # fmt: skip
