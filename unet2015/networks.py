"""The networks a checkpoint may hold: from description to network and back, and checked copying."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unet2015.net import UNet
from unet2015.variants.release import ReleaseUNet

__all__ = ["check_network", "check_weights", "copy_weights", "describe_network", "empty_network"]

_COUNTS = {
    "in_channels": (1, 64),
    "classes": (1, 255),
    "base_channels": (1, 1024),
    "depth": (1, 7),
}


def describe_network(net: nn.Module) -> dict[str, Any]:
    """Arguments of `net` as `Checkpoint.network` holds them.

    Raises
    ------
    TypeError
        If the network is none of those a checkpoint knows.

    Examples
    --------
    >>> describe_network(UNet(base_channels=8))["base_channels"]
    8
    """
    for kind, network in (("unet2015", UNet), ("release2015", ReleaseUNet)):
        if isinstance(net, network):
            counts = {name: int(getattr(net, name)) for name in _COUNTS}
            return {"kind": kind, **counts, "dropout": float(net.dropout.p)}
    raise TypeError(
        f"{type(net).__name__} has no place in a checkpoint; use a UNet, or add it to"
        " unet2015/networks.py"
    )


def check_network(network: Mapping[str, Any]) -> None:
    """`ValueError` unless `network` describes a network: names, types and ranges."""
    if set(network) != {"kind", "dropout", *_COUNTS}:
        raise ValueError(f"network: {sorted(network)} are not {['kind', *_COUNTS, 'dropout']}")
    if network["kind"] not in list(_KINDS):
        raise ValueError(f"network: kind {network['kind']!r} is none of {', '.join(_KINDS)}")
    for name, (low, high) in _COUNTS.items():
        if type(network[name]) is not int or not low <= network[name] <= high:
            raise ValueError(f"network: {name} = {network[name]!r} is not in {low} .. {high}")
    dropout = network["dropout"]
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError(f"network: dropout = {dropout!r} is not in [0, 1)")


def copy_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy `weights` into `net`, in place, after checking every name, shape and type.

    Raises
    ------
    ValueError
        Naming the first layer that differs, both shapes, and the arguments of `UNet` the weights
        look like; `net` is then unchanged.

    Examples
    --------
    >>> copy_weights(UNet(base_channels=4), UNet(base_channels=8).state_dict())
    Traceback (most recent call last):
        ...
    ValueError: layer contracting.0.conv1.weight is (8, 1, 3, 3) in the weights but (4, 1, 3, 3) in
    the network; the weights look like in_channels=1, classes=2, base_channels=8, depth=4
    """
    check_weights(net, weights)
    net.load_state_dict(dict(weights))


def _unet(network: Mapping[str, Any]) -> nn.Module:
    arguments = {name: network[name] for name in (*_COUNTS, "dropout")}
    return UNet(**arguments)


def _release(network: Mapping[str, Any]) -> nn.Module:
    if network["depth"] != ReleaseUNet.depth:
        raise ValueError(f"network: depth {network['depth']}; the release form has depth 4")
    names = ("in_channels", "classes", "base_channels", "dropout")
    return ReleaseUNet(**{name: network[name] for name in names})


_KINDS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet2015": _unet,
    "release2015": _release,
}


def empty_network(network: Mapping[str, Any]) -> nn.Module:
    """Network of a description, with shapes but without memory; see `describe_network`."""
    with torch.device("meta"):
        return _KINDS[network["kind"]](network)


def check_weights(net: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """`ValueError` unless `weights` has exactly the names, shapes and types of `net`."""

    def refuse(reason: str) -> None:
        raise ValueError(f"layer {reason}; {_likely(weights)}")

    wanted = net.state_dict()
    for name, tensor in wanted.items():
        shape = tuple(tensor.shape)
        if name not in weights:
            refuse(f"{name} {shape} is missing from the weights")
        given = weights[name]
        if tuple(given.shape) != shape:
            refuse(f"{name} is {tuple(given.shape)} in the weights but {shape} in the network")
        if given.dtype != tensor.dtype:
            refuse(f"{name} is {given.dtype} in the weights but {tensor.dtype} in the network")
    for name in weights:
        if name not in wanted:
            refuse(f"{name} is in the weights but not in the network")


def _likely(weights: Mapping[str, Tensor]) -> str:
    """What network the weights look like, told from their names and shapes."""
    first, last = weights.get("contracting.0.conv1.weight"), weights.get("score.weight")
    if "conv_d0a_b.weight" in weights:
        return "the weights look like the release's network, kind 'release2015'"
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        return "the weights are of another architecture"
    levels = [re.fullmatch(r"contracting\.(\d+)\.conv1\.weight", name) for name in weights]
    return (
        f"the weights look like in_channels={first.shape[1]}, classes={last.shape[0]}, "
        f"base_channels={first.shape[0]}, depth={sum(level is not None for level in levels) - 1}"
    )
