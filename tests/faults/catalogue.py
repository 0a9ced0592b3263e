"""The 89 faults: id, what goes wrong, and what must happen then. The tests carry the ids."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]

FAULTS: dict[str, tuple[str, str]] = {
    "A1": ("SIGKILL at any moment of a prediction",
           "nothing half-made under the final name; `--resume` ends with the same SHA-256"),
    "A2": ("SIGKILL while a checkpoint or an export is saved",
           "the previous file loads, or the new one is whole; leftovers are removed"),
    "A3": ("SIGKILL while weight maps of many stacks are made",
           "finished maps stay and are recognised by hash, the rest is made again"),
    "A4": ("SIGKILL anywhere in a training run",
           "the resumed run ends with the weights of an uninterrupted one, bit for bit"),
    "A5": ("killed while resuming, and again", "as A1"),
    "A6": ("power loss",
           "file synced before its rename, folder after it, data before the record about them"),
    "A7": ("torn or damaged journal", "the damaged tail is dropped and its work done again"),
    "A8": ("temporary files of dead runs",
           "found by process number and start time, named, removed; nobody else's files are"),
    "A9": ("Ctrl-C, also twice, also with workers",
           "exit code 130 soon, no temporary file, the words to go on with"),
    "A10": ("SIGTERM of a scheduler", "state kept, exit code 143"),
    "B1": ("disk full at any write",
           "exit code 5 with needed and free bytes; the old file stays; never a SIGBUS"),
    "B2": ("output known to be larger than the disk", "refused before the work"),
    "B3": ("no space noticed only at fsync, rename or close", "an error, never a success"),
    "B4": ("output folder that cannot be written", "exit code 5 before the work"),
    "B5": ("output that exists", "kept without `--overwrite`; replaced in one step with it"),
    "B6": ("output that is an input, by name or by link", "refused, the input untouched"),
    "B7": ("output that is a link, folder, pipe or device", "links followed, the rest refused"),
    "B8": ("two runs with one output",
           "the second exits with 7 and the first one's process number; no lock outlives its run"),
    "B9": ("strange file names", "spaces, unicode, patterns, dashes, any bytes work"),
    "B10": ("temporary folder on another file system", "not used: temporary files lie beside"),
    "B11": ("permissions of the output", "umask respected, those of a replaced file kept"),
    "B12": ("input changed or replaced meanwhile", "exit code 7, nothing published"),
    "C1": ("image cut off at any byte", "refused"),
    "C2": ("corrupt directory or stream", "refused, decoders never see wild codes"),
    "C3": ("cycle of pages (three kinds)", "refused at once"),
    "C4": ("tags that claim billions of values", "refused before memory is asked for"),
    "C5": ("claimed size beyond the file", "refused before memory is asked for"),
    "C6": ("compression bomb of a whole image", "refused by the ratio, a named limit"),
    "C7": ("small image with a giant strip or tile", "refused before it is decoded"),
    "C8": ("segments shared by pages or rows", "refused"),
    "C9": ("compression that is not there", "refused with its name and the remedy"),
    "C10": ("colour, planar or pixel by pixel", "the same pixels either way, or refused aloud"),
    "C11": ("palette and other colour models", "refused with their name"),
    "C12": ("white is zero", "inverted where that is exact, else refused"),
    "C13": ("turned or mirrored by a tag", "refused"),
    "C14": ("pages of different kind", "refused with the page number"),
    "C15": ("NaN or Inf in the image", "refused with count and first place; `--nan-to` goes on"),
    "C16": ("black or constant image", "no division by zero, a finite result"),
    "C17": ("one pixel", "the right shape comes out"),
    "C18": ("smaller than a tile or the margin", "reflected as often as needed"),
    "C19": ("odd sizes", "the right shape comes out"),
    "C20": ("1 x 50,000 pixels", "the right shape comes out"),
    "C21": ("an axis of 46,342 and more pixels", "squared distances stay exact"),
    "C22": ("views, Fortran order, foreign byte order, read-only arrays",
            "the same result, the caller's array untouched"),
    "C23": ("pipe, folder, device, empty file, web page named .tif", "refused at once by kind"),
    "C24": ("metadata that names another file", "never opened"),
    "C25": ("sparse BigTIFF of 20 GB", "starts at once, memory stays bounded"),
    "D1": ("labels of another size than the image", "refused with both shapes"),
    "D2": ("negative labels", "refused with their place, unless one is to be ignored"),
    "D3": ("labels stored as floats", "read only where they are whole numbers"),
    "D4": ("labels beyond 2^53", "every bit kept: never through a float"),
    "D5": ("no cell, or one", "class balance only"),
    "D6": ("touching cells of different number", "a border between them"),
    "D7": ("missing, extra or doubled partner file", "refused by name before the work"),
    "D8": ("empty split; one image in training and test", "refused; compared by hash"),
    "E1": ("pickle that runs code, in three containers", "never executed: the marker is absent"),
    "E2": ("model file cut off, empty, or a web page", "exit code 4, says what it is"),
    "E3": ("deflate bomb as model file", "not inflated"),
    "E4": ("tensor whose shape outgrows its bytes", "refused before memory is asked for"),
    "E5": ("weights of another architecture",
           "the first layer that differs, both shapes, the likely arguments"),
    "E6": ("missing or extra keys", "refused with the first name"),
    "E7": ("NaN among the weights", "refused"),
    "E8": ("format of a newer version", "an error, not a guess"),
    "E9": ("any single flipped bit", "refused by SHA-256"),
    "E10": ("weights trained on other scaling", "recorded in the file and required"),
    "E11": ("code that could execute a file or call out", "there is none (syntax tree test)"),
    "E12": ("JSON that is huge, deep or of another shape", "bounded and checked, one clear line"),
    "F1": ("worker killed", "noticed within seconds, exit code 6 with the likely reason"),
    "F2": ("parent killed", "no worker outlives it by 5 seconds"),
    "F3": ("out of memory on the device",
           "smaller legal pieces on the same grid: the same bytes; a floor with a clear message"),
    "F4": ("other errors on the device", "never mistaken for lack of memory"),
    "F5": ("too little memory for the tile", "estimated first: a smaller tile is chosen"),
    "F6": ("loader that dies in training", "training stops, the last good checkpoint stays"),
    "F7": ("clock set back, files from the future", "no decision depends on the time of day"),
    "F8": ("any locale, ASCII output", "the same bytes, nothing fails for a character"),
    "F9": ("nobody reads the output (`| head`)", "ends quietly"),
    "G1": ("no writable place for compiled code", "compiled in memory, one warning"),
    "G2": ("damaged compiled code", "compiled anew"),
    "G3": ("compiled code others could have put there", "folder not used"),
    "G4": ("four processes compile at once", "all succeed"),
    "G5": ("optional packages absent", "every verb still imports and helps"),
    "G6": ("home read-only or unknown", "the same bytes"),
    "G7": ("torch below the safe version", "refused with the CVE"),
    "G8": ("`python -O`, `-W error`, other hash seeds", "the same bytes"),
    "H1": ("loss of NaN or Inf",
           "exit code 8 with step and slices; the last good checkpoint stays"),
    "H2": ("gradients that overflow in half precision", "skipped, counted, stopped after too many"),
    "H3": ("weight map of zeros", "refused or harmless, never NaN"),
    "H4": ("learning rate of zero, or far too high", "a bad state is never saved"),
    "H5": ("held-out split without foreground", "refused"),
}  # fmt: skip
COUNTS = {"A": 10, "B": 12, "C": 25, "D": 8, "E": 12, "F": 9, "G": 8, "H": 5}

_ID = r"[a-h]\d{1,2}"
_NAME = re.compile(rf"test_({_ID}(?:_(?:to_)?{_ID})*)(?:_|\Z)")


def ids_of(name: str) -> list[str]:
    """Faults that a test is about, by its name.

    Examples
    --------
    >>> ids_of("test_b1_b3_a_full_disk"), ids_of("test_c17_to_c20_shapes"), ids_of("test_a_file")
    (['B1', 'B3'], ['C17', 'C18', 'C19', 'C20'], [])
    """
    found = _NAME.match(name)
    if found is None:
        return []
    ids: list[str] = []
    span = False
    for word in found[1].upper().split("_"):
        if word == "TO":
            span = True
            continue
        first = int(ids[-1][1:]) + 1 if span else int(word[1:])
        ids += [f"{word[0]}{number}" for number in range(first, int(word[1:]) + 1)]
        span = False
    return ids


def found_tests() -> dict[str, list[str]]:
    """`file::test` of each fault, read from the source of all tests."""
    found: dict[str, list[str]] = {fault: [] for fault in FAULTS}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef):
                for fault in ids_of(node.name):
                    found.setdefault(fault, []).append(
                        f"{path.relative_to(TESTS.parent).as_posix()}::{node.name}"
                    )
    return found
