"""What a training run shows while it runs: the progress line, and TensorBoard's event files."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from tiling.faults import UsageFault
from unet2015.data import Stack
from unet2015.progress import Bar
from unet2015.train import Run
from unet2015.validate import BEST_BY

__all__ = ["Events", "progress_on", "require_tensorboard"]

TOLD = (BEST_BY, "mean_iou", "v_info", "v_rand")


def progress_on(show: Bar, device: torch.device) -> Callable[[Run], None]:
    """Function that shows step, loss, tiles per second, time left, device memory of a run.

    Each validation and each warning gets a line of its own.
    """
    started, first_step, told = time.perf_counter(), -1, 0

    def on_step(run: Run) -> None:
        nonlocal first_step, told
        recipe = run.recipe
        if first_step < 0:
            first_step = run.step - 1
        tiles = recipe.batch * recipe.accumulate
        show.update(run.step * tiles, recipe.steps * tiles, _state(run, device))
        if BEST_BY in run.log.rows.get(run.step, {}):
            rate = (run.step - first_step) * tiles / max(time.perf_counter() - started, 1e-9)
            figures = ", ".join(f"{k} {run.measures[k]:.4f}" for k in TOLD if k in run.measures)
            show.say(f"step {run.step}: loss {run.loss:.4f}; {figures}; {rate:.1f} tiles/s")
        for warning in run.warnings[told:]:
            show.say(f"warning: {warning}")
        told = len(run.warnings)

    return on_step


def _state(run: Run, device: torch.device) -> str:
    """Loss, and on a GPU the most memory used so far."""
    memory = ""
    if device.type == "cuda":
        memory = f" {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB"
    skipped = f" {run.skipped} steps skipped" if run.skipped else ""
    return f"loss {run.loss:.4f}{memory}{skipped}"


def require_tensorboard() -> Any:
    """TensorBoard's writer class.

    Raises
    ------
    UsageFault
        If the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageFault("--tensorboard needs: pip install 'unet2015[tensorboard]'") from error
    return SummaryWriter


class Events:
    """Event files of a run: each row of the log as scalars, held-out slices as pictures.

    Parameters
    ----------
    validation
        Held-out slices; the first one is shown with its labels and each new prediction.
    """

    def __init__(self, validation: Stack | None) -> None:
        self._writer_class = require_tensorboard()
        self._writer: Any = None
        self._validation = validation

    def __call__(self, run: Run) -> None:
        """Write what the step just made added to the log."""
        if self._writer is None:
            folder = str(run.out / "tensorboard")
            self._writer = self._writer_class(folder, purge_step=run.step)
            self._show_slice()
        row = run.log.rows.get(run.step, {})
        for name, value in row.items():
            self._writer.add_scalar(name, value, run.step)
        if BEST_BY in row and run.example is not None:
            self._picture("held out/probability", run.example, run.step)

    def close(self) -> None:
        """Finish the files."""
        if self._writer is not None:
            self._writer.close()

    def _show_slice(self) -> None:
        if self._validation is not None:
            image = self._validation.images[0].astype(np.float64).mean(0)
            low, high = image.min(), image.max()
            self._picture("held out/image", (image - low) / max(high - low, 1e-12), 0)
            self._picture("held out/labels", self._validation.labels[0] == 1, 0)

    def _picture(self, name: str, grey: Any, step: int) -> None:
        pixels = np.rint(np.asarray(grey, np.float64) * 255).astype(np.uint8)
        self._writer.add_image(name, pixels, step, dataformats="HW")
