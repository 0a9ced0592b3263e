"""Randomness as a function of counters, never of history.

Every random number of a run is drawn from a generator keyed by (seed, step, sample, stream), so
that a resumed run, a run with other workers and an uninterrupted run see the same numbers.
"""

from __future__ import annotations

import numpy as np

__all__ = ["generator"]


def generator(seed: int, *counters: int) -> np.random.Generator:
    """Random generator that depends on `seed` and `counters` only.

    Parameters
    ----------
    seed
        Seed of the run, >= 0.
    *counters
        Up to any number of non-negative integers, e.g. step, sample, stream.

    Examples
    --------
    The same numbers in every version: a run may be resumed by a later one.

    >>> generator(7, 3, 0).integers(0, 1000, 4), generator(7, 0, 3).integers(0, 1000, 4)
    (array([122, 413, 480, 182]), array([891, 962, 490, 919]))
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *counters))))
