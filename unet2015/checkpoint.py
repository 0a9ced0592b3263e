"""Checkpoints: one versioned file that loads without being trusted.

A checkpoint is one safetensors file (see `unet2015.tensor_file`) with the format `unet2015/1`:
weights, averaged weights and optimiser state as tensors; network arguments, recipe,
preprocessing, step, measures and provenance as JSON. Names, shapes and types are checked against
the network it describes before anything is copied. Nothing in it can be executed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tiling.faults import ModelFileError, NumericsError, UsageFault
from tiling.safe_write import publish
from unet2015 import tensor_file
from unet2015.networks import (
    check_network,
    check_weights,
    copy_weights,
    describe_network,
    empty_network,
)
from unet2015.recipe import Recipe

if TYPE_CHECKING:
    import hashlib

__all__ = [
    "Checkpoint",
    "build_network",
    "copy_weights",
    "describe_network",
    "load",
    "require_safe_torch",
    "save",
]

_Path = str | os.PathLike[str]

_GROUPS = ("averaged", "optimiser", "weights")
_JSON_FIELDS: dict[str, tuple[type, ...]] = {
    "network": (dict,),
    "recipe": (dict, type(None)),
    "preprocessing": (dict,),
    "step": (int,),
    "measures": (dict,),
    "provenance": (dict,),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """Everything a trained network needs to travel and a training run to go on.

    Parameters
    ----------
    network
        "kind" ("unet2015" or "release2015"), "in_channels", "classes", "base_channels", "depth",
        "dropout"; `describe_network` makes it.
    weights
        The network's `state_dict`: float32 tensors by name.
    recipe
        The `Recipe` as a dict, or `None` for weights of unknown training.
    preprocessing
        How image values become network input; "scale" is required.
    step
        Optimiser steps done.
    measures, provenance
        JSON values: validation measures; data hashes, versions, dates.
    optimiser
        State of the optimiser, flat: tensors by name.
    averaged
        Moving average of the weights, empty or with the same names.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=2)
    >>> Checkpoint(network=describe_network(net), weights=net.state_dict()).preprocessing
    {'scale': 'dtype-range'}
    """

    network: dict[str, Any]
    weights: dict[str, Tensor]
    recipe: dict[str, Any] | None = None
    preprocessing: dict[str, Any] = field(default_factory=lambda: {"scale": "dtype-range"})
    step: int = 0
    measures: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    optimiser: dict[str, Tensor] = field(default_factory=dict)
    averaged: dict[str, Tensor] = field(default_factory=dict)


def save(path: _Path, checkpoint: Checkpoint, *, overwrite: bool = False) -> None:
    """Write `checkpoint` to `path`, complete or not at all; equal content gives equal bytes.

    Raises
    ------
    NumericsError
        If a tensor holds NaN or Inf: a bad state is never published.
    ValueError, TypeError
        If the parts do not belong together, or something is not JSON.
    WriteError
        If `path` exists and `overwrite` is false, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=1, depth=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.safetensors", Checkpoint(
    ...         network=describe_network(net), weights=net.state_dict(), step=7))
    ...     load(f"{folder}/a.safetensors").step
    7
    """
    content = {name: getattr(checkpoint, name) for name in _JSON_FIELDS}
    _check_content(content)
    _check_tensors(checkpoint)
    bad = _not_finite(checkpoint)
    if bad:
        raise NumericsError(f"{os.fsdecode(path)}: {bad}; a bad state is not saved")
    tensors = {
        f"{group}/{name}": tensor
        for group in _GROUPS
        for name, tensor in getattr(checkpoint, group).items()
    }
    with publish(path, overwrite=overwrite) as stream:
        tensor_file.write(stream, tensors, content)


def load(path: _Path, digest: hashlib._Hash | None = None) -> Checkpoint:
    """Checkpoint in the file `path`, every tensor on the CPU and checked against its network.

    Parameters
    ----------
    path
        The file.
    digest
        Is given the bytes that are loaded; `hashlib.sha256()` then names this very checkpoint.

    Raises
    ------
    ModelFileError
        If the file is damaged by as little as one bit, of another kind or version, larger than
        it says, does not fit the network it describes, or holds NaN or Inf.
    UsageFault
        If torch is too old to be safe.

    Examples
    --------
    >>> import tempfile
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=2)
    >>> state = Checkpoint(network=describe_network(net), weights=net.state_dict(), step=7)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/net.safetensors", state)
    ...     load(f"{folder}/net.safetensors").step
    7
    """
    require_safe_torch()
    tensors, content = tensor_file.read(path, digest)
    groups: dict[str, dict[str, Tensor]] = {group: {} for group in _GROUPS}
    try:
        for full_name, tensor in tensors.items():
            group, _, name = full_name.partition("/")
            if group not in groups or not name:
                raise ValueError(f"tensor {full_name!r} belongs to none of {', '.join(_GROUPS)}")
            groups[group][name] = tensor
        _check_content(content)
        checkpoint = Checkpoint(
            weights=groups["weights"],
            averaged=groups["averaged"],
            optimiser=groups["optimiser"],
            **content,
        )
        _check_tensors(checkpoint)
    except (ValueError, TypeError) as error:
        raise ModelFileError(path, str(error)[:400]) from error
    bad = _not_finite(checkpoint)
    if bad:
        raise ModelFileError(path, f"{bad}; it cannot compute anything, use an earlier checkpoint")
    return checkpoint


def build_network(checkpoint: Checkpoint, *, use_averaged: bool | None = None) -> nn.Module:
    """Network of a checkpoint on the CPU, in training mode, with its weights copied in.

    Its attribute `scale` is the scaling of the images it was trained on.

    Parameters
    ----------
    checkpoint
        From `load` or made in memory; it keeps its own tensors.
    use_averaged
        Copy the averaged weights (True) or those of the last step (False); None takes the averaged
        ones where there are any, as `unet2015 predict` does.

    Raises
    ------
    ValueError
        If the parts do not belong together, or there are no averaged weights to use.

    Examples
    --------
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=2)
    >>> state = Checkpoint(network=describe_network(net), weights=net.state_dict())
    >>> build_network(state).base_channels, build_network(state).scale
    (2, 'dtype-range')
    """
    _check_content({name: getattr(checkpoint, name) for name in _JSON_FIELDS})
    if use_averaged and not checkpoint.averaged:
        raise ValueError("the checkpoint holds no averaged weights; use_averaged=False uses others")
    net = empty_network(checkpoint.network)
    averaged = bool(checkpoint.averaged) if use_averaged is None else use_averaged
    weights = checkpoint.averaged if averaged else checkpoint.weights
    check_weights(net, weights)
    # Given, not copied into `to_empty()` memory, which would import sympy: half a second.
    net.load_state_dict({name: weight.clone() for name, weight in weights.items()}, assign=True)
    vars(net)["scale"] = checkpoint.preprocessing["scale"]
    return net


def require_safe_torch(version: str = torch.__version__) -> None:
    """Refuse a torch older than 2.10, whose loaders can be made to run code from a file.

    We never call them, but whoever has such a torch should know (CVE-2026-24747).

    Raises
    ------
    UsageFault
        If `version` is older.

    Examples
    --------
    >>> require_safe_torch("2.9.1+cu128")
    Traceback (most recent call last):
        ...
    tiling.faults.UsageFault: torch 2.9.1+cu128 is older than 2.10 and unsafe with model files
    (CVE-2026-24747); install torch >= 2.10
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or (int(numbers[1]), int(numbers[2])) < (2, 10):
        raise UsageFault(
            f"torch {version} is older than 2.10 and unsafe with model files (CVE-2026-24747); "
            "install torch >= 2.10"
        )


