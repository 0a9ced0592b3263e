"""A trained network with what its checkpoint says about images."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unet2015.checkpoint import build_network, load

__all__ = ["Model", "load_model"]


@dataclass(frozen=True)
class Model:
    """A network with what its checkpoint says about images.

    Attributes
    ----------
    net
        The network.
    scale
        The normalisation it was trained with, as text (`unet2015.intensity`).
    sha256, path
        Hash of the checkpoint, for the provenance; its name, for messages.
    class_names
        Names of the classes, () where nobody gave them any.
    """

    net: nn.Module
    scale: str
    sha256: str
    path: str = "network"
    class_names: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """Number of classes of the logits."""
        return int(self.net.classes)  # type: ignore[arg-type]

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each class."""
        if len(self.class_names) == self.classes:
            return tuple(name.strip()[:80] for name in self.class_names)
        if self.classes == 2:
            return "background", "foreground"
        return tuple(f"class {number}" for number in range(self.classes))

    @property
    def files(self) -> list[str]:
        """The file the network came from, if any."""
        return [self.path] if Path(self.path).is_file() else []


def load_model(checkpoint: str | os.PathLike[str]) -> Model:
    """Network of a checkpoint, with its averaged weights where it has them.

    Parameters
    ----------
    checkpoint
        A `.safetensors` file of `unet2015 train`, `unet2015 import-caffe` or `unet2015.save`.

    Returns
    -------
    Model
        What `unet2015.predict_file.predict_file` takes.

    Raises
    ------
    ModelFileError
        If the file is no checkpoint of this project, or damaged.

    Examples
    --------
    >>> import tempfile
    >>> from unet2015.checkpoint import Checkpoint, describe_network, save
    >>> from unet2015.net import UNet
    >>> net = UNet(base_channels=1, depth=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/a.safetensors", Checkpoint(
    ...         network=describe_network(net), weights=net.state_dict()))
    ...     load_model(f"{folder}/a.safetensors").names
    ('background', 'foreground')
    """
    digest = hashlib.sha256()
    state = load(checkpoint, digest)
    scale = str(state.preprocessing.get("scale", "dtype-range"))
    names = str((state.recipe or {}).get("class_names", ""))
    classes = tuple(names.split(",")) if names else ()
    return Model(build_network(state), scale, digest.hexdigest(), os.fsdecode(checkpoint), classes)
