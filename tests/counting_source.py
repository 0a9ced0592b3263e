"""A source that tells what was read of it."""

from __future__ import annotations

import numpy as np


class Counting:
    """A source that counts how often each row is read, and how many at a time."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.reads = np.zeros(array.shape[-2], int)
        self.largest = 0
        self.heights: list[int] = []

    def __getitem__(self, key):
        block = self.array[key]
        self.reads[key[-2]] += 1
        self.largest = max(self.largest, block.nbytes)
        self.heights.append(block.shape[-2])
        return block
