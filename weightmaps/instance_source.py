"""The instance labels of one page, whatever they are made from, as a source of rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tiling.faults import InputError
from tiling.mirror import Source
from weightmaps.label_reader import LabelReader
from weightmaps.label_rule import ids_of
from weightmaps.labels import as_labels

__all__ = ["InstanceSource"]


class _Values:
    """Source of the stored values of one page."""

    def __init__(self, reader: LabelReader, page: int) -> None:
        self.shape: tuple[int, ...] = (reader.height, reader.width)
        self.dtype: np.dtype[Any] = reader.dtype
        self._reader, self._page = reader, page

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        y0, y1, _ = key[1].indices(self.shape[0])
        return self._reader.rows(self._page, y0, y1)[:, key[2]]


class _Inside(_Values):
    """Source of the mask of one page."""

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        y0, y1, _ = key[1].indices(self.shape[0])
        return self._reader.inside(self._page, y0, y1)[:, key[2]]


class _OfClass(_Values):
    """Source of the pixels of one class of one page."""

    def __init__(self, reader: LabelReader, page: int, value: int) -> None:
        super().__init__(reader, page)
        self._value = value

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        return np.asarray(super().__getitem__(key) == self._value)


class InstanceSource:
    """Source of the instance labels of one page, whatever they are made from.

    Slices as `[..., y0:y1, x0:x1]`; cheapest from top to bottom.

    Parameters
    ----------
    reader, page, kind
        The open annotation, which page of it, and what `LabelReader.kind` said.
    block_rows
        Rows in which a mask is labelled at a time; None: all of them. Changes no label.
    """

    def __init__(
        self, reader: LabelReader, page: int, kind: str, block_rows: int | None = None
    ) -> None:
        block_rows = block_rows or reader.height
        self._values, self._reader, self._page = _Values(reader, page), reader, page
        self.shape: tuple[int, ...] = self._values.shape
        self._kind = kind
        self._components: Any = None
        if kind == "mask":
            from weightmaps.components import ComponentSource

            mask = _Inside(reader, page)
            self._components = ComponentSource(mask, reader.rule.connectivity, block_rows)
        elif kind == "classes":
            from weightmaps.components import ClassComponents

            foreground = [v for v in reader.values(page) if v not in (0, reader.rule.ignore_label)]
            masks = [_OfClass(reader, page, v) for v in foreground or [1]]
            self._components = ClassComponents(masks, reader.rule.connectivity, block_rows)
        sample = self._values[..., 0:1, 0:1]
        self.dtype: np.dtype[Any] = self._ids(sample, (..., slice(0, 1), slice(0, 1))).dtype

    @property
    def classes(self) -> Source | None:
        """Source of the classes of the pixels, where the labels are classes."""
        return self._values if self._kind == "classes" else None

    def __getitem__(self, key: tuple[Any, slice, slice]) -> npt.NDArray[Any]:
        """Instance labels of some rows and columns."""
        needed = self._components is None or self._reader.rule.ignore_label is not None
        values = self._values[key] if needed else np.empty((0, 0))
        return self._ids(values, key)

    def _ids(self, values: npt.NDArray[Any], key: Any) -> npt.NDArray[Any]:
        rule = self._reader.rule
        if self._components is not None:
            return ids_of(self._components[key], values, rule)
        if values.dtype.kind == "b":
            values = values.astype(np.uint8)
        try:
            return as_labels(values, ignore_label=rule.ignore_label)
        except (TypeError, ValueError) as error:
            raise InputError(self._reader.file.path, str(error), page=self._page) from error
