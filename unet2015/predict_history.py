"""What a prediction says about itself: what made it, and how well its seams held."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiling import SeamRule, open_source
from tiling.difference import noted
from tiling.disk import beside, real_target
from tiling.faults import InputChangedError, InputError
from tiling.formats import is_zarr_name
from tiling.input_file import as_input_error
from tiling.unfinished import unfinished_identity
from unet2015.intensity import Scale
from unet2015.predict import accepted
from unet2015.predict_job import Job
from unet2015.provenance import versions

__all__ = [
    "certificate", "check_input", "classes_file", "damage_of", "finished", "last_change_ns",
    "made_alike", "provenance", "seam_rule", "tile_begun_with",
]  # fmt: skip

_TILE = 256  # largest side of a stored tile
_READ_BYTES = 1 << 24
_LARGEST_TILE = 1 << 15  # larger ones fit no memory: others wrote that
SAMPLED = 64 << 20  # files up to this size are hashed whole, larger ones at 66 places

_StrPath = str | os.PathLike[str]


def seam_rule(job: Job) -> SeamRule:
    """What tiles may differ by (`unet2015.predict.accepted`); anything at the paper's step."""
    found = accepted(job.wanted, job.geometry, job.precision, job.settings.seam_tolerance)
    return SeamRule(probe_output=found.probe_output) if job.settings.step == "paper" else found


def certificate(job: Job, rule: SeamRule, notes: Mapping[str, Any]) -> dict[str, Any]:
    """What a finished file says about its seams; the same however often the run was interrupted.

    Parameters
    ----------
    job, rule
        What was run, and by which rule it was held.
    notes
        Of the sink: what each band found, in whatever run it was computed.
    """
    geometry, exact = job.geometry, job.settings.step == "exact"
    seams, probe = noted(notes, "seams"), noted(notes, "probe")
    bounded = rule.tolerance is not None or rule.share is not None
    found: dict[str, Any] = {
        "exact": exact,
        "step": geometry.step if exact else geometry.output,
        "margin": geometry.margin,
        "period": geometry.period,
        "compared_px": geometry.overlap if exact else 0,
        "tolerance": rule.tolerance,
        "held": True if bounded and seams.compared + probe.compared else None,
        "max_difference": seams.maximum,
        "values_compared": seams.compared,
        "values_differing": seams.differing,
        "probe_difference": probe.maximum,
        "probe_compared": probe.compared,
        "probe_differing": probe.differing,
    }
    if rule.share is not None:
        found["tolerance_share"] = rule.share
    return found


def provenance(job: Job, scale: Scale) -> dict[str, Any]:
    """What made the output, as far as it decides its bytes."""
    settings, model, wanted = job.settings, job.model, job.wanted
    with as_input_error(job.image):
        fingerprint = _fingerprint(job.image)
    found: dict[str, Any] = {
        "made_by": "unet2015 predict",
        "model_sha256": model.sha256,
        "image": Path(job.image).name,
        "image_sha256": fingerprint,
        "normalise": job.normalise,
        "offset": scale.offset,
        "gain": scale.gain,
        "save": settings.save,
        "dtype": job.dtype,
        "classes": "all" if wanted.only is None else wanted.only,
        "output_tile": job.geometry.output,
        "step": settings.step,
        "batch": settings.batch,
        "average": settings.average,
        "mean_of": "logits" if settings.save == "logits" else settings.mean_of,
        "precision": job.precision,
        "device": job.device.type,
        "region": list(job.region),
        "compression": settings.compression,
        "versions": versions(),
    }
    channels = [name[:80] for name in job.planes.source.meaning.channels[:64]]
    optional = {
        "nan_to": settings.nan_to,
        "threshold": settings.threshold,
        "connectivity": settings.connectivity if settings.save == "instances" else None,
        "axes": settings.axes or None,
        "channel": settings.channel,
        "channels_in": channels or None,
        "pyramid": job.pyramid or None,
        "seam_tolerance": settings.seam_tolerance,
    }
    return found | {name: value for name, value in optional.items() if value is not None}


def last_change_ns(path: _StrPath) -> int | None:
    """When an ordinary file or what is said of it last changed (ctime); None of anything else."""
    with contextlib.suppress(OSError, ValueError):
        found = Path(os.fsdecode(path)).stat()
        return found.st_ctime_ns if stat.S_ISREG(found.st_mode) else None
    return None


