"""Kill a command at its N-th call for N = 1, 2, 3 ... until it completes, and look at the ruins."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.warm import Ended, Warm

MAKE_MODEL = """
import sys
from unet2015.checkpoint import Checkpoint, describe_network, save
from unet2015.net import UNet, init_paper_weights

net = UNet(base_channels=2, depth=int(sys.argv[2]))
init_paper_weights(net, 3)
save(sys.argv[1], Checkpoint(network=describe_network(net), weights=net.state_dict()))
"""
MOST = 400  # more calls than any command here makes


@dataclass(frozen=True)
class Command:
    """A command line with one output: `unet2015 WORDS...`, or `code` with these words."""

    words: tuple[str | os.PathLike[str], ...]
    out: Path
    code: str = ""

    def run(self, warm: Warm, *more: str, fault: str = "") -> Ended:
        return warm.run(*self.words, *more, fault=fault, code=self.code)


def content(path: Path) -> str:
    """SHA-256 of a file, or of a folder's names and files; "" where there is nothing."""
    digest = hashlib.sha256()
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            digest.update(os.fsencode(file.relative_to(path)) + b"\0")
            if file.is_file():
                digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def hidden(folder: Path) -> list[str]:
    """What lies in `folder` under a name with a leading dot."""
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


def ruins(
    warm: Warm, command: Command, fault: str, *, points: Iterable[int] = range(1, MOST)
) -> Iterator[tuple[int, Ended]]:
    """Run with `fault` at each of the calls `points`; yields after each run it did not survive."""
    for n in points:
        ended = command.run(warm, fault=f"{fault}:{n}")
        if ended.code == 0:
            return
        yield n, ended
    raise AssertionError(f"no run completed within {MOST} calls")


def count_calls(warm: Warm, command: Command, log: Path, read: Callable[[Path], list]) -> list:
    """(name, file) of each call of a run that completes; its output stays."""
    ended = command.run(warm, fault=f"log:{log}")
    assert ended.code == 0, ended.err
    return read(log)
