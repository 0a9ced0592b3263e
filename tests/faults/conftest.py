"""Tools of the fault tests: kill, starve or interrupt a piece of code at its N-th call."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults.warm import Warm

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if str(HERE) not in sys.path:  # so that the tests here find broken_tiff.py
    sys.path.append(str(HERE))


MEMORY = Path("/dev/shm")
ROOM = 1 << 30  # bytes that must be free there


@pytest.fixture
def tmp_path(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Path]:
    """A folder in memory where there is room: thousands of fsyncs cost nothing there."""
    if not os.access(MEMORY, os.W_OK) or shutil.disk_usage(MEMORY).free < ROOM:
        yield tmp_path_factory.mktemp(request.node.name[:30])
        return
    with tempfile.TemporaryDirectory(dir=MEMORY, ignore_cleanup_errors=True) as name:
        yield Path(name)


def _load_shim() -> ModuleType:
    spec = importlib.util.spec_from_file_location("unet2015_fault_shim", HERE / "shim.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shim() -> ModuleType:
    """The module `tests/faults/shim.py`."""
    return _load_shim()


@pytest.fixture(scope="session")
def faulty(shim: ModuleType) -> Callable[[str], contextlib.AbstractContextManager[object]]:
    """`with faulty("enospc:3") as counter:` the shim in this process, for errors (not kills)."""

    @contextlib.contextmanager
    def context(fault: str) -> Iterator[object]:
        counter = shim.install(fault)
        try:
            yield counter
        finally:
            shim.uninstall()

    return context


@pytest.fixture(scope="session")
def forked(shim: ModuleType) -> Callable[[Callable[[], object], str], int]:
    """`forked(function, "kill:3")`: run in a child of fork; -9 when killed, 0 done, 1 raised.

    Only for code of the reading and writing layers (no threads): hundreds of kills a second.
    """
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")

    def run(function: Callable[[], object], fault: str) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            code = 1
            try:
                shim.install(fault)
                function()
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        return os.waitstatus_to_exitcode(status)

    return run


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    """`warm.run("predict", ..., fault="kill:3")`: the real command line, forked, in 0.1 s."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    with Warm() as server:
        yield server


@pytest.fixture(scope="session")
def with_shim() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`with_shim("-m", "unet2015", ..., fault="kill:3", cwd=...)`: a real process with the shim."""

    def run(
        *args: str | os.PathLike[str],
        fault: str = "",
        cwd: str | os.PathLike[str] | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(HERE / "run_with_shim.py"), *map(os.fspath, args)],
            cwd=cwd or ROOT,
            env={**os.environ, "UNET2015_FAULT": fault, "OMP_NUM_THREADS": "1", **(env or {})},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    return run