def check_input(job: Job, made_by: Mapping[str, Any], changed_ns: int | None) -> None:
    """Raise `InputChangedError` if the input has changed since it was opened.

    A time of writing can be set back, the time of the last change cannot. It also moves with a
    permission or a second name, so where it moved alone the content decides.

    Parameters
    ----------
    job
        The input.
    made_by
        What `provenance` said of it, with the hash of its content.
    changed_ns
        `last_change_ns` before it was opened.

    Raises
    ------
    InputChangedError
        It was written to, replaced or removed.
    """
    job.planes.source.check_unchanged()
    if last_change_ns(job.image) == changed_ns:
        return
    with as_input_error(job.image):
        content = _fingerprint(job.image)
    if content != made_by["image_sha256"]:
        raise InputChangedError(
            job.image, "changed while it was being read; run again on a file at rest"
        )


def finished(out: _StrPath) -> dict[str, Any] | None:
    """What made the file `out`, without its certificate; None where none of ours is there."""
    target = real_target(out)
    if not target.exists():
        return None
    try:
        with open_source(target) as source:
            found = dict(source.provenance)
            found.setdefault("dtype", np.dtype(source.dtype).name)  # of a file of ours without it
    except InputError:
        return None
    return found if found.pop("seams", None) is not None else None


def damage_of(out: _StrPath) -> str:
    """Why the pixels of the complete file `out` cannot all be read; "" where they can.

    Every stored tile is decoded, without a network in a small part of the time that it took.
    """
    target = real_target(out)
    try:
        if is_zarr_name(target):
            from tiling.zarr_sink import holds_all_shards

            with as_input_error(target):
                if not holds_all_shards(target):
                    return "a file of its pixels is missing"
        with open_source(target) as source:
            for number in range(source.pages):
                page = source.page(number)
                row_bytes = source.dtype.itemsize * math.prod(page.shape[:-2]) * page.shape[-1]
                rows = max(1, _READ_BYTES // (row_bytes * _TILE)) * _TILE
                for top in range(0, page.shape[-2], rows):
                    page[..., top : min(top + rows, page.shape[-2]), 0 : page.shape[-1]]
    except InputError as error:
        return error.reason
    return ""


def made_alike(found: Mapping[str, Any] | None, made_by: Mapping[str, Any]) -> bool:
    """Whether a file that says `found` was made in the same way."""
    return bool(found == json.loads(json.dumps(made_by)))


def classes_file(out: _StrPath) -> Path:
    """Where the classes lie until their objects are numbered."""
    return beside(real_target(out), ".classes.tif")


def tile_begun_with(out: _StrPath, *, instances: bool) -> int:
    """The output tile of an earlier run, which free memory may not change; 0 for none."""
    begun = unfinished_identity(classes_file(out) if instances else out)
    made_by = begun.get("provenance") if begun else finished(out)
    tile = made_by.get("output_tile") if isinstance(made_by, dict) else None
    return tile if type(tile) is int and 0 < tile <= _LARGEST_TILE else 0


def _fingerprint(path: str) -> str:
    """SHA-256 of a file; of a large one its size and 66 places; of a folder, see below."""
    target = Path(path)
    if target.is_dir():
        return _folder_fingerprint(target)
    size = target.stat().st_size
    digest = hashlib.sha256(str(size).encode() if size > SAMPLED else b"")
    with target.open("rb") as file:
        if size <= SAMPLED:
            digest.update(file.read())
            return digest.hexdigest()
        for place in range(66):
            file.seek((size - (1 << 16)) * place // 65)
            digest.update(file.read(1 << 16))
    return digest.hexdigest()


def _folder_fingerprint(folder: Path) -> str:
    """SHA-256 of a Zarr folder: names and sizes of all its files, and their contents.

    Where it has more than `SAMPLED` bytes, only the metadata and the beginnings of 66 files are
    read.
    """
    sizes = {p: p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    files = list(sizes)
    names = [(p.relative_to(folder).as_posix(), size) for p, size in sizes.items()]
    digest = hashlib.sha256(json.dumps(names).encode())
    whole = sum(sizes.values()) <= SAMPLED
    for number in range(len(files)) if whole else sorted({len(files) * k // 66 for k in range(66)}):
        with files[number].open("rb") as file:
            digest.update(file.read(SAMPLED if whole else 1 << 16))
    for path in [p for p in files if p.name in ("zarr.json", ".zarray", ".zattrs")][:1000]:
        with path.open("rb") as file:
            digest.update(file.read(SAMPLED))
    return digest.hexdigest()
