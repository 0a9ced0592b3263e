"""One of several processes that train together: `torchrun ddp_worker.py FOLDER BATCH PARTS`.

Runs what `unet2015 train` runs, and leaves the hash of its own weights in FOLDER.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from tests.tiny_run import TINY
from unet2015.training_run import Inputs, run_training

TASKS = Path("/proc/self/task")  # this process's threads, on Linux


def trained(
    folder: Path, batch: int, accumulate: int, normalisation: Any, *, resume: bool = False
) -> dict[str, Any]:
    """Hash of the weights, losses and step of a run over the files in `folder`."""
    recipe = replace(
        TINY, steps=20, batch=batch, accumulate=accumulate, checkpoint_every=10,
        optimiser="sgd", momentum=0.9, schedule="constant", average_decay=0.9,
        normalisation=normalisation, learning_rate=1e-5 if normalisation == "sum" else 1e-2,
    )  # fmt: skip
    inputs = Inputs(folder / "images.tif", folder / "labels.tif", None, "3")
    run = run_training(recipe, inputs, folder / "run", device="cpu", resume=resume)
    digest = hashlib.sha256()
    for tensor in (*run.net.state_dict().values(), *run.averaged.values()):
        digest.update(tensor.contiguous().numpy().tobytes())
    return {"hash": digest.hexdigest(), "loss": run.log.column("loss")[1], "step": run.step}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    facts = trained(place, *map(int, sys.argv[2:4]), sys.argv[4], resume=len(sys.argv) > 5)
    facts["threads"] = []
    for task in TASKS.glob("*"):
        with contextlib.suppress(OSError):  # one that has just ended
            facts["threads"].append(task.joinpath("comm").read_text())
    (place / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(facts))
