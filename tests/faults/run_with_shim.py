"""Run a module, a script or a piece of code with the fault shim in place.

UNET2015_FAULT="kill:7" python tests/faults/run_with_shim.py -m unet2015 predict ...
UNET2015_FAULT="log:calls.txt" python tests/faults/run_with_shim.py -c "import tiling; ..."
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    spec = importlib.util.spec_from_file_location(
        "unet2015_fault_shim", Path(__file__).with_name("shim.py")
    )
    assert spec is not None
    assert spec.loader is not None
    shim = importlib.util.module_from_spec(spec)
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the checkout, as `python -m` has it
    spec.loader.exec_module(shim)
    kind, *rest = sys.argv[1:]
    shim.install(os.environ.get("UNET2015_FAULT", ""))
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<code>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = [kind, *rest]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main()
