"""Train a tiny network in forked children, kill them in many ways, resume, and compare bytes.

Run as a script, so that no thread lives before a fork: `training_kills.py FOLDER` prints one line
of JSON per scenario. `test_a4_training_kill.py` reads them. A number after the folder makes that
many times as many scenarios.
"""

# ruff: noqa: E402 - threads are set before anything is imported
from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch

torch.set_num_threads(1)
torch.set_num_interop_threads(1)

from tests.tiny_run import TINY, tiny_training
from tiling.command import finish
from unet2015.checkpoint import load
from unet2015.data import draw_tile
from unet2015.optimiser import make_optimiser
from unet2015.provenance import versions
from unet2015.train import Run, network_of, train
from unet2015.validate import validate

RECIPE = replace(TINY, steps=60, validate_every=20, checkpoint_every=10, dropout=0.5)
FILES = ("last.safetensors", "best.safetensors", "log.csv", "recipe.json")


def load_shim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("shim", Path(__file__).with_name("shim.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SHIM = load_shim()


class Scene:
    """One folder, trained into by children that are broken on purpose."""

    def __init__(self, folder: Path, *, workers: int = 0, threads: int = 1) -> None:
        self.out, self.workers, self.threads = folder / "run", workers, threads
        self.words = folder / "words.txt"
        shutil.rmtree(self.out, ignore_errors=True)

    def run(
        self,
        *,
        resume: bool = False,
        at_step: int = 0,
        fault: str = "",
        alarm: float = 0.0,
        number: int = signal.SIGKILL,
    ) -> int:
        """Exit code of a child that trains: signal `number` after a step, a fault, an alarm."""
        child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os._exit(self._train(resume, at_step, fault, alarm, number))
            traceback.print_exc()
            os._exit(99)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def _train(self, resume: bool, at_step: int, fault: str, alarm: float, number: int) -> int:
        words = os.open(self.words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(words, 2)
        torch.set_num_threads(self.threads)
        stack, validation = DATA
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def ring(*_: object) -> None:
            os.kill(os.getpid(), number)

        def on_step(run: Run) -> None:
            if run.step == at_step:
                if fault:
                    SHIM.install(fault)
                os.kill(os.getpid(), number)

        if fault and not at_step:
            SHIM.install(fault)
        if alarm:
            signal.signal(signal.SIGALRM, ring)
            signal.setitimer(signal.ITIMER_REAL, alarm)
        return finish("unet2015", lambda: train(
            RECIPE, stack, self.out, validation=validation, workers=self.workers,
            resume=resume, on_step=on_step,
        ))  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What lies in the folder."""
        return {
            "equal": [
                (self.out / name).read_bytes() == WHOLE[self.threads][name] for name in FILES
            ],
            "left": sorted(p.name for p in self.out.iterdir() if ".tmp" in p.name),
        }

    def saved_step(self) -> int:
        """Step of the last checkpoint, -1 where there is none; a damaged one raises."""
        last = self.out / "last.safetensors"
        return load(last).step if last.exists() else -1


def tell(name: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"name": name, **facts}) + "\n")
    sys.stdout.flush()


def whole_runs(folder: Path) -> dict[int, dict[str, bytes]]:
    """Files of the uninterrupted runs, by number of threads."""
    found = {}
    for threads in (1, 2):
        scene = Scene(folder, threads=threads)
        code = scene.run()
        assert code == 0, scene.words.read_text()
        found[threads] = {name: (scene.out / name).read_bytes() for name in FILES}
    return found


def killed_at_steps(folder: Path, draw: random.Random) -> None:
    """A4: SIGKILL after a random step, resume, all four files equal; 0 and 2 workers."""
    for workers, threads in ((0, 1), (2, 1), (0, 2), (2, 2)):
        for step in sorted(draw.sample(range(1, 60), min(5 * MORE, 59))):
            scene = Scene(folder, workers=workers, threads=threads)
            code = scene.run(at_step=step)
            saved = scene.saved_step()
            again = scene.run(resume=True)
            tell("a4-step", workers=workers, threads=threads, step=step, code=code, saved=saved,
                 resumed=again, words=scene.words.read_text(), **scene.state())  # fmt: skip


def killed_in_saves(folder: Path) -> None:
    """A4, A2: SIGKILL or a torn write at calls of the writing layer, from the first to the last."""
    scene = Scene(folder)
    log = folder / "calls.txt"
    assert scene.run(fault=f"log:{log}") == 0
    calls = len(SHIM.log_of(log))
    for call in range(1, calls + 1, max(calls // (4 * MORE), 1)):
        for fault in ("kill", "torn"):
            scene = Scene(folder)
            code = scene.run(fault=f"{fault}:{call}")
            saved = scene.saved_step()
            again = scene.run(resume=True)
            tell("a4-save", fault=fault, call=call, code=code, saved=saved, resumed=again,
                 words=scene.words.read_text(), **scene.state())  # fmt: skip


def killed_twice(folder: Path) -> None:
    """A5: killed, killed again while resuming, then resumed."""
    for first, second in ((13, 27), (31, 31), (7, 45))[: 2 * MORE]:
        scene = Scene(folder, workers=2)
        codes = [scene.run(at_step=first), scene.run(resume=True, at_step=second)]
        again = scene.run(resume=True)
        tell("a5", codes=codes, resumed=again, words=scene.words.read_text(), **scene.state())


def stopped(folder: Path, draw: random.Random) -> None:
    """A9, A10: Ctrl-C and SIGTERM at random steps and moments, and twice."""
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        for step in sorted(draw.sample(range(1, 60), min(2 * MORE, 59))):
            scene = Scene(folder, workers=step % 2 * 2)
            found = scene.run(at_step=step, number=number)
            words, saved = scene.words.read_text(), scene.saved_step()
            again = scene.run(resume=True)
            tell("stop-step", expected=code, code=found, step=step, saved=saved, said=words,
                 resumed=again, words=scene.words.read_text(), **scene.state())  # fmt: skip
        for k in range(2 * MORE):
            scene = Scene(folder)
            found = scene.run(alarm=draw.uniform(0.001, SECONDS), number=number)
            words = scene.words.read_text()
            again = scene.run(resume=True)
            tell("stop-time", k=k, expected=code, code=found, said=words, resumed=again,
                 words=scene.words.read_text(), **scene.state())  # fmt: skip
    for call in range(
        1, 2 * MORE + 1
    ):  # the second Ctrl-C comes while the first one is being saved
        scene = Scene(folder)
        found = scene.run(at_step=25, number=signal.SIGINT, fault=f"sigint:{call}")
        left = sorted(p.name for p in scene.out.iterdir() if ".tmp" in p.name)
        saved = scene.saved_step()
        again = scene.run(resume=True)
        tell("stop-twice", call=call, code=found, left_then=left, saved=saved, resumed=again,
             words=scene.words.read_text(), **scene.state())  # fmt: skip


if __name__ == "__main__":
    place = Path(sys.argv[1])
    MORE = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    DATA = tiny_training(RECIPE)
    draw_tile(DATA[0], RECIPE, 0, 0)  # loads what every child needs: compiled kernels, modules
    net = network_of(RECIPE)
    validate(net, DATA[1], RECIPE)
    make_optimiser(RECIPE, net)
    versions()
    started = time.perf_counter()
    WHOLE = whole_runs(place)
    SECONDS = (time.perf_counter() - started) / 2  # a run's time: only where an alarm may fall
    chance = random.Random(2015)
    killed_at_steps(place, chance)
    killed_in_saves(place)
    killed_twice(place)
    stopped(place, chance)