def _check_content(content: Mapping[str, Any]) -> None:
    """`ValueError` unless the JSON part has exactly the right names, types and ranges."""
    if set(content) != set(_JSON_FIELDS):
        odd = sorted(set(content) ^ set(_JSON_FIELDS))
        raise ValueError(f"unknown or missing entries {odd}; written by a newer version?")
    for name, kinds in _JSON_FIELDS.items():
        if not isinstance(content[name], kinds) or isinstance(content[name], bool):
            raise ValueError(f"{name} is a {type(content[name]).__name__}, not {kinds[0].__name__}")
    check_network(content["network"])
    if not isinstance(content["preprocessing"].get("scale"), str):
        raise ValueError("preprocessing: 'scale' is missing; how image values were scaled matters")
    if content["step"] < 0:
        raise ValueError(f"step = {content['step']} is negative")
    if content["recipe"] is not None:
        Recipe.from_dict(content["recipe"])


def _check_tensors(checkpoint: Checkpoint) -> None:
    net = empty_network(checkpoint.network)
    check_weights(net, checkpoint.weights)
    if checkpoint.averaged:
        check_weights(net, checkpoint.averaged)


def _not_finite(checkpoint: Checkpoint) -> str:
    """The first tensor with NaN or Inf and how many it has, or an empty text."""
    for group in _GROUPS:
        for name, tensor in getattr(checkpoint, group).items():
            if tensor.is_floating_point():
                bad = int((~torch.isfinite(tensor)).sum())
                if bad:
                    return f"{group} {name} has {bad} values of NaN or Inf"
    return ""
