"""What a run of `tiling.stitch` took: times and sizes."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Tally"]


@dataclass
class Tally:
    """Times and sizes, each written by one thread only."""

    seconds: float = 0.0
    reading: float = 0.0
    computing: float = 0.0
    writing: float = 0.0
    waiting_input: float = 0.0
    waiting_output: float = 0.0
    tiles: int = 0
    computed: int = 0
    row_bytes: int = 0
    batch_bytes: int = 0
    band_bytes: int = 0
    seam_bytes: int = 0
    on_their_way: int = 0

    @property
    def buffer_bytes(self) -> int:
        """Memory of the row band, the batches, the bands and the seams at their largest."""
        batches = 3 + self.on_their_way  # one is read, one waits, one is computed
        return self.row_bytes + batches * self.batch_bytes + self.band_bytes + self.seam_bytes
