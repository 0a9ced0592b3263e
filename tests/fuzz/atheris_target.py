"""The same readers under a coverage-guided fuzzer, where `pip install atheris` is possible.

python -m tests.fuzz.atheris_target tiff -max_total_time=600 CORPUS_FOLDER
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Fuzz the target named first; all other words are libFuzzer's."""
    import atheris

    name, *rest = sys.argv[1:]
    with atheris.instrument_imports(include=["tiling", "weightmaps", "unet2015"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    scratch = Path(tempfile.mkdtemp())
    for folder in (Path(word) for word in rest if not word.startswith("-")):
        folder.mkdir(exist_ok=True)
        for number, data in enumerate(target.seeds()):
            (folder / f"seed{number}").write_bytes(data)

    def one_input(data: bytes) -> None:
        with contextlib.suppress(*target.allowed):
            target.read(data if target.repair is None else target.repair(data), scratch)

    atheris.Setup([sys.argv[0], *rest], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
