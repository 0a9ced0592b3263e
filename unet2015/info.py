"""What a file holds, in words and figures: `unet2015 info`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tiling.command import answer
from tiling.faults import InputError
from tiling.input_file import as_input_error

__all__ = ["describe", "print_description"]


LAST = "last.safetensors"  # of the folder of a training run
_ZARR_FILES = ("zarr.json", ".zgroup", ".zarray", ".zattrs")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")  # others are told what they are


def describe(file: Path) -> dict[str, Any]:
    """Everything worth knowing about a checkpoint, a run's folder, a TIFF, PNG or Zarr.

    Raises
    ------
    InputError
        If the file is none of them, or broken.
    """
    with as_input_error(file):
        read = _reader(file)
    return read(file)


def _reader(file: Path) -> Callable[[Path], dict[str, Any]]:
    """What describes a file of this kind."""
    if not file.exists():
        raise InputError(file, _missing(file))
    if (file / LAST).is_file():
        return _run
    if file.is_dir():
        if not any((file / name).exists() for name in _ZARR_FILES):
            raise InputError(
                file,
                f"is a folder without {LAST} (a training run) and without Zarr; name a file in it",
            )
        return _zarr
    if not file.is_file():  # opening a pipe would wait for ever
        raise InputError(file, "is a pipe or device, not an ordinary file")
    with file.open("rb") as opened:
        start = opened.read(16)
    if start[:4] == b"PK\3\4" and _is_zoo_package(file):
        raise InputError(
            file, "is a BioImage Model Zoo package; ask `bioimageio test` about it, or `unet2015"
            " info` about the checkpoint it was exported from",
        )  # fmt: skip
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return _png
    if start[:4] in _TIFF_STARTS or file.suffix.lower() in _IMAGE_SUFFIXES:
        return _tiff
    return _checkpoint


def _missing(file: Path) -> str:
    """Why there is no such file, and what to do."""
    from tiling.replacing import hidden_predecessor

    old = hidden_predecessor(file)
    if old is None:
        return "does not exist; check the name"
    return (
        f"does not exist: a run was killed while it replaced it. The earlier result is {old.name} "
        "beside it; run again with --resume, or rename that folder"
    )


def _is_zoo_package(file: Path) -> bool:
    """Whether the directory at the end of a zip names the zoo's description."""
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 65_536))
        end = opened.read()
    return b"bioimageio.yaml" in end or b"rdf.yaml" in end


def print_description(found: Mapping[str, Any], *, as_json: bool) -> None:
    """The description on standard output, as JSON or as indented lines."""
    if as_json:
        # What stands in a file may be NaN or Infinity, for which JSON has no word.
        plain = json.loads(json.dumps(found, default=str), parse_constant=str)
        text = json.dumps(plain, indent=1).replace("\x7f", "\\u007f")
        answer(*text.splitlines())
    else:
        answer(*_lines(found))


def _lines(values: Mapping[str, Any], indent: str = "") -> list[str]:
    lines: list[str] = []
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *_lines(value, indent + "  ")]
        else:
            unheld = name == "held" and value is None
            told = f"{value} ({_why_unheld(values)})" if unheld else value
            lines.append(f"{indent}{name:<{width}}  {told}")
    return lines


def _why_unheld(seams: Mapping[str, Any]) -> str:
    """Why a certificate does not say whether its seams held."""
    compared = seams.get("values_compared") or seams.get("probe_compared")
    return "no tolerance" if compared else "nothing to compare"


def _run(folder: Path) -> dict[str, Any]:
    return {"run": str(folder), **_checkpoint(folder / LAST)}


def _checkpoint(file: Path) -> dict[str, Any]:
    from unet2015.checkpoint import build_network, load

    state = load(file)
    net = build_network(state)
    return {
        "kind": "unet2015 checkpoint",
        "network": dict(state.network),
        "parameters": sum(p.numel() for p in net.parameters()),
        "margin_px": int(net.margin),  # type: ignore[arg-type]
        "period_px": int(net.period),  # type: ignore[arg-type]
        "step": state.step,
        "preprocessing": dict(state.preprocessing),
        "measures": dict(state.measures),
        "averaged_weights": bool(state.averaged),
        "recipe": dict(state.recipe or {}),
        "provenance": dict(state.provenance),
    }


def _tiff(file: Path) -> dict[str, Any]:
    from tiling.strict_tiff import open_tiff

    with open_tiff(file) as image:
        found: dict[str, Any] = {
            "kind": "TIFF",
            "axes": image.axes,
            "pages": image.pages,
            "height": image.height,
            "width": image.width,
            "samples": image.samples,
            "dtype": str(image.dtype),
            "photometric": image.photometric,
            "layout": "tiles" if image.tiled else "strips",
            "resolution": _resolution(image.resolution),
        }
        if image.meaning.channels:
            found["channels"] = ", ".join(image.meaning.channels)
        description, ours, doubts = image.description, image.provenance, image.doubts
    if ours:
        found["made by unet2015"] = ours
    elif description:
        found["description"] = " ".join(description.split())[:300]
    return found | _doubtful(doubts)


def _doubtful(doubts: tuple[str, ...]) -> dict[str, str]:
    return {"doubts": f"it {'; it '.join(doubts)}"} if doubts else {}


def _resolution(resolution: tuple[float, float, str] | None) -> str:
    """Pixels per unit in words; a TIFF of 1 x 1 without a unit says nothing."""
    if resolution is None or resolution == (1.0, 1.0, ""):
        return "not stated"
    x, y, unit = resolution
    return f"{x:g} x {y:g} pixels per {unit or 'unit (not stated)'}"


def _png(file: Path) -> dict[str, Any]:
    from tiling.png import png_shape

    shape, dtype = png_shape(file)
    return {"kind": "PNG", "shape": shape, "dtype": str(dtype)}


def _zarr(folder: Path) -> dict[str, Any]:
    from tiling.zarr import ZarrSource

    with ZarrSource(folder) as image:
        found: dict[str, Any] = {
            "kind": "Zarr",
            "axes": image.axes,
            "pages": image.pages,
            "plane": image.shape,
            "dtype": str(image.dtype),
            "resolution": _resolution(image.resolution),
        }
        if image.meaning.channels:
            found["channels"] = ", ".join(image.meaning.channels)
        if image.provenance:
            found["made by unet2015"] = image.provenance
        return found | _doubtful(image.doubts)
