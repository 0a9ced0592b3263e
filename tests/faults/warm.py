"""A process that has imported everything once and forks a child for every command to be broken.

Starting Python and torch costs seconds, a fork milliseconds: so hundreds of kill points of the
real command line are cheap. `Warm` talks to the server (this file run as a script) by lines of
JSON: a request `{"argv": [...], "fault": "kill:7", "cwd": ..., "env": {...}}` is answered by
`{"pid": ...}` and, when the child has ended, by `{"code": ...}` (-9 when it was killed).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (-9: killed), standard output, standard error."""

    code: int
    out: str
    err: str


class Started:
    """A command at work: its process id, and a way to wait for it."""

    def __init__(self, warm: Warm, pid: int, folder: Path) -> None:
        self.pid, self._warm, self._folder = pid, warm, folder

    def send_signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        code = self._warm.answer()["code"]
        self._warm.left = None
        out, err = (
            (self._folder / name).read_bytes().decode(errors="replace") for name in ("out", "err")
        )
        return Ended(code, out, err)


class Warm:
    """The server as a context manager; `run` a command line, or `start` it and meddle."""

    def __enter__(self) -> Warm:
        self._scratch = tempfile.TemporaryDirectory()
        self.left: int | None = None  # a command whose end nobody has waited for
        self._server = subprocess.Popen(
            [sys.executable, "-B", str(HERE / "warm.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            assert self.answer() == {"ready": True}
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()  # the end of its input is the end of the server
        self._scratch.cleanup()

    def answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the warm server has died; its words are on standard error"
        return dict(json.loads(line))

    def start(
        self,
        *argv: str | os.PathLike[str],
        fault: str = "",
        cwd: str | os.PathLike[str] = ROOT,
        env: Mapping[str, str] | None = None,
        code: str = "",
    ) -> Started:
        """Begin `unet2015 ARGV...`, or the Python text `code` with `sys.argv[1:] = ARGV`."""
        if self.left is not None:  # the test that began it failed before its end
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.left, signal.SIGKILL)
            self.answer()
        folder = Path(self._scratch.name)
        request = {
            "argv": [os.fspath(word) for word in argv], "fault": fault, "cwd": os.fspath(cwd),
            "env": dict(env or {}), "code": code, "folder": str(folder),
        }  # fmt: skip
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self._server.stdin.flush()
        self.left = self.answer()["pid"]
        return Started(self, self.left, folder)

    def run(
        self,
        *argv: str | os.PathLike[str],
        fault: str = "",
        cwd: str | os.PathLike[str] = ROOT,
        env: Mapping[str, str] | None = None,
        code: str = "",
    ) -> Ended:
        """The same, waited for."""
        return self.start(*argv, fault=fault, cwd=cwd, env=env, code=code).wait()


# -- the server ---------------------------------------------------------------------------------


def _load_shim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unet2015_fault_shim", HERE / "shim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _warm_up() -> None:
    """Import what any verb imports, and run a network once; no thread may be left behind."""
    import numpy as np
    import torch

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    for name in ("tiling.tiff_sink", "tiling.zarr_sink", "torch.utils._device",
                 "unet2015.checkpoint", "unet2015.host_memory", "unet2015.predict_file",
                 "unet2015.predict_text", "unet2015.progress", "unet2015.variants.release",
                 "weightmaps.batch"):  # fmt: skip
        importlib.import_module(name)
    import typer.main

    import unet2015.cli
    import unet2015.provenance
    from unet2015.net import UNet

    with torch.inference_mode():
        net = UNet(base_channels=2, depth=1)
        net(torch.from_numpy(np.zeros((1, 1, 24, 24), np.float32)))
    with contextlib.redirect_stdout(io.StringIO()):
        unet2015.cli.main(["predict", "--help"])  # typer's own imports
    really = typer.main.get_command
    parsed = {unet2015.cli.app: really(unet2015.cli.app)}  # the same for every child
    typer.main.get_command = lambda app: parsed[app] if app in parsed else really(app)
    for command in parsed[unet2015.cli.app].commands.values():
        for option in command.params:
            getattr(option, "get_runtime_param", lambda: None)()  # made once, kept by typer
    unet2015.provenance.versions()


def _child(request: dict[str, Any], shim: ModuleType) -> int:
    folder = Path(request["folder"])
    for descriptor, name in ((1, "out"), (2, "err")):
        file = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, descriptor)
        os.close(file)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["code"]:
        sys.argv = ["-c", *request["argv"]]
        shim.install(request["fault"])
        exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__"})
        return 0
    from unet2015.cli import main

    shim.install(request["fault"])
    return int(main(request["argv"]))


def serve() -> None:
    """Answer requests until standard input ends."""
    answers = os.dup(1)
    os.dup2(2, 1)
    shim = _load_shim()
    _warm_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the test run

    def answer(**what: object) -> None:
        os.write(answers, json.dumps(what).encode() + b"\n")

    gc.freeze()  # what is never collected is never copied into a child either
    answer(ready=True)
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                code = _child(json.loads(line), shim)
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                with contextlib.suppress(BaseException):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        answer(pid=child)
        answer(code=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    serve()
